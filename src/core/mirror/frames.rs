//! What mirrors hand out: frames of changes and frozen copies, each encoded once for all who get it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;

use super::Aside;
use crate::domain::{
    delta::{ConnectionDelta, UserDelta},
    level::Level,
    member::{Member, Occupancy, Present, Shown},
    mode::Mode,
    name::ConnectionId,
    version::Version,
};

/// One encoded form of something, made by the first who needs it and shared by all.
#[derive(Debug, Default)]
pub struct Encoded(OnceLock<Vec<Bytes>>);

impl Encoded {
    /// The encoded frames; `encode` runs once.
    pub fn get(&self, encode: impl FnOnce() -> Vec<Bytes>) -> &[Bytes] {
        self.0.get_or_init(encode)
    }
}

/// The changes that a level shows.
#[derive(Debug, Clone)]
pub enum Lists {
    /// Level users.
    Users(UserDelta),
    /// Level connections.
    Connections(ConnectionDelta),
    /// Level occupancy, or that mode: no lists.
    Occupancy,
}

impl Lists {
    /// How much is shown of those who are in them, bytes.
    pub(crate) fn bytes(&self) -> usize {
        let of = |shown: &Shown| shown.state.get().len() + shown.info.as_ref().map_or(0, |info| info.get().len());
        match self {
            Self::Users(UserDelta { join, update, leave }) => {
                let left = leave.iter().map(|leave| &leave.member);
                join.iter().chain(update).chain(left).map(|member| of(&member.latest)).sum()
            }
            Self::Connections(ConnectionDelta { join, update, leave }) => {
                let left = leave.iter().map(|(connected, _)| connected);
                join.iter().chain(update).chain(left).map(|(_, present)| of(&present.shown)).sum()
            }
            Self::Occupancy => 0,
        }
    }
}

/// One frame of changes, shared by all watchers of a level.
#[derive(Debug)]
pub struct Frame {
    /// How its watchers are told of changes.
    pub mode: Mode,
    /// The version before.
    pub from: Version,
    /// The version after.
    pub to: Version,
    /// What changed.
    pub lists: Lists,
    /// The counts after.
    pub occupancy: Occupancy,
    /// Unix milliseconds.
    pub time: u64,
    /// Since when a change of this instance was wanted that the frame tells of, where that is timed.
    pub wanted_at: Option<Instant>,
    /// As the native door sends it.
    pub encoded: Encoded,
}

/// The whole roster as a level shows it.
#[derive(Debug)]
pub enum Whole {
    /// Level users: the members in the order of the list.
    Users(Vec<Member>),
    /// Level connections.
    Connections(Vec<(ConnectionId, Present)>),
    /// Level occupancy, or that mode.
    Occupancy,
}

/// A frozen copy at one version.
#[derive(Debug)]
pub struct Snapshot {
    /// Whose view it is.
    pub level: Level,
    /// How its watchers are told of changes.
    pub mode: Mode,
    /// The version.
    pub version: Version,
    /// The entries.
    pub whole: Whole,
    /// The counts.
    pub occupancy: Occupancy,
    /// Unix milliseconds.
    pub time: u64,
    /// As the native door sends it after a watch: pages without a cause.
    pub encoded: Encoded,
}

/// A frozen copy for those who read slowly, or are told in another mode from now on. They share it, however long each of them needs for it, and it holds nothing but its pages.
#[derive(Debug)]
pub struct Copy {
    cause: Cause,
    state: (Version, Occupancy),
    snapshot: Mutex<Option<Arc<Snapshot>>>,
    pages: Encoded,
    /// For those who look at it and not at its pages.
    #[cfg(test)]
    whole: Arc<Snapshot>,
}

impl Copy {
    pub(super) fn of(snapshot: Arc<Snapshot>, cause: Cause) -> Self {
        Self {
            cause,
            state: (snapshot.version.clone(), snapshot.occupancy),
            #[cfg(test)]
            whole: snapshot.clone(),
            snapshot: Mutex::new(Some(snapshot)),
            pages: Encoded::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn whole(&self) -> &Snapshot {
        &self.whole
    }

    /// The version and the counts.
    pub(crate) fn state(&self) -> (Version, Occupancy) {
        self.state.clone()
    }

    /// Why it is sent.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// The pages as the native door sends them again, with their cause; `encode` runs once.
    pub fn pages(&self, encode: impl FnOnce(&Snapshot) -> Vec<Bytes>) -> &[Bytes] {
        self.pages.get(|| {
            let snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).take();
            snapshot.map(|snapshot| encode(&snapshot)).unwrap_or_default()
        })
    }

    /// How many bytes its pages have; 0 as long as nobody has asked for them.
    pub(super) fn bytes(&self) -> usize {
        self.pages.0.get().map_or(0, |pages| pages.iter().map(Bytes::len).sum())
    }
}

/// Why a snapshot is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The watcher was too slow for single changes.
    Slow,
    /// Its watchers are told of changes in another mode.
    Mode,
}

impl Cause {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Mode => "mode",
        }
    }
}

/// What a watcher gets next.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// The whole, to begin with.
    Snapshot(Arc<Snapshot>),
    /// The whole once more: the watcher was too slow for single changes, or the mode has changed.
    Copy(Arc<Copy>),
    /// A change.
    Frame(Arc<Frame>),
    /// What was said in passing.
    Aside {
        /// What.
        aside: Arc<Aside>,
        /// How many were lost before it to a watcher who was behind.
        lost: u64,
    },
}
