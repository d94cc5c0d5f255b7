//! A client of the native WebSocket that believes nothing it has not checked.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink, stream::SplitStream};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{Mutex as AsyncMutex, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};

use super::{DEADLINE, token, view::Level, view::View};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How long an operation may take before the harness calls it unanswered. Longer than the service's own bounded waits.
const ANSWER: Duration = Duration::from_secs(30);

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
enum Sent {
    Hello,
    Join { channel: String, watch: bool },
    Leave { channel: String },
    Watch { channel: String, level: Level, since: bool },
    Unwatch { channel: String },
    Other,
}

#[derive(Default)]
struct Books {
    pending: HashMap<u64, (Sent, oneshot::Sender<Result<Value, OpError>>)>,
    views: BTreeMap<String, View>,
    received: Vec<Received>,
    violations: Vec<String>,
    welcome: Value,
    closed: Option<Closed>,
    frames: u64,
}

struct Shared {
    books: Mutex<Books>,
    /// Grows with every frame, so that one can wait for the next.
    turn: watch::Sender<u64>,
    /// While true nothing is read, and so no ping is answered.
    stalled: watch::Sender<bool>,
}

/// One socket. Reads in the background; dropping it fails the test if any frame broke the protocol.
pub struct Client {
    base: String,
    sink: AsyncMutex<Option<SplitSink<Socket, Message>>>,
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    next_id: AtomicU64,
}

impl Client {
    /// Opens a socket to `http://host:port` without saying anything.
    pub async fn connect(base: &str) -> Self {
        Self::try_connect(base, "rollcall.v1", &[]).await.unwrap_or_else(|error| panic!("no socket at {base}: {error}"))
    }

    /// The same with another subprotocol and more headers. A refusal is `tungstenite::Error::Http` with the answer in it.
    pub async fn try_connect(
        base: &str,
        subprotocol: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, tungstenite::Error> {
        let base = base.trim_end_matches('/').to_owned();
        let mut request = format!("{}/v1/ws", base.replacen("http", "ws", 1)).into_client_request()?;
        if !subprotocol.is_empty() {
            request.headers_mut().insert("sec-websocket-protocol", subprotocol.parse().expect("a header value"));
        }
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header value"));
        }
        let connecting = tokio_tungstenite::connect_async_with_config(request, None, true);
        let (socket, _) = tokio::time::timeout(DEADLINE, connecting).await.expect("a handshake is answered in time")?;
        let (sink, stream) = socket.split();
        let shared = Arc::new(Shared {
            books: Mutex::default(),
            turn: watch::Sender::new(0),
            stalled: watch::Sender::new(false),
        });
        let reader = tokio::spawn(read(stream, shared.clone()));
        Ok(Self { base, sink: AsyncMutex::new(Some(sink)), shared, reader, next_id: AtomicU64::new(1) })
    }

    /// Opens a socket and says hello with a token that may do everything.
    pub async fn hello_as(base: &str, user: &str) -> Self {
        let client = Self::connect(base).await;
        client.hello(&token(user, json!({}))).await.unwrap_or_else(|error| panic!("hello of {user}: {error:?}"));
        client
    }

    /// Comes back as this client after its socket is gone, on `base`: hello with the resume token, then every watch again with `since`.
    ///
    /// The views go on where they were, so that whatever was missed shows. `welcome()["resumed"]` tells whether the place was kept.
    pub async fn resume_on(self, base: &str, token: &str) -> Self {
        let client = Self::connect(base).await;
        self.drop_socket().await;
        let (views, resume) = {
            let mut books = self.shared.books.lock().unwrap();
            let resume = books.welcome["resume"].as_str().expect("a welcome brings a resume token").to_owned();
            client.shared.books.lock().unwrap().violations.append(&mut books.violations);
            (std::mem::take(&mut books.views), resume)
        };
        let again: Vec<_> = views
            .iter()
            .map(|(channel, view)| {
                let (epoch, version) = view.version();
                let since = view.is_complete().then(|| json!({"epoch": epoch, "version": version}));
                (channel.clone(), view.level(), since)
            })
            .collect();
        client.shared.books.lock().unwrap().views = views;
        client.hello_resume(token, &resume).await.unwrap_or_else(|error| panic!("resume on {base}: {error:?}"));
        for (channel, level, since) in again {
            client
                .watch_since(&channel, level, since)
                .await
                .unwrap_or_else(|error| panic!("watch {channel} again: {error:?}"));
        }
        client
    }

    // Operations

    /// Sends an operation under a fresh id and waits for its answer.
    pub async fn op(&self, operation: Value) -> Result<Value, OpError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut operation = operation;
        operation["id"] = json!(id);
        let (answer, answered) = oneshot::channel();
        let sent = Sent::of(&operation);
        {
            let mut books = self.shared.books.lock().unwrap();
            if let Some(closed) = &books.closed {
                return Err(OpError::closed(closed));
            }
            if let Sent::Leave { channel } = &sent
                && let Some(view) = books.views.get_mut(channel)
            {
                view.left();
            }
            books.pending.insert(id, (sent, answer));
        }
        // A socket that is gone answers through the reader, which closes all that is pending.
        let _ = self.send(Message::text(operation.to_string())).await;
        match tokio::time::timeout(ANSWER, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(OpError::own("closed", "the socket ended before the answer")),
            Err(_) => Err(OpError::own("unanswered", &format!("no answer to {operation} within {ANSWER:?}"))),
        }
    }

    pub async fn hello(&self, token: &str) -> Result<Value, OpError> {
        self.op(json!({"op": "hello", "token": token})).await
    }

    pub async fn hello_resume(&self, token: &str, resume: &str) -> Result<Value, OpError> {
        self.op(json!({"op": "hello", "token": token, "resume": resume})).await
    }

    /// Joins without watching.
    pub async fn join(&self, channel: &str, state: Value) -> Result<Value, OpError> {
        self.op(json!({"op": "join", "channel": channel, "state": state})).await
    }

    /// Joins and watches in one operation, at the level users.
    pub async fn join_watching(&self, channel: &str, state: Value) -> Result<Value, OpError> {
        self.op(json!({"op": "join", "channel": channel, "state": state, "watch": true})).await
    }

    pub async fn leave(&self, channel: &str) -> Result<Value, OpError> {
        self.op(json!({"op": "leave", "channel": channel})).await
    }

    pub async fn update(&self, channel: &str, patch: Value) -> Result<Value, OpError> {
        self.op(json!({"op": "update", "channel": channel, "state": patch})).await
    }

    pub async fn watch(&self, channel: &str, level: Level) -> Result<Value, OpError> {
        self.watch_since(channel, level, None).await
    }

    pub async fn watch_since(&self, channel: &str, level: Level, since: Option<Value>) -> Result<Value, OpError> {
        let mut operation = json!({"op": "watch", "channel": channel, "level": level.as_str()});
        if let Some(since) = since {
            operation["since"] = since;
        }
        self.op(operation).await
    }

    pub async fn unwatch(&self, channel: &str) -> Result<Value, OpError> {
        self.op(json!({"op": "unwatch", "channel": channel})).await
    }

    pub async fn get(&self, channel: &str) -> Result<Value, OpError> {
        self.op(json!({"op": "get", "channel": channel})).await
    }

    pub async fn get_users(&self, users: &[&str]) -> Result<Value, OpError> {
        self.op(json!({"op": "get", "users": users})).await
    }

    pub async fn refresh(&self, token: &str) -> Result<Value, OpError> {
        self.op(json!({"op": "refresh", "token": token})).await
    }

    pub async fn ping(&self) -> Result<Value, OpError> {
        self.op(json!({"op": "ping"})).await
    }

    /// Says goodbye. A service that closes at once instead of answering has heard it too.
    pub async fn bye(&self) -> Result<Value, OpError> {
        match self.op(json!({"op": "bye"})).await {
            Err(error) if error.code == "closed" => Ok(Value::Null),
            result => result,
        }
    }

    // Raw access, for hostile tests

    /// Sends a message as it is: text, binary, or a frame of one's own making.
    pub async fn send(&self, message: Message) -> Result<(), tungstenite::Error> {
        match self.sink.lock().await.as_mut() {
            Some(sink) => sink.send(message).await,
            None => Err(tungstenite::Error::AlreadyClosed),
        }
    }

    pub async fn send_text(&self, text: impl Into<String>) -> Result<(), tungstenite::Error> {
        self.send(Message::text(text.into())).await
    }

    pub async fn send_binary(&self, bytes: Vec<u8>) -> Result<(), tungstenite::Error> {
        self.send(Message::binary(bytes)).await
    }

    /// Stops reading, and so answering pings; sends still work.
    pub fn stall(&self) {
        self.shared.stalled.send_replace(true);
    }

    /// Reads again.
    pub fn unstall(&self) {
        self.shared.stalled.send_replace(false);
    }

    /// Closes the TCP connection without any goodbye.
    pub async fn drop_socket(&self) {
        self.reader.abort();
        // Both halves have to go before the socket does; the reader's goes when the task has ended, in its own time.
        let _ = super::holds_within(DEADLINE, || std::future::ready(self.reader.is_finished())).await;
        *self.sink.lock().await = None;
        close(&self.shared, Closed { code: 1006, reason: "dropped by the test".to_owned() });
    }

    // What was seen

    /// The `ok` of `hello`.
    pub fn welcome(&self) -> Value {
        self.shared.books.lock().unwrap().welcome.clone()
    }

    pub fn connection(&self) -> String {
        self.welcome()["connection"].as_str().expect("a welcome names the connection").to_owned()
    }

    pub fn resume_token(&self) -> String {
        self.welcome()["resume"].as_str().expect("a welcome brings a resume token").to_owned()
    }

    /// The view of a watched channel.
    pub fn view(&self, channel: &str) -> Option<View> {
        self.shared.books.lock().unwrap().views.get(channel).cloned()
    }

    /// The users whom the view of a channel shows, sorted; none without a view.
    pub fn users(&self, channel: &str) -> Vec<String> {
        self.view(channel).map(|view| view.users()).unwrap_or_default()
    }

    pub fn sees(&self, channel: &str, user: &str) -> bool {
        self.users(channel).iter().any(|seen| seen == user)
    }

    /// The member as this client sees it, or null.
    pub fn member(&self, channel: &str, key: &str) -> Value {
        self.view(channel).and_then(|view| view.members().get(key).cloned()).unwrap_or_default()
    }

    /// How many snapshots each watch of a channel brought, in order.
    pub fn snapshots(&self, channel: &str) -> Vec<usize> {
        self.view(channel).map(|view| view.watches.iter().map(|watch| watch.snapshots).collect()).unwrap_or_default()
    }

    /// All frames that answered no operation, with the time they came.
    pub fn received(&self) -> Vec<Received> {
        self.shared.books.lock().unwrap().received.clone()
    }

    /// Frames of one event.
    pub fn events(&self, event: &str) -> Vec<Received> {
        self.received().into_iter().filter(|received| received.frame["event"] == event).collect()
    }

    /// The entries of one list (`join`, `update`, `leave`) of all deltas of a channel, with the time they came.
    pub fn changes(&self, channel: &str, list: &str) -> Vec<Received> {
        let mut changes = Vec::new();
        for received in self.events("delta").into_iter().filter(|received| received.frame["channel"] == channel) {
            for entry in received.frame[list].as_array().into_iter().flatten() {
                changes.push(Received { at: received.at, frame: entry.clone() });
            }
        }
        changes
    }

    /// How many frames came in all, answers included.
    pub fn frames(&self) -> u64 {
        self.shared.books.lock().unwrap().frames
    }

    /// How the socket ended, if it did.
    pub fn closed(&self) -> Option<Closed> {
        self.shared.books.lock().unwrap().closed.clone()
    }

    /// Waits for the end of the socket.
    #[track_caller]
    pub fn until_closed(&self, deadline: Duration) -> impl Future<Output = Closed> + '_ {
        let place = std::panic::Location::caller();
        async move {
            self.within(deadline, |client| client.closed().is_some()).await;
            self.closed().unwrap_or_else(|| panic!("at {place}: the socket is still open after {deadline:?}"))
        }
    }

    /// Waits until `condition` holds, looking again after every frame. False when the deadline passed first.
    pub async fn within(&self, deadline: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let mut turn = self.shared.turn.subscribe();
        let wait = async {
            while !condition(self) {
                turn.changed().await.expect("we hold the sender");
            }
        };
        tokio::time::timeout(deadline, wait).await.is_ok()
    }

    /// The same, failing the test at [`DEADLINE`].
    #[track_caller]
    pub fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let came = self.within(DEADLINE, condition).await;
            let last: Vec<_> = self.received().into_iter().rev().take(5).map(|received| received.frame).collect();
            assert!(came, "at {place}: {what} did not come true; closed {:?}, last frames {last:#?}", self.closed());
        }
    }

    /// What broke the protocol so far. Taking it keeps the drop quiet: for tests of the harness itself.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.books.lock().unwrap().violations)
    }

    /// Fails the test if any frame broke the protocol.
    pub fn assert_clean(&self) {
        let violations = self.take_violations();
        assert!(violations.is_empty(), "frames that broke the protocol: {violations:#?}");
    }

    /// The address that this client is connected to.
    pub fn base(&self) -> &str {
        &self.base
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
        if !std::thread::panicking() {
            self.assert_clean();
        }
    }
}

impl OpError {
    fn own(code: &str, message: &str) -> Self {
        Self { code: code.to_owned(), message: message.to_owned(), retry_after_ms: None }
    }

    fn closed(closed: &Closed) -> Self {
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
    fn of(operation: &Value) -> Self {
        let channel = operation["channel"].as_str().map(str::to_owned);
        match (operation["op"].as_str(), channel) {
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

async fn read(mut stream: SplitStream<Socket>, shared: Arc<Shared>) {
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

fn close(shared: &Shared, closed: Closed) {
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

impl Books {
    fn take(&mut self, frame: Value) {
        if let Some(id) = frame["id"].as_u64().filter(|_| frame.get("event").is_none()) {
            return self.answer(id, &frame);
        }
        if matches!(frame["event"].as_str(), Some("snapshot" | "delta")) {
            let channel = frame["channel"].as_str().unwrap_or_default();
            let checked = match self.views.get_mut(channel) {
                Some(view) => view.take(&frame),
                None => Err("nobody watches this channel".to_owned()),
            };
            if let Err(wrong) = checked {
                self.violations.push(format!("{wrong}: {frame}"));
            }
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
                if watch {
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
