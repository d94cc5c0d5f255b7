//! The seam between a socket's loop and what carries it: frames in, bytes out, close.
//!
//! There are two carriers, which behave alike: [`library`], sockets of actix-ws; and [`direct`], sockets that are taken over from the HTTP server when it
//! has answered the handshake, which costs less memory and less work per frame. Which it is stands in `server.websocket`.
//!
//! Neither tells what the other side has read. Therefore a ping follows each piece of what is sent, and its pong says that all before it was read.

mod direct;
mod library;
mod measure;

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web::Payload};
use actix_ws::{AggregatedMessage, ProtocolError};
use bytes::Bytes;
use bytestring::ByteString;
use tokio::time::Instant;

pub use self::direct::upgrade;

/// As many bytes, or messages, may be under way to a socket: enough to fill a write, little for one who does not read.
const UNDER_WAY_BYTES: usize = 8 * 1024;
const UNDER_WAY: usize = 16;
/// After as many bytes a ping follows; after half of it, as long as one before is not answered. Together with the longest message who reads a kilobyte
/// a second is heard of every 32 s at least.
const PING_EVERY: usize = 16 * 1024;
/// The payload of such a ping.
const READ: &[u8] = b"read";
/// A longer message goes out in fragments of [`PIECE`], each when there is room, so that pings come between them and no carrier copies much at once.
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

impl From<AggregatedMessage> for Inbound {
    fn from(message: AggregatedMessage) -> Self {
        match message {
            AggregatedMessage::Text(text) => Self::Text(text),
            AggregatedMessage::Binary(_) => Self::Binary,
            AggregatedMessage::Ping(payload) => Self::Ping(payload),
            AggregatedMessage::Pong(payload) => Self::Pong(payload),
            AggregatedMessage::Close(_) => Self::Close,
        }
    }
}

/// The receiving half.
pub enum Receiver {
    /// Of a socket of the library.
    Library(library::Receiver),
    /// Of a socket that was taken over.
    Direct(direct::Receiver),
}

impl Receiver {
    /// The next that comes in. Cancel-safe.
    pub async fn receive(&mut self) -> Inbound {
        match self {
            Self::Library(receiver) => receiver.receive().await,
            Self::Direct(receiver) => receiver.receive().await,
        }
    }
}

/// What a carrier takes at once: a message, or a fragment of one.
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

/// Where a control frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    /// There was no place for it just now.
    Full,
    Gone,
}

/// The way out of one socket, by either carrier.
enum Line {
    Library(library::Line),
    Direct(direct::Line),
}

/// Calls the same of whichever carrier it is.
macro_rules! either {
    ($line:expr, $one:ident => $call:expr) => {
        match $line {
            Line::Library($one) => $call,
            Line::Direct($one) => $call,
        }
    };
}

/// The sending half.
pub struct Sender {
    line: Line,
    /// When something has left last, or was sent while nothing was under way.
    progressed_at: Instant,
    stalled_until: Option<Instant>,
    /// What is left of a message that goes out in fragments.
    rest: Option<Bytes>,
    /// Bytes since the last ping that asks how far the other side has read.
    unasked: usize,
    /// Such pings that are not answered yet.
    unread: usize,
}

impl Sender {
    fn new(line: Line) -> Self {
        Self { line, progressed_at: Instant::now(), stalled_until: None, rest: None, unasked: 0, unread: 0 }
    }

    /// Whether the socket takes another message now.
    pub fn has_room(&self) -> bool {
        self.rest.is_none() && self.has_room_for_part()
    }

    fn has_room_for_part(&self) -> bool {
        either!(&self.line, line => line.has_room())
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.rest.is_none() && either!(&self.line, line => line.is_idle())
    }

    /// Waits until something that was under way has left. Cancel-safe.
    pub async fn drained(&mut self) {
        either!(&mut self.line, line => line.drained().await);
        self.progressed();
        self.send_rest();
    }

    fn progressed(&mut self) {
        let now = Instant::now();
        if now.duration_since(std::mem::replace(&mut self.progressed_at, now)) > STALL {
            self.stalled_until = Some(now);
        }
    }

    /// When the last stall ended: until then nothing had left for a while, though something was under way.
    pub fn stalled_until(&self) -> Option<Instant> {
        self.stalled_until
    }

    /// When something has left last, or was sent while nothing was under way.
    pub fn progressed_at(&self) -> Instant {
        self.progressed_at
    }

    /// Sends a text that is JSON, and so UTF-8. Call it when there is room. Does not wait for the socket; [`Sender::flush`] follows when all is said.
    /// Returns false when the socket is no more.
    pub fn text(&mut self, payload: Bytes) -> bool {
        self.begin();
        let most = if self.unread > 0 { PIECE } else { WHOLE };
        if payload.len() <= most {
            return self.send(Part::Whole(payload));
        }
        let (first, rest) = piece_of(payload);
        self.rest = Some(rest);
        self.send(Part::First(first)) && self.send_rest()
    }

    /// From now on something is under way.
    fn begin(&mut self) {
        if self.is_idle() {
            self.progressed_at = Instant::now();
        }
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
        let sent = either!(&mut self.line, line => line.send(part));
        let every = if self.unread > 0 { PING_EVERY / 2 } else { PING_EVERY };
        if sent == Taken::Yes && self.unasked >= every && either!(&mut self.line, line => line.ping(READ)) == Taken::Yes
        {
            (self.unasked, self.unread) = (0, self.unread + 1);
        }
        sent != Taken::Gone
    }

    /// Gives to the kernel what waits, as much as it takes: all of it in one write. What it does not take [`Sender::drained`] waits for.
    pub fn flush(&mut self) {
        if let Line::Direct(line) = &mut self.line
            && line.flush()
        {
            self.progressed();
            self.send_rest();
        }
    }

    /// A pong has come. Returns whether it only says how far the other side has read.
    pub fn has_read(&mut self, payload: &[u8]) -> bool {
        let is_ours = payload == READ;
        if is_ours {
            self.unread = self.unread.saturating_sub(1);
        }
        is_ours
    }

    /// Asks whether the other side lives. Behind a full queue there is no asking: what fills it shows the same. Returns false when the socket is no more.
    pub fn ping(&mut self, payload: &[u8]) -> bool {
        self.begin();
        either!(&mut self.line, line => line.ping(payload)) != Taken::Gone
    }

    /// Answers a ping. Who reads none of the answers gets no more of them. Returns false when the socket is no more.
    pub fn pong(&mut self, payload: &[u8]) -> bool {
        self.begin();
        either!(&mut self.line, line => line.pong(payload)) != Taken::Gone
    }

    /// Closes, behind what is under way.
    pub async fn close(self, code: u16, description: &str) {
        either!(self.line, line => line.close(code, description).await);
    }
}

/// The first piece of a text, which ends between two characters, and the rest.
fn piece_of(mut text: Bytes) -> (Bytes, Bytes) {
    let is_inside = |byte: u8| byte & 0xc0 == 0x80;
    let end = (1..=PIECE).rev().find(|at| !is_inside(text[*at])).unwrap_or(PIECE);
    let rest = text.split_off(end);
    (text, rest)
}

/// What a frame that cannot be read is.
fn fault(error: &ProtocolError) -> Inbound {
    match error {
        ProtocolError::Overflow => Inbound::TooLarge,
        _ => Inbound::Malformed,
    }
}

/// Accepts an upgrade with the subprotocol. When the handshake is answered, `begin` gets both halves of the socket, on this thread.
///
/// # Errors
/// What actix answers to a request that is no upgrade.
pub fn accept(
    request: &HttpRequest,
    body: Payload,
    protocol: &str,
    frame_bytes: usize,
    begin: impl FnOnce(Receiver, Sender) + 'static,
) -> Result<HttpResponse, actix_web::Error> {
    match direct::Takeover::of(request) {
        Some(takeover) => takeover.accept(request, protocol, frame_bytes, begin),
        None => library::accept(request, body, protocol, frame_bytes, begin),
    }
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
