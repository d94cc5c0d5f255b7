//! Names in paths, percent-decoded exactly once.
//!
//! The framework's own parameters are decoded in part and lossily, so names are read from the path as it was sent. Both have their
//! slashes at the same places: an encoded slash stays encoded until here.

use std::{
    borrow::Cow,
    future::{Ready, ready},
};

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use percent_encoding::percent_decode_str;

use crate::{
    domain::name::{ChannelName, UserName},
    doors::problem::Problem,
};

/// Where the channel stands in `/v1/channels/{channel}/…`, and the user in `/v1/users/{user}`, counted by slashes.
const FIRST: usize = 3;
/// Where the user stands in `/v1/channels/{channel}/members/{user}`.
const SECOND: usize = 5;

/// The channel of `/v1/channels/{channel}/…`.
pub struct Channel(pub ChannelName);

/// The user of `/v1/users/{user}`.
pub struct User(pub UserName);

/// Both of `/v1/channels/{channel}/members/{user}`.
pub struct Seat(pub ChannelName, pub UserName);

/// Both of `/v1/users/{user}/channels/{channel}`.
pub struct Place(pub UserName, pub ChannelName);

fn segment(req: &HttpRequest, at: usize) -> Result<Cow<'_, str>, Problem> {
    let raw = req.uri().path().split('/').nth(at).unwrap_or_default();
    decode(raw).ok_or_else(|| {
        Problem::bad_request("a name in the path is percent-encoded UTF-8: `%` is followed by two hexadecimal digits")
    })
}

/// Decodes what is percent-encoded; none where an escape is broken or the bytes are not UTF-8.
pub(super) fn decode(raw: &str) -> Option<Cow<'_, str>> {
    let is_escape = |rest: &str| rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    if !raw.split('%').skip(1).all(is_escape) {
        return None;
    }
    percent_decode_str(raw).decode_utf8().ok()
}

fn channel(req: &HttpRequest, at: usize) -> Result<ChannelName, Problem> {
    ChannelName::parse(&segment(req, at)?).map_err(|why| Problem::bad_request(format!("the channel: {why}")))
}

fn user(req: &HttpRequest, at: usize) -> Result<UserName, Problem> {
    UserName::parse(&segment(req, at)?).map_err(|why| Problem::bad_request(format!("the user: {why}")))
}

macro_rules! from_path {
    ($type:ty, $read:expr) => {
        impl FromRequest for $type {
            type Error = Problem;
            type Future = Ready<Result<Self, Problem>>;

            fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
                let read: fn(&HttpRequest) -> Result<Self, Problem> = $read;
                ready(read(req))
            }
        }
    };
}

from_path!(Place, |req| Ok(Place(user(req, FIRST)?, channel(req, SECOND)?)));
from_path!(Channel, |req| channel(req, FIRST).map(Channel));
from_path!(User, |req| user(req, FIRST).map(User));
from_path!(Seat, |req| Ok(Seat(channel(req, FIRST)?, user(req, SECOND)?)));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_once() {
        for (raw, name) in [
            ("room:1", "room:1"),
            ("a%2Fb", "a/b"),
            ("a%252Fb", "a%2Fb"),
            ("%F0%9F%98%80", "😀"),
            ("{x}", "{x}"),
            ("100%25", "100%"),
            ("a+b", "a+b"),
            ("%00", "\0"),
        ] {
            assert_eq!(decode(raw).as_deref(), Some(name), "{raw}");
        }
        for raw in ["%", "a%2", "%zz", "%%41", "%ff", "%C3", "%+1", "%é"] {
            assert_eq!(decode(raw), None, "{raw}");
        }
    }
}
