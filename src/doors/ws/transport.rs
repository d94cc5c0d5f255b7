//! The seam between a socket's loop and the library that carries it: frames in, bytes out, close. Here on actix-ws.
//!
//! actix-ws takes messages into a queue of fixed length and tells nobody when they leave it. Each message therefore carries a receipt that is dropped
//! when the library has written it into the buffer of the socket: so the loop knows what is under way, and hands over no more than the socket takes.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix_web::{HttpRequest, HttpResponse, web::Payload};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, ProtocolError};
use bytes::Bytes;
use bytestring::ByteString;
use tokio::{sync::Notify, time::Instant};

/// As many bytes, or messages, may be under way to a socket: enough to fill a write, little for one who does not read.
const UNDER_WAY_BYTES: usize = 32 * 1024;
const UNDER_WAY: usize = 16;

/// What came in.
#[derive(Debug)]
pub enum Inbound {
    /// A message.
    Text(ByteString),
    /// A message of a kind that the protocol does not have.
    Binary,
    /// Answered by [`Sender::pong`].
    Ping(Bytes),
    /// The answer to a ping.
    Pong(Bytes),
    /// The other side says goodbye on the level of WebSocket.
    Close,
    /// A message longer than may be.
    TooLarge,
    /// Not WebSocket, or text that is not UTF-8.
    Malformed,
    /// The socket is no more.
    Gone,
}

/// What is under way to one socket.
#[derive(Debug)]
struct Gauge {
    bytes: AtomicUsize,
    messages: AtomicUsize,
    drained: Notify,
}

/// Dropped when the library has written the message into the socket's buffer.
struct Receipt {
    payload: Bytes,
    gauge: Arc<Gauge>,
}

impl AsRef<[u8]> for Receipt {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.gauge.bytes.fetch_sub(self.payload.len(), Ordering::Relaxed);
        self.gauge.messages.fetch_sub(1, Ordering::Relaxed);
        self.gauge.drained.notify_one();
    }
}

/// The receiving half.
pub struct Receiver(AggregatedMessageStream);

impl Receiver {
    /// The next that comes in. Cancel-safe.
    pub async fn receive(&mut self) -> Inbound {
        match self.0.recv().await {
            Some(Ok(AggregatedMessage::Text(text))) => Inbound::Text(text),
            Some(Ok(AggregatedMessage::Binary(_))) => Inbound::Binary,
            Some(Ok(AggregatedMessage::Ping(payload))) => Inbound::Ping(payload),
            Some(Ok(AggregatedMessage::Pong(payload))) => Inbound::Pong(payload),
            Some(Ok(AggregatedMessage::Close(_))) => Inbound::Close,
            Some(Err(ProtocolError::Overflow)) => Inbound::TooLarge,
            // The library's word for fragments that add up to too much.
            Some(Err(ProtocolError::Io(error))) if error.to_string().contains("continuation size") => Inbound::TooLarge,
            Some(Err(ProtocolError::Io(error))) if error.kind() != std::io::ErrorKind::InvalidData => {
                tracing::trace!(%error, "a socket broke");
                Inbound::Gone
            }
            Some(Err(_)) => Inbound::Malformed,
            None => Inbound::Gone,
        }
    }
}

/// The sending half.
pub struct Sender {
    session: actix_ws::Session,
    gauge: Arc<Gauge>,
    progress: Rc<Cell<Instant>>,
}

impl Sender {
    /// Whether the socket takes more now.
    pub fn has_room(&self) -> bool {
        self.gauge.messages.load(Ordering::Relaxed) < UNDER_WAY
            && self.gauge.bytes.load(Ordering::Relaxed) < UNDER_WAY_BYTES
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.gauge.messages.load(Ordering::Relaxed) == 0
    }

    /// Waits until something that was under way has left. Cancel-safe.
    pub async fn drained(&self) {
        self.gauge.drained.notified().await;
        self.progress.set(Instant::now());
    }

    /// When something has left last, or was sent while nothing was under way.
    pub fn progressed_at(&self) -> Instant {
        self.progress.get()
    }

    /// Sends a text that is JSON, and so UTF-8. Call it when there is room: then it does not wait.
    /// Returns false when the socket is no more.
    pub async fn text(&mut self, payload: Bytes) -> bool {
        if self.is_idle() {
            self.progress.set(Instant::now());
        }
        self.gauge.bytes.fetch_add(payload.len(), Ordering::Relaxed);
        self.gauge.messages.fetch_add(1, Ordering::Relaxed);
        let receipt = Receipt { payload, gauge: self.gauge.clone() };
        let text = ByteString::try_from(Bytes::from_owner(receipt)).expect("JSON is UTF-8");
        self.session.text(text).await.is_ok()
    }

    /// Asks whether the other side lives.
    pub async fn ping(&mut self, payload: &[u8]) -> bool {
        self.session.ping(payload).await.is_ok()
    }

    /// Answers a ping.
    pub async fn pong(&mut self, payload: &[u8]) -> bool {
        self.session.pong(payload).await.is_ok()
    }

    /// Closes, behind what is under way.
    pub async fn close(self, code: u16, description: &str) {
        let reason = CloseReason { code: CloseCode::from(code), description: Some(description.to_owned()) };
        // The other side may be gone already.
        let _ = self.session.close(Some(reason)).await;
    }
}

/// Accepts an upgrade with the subprotocol, and splits the socket.
///
/// # Errors
/// What actix answers to a request that is no upgrade.
pub fn accept(
    request: &HttpRequest,
    body: Payload,
    protocol: &str,
    frame_bytes: usize,
) -> Result<(HttpResponse, Receiver, Sender), actix_web::Error> {
    let (response, session, stream) = actix_ws::handle_with_protocols(request, body, &[protocol])?;
    let stream = stream.max_frame_size(frame_bytes).aggregate_continuations().max_continuation_size(frame_bytes);
    let gauge = Arc::new(Gauge { bytes: 0.into(), messages: 0.into(), drained: Notify::new() });
    let sender = Sender { session, gauge, progress: Rc::new(Cell::new(Instant::now())) };
    Ok((response, Receiver(stream), sender))
}
