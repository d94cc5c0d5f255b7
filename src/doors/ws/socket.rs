//! The life of one socket: hello, operations one at a time, events as the socket takes them, and the end.

use std::{sync::Arc, time::Duration};

use actix_web::web::Data;
use futures_util::future::LocalBoxFuture;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};

use super::{
    close::Close,
    hello::{greet, refresh},
    transport::{Inbound, Receiver, Sender},
    wire::{self, Fault, LimitsShape, Request, VersionShape, WelcomeShape},
};
use crate::{
    auth,
    core::{Code, Command, Error, Notice, Notices, Reply, Session, Typing, Welcome},
    domain::{
        member::Reason,
        name::{ChannelName, ConnectionId},
        time::wall_now_ms,
        version::Version,
    },
    doors::{Doors, bucket::Bucket, gate::Permit, outbox::Outbox, watching::Wanted, ws::answers},
    metrics::Because,
};

/// What `welcome.features` lists.
pub const FEATURES: [&str; 15] = [
    "channels",
    "levels",
    "since",
    "resume",
    "refresh",
    "get",
    "members",
    "modes",
    "users",
    "patterns",
    "status",
    "user_state",
    "typing",
    "send",
    "on_leave",
];
/// The payload of the ping by which a reborn instance asks whether a socket still lives.
const PROOF: &[u8] = b"prove";
/// A timer is looked at again after this at the latest.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// What an operation gives back to the loop: the session returns with it.
pub(super) struct Finished {
    pub(super) session: Option<Session>,
    pub(super) answer: Answer,
}

pub(super) enum Answer {
    Welcome {
        id: u64,
        welcome: Box<Welcome>,
    },
    Failed {
        id: Option<u64>,
        error: Error,
        close: Option<Close>,
    },
    Reply {
        id: Option<u64>,
        reply: Box<Reply>,
    },
    Body {
        id: Option<u64>,
        body: Box<RawValue>,
    },
    /// An app server had the session join a channel; without a version nothing has changed.
    Joined {
        channel: ChannelName,
        version: Option<Version>,
    },
}

type Operation = LocalBoxFuture<'static, Finished>;

/// One socket.
pub struct Socket {
    pub(super) doors: Data<Doors>,
    receiver: Receiver,
    sender: Sender,
    pub(super) outbox: Outbox,
    pub(super) session: Option<Session>,
    notices: Option<Arc<Notices>>,
    /// The token of an Authorization header, good for a hello without one.
    header_token: Option<String>,
    operation: Option<Operation>,
    /// What came while an operation was under way; nothing more is read until its turn.
    held_back: Option<Inbound>,
    connection: Option<ConnectionId>,
    bucket: Bucket,
    /// The same of signals and signs of typing.
    asides: Bucket,
    /// From when on a `hello` is waited for.
    hello_from: Instant,
    heard_at: Instant,
    pinged_at: Option<Instant>,
    reconnect_at: Option<Instant>,
    /// What somebody who put the client out has for it.
    said: Arc<str>,
    /// Its place among the open ones.
    _permit: Permit,
}

impl Socket {
    /// A socket whose handshake was answered. It stands in a box of its own, for a future has a second place for what is moved into it.
    pub fn new(
        doors: Data<Doors>,
        receiver: Receiver,
        sender: Sender,
        header_token: Option<String>,
        permit: Permit,
    ) -> Box<Self> {
        let now = Instant::now();
        Box::new(Self {
            bucket: Bucket::new(doors.limits.operations_per_second, now),
            asides: Bucket::new(doors.limits.signals_per_second, now),
            doors,
            receiver,
            sender,
            outbox: Outbox::on_this_worker(),
            session: None,
            notices: None,
            header_token,
            operation: None,
            held_back: None,
            connection: None,
            hello_from: now,
            heard_at: now,
            pinged_at: None,
            reconnect_at: None,
            said: Arc::default(),
            _permit: permit,
        })
    }

    /// Runs until the socket ends, whatever ends it, and ends the session accordingly.
    pub async fn run(mut self: Box<Self>) {
        let metrics = self.doors.core.metrics().clone();
        metrics.sockets.inc();
        let close = self.serve().await;
        // An operation under way holds the session: it is heard out, within the time that operations are given. Not so a hello: whoever gave it up may
        // have come back elsewhere, and must not be overtaken by it.
        if let Some(operation) = self.operation.take().filter(|_| self.connection.is_some()) {
            self.session = operation.await.session;
        }
        if let Some(session) = self.session.take() {
            session.end(close.reason());
        }
        let (code, name, description) = close.parts();
        if close != Close::Gone {
            let said = if self.said.is_empty() { description } else { Close::said(&self.said) };
            // What happens once in a life must not have its place in each socket all along: so it is boxed.
            Box::pin(self.sender.close(code, said)).await;
        }
        metrics.sockets.dec();
        metrics.closes.get_or_create(&Because { reason: name }).inc();
    }

    async fn serve(&mut self) -> Close {
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
            self.sender.flush();
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
            // What is about channels waits for the session; and for a client that does not read, as its own operations do.
            let is_free = self.session.is_some() && self.operation.is_none() && !self.outbox.has_replies();
            // Each is one answer more: they wait, and what changes back meanwhile is not told.
            let typists = self.notices.clone().filter(|_| !self.outbox.has_replies());
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
                notice = wait_for_notice(notices, is_free) => {
                    if let Some(close) = self.obey(notice) {
                        return close;
                    }
                }
                typing = wait_for_typing(typists) => self.outbox.reply(wire::typing(&typing)),
                marked = ear.heard() => self.outbox.mark(marked),
                inbound = self.receiver.receive(), if reads => {
                    self.heard_at = Instant::now();
                    // An operation may wait for the very proof that a pong brings; and nobody waits for one whose socket has ended.
                    let waits = !matches!(inbound, Inbound::Ping(_) | Inbound::Pong(_) | Inbound::Close | Inbound::Gone);
                    if self.operation.is_some() && waits {
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
                    self.reconnect_at = Some(self.doors.server.goodbye_at());
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
            let hello_at = self.hello_from + Duration::from_millis(self.doors.server.hello_timeout_ms);
            if hello_at <= now {
                return Err(Close::NoHello);
            }
            next = next.min(hello_at);
        }
        if let Some(session) = &mut self.session {
            if session.ends_at() <= now {
                return Err(Close::TokenExpired);
            }
            next = next.min(session.ends_at());
            session.look_at_status(now);
            next = session.next_status_at().into_iter().chain([next]).min().unwrap_or(next);
        }
        Ok(next)
    }

    /// Bytes that come in are life. What goes out is none, for the kernel takes it for a while though nobody is there; but a backlog that drains is, and
    /// a ping that waits behind one proves nothing.
    fn check_life(&mut self, now: Instant) -> Result<Instant, Close> {
        let next = self.check_pong(now)?;
        if self.sender.is_idle() {
            return Ok(next);
        }
        let slow_at = self.sender.progressed_at() + Duration::from_millis(self.doors.server.slow_close_ms);
        if slow_at <= now { Err(Close::TooSlow) } else { Ok(slow_at.min(next)) }
    }

    fn check_pong(&mut self, now: Instant) -> Result<Instant, Close> {
        let presence = &self.doors.core.settings().presence;
        let pong_timeout = Duration::from_millis(presence.pong_timeout_ms);
        let Some(pinged_at) = self.pinged_at.filter(|at| *at >= self.heard_at) else {
            let ping_at = self.heard_at + Duration::from_millis(presence.ping_ms);
            if ping_at > now {
                return Ok(ping_at);
            }
            self.pinged_at = Some(now);
            return if self.sender.ping(b"") { Ok(now + pong_timeout) } else { Err(Close::Gone) };
        };
        let silent_at = self.sender.stalled_until().map_or(pinged_at, |ended| ended.max(pinged_at)) + pong_timeout;
        if silent_at > now {
            return Ok(silent_at);
        }
        // While an operation waits for the store one frame is read at most, so a pong may wait unread behind it.
        if self.operation.is_some() || !self.sender.is_idle() { Ok(now + pong_timeout) } else { Err(Close::Silent) }
    }

    /// A third of the shortest grace, so that everybody is back in time.
    fn reconnect_spread_ms(&self) -> u64 {
        let default = self.doors.core.settings().presence.grace_ms;
        self.session.as_ref().map_or(default, Session::shortest_grace_ms) / 3
    }

    fn obey(&mut self, notice: Notice) -> Option<Close> {
        match notice {
            Notice::Ended(Reason::Replaced) => Some(Close::Replaced),
            Notice::Ended(Reason::Kicked) => Some(Close::Kicked),
            Notice::Ended(_) => Some(Close::Restart),
            Notice::PutOut(why, said) => {
                self.said = said;
                Some(why.into())
            }
            Notice::Prove => {
                // The epoch may settle only when the socket has answered or is given up, which must not wait for the next ping.
                if self.pinged_at.is_none_or(|at| at < self.heard_at) {
                    self.pinged_at = Some(Instant::now());
                }
                (!self.sender.ping(PROOF)).then_some(Close::Gone)
            }
            Notice::Left(channel, reason) => {
                if self.session.as_mut().is_none_or(|session| session.forget(&channel)) {
                    self.outbox.reply(wire::left(&channel, reason));
                }
                None
            }
            Notice::Join(channel, state) => {
                self.ask(move |_, mut session| async move {
                    let version = session.join_as_told(&channel, state).await;
                    Finished { session: Some(session), answer: Answer::Joined { channel, version } }
                });
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
                if !self.sender.has_read(&payload)
                    && payload == PROOF
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
            Request::Unwatch(wanted) => self.watch_less(id, wanted),
            Request::Watch(Wanted::Channel { channel, level, since }) => {
                if let Err(error) = self.may_watch_more(&channel) {
                    self.refuse(id, &error);
                    return Ok(());
                }
                self.start(id, Command::Watch { channel, level, since });
            }
            Request::Watch(wanted) => self.watch_more(id, wanted),
            Request::Join { channel, state, watch, grace_ms, on_leave } => {
                if watch.is_some()
                    && let Err(error) = self.may_watch_more(&channel)
                {
                    self.refuse(id, &error);
                    return Ok(());
                }
                self.start(id, Command::Join { channel, state, watch, grace_ms, on_leave });
            }
            Request::Leave { channel } => self.start(id, Command::Leave { channel }),
            Request::Update { channel, patch } => self.start(id, Command::Update { channel, patch }),
            Request::UserState { patch } => self.start(id, Command::UserState { patch }),
            Request::Status { status, text, until } => {
                let text = text.map(Into::into);
                self.start(id, Command::Status { status, text, until });
            }
            Request::Active => self.start(id, Command::Active),
            Request::Typing { addressee, typing } => {
                if typing && !self.may_say_more(id) {
                    return Ok(());
                }
                self.start(id, Command::Typing { addressee, typing });
            }
            Request::Send { channel, data, echo } => {
                if self.may_say_more(id) {
                    self.start(id, Command::Send { channel, data: data.into(), echo });
                }
            }
            Request::GetChannel { channel } => self.ask(move |doors, session| async move {
                let found = answers::channel(&doors, &session, &channel).await;
                Finished { session: Some(session), answer: body(id, found) }
            }),
            Request::GetMembers { channel, limit, cursor } => self.ask(move |doors, session| async move {
                let found = answers::members(&doors, &session, &channel, limit, cursor.as_deref()).await;
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

    /// Whether another aside may be said just now; refuses it otherwise.
    fn may_say_more(&mut self, id: Option<u64>) -> bool {
        let wait_ms = self.asides.take(Instant::now());
        if wait_ms > 0 {
            let most = self.doors.limits.signals_per_second;
            let message = format!("at most {most} signals and signs of typing a second; slow down");
            let mut error = Error::new(Code::RateLimited, message);
            error.retry_after_ms = Some(wait_ms);
            self.refuse(id, &error);
        }
        wait_ms == 0
    }

    fn may_watch_more(&self, channel: &crate::domain::name::ChannelName) -> Result<(), Error> {
        let most = self.doors.limits.channels_per_connection;
        if self.outbox.watched() < most || self.outbox.level(channel).is_some() {
            return Ok(());
        }
        Err(Error::new(Code::Limit, format!("a connection watches at most {most} channels; unwatch one first")))
    }

    /// Begins a command of the session; the next frame is read when it is answered.
    pub(super) fn start(&mut self, id: Option<u64>, command: Command) {
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
                if self.session.is_none() {
                    // A hello that may be said again, as long after as the first.
                    self.hello_from = Instant::now();
                }
                self.refuse(id, &error);
                close
            }
            Answer::Body { id, body } => {
                self.answer(id, &body);
                None
            }
            Answer::Joined { channel, version } => {
                if let Some(version) = version {
                    self.outbox.reply(wire::joined(&channel, &version));
                }
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
                    Reply::WatchingPattern(watch) => {
                        let (pattern, level) = (watch.pattern(), watch.level());
                        self.answer(id, &serde_json::json!({ "pattern": pattern, "level": level }));
                        self.outbox.watch_pattern(watch);
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
                user_state_bytes: limits.user_state_bytes,
                watched_users: limits.watched_users,
                watched_patterns: limits.watched_patterns,
                signal_bytes: limits.signal_bytes,
                signals_per_second: limits.signals_per_second,
            },
            features: &FEATURES,
        };
        serde_json::value::to_raw_value(&shape).expect("a welcome is JSON")
    }

    pub(super) fn answer(&mut self, id: Option<u64>, body: &impl serde::Serialize) {
        self.doors.core.metrics().operations.get_or_create(&Because { reason: "ok" }).inc();
        if let Some(id) = id {
            self.outbox.reply(wire::ok(id, body));
        }
    }

    pub(super) fn refuse(&mut self, id: Option<u64>, error: &Error) {
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

/// Waits for an operation, if there is one. Cancel-safe: the operation stays where it is.
async fn wait_for(operation: &mut Option<Operation>) -> Finished {
    match operation {
        Some(operation) => operation.await,
        None => std::future::pending().await,
    }
}

async fn wait_for_typing(notices: Option<Arc<Notices>>) -> Typing {
    match notices {
        Some(notices) => notices.next_typing().await,
        None => std::future::pending().await,
    }
}

async fn wait_for_notice(notices: Option<Arc<Notices>>, is_free: bool) -> Notice {
    match notices {
        Some(notices) if is_free => notices.next().await,
        Some(notices) => notices.next_urgent().await,
        None => std::future::pending().await,
    }
}
