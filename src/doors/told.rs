//! What is told beside the changes of a channel: how users are, and which channels a pattern means.

use bytes::Bytes;
use serde::Serialize;

use super::wire::UserStatusShape;
use crate::{
    core::{Cause, Channels, Part, Seen, UsersFrame},
    domain::{
        member::Occupancy,
        name::{ChannelName, UserName},
        pattern::Pattern,
        version::Epoch,
    },
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

/// A page of channels closes when it has this many bytes.
const PAGE_BYTES: usize = 8 * 1024;

/// The occupied channels of a pattern, in pages.
pub fn channels(pattern: &Pattern, channels: &Channels, cause: Option<Cause>) -> Vec<Bytes> {
    #[derive(Serialize)]
    struct Entry<'a> {
        channel: &'a ChannelName,
        epoch: &'a Epoch,
        version: u64,
        occupancy: Occupancy,
    }
    #[derive(Serialize)]
    struct Shape<'a> {
        event: &'static str,
        pattern: &'a Pattern,
        channels: &'a [Entry<'a>],
        more: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<&'static str>,
        time: u64,
    }
    let entries: Vec<Entry<'_>> = channels
        .channels
        .iter()
        .map(|(channel, version, occupancy)| Entry {
            channel,
            epoch: &version.epoch,
            version: version.number,
            occupancy: *occupancy,
        })
        .collect();
    let time = channels.time;
    let page = |channels: &[Entry<'_>], more| {
        let cause = cause.map(Cause::as_str);
        let shape = Shape { event: "channels", pattern, channels, more, cause, time };
        serde_json::to_vec(&shape).expect("channels are JSON").into()
    };
    let (mut pages, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, entry) in entries.iter().enumerate() {
        // What stands around a name is about as long each time.
        bytes += entry.channel.as_str().len() + entry.epoch.as_str().len() + 90;
        if at > start && bytes > PAGE_BYTES {
            pages.push(page(&entries[start..at], true));
            (start, bytes) = (at, 0);
        }
    }
    pages.push(page(&entries[start..], false));
    pages
}

/// The watch over a pattern has ended.
pub fn unwatched(pattern: &Pattern) -> Bytes {
    let shape = serde_json::json!({ "event": "unwatched", "pattern": pattern, "reason": "limit" });
    shape.to_string().into()
}
