//! Who has left a moment ago. A store that comes back older than it was shows them again; whoever was told that they had left is told the truth,
//! so this instance says so once more.

use std::collections::VecDeque;

use crate::domain::{
    chance::Map,
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

type Place = (RosterKey, ConnectionId);

#[derive(Debug)]
struct Departure {
    take: u64,
    reason: Reason,
    epoch: Epoch,
    at: u64,
}

/// The leaves of one partition.
#[derive(Debug, Default)]
pub(super) struct Departed {
    known: Map<Place, Departure>,
    /// In the order in which they left; whoever has come back since is not known any more.
    order: VecDeque<Place>,
    /// Those of epochs before that of now, to be said again.
    before: Map<Place, Departure>,
}

impl Departed {
    /// The store has acknowledged a leave.
    pub(super) fn note(&mut self, beat: &Beat, roster: RosterKey, connection: ConnectionId, take: u64, reason: Reason) {
        let is_old = |one: &Departure| one.epoch != beat.epoch || one.at + REMEMBERED_MS < beat.now;
        while let Some(oldest) = self.order.front()
            && (self.order.len() >= MOST || self.known.get(oldest).is_none_or(is_old))
        {
            let oldest = self.order.pop_front().expect("looked at");
            self.known.remove(&oldest);
        }
        let place = (roster, connection);
        self.order.push_back(place.clone());
        self.known.insert(place, Departure { take, reason, epoch: beat.epoch.clone(), at: beat.now });
    }

    /// Whoever comes back has not left.
    pub(super) fn forget(&mut self, roster: &RosterKey, connection: &ConnectionId) {
        if self.known.is_empty() && self.before.is_empty() {
            return;
        }
        let place = (roster.clone(), connection.clone());
        self.known.remove(&place);
        self.before.remove(&place);
    }

    /// A new epoch has begun, after one whose latest time was `now`.
    pub(super) fn remember(&mut self, epoch: &Epoch, now: u64) {
        self.order.clear();
        let recent = std::mem::take(&mut self.known);
        let recent = recent.into_iter().filter(|(_, one)| one.epoch == *epoch && one.at + REMEMBERED_MS >= now);
        let room = MOST.saturating_sub(self.before.len());
        self.before.extend(recent.take(room));
    }

    /// What is to be said again, once.
    pub(super) fn again(&mut self) -> Vec<Entry> {
        let before = std::mem::take(&mut self.before);
        let entry = |((roster, connection), Departure { take, reason, .. })| Entry {
            roster,
            connection,
            ask: Ask::Absent { take: Some(take), reason },
        };
        before.into_iter().map(entry).collect()
    }
}
