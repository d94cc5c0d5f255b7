//! An app server puts people into channels and takes them out: the connections that they have, wherever their sockets are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use super::{
    Core,
    error::{Code, Error},
    leases::lease_connection,
    putting_out::Connection,
    session::WAIT,
};
use crate::domain::{
    member::Shown,
    name::{ChannelName, ConnectionId, RosterKey, UserName},
    roster::{Control, Row, Stay},
    state,
};

/// How often it is looked whether they are in: at first, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
/// Whoever has not joined by then is told once more: what instances are told is told once, and a feed may be away.
const AGAIN: Duration = Duration::from_secs(1);

impl Core {
    /// Has every connection of a user that has a socket join a channel. A state replaces theirs; without one it stays, or is empty at first. Returns how
    /// many are in when the store shows it. Asked again it changes nothing but the state.
    ///
    /// # Errors
    /// [`Code::Forbidden`] where there is no presence, [`Code::TooLarge`], [`Code::Limit`] where the channel is full or one of them is in as many as it may
    /// be, [`Code::Unavailable`] where the store does not show it in time.
    pub async fn place(
        &self,
        user: &UserName,
        channel: &ChannelName,
        state: Option<Map<String, Value>>,
    ) -> Result<u64, Error> {
        self.settings.check_presence(channel)?;
        if let Some(state) = &state {
            state::check(state, self.settings.limits.state_bytes)?;
        }
        let until = Instant::now() + WAIT;
        let (mut pause, mut told_at) = (LOOK.0, None::<Instant>);
        loop {
            let all = self.connections_of(user).await?.all;
            let keys: Vec<_> = all.iter().map(|one| one.place(channel)).collect();
            let places = self.store.rows(&keys).await.map_err(|error| self.refuse(error))?;
            let living = || all.iter().zip(&places).filter(|(one, _)| matches!(one.row.stay, Stay::Held(_)));
            let outside: Vec<_> = living().filter(|(_, place)| !is_placed(place.as_ref(), state.as_ref())).collect();
            if outside.is_empty() {
                return Ok(living().map(|(one, _)| &one.id).collect::<BTreeSet<_>>().len() as u64);
            }
            if told_at.is_none_or(|at| at + AGAIN <= Instant::now()) {
                let is_seen = outside.iter().any(|(one, _)| !one.home.is_hidden());
                if told_at.is_none() && is_seen && places.iter().all(Option::is_none) {
                    self.has_room(channel).await?;
                }
                self.tell_holders(&outside, channel, state.as_ref()).await?;
                told_at = Some(Instant::now());
            }
            if Instant::now() >= until {
                return Err(Error::unavailable("not every connection has joined in time; asked again, the others do"));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
    }

    async fn has_room(&self, channel: &ChannelName) -> Result<(), Error> {
        let namespace = self.settings.namespace(channel);
        let most = namespace.and_then(|namespace| namespace.max_members);
        let most = most.unwrap_or(self.settings.limits.members_per_channel) as u64;
        let counts = self.counts(std::slice::from_ref(channel)).await?;
        if counts.iter().any(|count| count.occupancy.users >= most) {
            let message = format!("`{channel}` has as many members as it may have ({most})");
            return Err(Error::new(Code::Limit, message));
        }
        Ok(())
    }

    async fn tell_holders(
        &self,
        outside: &[(&Connection, &Option<Row>)],
        channel: &ChannelName,
        state: Option<&Map<String, Value>>,
    ) -> Result<(), Error> {
        let most = self.settings.limits.channels_per_connection;
        let mut by_holder: BTreeMap<Arc<str>, (RosterKey, Vec<ConnectionId>)> = BTreeMap::new();
        for (one, place) in outside {
            if place.is_none() && one.channels().len() >= most {
                let message =
                    format!("a connection of `{}` is in as many channels as it may be ({most})", one.row.user);
                return Err(Error::new(Code::Limit, message));
            }
            let holder = by_holder.entry(one.row.stay.instance().clone());
            holder.or_insert_with(|| (one.home.clone(), Vec::new())).1.push(one.id.clone());
        }
        let state: Option<Arc<str>> =
            state.map(|state| serde_json::to_string(state).expect("a map of JSON values is JSON").into());
        for (holder, (home, connections)) in by_holder {
            let control = Control::Join { connections, channel: channel.clone(), state: state.clone() };
            let told = self.store.tell(self.store.partition_of(&home), Some(&holder), &control).await;
            told.map_err(|error| self.refuse(error))?;
        }
        Ok(())
    }

    /// Takes every connection of a user out of a channel, but for presence on the user's behalf, which has its own way. Returns how many were in.
    ///
    /// # Errors
    /// [`Code::Unavailable`]: then some may be out, and asking again takes the rest.
    pub async fn displace(&self, user: &UserName, channel: &ChannelName) -> Result<u64, Error> {
        let lease = lease_connection(channel, user);
        let connections = self.connections_of(user).await?;
        let keys: Vec<_> = connections.all.iter().filter(|one| one.id != lease).map(|one| one.place(channel)).collect();
        let rows = self.store.rows(&keys).await.map_err(|error| self.refuse(error))?;
        let there: Vec<_> = keys.into_iter().zip(rows).filter(|(_, row)| row.is_some()).map(|(key, _)| key).collect();
        let count = there.len() as u64;
        self.take_away(there).await?;
        if connections.settling {
            return Err(Error::unavailable("the store of presence settles, and some connections may not be known yet"));
        }
        Ok(count)
    }
}

/// Whether a connection is in the channel as it is wanted.
fn is_placed(row: Option<&Row>, state: Option<&Map<String, Value>>) -> bool {
    let Some(row) = row else { return false };
    let Some(wanted) = state else { return true };
    let shown = serde_json::from_str::<Shown>(&row.payload).ok();
    let shown = shown.and_then(|shown| serde_json::from_str::<Map<String, Value>>(shown.state.get()).ok());
    shown.as_ref() == Some(wanted)
}
