//! A client's books: what it has sent, what came, and what was wrong with it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use futures_util::{StreamExt as _, stream::SplitStream};
use serde_json::Value;
use tokio::{
    net::TcpStream,
    sync::{oneshot, watch},
    time::Instant,
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

use super::{
    super::view::{Level, View},
    patterns::PatternView,
};

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// An operation that did not succeed.
#[derive(Debug, Clone, PartialEq)]
pub struct OpError {
    /// The service's code, or `closed` and `unanswered` for what the harness saw itself.
    pub code: String,
    pub message: String,
    pub retry_after_ms: Option<u64>,
}

/// How the socket ended; 1006 stands for an end without a close frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    pub code: u16,
    pub reason: String,
}

/// One frame that is no answer to an operation with an id.
#[derive(Debug, Clone)]
pub struct Received {
    pub at: Instant,
    pub frame: Value,
}

/// What an answer does to the client's own books.
pub(super) enum Sent {
    Hello,
    Join { channel: String, watch: bool },
    Leave { channel: String },
    Watch { channel: String, level: Level, since: bool },
    Unwatch { channel: String },
    WatchPattern { pattern: String },
    UnwatchPattern { pattern: String },
    Other,
}

#[derive(Default)]
pub(super) struct Books {
    pub(super) pending: HashMap<u64, (Sent, oneshot::Sender<Result<Value, OpError>>)>,
    pub(super) views: BTreeMap<String, View>,
    pub(super) patterns: BTreeMap<String, PatternView>,
    pub(super) received: Vec<Received>,
    pub(super) violations: Vec<String>,
    pub(super) welcome: Value,
    pub(super) closed: Option<Closed>,
    pub(super) frames: u64,
}

#[derive(Default)]
pub(super) struct Shared {
    pub(super) books: Mutex<Books>,
    /// Grows with every frame, so that one can wait for the next.
    pub(super) turn: watch::Sender<u64>,
    /// While true nothing is read, and so no ping is answered.
    pub(super) stalled: watch::Sender<bool>,
}

impl OpError {
    pub(super) fn own(code: &str, message: &str) -> Self {
        Self { code: code.to_owned(), message: message.to_owned(), retry_after_ms: None }
    }

    pub(super) fn closed(closed: &Closed) -> Self {
        Self::own("closed", &format!("the socket was closed with {} {}", closed.code, closed.reason))
    }

    fn of(error: &Value) -> Self {
        Self {
            code: error["code"].as_str().unwrap_or("an error without a code").to_owned(),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
            retry_after_ms: error["retry_after_ms"].as_u64(),
        }
    }
}

impl Sent {
    pub(super) fn of(operation: &Value) -> Self {
        let channel = operation["channel"].as_str().map(str::to_owned);
        let pattern = operation["pattern"].as_str().map(str::to_owned);
        match (operation["op"].as_str(), channel) {
            (Some("watch"), None) if pattern.is_some() => Self::WatchPattern { pattern: pattern.unwrap_or_default() },
            (Some("unwatch"), None) if pattern.is_some() => {
                Self::UnwatchPattern { pattern: pattern.unwrap_or_default() }
            }
            (Some("hello"), _) => Self::Hello,
            (Some("join"), Some(channel)) => Self::Join { channel, watch: operation["watch"] == true },
            (Some("leave"), Some(channel)) => Self::Leave { channel },
            (Some("unwatch"), Some(channel)) => Self::Unwatch { channel },
            (Some("watch"), Some(channel)) => match operation["level"].as_str().unwrap_or("users") {
                level @ ("users" | "connections" | "occupancy") => {
                    Self::Watch { channel, level: Level::parse(level), since: operation.get("since").is_some() }
                }
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

pub(super) async fn read(mut stream: SplitStream<Socket>, shared: Arc<Shared>) {
    let mut stalled = shared.stalled.subscribe();
    let mut end = Closed { code: 1006, reason: String::new() };
    loop {
        if stalled.wait_for(|stalled| !stalled).await.is_err() {
            break;
        }
        let message = tokio::select! {
            message = stream.next() => message,
            _ = stalled.changed() => continue,
        };
        match message {
            Some(Ok(Message::Text(text))) => frame(&shared, &text),
            Some(Ok(Message::Binary(_))) => violation(&shared, "a binary frame".to_owned()),
            Some(Ok(Message::Close(frame))) => {
                end = frame.map_or(Closed { code: 1005, reason: String::new() }, |frame| Closed {
                    code: frame.code.into(),
                    reason: frame.reason.to_string(),
                });
            }
            // Pings are answered by the library as it reads.
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                if end.code == 1006 {
                    end.reason = error.to_string();
                }
                break;
            }
            None => break,
        }
    }
    close(&shared, end);
}

pub(super) fn close(shared: &Shared, closed: Closed) {
    {
        let mut books = shared.books.lock().unwrap();
        let closed = books.closed.get_or_insert(closed).clone();
        for (_, (_, answer)) in books.pending.drain() {
            let _ = answer.send(Err(OpError::closed(&closed)));
        }
    }
    shared.turn.send_modify(|turn| *turn += 1);
}

fn violation(shared: &Shared, what: String) {
    shared.books.lock().unwrap().violations.push(what);
}

fn frame(shared: &Shared, text: &str) {
    {
        let mut books = shared.books.lock().unwrap();
        books.frames += 1;
        match serde_json::from_str::<Value>(text) {
            Ok(frame) => books.take(frame),
            Err(error) => books.violations.push(format!("not JSON: {error}: {text}")),
        }
    }
    shared.turn.send_modify(|turn| *turn += 1);
}

/// What is wrong with an event of what was said in passing. All of its fields are known, so that nothing slips in that nobody is to see.
fn aside(frame: &Value) -> Option<&'static str> {
    let fields: Vec<&str> = frame.as_object()?.keys().map(String::as_str).collect();
    match frame["event"].as_str()? {
        "typing" => {
            let is_known =
                matches!(&fields[..], ["channel" | "event", _, "typing", "user"]) && frame["typing"].is_boolean();
            let goes = frame["channel"].is_string() != frame["to"].is_string();
            (!is_known || !goes || !frame["user"].is_string()).then_some("typing has a user, and a channel or `to`")
        }
        "signal" => {
            let is_known = fields == ["channel", "data", "event", "time", "user"] && frame["time"].is_u64();
            (!is_known || !frame["user"].is_string()).then_some("a signal has a channel, a user, data and a time")
        }
        _ => None,
    }
}

impl Books {
    fn take(&mut self, frame: Value) {
        if let Some(id) = frame["id"].as_u64().filter(|_| frame.get("event").is_none()) {
            return self.answer(id, &frame);
        }
        if let Some(pattern) = frame["pattern"].as_str() {
            let checked = match (self.patterns.get_mut(pattern), frame["event"].as_str()) {
                (Some(_), Some("unwatched")) => {
                    self.patterns.remove(pattern);
                    Ok(())
                }
                (Some(view), _) => view.take(&frame),
                (None, _) => Err("nobody watches this pattern".to_owned()),
            };
            if let Err(wrong) = checked {
                self.violations.push(format!("{wrong}: {frame}"));
            }
        } else if matches!(frame["event"].as_str(), Some("snapshot" | "delta")) {
            let channel = frame["channel"].as_str().unwrap_or_default();
            let checked = match self.views.get_mut(channel) {
                Some(view) => view.take(&frame),
                None => Err("nobody watches this channel".to_owned()),
            };
            if let Err(wrong) = checked {
                self.violations.push(format!("{wrong}: {frame}"));
            }
        } else if let Some(wrong) = aside(&frame) {
            self.violations.push(format!("{wrong}: {frame}"));
        } else if frame["event"].as_str().is_none() && frame.get("error").is_none() {
            self.violations.push(format!("neither answer nor event: {frame}"));
        }
        self.received.push(Received { at: Instant::now(), frame });
    }

    fn answer(&mut self, id: u64, frame: &Value) {
        let Some((sent, answer)) = self.pending.remove(&id) else {
            // Raw sends choose their own ids; their answers are found among the frames.
            self.received.push(Received { at: Instant::now(), frame: frame.clone() });
            return;
        };
        let result = match (frame.get("ok"), frame.get("error")) {
            (Some(ok), None) => Ok(ok.clone()),
            (None, Some(error)) => Err(OpError::of(error)),
            _ => {
                self.violations.push(format!("an answer is either ok or error: {frame}"));
                Err(OpError::own("internal", "an answer that is neither ok nor error"))
            }
        };
        if let Ok(ok) = &result {
            self.acknowledged(sent, ok);
        }
        // The test may have stopped waiting.
        let _ = answer.send(result);
    }

    fn acknowledged(&mut self, sent: Sent, ok: &Value) {
        match sent {
            Sent::Hello => self.welcome = ok.clone(),
            Sent::Join { channel, watch } => {
                let (Some(epoch), Some(version)) = (ok["epoch"].as_str(), ok["version"].as_u64()) else {
                    self.violations.push(format!("a join is acknowledged with epoch and version: {ok}"));
                    return;
                };
                let goes_on = self.views.get(&channel).is_some_and(|view| view.level() == Level::Users);
                // Who joins again and watches already goes on watching: no snapshot, no new record.
                if watch && !goes_on {
                    self.watched(&channel, Level::Users, false);
                    let user = self.welcome["user"].as_str().map(str::to_owned);
                    if let Some(view) = self.views.get_mut(&channel) {
                        view.joined(epoch, version, user.as_deref());
                    }
                }
            }
            Sent::Watch { channel, level, since } => self.watched(&channel, level, since),
            Sent::Unwatch { channel } => {
                self.views.remove(&channel);
            }
            Sent::WatchPattern { pattern } => {
                self.patterns.insert(pattern, PatternView::default());
            }
            Sent::UnwatchPattern { pattern } => {
                self.patterns.remove(&pattern);
            }
            Sent::Leave { .. } | Sent::Other => {}
        }
    }

    fn watched(&mut self, channel: &str, level: Level, since: bool) {
        match self.views.get_mut(channel) {
            Some(view) => view.watched_again(level, since),
            None => {
                let mut view = View::new(level);
                view.watches[0].since = since;
                self.views.insert(channel.to_owned(), view);
            }
        }
    }
}
