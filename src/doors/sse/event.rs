//! Events as a stream carries them (the HTML standard, section 9.2).

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::json;

use crate::domain::{
    mode::Mode,
    version::{Epoch, Version},
};

/// A shorter frame is copied into one piece with what stands around it; a longer one is shared with all who are sent it.
const COPIED: usize = 1024;

/// What stands in a frame about where its reader is afterwards.
#[derive(Deserialize)]
struct Place<'a> {
    epoch: Option<&'a str>,
    /// Of a snapshot.
    version: Option<u64>,
    /// Of a delta.
    to: Option<u64>,
    #[serde(default)]
    more: bool,
    #[serde(default)]
    mode: Mode,
}

/// The id of an event: where its reader is afterwards. A page of a snapshot that others follow has none: whoever comes back after it begins anew. Where the
/// channel is too large for a list it is empty, by which the browser forgets the one before: there is nothing to go on from where there is a list again.
fn id_of(frame: &[u8]) -> Option<String> {
    let place: Place = serde_json::from_slice(frame).ok()?;
    if !place.mode.has_lists() {
        return Some(String::new());
    }
    let number = place.to.or(place.version).filter(|_| !place.more)?;
    Some(format!("{}:{number}", place.epoch?))
}

/// Reads back the id of an event.
pub fn parse_id(id: &str) -> Option<Version> {
    let (epoch, number) = id.rsplit_once(':')?;
    let is_epoch = !epoch.is_empty() && epoch.len() <= 64 && epoch.bytes().all(|byte| byte.is_ascii_graphic());
    let number = number.parse().ok()?;
    is_epoch.then(|| Version { epoch: Epoch::new(epoch), number })
}

/// A frame of the native protocol as an event, with an id where the stream can be gone on with.
pub fn event(frame: Bytes, has_id: bool) -> [Bytes; 3] {
    let id = if has_id { id_of(&frame) } else { None };
    let head = id.map_or_else(|| "data: ".to_owned(), |id| format!("id: {id}\ndata: "));
    let end = Bytes::from_static(b"\n\n");
    if frame.len() > COPIED {
        return [head.into(), frame, end];
    }
    let mut whole = BytesMut::with_capacity(head.len() + frame.len() + end.len());
    whole.put_slice(head.as_bytes());
    whole.put_slice(&frame);
    whole.put_slice(&end);
    [whole.freeze(), Bytes::new(), Bytes::new()]
}

/// After how long a browser comes back when the stream breaks. Nothing else, so that the answer begins at once.
pub fn retry(after_ms: u64) -> Bytes {
    format!(": rollcall\nretry: {after_ms}\n\n").into()
}

/// The instance stops: come back after this. The browser does so by itself.
pub fn reconnect(after_ms: u64) -> Bytes {
    let frame = json!({"event": "reconnect", "after_ms": after_ms});
    format!("retry: {after_ms}\ndata: {frame}\n\n").into()
}

/// The stream ends, as a socket would with this code.
pub fn closed(code: u16, message: &str) -> Bytes {
    format!("data: {}\n\n", json!({"event": "closed", "code": code, "message": message})).into()
}

/// What is no event: it shows both sides, and all between, that the other is there.
pub const ALIVE: Bytes = Bytes::from_static(b":\n\n");

#[cfg(test)]
mod tests {
    use super::*;

    fn text(frame: &str, has_id: bool) -> String {
        event(Bytes::copy_from_slice(frame.as_bytes()), has_id)
            .iter()
            .map(|part| std::str::from_utf8(part).unwrap())
            .collect()
    }

    #[test]
    fn an_id_says_where_its_reader_is_afterwards() {
        let delta =
            r#"{"event":"delta","channel":"a","epoch":"e1","from":2,"to":4,"join":[{"user":"x","to":9}],"time":1}"#;
        assert_eq!(text(delta, true), format!("id: e1:4\ndata: {delta}\n\n"));
        assert_eq!(text(delta, false), format!("data: {delta}\n\n"));
        let page = |more| format!(r#"{{"event":"snapshot","epoch":"e~1","version":7,"members":[],"more":{more}}}"#);
        assert!(text(&page(false), true).starts_with("id: e~1:7\n"));
        assert!(text(&page(true), true).starts_with("data: "));
        assert!(text(r#"{"event":"left","channel":"a"}"#, true).starts_with("data: "));
        let counted = r#"{"event":"delta","channel":"a","mode":"occupancy","epoch":"e1","from":4,"to":5,"time":1}"#;
        assert_eq!(text(counted, true), format!("id: \ndata: {counted}\n\n"), "the browser forgets where it was");
        assert_eq!(text(counted, false), format!("data: {counted}\n\n"));
        let long = format!(r#"{{"event":"delta","epoch":"e","to":1,"x":"{}"}}"#, "y".repeat(5_000));
        assert_eq!(text(&long, true), format!("id: e:1\ndata: {long}\n\n"));
    }

    #[test]
    fn an_id_is_read_back_and_what_is_none_is_not() {
        let version = parse_id("7ed4fe177bc8ea55~1:12").unwrap();
        assert_eq!((version.epoch.as_str(), version.number), ("7ed4fe177bc8ea55~1", 12));
        for id in ["", ":", "e", "e:", ":1", "e:-1", "e:1.5", "e f:1", "e\n:1", &format!("{}:1", "e".repeat(65))] {
            assert!(parse_id(id).is_none(), "{id:?}");
        }
    }
}
