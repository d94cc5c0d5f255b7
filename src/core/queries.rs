//! What can be asked, and presence on somebody's behalf.

use std::sync::Arc;

use serde_json::{Map, Value, value::RawValue};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::{
    Core,
    error::{Code, Error},
    ledger::Content,
    mirror::present,
    session::WAIT,
};
use crate::{
    domain::{
        member::{Member, Occupancy, Reason, Roll, Shown, Status, Whereabouts},
        name::{ChannelName, ConnectionId, RosterKey, UserName},
        partition::Beat,
        roster::{Ask, Body, Entry, Keep, Outcome},
        time::wall_now_ms,
        version::Version,
    },
    store::{Index, Person, Reading, StoreError, Totals},
};

/// How many are in a channel.
#[derive(Debug, Clone)]
pub struct Count {
    /// The version.
    pub version: Version,
    /// The counts.
    pub occupancy: Occupancy,
    /// Whether the store is out of reach or settles, and this is what this instance last knew.
    pub stale: bool,
}

/// Who is in a channel.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The version.
    pub version: Version,
    /// Everybody, who has been there longest first.
    pub members: Vec<Member>,
    /// The counts.
    pub occupancy: Occupancy,
    /// As in [`Count`].
    pub stale: bool,
}

/// One connection of a user.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its id.
    pub connection: ConnectionId,
    /// What it runs on.
    pub device: Option<Arc<str>>,
    /// Since when, unix milliseconds.
    pub since: u64,
    /// Where it is.
    pub channels: Vec<ChannelName>,
}

/// A user, online or not.
#[derive(Debug, Clone)]
pub struct UserInfo {
    /// Who.
    pub user: UserName,
    /// How; none when offline.
    pub status: Option<Status>,
    /// Since when online, unix milliseconds.
    pub since: Option<u64>,
    /// When the last connection left, unix milliseconds.
    pub last_seen: Option<u64>,
    /// The connections.
    pub devices: Vec<Device>,
    /// The version of the user's roster.
    pub version: Version,
    /// As in [`Count`].
    pub stale: bool,
}

impl Core {
    /// The counts of channels, in the order asked.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when the store is away and this instance knows nothing of one of them.
    pub async fn counts(&self, channels: &[ChannelName]) -> Result<Vec<Count>, Error> {
        match self.store.counts(channels).await {
            Ok(counted) => Ok(counted
                .into_iter()
                .map(|one| Count { version: one.version, occupancy: one.occupancy, stale: one.settling })
                .collect()),
            Err(error) => {
                let known = channels.iter().map(|channel| {
                    let (version, roll) = self.remembered(channel)?;
                    Some(Count { version, occupancy: roll.occupancy(), stale: true })
                });
                known.collect::<Option<_>>().ok_or_else(|| self.refuse(error))
            }
        }
    }

    /// Everybody in a channel at one version.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when the store is away and nobody here watches the channel.
    pub async fn listing(&self, channel: &ChannelName) -> Result<Listing, Error> {
        let (version, roll, stale) = match self.store.read(&RosterKey::Channel(channel.clone())).await {
            Ok(reading) => (reading.version(), roll_of(&reading), reading.settling),
            Err(error) => {
                let (version, roll) = self.remembered(channel).ok_or_else(|| self.refuse(error))?;
                (version, roll, true)
            }
        };
        Ok(Listing { version, members: roll.members(), occupancy: roll.occupancy(), stale })
    }

    /// What this instance last knew of a channel that somebody here watches.
    fn remembered(&self, channel: &ChannelName) -> Option<(Version, Roll)> {
        self.mirrors.get(&RosterKey::Channel(channel.clone()))?.roll()
    }

    /// Users, in the order asked.
    ///
    /// # Errors
    /// [`Code::Unavailable`].
    pub async fn users(&self, users: &[UserName]) -> Result<Vec<UserInfo>, Error> {
        let people = self.store.people(users).await.map_err(|error| self.refuse(error))?;
        Ok(users.iter().zip(people).map(|(user, person)| user_info(user, &person)).collect())
    }

    /// The names in an index after `after`, at most `most`.
    ///
    /// # Errors
    /// [`Code::Unavailable`].
    pub async fn names(
        &self,
        index: Index,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<String>, Error> {
        self.store.names(index, prefix, after, most).await.map_err(|error| self.refuse(error))
    }

    /// The counts over everything.
    ///
    /// # Errors
    /// [`Code::Unavailable`].
    pub async fn totals(&self) -> Result<Totals, Error> {
        self.store.totals().await.map_err(|error| self.refuse(error))
    }

    /// Forgets when a user was last seen.
    ///
    /// # Errors
    /// [`Code::Unavailable`].
    pub async fn forget_user(&self, user: &UserName) -> Result<(), Error> {
        self.store.forget_user(user).await.map_err(|error| self.refuse(error))
    }

    /// Keeps the text of a list for its later pages, for every instance, about a minute.
    ///
    /// # Errors
    /// [`Code::Unavailable`].
    pub async fn freeze(&self, name: &str, text: &str) -> Result<(), Error> {
        self.store.freeze(name, text).await.map_err(|error| self.refuse(error))
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`Code::Unavailable`].
    pub async fn thaw(&self, name: &str) -> Result<Option<String>, Error> {
        self.store.thaw(name).await.map_err(|error| self.refuse(error))
    }

    /// Joins, renews and replaces on a user's behalf: a connection of its own beside the living ones, which ends after `ttl_ms`.
    /// Returns the version of the channel of which it is part.
    ///
    /// # Errors
    /// [`Code::Limit`], [`Code::TooLarge`], [`Code::Unavailable`].
    pub async fn lease(
        &self,
        channel: &ChannelName,
        user: &UserName,
        state: Map<String, Value>,
        ttl_ms: u64,
    ) -> Result<Version, Error> {
        let most = self.settings.limits.state_bytes;
        let state = serde_json::value::to_raw_value(&state).expect("a map of JSON values is JSON");
        if state.get().len() > most {
            return Err(Error::new(Code::TooLarge, format!("a state has at most {most} bytes of JSON")));
        }
        if self.settings.namespace(channel).is_some_and(|namespace| !namespace.presence) {
            return Err(Error::new(Code::Forbidden, format!("presence is not available in `{channel}`")));
        }
        let connection = lease_connection(channel, user);
        let in_channel = RosterKey::Channel(channel.clone());
        let of_user = RosterKey::User(user.clone());
        let before = self.store.rows(&[(in_channel.clone(), connection.clone())]).await;
        let before = before.map_err(|error| self.refuse(error))?.pop().flatten();
        let before = before.and_then(|row| serde_json::from_str::<Shown>(&row.payload).ok());
        let since = before.as_ref().map_or_else(wall_now_ms, |shown| shown.since);
        let shown = |state: Arc<RawValue>| {
            let shown = Shown { status: Status::Online, state, info: None, device: Some("lease".into()), since };
            Arc::<str>::from(serde_json::to_string(&shown).expect("what is shown is JSON"))
        };
        let whereabouts = Whereabouts { channels: [channel.clone()].into() };
        let content = |private: Arc<str>, payload| Content { grace_ms: ttl_ms, since, changed: 0, private, payload };
        let for_user = content(whereabouts.to_json(), shown(crate::domain::member::empty_state()));
        let for_channel = content("{}".into(), shown(Arc::from(state)));
        let limit = self.settings.namespace(channel).and_then(|namespace| namespace.max_members);
        let limit = limit.unwrap_or(self.settings.limits.members_per_channel) as u64;

        // The user's row decides the take; the channel's follows.
        // A lease that has ended leaves its take barred for a while, and the next begins under the same id: so it begins at a take that was
        // not there before. Where the user's row is still there, the take after that row's is a new one too.
        let first = if before.is_some() { 0 } else { u64::from(rand::random::<u32>()) + 1 };
        let begun = match self.lease_row(&of_user, &connection, user, first, 0, &for_user, ttl_ms).await {
            Err(Error { code: Code::Conflict, .. }) if first > 0 => {
                self.lease_row(&of_user, &connection, user, 0, 0, &for_user, ttl_ms).await
            }
            begun => begun,
        };
        let ((take, user_beat), _) = begun?;
        let ((_, beat), number) =
            self.lease_row(&in_channel, &connection, user, take, limit, &for_channel, ttl_ms).await?;
        self.ledger.open(&connection, user, take, 0, None);
        self.ledger.remember_lease(&connection, &of_user, for_user, ttl_ms, &user_beat);
        self.ledger.remember_lease(&connection, &in_channel, for_channel, ttl_ms, &beat);
        Ok(Version { epoch: beat.epoch, number })
    }

    #[allow(clippy::too_many_arguments, reason = "one row of two that a lease writes")]
    async fn lease_row(
        &self,
        roster: &RosterKey,
        connection: &ConnectionId,
        user: &UserName,
        take: u64,
        limit: u64,
        content: &Content,
        ttl_ms: u64,
    ) -> Result<((u64, Beat), u64), Error> {
        let Content { grace_ms, since, changed, private, payload } = content.clone();
        let body = Body { user: user.clone(), valid: 0, grace_ms, since, changed, private, payload };
        let keep = Keep::Ending { remaining_ms: ttl_ms };
        let ask = Ask::Present { take, fresh: true, limit, keep, body };
        let entry = Entry { roster: roster.clone(), connection: connection.clone(), ask };
        match self.ask(entry).await? {
            (Outcome::Done { take, number, .. }, beat) => Ok(((take, beat), number)),
            (Outcome::Full, _) => {
                Err(Error::new(Code::Limit, format!("the channel has as many members as it may have ({limit})")))
            }
            _ => Err(Error::new(
                Code::Conflict,
                "somebody else renewed or ended this lease at the same moment; try again",
            )),
        }
    }

    /// Ends what [`Core::lease`] began; nothing else of the user's.
    ///
    /// # Errors
    /// [`Code::Unavailable`].
    pub async fn end_lease(&self, channel: &ChannelName, user: &UserName) -> Result<(), Error> {
        let connection = lease_connection(channel, user);
        for roster in [RosterKey::Channel(channel.clone()), RosterKey::User(user.clone())] {
            let ask = Ask::Absent { take: None, reason: Reason::Left };
            self.ask(Entry { roster: roster.clone(), connection: connection.clone(), ask }).await?;
        }
        self.ledger.drop_lease(&connection);
        Ok(())
    }

    /// Asks one thing of the store and waits for the answer.
    pub(crate) async fn ask(&self, entry: Entry) -> Result<(Outcome, Beat), Error> {
        let too_many = || Error::unavailable("too much waits for the store of presence");
        let answer = self.ledger.ask(entry).ok_or_else(too_many)?;
        match timeout(WAIT, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(Error::unavailable("the store of presence did not answer in time")),
        }
    }

    fn refuse(&self, error: StoreError) -> Error {
        tracing::debug!(%error, "a question could not be answered");
        error.into()
    }
}

/// One connection for each channel and user, the same on every instance.
fn lease_connection(channel: &ChannelName, user: &UserName) -> ConnectionId {
    let mut hash = Sha256::new();
    hash.update(b"lease\0");
    hash.update(channel.as_str());
    hash.update(b"\0");
    hash.update(user.as_str());
    let digest = hash.finalize();
    ConnectionId::from_bytes(digest[..16].try_into().expect("a digest has 32 bytes"))
}

fn roll_of(reading: &Reading) -> Roll {
    reading.rows.iter().filter_map(|(id, row)| Some((id.clone(), present(row)?))).collect()
}

fn user_info(user: &UserName, person: &Person) -> UserInfo {
    let reading = &person.reading;
    let mut devices = Vec::new();
    for (connection, row) in &reading.rows {
        let Some(present) = present(row) else { continue };
        devices.push(Device {
            connection: connection.clone(),
            device: present.shown.device.clone(),
            since: present.shown.since,
            channels: Whereabouts::from_json(&row.private).channels.into_iter().collect(),
        });
    }
    devices.sort_by(|a, b| (a.since, &a.connection).cmp(&(b.since, &b.connection)));
    let member = roll_of(reading).member(user);
    UserInfo {
        user: user.clone(),
        status: member.as_ref().map(|member| member.status),
        since: member.as_ref().map(|member| member.since),
        last_seen: person.last_seen.filter(|_| member.is_none()),
        devices,
        version: reading.version(),
        stale: reading.settling,
    }
}
