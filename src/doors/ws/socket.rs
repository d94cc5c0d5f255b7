//! The life of one socket: hello, operations one at a time, events as the socket takes them, and the end.

use std::{sync::Arc, time::Duration};

use actix_web::web::Data;
use futures_util::future::LocalBoxFuture;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};

use super::{
    transport::{Inbound, Receiver, Sender},
    wire::{self, Fault, LimitsShape, Request, VersionShape, WelcomeShape},
};
use crate::{
    auth,
    core::{Code, Command, Error, Hello, HelloError, Notice, Notices, Reply, ResumeClaim, Session, Welcome},
    domain::{member::Reason, name::ConnectionId, time::wall_now_ms},
    doors::{Doors, bucket::Bucket, outbox::Outbox, ws::answers},
    metrics::Because,
};

/// What `welcome.features` lists.
pub const FEATURES: [&str; 6] = ["channels", "levels", "since", "resume", "refresh", "get"];
/// The payload of the ping by which a reborn instance asks whether a socket still lives.
const PROOF: &[u8] = b"prove";
/// A timer is looked at again after this at the latest.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Close codes, with what they are called in the metrics and the sentence that the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    Bye,
    Malformed,
    Binary,
    NotText,
    TooLarge,
    Restart,
    NoHello,
    TokenExpired,
    TooSlow,
    NotJson,
    Unauthorized,
    Replaced,
    Kicked,
    TooMany,
    /// The other side closed, without a goodbye of the protocol: a reload looks the same.
    Closed,
    /// Nobody is there to be told.
    Gone,
    Silent,
}

impl Close {
    fn parts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Bye => (1000, "bye", "goodbye"),
            Self::Malformed => (1002, "malformed", "not a WebSocket frame"),
            Self::Binary => (1003, "binary", "frames are text"),
            Self::NotText => (1007, "not_text", "text frames are UTF-8"),
            Self::TooLarge => (1009, "too_large", "the frame is longer than limits.frame_bytes"),
            Self::Restart => (1012, "restart", "the instance restarts; come back"),
            Self::NoHello => (4001, "no_hello", "say hello first"),
            Self::TokenExpired => (4003, "token_expired", "come back with a fresh token"),
            Self::TooSlow => (4008, "too_slow", "nothing was read for too long"),
            Self::NotJson => (4500, "not_json", "frames are JSON objects"),
            Self::Unauthorized => (4501, "unauthorized", "the token does not hold"),
            Self::Replaced => (4502, "replaced", "another socket has this connection; say hello without resume"),
            Self::Kicked => (4503, "kicked", "you were put out"),
            Self::TooMany => (4505, "too_many_connections", "you have as many connections as you may have"),
            Self::Closed => (1000, "closed", ""),
            Self::Gone => (1006, "gone", ""),
            Self::Silent => (1001, "silent", "no answer to pings"),
        }
    }

    /// How the session ends with the socket: with a reason at once, or, without one, after its grace.
    fn reason(self) -> Option<Reason> {
        match self {
            Self::Bye => Some(Reason::Left),
            Self::TokenExpired => Some(Reason::Expired),
            _ => None,
        }
    }
}

/// What an operation gives back to the loop: the session returns with it.
struct Finished {
    session: Option<Session>,
    answer: Answer,
}

enum Answer {
    Welcome { id: u64, welcome: Box<Welcome> },
    Failed { id: Option<u64>, error: Error, close: Option<Close> },
    Reply { id: Option<u64>, reply: Box<Reply> },
    Body { id: Option<u64>, body: Box<RawValue> },
}

type Operation = LocalBoxFuture<'static, Finished>;

/// One socket.
pub struct Socket {
    doors: Data<Doors>,
    sender: Sender,
    outbox: Outbox,
    session: Option<Session>,
    notices: Option<Arc<Notices>>,
    /// The token of an Authorization header, good for a hello without one.
    header_token: Option<String>,
    operation: Option<Operation>,
    /// What came while an operation was under way; nothing more is read until its turn.
    held_back: Option<Inbound>,
    connection: Option<ConnectionId>,
    bucket: Bucket,
    opened_at: Instant,
    heard_at: Instant,
    pinged_at: Option<Instant>,
    reconnect_at: Option<Instant>,
}

impl Socket {
    /// A socket whose handshake was answered.
    pub fn new(doors: Data<Doors>, sender: Sender, header_token: Option<String>) -> Self {
        let now = Instant::now();
        Self {
            bucket: Bucket::new(doors.limits.operations_per_second, now),
            doors,
            sender,
            outbox: Outbox::on_this_worker(),
            session: None,
            notices: None,
            header_token,
            operation: None,
            held_back: None,
            connection: None,
            opened_at: now,
            heard_at: now,
            pinged_at: None,
            reconnect_at: None,
        }
    }

    /// Runs until the socket ends, whatever ends it, and ends the session accordingly.
    pub async fn run(mut self, receiver: Receiver) {
        let metrics = self.doors.core.metrics().clone();
        metrics.sockets.inc();
        let close = self.serve(receiver).await;
        // An operation under way holds the session: it is heard out, within the time that operations are given.
        if let Some(operation) = self.operation.take() {
            self.session = operation.await.session;
        }
        if let Some(session) = self.session.take() {
            session.end(close.reason());
        }
        let (code, name, description) = close.parts();
        if close != Close::Gone {
            self.sender.close(code, description).await;
        }
        metrics.sockets.dec();
        metrics.closes.get_or_create(&Because { reason: name }).inc();
    }

    async fn serve(&mut self, mut receiver: Receiver) -> Close {
        let metrics = self.doors.core.metrics().clone();
        let ear = self.outbox.ear().clone();
        let mut draining = self.doors.draining.clone();
        loop {
            // All that waits, as far as the socket takes it: the library makes one write of it.
            while self.sender.has_room()
                && let Some(frame) = self.outbox.next(&metrics)
            {
                metrics.frames.inc();
                if !self.sender.text(frame) {
                    return Close::Gone;
                }
            }
            let timer = match self.look_at_clock() {
                Ok(at) => at,
                Err(close) => {
                    self.flush();
                    return close;
                }
            };
            let takes = self.operation.is_none() && !self.outbox.has_replies();
            let held_back = if takes { self.held_back.take() } else { None };
            if let Some(inbound) = held_back {
                if let Err(close) = self.take(inbound) {
                    self.flush();
                    return close;
                }
                continue;
            }
            let reads = self.held_back.is_none() && !self.outbox.has_replies();
            let notices = self.notices.clone();
            tokio::select! {
                biased;
                () = self.sender.drained() => {}
                finished = wait_for(&mut self.operation) => {
                    self.operation = None;
                    if let Some(close) = self.conclude(finished) {
                        self.flush();
                        return close;
                    }
                }
                notice = wait_for_notice(notices) => {
                    if let Some(close) = self.obey(notice) {
                        return close;
                    }
                }
                marked = ear.heard() => self.outbox.mark(marked),
                inbound = receiver.receive(), if reads => {
                    self.heard_at = Instant::now();
                    // An operation may wait for the very proof that a pong brings.
                    if self.operation.is_some() && !matches!(inbound, Inbound::Ping(_) | Inbound::Pong(_)) {
                        self.held_back = Some(inbound);
                        continue;
                    }
                    match self.take(inbound) {
                        Ok(()) => {}
                        Err(close) => {
                            self.flush();
                            return close;
                        }
                    }
                }
                stopping = draining.wait_for(|draining| *draining), if self.reconnect_at.is_none() => {
                    // An error means that the whole service is gone.
                    drop(stopping);
                    self.plan_reconnect();
                }
                () = sleep_until(timer) => {}
            }
        }
    }

    /// Hands over what is left to say before a close, as far as there is room.
    fn flush(&mut self) {
        let metrics = self.doors.core.metrics().clone();
        while self.outbox.has_replies()
            && self.sender.has_room()
            && let Some(frame) = self.outbox.next(&metrics)
        {
            if !self.sender.text(frame) {
                return;
            }
        }
    }

    /// Does what is due by time alone. Returns when to look again, or what ends the socket.
    fn look_at_clock(&mut self) -> Result<Instant, Close> {
        let now = Instant::now();
        let mut next = now + LONGEST_SLEEP;
        if let Some(at) = self.reconnect_at {
            if at <= now {
                let after = rand::random_range(0..=self.reconnect_spread_ms());
                self.outbox.reply(wire::reconnect(after));
                return Err(Close::Restart);
            }
            next = next.min(at);
        }
        next = next.min(self.check_life(now)?);
        if self.session.is_none() && self.operation.is_none() {
            let hello_at = self.opened_at + Duration::from_millis(self.doors.server.hello_timeout_ms);
            if hello_at <= now {
                return Err(Close::NoHello);
            }
            next = next.min(hello_at);
        }
        if let Some(session) = &self.session {
            let left = session.expires_at_ms().saturating_sub(wall_now_ms());
            if left == 0 {
                return Err(Close::TokenExpired);
            }
            next = next.min(now + Duration::from_millis(left).min(LONGEST_SLEEP));
        }
        Ok(next)
    }

    /// Bytes that come in and a queue that drains are both life; a ping behind a backlog would prove nothing.
    fn check_life(&mut self, now: Instant) -> Result<Instant, Close> {
        if !self.sender.is_idle() {
            let slow_at = self.sender.progressed_at() + Duration::from_millis(self.doors.server.slow_close_ms);
            return if slow_at <= now { Err(Close::TooSlow) } else { Ok(slow_at) };
        }
        let presence = &self.doors.core.settings().presence;
        let pong_timeout = Duration::from_millis(presence.pong_timeout_ms);
        let life = self.heard_at.max(self.sender.progressed_at());
        if let Some(at) = self.pinged_at.filter(|at| *at >= life) {
            let silent_at = at + pong_timeout;
            if silent_at > now {
                return Ok(silent_at);
            }
            // While an operation waits for the store one frame is read at most, so a pong may wait unread behind it.
            return if self.operation.is_some() { Ok(now + pong_timeout) } else { Err(Close::Silent) };
        }
        let ping_at = life + Duration::from_millis(presence.ping_ms);
        if ping_at > now {
            return Ok(ping_at);
        }
        self.pinged_at = Some(now);
        if self.sender.ping(b"") { Ok(now + pong_timeout) } else { Err(Close::Gone) }
    }

    /// A third of the shortest grace, so that everybody is back in time.
    fn reconnect_spread_ms(&self) -> u64 {
        let default = self.doors.core.settings().presence.grace_ms;
        self.session.as_ref().map_or(default, Session::shortest_grace_ms) / 3
    }

    /// The instance stops: the goodbyes are spread over a part of the time it has for them.
    fn plan_reconnect(&mut self) {
        let spread = (self.doors.server.drain_ms / 10).min(1_000);
        self.reconnect_at = Some(Instant::now() + Duration::from_millis(rand::random_range(0..=spread)));
    }

    fn obey(&mut self, notice: Notice) -> Option<Close> {
        match notice {
            Notice::Ended(Reason::Replaced) => Some(Close::Replaced),
            Notice::Ended(Reason::Kicked) => Some(Close::Kicked),
            Notice::Ended(_) => Some(Close::Restart),
            Notice::Prove => (!self.sender.ping(PROOF)).then_some(Close::Gone),
            Notice::Left(channel, reason) => {
                if let Some(session) = &mut self.session {
                    session.forget(&channel);
                }
                self.outbox.reply(wire::left(&channel, reason));
                None
            }
        }
    }

    fn take(&mut self, inbound: Inbound) -> Result<(), Close> {
        match inbound {
            Inbound::Text(text) => self.read(&text),
            Inbound::Ping(payload) if self.sender.has_room() => {
                if self.sender.pong(&payload) {
                    Ok(())
                } else {
                    Err(Close::Gone)
                }
            }
            Inbound::Ping(_) => Ok(()),
            Inbound::Pong(payload) => {
                if payload == PROOF
                    && let Some(connection) = &self.connection
                {
                    self.doors.core.prove(connection);
                }
                Ok(())
            }
            Inbound::Binary => Err(Close::Binary),
            Inbound::TooLarge => Err(Close::TooLarge),
            Inbound::NotText => Err(Close::NotText),
            Inbound::Malformed => Err(Close::Malformed),
            Inbound::Close => Err(Close::Closed),
            Inbound::Gone => Err(Close::Gone),
        }
    }

    fn read(&mut self, text: &str) -> Result<(), Close> {
        if let Some(session) = &mut self.session {
            session.confirm();
        }
        let wait_ms = self.bucket.take(Instant::now());
        let (id, request) = match wire::read(text) {
            Err(Fault::NotJson) => return Err(Close::NotJson),
            Err(Fault::Refused(id, error)) => {
                self.refuse(id, &error);
                return Ok(());
            }
            // A goodbye costs nothing, and whoever asks too fast may leave.
            Ok((id, request)) if wait_ms > 0 && !matches!(request, Request::Bye) => {
                let most = self.doors.limits.operations_per_second;
                let mut error = Error::new(Code::RateLimited, format!("at most {most} operations a second; slow down"));
                error.retry_after_ms = Some(wait_ms);
                self.refuse(id, &error);
                return Ok(());
            }
            Ok(read) => read,
        };
        match request {
            Request::Hello { token, resume, device, present } => {
                let id = id.expect("a hello without id was refused");
                if self.session.is_some() {
                    self.refuse(Some(id), &Error::new(Code::BadRequest, "hello was said already"));
                    return Ok(());
                }
                let Some(token) = token.or_else(|| self.header_token.clone()) else {
                    self.refuse(Some(id), &Error::new(Code::Unauthorized, "`token` is missing"));
                    return Ok(());
                };
                let operation = greet(self.doors.clone(), id, token, resume, device.map(Into::into), present);
                self.operation = Some(Box::pin(operation));
            }
            Request::Ping => self.answer(id, &serde_json::json!({ "server_time": wall_now_ms() })),
            _ if self.session.is_none() => {
                self.refuse(id, &Error::new(Code::BadRequest, "say hello first"));
            }
            Request::Bye => {
                self.answer(id, &serde_json::json!({}));
                return Err(Close::Bye);
            }
            Request::Unwatch { channel } => {
                if self.outbox.unwatch(&channel) {
                    self.answer(id, &serde_json::json!({ "channel": channel }));
                } else {
                    self.refuse(id, &Error::new(Code::Conflict, format!("`{channel}` is not watched")));
                }
            }
            Request::Watch { channel, level, since } => {
                if let Err(error) = self.may_watch_more(&channel) {
                    self.refuse(id, &error);
                    return Ok(());
                }
                self.start(id, Command::Watch { channel, level, since });
            }
            Request::Join { channel, state, watch, grace_ms } => {
                if watch.is_some()
                    && let Err(error) = self.may_watch_more(&channel)
                {
                    self.refuse(id, &error);
                    return Ok(());
                }
                self.start(id, Command::Join { channel, state, watch, grace_ms });
            }
            Request::Leave { channel } => self.start(id, Command::Leave { channel }),
            Request::Update { channel, patch } => self.start(id, Command::Update { channel, patch }),
            Request::GetChannel { channel } => self.ask(move |doors, session| async move {
                let found = answers::channel(&doors, &session, &channel).await;
                Finished { session: Some(session), answer: body(id, found) }
            }),
            Request::GetUsers { users } => self.ask(move |doors, session| async move {
                let found = answers::users(&doors, &session, &users).await;
                Finished { session: Some(session), answer: body(id, found) }
            }),
            Request::Refresh { token } => self.ask(move |doors, session| refresh(doors, session, id, token)),
        }
        Ok(())
    }

    fn may_watch_more(&self, channel: &crate::domain::name::ChannelName) -> Result<(), Error> {
        let most = self.doors.limits.channels_per_connection;
        if self.outbox.watched() < most || self.outbox.level(channel).is_some() {
            return Ok(());
        }
        Err(Error::new(Code::Limit, format!("a connection watches at most {most} channels; unwatch one first")))
    }

    /// Begins a command of the session; the next frame is read when it is answered.
    fn start(&mut self, id: Option<u64>, command: Command) {
        let wake = self.outbox.hub().wake().clone();
        self.ask(move |_, mut session| async move {
            let answer = match session.execute(command, &wake).await {
                Ok(reply) => Answer::Reply { id, reply: Box::new(reply) },
                Err(error) => Answer::Failed { id, error, close: None },
            };
            Finished { session: Some(session), answer }
        });
    }

    fn ask<F: Future<Output = Finished> + 'static>(&mut self, operation: impl FnOnce(Data<Doors>, Session) -> F) {
        let session = self.session.take().expect("asked only with a session");
        self.operation = Some(Box::pin(operation(self.doors.clone(), session)));
    }

    fn conclude(&mut self, finished: Finished) -> Option<Close> {
        self.session = finished.session;
        match finished.answer {
            Answer::Welcome { id, welcome } => {
                let session = self.session.as_ref().expect("a welcome comes with its session");
                self.notices = Some(session.notices());
                self.connection = Some(session.connection().clone());
                tracing::Span::current().record("connection", session.connection().as_str());
                let body = self.welcome(&welcome);
                self.answer(Some(id), &body);
                None
            }
            Answer::Failed { id, error, close } => {
                self.refuse(id, &error);
                close
            }
            Answer::Body { id, body } => {
                self.answer(id, &body);
                None
            }
            Answer::Reply { id, reply } => {
                match *reply {
                    Reply::Changed { channel, version, watch } => {
                        self.answer(id, &VersionShape::new(&channel, &version));
                        // Who joins again and watches already goes on watching.
                        if let Some(watch) = watch
                            && self.outbox.level(&channel) != Some(watch.level())
                        {
                            self.outbox.watch(watch);
                        }
                    }
                    Reply::Watching(watch) => {
                        self.answer(id, &serde_json::json!({ "channel": watch.channel(), "level": watch.level() }));
                        self.outbox.watch(watch);
                    }
                    Reply::Done => self.answer(id, &serde_json::json!({})),
                }
                None
            }
        }
    }

    fn welcome(&self, welcome: &Welcome) -> Box<RawValue> {
        let resume = welcome.user.clone().map(|user| {
            let connection = welcome.connection.clone();
            self.doors.resume.sign(&auth::Resume { user, connection, take: welcome.take })
        });
        let limits = &self.doors.limits;
        let shape = WelcomeShape {
            connection: &welcome.connection,
            user: welcome.user.as_ref(),
            resumed: welcome.resumed,
            channels: &welcome.channels,
            resume,
            ping_ms: self.doors.core.settings().presence.ping_ms,
            grace_ms: welcome.grace_ms,
            server_time: wall_now_ms(),
            limits: LimitsShape {
                frame_bytes: limits.frame_bytes,
                state_bytes: limits.state_bytes,
                channels_per_connection: limits.channels_per_connection,
                operations_per_second: limits.operations_per_second,
            },
            features: &FEATURES,
        };
        serde_json::value::to_raw_value(&shape).expect("a welcome is JSON")
    }

    fn answer(&mut self, id: Option<u64>, body: &impl serde::Serialize) {
        self.doors.core.metrics().operations.get_or_create(&Because { reason: "ok" }).inc();
        if let Some(id) = id {
            self.outbox.reply(wire::ok(id, body));
        }
    }

    fn refuse(&mut self, id: Option<u64>, error: &Error) {
        self.doors.core.metrics().operations.get_or_create(&Because { reason: error.code.as_str() }).inc();
        self.outbox.reply(wire::error(id, error));
    }
}

fn body(id: Option<u64>, found: Result<Box<RawValue>, Error>) -> Answer {
    match found {
        Ok(body) => Answer::Body { id, body },
        Err(error) => Answer::Failed { id, error, close: None },
    }
}

/// Checks the token and opens the session.
async fn greet(
    doors: Data<Doors>,
    id: u64,
    token: String,
    resume: Option<String>,
    device: Option<Arc<str>>,
    present: bool,
) -> Finished {
    let failed = |error, close| Finished { session: None, answer: Answer::Failed { id: Some(id), error, close } };
    let principal = match doors.verifier.verify_token_fetching(&token, wall_now_ms()).await {
        Ok(principal) => principal,
        Err(error) => {
            let (error, close) = token_error(&doors, &error);
            return failed(error, Some(close));
        }
    };
    let resume = resume.and_then(|text| doors.resume.verify(&text));
    let resume = resume.map(|said| ResumeClaim { user: said.user, connection: said.connection, take: said.take });
    match Session::open(&doors.core, Hello { principal, resume, device, present }).await {
        Ok((session, welcome)) => {
            Finished { session: Some(session), answer: Answer::Welcome { id, welcome: Box::new(welcome) } }
        }
        Err(HelloError::TooMany) => {
            let most = doors.limits.connections_per_user;
            let message = format!("a user has at most {most} connections; close another first");
            failed(Error::new(Code::Limit, message), Some(Close::TooMany))
        }
        Err(HelloError::Other(error)) => failed(error, None),
    }
}

async fn refresh(doors: Data<Doors>, mut session: Session, id: Option<u64>, token: String) -> Finished {
    let answer = match doors.verifier.verify_token_fetching(&token, wall_now_ms()).await {
        Ok(principal) => match session.refresh(principal) {
            Ok(()) => Answer::Reply { id, reply: Box::new(Reply::Done) },
            Err(error) => Answer::Failed { id, error, close: None },
        },
        // The token from before still holds: the socket stays until that ends.
        Err(error) => Answer::Failed { id, error: token_error(&doors, &error).0, close: None },
    };
    Finished { session: Some(session), answer }
}

/// What a client is told of a refused token, and how the socket of a hello closes. Our reason is logged, theirs says what to do.
fn token_error(doors: &Doors, error: &auth::Error) -> (Error, Close) {
    doors.audit.token_refused(error);
    match error {
        auth::Error::Expired => {
            (Error::new(Code::TokenExpired, "the token has expired; get a fresh one"), Close::TokenExpired)
        }
        auth::Error::NotYetValid => {
            (Error::new(Code::Unauthorized, "the token is not valid yet; compare the clocks"), Close::Unauthorized)
        }
        _ => (Error::new(Code::Unauthorized, "the token does not hold here; get a new one"), Close::Unauthorized),
    }
}

/// Waits for an operation, if there is one. Cancel-safe: the operation stays where it is.
async fn wait_for(operation: &mut Option<Operation>) -> Finished {
    match operation {
        Some(operation) => operation.await,
        None => std::future::pending().await,
    }
}

async fn wait_for_notice(notices: Option<Arc<Notices>>) -> Notice {
    match notices {
        Some(notices) => notices.next().await,
        None => std::future::pending().await,
    }
}
