//! A socket that sends whatever bytes it is told to.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout_at},
};

use crate::harness::{Instance, token};

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const PING: u8 = 9;
const CLOSE: u8 = 8;
const FIN: u8 = 0x80;
const PATIENCE: Duration = Duration::from_secs(15);

/// How a socket ended: the close code; none where the connection just ended.
#[derive(Debug)]
pub struct End {
    pub code: Option<u16>,
}

/// A connection to the port, upgraded or not.
pub struct Raw(pub TcpStream);

impl Raw {
    /// An upgraded socket; nothing has been said.
    pub async fn open(at: &Instance) -> Self {
        // The kernel takes little for one who does not read, so that it soon shows.
        let socket = TcpSocket::new_v4().expect("there are sockets");
        socket.set_recv_buffer_size(16 * 1024).expect("a buffer may be small");
        let address = ([127, 0, 0, 1], at.port()).into();
        let mut socket = Self(socket.connect(address).await.expect("the port is open"));
        socket.0.set_nodelay(true).expect("small frames may go at once");
        let answer = socket.ask(&upgrade(at, &[])).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        socket
    }

    /// An upgraded socket that has said hello and read the answer.
    pub async fn hello_as(at: &Instance, user: &str) -> Self {
        let mut socket = Self::open(at).await;
        let hello = serde_json::json!({"id": 1, "op": "hello", "token": token(user, serde_json::json!({}))});
        socket.text(&hello.to_string()).await;
        let welcome = socket.next_text().await;
        assert!(welcome.get("ok").is_some(), "{welcome}");
        socket
    }

    /// Sends a request and reads the head of the answer.
    pub async fn ask(&mut self, request: &str) -> String {
        self.send(request.as_bytes()).await;
        let mut head = Vec::new();
        let end = Instant::now() + PATIENCE;
        while !head.ends_with(b"\r\n\r\n") {
            match timeout_at(end, self.0.read_u8()).await.expect("an answer comes in time") {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8_lossy(&head).into_owned()
    }

    /// Sends bytes. A server that has heard enough may be gone: then this does nothing.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }

    /// A text message.
    pub async fn text(&mut self, text: &str) -> bool {
        self.send(&frame(FIN | TEXT, text.as_bytes())).await
    }

    /// One frame of any kind; the first byte is flags and kind.
    pub async fn frame(&mut self, first: u8, payload: &[u8]) -> bool {
        self.send(&frame(first, payload)).await
    }

    async fn read_frame(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let first = self.0.read_u8().await?;
        let length = match self.0.read_u8().await? {
            126 => u64::from(self.0.read_u16().await?),
            127 => self.0.read_u64().await?,
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).expect("a frame fits in memory")];
        self.0.read_exact(&mut payload).await?;
        Ok((first & 0x0f, payload))
    }

    /// The next text; fails the test if the socket ends first.
    pub async fn next_text(&mut self) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let (kind, payload) =
                timeout_at(end, self.read_frame()).await.expect("a text comes in time").expect("open");
            if kind == TEXT {
                return serde_json::from_slice(&payload).expect("frames are JSON");
            }
            assert_ne!(kind, CLOSE, "closed: {payload:?}");
        }
    }

    /// Reads to the end of the socket, which must come in time.
    pub async fn end(mut self) -> End {
        let end = Instant::now() + PATIENCE;
        loop {
            match timeout_at(end, self.read_frame()).await.expect("the socket ends in time") {
                Ok((CLOSE, payload)) => {
                    let code = payload.get(..2).map(|two| u16::from_be_bytes([two[0], two[1]]));
                    return End { code };
                }
                Ok(_) => {}
                Err(_) => return End { code: None },
            }
        }
    }
}

/// A handshake that is right but for what `headers` says otherwise; an empty value takes a header away.
pub fn upgrade(at: &Instance, headers: &[(&str, &str)]) -> String {
    let host = format!("127.0.0.1:{}", at.port());
    let mut all = vec![
        ("Host", host.as_str()),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", "rollcall.v1"),
    ];
    for (name, value) in headers {
        all.retain(|(other, _)| other != name);
        all.push((name, value));
    }
    let lines: String =
        all.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET /v1/ws HTTP/1.1\r\n{lines}\r\n")
}

/// A masked frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    let mask = [0x1b, 0xad, 0xf0, 0x0d];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The header of a masked frame, without its mask.
pub fn header(first: u8, length: u64) -> Vec<u8> {
    let mut header = vec![first];
    match u16::try_from(length) {
        Ok(length @ 0..126) => header.push(0x80 | u8::try_from(length).expect("below 126")),
        Ok(length) => {
            header.push(0x80 | 126);
            header.extend(length.to_be_bytes());
        }
        Err(_) => {
            header.push(0x80 | 127);
            header.extend(length.to_be_bytes());
        }
    }
    header
}
