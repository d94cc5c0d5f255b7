//! A client of the native WebSocket that believes nothing it has not checked.

mod again;
mod books;
mod patterns;
mod seen;
mod told;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex as AsyncMutex, oneshot},
    task::JoinHandle,
};
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest as _};

pub use books::{Closed, OpError, Received};
use books::{Sent, Shared, Socket, close, read};
pub use patterns::PatternView;
pub use told::Told;

use super::{DEADLINE, token, view::Level};

/// How long an operation may take before the harness calls it unanswered. Longer than the service's own bounded waits.
const ANSWER: Duration = Duration::from_secs(30);

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
        let shared = Arc::new(Shared::default());
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
        let resume = self.resume_token();
        client.take_views(&self);
        client.hello_resume(token, &resume).await.unwrap_or_else(|error| panic!("resume on {base}: {error:?}"));
        client.watch_again().await.unwrap_or_else(|error| panic!("watch again: {error:?}"));
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
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
        if !std::thread::panicking() {
            self.assert_clean();
        }
    }
}
