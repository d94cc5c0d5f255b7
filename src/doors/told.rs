//! What is told beside the changes of a channel: how users are.

use bytes::Bytes;
use serde::Serialize;

use super::wire::UserStatusShape;
use crate::{
    core::{Part, Seen, UsersFrame},
    domain::name::UserName,
};

/// How some users are. Each user is encoded once, whoever is told.
pub fn users(frame: &UsersFrame) -> Bytes {
    let mut text = Vec::with_capacity(64 + frame.seen.iter().map(|seen| seen.bytes()).sum::<usize>());
    text.extend_from_slice(br#"{"event":"users","#);
    if frame.part.is_some() {
        text.extend_from_slice(br#""all_users":true,"#);
    }
    text.extend_from_slice(br#""users":["#);
    for (at, seen) in frame.seen.iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        text.extend_from_slice(entry(seen));
    }
    text.push(b']');
    if let Some(Part { more, cause }) = frame.part {
        text.extend_from_slice(format!(",\"more\":{more}").as_bytes());
        if let Some(cause) = cause {
            text.extend_from_slice(format!(",\"cause\":\"{}\"", cause.as_str()).as_bytes());
        }
    }
    text.extend_from_slice(format!(",\"time\":{}}}", frame.time).as_bytes());
    text.into()
}

fn entry(seen: &Seen) -> &[u8] {
    #[derive(Serialize)]
    struct Shape<'a> {
        user: &'a UserName,
        #[serde(flatten)]
        status: UserStatusShape<'a>,
    }
    let encode = || {
        let shape = Shape { user: &seen.user, status: (&seen.view).into() };
        vec![serde_json::to_vec(&shape).expect("a user is JSON").into()]
    };
    seen.encoded.get(encode).first().expect("one is encoded")
}
