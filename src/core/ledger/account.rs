//! A connection that this instance answers for, and how each of its places is wanted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{sync::oneshot, time::Instant};

use super::{Content, Settlement};
use crate::{
    core::notices::Notices,
    domain::{
        member::{Reason, Status, Whereabouts},
        name::{RosterKey, UserName},
        version::Epoch,
    },
    store::PartitionId,
};

/// How one place of a connection is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// With a socket here.
    Held,
    /// Without one, for this long from the moment that Redis first heard of it.
    Ending { remaining_ms: u64, counted_from: Option<(Epoch, u64)> },
    /// Not at all.
    Gone(Reason),
}

/// Counts for as long as it is there, whatever becomes of what it stands for.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place that waits to be acknowledged; counts in its lane.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Since when.
    pub(super) since: Instant,
    _counted: Counted,
    owed: Option<Counted>,
}

impl Waiting {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        Self { since: Instant::now(), _counted: Counted::new(count), owed: None }
    }

    /// The store may have lost it: it counts there too until the store has it again.
    pub(super) fn owe(&mut self, count: &Arc<AtomicUsize>) {
        self.owed.get_or_insert_with(|| Counted::new(count));
    }

    /// It stands in the store, if not as it is wanted by now.
    pub(super) fn owe_no_more(&mut self) {
        self.owed = None;
    }
}

#[derive(Debug)]
pub(super) struct Place {
    pub(super) partition: PartitionId,
    pub(super) wanted: Wanted,
    pub(super) content: Content,
    pub(super) limit: u64,
    pub(super) fresh: bool,
    pub(super) revision: u64,
    /// None when the store has acknowledged what is wanted.
    pub(super) waiting: Option<Waiting>,
    /// It has been on its way to the store, which may therefore know of it.
    pub(super) sent: bool,
    /// It was sent and no answer came: the store may have carried it out, and others may have undone it since.
    pub(super) resent: bool,
    pub(super) queued: bool,
    pub(super) waiters: Vec<(u64, oneshot::Sender<Settlement>)>,
    /// Counts as a member, where it is in a channel.
    pub(super) _member: Option<Counted>,
}

impl Place {
    /// One that nothing was asked of the store for yet.
    pub(super) fn new(
        partition: PartitionId,
        wanted: Wanted,
        content: Content,
        limit: u64,
        waiting: Waiting,
        member: Option<Counted>,
    ) -> Self {
        Self {
            partition,
            wanted,
            content,
            limit,
            fresh: true,
            revision: 1,
            waiting: Some(waiting),
            sent: false,
            resent: false,
            queued: false,
            waiters: Vec::new(),
            _member: member,
        }
    }

    pub(super) fn is_acknowledged(&self) -> bool {
        self.waiting.is_none()
    }

    /// Whether a socket here has just asked for it, and the store was asked once.
    pub(super) fn is_new(&self) -> bool {
        self.fresh && !self.resent && self.wanted == Wanted::Held
    }

    /// Whether it waits for its end, and the store knows that in this epoch.
    pub(super) fn is_ending_in(&self, epoch: &Epoch) -> bool {
        let counts =
            matches!(&self.wanted, Wanted::Ending { counted_from: Some((counted, _)), .. } if counted == epoch);
        counts && self.is_acknowledged()
    }

    pub(super) fn settle(&mut self, up_to: u64, settlement: &Settlement) {
        for (revision, waiter) in std::mem::take(&mut self.waiters) {
            if revision <= up_to {
                // The one who waited may have given up.
                let _ = waiter.send(settlement.clone());
            } else {
                self.waiters.push((revision, waiter));
            }
        }
    }
}

/// A connection that this instance answers for.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) owner: u64,
    pub(super) user: UserName,
    /// The user is shown to nobody: its places are in the rosters that others do not see.
    pub(super) hidden: bool,
    /// How the user is there, by this device alone.
    pub(super) automatic: Status,
    pub(super) take: u64,
    pub(super) valid: u64,
    /// The take that the client's newest resume token names.
    pub(super) token: u64,
    pub(super) needs_proof: bool,
    /// In boxes, for a map's node has room for eleven of what most have two of.
    pub(super) places: BTreeMap<RosterKey, Box<Place>>,
    pub(super) notices: Option<Arc<Notices>>,
}

impl Account {
    /// The roster that decides who has the connection.
    pub(super) fn home(&self) -> RosterKey {
        RosterKey::User(self.user.clone()).twin(self.hidden)
    }

    /// Whether it is to be held there. One that is to end is not, and the store must not think so.
    pub(super) fn holds(&self, roster: &RosterKey) -> bool {
        self.places.get(roster).is_some_and(|place| place.wanted == Wanted::Held)
    }
}

/// The channels in which the connection is, seen by others or by nobody.
pub(super) fn whereabouts(account: &Account, hidden: bool) -> Whereabouts {
    let rosters = account.places.keys().filter(|roster| roster.is_hidden() == hidden);
    Whereabouts { channels: rosters.filter_map(RosterKey::channel).cloned().collect() }
}

/// The longest grace of the connection's channels; none without channels.
pub(super) fn longest_grace(account: &Account) -> Option<u64> {
    let channels = account.places.iter().filter(|(roster, _)| !roster.is_user());
    channels.map(|(_, place)| place.content.grace_ms).max()
}
