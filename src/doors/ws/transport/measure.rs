//! Measures frames as their bytes arrive.
//!
//! The library holds a frame's length against the limit when the whole frame is there, and keeps what has come until then: a header that
//! promises a gigabyte would be believed. Here the length is read out of the header, before anything is kept.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{dev::Payload, error::PayloadError};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

/// The bytes of the longest header: two, a length of eight, and a mask of four.
const HEADER: usize = 14;

/// Passes bytes on until a header promises too much.
pub struct Measured {
    payload: Payload,
    ruler: Ruler,
}

impl Measured {
    /// Refuses frames of more than `most` bytes.
    pub fn new(payload: Payload, most: usize) -> Self {
        Self { payload, ruler: Ruler::new(most) }
    }
}

impl Stream for Measured {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.payload.poll_next_unpin(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &next
            && !self.ruler.fits(bytes)
        {
            return Poll::Ready(Some(Err(PayloadError::Overflow)));
        }
        next
    }
}

/// Where in the frames the bytes are (RFC 6455, section 5.2).
pub(super) struct Ruler {
    most: u64,
    header: [u8; HEADER],
    /// As many bytes of a header have come.
    has: usize,
    /// As many bytes of a payload are to come.
    left: u64,
}

impl Ruler {
    pub(super) fn new(most: usize) -> Self {
        Self { most: most as u64, header: [0; HEADER], has: 0, left: 0 }
    }

    /// False when a frame among these bytes is longer than it may be.
    pub(super) fn fits(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            let skipped = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= skipped as u64;
            bytes = &bytes[skipped..];
            let Some((&byte, rest)) = bytes.split_first() else { return true };
            self.header[self.has] = byte;
            self.has += 1;
            bytes = rest;
            if self.has == self.header_length() {
                self.left = self.payload_length();
                self.has = 0;
                if self.left > self.most {
                    return false;
                }
            }
        }
    }

    fn header_length(&self) -> usize {
        if self.has < 2 {
            return 2;
        }
        let length = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.header[1] & 0x80 == 0 { 0 } else { 4 }
    }

    fn payload_length(&self) -> u64 {
        let long =
            |range: std::ops::Range<usize>| self.header[range].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        match self.header[1] & 0x7f {
            126 => long(2..4),
            127 => long(2..10),
            short => u64::from(short),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize) -> Vec<u8> {
        let mut frame = vec![0x81];
        match length {
            0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
            126..65536 => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        frame.extend(vec![0xff; length]);
        frame
    }

    #[test]
    fn frames_are_measured_however_their_bytes_are_cut() {
        let fitting: Vec<u8> = [0, 1, 125, 126, 127, 1000, 70_000].into_iter().flat_map(frame).collect();
        for step in [1, 2, 3, 7, 1000, fitting.len()] {
            let mut ruler = Ruler::new(70_000);
            assert!(fitting.chunks(step).all(|chunk| ruler.fits(chunk)), "{step}");
            let long = frame(70_001);
            assert!(!long[..14].chunks(step).all(|chunk| ruler.fits(chunk)), "{step}: the header alone says it");
        }
    }

    #[test]
    fn the_greatest_length_is_just_too_long() {
        let mut header = vec![0x81, 0xff];
        header.extend([0xff; 8]);
        header.extend([0; 4]);
        assert!(!Ruler::new(1 << 20).fits(&header));
    }
}
