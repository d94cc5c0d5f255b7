//! Many watchers of one channel at little cost: each reads all that comes, follows its versions, and keeps of the list only how many are in it and the sum
//! of their names, by which lists can be compared.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::WebSocketConfig},
};

use super::token;

/// How long a hello and a join may take when thousands come at once.
const ANSWER: Duration = Duration::from_secs(120);
/// What one reads at once, and so what is kept for each: there are thousands.
const BUFFER: usize = 4 * 1024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A set of names, in a few bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Names {
    pub count: u64,
    sum: u64,
}

impl Names {
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut set = Self::default();
        names.into_iter().for_each(|name| set.add(name));
        set
    }

    fn add(&mut self, name: &str) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash(name));
    }

    fn take(&mut self, name: &str) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash(name));
    }
}

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// What one has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Frames since the join was asked for, its answer and all pages included.
    pub frames: usize,
    pub bytes: usize,
    /// How many of them were snapshots' pages.
    pub pages: usize,
    /// When the last came.
    pub last_at: Option<Instant>,
    pub mode: String,
    /// The cause of each change of mode, as the mode that followed.
    pub turns: Vec<String>,
    pub users: u64,
    /// None where there is no list, or only a part of one.
    pub names: Option<Names>,
    /// What was wrong with the frames.
    pub wrong: Option<String>,
    joined: bool,
    version: (String, u64),
    paging: Option<Names>,
}

/// One of them.
pub struct Onlooker {
    pub user: String,
    sink: tokio::sync::Mutex<SplitSink<Socket, Message>>,
    seen: Arc<Mutex<Seen>>,
    answered: Arc<Notify>,
    reader: JoinHandle<()>,
}

impl Onlooker {
    /// Opens a socket and says hello.
    pub async fn come(base: &str, user: &str) -> Self {
        let mut request = format!("{}/v1/ws", base.replacen("http", "ws", 1)).into_client_request().expect("a request");
        request.headers_mut().insert("sec-websocket-protocol", "rollcall.v1".parse().expect("a header value"));
        let config = WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(0);
        let connecting = tokio_tungstenite::connect_async_with_config(request, Some(config), true);
        let (socket, _) = timeout(ANSWER, connecting).await.expect("in time").expect("a socket");
        let (mut sink, mut stream) = socket.split();
        let hello = json!({"id": 1, "op": "hello", "token": token(user, json!({}))});
        sink.send(Message::text(hello.to_string())).await.expect("an open socket");
        let welcome = timeout(ANSWER, stream.next()).await.expect("in time").expect("a welcome").expect("a welcome");
        assert!(welcome.to_text().is_ok_and(|text| text.contains(r#""ok""#)), "{user}: {welcome:?}");
        let (seen, answered) = (Arc::new(Mutex::new(Seen::default())), Arc::new(Notify::new()));
        let reader = {
            let (seen, answered) = (seen.clone(), answered.clone());
            tokio::spawn(async move {
                while let Some(message) = stream.next().await {
                    let mut seen = seen.lock().expect("nothing panics while it holds this");
                    match message {
                        Ok(Message::Text(text)) => {
                            if seen.read(&text) {
                                answered.notify_one();
                            }
                        }
                        Ok(Message::Close(frame)) => seen.fail(format!("closed: {frame:?}")),
                        Ok(_) => {}
                        Err(error) => seen.fail(error.to_string()),
                    }
                }
            })
        };
        Self { user: user.to_owned(), sink: tokio::sync::Mutex::new(sink), seen, answered, reader }
    }

    /// Joins and watches. Returns when the join is acknowledged.
    pub async fn join_watching(&self, channel: &str) {
        let join = json!({"id": 2, "op": "join", "channel": channel, "watch": true});
        self.sink.lock().await.send(Message::text(join.to_string())).await.expect("an open socket");
        timeout(ANSWER, self.answered.notified()).await.expect("a join is answered in time");
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("nothing panics while it holds this").clone()
    }
}

impl Drop for Onlooker {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// As much of a frame as is looked at.
#[derive(Deserialize)]
struct Frame<'a> {
    event: Option<&'a str>,
    error: Option<Value>,
    mode: Option<&'a str>,
    cause: Option<&'a str>,
    epoch: Option<&'a str>,
    version: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
    occupancy: Option<Occupancy>,
    #[serde(default)]
    more: bool,
    #[serde(borrow)]
    members: Option<Vec<Entry<'a>>>,
    #[serde(borrow, default)]
    join: Vec<Entry<'a>>,
    #[serde(borrow, default)]
    leave: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    user: &'a str,
}

#[derive(Deserialize)]
struct Occupancy {
    users: u64,
}

impl Seen {
    fn fail(&mut self, why: String) {
        self.wrong.get_or_insert(why);
    }

    /// Takes a frame. Returns whether it is the answer to the join.
    fn read(&mut self, text: &str) -> bool {
        self.frames += 1;
        self.bytes += text.len();
        self.last_at = Some(Instant::now());
        let frame: Frame = match serde_json::from_str(text) {
            Ok(frame) => frame,
            Err(error) => {
                self.fail(format!("{error}: {text}"));
                return false;
            }
        };
        if let Some(error) = &frame.error {
            self.fail(error.to_string());
        }
        match frame.event {
            None => {
                self.joined = true;
                return true;
            }
            Some("snapshot") => self.snapshot(&frame),
            Some("delta") => self.delta(&frame),
            Some(other) => self.fail(format!("an event {other}")),
        }
        false
    }

    fn snapshot(&mut self, frame: &Frame) {
        self.pages += 1;
        let (epoch, version) = (frame.epoch.unwrap_or_default(), frame.version.unwrap_or_default());
        let mode = frame.mode.unwrap_or("none");
        let goes_on = self.paging.is_some() && self.version == (epoch.to_owned(), version) && self.mode == mode;
        if !goes_on {
            if !self.mode.is_empty() && self.mode != mode && frame.cause != Some("mode") {
                self.fail(format!("the mode was {} and is {mode}, because of {:?}", self.mode, frame.cause));
            }
            if frame.cause == Some("mode") {
                self.turns.push(mode.to_owned());
            }
            self.paging = Some(Names::default());
        }
        self.version = (epoch.to_owned(), version);
        mode.clone_into(&mut self.mode);
        self.users = frame.occupancy.as_ref().map_or(0, |occupancy| occupancy.users);
        let mut names = self.paging.take().unwrap_or_default();
        match &frame.members {
            Some(members) => members.iter().for_each(|member| names.add(member.user)),
            None => self.names = None,
        }
        if frame.more {
            (self.paging, self.names) = (Some(names), None);
        } else if frame.members.is_some() {
            self.names = Some(names);
        }
    }

    fn delta(&mut self, frame: &Frame) {
        let (epoch, from) = (frame.epoch.unwrap_or_default(), frame.from.unwrap_or_default());
        if self.version != (epoch.to_owned(), from) || self.paging.is_some() {
            self.fail(format!(
                "a delta from {from} for a view at {:?}, paging: {}",
                self.version,
                self.paging.is_some()
            ));
        }
        if frame.mode != Some(&*self.mode) {
            self.fail(format!("a delta in mode {:?} for a view in mode {}", frame.mode, self.mode));
        }
        self.version.1 = frame.to.unwrap_or_default();
        self.users = frame.occupancy.as_ref().map_or(0, |occupancy| occupancy.users);
        if let Some(names) = &mut self.names {
            frame.join.iter().for_each(|member| names.add(member.user));
            frame.leave.iter().for_each(|member| names.take(member.user));
        } else if !frame.join.is_empty() || !frame.leave.is_empty() {
            self.fail("names where there is no list".to_owned());
        }
    }
}
