//! Who said to be typing, and whether watchers were shown just that, and for no longer than it lasts.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    harness::truth::Quiet,
    world::{LAG, TYPING},
};

/// Where, or towards whom; and who.
type Key = (String, String);

/// When each user said to be typing.
#[derive(Debug, Clone, Default)]
pub struct Said(BTreeMap<Key, Vec<u64>>);

impl Said {
    pub fn say(&mut self, place: &str, user: &str, at: u64) {
        let times = self.0.entry((place.to_owned(), user.to_owned())).or_default();
        // Several devices say it, each in its own time.
        let position = times.partition_point(|time| *time <= at);
        times.insert(position, at);
    }
}

/// Whom one watcher was shown as typing.
#[derive(Debug, Default)]
pub struct Typists {
    now: BTreeMap<Key, u64>,
    shown: Vec<(Key, u64, u64)>,
    faults: Vec<String>,
}

impl Typists {
    pub fn hear(&mut self, frame: &Value, at: u64) {
        let text = |name: &str| frame[name].as_str().map(str::to_owned);
        let place = text("channel").or_else(|| text("to")).expect("it is in a channel or towards somebody");
        let key = (place, text("user").expect("somebody types"));
        if frame["typing"] == false {
            if let Some(since) = self.now.remove(&key) {
                self.shown.push((key, since, at));
            }
        } else if let Some(since) = self.now.insert(key.clone(), at) {
            self.faults.push(format!("at {at} {key:?} began to type, and has been typing since {since}"));
        }
    }

    /// The socket is no more, and what was shown through it.
    pub fn forget(&mut self) {
        self.now.clear();
    }

    /// How often somebody was shown.
    pub fn count(&self) -> usize {
        self.shown.len() + self.now.len()
    }

    /// Everything that was shown and not said, or for too long, a sentence each.
    pub fn judge(&self, said: &Said, quiet: &Quiet, end: u64) -> Vec<String> {
        let mut faults = self.faults.clone();
        let to_the_end = self.now.iter().map(|(key, since)| (key.clone(), *since, end));
        for (key, from, to) in self.shown.iter().cloned().chain(to_the_end) {
            let times = said.0.get(&key).map(Vec::as_slice).unwrap_or_default();
            let mut held = from;
            // It may be shown until then by what was said until `held`.
            let until = |held: u64| {
                let last = times[..times.partition_point(|time| *time <= held)].last();
                last.map(|last| quiet.after(*last, TYPING + LAG))
            };
            let wrong = loop {
                match until(held) {
                    None => break Some("which nobody has said".to_owned()),
                    Some(until) if until >= to => break None,
                    Some(until) if until <= held => break Some(format!("and may have been until {until}")),
                    Some(until) => held = until,
                }
            };
            if let Some(wrong) = wrong {
                faults.push(format!("{key:?} was shown to type from {from} to {to}, {wrong}; said {times:?}"));
            }
        }
        faults
    }
}
