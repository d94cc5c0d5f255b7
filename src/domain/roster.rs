//! The primitive: a row for each connection in a roster, and what may be asked of it.

use std::{fmt, sync::Arc};

use super::{
    aside::Towards,
    bar::Bar,
    member::{Occupancy, Reason},
    name::{ChannelName, ConnectionId, RosterKey, UserName},
    person::Record,
    version::{Epoch, Version},
};

/// One running server process, by a random id of its own, and how often it had to register anew.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// Random letters and digits.
    pub instance: Arc<str>,
    /// Counts from 1.
    pub number: u64,
}

impl Generation {
    /// Reads back the stored form, `<instance>:<number>`.
    pub fn from_stored(text: &str) -> Option<Self> {
        let (instance, number) = text.split_once(':')?;
        Some(Self { instance: instance.into(), number: number.parse().ok()? })
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.instance, self.number)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Held or ending, never both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stay {
    /// This generation has the socket; the row lives while the generation's lease does.
    Held(Generation),
    /// Nobody has a socket; a deadline is set.
    Ending {
        /// With which reason it leaves when the deadline passes.
        reason: Reason,
        /// The instance that would send the row again if Redis lost it.
        by: Arc<str>,
    },
}

impl Stay {
    /// The instance that answers for the row.
    pub fn instance(&self) -> &Arc<str> {
        match self {
            Self::Held(generation) => &generation.instance,
            Self::Ending { by, .. } => by,
        }
    }
}

/// One connection in one roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Whose connection.
    pub user: UserName,
    /// How often the connection has been taken; the higher take wins.
    pub take: u64,
    /// The least take whose resume token is still good (meaningful in the user's roster).
    pub valid: u64,
    /// Held or ending.
    pub stay: Stay,
    /// The epoch in which somebody last answered for the row.
    pub epoch: Epoch,
    /// How long the connection keeps its place without a socket, milliseconds.
    pub grace_ms: u64,
    /// Since when the user has been in the roster without a break, unix milliseconds.
    pub since: u64,
    /// Orders the states of one user's connections.
    pub changed: u64,
    /// What others do not see and what is no change: JSON.
    pub private: Arc<str>,
    /// What others see: [`Shown`](super::member::Shown) as JSON.
    pub payload: Arc<str>,
}

/// The content of a row as its holder wants it: absolute values, so that sending it twice changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// Whose connection.
    pub user: UserName,
    /// The least take whose resume token is still good.
    pub valid: u64,
    /// Milliseconds without a socket.
    pub grace_ms: u64,
    /// Since when, as acknowledged before; the time of coming for a row that never was.
    pub since: u64,
    /// As acknowledged before for this payload; 0 when this payload is new.
    pub changed: u64,
    /// What others do not see.
    pub private: Arc<str>,
    /// What others see.
    pub payload: Arc<str>,
}

/// How a row is to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Held by the generation that writes.
    Held,
    /// Ending, after this many milliseconds of presence time. The deadline is set once per take and epoch; repeats do not move it.
    Ending {
        /// Milliseconds from now.
        remaining_ms: u64,
    },
}

/// What is asked of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Be there, like this.
    Present {
        /// The take of the writer; 0 asks for the next one, which takes the connection from whoever has it.
        take: u64,
        /// Whether a missing row may be made: the take was never acknowledged in this epoch.
        fresh: bool,
        /// The most users (channel) or connections (user) that the roster may have for somebody new to come in; 0 for no limit.
        limit: u64,
        /// Held or ending.
        keep: Keep,
        /// The content.
        body: Body,
    },
    /// Take the connection over for a socket that came with a resume token.
    Claim {
        /// The take that the token names.
        token_take: u64,
    },
    /// The writer's own `held` set names a row that the writer does not know: let it end after its grace.
    Release,
    /// Be gone.
    Absent {
        /// The take of the holder, or none from somebody else, whom any take obeys.
        take: Option<u64>,
        /// What others are told.
        reason: Reason,
    },
    /// Keep this of the person, unless what is kept has as high a serial. The roster is the user's, the connection is empty.
    Person {
        /// What is to be kept.
        record: Record,
    },
    /// The person was active at this time, unix milliseconds. No change of the roster.
    Active {
        /// When.
        at: u64,
    },
    /// Forget all that is kept of the person.
    Forget,
}

/// One entry of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub roster: RosterKey,
    /// Who.
    pub connection: ConnectionId,
    /// What.
    pub ask: Ask,
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Done {
        /// The take of the row.
        take: u64,
        /// The roster's number now.
        number: u64,
        /// The row's place among the states of the user.
        changed: u64,
        /// Since when the user is there.
        since: u64,
        /// What is kept of the person, where the row is a new one of a user.
        record: Option<Box<Record>>,
    },
    /// The connection is the writer's now, with this row.
    Claimed {
        /// The row as it is after the claim.
        row: Box<Row>,
        /// What is kept of the person.
        record: Option<Box<Record>>,
    },
    /// No row was made where others would see it: the person is shown to nobody.
    Hidden {
        /// What is kept of the person.
        record: Box<Record>,
    },
    /// Not kept: what is kept of the person is as recent or more so.
    Later {
        /// What is kept.
        record: Box<Record>,
    },
    /// There is no such row, and none was made.
    Gone,
    /// Another take has it.
    Lost,
    /// The roster has as many as it may have.
    Full,
}

/// A change of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The connection is there and shows this.
    Set {
        /// Which.
        connection: ConnectionId,
        /// Whose.
        user: UserName,
        /// Since when the user is there.
        since: u64,
        /// Its place among the user's states.
        changed: u64,
        /// What it shows, JSON.
        payload: Arc<str>,
    },
    /// The connection is gone.
    Remove {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: Reason,
    },
    /// What is kept of the user is another.
    Person,
}

/// What a roster's feed says: the changes that lead from one number to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Which roster.
    pub roster: RosterKey,
    /// Whose numbers.
    pub epoch: Epoch,
    /// The number before.
    pub from: u64,
    /// The number after.
    pub to: u64,
    /// The roster had no number: it was empty and unknown, whatever number a mirror remembers.
    pub starts: bool,
    /// The counts after.
    pub occupancy: Occupancy,
    /// In order.
    pub changes: Vec<Change>,
}

impl Published {
    /// The version after the changes.
    pub fn version(&self) -> Version {
        Version { epoch: self.epoch.clone(), number: self.to }
    }
}

/// What came into the indexes of users and of channels that others see, and what went out of them, in one call. Names only: how they are is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexChange {
    /// Whose numbers.
    pub epoch: Epoch,
    /// The number before.
    pub from: u64,
    /// The number after. Every such change of a partition has one, told or not.
    pub to: u64,
    /// Rosters that were empty and are not any more, in their order.
    pub come: Vec<RosterKey>,
    /// Rosters that are empty now.
    pub gone: Vec<RosterKey>,
}

/// What instances tell each other beside the rosters' feeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// A new epoch has begun.
    Epoch(Epoch),
    /// The epoch has settled.
    Settled(Epoch),
    /// The connections of a user who has several have changed, or what is kept of the user: whoever has some of them looks.
    Person(UserName),
    /// Somebody types towards one user, some of whose connections are here.
    Typing(Towards),
    /// A row that this instance answered for was removed or taken by somebody else.
    Overruled {
        /// Where.
        roster: RosterKey,
        /// Which connection.
        connection: ConnectionId,
        /// The take that lost it.
        take: u64,
        /// Why; [`Reason::Replaced`] for a take.
        reason: Reason,
    },
    /// Somebody may not come in, and whoever is in goes.
    Barred {
        /// Who, and for how long.
        bars: Vec<Bar>,
        /// What whoever is put out is told; may be empty.
        said: Arc<str>,
    },
    /// Every connection of the user ends now.
    PutOut {
        /// Whose.
        user: UserName,
        /// What they are told; may be empty.
        said: Arc<str>,
    },
    /// An app server has these connections join a channel.
    Join {
        /// Which.
        connections: Vec<ConnectionId>,
        /// Where.
        channel: ChannelName,
        /// With this state, an object as JSON; none leaves that of whoever is there.
        state: Option<Arc<str>>,
    },
}
