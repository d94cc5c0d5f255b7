//! Sockets of actix-ws.
//!
//! The library takes messages into a queue of fixed length and tells nobody when they leave it. Each message therefore carries a receipt that is dropped
//! when the library has written it into the buffer of the socket: so the loop knows what is under way, and hands over no more than the socket takes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use actix_web::{FromRequest as _, HttpRequest, HttpResponse, dev, error::PayloadError, web::Payload};
use actix_ws::{AggregatedMessageStream, CloseCode, CloseReason, Item, ProtocolError};
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::FutureExt as _;
use tokio::{sync::Notify, time::timeout};

use super::{CLOSE_WAIT, Inbound, Part, Sender, Taken, UNDER_WAY, UNDER_WAY_BYTES, fault, measure::Measured};

/// The receiving half.
pub struct Receiver(AggregatedMessageStream);

impl Receiver {
    /// The next that comes in. Cancel-safe.
    pub async fn receive(&mut self) -> Inbound {
        match self.0.recv().await {
            Some(Ok(message)) => message.into(),
            // The library's word for fragments that add up to too much.
            Some(Err(ProtocolError::Io(error))) if error.to_string().contains("continuation size") => Inbound::TooLarge,
            Some(Err(ProtocolError::Io(error))) if is_overflow(&error) => Inbound::TooLarge,
            Some(Err(ProtocolError::Io(error))) if error.kind() != std::io::ErrorKind::InvalidData => {
                tracing::trace!(%error, "a socket broke");
                Inbound::Gone
            }
            Some(Err(ProtocolError::Io(error))) if !error.to_string().contains("reserved bits") => Inbound::NotText,
            Some(Err(error)) => fault(&error),
            None => Inbound::Gone,
        }
    }
}

fn is_overflow(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<PayloadError>());
    matches!(inner, Some(PayloadError::Overflow))
}

/// What is under way to one socket.
#[derive(Debug, Default)]
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

/// The way out.
pub struct Line {
    session: actix_ws::Session,
    gauge: Arc<Gauge>,
    /// A text for which the library's queue had no place, full of pongs that nobody reads. Nothing else is sent before it.
    parked: Option<Part>,
}

impl Line {
    /// Whether it takes another message or fragment.
    pub(super) fn has_room(&self) -> bool {
        self.parked.is_none()
            && self.gauge.messages.load(Ordering::Relaxed) < UNDER_WAY
            && self.gauge.bytes.load(Ordering::Relaxed) < UNDER_WAY_BYTES
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.parked.is_none() && self.gauge.messages.load(Ordering::Relaxed) == 0
    }

    /// Waits until something has left. Cancel-safe.
    pub(super) async fn drained(&mut self) {
        if let Some(part) = self.parked.clone() {
            // Should the socket be no more, the next that is sent will tell.
            let _ = Box::pin(self.hand_over(part)).await;
            self.parked = None;
        } else {
            self.gauge.drained.notified().await;
        }
    }

    /// Sends a message or fragment, or keeps it until there is a place.
    pub(super) fn send(&mut self, part: Part) -> Taken {
        let sent = self.hand_over(part.clone()).now_or_never();
        if sent.is_none() {
            self.parked = Some(part);
        }
        taken(sent)
    }

    async fn hand_over(&mut self, part: Part) -> Result<(), actix_ws::Closed> {
        let payload = self.with_receipt(part.payload().clone());
        match part {
            Part::Whole(_) => self.session.text(ByteString::try_from(payload).expect("JSON is UTF-8")).await,
            Part::First(_) => self.session.continuation(Item::FirstText(payload)).await,
            Part::Next(_) => self.session.continuation(Item::Continue(payload)).await,
            Part::Last(_) => self.session.continuation(Item::Last(payload)).await,
        }
    }

    fn with_receipt(&self, payload: Bytes) -> Bytes {
        self.gauge.bytes.fetch_add(payload.len(), Ordering::Relaxed);
        self.gauge.messages.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Receipt { payload, gauge: self.gauge.clone() })
    }

    pub(super) fn ping(&mut self, payload: &[u8]) -> Taken {
        taken(self.session.ping(payload).now_or_never())
    }

    pub(super) fn pong(&mut self, payload: &[u8]) -> Taken {
        taken(self.session.pong(payload).now_or_never())
    }

    pub(super) async fn close(self, code: u16, description: &str) {
        let reason = CloseReason { code: CloseCode::from(code), description: Some(description.to_owned()) };
        // The other side may be gone already.
        let _ = timeout(CLOSE_WAIT, self.session.close(Some(reason))).await;
    }
}

fn taken(sent: Option<Result<(), actix_ws::Closed>>) -> Taken {
    match sent {
        Some(Ok(())) => Taken::Yes,
        Some(Err(_)) => Taken::Gone,
        None => Taken::Full,
    }
}

/// Has the library answer the handshake and carry the socket.
pub(super) fn accept(
    request: &HttpRequest,
    body: Payload,
    protocol: &str,
    frame_bytes: usize,
    begin: impl FnOnce(super::Receiver, Sender),
) -> Result<HttpResponse, actix_web::Error> {
    let measured = Measured::new(body.into_inner(), frame_bytes);
    let mut measured: dev::Payload = dev::Payload::Stream { payload: Box::pin(measured) };
    let body = Payload::from_request(request, &mut measured).into_inner()?;
    let (response, session, stream) = actix_ws::handle_with_protocols(request, body, &[protocol])?;
    let stream = stream.max_frame_size(frame_bytes).aggregate_continuations().max_continuation_size(frame_bytes);
    let line = Line { session, gauge: Arc::default(), parked: None };
    begin(super::Receiver::Library(Receiver(stream)), Sender::new(super::Line::Library(line)));
    Ok(response)
}
