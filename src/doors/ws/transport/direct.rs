//! Sockets that are taken over from the HTTP server.
//!
//! The server hands a request that wants a WebSocket, with the socket under it, to [`upgrade`], which asks the application as for every other request: its
//! limits, checks, logs and counts are the same. Where the answer is 101 the socket is ours from then on, and the server forgets it with all its buffers.
//!
//! An idle socket has no buffer here. What is read goes through one that the worker's sockets share, and only a frame of which a part is missing is kept;
//! what is sent is put together in another, of which a socket keeps only what the kernel did not take.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use actix_codec::{AsyncRead, AsyncWrite, Decoder as _, Framed, ReadBuf};
use actix_http::{
    ConnectionType, HttpMessage as _, Request, Response,
    body::{BodySize, BoxBody, MessageBody},
    error::PayloadError,
    h1,
    ws::{Codec, Frame, Item, OpCode, Parser, handshake},
};
use actix_service::{ServiceFactory, fn_factory, fn_service};
use actix_web::{
    HttpRequest, HttpResponse,
    dev::{AppConfig, ServiceResponse},
    http::{StatusCode, header::SEC_WEBSOCKET_PROTOCOL},
};
use actix_ws::{CloseCode, CloseReason};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tokio::time::timeout;

use super::{CLOSE_WAIT, Inbound, Part, Sender, Taken, UNDER_WAY, UNDER_WAY_BYTES, fault, measure::Ruler};

/// As much is read at once.
const READ_BYTES: usize = 16 * 1024;
/// A buffer that has grown beyond this is not kept for the next socket.
const SPARE_BYTES: usize = 64 * 1024;
/// Whoever reads again within this reads the close frame.
const LAST_WORD: Duration = Duration::from_secs(5);
/// After the goodbye it is read for so long, or so much, what the other side had sent: a socket that is closed with bytes unread takes the goodbye along.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 * 1024;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
    static SPARE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// A socket, with TLS or without.
trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// Both halves have it; neither holds it while it waits.
type Pipe = Rc<RefCell<dyn Io>>;

/// What is done with a socket once the handshake is answered; what came behind the handshake is there already.
type Begin = Box<dyn FnOnce(Pipe, Bytes)>;

/// Stands in a request whose socket can be had.
#[derive(Clone, Default)]
pub(super) struct Takeover(Rc<Cell<Option<Begin>>>);

impl Takeover {
    pub(super) fn of(request: &HttpRequest) -> Option<Self> {
        request.extensions().get::<Self>().cloned()
    }

    /// Answers the handshake; the rest follows when that has gone out.
    pub(super) fn accept(
        self,
        request: &HttpRequest,
        protocol: &str,
        frame_bytes: usize,
        begin: impl FnOnce(super::Receiver, Sender) + 'static,
    ) -> Result<HttpResponse, actix_web::Error> {
        let response = handshake(request.head())?.insert_header((SEC_WEBSOCKET_PROTOCOL, protocol)).finish();
        self.0.set(Some(Box::new(move |pipe, early| {
            let receiver = Receiver::new(pipe.clone(), early, frame_bytes);
            begin(super::Receiver::Direct(receiver), Sender::new(super::Line::Direct(Line::new(pipe))));
        })));
        Ok(response.map_into_boxed_body().into())
    }
}

/// The service for requests that want another protocol: asks the application `app`, and takes the socket over where that says so.
pub fn upgrade<T, A, B>(
    app: A,
) -> impl ServiceFactory<(Request, Framed<T, h1::Codec>), Config = (), Response = (), Error = actix_web::Error, InitError = ()>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    A: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<B>,
            Error = actix_web::Error,
            InitError = (),
        > + 'static,
    A::Service: 'static,
    B: MessageBody + 'static,
{
    fn_factory(move || {
        let app = app.new_service(AppConfig::default());
        async move {
            let app = Rc::new(app.await?);
            Ok(fn_service(move |(request, framed)| ask(app.clone(), request, framed)))
        }
    })
}

async fn ask<T, S, B>(app: Rc<S>, request: Request, mut framed: Framed<T, h1::Codec>) -> Result<(), actix_web::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: actix_service::Service<Request, Response = ServiceResponse<B>, Error = actix_web::Error>,
    B: MessageBody + 'static,
{
    let takeover = Takeover::default();
    request.extensions_mut().insert(takeover.clone());
    let (_, response) = app.call(request).await?.into_parts();
    let mut response = Response::<BoxBody>::from(response.map_into_boxed_body()).map_body(|_, body| Told(body));
    let begin = takeover.0.take().filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS);
    if begin.is_none() {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    framed = h1::SendResponse::new(framed, response).await?;
    let parts = framed.into_parts();
    let pipe: Pipe = Rc::new(RefCell::new(parts.io));
    match begin {
        Some(begin) => begin(pipe, parts.read_buf.freeze()),
        None => linger(pipe).await,
    }
    Ok(())
}

/// An answer of the application, with the errors that can be sent. There is one: it ends too early.
struct Told(BoxBody);

impl MessageBody for Told {
    type Error = PayloadError;

    fn size(&self) -> BodySize {
        self.0.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PayloadError>>> {
        Pin::new(&mut self.0).poll_next(cx).map_err(|_| PayloadError::Incomplete(None))
    }
}

/// Says that nothing more follows, and waits a little for the other side to have read it.
async fn linger(pipe: Pipe) {
    let mut left = LINGER_BYTES;
    let end = poll_fn(|cx| {
        let mut pipe = pipe.borrow_mut();
        if ready!(Pin::new(&mut *pipe).poll_shutdown(cx)).is_err() {
            return Poll::Ready(());
        }
        while left > 0 {
            let read = ready!(read(&mut *pipe, cx, <[u8]>::len));
            match read {
                Ok(read) if read > 0 => left = left.saturating_sub(read),
                _ => break,
            }
        }
        Poll::Ready(())
    });
    // Who does not end it is left.
    let _ = timeout(LINGER, end).await;
}

/// Reads what is there, at most what the shared buffer holds, and gives it to `take`.
fn read<R>(pipe: &mut dyn Io, cx: &mut Context<'_>, take: impl FnOnce(&[u8]) -> R) -> Poll<io::Result<R>> {
    READ_BUFFER.with_borrow_mut(|buffer| {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(pipe).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(take(buffer.filled())))
    })
}

/// The receiving half.
pub struct Receiver {
    pipe: Pipe,
    /// Bytes that no frame was made of yet.
    bytes: BytesMut,
    /// Whether a frame among what was read is too long.
    is_too_long: bool,
    codec: Codec,
    ruler: Ruler,
    /// The fragments of a message that have come.
    fragments: Option<Fragments>,
    most: usize,
}

struct Fragments {
    is_text: bool,
    bytes: BytesMut,
}

impl Receiver {
    fn new(pipe: Pipe, early: Bytes, most: usize) -> Self {
        let mut ruler = Ruler::new(most);
        let is_too_long = !ruler.fits(&early);
        let codec = Codec::new().max_size(most);
        Self { pipe, bytes: BytesMut::from(early), is_too_long, codec, ruler, fragments: None, most }
    }

    /// The next that comes in. Cancel-safe.
    pub(super) async fn receive(&mut self) -> Inbound {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Inbound> {
        loop {
            match self.decode() {
                Some(inbound) => return Poll::Ready(inbound),
                None if self.is_too_long => return Poll::Ready(Inbound::TooLarge),
                None => {}
            }
            let (bytes, ruler) = (&mut self.bytes, &mut self.ruler);
            let took = read(&mut *self.pipe.borrow_mut(), cx, |read| {
                bytes.extend_from_slice(read);
                (read.len(), ruler.fits(read))
            });
            match ready!(took) {
                Ok((0, _)) => return Poll::Ready(Inbound::Gone),
                Ok((_, fits)) => self.is_too_long = !fits,
                Err(error) => {
                    tracing::trace!(%error, "a socket broke");
                    return Poll::Ready(Inbound::Gone);
                }
            }
        }
    }

    /// The next message of what has come, if it is whole.
    fn decode(&mut self) -> Option<Inbound> {
        while !self.bytes.is_empty() {
            let frame = match self.codec.decode(&mut self.bytes) {
                Ok(frame) => frame?,
                Err(error) => return Some(fault(&error)),
            };
            if self.bytes.is_empty() {
                // What is shared with the frame is let go with it.
                self.bytes = BytesMut::new();
            }
            let inbound = match frame {
                Frame::Text(bytes) => text(bytes),
                Frame::Binary(_) => Inbound::Binary,
                Frame::Ping(payload) => Inbound::Ping(payload),
                Frame::Pong(payload) => Inbound::Pong(payload),
                Frame::Close(_) => Inbound::Close,
                Frame::Continuation(item) => match self.join(item) {
                    Some(inbound) => inbound,
                    None => continue,
                },
            };
            return Some(inbound);
        }
        None
    }

    /// Adds a fragment; the codec sees to it that they come in order.
    fn join(&mut self, item: Item) -> Option<Inbound> {
        let (bytes, is_last) = match item {
            Item::FirstText(bytes) | Item::FirstBinary(bytes) if self.fragments.is_some() => (bytes, false),
            Item::FirstText(bytes) => {
                self.fragments = Some(Fragments { is_text: true, bytes: BytesMut::new() });
                (bytes, false)
            }
            Item::FirstBinary(bytes) => {
                self.fragments = Some(Fragments { is_text: false, bytes: BytesMut::new() });
                (bytes, false)
            }
            Item::Continue(bytes) => (bytes, false),
            Item::Last(bytes) => (bytes, true),
        };
        let Some(fragments) = &mut self.fragments else { return Some(Inbound::Malformed) };
        if fragments.bytes.len() + bytes.len() > self.most {
            return Some(Inbound::TooLarge);
        }
        fragments.bytes.extend_from_slice(&bytes);
        if !is_last {
            return None;
        }
        let whole = self.fragments.take()?;
        Some(if whole.is_text { text(whole.bytes.freeze()) } else { Inbound::Binary })
    }
}

fn text(bytes: Bytes) -> Inbound {
    ByteString::try_from(bytes).map_or(Inbound::NotText, Inbound::Text)
}

/// The way out.
pub struct Line {
    pipe: Pipe,
    /// Frames as they go out; empty and without memory while nothing waits.
    out: BytesMut,
    /// As many bytes of it have gone.
    sent: usize,
    /// As many frames are in it, and as many of those are messages or fragments.
    frames: usize,
    messages: usize,
    /// TLS may hold back the end of what it took.
    is_unflushed: bool,
    /// Whoever waited for room has some since the last flush.
    was_full: bool,
    is_gone: bool,
}

impl Line {
    fn new(pipe: Pipe) -> Self {
        let out = BytesMut::new();
        Self { pipe, out, sent: 0, frames: 0, messages: 0, is_unflushed: false, was_full: false, is_gone: false }
    }

    pub(super) fn has_room(&self) -> bool {
        self.frames < UNDER_WAY && self.out.len() - self.sent < UNDER_WAY_BYTES
    }

    /// Whether no message is under way. Control frames do not count: who sends pings and reads no pongs is not a slow reader of ours.
    pub(super) fn is_idle(&self) -> bool {
        self.messages == 0
    }

    fn is_all_out(&self) -> bool {
        self.out.is_empty() && !self.is_unflushed
    }

    /// Waits until something has left. Cancel-safe.
    pub(super) async fn drained(&mut self) {
        if std::mem::take(&mut self.was_full) {
            return;
        }
        poll_fn(|cx| self.poll_write(cx)).await;
    }

    /// Gives the kernel what it takes at once. Returns whether it took any.
    pub(super) fn flush(&mut self) -> bool {
        let had_room = self.has_room();
        // It is asked again with a waker by whoever waits for it.
        let wrote = self.poll_write(&mut Context::from_waker(Waker::noop())).is_ready();
        self.was_full |= !had_room && self.has_room();
        wrote
    }

    /// Ready when something has left, or the socket is no more. Waits where nothing is under way.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut wrote = false;
        while !self.is_all_out() {
            match self.poll_step(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    tracing::trace!(%error, "a socket broke");
                    (self.is_gone, self.is_unflushed, self.sent) = (true, false, self.out.len());
                }
                Poll::Pending => break,
            }
            wrote = true;
            if self.sent == self.out.len() {
                self.give_back();
            }
        }
        if wrote { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.pipe.borrow_mut();
        let pipe = Pin::new(&mut *pipe);
        if self.out.is_empty() {
            ready!(pipe.poll_flush(cx))?;
            self.is_unflushed = false;
            return Poll::Ready(Ok(()));
        }
        match ready!(pipe.poll_write(cx, &self.out[self.sent..]))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => self.sent += written,
        }
        self.is_unflushed = true;
        Poll::Ready(Ok(()))
    }

    /// The buffer serves the next socket that has something to say.
    fn give_back(&mut self) {
        (self.sent, self.frames, self.messages) = (0, 0, 0);
        let mut out = std::mem::take(&mut self.out);
        if out.capacity() <= SPARE_BYTES {
            out.clear();
            SPARE.set(out);
        }
    }

    fn put(&mut self, payload: &[u8], code: OpCode, is_last: bool) -> Taken {
        if self.is_gone {
            return Taken::Gone;
        }
        if self.out.is_empty() {
            self.out = SPARE.take();
        }
        Parser::write_message(&mut self.out, payload, code, is_last, false);
        self.frames += 1;
        Taken::Yes
    }

    pub(super) fn send(&mut self, part: Part) -> Taken {
        let (code, is_last) = match part {
            Part::Whole(_) => (OpCode::Text, true),
            Part::First(_) => (OpCode::Text, false),
            Part::Next(_) => (OpCode::Continue, false),
            Part::Last(_) => (OpCode::Continue, true),
        };
        let taken = self.put(part.payload(), code, is_last);
        self.messages += usize::from(taken == Taken::Yes);
        taken
    }

    pub(super) fn ping(&mut self, payload: &[u8]) -> Taken {
        self.put(payload, OpCode::Ping, true)
    }

    pub(super) fn pong(&mut self, payload: &[u8]) -> Taken {
        self.put(payload, OpCode::Pong, true)
    }

    pub(super) async fn close(mut self, code: u16, description: &str) {
        let reason = CloseReason { code: CloseCode::from(code), description: Some(description.to_owned()) };
        if self.out.is_empty() {
            self.out = SPARE.take();
        }
        Parser::write_close(&mut self.out, Some(reason), false);
        let is_out = timeout(CLOSE_WAIT, self.all_out()).await.is_ok();
        // The other side may read it later.
        actix_web::rt::spawn(async move {
            if is_out || timeout(LAST_WORD, self.all_out()).await.is_ok() {
                linger(self.pipe).await;
            }
        });
    }

    async fn all_out(&mut self) {
        while !self.is_all_out() {
            self.drained().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const MOST: usize = 1_000;

    fn pair(bytes: usize) -> (Receiver, Line, DuplexStream) {
        let (here, there) = duplex(bytes);
        let pipe: Pipe = Rc::new(RefCell::new(here));
        (Receiver::new(pipe.clone(), Bytes::new(), MOST), Line::new(pipe), there)
    }

    /// A frame as clients send them.
    fn masked(payload: &str, code: OpCode, is_last: bool) -> BytesMut {
        let mut bytes = BytesMut::new();
        Parser::write_message(&mut bytes, payload, code, is_last, true);
        bytes
    }

    fn words(inbound: Inbound) -> String {
        match inbound {
            Inbound::Text(text) => text.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn frames_and_fragments_are_read_however_their_bytes_are_cut() {
        let frames = [
            masked("one", OpCode::Text, true),
            masked("tw", OpCode::Text, false),
            masked("p", OpCode::Ping, true),
            masked("", OpCode::Continue, false),
            masked("o", OpCode::Continue, true),
            masked(&"é".repeat(MOST / 2), OpCode::Text, true),
            masked("b", OpCode::Binary, true),
        ]
        .concat();
        for step in [1, 2, 5, 13, frames.len()] {
            let (mut receiver, _line, mut there) = pair(4_096);
            let send = async {
                for piece in frames.chunks(step) {
                    there.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                drop(there);
            };
            let take = async {
                let mut heard = Vec::new();
                loop {
                    match receiver.receive().await {
                        Inbound::Gone => return heard,
                        other => heard.push(words(other)),
                    }
                }
            };
            let ((), heard) = tokio::join!(send, take);
            assert_eq!(heard, ["one", "Ping(b\"p\")", "two", &"é".repeat(MOST / 2), "Binary"], "{step}");
            assert_eq!(receiver.bytes.capacity(), 0, "nothing is kept of what was read");
        }
    }

    #[tokio::test]
    async fn what_is_too_long_is_so_as_a_frame_by_its_header_and_as_a_sum_of_fragments() {
        let (mut receiver, _line, mut there) = pair(4_096);
        there.write_all(&masked(&"x".repeat(MOST + 1), OpCode::Text, true)[..8]).await.unwrap();
        assert_eq!(words(receiver.receive().await), "TooLarge");

        let (mut receiver, _line, mut there) = pair(4_096);
        for (code, part) in [(OpCode::Text, MOST), (OpCode::Continue, 1)] {
            there.write_all(&masked(&"x".repeat(part), code, false)).await.unwrap();
        }
        assert_eq!(words(receiver.receive().await), "TooLarge");
    }

    #[tokio::test]
    async fn bytes_that_came_with_the_handshake_are_the_first_frames() {
        let (here, _there) = duplex(64);
        let mut receiver =
            Receiver::new(Rc::new(RefCell::new(here)), masked("early", OpCode::Text, true).freeze(), MOST);
        assert_eq!(words(receiver.receive().await), "early");
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_waits_and_goes_in_order() {
        let (_receiver, mut line, mut there) = pair(100);
        let texts: Vec<String> = (0..UNDER_WAY).map(|n| format!("{n:0>60}")).collect();
        for text in &texts {
            assert!(line.has_room());
            assert_eq!(line.send(Part::Whole(Bytes::from(text.clone()))), Taken::Yes);
        }
        assert!(!line.has_room() && line.flush() && !line.is_idle(), "some has gone, and not all");
        let read = async {
            let mut bytes = Vec::new();
            let wanted: usize = texts.iter().map(|text| text.len() + 2).sum();
            while bytes.len() < wanted {
                there.read_buf(&mut bytes).await.unwrap();
            }
            bytes
        };
        let ((), bytes) = tokio::join!(line.all_out(), read);
        let expected: Vec<u8> = texts.iter().flat_map(|text| [&[0x81, 60][..], text.as_bytes()].concat()).collect();
        assert_eq!(bytes, expected);
        assert!(line.is_idle() && line.has_room() && line.out.capacity() == 0, "the buffer is given back");
    }

    #[tokio::test]
    async fn room_that_a_flush_makes_is_told_to_who_waits_for_it() {
        let (_receiver, mut line, _there) = pair(1 << 20);
        for _ in 0..UNDER_WAY {
            line.send(Part::Whole(Bytes::from_static(b"x")));
        }
        assert!(line.flush() && line.is_idle());
        timeout(LINGER, line.drained()).await.expect("there had been no room, and now there is");
        assert!(timeout(Duration::from_millis(20), line.drained()).await.is_err(), "once");
    }

    #[tokio::test]
    async fn who_is_gone_is_known_by_the_next_that_is_sent() {
        let (_receiver, mut line, there) = pair(64);
        drop(there);
        line.send(Part::Whole(Bytes::from_static(b"x")));
        line.flush();
        assert_eq!(line.send(Part::Whole(Bytes::from_static(b"y"))), Taken::Gone);
        assert!(line.is_idle());
    }
}
