//! WebSocket frames as bytes: what a client sends, masked, and what a server sends, not masked.

/// A text.
pub const TEXT: u8 = 1;
/// The rest of a message that came in fragments.
pub const CONTINUATION: u8 = 0;
/// The end of the socket.
pub const CLOSE: u8 = 8;
/// A question whether somebody is there.
pub const PING: u8 = 9;
/// The answer to a ping.
pub const PONG: u8 = 10;

/// Any mask will do between two processes of one machine; it is not zero, so that the server has its work.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What stands before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Whether the message ends with this frame.
    pub last: bool,
    /// What kind of frame it is.
    pub code: u8,
    /// How many bytes the head has.
    pub head: usize,
    /// How many bytes the payload has.
    pub payload: usize,
}

impl Head {
    /// Reads the head of a frame of a server. `None` while head and payload are not all there.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        assert!(
            second & 0x80 == 0 && first & 0x70 == 0,
            "a server neither masks nor uses reserved bits: {first} {second}"
        );
        let (head, payload) = match second {
            126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().expect("two bytes")))),
            127 => {
                let length = u64::from_be_bytes(bytes.get(2..10)?.try_into().expect("eight bytes"));
                (10, usize::try_from(length).expect("a frame fits into memory"))
            }
            short => (2, usize::from(short)),
        };
        (bytes.len() >= head + payload).then_some(Self { last: first & 0x80 != 0, code: first & 0x0f, head, payload })
    }
}

/// Appends a whole masked frame, as clients send it.
pub fn put(out: &mut Vec<u8>, code: u8, payload: &[u8]) {
    out.push(0x80 | code);
    put_length(out, payload.len(), 0x80);
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// A whole frame that is not masked, as servers send it.
pub fn of_a_server(code: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | code];
    put_length(&mut out, payload.len(), 0);
    out.extend(payload);
    out
}

fn put_length(out: &mut Vec<u8>, length: usize, masked: u8) {
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => out.push(masked | short),
        (_, Ok(middle)) => {
            out.push(masked | 126);
            out.extend(middle.to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_when_its_last_byte_is_there_and_not_before() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
            let frame = of_a_server(TEXT, &vec![b'x'; length]);
            let head = Head::read(&frame).expect("it is whole");
            assert_eq!(
                (head.last, head.code, head.payload, head.head + head.payload),
                (true, TEXT, length, frame.len())
            );
            assert_eq!(Head::read(&frame[..frame.len() - 1]), None, "{length}");
        }
    }

    #[test]
    fn what_a_client_sends_is_masked_and_says_its_length() {
        let mut out = Vec::new();
        put(&mut out, TEXT, b"hello");
        assert_eq!(out[..2], [0x81, 0x85]);
        let text: Vec<u8> = out[6..].iter().zip(MASK).map(|(byte, mask)| byte ^ mask).take(4).collect();
        assert_eq!(text, b"hell");
    }
}
