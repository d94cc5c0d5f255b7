//! The seam between a socket's loop and the library that carries it: frames in, bytes out, close. Here on actix-ws.
//!
//! actix-ws takes messages into a queue of fixed length and tells nobody when they leave it. Each message therefore carries a receipt that is dropped
//! when the library has written it into the buffer of the socket: so the loop knows what is under way, and hands over no more than the socket takes.
//!
//! Nor does it tell what the other side has read. Therefore a ping follows each piece of what is sent, and its pong says that all before it was read.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{FromRequest as _, HttpRequest, HttpResponse, dev, error::PayloadError, web::Payload};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, Item, ProtocolError};
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::FutureExt as _;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::measure::Measured;

/// As many bytes, or messages, may be under way to a socket: enough to fill a write, little for one who does not read.
const UNDER_WAY_BYTES: usize = 8 * 1024;
const UNDER_WAY: usize = 16;
/// After as many bytes a ping follows; after half of it, as long as one before is not answered. Together with the longest message who reads a kilobyte
/// a second is heard of every 32 s at least.
const PING_EVERY: usize = 16 * 1024;
/// The payload of such a ping.
const READ: &[u8] = b"read";
/// A longer message goes out in fragments of [`PIECE`], each when there is room, for the library copies what it is given.
const WHOLE: usize = 16 * 1024;
/// The same to a socket that has not yet read what was sent before.
const PIECE: usize = 8 * 1024;
/// A socket that takes nothing for so long, though something is under way to it, has a backlog.
const STALL: Duration = Duration::from_secs(1);
/// Who takes nothing is not waited for with the close frame: the socket is given up.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

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
    /// Text that is not UTF-8.
    NotText,
    /// Not WebSocket.
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
            Some(Err(ProtocolError::Io(error))) if is_overflow(&error) => Inbound::TooLarge,
            Some(Err(ProtocolError::Io(error))) if error.kind() != std::io::ErrorKind::InvalidData => {
                tracing::trace!(%error, "a socket broke");
                Inbound::Gone
            }
            Some(Err(ProtocolError::Io(error))) if !error.to_string().contains("reserved bits") => Inbound::NotText,
            Some(Err(_)) => Inbound::Malformed,
            None => Inbound::Gone,
        }
    }
}

fn is_overflow(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<PayloadError>());
    matches!(inner, Some(PayloadError::Overflow))
}

/// The sending half.
pub struct Sender {
    session: actix_ws::Session,
    gauge: Arc<Gauge>,
    progress: Rc<Cell<Instant>>,
    stalled_until: Option<Instant>,
    /// A text for which the library's queue had no place, full of pongs that nobody reads. Nothing else is sent before it.
    parked: Option<Part>,
    /// What is left of a message that goes out in fragments.
    rest: Option<Bytes>,
    /// Bytes since the last ping that asks how far the other side has read.
    unasked: usize,
    /// Such pings that are not answered yet.
    unread: usize,
}

/// What the library takes at once: a message, or a fragment of one.
#[derive(Debug, Clone)]
enum Part {
    Whole(Bytes),
    First(Bytes),
    Next(Bytes),
    Last(Bytes),
}

impl Part {
    fn payload(&self) -> &Bytes {
        match self {
            Self::Whole(payload) | Self::First(payload) | Self::Next(payload) | Self::Last(payload) => payload,
        }
    }
}

impl Sender {
    /// Whether the socket takes another message now.
    pub fn has_room(&self) -> bool {
        self.rest.is_none() && self.has_room_for_part()
    }

    fn has_room_for_part(&self) -> bool {
        self.parked.is_none()
            && self.gauge.messages.load(Ordering::Relaxed) < UNDER_WAY
            && self.gauge.bytes.load(Ordering::Relaxed) < UNDER_WAY_BYTES
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.rest.is_none() && self.parked.is_none() && self.gauge.messages.load(Ordering::Relaxed) == 0
    }

    /// Waits until something that was under way has left. Cancel-safe.
    pub async fn drained(&mut self) {
        if let Some(part) = self.parked.clone() {
            // Should the socket be no more, the next that is sent will tell.
            let _ = self.hand_over(part).await;
            self.parked = None;
        } else {
            self.gauge.drained.notified().await;
        }
        let now = Instant::now();
        if now.duration_since(self.progress.replace(now)) > STALL {
            self.stalled_until = Some(now);
        }
        self.send_rest();
    }

    /// When the last stall ended: until then nothing had left for a while, though something was under way.
    pub fn stalled_until(&self) -> Option<Instant> {
        self.stalled_until
    }

    /// When something has left last, or was sent while nothing was under way.
    pub fn progressed_at(&self) -> Instant {
        self.progress.get()
    }

    /// Sends a text that is JSON, and so UTF-8. Call it when there is room. Does not wait for the socket.
    /// Returns false when the socket is no more.
    pub fn text(&mut self, payload: Bytes) -> bool {
        if self.is_idle() {
            self.progress.set(Instant::now());
        }
        let most = if self.unread > 0 { PIECE } else { WHOLE };
        if payload.len() <= most {
            return self.send(Part::Whole(payload));
        }
        let (first, rest) = piece_of(payload);
        self.rest = Some(rest);
        self.send(Part::First(first)) && self.send_rest()
    }

    /// Sends fragments as long as there is room. Returns false when the socket is no more.
    fn send_rest(&mut self) -> bool {
        while self.has_room_for_part()
            && let Some(rest) = self.rest.take()
        {
            let part = if rest.len() <= PIECE {
                Part::Last(rest)
            } else {
                let (next, rest) = piece_of(rest);
                self.rest = Some(rest);
                Part::Next(next)
            };
            if !self.send(part) {
                return false;
            }
        }
        true
    }

    fn send(&mut self, part: Part) -> bool {
        self.unasked += part.payload().len();
        let sent = self.hand_over(part.clone()).now_or_never();
        if sent.is_none() {
            self.parked = Some(part);
            return true;
        }
        let every = if self.unread > 0 { PING_EVERY / 2 } else { PING_EVERY };
        if self.unasked >= every && self.session.ping(READ).now_or_never().is_some_and(|asked| asked.is_ok()) {
            (self.unasked, self.unread) = (0, self.unread + 1);
        }
        sent.is_some_and(|sent| sent.is_ok())
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

    /// A pong has come. Returns whether it only says how far the other side has read.
    pub fn has_read(&mut self, payload: &[u8]) -> bool {
        let is_ours = payload == READ;
        if is_ours {
            self.unread = self.unread.saturating_sub(1);
        }
        is_ours
    }

    /// Asks whether the other side lives. Behind a full queue there is no asking: what fills it shows the same.
    pub fn ping(&mut self, payload: &[u8]) -> bool {
        self.session.ping(payload).now_or_never().is_none_or(|sent| sent.is_ok())
    }

    /// Answers a ping. Who reads none of the answers gets no more of them.
    pub fn pong(&mut self, payload: &[u8]) -> bool {
        self.session.pong(payload).now_or_never().is_none_or(|sent| sent.is_ok())
    }

    /// Closes, behind what is under way.
    pub async fn close(self, code: u16, description: &str) {
        let reason = CloseReason { code: CloseCode::from(code), description: Some(description.to_owned()) };
        // The other side may be gone already.
        let _ = timeout(CLOSE_WAIT, self.session.close(Some(reason))).await;
    }
}

/// The first piece of a text, which ends between two characters, and the rest.
fn piece_of(mut text: Bytes) -> (Bytes, Bytes) {
    let is_inside = |byte: u8| byte & 0xc0 == 0x80;
    let end = (1..=PIECE).rev().find(|at| !is_inside(text[*at])).unwrap_or(PIECE);
    let rest = text.split_off(end);
    (text, rest)
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
    let measured = Measured::new(body.into_inner(), frame_bytes);
    let mut measured: dev::Payload = dev::Payload::Stream { payload: Box::pin(measured) };
    let body = Payload::from_request(request, &mut measured).into_inner()?;
    let (response, session, stream) = actix_ws::handle_with_protocols(request, body, &[protocol])?;
    let stream = stream.max_frame_size(frame_bytes).aggregate_continuations().max_continuation_size(frame_bytes);
    let gauge = Arc::new(Gauge { bytes: 0.into(), messages: 0.into(), drained: Notify::new() });
    let sender = Sender {
        session,
        gauge,
        progress: Rc::new(Cell::new(Instant::now())),
        stalled_until: None,
        parked: None,
        rest: None,
        unasked: 0,
        unread: 0,
    };
    Ok((response, Receiver(stream), sender))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_nothing_is_lost() {
        for shift in 0..4 {
            let text = "x".repeat(shift) + &"😀é".repeat(5_000);
            let (mut pieces, mut rest) = (Vec::new(), Bytes::from(text.clone()));
            while rest.len() > PIECE {
                let (piece, left) = piece_of(rest);
                assert!(piece.len() <= PIECE && piece.len() > PIECE - 4, "{}", piece.len());
                pieces.push(piece);
                rest = left;
            }
            pieces.push(rest);
            let pieces: Vec<&str> = pieces.iter().map(|piece| std::str::from_utf8(piece).unwrap()).collect();
            assert_eq!(pieces.concat(), text);
        }
    }
}
