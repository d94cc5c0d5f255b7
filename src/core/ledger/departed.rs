//! Who has left a moment ago. A store that comes back older than it was shows them again; whoever was told that they had left is told the truth,
//! so this instance says so once more.

use std::collections::VecDeque;

use crate::domain::{
    member::Reason,
    name::{ConnectionId, RosterKey},
    partition::Beat,
    roster::{Ask, Entry},
    version::Epoch,
};

/// For how long a leave is remembered, milliseconds of presence time: longer than a replica lags.
const REMEMBERED_MS: u64 = 60_000;
/// As many leaves are remembered; beyond that the oldest are forgotten, and who is shown again because of that ends in the ordinary way.
const MOST: usize = 10_000;

#[derive(Debug)]
struct Departure {
    roster: RosterKey,
    connection: ConnectionId,
    take: u64,
    reason: Reason,
    epoch: Epoch,
    at: u64,
}

/// The leaves of one partition.
#[derive(Debug, Default)]
pub(super) struct Departed {
    recent: VecDeque<Departure>,
    /// Those of epochs before that of now, to be said again.
    before: VecDeque<Departure>,
}

impl Departed {
    /// The store has acknowledged a leave.
    pub(super) fn note(&mut self, beat: &Beat, roster: RosterKey, connection: ConnectionId, take: u64, reason: Reason) {
        let is_old = |departure: &Departure| departure.epoch != beat.epoch || departure.at + REMEMBERED_MS < beat.now;
        while self.recent.len() >= MOST || self.recent.front().is_some_and(is_old) {
            self.recent.pop_front();
        }
        self.recent.push_back(Departure { roster, connection, take, reason, epoch: beat.epoch.clone(), at: beat.now });
    }

    /// A new epoch has begun, after one whose latest time was `now`.
    pub(super) fn remember(&mut self, epoch: &Epoch, now: u64) {
        self.recent.retain(|one| one.epoch == *epoch && one.at + REMEMBERED_MS >= now);
        self.before.append(&mut self.recent);
        let most = self.before.len().saturating_sub(MOST);
        self.before.drain(..most);
    }

    /// What is to be said again, once.
    pub(super) fn again(&mut self) -> Vec<Entry> {
        let entry = |Departure { roster, connection, take, reason, .. }| Entry {
            roster,
            connection,
            ask: Ask::Absent { take: Some(take), reason },
        };
        self.before.drain(..).map(entry).collect()
    }
}
