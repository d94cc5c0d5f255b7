//! What a message says, as far as a crowd looks at it. Thousands get the same bytes, so what was read last is not read again.

use std::{collections::VecDeque, rc::Rc};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::names::{Names, hash};

/// How many messages are remembered.
const REMEMBERED: usize = 16;

/// What a message says.
#[derive(Clone)]
pub enum Told {
    /// The answer to a hello.
    Welcome(Rc<Welcome>),
    /// The `ok` to any other operation.
    Done,
    /// An operation was refused, or something came that nobody expects.
    Wrong(Rc<str>),
    /// A snapshot's page or a delta.
    Change(Rc<Change>),
}

/// The answer to a hello.
pub struct Welcome {
    /// By which the connection is taken up again.
    pub resume: String,
    /// Whether it was.
    pub resumed: bool,
}

/// A snapshot's page or a delta.
pub struct Change {
    /// The channel's name, hashed.
    pub channel: u64,
    /// A page of a snapshot, and no delta.
    pub whole: bool,
    /// Hashed.
    pub epoch: u64,
    /// Where a delta begins.
    pub from: u64,
    /// The version that it brings.
    pub to: u64,
    /// How the channel is told.
    pub mode: Mode,
    /// The snapshot came because the mode is another.
    pub turned: bool,
    /// More pages follow.
    pub more: bool,
    /// How many users are there.
    pub users: u64,
    /// There is a list.
    pub listed: bool,
    /// Who came, or stands in the page.
    pub came: Names,
    /// Who went.
    pub went: Names,
    /// The state of the last of those who came or changed, hashed.
    pub state: u64,
}

/// How a channel is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Every net change.
    #[default]
    Full,
    /// The same at longer intervals.
    Net,
    /// The counts alone.
    Occupancy,
}

#[derive(Deserialize)]
struct Message<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    ok: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    event: Option<&'a str>,
    channel: Option<&'a str>,
    mode: Option<&'a str>,
    cause: Option<&'a str>,
    epoch: Option<&'a str>,
    from_epoch: Option<&'a str>,
    version: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
    occupancy: Option<Occupancy>,
    #[serde(default)]
    more: bool,
    #[serde(borrow)]
    members: Option<Vec<Entry<'a>>>,
    #[serde(borrow, default)]
    join: Vec<Entry<'a>>,
    #[serde(borrow, default)]
    update: Vec<Entry<'a>>,
    #[serde(borrow, default)]
    leave: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    user: &'a str,
    #[serde(borrow)]
    state: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Occupancy {
    users: u64,
}

#[derive(Deserialize)]
struct Hello {
    #[serde(default)]
    resume: String,
    resumed: bool,
}

/// The id by which everybody says hello.
pub const HELLO: u64 = 1;

/// Reads messages, and remembers the newest.
#[derive(Default)]
pub struct Reader {
    newest: VecDeque<(Vec<u8>, Told)>,
}

impl Reader {
    /// What this message says.
    pub fn read(&mut self, bytes: &[u8]) -> Told {
        if let Some((_, told)) = self.newest.iter().find(|(known, _)| known == bytes) {
            return told.clone();
        }
        let told = understand(bytes);
        if matches!(told, Told::Change(_)) {
            self.newest.truncate(REMEMBERED - 1);
            self.newest.push_front((bytes.to_vec(), told.clone()));
        }
        told
    }
}

fn understand(bytes: &[u8]) -> Told {
    let wrong = |why: String| Told::Wrong(format!("{why}: {:.300}", String::from_utf8_lossy(bytes)).into());
    let message: Message<'_> = match serde_json::from_slice(bytes) {
        Ok(message) => message,
        Err(error) => return wrong(error.to_string()),
    };
    match (message.ok, message.error, message.event) {
        (Some(ok), None, None) if message.id == Some(HELLO) => match serde_json::from_str::<Hello>(ok.get()) {
            Ok(hello) => Told::Welcome(Rc::new(Welcome { resume: hello.resume, resumed: hello.resumed })),
            Err(error) => wrong(error.to_string()),
        },
        (Some(_), None, None) => Told::Done,
        (None, None, Some("snapshot" | "delta")) => {
            change(&message).map_or_else(|why| wrong(why.to_owned()), Told::Change)
        }
        _ => wrong("nobody expects this".to_owned()),
    }
}

fn change(message: &Message<'_>) -> Result<Rc<Change>, &'static str> {
    let whole = message.event == Some("snapshot");
    let mode = match message.mode {
        Some("full") => Mode::Full,
        Some("net") => Mode::Net,
        Some("occupancy") => Mode::Occupancy,
        _ => return Err("no mode that is known"),
    };
    if message.from_epoch.is_some() {
        return Err("the epoch changed, and nothing has happened to Redis");
    }
    let to = if whole { message.version } else { message.to };
    let entries = message.members.iter().flatten().chain(&message.join);
    let last = message.update.last().or(entries.clone().last());
    Ok(Rc::new(Change {
        channel: hash(message.channel.ok_or("no channel")?),
        whole,
        epoch: hash(message.epoch.ok_or("no epoch")?),
        from: if whole { 0 } else { message.from.ok_or("no `from`")? },
        to: to.ok_or("no version")?,
        mode,
        turned: message.cause == Some("mode"),
        more: message.more,
        users: message.occupancy.as_ref().ok_or("no occupancy")?.users,
        listed: !whole || message.members.is_some(),
        came: Names::of(entries.map(|entry| entry.user)),
        went: Names::of(message.leave.iter().map(|entry| entry.user)),
        state: last.and_then(|entry| entry.state).map_or(0, |state| hash(state.get())),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(text: &str) -> Rc<Change> {
        match Reader::default().read(text.as_bytes()) {
            Told::Change(change) => change,
            Told::Wrong(why) => panic!("{why}"),
            _ => panic!("no change: {text}"),
        }
    }

    #[test]
    fn a_page_has_its_list_and_a_delta_who_came_who_went_and_what_was_said_last() {
        let page = r#"{"event":"snapshot","channel":"room:1","level":"users","mode":"net","epoch":"e","version":7,
            "members":[{"user":"ann","state":{"n":1}},{"user":"ben","state":{}}],"occupancy":{"users":2,"connections":3},"more":true,"cause":"mode","time":1}"#;
        let page = change(page);
        assert_eq!((page.whole, page.to, page.mode, page.turned, page.more), (true, 7, Mode::Net, true, true));
        assert_eq!((page.came, page.users, page.channel), (Names::of(["ben", "ann"]), 2, hash("room:1")));
        let delta = r#"{"event":"delta","channel":"room:1","mode":"full","epoch":"e","from":7,"to":9,"join":[{"user":"cat","state":{"n":2}}],
            "update":[{"user":"ann","state":{"n":3}}],"leave":[{"user":"ben","reason":"left","state":{}}],"occupancy":{"users":2,"connections":2},"time":1}"#;
        let delta = change(delta);
        assert_eq!((delta.whole, delta.from, delta.to, delta.listed), (false, 7, 9, true));
        assert_eq!((delta.came, delta.went, delta.state), (Names::of(["cat"]), Names::of(["ben"]), hash(r#"{"n":3}"#)));
    }

    #[test]
    fn a_refusal_an_unknown_event_and_what_is_no_json_are_wrong() {
        let refused = r#"{"id":2,"error":{"code":"limit","message":"enough"}}"#;
        for text in [refused, r#"{"event":"left","channel":"room:1","reason":"kicked"}"#, "{"] {
            assert!(
                matches!(Reader::default().read(text.as_bytes()), Told::Wrong(why) if why.contains(text)),
                "{text}"
            );
        }
    }
}
