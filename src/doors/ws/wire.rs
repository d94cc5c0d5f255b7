//! The native protocol's frames: what clients send, what they get. `docs/protocol.md` is the manual.

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Map, Value, value::RawValue};

use super::wanted;
use crate::{
    core::{Addressee, Aside, Cause, Code, Error, Frame, Lists, Snapshot, Typing, Whole},
    domain::{
        aside::What,
        level::Level,
        member::{Occupancy, Reason},
        mode::Mode,
        name::{ChannelName, ConnectionId, UserName},
        pattern::Pattern,
        person::Choice,
        settings::MAX_GRACE_MS,
        version::{Epoch, Version},
    },
    doors::{
        watching::Wanted,
        wire::{LeaveShape, MemberShape, check_text},
    },
};

/// The greatest id of a frame: 2^53 - 1, the greatest integer that every JSON reader keeps.
const MAX_ID: u64 = (1 << 53) - 1;
/// A page of a snapshot closes when it has this many bytes, or entries.
const PAGE_BYTES: usize = 8 * 1024;
const PAGE_ENTRIES: usize = 500;
/// As many users may be asked for at once.
pub(super) const MOST_USERS: usize = 1_000;
/// The longest name of a device, bytes.
const DEVICE_BYTES: usize = 64;

/// The most characters of a sentence that is sent: it may repeat what a stranger wrote.
const MESSAGE_CHARS: usize = 400;

/// What a client asks for.
#[derive(Debug)]
pub enum Request {
    /// The introduction.
    Hello { token: Option<String>, resume: Option<String>, device: Option<String>, present: bool },
    /// Be present in a channel.
    Join {
        channel: ChannelName,
        state: Map<String, Value>,
        watch: Option<Level>,
        grace_ms: Option<u64>,
        on_leave: Map<String, Value>,
    },
    /// Not be present any more.
    Leave { channel: ChannelName },
    /// Merge patch of the state.
    Update { channel: ChannelName, patch: Map<String, Value> },
    /// Merge patch of the user's own state.
    UserState { patch: Map<String, Value> },
    /// Be shown like this.
    Status { status: Option<Choice>, text: Option<String>, until: Option<u64> },
    /// The person is active.
    Active,
    /// The user types, or does so no more.
    Typing { addressee: Addressee, typing: bool },
    /// Tell whoever watches just now.
    Send { channel: ChannelName, data: Box<RawValue>, echo: bool },
    /// Be told about changes.
    Watch(Wanted),
    /// Not be told any more.
    Unwatch(Wanted),
    /// Ask about a channel.
    GetChannel { channel: ChannelName },
    /// Ask who is in a channel, page by page.
    GetMembers { channel: ChannelName, limit: Option<usize>, cursor: Option<String> },
    /// Ask about users.
    GetUsers { users: Vec<UserName> },
    /// A fresh token.
    Refresh { token: String },
    /// Is somebody there?
    Ping,
    /// Goodbye.
    Bye,
}

/// Why a text is no request.
#[derive(Debug)]
pub enum Fault {
    /// It is not JSON: the client does not speak the protocol.
    NotJson,
    /// It is JSON and cannot be carried out; the socket stays.
    Refused(Option<u64>, Error),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HelloShape {
    token: Option<String>,
    resume: Option<String>,
    device: Option<String>,
    #[serde(default = "yes")]
    present: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JoinShape {
    channel: Channel,
    #[serde(default)]
    state: Map<String, Value>,
    #[serde(default)]
    watch: bool,
    level: Option<Level>,
    grace_ms: Option<u64>,
    #[serde(default)]
    on_leave: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypingShape {
    channel: Option<Channel>,
    to: Option<User>,
    typing: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendShape {
    channel: Channel,
    data: Value,
    #[serde(default)]
    echo: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateShape {
    channel: Option<Channel>,
    state: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusShape {
    /// Must stand there: null means something.
    #[serde(deserialize_with = "Option::deserialize")]
    status: Option<Choice>,
    text: Option<String>,
    until: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SinceShape {
    pub(super) epoch: String,
    pub(super) version: u64,
    #[serde(default)]
    pub(super) mode: Mode,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelShape {
    channel: Channel,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetShape {
    channel: Option<Channel>,
    users: Option<Vec<UserName>>,
    #[serde(default)]
    members: bool,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshShape {
    token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NothingShape {}

/// A channel name whose refusal says which field it was.
pub(super) struct Channel(pub(super) ChannelName);

impl<'de> Deserialize<'de> for Channel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let name = ChannelName::parse(&text);
        name.map(Self).map_err(|why| serde::de::Error::custom(format!("`channel` is not a channel name: {why}")))
    }
}

/// The user to whom something goes, whose refusal says which field it was.
struct User(UserName);

impl<'de> Deserialize<'de> for User {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let name = UserName::parse(&text);
        name.map(Self).map_err(|why| serde::de::Error::custom(format!("`to` is not a user's name: {why}")))
    }
}

fn yes() -> bool {
    true
}

/// Reads a frame: the id, if it has one, and the request.
///
/// # Errors
/// [`Fault`] says whether the socket stays.
pub fn read(text: &str) -> Result<(Option<u64>, Request), Fault> {
    let refuse = |id, code, message: String| Fault::Refused(id, Error::new(code, message));
    let value: Value = serde_json::from_str(text).map_err(|error| match serde_json::from_str::<IgnoredAny>(text) {
        // JSON by its grammar, with a depth, a number or half a character that is not read here: a fault, and no reason to part.
        Ok(_) => refuse(None, Code::BadRequest, format!("the frame cannot be read: {error}")),
        Err(_) => Fault::NotJson,
    })?;
    let Value::Object(mut object) = value else {
        return Err(refuse(None, Code::BadRequest, "a frame is a JSON object with `op`".into()));
    };
    let id = match object.remove("id") {
        None => None,
        Some(id) => match id.as_u64().filter(|id| *id <= MAX_ID) {
            Some(id) => Some(id),
            None => {
                let message = format!("`id` is an integer from 0 to {MAX_ID}");
                return Err(refuse(None, Code::BadRequest, message));
            }
        },
    };
    let op = match object.remove("op") {
        Some(Value::String(op)) => op,
        _ => return Err(refuse(id, Code::BadRequest, "`op` is missing; it is a text such as \"join\"".into())),
    };
    let bad = |message: String| refuse(id, Code::BadRequest, message);
    let request = match op.as_str() {
        "hello" => {
            let HelloShape { token, resume, device, present } = shape(object).map_err(bad)?;
            if id.is_none() {
                return Err(bad("`hello` needs an `id`".into()));
            }
            let long = |device: &String| device.len() > DEVICE_BYTES || device.chars().any(char::is_control);
            if device.as_ref().is_some_and(long) {
                return Err(bad(format!("`device` has at most {DEVICE_BYTES} bytes and no control characters")));
            }
            Request::Hello { token, resume, device, present }
        }
        "join" => {
            let JoinShape { channel, state, watch, level, grace_ms, on_leave } = shape(object).map_err(bad)?;
            if grace_ms.is_some_and(|grace| grace > MAX_GRACE_MS) {
                return Err(bad(format!("`grace_ms` is at most {MAX_GRACE_MS}")));
            }
            if level.is_some() && !watch {
                return Err(bad("`level` belongs to a watch; add \"watch\":true".into()));
            }
            let watch = watch.then(|| level.unwrap_or_default());
            Request::Join { channel: channel.0, state, watch, grace_ms, on_leave }
        }
        "leave" => Request::Leave { channel: shape::<ChannelShape>(object).map_err(bad)?.channel.0 },
        "update" => {
            let UpdateShape { channel, state } = shape(object).map_err(bad)?;
            match channel {
                Some(channel) => Request::Update { channel: channel.0, patch: state },
                None => Request::UserState { patch: state },
            }
        }
        "status" => {
            let StatusShape { status, text, until } = shape(object).map_err(bad)?;
            check_text(text.as_deref()).map_err(bad)?;
            if status.is_none() && text.is_none() && until.is_some() {
                return Err(bad("`until` belongs to a `status` or a `text`".into()));
            }
            Request::Status { status, text: text.filter(|text| !text.is_empty()), until }
        }
        "active" => shape::<NothingShape>(object).map(|_| Request::Active).map_err(bad)?,
        "typing" => match shape(object).map_err(bad)? {
            TypingShape { channel: Some(channel), to: None, typing } => {
                Request::Typing { addressee: Addressee::Channel(channel.0), typing }
            }
            TypingShape { channel: None, to: Some(to), typing } => {
                Request::Typing { addressee: Addressee::User(to.0), typing }
            }
            _ => return Err(bad("one types in one `channel`, or `to` one user".into())),
        },
        "send" => {
            let SendShape { channel, data, echo } = shape(object).map_err(bad)?;
            let data = serde_json::value::to_raw_value(&data).expect("a JSON value is JSON");
            Request::Send { channel: channel.0, data, echo }
        }
        "watch" => Request::Watch(wanted::watch(object).map_err(|error| Fault::Refused(id, error))?),
        "unwatch" => Request::Unwatch(wanted::unwatch(object).map_err(|error| Fault::Refused(id, error))?),
        "get" => {
            let GetShape { channel, users, members, limit, cursor } = shape(object).map_err(bad)?;
            if !members && (limit.is_some() || cursor.is_some()) {
                return Err(bad("`limit` and `cursor` belong to a list; add \"members\":true".into()));
            }
            match (channel, users) {
                (Some(channel), None) if members => Request::GetMembers { channel: channel.0, limit, cursor },
                (Some(channel), None) => Request::GetChannel { channel: channel.0 },
                (None, Some(_)) if members => return Err(bad("`members` are those of a `channel`".into())),
                (None, Some(users)) if users.len() > MOST_USERS => {
                    return Err(refuse(id, Code::TooLarge, format!("`users` has at most {MOST_USERS} names")));
                }
                (None, Some(users)) => Request::GetUsers { users },
                _ => return Err(bad("`get` asks for one `channel` or for `users`".into())),
            }
        }
        "refresh" => Request::Refresh { token: shape::<RefreshShape>(object).map_err(bad)?.token },
        "ping" => shape::<NothingShape>(object).map(|_| Request::Ping).map_err(bad)?,
        "bye" => shape::<NothingShape>(object).map(|_| Request::Bye).map_err(bad)?,
        _ => {
            let shown: String = op.chars().take(32).collect();
            let message =
                format!("there is no operation `{shown}`; `features` of the hello's answer lists what there is");
            return Err(refuse(id, Code::UnknownOp, message));
        }
    };
    Ok((id, request))
}

pub(super) fn shape<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, String> {
    serde_json::from_value(Value::Object(object)).map_err(|error| error.to_string())
}

/// The answer to an operation that was carried out.
pub fn ok(id: u64, body: &impl Serialize) -> Bytes {
    #[derive(Serialize)]
    struct Shape<'a, T> {
        id: u64,
        ok: &'a T,
    }
    encode(&Shape { id, ok: body })
}

/// The answer to one that was not.
pub fn error(id: Option<u64>, error: &Error) -> Bytes {
    #[derive(Serialize)]
    struct Shape<'a> {
        id: Option<u64>,
        error: Inner<'a>,
    }
    #[derive(Serialize)]
    struct Inner<'a> {
        code: Code,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    }
    let Error { code, message, retry_after_ms } = error;
    let message = message.char_indices().nth(MESSAGE_CHARS).map_or(message.as_str(), |(at, _)| &message[..at]);
    encode(&Shape { id, error: Inner { code: *code, message, retry_after_ms: *retry_after_ms } })
}

/// What a client has to know.
#[derive(Debug, Serialize)]
pub struct WelcomeShape<'a> {
    /// The connection's id.
    pub connection: &'a ConnectionId,
    /// Who is present; null for one who only watches.
    pub user: Option<&'a UserName>,
    /// Whether the connection from before goes on.
    pub resumed: bool,
    /// Where it is.
    pub channels: &'a [ChannelName],
    /// The token for the next resume; missing for one who only watches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
    /// After this much silence the server pings, milliseconds.
    pub ping_ms: u64,
    /// For how long the connection keeps its place without a socket, milliseconds.
    pub grace_ms: u64,
    /// Unix milliseconds.
    pub server_time: u64,
    /// What one connection may use up.
    pub limits: LimitsShape,
    /// What this server can do.
    pub features: &'static [&'static str],
}

/// Limits as clients see them.
#[derive(Debug, Serialize)]
pub struct LimitsShape {
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// Bytes of a state.
    pub state_bytes: usize,
    /// Channels that a connection may join, and as many again that it may watch.
    pub channels_per_connection: usize,
    /// Operations in a second, lastingly.
    pub operations_per_second: u32,
    /// Bytes of a user's state.
    pub user_state_bytes: usize,
    /// Users that a connection may watch by name.
    pub watched_users: usize,
    /// Patterns that it may watch.
    pub watched_patterns: usize,
    /// Bytes of a signal.
    pub signal_bytes: usize,
    /// Signals and signs of typing in a second, lastingly.
    pub signals_per_second: u32,
}

/// Where a roster is after an operation.
#[derive(Debug, Serialize)]
pub struct VersionShape<'a> {
    channel: &'a ChannelName,
    epoch: &'a Epoch,
    version: u64,
}

impl<'a> VersionShape<'a> {
    /// The channel at the version.
    pub fn new(channel: &'a ChannelName, version: &'a Version) -> Self {
        Self { channel, epoch: &version.epoch, version: version.number }
    }
}

/// The shapes of events.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Snapshot {
        channel: &'a ChannelName,
        level: Level,
        mode: Mode,
        epoch: &'a Epoch,
        version: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        members: Option<Vec<&'a RawValue>>,
        occupancy: Occupancy,
        more: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<&'static str>,
        time: u64,
    },
    Delta {
        #[serde(skip_serializing_if = "Option::is_none")]
        pattern: Option<&'a Pattern>,
        channel: &'a ChannelName,
        mode: Mode,
        epoch: &'a Epoch,
        #[serde(skip_serializing_if = "Option::is_none")]
        from_epoch: Option<&'a Epoch>,
        from: u64,
        to: u64,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        join: Vec<MemberShape<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        update: Vec<MemberShape<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        leave: Vec<LeaveShape<'a>>,
        occupancy: Occupancy,
        time: u64,
    },
    Joined {
        channel: &'a ChannelName,
        epoch: &'a Epoch,
        version: u64,
    },
    Typing {
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<&'a ChannelName>,
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<&'a UserName>,
        user: &'a UserName,
        typing: bool,
    },
    Signal {
        channel: &'a ChannelName,
        user: &'a UserName,
        data: &'a RawValue,
        time: u64,
    },
    Left {
        channel: &'a ChannelName,
        reason: Reason,
    },
    Reconnect {
        after_ms: u64,
    },
}

/// A change.
pub fn delta(channel: &ChannelName, frame: &Frame) -> Bytes {
    delta_of(None, channel, frame)
}

/// A change of a channel for those who watch a pattern that means it.
pub fn pattern_delta(pattern: &Pattern, channel: &ChannelName, frame: &Frame) -> Bytes {
    delta_of(Some(pattern), channel, frame)
}

fn delta_of(pattern: Option<&Pattern>, channel: &ChannelName, frame: &Frame) -> Bytes {
    let (join, update, leave) = match &frame.lists {
        Lists::Users(delta) => (
            delta.join.iter().map(MemberShape::from).collect(),
            delta.update.iter().map(MemberShape::from).collect(),
            delta.leave.iter().map(LeaveShape::from).collect(),
        ),
        Lists::Connections(delta) => (
            delta.join.iter().map(MemberShape::from).collect(),
            delta.update.iter().map(MemberShape::from).collect(),
            delta.leave.iter().map(LeaveShape::from).collect(),
        ),
        Lists::Occupancy => (Vec::new(), Vec::new(), Vec::new()),
    };
    encode(&Event::Delta {
        pattern,
        channel,
        mode: frame.mode,
        epoch: &frame.to.epoch,
        from_epoch: (frame.from.epoch != frame.to.epoch).then_some(&frame.from.epoch),
        from: frame.from.number,
        to: frame.to.number,
        join,
        update,
        leave,
        occupancy: frame.occupancy,
        time: frame.time,
    })
}

/// The whole, in pages of one version.
pub fn snapshot(channel: &ChannelName, snapshot: &Snapshot, cause: Option<Cause>) -> Vec<Bytes> {
    let entries = match &snapshot.whole {
        Whole::Users(members) => Some(entries(members)),
        Whole::Connections(connections) => Some(entries(connections)),
        Whole::Occupancy => None,
    };
    let page = |members: Option<&[Box<RawValue>]>, more| {
        encode(&Event::Snapshot {
            channel,
            level: snapshot.level,
            mode: snapshot.mode,
            epoch: &snapshot.version.epoch,
            version: snapshot.version.number,
            members: members.map(|members| members.iter().map(AsRef::as_ref).collect()),
            occupancy: snapshot.occupancy,
            more,
            cause: cause.map(Cause::as_str),
            time: snapshot.time,
        })
    };
    let Some(entries) = entries else { return vec![page(None, false)] };
    let mut pages = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, entry) in entries.iter().enumerate() {
        bytes += entry.get().len() + 1;
        if at > start && (bytes > PAGE_BYTES || at - start == PAGE_ENTRIES) {
            pages.push(page(Some(&entries[start..at]), true));
            (start, bytes) = (at, entry.get().len());
        }
    }
    pages.push(page(Some(&entries[start..]), false));
    pages
}

fn entries<'a, T>(list: &'a [T]) -> Vec<Box<RawValue>>
where
    MemberShape<'a>: From<&'a T>,
{
    let entry = |one| serde_json::value::to_raw_value(&MemberShape::from(one)).expect("a member is JSON");
    list.iter().map(entry).collect()
}

/// An app server had the connection join a channel.
pub fn joined(channel: &ChannelName, version: &Version) -> Bytes {
    encode(&Event::Joined { channel, epoch: &version.epoch, version: version.number })
}

/// What somebody says in passing in a channel.
pub fn aside(channel: &ChannelName, aside: &Aside) -> Bytes {
    let user = &aside.user;
    encode(&match &aside.what {
        What::Typing(typing) => Event::Typing { channel: Some(channel), to: None, user, typing: *typing },
        What::Signal { data, time, .. } => Event::Signal { channel, user, data, time: *time },
    })
}

/// Somebody types towards the user of the socket, or does so no more.
pub fn typing(typing: &Typing) -> Bytes {
    let Typing { to, by, typing } = typing;
    encode(&Event::Typing { channel: None, to: Some(to), user: by, typing: *typing })
}

/// Somebody took the connection out of a channel.
pub fn left(channel: &ChannelName, reason: Reason) -> Bytes {
    encode(&Event::Left { channel, reason })
}

/// The instance stops: come back after this.
pub fn reconnect(after_ms: u64) -> Bytes {
    encode(&Event::Reconnect { after_ms })
}

fn encode(frame: &impl Serialize) -> Bytes {
    serde_json::to_vec(frame).expect("frames are JSON").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> (Option<u64>, Code, String) {
        match read(text) {
            Err(Fault::Refused(id, error)) => (id, error.code, error.message),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn unknown_fields_are_named_and_unknown_operations_too() {
        let (id, code, message) = refused(r#"{"id":1,"op":"leave","channel":"a","chanel":"b"}"#);
        assert_eq!((id, code), (Some(1), Code::BadRequest));
        assert!(message.contains("`chanel`"), "{message}");
        let (_, code, message) = refused(r#"{"id":1,"op":"fly"}"#);
        assert_eq!(code, Code::UnknownOp);
        assert!(message.contains("`fly`"), "{message}");
    }

    #[test]
    fn ids_are_integers_that_every_reader_keeps() {
        assert!(matches!(read(r#"{"id":9007199254740991,"op":"ping"}"#), Ok((Some(MAX_ID), Request::Ping))));
        for id in ["9007199254740992", "-1", "1.5", "\"1\"", "null", "[]"] {
            let (id, code, _) = refused(&format!(r#"{{"id":{id},"op":"ping"}}"#));
            assert_eq!((id, code), (None, Code::BadRequest));
        }
    }

    #[test]
    fn what_is_not_json_is_told_from_what_is_refused() {
        for text in ["", "hello", "{\"op\":", "{'op':1}", "{}x"] {
            assert!(matches!(read(text), Err(Fault::NotJson)), "{text}");
        }
        assert_eq!(refused("[1]").1, Code::BadRequest);
        assert_eq!(refused("{}").1, Code::BadRequest);
        let deep = format!(r#"{{"id":1,"op":"join","channel":"a","state":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
        assert_eq!(refused(&deep).1, Code::BadRequest);
        assert!(matches!(read(&"[".repeat(500)), Err(Fault::NotJson)));
    }

    #[test]
    fn json_that_is_not_read_here_is_a_fault_and_no_end() {
        for state in [r#"{"cut":"\ud83d"}"#, r#"{"n":1e999}"#, r#"{"n":-1e999}"#] {
            let (id, code, message) = refused(&format!(r#"{{"id":1,"op":"join","channel":"a","state":{state}}}"#));
            assert_eq!((id, code), (None, Code::BadRequest), "{message}");
        }
    }

    #[test]
    fn an_error_repeats_only_so_much_of_what_a_stranger_wrote() {
        let (_, _, message) = refused(&format!(r#"{{"id":1,"op":"ping","{}":1}}"#, "é".repeat(10_000)));
        let frame = error(Some(1), &Error::new(Code::BadRequest, message));
        assert!(frame.len() < 1_000, "{}", frame.len());
    }

    #[test]
    fn a_channel_that_is_no_name_is_refused_with_the_rule() {
        let long = "a".repeat(256);
        let (_, code, message) = refused(&format!(r#"{{"id":1,"op":"join","channel":"{long}"}}"#));
        assert_eq!(code, Code::BadRequest);
        assert!(message.contains("255"), "{message}");
    }
}
