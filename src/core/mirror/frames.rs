//! What mirrors hand out: frames of changes and frozen copies, each encoded once for all who get it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::time::Instant;

use crate::domain::{
    delta::{ConnectionDelta, UserDelta},
    member::{Member, Occupancy, Present},
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
    /// Level occupancy: no lists.
    Occupancy,
}

/// One frame of changes, shared by all watchers of a level.
#[derive(Debug)]
pub struct Frame {
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
    /// Level occupancy.
    Occupancy,
}

/// A frozen copy at one version.
#[derive(Debug)]
pub struct Snapshot {
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
    /// As the native door sends it again, with its cause.
    pub encoded_again: Encoded,
}

/// Why a snapshot is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The watcher was too slow for single changes.
    Slow,
}

impl Cause {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
        }
    }
}

/// What a watcher gets next.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// The whole.
    Snapshot(Arc<Snapshot>, Option<Cause>),
    /// A change.
    Frame(Arc<Frame>),
}
