//! What can be asked.

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{Core, error::Error, mirror::present};
use crate::{
    domain::{
        member::{Member, Occupancy, Present, Roll, Whereabouts},
        name::{ChannelName, ConnectionId, RosterKey, UserName},
        person::{Known, Record, View},
        roster::Row,
        time::wall_now_ms,
        version::Version,
    },
    store::{Index, Inside, Person, Reading, StoreError, Totals},
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

/// Who is in a channel. Shared by all who asked at the same time.
#[derive(Debug)]
pub struct Listing {
    /// The version.
    pub version: Version,
    /// Everybody, who has been there longest first.
    pub members: Vec<Member>,
    /// The counts.
    pub occupancy: Occupancy,
    /// As in [`Count`].
    pub stale: bool,
    /// Whether its later pages have been put where every instance finds them, which whoever needs them first does for all.
    pub kept: OnceCell<()>,
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
    /// How the user is shown.
    pub view: View,
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
    /// [`Code::Unavailable`](super::Code::Unavailable) when the store is away and this instance knows nothing of one of them;
    /// [`Code::Forbidden`](super::Code::Forbidden) where one of them has no presence.
    pub async fn counts(&self, channels: &[ChannelName]) -> Result<Vec<Count>, Error> {
        channels.iter().try_for_each(|channel| self.settings.check_presence(channel))?;
        let rosters = channels.iter().cloned().map(RosterKey::Channel);
        match self.reach_of(rosters, self.store.counts(channels)).await {
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
    /// [`Code::Unavailable`](super::Code::Unavailable) when the store is away and nobody here watches the channel;
    /// [`Code::Forbidden`](super::Code::Forbidden) where it has no presence.
    pub async fn listing(&self, channel: &ChannelName) -> Result<Arc<Listing>, Error> {
        self.settings.check_presence(channel)?;
        self.listings.ask(channel, self.list(channel)).await
    }

    async fn list(&self, channel: &ChannelName) -> Result<Listing, Error> {
        let roster = RosterKey::Channel(channel.clone());
        let (version, roll, stale) = match self.reach_of([roster.clone()], self.store.read(&roster)).await {
            Ok(reading) => (reading.version(), roll_of(&reading), reading.settling),
            Err(error) => {
                let (version, roll) = self.remembered(channel).ok_or_else(|| self.refuse(error))?;
                (version, roll, true)
            }
        };
        let (members, occupancy) = (roll.members(), roll.occupancy());
        Ok(Listing { version, members, occupancy, stale, kept: OnceCell::new() })
    }

    /// What this instance last knew of a channel that somebody here watches.
    fn remembered(&self, channel: &ChannelName) -> Option<(Version, Roll)> {
        self.mirrors.get(&RosterKey::Channel(channel.clone()))?.roll()
    }

    /// Users as they are, in the order asked: whoever is invisible is so, and not offline.
    ///
    /// # Errors
    /// [`Code::Unavailable`](super::Code::Unavailable).
    pub async fn users(&self, users: &[UserName]) -> Result<Vec<UserInfo>, Error> {
        let rosters = users.iter().cloned().map(RosterKey::User);
        let people = self.reach_of(rosters, self.store.people(users)).await.map_err(|error| self.refuse(error))?;
        Ok(users.iter().zip(people).map(|(user, person)| user_info(user, &person)).collect())
    }

    /// Users as a client is shown them, who is one of them itself or not, in the order asked.
    ///
    /// # Errors
    /// [`Code::Unavailable`](super::Code::Unavailable).
    pub async fn views(&self, users: &[UserName], viewer: Option<&UserName>) -> Result<Vec<View>, Error> {
        let rosters = users.iter().cloned().map(RosterKey::User);
        let people = self.reach_of(rosters, self.store.people(users)).await.map_err(|error| self.refuse(error))?;
        let view = |(user, person): (&UserName, &Person)| {
            let devices = Devices::of(person);
            let known = devices.known(person);
            if viewer == Some(user) { known.truth() } else { known.to_others() }
        };
        Ok(users.iter().zip(&people).map(view).collect())
    }

    /// The names of users with a connection after `after`, at most `most`; whether others see it or not.
    ///
    /// # Errors
    /// [`Code::Unavailable`](super::Code::Unavailable).
    pub async fn users_there(&self, prefix: &str, after: Option<&str>, most: usize) -> Result<Vec<String>, Error> {
        let seen = self.names(Index::Online, prefix, after, most).await?;
        let unseen = self.names(Index::Unseen, prefix, after, most).await?;
        let names: std::collections::BTreeSet<String> = seen.into_iter().chain(unseen).collect();
        Ok(names.into_iter().take(most).collect())
    }

    /// Who is in channels, in the order asked, as others see it.
    pub(super) async fn inside(&self, channels: &[ChannelName]) -> Result<Vec<Inside>, Error> {
        let rosters = channels.iter().cloned().map(RosterKey::Channel);
        self.reach_of(rosters, self.store.inside(channels)).await.map_err(|error| self.refuse(error))
    }

    /// The names of users who are there or of whom something is kept, after `after`, at most `most`.
    ///
    /// # Errors
    /// [`Code::Unavailable`](super::Code::Unavailable).
    pub async fn users_known(&self, prefix: &str, after: Option<&str>, most: usize) -> Result<Vec<String>, Error> {
        let there = self.users_there(prefix, after, most).await?;
        let kept = self.names(Index::Known, prefix, after, most).await?;
        let names: std::collections::BTreeSet<String> = there.into_iter().chain(kept).collect();
        Ok(names.into_iter().take(most).collect())
    }

    /// The names in an index after `after`, at most `most`.
    ///
    /// # Errors
    /// [`Code::Unavailable`](super::Code::Unavailable).
    pub async fn names(
        &self,
        index: Index,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<String>, Error> {
        self.reach(self.store.names(index, prefix, after, most)).await.map_err(|error| self.refuse(error))
    }

    /// The counts over everything.
    ///
    /// # Errors
    /// [`Code::Unavailable`](super::Code::Unavailable).
    pub async fn totals(&self) -> Result<Totals, Error> {
        self.reach(self.store.totals()).await.map_err(|error| self.refuse(error))
    }

    /// Keeps the text of a list for its later pages, for every instance, about a minute.
    ///
    /// # Errors
    /// [`Code::Unavailable`](super::Code::Unavailable).
    pub async fn freeze(&self, name: &str, text: &str) -> Result<(), Error> {
        self.reach(self.store.freeze(name, text)).await.map_err(|error| self.refuse(error))
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`Code::Unavailable`](super::Code::Unavailable).
    pub async fn thaw(&self, name: &str) -> Result<Option<String>, Error> {
        self.reach(self.store.thaw(name)).await.map_err(|error| self.refuse(error))
    }

    /// Keeps a text for the first who withdraws it, on any instance, for `ttl_ms`.
    ///
    /// # Errors
    /// [`Code::Unavailable`](super::Code::Unavailable).
    pub async fn deposit(&self, name: &str, text: &str, ttl_ms: u64) -> Result<(), Error> {
        self.reach(self.store.deposit(name, text, ttl_ms)).await.map_err(|error| self.refuse(error))
    }

    /// Takes it out.
    ///
    /// # Errors
    /// [`Code::Unavailable`](super::Code::Unavailable).
    pub async fn withdraw(&self, name: &str) -> Result<Option<String>, Error> {
        self.reach(self.store.withdraw(name)).await.map_err(|error| self.refuse(error))
    }

    /// Asks the whole store, unless a part of it is known not to answer: then whoever asks is told at once.
    pub(super) async fn reach<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        Self::unless(self.pulses.iter().any(|pulse| pulse.is_down()), call).await
    }

    /// The same for what stands in these rosters: other partitions may be away.
    pub(crate) async fn reach_of<T>(
        &self,
        rosters: impl IntoIterator<Item = RosterKey>,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let is_down = |roster: RosterKey| self.pulses[usize::from(self.store.partition_of(&roster))].is_down();
        Self::unless(rosters.into_iter().any(is_down), call).await
    }

    async fn unless<T>(is_down: bool, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if is_down {
            return Err(StoreError::Unavailable("the last renewal failed".into()));
        }
        call.await
    }

    /// The driver's words are for our log alone.
    pub(crate) fn refuse(&self, error: StoreError) -> Error {
        tracing::debug!(%error, "a question could not be answered");
        error.into()
    }
}

fn roll_of(reading: &Reading) -> Roll {
    reading.rows.iter().filter_map(|(id, row)| Some((id.clone(), present(row)?))).collect()
}

/// What is known of a person, for those who make a view of it.
pub(crate) struct Devices {
    seen: Vec<(ConnectionId, Present, Arc<str>)>,
    hidden: Vec<(ConnectionId, Present, Arc<str>)>,
}

impl Devices {
    /// The devices of a person. What cannot be read is none.
    pub fn of(person: &Person) -> Self {
        let read = |rows: &[(ConnectionId, Row)]| {
            let devices = rows.iter().filter_map(|(id, row)| Some((id.clone(), present(row)?, row.private.clone())));
            devices.collect()
        };
        Self { seen: read(&person.reading.rows), hidden: read(&person.hidden) }
    }

    /// What is known of the person now.
    pub fn known(&self, person: &Person) -> Known<'_> {
        let profile = person.record.as_ref().map(Record::profile).unwrap_or_default().at(wall_now_ms());
        Known {
            seen: self.seen.iter().map(|(_, device, _)| device).collect(),
            hidden: self.hidden.iter().map(|(_, device, _)| device).collect(),
            profile,
            last_seen: person.last_seen,
            last_active: person.last_active,
        }
    }
}

fn user_info(user: &UserName, person: &Person) -> UserInfo {
    let found = Devices::of(person);
    let mut devices = Vec::new();
    for (connection, present, private) in found.seen.iter().chain(&found.hidden) {
        devices.push(Device {
            connection: connection.clone(),
            device: present.shown.device.clone(),
            since: present.shown.since,
            channels: Whereabouts::from_json(private).channels.into_iter().collect(),
        });
    }
    devices.sort_by(|a, b| (a.since, &a.connection).cmp(&(b.since, &b.connection)));
    // While somebody moves, a connection may stand in both rosters.
    devices.dedup_by(|a, b| a.connection == b.connection);
    UserInfo {
        user: user.clone(),
        view: found.known(person).truth(),
        devices,
        version: person.reading.version(),
        stale: person.reading.settling,
    }
}
