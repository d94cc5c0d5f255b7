//! Where presence lives: what a store does, and what a feed tells.

pub mod address;
pub mod memory;
mod queue;
pub mod redis;
mod settings;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::domain::{
    aside::Said,
    bar::{Barring, BarsThere},
    member::Occupancy,
    name::{ChannelName, ConnectionId, RosterKey, UserName},
    partition::{Batch, Beat, Refusal, Renewal, Sweep, Swept},
    person::Record,
    roster::{Control, Generation, IndexChange, Outcome, Published, Row},
    version::{Epoch, Version},
};

pub use settings::Settings;

/// Why a store could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Out of reach, or too slow. What was asked may or may not have happened.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store holds what this program cannot read, or refuses what it must accept.
    #[error("the store is not usable: {0}")]
    Unusable(String),
}

/// The number of a partition.
pub type PartitionId = u16;

/// An answer to a renewal.
#[derive(Debug, Clone)]
pub struct Renewed {
    /// The partition.
    pub beat: Beat,
    /// The link over which the lease is registered now. Grows with each new connection to the store.
    pub link: u64,
}

/// A roster as it was read at one version.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The epoch.
    pub epoch: Epoch,
    /// Whether instances still confirm what they hold: rows may be missing.
    pub settling: bool,
    /// The number; none means empty, whatever was known before.
    pub number: Option<u64>,
    /// The rows.
    pub rows: Vec<(ConnectionId, Row)>,
}

impl Reading {
    /// The version; number 0 where there is none.
    pub fn version(&self) -> Version {
        Version { epoch: self.epoch.clone(), number: self.number.unwrap_or(0) }
    }
}

/// The numbers of some rosters of one partition.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// The epoch.
    pub epoch: Epoch,
    /// Whether it settles.
    pub settling: bool,
    /// As asked, in order.
    pub numbers: Vec<Option<u64>>,
    /// The number of the last change of the partition's indexes.
    pub index: u64,
}

/// The counts of a channel at a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The version.
    pub version: Version,
    /// Whether the epoch settles.
    pub settling: bool,
    /// The counts.
    pub occupancy: Occupancy,
}

/// Who is in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// Whether the epoch settles.
    pub settling: bool,
    /// The users, in no order.
    pub users: Vec<UserName>,
}

/// A user as the store knows it.
#[derive(Debug, Clone)]
pub struct Person {
    /// The connections that others see, with the version.
    pub reading: Reading,
    /// Those that others do not see.
    pub hidden: Vec<(ConnectionId, Row)>,
    /// What the person has chosen, and an app says of them.
    pub record: Option<Record>,
    /// When the last connection that others saw left, unix milliseconds.
    pub last_seen: Option<u64>,
    /// When the person was active last, unix milliseconds.
    pub last_active: Option<u64>,
}

/// What a page of an audit has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
    /// How many commands it took, about.
    pub asked: u32,
}

/// Which index is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Index {
    /// Users with a connection.
    Online,
    /// Users with a connection that others do not see.
    Unseen,
    /// Channels with a connection.
    Occupied,
    /// Users of whom something is kept, online or not.
    Known,
}

/// Counts over the whole store.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Users online.
    pub users: u64,
    /// Channels occupied.
    pub channels: u64,
    /// Users who came into channels since the store was empty, counted where it was decided.
    pub joins: u64,
    /// Users who left channels, in the same way.
    pub leaves: u64,
    /// Instances with a lease, in the order of their generations. One that had to register anew stands here twice until all its old rows are taken over.
    pub instances: Vec<Registered>,
}

/// An instance as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Who.
    pub generation: Generation,
    /// The program's version.
    pub version: Arc<str>,
    /// How many connections of users it holds.
    pub connections: u64,
    /// What remains of its lease, milliseconds of presence time; of several leases, of the one that ends first.
    pub lease_ms: u64,
}

/// Where presence state lives. All calls are bounded in time and answer [`StoreError::Unavailable`] when the store is out of reach.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// How many partitions there are; fixed for the life of the store.
    fn partitions(&self) -> u16;

    /// The partition of a roster: a stable hash of its name.
    fn partition_of(&self, roster: &RosterKey) -> PartitionId;

    /// Registers an instance or renews its lease (`renewal.link` is ignored: the store fills in its own). Connects where there is no connection.
    async fn renew(&self, partition: PartitionId, renewal: Renewal) -> Result<Result<Renewed, Refusal>, StoreError>;

    /// Carries out a batch, each entry on its own, or refuses it whole. Never connects by itself: after an error, renew first.
    async fn write(
        &self,
        partition: PartitionId,
        batch: &Batch,
    ) -> Result<Result<(Beat, Vec<Outcome>), Refusal>, StoreError>;

    /// Ends what is due and lists what is due next, at most `most` rows.
    async fn sweep(&self, partition: PartitionId, sweep: &Sweep, most: usize) -> Result<Swept, StoreError>;

    /// Looks at a page of rosters, mends their index and lets rows end that nothing alive answers for.
    async fn audit(&self, partition: PartitionId, cursor: Option<String>) -> Result<Audited, StoreError>;

    /// Adds to those who may not come in, and lists some of them; all instances are told of what is new. They stand in the partition of the schema.
    async fn bar(&self, barring: &Barring) -> Result<BarsThere, StoreError>;

    /// Tells something to one instance, or to all, by a partition. Once, and only to those that hear just now.
    async fn tell(&self, partition: PartitionId, instance: Option<&str>, control: &Control) -> Result<(), StoreError>;

    /// A page of what a generation holds in a partition, with the cursor of the next; about `most` rows.
    async fn held(
        &self,
        partition: PartitionId,
        generation: &Generation,
        cursor: Option<String>,
        most: usize,
    ) -> Result<(Vec<(RosterKey, ConnectionId)>, Option<String>), StoreError>;

    /// A whole roster at one version.
    async fn read(&self, roster: &RosterKey) -> Result<Reading, StoreError>;

    /// Single rows.
    async fn rows(&self, keys: &[(RosterKey, ConnectionId)]) -> Result<Vec<Option<Row>>, StoreError>;

    /// The numbers of rosters of one partition, and of its indexes, at one moment.
    async fn numbers(&self, partition: PartitionId, rosters: &[RosterKey]) -> Result<Numbers, StoreError>;

    /// The counts of channels.
    async fn counts(&self, channels: &[ChannelName]) -> Result<Vec<Counted>, StoreError>;

    /// Who is in channels, each user once for a channel, in no order.
    async fn inside(&self, channels: &[ChannelName]) -> Result<Vec<Inside>, StoreError>;

    /// Users with their connections.
    async fn people(&self, users: &[UserName]) -> Result<Vec<Person>, StoreError>;

    /// The names in an index, in order of their bytes, that begin with `prefix` and come after `after`; at most `most`.
    async fn names(
        &self,
        index: Index,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<String>, StoreError>;

    /// The counts over everything.
    async fn totals(&self) -> Result<Totals, StoreError>;

    /// Tells whoever follows the roster just now what is said there, and keeps nothing of it.
    async fn say(&self, roster: &RosterKey, said: &Said) -> Result<(), StoreError>;

    /// Keeps a frozen text (pages of a list at one version) for about a minute, for every instance.
    async fn freeze(&self, name: &str, text: &str) -> Result<(), StoreError>;

    /// Reads back what [`Store::freeze`] kept, if it is still there.
    async fn thaw(&self, name: &str) -> Result<Option<String>, StoreError>;

    /// Keeps a text for `ttl_ms` for the first who withdraws it, on whichever instance.
    async fn deposit(&self, name: &str, text: &str, ttl_ms: u64) -> Result<(), StoreError>;

    /// Takes out what [`Store::deposit`] kept: of all who try, over all instances, one gets it.
    async fn withdraw(&self, name: &str) -> Result<Option<String>, StoreError>;
}

/// The partition in which stands what there is once for all of them: the schema, and who may not come in.
pub const SCHEMA: PartitionId = 0;

/// What a feed hands on.
#[derive(Debug, Clone)]
pub enum FeedEvent {
    /// A followed roster changed.
    Published(Published),
    /// Something was said in a followed roster.
    Said(RosterKey, Said),
    /// Names came into the indexes of a partition or went out of them.
    Index(PartitionId, IndexChange),
    /// Instances are told something, by a partition.
    Control(PartitionId, Control),
    /// Events may have been missed; what follows is not known to be complete until `Restored`.
    Lost,
    /// The feed follows again all that it should; whatever was missed in between must be read.
    Restored,
}

/// How an instance hears of changes. A hint: correctness comes from versions.
#[async_trait]
pub trait Feed: Send + Sync + 'static {
    /// Follows a roster; returns when its changes are being heard. Counted: each follow wants an unfollow.
    async fn follow(&self, roster: &RosterKey) -> Result<(), StoreError>;

    /// Follows it once less.
    fn unfollow(&self, roster: &RosterKey);

    /// Follows what comes into the indexes of a partition and goes out of them; otherwise as [`Feed::follow`].
    async fn follow_index(&self, partition: PartitionId) -> Result<(), StoreError>;

    /// Follows it once less.
    fn unfollow_index(&self, partition: PartitionId);

    /// The next event. One caller only; the control messages for this instance come by themselves.
    async fn next(&self) -> FeedEvent;

    /// Returns when all is being heard that instances are told by a partition.
    async fn heard(&self, partition: PartitionId) {
        let _ = partition;
    }

    /// How long what is said takes to be heard, as far as is known; for how long nothing is heard, where nothing is.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }
}
