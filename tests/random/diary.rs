//! What truly happened, written down by those who did it.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::{
    TOLD_WITHIN,
    harness::{Client, Level},
};

/// One join or leave that truly happened.
#[derive(Debug, Clone)]
pub struct Deed {
    pub channel: String,
    pub user: String,
    pub connection: String,
    /// `join`, or the reason of a leave.
    pub what: &'static str,
    /// Whether the user came or went with it, and not just one of their connections.
    pub whole: bool,
    /// Not before this.
    pub begun: Instant,
    /// Done by then.
    pub done: Instant,
}

#[derive(Default)]
pub struct Diary {
    deeds: Vec<Deed>,
    /// Channel and user → their connections there.
    there: BTreeMap<(String, String), BTreeSet<String>>,
    counts: BTreeMap<&'static str, usize>,
}

impl Diary {
    /// Counts what is no join and no leave.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// `what` is `join`, or the reason of a leave. Nothing is written where nothing changed.
    pub fn write(&mut self, channel: &str, user: &str, connection: &str, what: &'static str, begun: Instant) {
        let there = self.there.entry((channel.to_owned(), user.to_owned())).or_default();
        let before = there.len();
        if what == "join" {
            there.insert(connection.to_owned());
        } else {
            there.remove(connection);
        }
        if there.len() == before {
            return;
        }
        let whole = before.min(there.len()) == 0;
        self.count(what);
        self.deeds.push(Deed {
            channel: channel.to_owned(),
            user: user.to_owned(),
            connection: connection.to_owned(),
            what,
            whole,
            begun,
            done: Instant::now(),
        });
    }

    pub fn summary(&self) -> String {
        format!("{:?}, of them {} whole users", self.counts, self.deeds.iter().filter(|deed| deed.whole).count())
    }

    /// A minute in which hardly anything happened would prove nothing.
    pub fn assert_busy(&self, seconds: u64) {
        for (what, per_minute) in [("join", 40), ("left", 30), ("timeout", 3), ("resume", 15), ("update", 20)] {
            let (count, least) = (self.counts.get(what).copied().unwrap_or(0), per_minute * seconds as usize / 60);
            assert!(count >= least, "{what}: only {count} times, {}", self.summary());
        }
    }
}

/// The watcher's joins and leaves in a channel are exactly those of the diary, in order, each within its time.
pub fn assert_told_once(diary: &Diary, watcher: &Client, channel: &str) {
    let level = watcher.view(channel).expect("it watches").level();
    let key = if level == Level::Connections { "connection" } else { "user" };
    let mut told: BTreeMap<String, Vec<(String, Instant)>> = BTreeMap::new();
    for received in watcher.events("delta").into_iter().filter(|received| received.frame["channel"] == channel) {
        for kind in ["join", "leave"] {
            for entry in received.frame[kind].as_array().into_iter().flatten() {
                let who = entry[key].as_str().expect("a name").to_owned();
                let what = if kind == "join" { "join" } else { entry["reason"].as_str().expect("a reason") };
                told.entry(who).or_default().push((what.to_owned(), received.at));
            }
        }
    }
    let mut done: BTreeMap<String, Vec<&Deed>> = BTreeMap::new();
    for deed in diary.deeds.iter().filter(|deed| deed.channel == channel) {
        if level == Level::Connections {
            done.entry(deed.connection.clone()).or_default().push(deed);
        } else if deed.whole {
            done.entry(deed.user.clone()).or_default().push(deed);
        }
    }
    let names: BTreeSet<_> = told.keys().chain(done.keys()).cloned().collect();
    for name in names {
        let (told, done) = (told.remove(&name).unwrap_or_default(), done.remove(&name).unwrap_or_default());
        let said: Vec<_> = told.iter().map(|(what, _)| what.as_str()).collect();
        let happened: Vec<_> = done.iter().map(|deed| deed.what).collect();
        let first = said.iter().zip(&happened).position(|(said, happened)| said != happened);
        assert!(
            said == happened,
            "{name} in {channel} by {key}: told {said:?}\nhappened {happened:?}\ndiffer from {first:?} on"
        );
        for ((what, at), deed) in told.iter().zip(done) {
            assert!(*at >= deed.begun, "{what} of {name} in {channel} was told before it happened");
            let late = at.saturating_duration_since(deed.done);
            assert!(late <= TOLD_WITHIN, "{what} of {name} in {channel} was told {late:?} after it was done: {deed:?}");
        }
    }
}
