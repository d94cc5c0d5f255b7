//! How sockets end.

use crate::{core::Out, domain::member::Reason, doors::cut};

/// A control frame has 125 bytes, of which the code takes two.
const REASON_BYTES: usize = 123;

/// Close codes, with what they are called in the metrics and the sentence that the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::doors) enum Close {
    Bye,
    Malformed,
    Binary,
    NotText,
    TooLarge,
    Restart,
    NoHello,
    TokenExpired,
    TooSlow,
    NotJson,
    Unauthorized,
    Replaced,
    Kicked,
    Banned,
    TooMany,
    /// The other side closed, without a goodbye of the protocol: a reload looks the same.
    Closed,
    /// Nobody is there to be told.
    Gone,
    Silent,
}

impl From<Out> for Close {
    fn from(out: Out) -> Self {
        match out {
            Out::Kicked => Self::Kicked,
            Out::Banned => Self::Banned,
            Out::Revoked => Self::Unauthorized,
        }
    }
}

impl Close {
    pub(super) const ALL: [Self; 18] = [
        Self::Bye,
        Self::Malformed,
        Self::Binary,
        Self::NotText,
        Self::TooLarge,
        Self::Restart,
        Self::NoHello,
        Self::TokenExpired,
        Self::TooSlow,
        Self::NotJson,
        Self::Unauthorized,
        Self::Replaced,
        Self::Kicked,
        Self::Banned,
        Self::TooMany,
        Self::Closed,
        Self::Gone,
        Self::Silent,
    ];

    /// The code, the name in the metrics, and the sentence.
    pub(in crate::doors) fn parts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Bye => (1000, "bye", "goodbye"),
            Self::Malformed => (1002, "malformed", "not a WebSocket frame"),
            Self::Binary => (1003, "binary", "frames are text"),
            Self::NotText => (1007, "not_text", "text frames are UTF-8"),
            Self::TooLarge => (1009, "too_large", "the frame is longer than limits.frame_bytes"),
            Self::Restart => (1012, "restart", "the instance restarts; come back"),
            Self::NoHello => (4001, "no_hello", "say hello first"),
            Self::TokenExpired => (4003, "token_expired", "come back with a fresh token"),
            Self::TooSlow => (4008, "too_slow", "nothing was read for too long"),
            Self::NotJson => (4500, "not_json", "frames are JSON objects"),
            Self::Unauthorized => (4501, "unauthorized", "the token does not hold"),
            Self::Replaced => (4502, "replaced", "another socket has this connection; say hello without resume"),
            Self::Kicked => (4503, "kicked", "you were put out"),
            Self::Banned => (4504, "banned", "you are banned"),
            Self::TooMany => (4505, "too_many_connections", "you have as many connections as you may have"),
            Self::Closed => (1000, "closed", ""),
            Self::Gone => (1006, "gone", ""),
            Self::Silent => (1001, "silent", "no answer to pings"),
        }
    }

    /// The sentence for a client that somebody has put out, from what that somebody said: as much as a close frame holds, in whole characters.
    pub(in crate::doors) fn said(said: &str) -> &str {
        cut(said, REASON_BYTES)
    }

    /// How the session ends with the socket: with a reason at once, or, without one, after its grace.
    pub(in crate::doors) fn reason(self) -> Option<Reason> {
        match self {
            Self::Bye => Some(Reason::Left),
            Self::TokenExpired => Some(Reason::Expired),
            // Of a session: its token was revoked.
            Self::Kicked | Self::Banned | Self::Unauthorized => Some(Reason::Kicked),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_at_the_end_fits_a_close_frame_in_whole_characters() {
        assert_eq!(Close::said("enough"), "enough");
        assert_eq!(Close::said(&"a".repeat(200)).len(), 123);
        assert_eq!(Close::said(&"\u{1f600}".repeat(50)).len(), 120);
        assert!(Close::ALL.iter().all(|close| close.parts().2.len() <= REASON_BYTES));
    }
}
