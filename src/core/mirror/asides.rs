//! What is said in passing in a roster: who types, and signals. A ring of its own, so that no aside takes the place of a change.
//!
//! Whoever is behind loses the oldest. That somebody types no more is not lost with them: who was told that it began is told that it has ended.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use super::Encoded;
use crate::{
    core::typers::{Turn, Typers},
    domain::{
        aside::{Said, What},
        name::{ConnectionId, UserName},
    },
};

/// As many asides wait for a slow watcher.
pub(super) const RING: usize = 256;
/// And as many bytes of signals; the latest is always there.
const RING_BYTES: usize = 128 * 1024;

/// One aside, shared by all who are told of it.
#[derive(Debug)]
pub struct Aside {
    /// Who has said it.
    pub user: UserName,
    /// What.
    pub what: What,
    /// The connection that is not told.
    skips: Option<ConnectionId>,
    /// As the native door sends it.
    pub encoded: Encoded,
}

impl Aside {
    fn bytes(&self) -> usize {
        match &self.what {
            What::Typing(_) => 0,
            What::Signal { data, .. } => data.get().len(),
        }
    }
}

/// Where a watcher is among the asides of a mirror.
#[derive(Debug)]
pub struct Listening {
    next: u64,
    /// The watcher's own connection.
    connection: ConnectionId,
    /// Who types, as far as the watcher was told: they, and nobody else, are said to have ended.
    told: BTreeSet<UserName>,
    /// Who among them has ended while the watcher was behind.
    ended: Vec<UserName>,
}

impl Listening {
    /// Whether it has heard all that was said up to `end`.
    pub(super) fn has_all(&self, end: u64) -> bool {
        self.next == end && self.ended.is_empty()
    }
}

/// The asides of a mirror.
#[derive(Debug, Default)]
pub(super) struct Asides {
    typers: Typers,
    /// The number of the first one in the ring.
    first: u64,
    ring: VecDeque<Arc<Aside>>,
    bytes: usize,
}

impl Asides {
    /// The number of the next one.
    pub fn end(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    /// A watcher begins, and hears what is said from here on.
    pub fn listen(&self, connection: ConnectionId) -> Listening {
        Listening { next: self.end(), connection, told: BTreeSet::new(), ended: Vec::new() }
    }

    /// Something was said; typing lasts until then.
    pub fn hear(&mut self, said: Said, until: Instant) {
        let Said { user, connection, what } = said;
        match what {
            What::Typing(true) => {
                let turn = self.typers.begin(&user, &connection, until);
                self.turn(turn);
            }
            What::Typing(false) => self.gone(&user, &connection),
            What::Signal { echo, .. } => {
                self.push(Aside { user, what, skips: (!echo).then_some(connection), encoded: Encoded::default() });
            }
        }
    }

    /// A connection is not there any more, or types no more.
    pub fn gone(&mut self, user: &UserName, connection: &ConnectionId) {
        let turn = self.typers.end(user, connection);
        self.turn(turn);
    }

    /// Ends what is over by time, and says when the next is.
    pub fn end_due(&mut self, now: Instant) -> Option<Instant> {
        let turns = self.typers.end_due(now);
        self.turn(turns);
        self.typers.next_at()
    }

    fn turn(&mut self, turns: impl IntoIterator<Item = Turn>) {
        for Turn { user, typing, by } in turns {
            self.push(Aside { user, what: What::Typing(typing), skips: Some(by), encoded: Encoded::default() });
        }
    }

    fn push(&mut self, aside: Aside) {
        self.bytes += aside.bytes();
        self.ring.push_back(Arc::new(aside));
        while self.ring.len() > RING || (self.bytes > RING_BYTES && self.ring.len() > 1) {
            let oldest = self.ring.pop_front().expect("it is not empty");
            self.bytes -= oldest.bytes();
            self.first += 1;
        }
    }

    /// Nobody watches: whoever comes hears what is said then.
    pub fn forget(&mut self) {
        self.first = self.end();
        self.ring.clear();
        self.bytes = 0;
    }

    /// What the watcher is told next, and how many were lost to them before it.
    pub fn next(&self, listening: &mut Listening) -> Option<(Arc<Aside>, u64)> {
        let lost = self.first.saturating_sub(listening.next);
        if lost > 0 {
            listening.next = self.first;
            listening.ended = listening.told.iter().filter(|user| self.has_ended_unheard(user)).cloned().collect();
        }
        if let Some(user) = listening.ended.pop() {
            listening.told.remove(&user);
            let what = What::Typing(false);
            return Some((Arc::new(Aside { user, what, skips: None, encoded: Encoded::default() }), lost));
        }
        while listening.next < self.end() {
            let at = usize::try_from(listening.next - self.first).ok()?;
            let aside = self.ring.get(at)?;
            listening.next += 1;
            let is_told = match &aside.what {
                _ if aside.skips.as_ref() == Some(&listening.connection) => false,
                What::Typing(true) => listening.told.insert(aside.user.clone()),
                What::Typing(false) => listening.told.remove(&aside.user),
                What::Signal { .. } => true,
            };
            if is_told {
                return Some((aside.clone(), lost));
            }
        }
        None
    }

    /// Whether somebody types no more, and the ring does not say so any more.
    fn has_ended_unheard(&self, user: &UserName) -> bool {
        let says_so = |aside: &Arc<Aside>| matches!(aside.what, What::Typing(false)) && aside.user == *user;
        !self.typers.has(user) && !self.ring.iter().any(says_so)
    }
}
