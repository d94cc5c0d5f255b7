//! Who came and went, as somebody saw it who shows what the frames say.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use tokio::time::Instant;

use super::Client;

/// A join or a leave.
#[derive(Debug, Clone)]
pub struct Told {
    pub at: Instant,
    pub channel: String,
    pub user: String,
    /// `join`, the reason of a leave, or `snapshot` for a leave that only shows in one.
    pub what: String,
}

impl Told {
    pub fn is_leave(&self) -> bool {
        self.what != "join"
    }
}

impl Client {
    /// All joins and leaves since then, in the order in which they were told. A snapshot that replaces another tells the difference.
    ///
    /// For watches at the levels users and connections of people with one connection in each channel.
    pub fn told_since(&self, since: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        // Channel → who is there; the pages so far.
        let mut there: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut pages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for received in self.received() {
            let (at, frame) = (received.at, &received.frame);
            let Some(channel) = frame["channel"].as_str().map(str::to_owned) else { continue };
            let mut tell = |user: &str, what: &str| {
                if at >= since {
                    told.push(Told { at, channel: channel.clone(), user: user.to_owned(), what: what.to_owned() });
                }
            };
            let users = |list: &str| {
                let entries = frame[list].as_array().cloned().unwrap_or_default();
                entries.into_iter().map(|entry| (entry["user"].as_str().expect("a user").to_owned(), entry))
            };
            match frame["event"].as_str() {
                Some("snapshot") => {
                    let pages = pages.entry(channel.clone()).or_default();
                    pages.extend(users("members").map(|(user, _)| user));
                    if frame["more"] == true {
                        continue;
                    }
                    if frame["mode"] == "occupancy" {
                        // Nobody is named any more, and nothing is told of anybody until there is a list again.
                        pages.clear();
                        there.remove(&channel);
                        continue;
                    }
                    let now = mem::take(pages);
                    if let Some(before) = there.insert(channel.clone(), now.clone()) {
                        now.difference(&before).for_each(|user| tell(user, "join"));
                        before.difference(&now).for_each(|user| tell(user, "snapshot"));
                    }
                }
                Some("delta") => {
                    let there = there.entry(channel.clone()).or_default();
                    for (user, _) in users("join") {
                        tell(&user, "join");
                        there.insert(user);
                    }
                    for (user, leave) in users("leave") {
                        tell(&user, leave["reason"].as_str().expect("a reason"));
                        there.remove(&user);
                    }
                }
                _ => {}
            }
        }
        told
    }
}
