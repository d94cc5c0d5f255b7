//! One socket of a crowd: a handshake, then frames. It keeps no buffer while nothing is under way.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
};

use mio::{Interest, Registry, Token, net::TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use crate::frame::{self, Head};

/// A key, and what a server makes of it. That it is always the same harms nobody here.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What came.
pub enum Heard<'a> {
    /// The socket is open for messages.
    Open,
    /// A whole message.
    Text(&'a [u8]),
    /// The end, with its code; 1006 where there was none.
    Closed(u16),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was asked yet.
    Connecting,
    /// Asked to become a WebSocket, and not answered.
    Asked,
    Open,
    Closed,
}

/// A socket to a server.
pub struct Connection {
    socket: TcpStream,
    phase: Phase,
    /// The beginning of what has not come whole.
    unread: Vec<u8>,
    /// The fragments of a message so far.
    fragments: Vec<u8>,
    /// What the socket did not take.
    unsent: Vec<u8>,
    /// The code of a close frame.
    code: u16,
}

impl Connection {
    /// Begins to connect from this address. With `bare` there is no handshake: frames come as they are.
    pub fn begin(registry: &Registry, token: Token, from: IpAddr, to: SocketAddr, bare: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // Closed sockets would keep their ports for a minute otherwise, and there are many.
        socket.set_linger(Some(std::time::Duration::ZERO))?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        match socket.connect(&to.into()) {
            Ok(()) => {}
            // It goes on by itself.
            Err(error) if error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(115) => {}
            Err(error) => return Err(error),
        }
        let mut socket = TcpStream::from_std(socket.into());
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let phase = if bare { Phase::Open } else { Phase::Connecting };
        let nothing = Vec::new;
        Ok(Self { socket, phase, unread: nothing(), fragments: nothing(), unsent: nothing(), code: 1006 })
    }

    /// Sends a text, as soon as the socket takes it.
    pub fn send(&mut self, text: &str) {
        assert!(self.phase == Phase::Open, "only an open socket is spoken to");
        frame::put(&mut self.unsent, frame::TEXT, text.as_bytes());
        self.flush();
    }

    /// The socket may take more.
    pub fn flush(&mut self) {
        if self.phase == Phase::Connecting {
            let Ok(to) = self.socket.peer_addr() else { return };
            self.phase = Phase::Asked;
            let ask = format!(
                "GET /v1/ws HTTP/1.1\r\nHost: {to}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: rollcall.v1\r\n\r\n"
            );
            self.unsent.extend(ask.into_bytes());
        }
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A broken socket says so to the reader as well.
                Err(_) => return,
            }
        }
        self.unsent = Vec::new();
    }

    /// Reads what is there. `ends` says that the other side has closed, so that one must read to the end.
    pub fn read(&mut self, buffer: &mut [u8], ends: bool, heard: &mut impl FnMut(Heard<'_>)) {
        while self.phase != Phase::Closed {
            match self.socket.read(buffer) {
                Ok(0) => self.close(heard),
                Ok(count) => {
                    self.take(&buffer[..count], heard);
                    // What did not fill the buffer was all there is: asking again would cost another call.
                    if count < buffer.len() && !ends {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return,
                Err(_) => self.close(heard),
            }
        }
    }

    fn close(&mut self, heard: &mut impl FnMut(Heard<'_>)) {
        self.phase = Phase::Closed;
        heard(Heard::Closed(self.code));
    }

    fn take(&mut self, bytes: &[u8], heard: &mut impl FnMut(Heard<'_>)) {
        if self.unread.is_empty() {
            let used = self.frames(bytes, heard);
            self.unread.extend(&bytes[used..]);
        } else {
            let mut all = std::mem::take(&mut self.unread);
            all.extend(bytes);
            let used = self.frames(&all, heard);
            if used < all.len() {
                all.drain(..used);
                self.unread = all;
            }
        }
    }

    /// Hands on all that is whole, and says how many bytes that were.
    fn frames(&mut self, bytes: &[u8], heard: &mut impl FnMut(Heard<'_>)) -> usize {
        let mut at = 0;
        if self.phase == Phase::Asked {
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return 0 };
            let head = String::from_utf8_lossy(&bytes[..end]);
            assert!(head.starts_with("HTTP/1.1 101") && head.contains(ACCEPT), "no WebSocket: {head}");
            self.phase = Phase::Open;
            at = end + 4;
            heard(Heard::Open);
        }
        while let Some(head) = Head::read(&bytes[at..]) {
            let payload = &bytes[at + head.head..at + head.head + head.payload];
            at += head.head + head.payload;
            match head.code {
                frame::TEXT if head.last => heard(Heard::Text(payload)),
                frame::TEXT => self.fragments = payload.to_vec(),
                frame::CONTINUATION => {
                    self.fragments.extend(payload);
                    if head.last {
                        heard(Heard::Text(&std::mem::take(&mut self.fragments)));
                    }
                }
                frame::PING => {
                    frame::put(&mut self.unsent, frame::PONG, payload);
                    self.flush();
                }
                frame::CLOSE => {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    self.code = code;
                }
                other => panic!("a frame of the kind {other}"),
            }
        }
        at
    }
}
