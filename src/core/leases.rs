//! Presence on somebody's behalf: a connection without a socket, which an app server renews.

use std::sync::Arc;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio::{sync::oneshot, time::timeout};

use super::{
    Core,
    error::{Code, Error},
    ledger::{Content, with_status},
    session::WAIT,
};
use crate::domain::{
    chance,
    member::{Reason, Shown, Status, Whereabouts, empty_state},
    name::{ChannelName, ConnectionId, RosterKey, UserName},
    partition::Beat,
    person::Record,
    roster::{Ask, Body, Entry, Keep, Outcome},
    state,
    time::wall_now_ms,
    version::{Epoch, Version},
};

/// Somebody else may renew the same lease at the same moment; after so many tries the caller is told.
const TRIES: usize = 4;

const CONFLICT: &str = "others renew or end this lease at the same moment; try again";

/// Why a lease was not written.
enum Unwritten {
    /// The user is shown to nobody: it belongs elsewhere.
    Hidden,
    /// What the caller is told.
    Refused(Error),
}

impl From<Error> for Unwritten {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// The two rows of a lease, as they are to be written.
struct Lease<'a> {
    connection: ConnectionId,
    user: &'a UserName,
    in_channel: RosterKey,
    of_user: RosterKey,
    for_channel: Content,
    for_user: Content,
    /// Whether the channel's row was there a moment ago.
    is_renewal: bool,
    limit: u64,
    ttl_ms: u64,
}

impl Core {
    /// Joins, renews and replaces on a user's behalf: a connection of its own beside the living ones, which ends after `ttl_ms`.
    /// Returns the version of the channel of which it is part.
    ///
    /// # Errors
    /// [`Code::Limit`], [`Code::TooLarge`], [`Code::Forbidden`], [`Code::Unavailable`]; [`Code::Conflict`] when others renew the same lease all the time.
    pub async fn lease(
        &self,
        channel: &ChannelName,
        user: &UserName,
        state: Map<String, Value>,
        ttl_ms: u64,
    ) -> Result<Version, Error> {
        self.settings.check_presence(channel)?;
        let namespace = self.settings.namespace(channel);
        state::check(&state, self.settings.limits.state_bytes)?;
        let state = serde_json::value::to_raw_value(&state).expect("a map of JSON values is JSON");
        let limit = namespace.and_then(|namespace| namespace.max_members);
        let limit = limit.unwrap_or(self.settings.limits.members_per_channel) as u64;
        let connection = lease_connection(channel, user);
        let seen = RosterKey::Channel(channel.clone());
        let mut tries = 0;
        let mut is_hidden = None;
        loop {
            let rows = [seen.clone(), seen.twin(true)].map(|roster| (roster, connection.clone()));
            let before = self.reach_of([seen.clone()], self.store.rows(&rows)).await;
            let before = before.map_err(|error| self.refuse(error))?;
            // Of whom nobody sees the leases stand elsewhere too.
            let hidden = is_hidden.unwrap_or(matches!(before.as_slice(), [None, Some(_)]));
            let before = before.into_iter().nth(usize::from(hidden)).flatten();
            let before = before.and_then(|row| serde_json::from_str::<Shown>(&row.payload).ok());
            // What did not change must look the same, or renewing would be an event.
            let since = before.as_ref().map_or_else(wall_now_ms, |shown| shown.since);
            let status = before.as_ref().map_or(Status::Online, |shown| shown.status);
            let content = |status, private: Arc<str>, state| {
                let device = Some("lease".into());
                let shown = Shown { status, state, info: None, device, since, on_leave: None };
                let payload = serde_json::to_string(&shown).expect("what is shown is JSON").into();
                Content { grace_ms: ttl_ms, since, changed: 0, private, payload }
            };
            let whereabouts = Whereabouts { channels: [channel.clone()].into() };
            let lease = Lease {
                connection: connection.clone(),
                user,
                in_channel: seen.twin(hidden),
                of_user: RosterKey::User(user.clone()).twin(hidden),
                for_channel: content(status, "{}".into(), Arc::from(state.clone())),
                for_user: content(Status::Online, whereabouts.to_json(), empty_state()),
                is_renewal: before.is_some(),
                limit,
                ttl_ms,
            };
            tries += 1;
            match self.write_lease(lease).await {
                Err(Unwritten::Hidden) if tries < TRIES => is_hidden = Some(true),
                Err(Unwritten::Refused(Error { code: Code::Conflict, .. })) if tries < TRIES => is_hidden = None,
                Err(Unwritten::Hidden) => return Err(Error::new(Code::Conflict, CONFLICT)),
                Err(Unwritten::Refused(error)) => return Err(error),
                Ok(version) => return Ok(version),
            }
        }
    }

    /// The user's row decides the take; the channel's follows.
    async fn write_lease(&self, mut lease: Lease<'_>) -> Result<Version, Unwritten> {
        // A lease that has ended leaves its take barred for a while, and the next begins under the same id: so it begins at a take that was
        // not there before. Where the user's row is still there, the take after that row's is a new one too.
        let first = if lease.is_renewal { 0 } else { u64::from(chance::random::<u32>()) + 1 };
        let begun = match self.lease_row(&lease, &lease.of_user, &lease.for_user, first).await {
            Err(Unwritten::Refused(Error { code: Code::Conflict, .. })) if first > 0 => {
                self.lease_row(&lease, &lease.of_user, &lease.for_user, 0).await
            }
            begun => begun,
        };
        let (take, _, user_beat, record) = begun?;
        if let Some(status) = record.and_then(|record| record.profile().at(wall_now_ms()).status?.shown()) {
            lease.for_channel.payload = with_status(&lease.for_channel.payload, status);
        }
        let (_, number, beat, _) = match self.lease_row(&lease, &lease.in_channel, &lease.for_channel, take).await {
            Ok(written) => written,
            Err(error) => {
                // Somebody else's renewal at the same moment is not taken away, and is tried again. Where this fails too, the row ends with the lease.
                let is_conflict = matches!(&error, Unwritten::Refused(error) if error.code == Code::Conflict);
                if !lease.is_renewal && !is_conflict {
                    let ask = Ask::Absent { take: Some(take), reason: Reason::Left };
                    let _ = self.ask(Entry { roster: lease.of_user, connection: lease.connection, ask }).await;
                }
                return Err(error);
            }
        };
        let epoch = beat.epoch.clone();
        let rows = [(lease.of_user, lease.for_user, user_beat), (lease.in_channel, lease.for_channel, beat)];
        self.ledger.remember_lease(&lease.connection, lease.user, take, rows, lease.ttl_ms, lease.is_renewal);
        Ok(Version { epoch, number })
    }

    /// Writes one of the two rows: its take, the roster's number, and the partition's word.
    async fn lease_row(
        &self,
        lease: &Lease<'_>,
        roster: &RosterKey,
        content: &Content,
        take: u64,
    ) -> Result<(u64, u64, Beat, Option<Box<Record>>), Unwritten> {
        let Content { grace_ms, since, changed, private, payload } = content.clone();
        let body = Body { user: lease.user.clone(), valid: 0, grace_ms, since, changed, private, payload };
        let limit = if *roster == lease.in_channel { lease.limit } else { 0 };
        let keep = Keep::Ending { remaining_ms: lease.ttl_ms };
        let ask = Ask::Present { take, fresh: true, limit, keep, body };
        let entry = Entry { roster: roster.clone(), connection: lease.connection.clone(), ask };
        match self.ask(entry).await? {
            (Outcome::Done { take, number, record, .. }, beat) => Ok((take, number, beat, record)),
            (Outcome::Hidden { .. }, _) => Err(Unwritten::Hidden),
            (Outcome::Full, _) => {
                let message = format!("the channel has as many members as it may have ({limit})");
                Err(Error::new(Code::Limit, message).into())
            }
            _ => Err(Error::new(Code::Conflict, CONFLICT).into()),
        }
    }

    /// Ends what [`Core::lease`] began; nothing else of the user's.
    ///
    /// # Errors
    /// [`Code::Unavailable`].
    pub async fn end_lease(&self, channel: &ChannelName, user: &UserName) -> Result<(), Error> {
        let connection = lease_connection(channel, user);
        for hidden in [false, true] {
            for roster in [RosterKey::Channel(channel.clone()), RosterKey::User(user.clone())] {
                let ask = Ask::Absent { take: None, reason: Reason::Left };
                self.ask(Entry { roster: roster.twin(hidden), connection: connection.clone(), ask }).await?;
            }
        }
        self.ledger.drop_lease(&connection);
        Ok(())
    }

    /// Asks one thing of the store and waits for the answer.
    pub(crate) async fn ask(&self, entry: Entry) -> Result<(Outcome, Beat), Error> {
        let too_many = || Error::unavailable("too much waits for the store of presence");
        answered(self.ledger.ask(entry).ok_or_else(too_many)?).await
    }

    /// The same of what was found out about this epoch.
    pub(crate) async fn ask_in(&self, entry: Entry, epoch: &Epoch) -> Result<(Outcome, Beat), Error> {
        let not_now = || Error::unavailable("too much waits for the store of presence, or it has lost its memory");
        answered(self.ledger.ask_in(entry, epoch).ok_or_else(not_now)?).await
    }
}

async fn answered(answer: oneshot::Receiver<(Outcome, Beat)>) -> Result<(Outcome, Beat), Error> {
    match timeout(WAIT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        _ => Err(Error::unavailable("the store of presence did not answer in time")),
    }
}

/// One connection for each channel and user, the same on every instance.
pub(super) fn lease_connection(channel: &ChannelName, user: &UserName) -> ConnectionId {
    let mut hash = Sha256::new();
    hash.update(b"lease\0");
    hash.update(channel.as_str());
    hash.update(b"\0");
    hash.update(user.as_str());
    let digest = hash.finalize();
    ConnectionId::from_bytes(digest[..16].try_into().expect("a digest has 32 bytes"))
}
