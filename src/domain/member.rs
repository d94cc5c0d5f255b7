//! What others see of somebody who is present.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    name::{ConnectionId, UserName},
    state,
};

/// How somebody is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not seen on any device for some minutes.
    Away,
    /// Not seen on any device for a minute.
    Idle,
    /// There.
    #[default]
    Online,
    /// There, and not to be disturbed. The greatest: what one device says of this holds for the person.
    Busy,
}

/// Why a connection is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It said so.
    Left,
    /// Its grace or its lease ran out.
    Timeout,
    /// Somebody who may put it out.
    Kicked,
    /// Another socket has the connection now.
    Replaced,
    /// The instance that had its socket died, and it did not come back elsewhere.
    InstanceLost,
    /// Its token ended.
    Expired,
}

impl Reason {
    /// All there are, in the order of the enum.
    pub const ALL: [Self; 6] =
        [Self::Left, Self::Timeout, Self::Kicked, Self::Replaced, Self::InstanceLost, Self::Expired];

    /// The name on the wire and in Redis.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Timeout => "timeout",
            Self::Kicked => "kicked",
            Self::Replaced => "replaced",
            Self::InstanceLost => "instance_lost",
            Self::Expired => "expired",
        }
    }

    /// Reads back [`Reason::as_str`].
    pub fn from_stored(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// What one connection shows of itself: the part of a row that others see. Stored as JSON, which scripts do not look into.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shown {
    /// How the user of the connection is there.
    pub status: Status,
    /// The connection's state in this channel, an object as compact JSON.
    pub state: Arc<RawValue>,
    /// The `info` of its token, an object as compact JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<Arc<RawValue>>,
    /// What the client said it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Arc<str>>,
    /// When this connection came, unix milliseconds of wall time.
    pub since: u64,
    /// The last words: a merge patch for the state that is shown when the connection goes without having said so. Others see nothing of it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_leave: Option<Arc<RawValue>>,
}

impl PartialEq for Shown {
    fn eq(&self, other: &Self) -> bool {
        self.looks_like(other)
            && self.on_leave.as_deref().map(RawValue::get) == other.on_leave.as_deref().map(RawValue::get)
    }
}

impl Shown {
    /// Whether others would see no difference.
    pub fn looks_like(&self, other: &Self) -> bool {
        self.status == other.status
            && self.state.get() == other.state.get()
            && self.info.as_deref().map(RawValue::get) == other.info.as_deref().map(RawValue::get)
            && self.device == other.device
            && self.since == other.since
    }

    /// As it is shown of somebody who has left: with the last words where they are due.
    pub fn at_last(self: &Arc<Self>, words: Option<&RawValue>) -> Arc<Self> {
        let Some(words) = words else { return self.clone() };
        Arc::new(Self { state: state::patched(&self.state, words), ..Self::clone(self) })
    }
}

/// The empty object, as the state of somebody who gave none.
pub fn empty_state() -> Arc<RawValue> {
    Arc::from(RawValue::from_string("{}".to_owned()).expect("`{}` is JSON"))
}

/// One connection in a roster, as mirrors and readers know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Present {
    /// Whose connection.
    pub user: UserName,
    /// Since when the user has been here without a break, over all of the user's connections; unix milliseconds.
    pub user_since: u64,
    /// Orders the states of a user's connections: the latest has the greatest.
    pub changed: u64,
    /// What it shows.
    pub shown: Arc<Shown>,
}

/// A user in a channel, seen over all of the user's connections there.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Who.
    pub user: UserName,
    /// The greatest status over the connections.
    pub status: Status,
    /// State and info are those of the latest among the connections that are still there.
    pub latest: Arc<Shown>,
    /// Since when, unix milliseconds.
    pub since: u64,
    /// How many connections.
    pub connections: usize,
}

impl Member {
    /// The member that these connections of one user make, or none without connections.
    pub fn over<'a>(connections: impl Iterator<Item = (&'a ConnectionId, &'a Present)>) -> Option<Self> {
        let mut member: Option<(u64, &ConnectionId, Self)> = None;
        for (id, present) in connections {
            match &mut member {
                None => {
                    let first = Self {
                        user: present.user.clone(),
                        status: present.shown.status,
                        latest: present.shown.clone(),
                        since: present.user_since,
                        connections: 1,
                    };
                    member = Some((present.changed, id, first));
                }
                Some((changed, latest, member)) => {
                    member.connections += 1;
                    member.since = member.since.min(present.user_since);
                    member.status = member.status.max(present.shown.status);
                    // Ids break ties, so that every mirror shows the same.
                    if (present.changed, id) > (*changed, *latest) {
                        (*changed, *latest) = (present.changed, id);
                        member.latest = present.shown.clone();
                    }
                }
            }
        }
        member.map(|(_, _, member)| member)
    }

    /// Whether others would see no difference.
    pub fn looks_like(&self, other: &Self) -> bool {
        self.status == other.status
            && self.since == other.since
            && self.connections == other.connections
            && self.latest.state.get() == other.latest.state.get()
            && self.latest.info.as_deref().map(RawValue::get) == other.latest.info.as_deref().map(RawValue::get)
    }
}

/// How many are in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Occupancy {
    /// Different users.
    pub users: u64,
    /// Their connections.
    pub connections: u64,
}

/// The connections of a roster by id, and the ids by user: what a mirror keeps and a reading becomes.
#[derive(Debug, Clone, Default)]
pub struct Roll {
    connections: BTreeMap<ConnectionId, Present>,
    users: BTreeMap<UserName, Vec<ConnectionId>>,
}

impl Roll {
    /// Puts a connection there, or replaces what it shows; returns what was there before.
    pub fn set(&mut self, id: ConnectionId, present: Present) -> Option<Present> {
        let ids = self.users.entry(present.user.clone()).or_default();
        if !ids.contains(&id) {
            ids.push(id.clone());
        }
        self.connections.insert(id, present)
    }

    /// Takes a connection away; returns what was there.
    pub fn remove(&mut self, id: &ConnectionId) -> Option<Present> {
        let present = self.connections.remove(id)?;
        if let Some(ids) = self.users.get_mut(&present.user) {
            ids.retain(|other| other != id);
            if ids.is_empty() {
                self.users.remove(&present.user);
            }
        }
        Some(present)
    }

    /// One connection.
    pub fn get(&self, id: &ConnectionId) -> Option<&Present> {
        self.connections.get(id)
    }

    /// All connections, by id.
    pub fn connections(&self) -> impl Iterator<Item = (&ConnectionId, &Present)> {
        self.connections.iter()
    }

    /// The connections of one user.
    pub fn of_user(&self, user: &UserName) -> impl Iterator<Item = (&ConnectionId, &Present)> {
        self.users.get(user).into_iter().flatten().filter_map(|id| self.connections.get_key_value(id))
    }

    /// One member.
    pub fn member(&self, user: &UserName) -> Option<Member> {
        Member::over(self.of_user(user))
    }

    /// All members, in the order of the member list: who has been here longest stands first.
    pub fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = self.users.keys().filter_map(|user| self.member(user)).collect();
        members.sort_by(|a, b| (a.since, &a.user).cmp(&(b.since, &b.user)));
        members
    }

    /// The counts.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy { users: self.users.len() as u64, connections: self.connections.len() as u64 }
    }
}

impl FromIterator<(ConnectionId, Present)> for Roll {
    fn from_iter<I: IntoIterator<Item = (ConnectionId, Present)>>(rows: I) -> Self {
        let mut roll = Self::default();
        for (id, present) in rows {
            roll.set(id, present);
        }
        roll
    }
}

/// What the row in a user's roster says beside what others see: where the connection is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// The channels that it has joined. Entered here before the channel's own row is made, erased after that is gone.
    pub channels: std::collections::BTreeSet<super::name::ChannelName>,
}

impl Whereabouts {
    /// As it is stored.
    pub fn to_json(&self) -> Arc<str> {
        serde_json::to_string(self).expect("names are texts").into()
    }

    /// Reads back what was stored; what cannot be read names no channel.
    pub fn from_json(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }
}
