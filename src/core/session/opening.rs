//! How a session begins: as a new connection, or as one from before.

use std::{collections::HashMap, time::Duration};

use serde_json::Map;
use tokio::time::timeout;

use super::{HelloError, Joined, ResumeClaim, Session, Standing, settled, to_json};
use crate::{
    core::{
        error::Error,
        ledger::{Content, Ledger, Settlement},
    },
    domain::{
        member::{Reason, Shown, Whereabouts},
        name::{ChannelName, ConnectionId, RosterKey, UserName},
        roster::{Ask, Entry, Outcome, Row},
        time::wall_now_ms,
        version::Epoch,
    },
    store::StoreError,
};

/// How long a resume waits for a settling epoch.
const SETTLE_WAIT: Duration = Duration::from_secs(15);
/// Meanwhile, how often it is looked whether the connection has been confirmed.
const SETTLE_LOOK: Duration = Duration::from_secs(1);

impl Session {
    pub(super) async fn enter(&mut self, user: &UserName) -> Result<(), HelloError> {
        self.owner = self.core.ledger.open(&self.connection, user, false, 1, 0, Some(self.notices.clone()));
        let shown = self.shown(&Map::new(), None, wall_now_ms());
        let content = Content {
            grace_ms: self.grace_ms(None, None),
            since: shown.since,
            changed: 0,
            private: "".into(),
            payload: to_json(&shown),
        };
        let key = RosterKey::User(user.clone());
        let limit = self.core.settings.limits.connections_per_user as u64;
        let answer = settled(self.core.ledger.hold(&self.connection, &key, content, limit)).await;
        let problem = match answer {
            Some(Settlement::Done(_)) => return Ok(()),
            Some(Settlement::Full) => HelloError::TooMany,
            Some(Settlement::Lost) | None => {
                HelloError::Other(Error::unavailable("the store of presence did not answer in time"))
            }
        };
        self.finish(Some(Reason::Left));
        Err(problem)
    }

    /// Takes over the connection that the claim names; none where it is not there any more.
    pub(super) async fn resume(&mut self, user: &UserName, claim: ResumeClaim) -> Result<Option<u64>, Error> {
        // Of whom nobody sees the connections stand elsewhere.
        let seen = RosterKey::User(user.clone());
        let hidden = self.is_hidden_at(&seen, &claim.connection).await;
        for hidden in [hidden, !hidden] {
            if let Some(take) = self.resume_at(&seen.twin(hidden), user, &claim).await? {
                return Ok(Some(take));
            }
        }
        self.core.metrics.resumes_missed.inc();
        Ok(None)
    }

    /// Whether a connection stands where others do not see it. What cannot be read now is looked for at both places.
    async fn is_hidden_at(&self, seen: &RosterKey, connection: &ConnectionId) -> bool {
        let keys = [seen.clone(), seen.twin(true)].map(|roster| (roster, connection.clone()));
        let rows = self.core.store.rows(&keys).await.unwrap_or_default();
        matches!(rows.as_slice(), [None, Some(_)])
    }

    async fn resume_at(&mut self, key: &RosterKey, user: &UserName, claim: &ResumeClaim) -> Result<Option<u64>, Error> {
        let Ok(epoch) = timeout(SETTLE_WAIT, self.epoch_to_take_it_in(key, &claim.connection)).await else {
            return Err(Error::unavailable("the store of presence is settling"));
        };
        let before = self.places_of(key, &claim.connection).await;
        let ask = Ask::Claim { token_take: claim.take };
        let entry = Entry { roster: key.clone(), connection: claim.connection.clone(), ask };
        let core = self.core.clone();
        let mut claiming = Claiming { ledger: &core.ledger, place: Some((claim.connection.clone(), key.clone())) };
        let (row, record) = match self.core.ask_in(entry, &epoch).await? {
            (Outcome::Claimed { row, record }, _) => (*row, record),
            _ => {
                claiming.place = None;
                return Ok(None);
            }
        };
        let channels = Whereabouts::from_json(&row.private).channels;
        let roster = |name: &ChannelName| RosterKey::Channel(name.clone()).twin(key.is_hidden());
        let keys: Vec<_> = channels.iter().map(|name| (roster(name), claim.connection.clone())).collect();
        let rows = self.rows_after(&keys, &before).await?;
        self.connection = claim.connection.clone();
        let notices = Some(self.notices.clone());
        self.owner = self.core.ledger.open(&self.connection, user, key.is_hidden(), row.take, row.valid, notices);
        claiming.place = None;
        self.unconfirmed = true;
        let take = row.take;
        if self.notices.is_over() {
            // Another socket has taken it since; this one is closed.
            return Ok(Some(take));
        }
        self.take_standing(user, &row, rows.iter().flatten());
        let mut waits = Vec::new();
        for (channel, found) in channels.into_iter().zip(rows) {
            let Some(found) = found.filter(|found| found.take <= take && found.user == *user) else { continue };
            let content = content_of(&found);
            let Ok(shown) = serde_json::from_str::<Shown>(&found.payload) else { continue };
            self.device = shown.device.clone().or(self.device.take());
            let state = serde_json::from_str(shown.state.get()).unwrap_or_default();
            let wait = self.core.ledger.hold(&self.connection, &RosterKey::Channel(channel.clone()), content, 0);
            waits.push((Some(channel.clone()), wait));
            let joined = Joined { state, on_leave: shown.on_leave, since: shown.since, grace_ms: found.grace_ms };
            self.channels.insert(channel, joined);
        }
        if let Ok(shown) = serde_json::from_str::<Shown>(&row.payload) {
            self.device = shown.device;
        }
        // Where the user's row is lost again the notices say so.
        waits.push((None, self.core.ledger.hold(&self.connection, key, content_of(&row), 0)));
        if let Some(record) = record {
            self.core.ledger.note_record(user, *record);
        }
        for (channel, wait) in waits {
            match (settled(wait).await, channel) {
                (Some(Settlement::Done(_)), _) | (Some(_), None) => {}
                (Some(_), Some(channel)) => drop(self.channels.remove(&channel)),
                (None, _) => {
                    self.finish(None);
                    return Err(Error::unavailable("the store of presence did not answer in time"));
                }
            }
        }
        self.core.metrics.resumes.inc();
        self.show_info();
        Ok(Some(take))
    }

    /// Goes on as the device was, and as the channels show the user: coming back is no change.
    fn take_standing<'a>(&mut self, user: &UserName, row: &Row, mut channels: impl Iterator<Item = &'a Row>) {
        let status_of = |row: &Row| serde_json::from_str::<Shown>(&row.payload).ok().map(|shown| shown.status);
        let automatic = status_of(row).unwrap_or_default();
        let shown = channels.find_map(status_of).unwrap_or(automatic);
        self.standing = Standing::resumed(automatic, self.idle_after(), self.away_after());
        self.core.ledger.take_over(&self.connection, automatic, shown);
        self.core.persons.hear([user.clone()]);
    }

    /// A connection's places in channels as they are before it is taken over. What cannot be read now is read afterwards.
    async fn places_of(&self, key: &RosterKey, connection: &ConnectionId) -> HashMap<RosterKey, Row> {
        let store = &self.core.store;
        let Ok(rows) = store.rows(&[(key.clone(), connection.clone())]).await else { return HashMap::new() };
        let Some(row) = rows.into_iter().flatten().next() else { return HashMap::new() };
        let channels = Whereabouts::from_json(&row.private).channels.into_iter().map(RosterKey::Channel);
        let keys: Vec<_> = channels.map(|channel| (channel.twin(key.is_hidden()), connection.clone())).collect();
        let Ok(rows) = store.rows(&keys).await else { return HashMap::new() };
        keys.into_iter().zip(rows).filter_map(|((channel, _), row)| Some((channel, row?))).collect()
    }

    /// The places after it was taken over. The instance that had them has let go of them by then: where the store has lost its memory in between, nobody
    /// else knows them any more, and what was read before counts.
    async fn rows_after(
        &self,
        keys: &[(RosterKey, ConnectionId)],
        before: &HashMap<RosterKey, Row>,
    ) -> Result<Vec<Option<Row>>, StoreError> {
        let store = &self.core.store;
        let mut rows = store.rows(keys).await?;
        for ((channel, _), row) in keys.iter().zip(&mut rows).filter(|(_, row)| row.is_none()) {
            let Some(known) = before.get(channel) else { continue };
            let numbers = store.numbers(store.partition_of(channel), std::slice::from_ref(channel)).await;
            // Who has been taken out of the channel meanwhile is not put back.
            if numbers.is_ok_and(|numbers| numbers.epoch == known.epoch) {
                continue;
            }
            *row = Some(known.clone());
        }
        Ok(rows)
    }

    /// Waits until a connection can be taken over, and returns the epoch of which that is true.
    async fn epoch_to_take_it_in(&self, key: &RosterKey, connection: &ConnectionId) -> Epoch {
        let pulse = &self.core.pulses[usize::from(self.core.store.partition_of(key))];
        let epoch_of_now = || pulse.standing().map(|standing| standing.beat.epoch);
        loop {
            let before = epoch_of_now();
            self.may_be_taken(key, connection).await;
            if let Some(epoch) = epoch_of_now().filter(|epoch| before.as_ref() == Some(epoch)) {
                return epoch;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits until a connection can be taken over: the epochs of its partitions have settled, or whoever answers for the connection has confirmed all of it
    /// already. For its grace goes on meanwhile, and may be over first. Whoever has lost the connection confirms nothing of it any more, so a channel
    /// that its partition has lost would be lost for good.
    async fn may_be_taken(&self, key: &RosterKey, connection: &ConnectionId) {
        let partition = self.core.store.partition_of(key);
        let mut standing = self.core.pulses[usize::from(partition)].subscribe();
        loop {
            let now = standing.look().map(|held| held.beat.settling);
            if now.is_some() && self.is_confirmed(key, connection).await {
                return;
            }
            // Where the user's partition is the one that settles, its end is heard at once.
            let was_settling = now.is_none_or(|settling| settling);
            let is_settled = standing.registered(|held| was_settling && !held.beat.settling);
            let _ = timeout(SETTLE_LOOK, is_settled).await;
        }
    }

    /// Whether nothing of the connection stands in an epoch that settles, but what has been confirmed in it.
    async fn is_confirmed(&self, key: &RosterKey, connection: &ConnectionId) -> bool {
        let store = &self.core.store;
        // A partition that is away is found out by the claim, or by reading the channels.
        let settling = |roster: &RosterKey| {
            let standing = self.core.pulses[usize::from(store.partition_of(roster))].standing();
            standing.filter(|standing| standing.beat.settling).map(|standing| standing.beat.epoch)
        };
        if self.core.pulses.iter().all(|pulse| pulse.standing().is_none_or(|standing| !standing.beat.settling)) {
            return true;
        }
        let is_there = |row: Option<&Row>, epoch: &Epoch| row.is_some_and(|row| row.epoch == *epoch);
        let Ok(rows) = store.rows(&[(key.clone(), connection.clone())]).await else { return false };
        let row = rows.into_iter().flatten().next();
        if settling(key).is_some_and(|epoch| !is_there(row.as_ref(), &epoch)) {
            return false;
        }
        let Some(row) = row else { return true };
        let channels = Whereabouts::from_json(&row.private).channels.into_iter();
        let channels = channels.map(|channel| RosterKey::Channel(channel).twin(key.is_hidden()));
        let unsettled: Vec<_> = channels.filter_map(|channel| Some((settling(&channel)?, channel))).collect();
        let keys: Vec<_> = unsettled.iter().map(|(_, channel)| (channel.clone(), connection.clone())).collect();
        let Ok(rows) = store.rows(&keys).await else { return false };
        unsettled.iter().zip(&rows).all(|((epoch, _), row)| is_there(row.as_ref(), epoch))
    }
}

/// A row is being claimed, and nobody here answers for it yet. Where that comes to nothing, because the store is away or the client has given up, the
/// client keeps its token and tries again; until then the connection ends as it would have.
struct Claiming<'a> {
    ledger: &'a Ledger,
    place: Option<(ConnectionId, RosterKey)>,
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        if let Some((connection, roster)) = &self.place {
            self.ledger.let_go(connection, roster);
        }
    }
}

fn content_of(row: &Row) -> Content {
    Content {
        grace_ms: row.grace_ms,
        since: row.since,
        changed: row.changed,
        private: row.private.clone(),
        payload: row.payload.clone(),
    }
}
