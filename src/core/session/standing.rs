//! How the user of a session is there: by activity, by choice, and what is kept of the person.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{Reply, Session, settled};
use crate::{
    core::error::{Code, Error},
    domain::{
        member::Status,
        name::{ChannelName, RosterKey},
        person::Choice,
        time::wall_now_ms,
        version::Version,
    },
};

/// How the device of a session is there, by when its user was active last.
#[derive(Debug)]
pub(super) struct Standing {
    active_at: Instant,
    /// The same for people, unix milliseconds.
    active_wall_ms: u64,
    status: Status,
}

impl Standing {
    /// Whoever has just come is active.
    pub(super) fn new() -> Self {
        Self { active_at: Instant::now(), active_wall_ms: wall_now_ms(), status: Status::Online }
    }

    /// Whoever has come back goes on as they were: that a socket was made anew is no activity.
    pub(super) fn resumed(status: Status, idle_after: Duration, away_after: Duration) -> Self {
        let quiet = match status {
            Status::Online | Status::Busy => Duration::ZERO,
            Status::Idle => idle_after,
            Status::Away => away_after,
        };
        let now = Instant::now();
        let active_wall_ms = wall_now_ms().saturating_sub(u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX));
        Self { active_at: now.checked_sub(quiet).unwrap_or(now), active_wall_ms, status }
    }
}

impl Session {
    /// When it is to be looked again how the user is there; none where nothing changes without activity.
    pub fn next_status_at(&self) -> Option<Instant> {
        self.user.as_ref()?;
        match self.standing.status {
            Status::Online | Status::Busy => Some(self.standing.active_at + self.idle_after()),
            Status::Idle => Some(self.standing.active_at + self.away_after()),
            Status::Away => None,
        }
    }

    /// Without activity for long enough the user is idle, then away.
    pub fn look_at_status(&mut self, now: Instant) {
        let Some(user) = self.user.clone() else { return };
        let quiet = now.saturating_duration_since(self.standing.active_at);
        let status = match quiet {
            quiet if quiet >= self.away_after() => Status::Away,
            quiet if quiet >= self.idle_after() => Status::Idle,
            _ => Status::Online,
        };
        if status != self.standing.status {
            self.core.note_active(&user, self.standing.active_wall_ms);
            self.set_status(status);
        }
    }

    /// The person is active.
    pub(super) fn note_active(&mut self) {
        let Some(user) = self.user.clone() else { return };
        (self.standing.active_at, self.standing.active_wall_ms) = (Instant::now(), wall_now_ms());
        self.core.note_active(&user, self.standing.active_wall_ms);
        if self.standing.status != Status::Online {
            self.set_status(Status::Online);
        }
    }

    fn set_status(&mut self, status: Status) {
        self.standing.status = status;
        self.core.ledger.set_automatic(&self.connection, self.owner, status);
    }

    pub(super) fn idle_after(&self) -> Duration {
        Duration::from_millis(self.core.settings.presence.idle_after_ms)
    }

    pub(super) fn away_after(&self) -> Duration {
        Duration::from_millis(self.core.settings.presence.away_after_ms)
    }

    pub(super) async fn choose(
        &mut self,
        status: Option<Choice>,
        text: Option<Arc<str>>,
        until: Option<u64>,
    ) -> Result<Reply, Error> {
        let user = self.may_choose()?;
        let was_hidden = self.core.ledger.is_hidden(&user);
        let profile = self.core.choose(&user, status, text, until).await?;
        if profile.is_hidden() != was_hidden {
            // Told when nobody finds this connection where it was before.
            let _ = settled(self.core.ledger.moved(&self.connection)).await;
        }
        Ok(Reply::Done)
    }

    pub(super) async fn patch_user_state(&mut self, patch: &Map<String, Value>) -> Result<Reply, Error> {
        let user = self.may_choose()?;
        self.core.patch_user_state(&user, patch).await?;
        Ok(Reply::Done)
    }

    fn may_choose(&self) -> Result<crate::domain::name::UserName, Error> {
        self.present()?;
        let can = self.principal.can.as_ref().unwrap_or(&self.core.settings.default_can);
        match &self.user {
            Some(user) if can.status => Ok(user.clone()),
            _ => {
                Err(Error::new(Code::Forbidden, "this token may not say how its user is shown; `can.status` allows it"))
            }
        }
    }

    /// The version of a channel as others see it, of which something is part that they may not see.
    pub(super) async fn seen_version(&self, channel: &ChannelName, version: Version) -> Version {
        if !self.user.as_ref().is_some_and(|user| self.core.ledger.is_hidden(user)) {
            return version;
        }
        let roster = RosterKey::Channel(channel.clone());
        let partition = self.core.store.partition_of(&roster);
        match self.core.store.numbers(partition, std::slice::from_ref(&roster)).await {
            Ok(numbers) => {
                Version { epoch: numbers.epoch, number: numbers.numbers.first().copied().flatten().unwrap_or(0) }
            }
            // Nothing is promised then that a watch could wait for.
            Err(_) => Version { number: 0, ..version },
        }
    }
}
