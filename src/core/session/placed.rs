//! Channels that a session joins because the server wants it there: what the token names, and what app servers ask for. No capability is needed.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::{Joined, Session, settled, to_json};
use crate::{
    core::{
        error::Error,
        ledger::{Content, Settlement},
    },
    domain::{
        member::Reason,
        name::{ChannelName, RosterKey},
        time::wall_now_ms,
        version::Version,
    },
};

impl Session {
    /// Joins the channels that the token names and where the connection is not yet. Those that are full, or where there is no presence, are left out.
    pub(super) async fn join_by_token(&mut self) -> Result<(), Error> {
        if self.user.is_none() {
            return Ok(());
        }
        let room = self.core.settings.limits.channels_per_connection.saturating_sub(self.channels.len());
        let wanted = self.principal.channels.clone();
        let missing = wanted
            .iter()
            .filter(|channel| !self.channels.contains_key(*channel) && self.core.settings.has_presence(channel));
        let mut waits = std::collections::BTreeMap::new();
        for channel in missing.take(room) {
            let joined = self.newcomer(channel);
            let wait = self.hold(channel, &joined);
            waits.insert(channel.clone(), (joined, wait));
        }
        for (channel, (joined, wait)) in waits {
            match settled(wait).await {
                Some(Settlement::Done(_)) => drop(self.channels.insert(channel, joined)),
                Some(Settlement::Full) => tracing::debug!("a channel that a token names is full"),
                // The connection is somebody else's, or nobody's; the notices say so.
                Some(Settlement::Lost) => return Ok(()),
                None => return Err(Error::unavailable("the store of presence did not answer in time")),
            }
        }
        Ok(())
    }

    /// An app server has the connection join a channel; a state, an object as JSON, replaces that of whoever is there. Returns the version where
    /// something has changed by it.
    pub async fn join_as_told(&mut self, channel: &ChannelName, state: Option<Arc<str>>) -> Option<Version> {
        self.present().ok()?;
        let state = state.and_then(|state| serde_json::from_str::<Map<String, Value>>(&state).ok());
        let before = self.channels.get(channel).cloned();
        let is_new = before.is_none();
        let is_full = self.channels.len() >= self.core.settings.limits.channels_per_connection;
        if is_new && (is_full || !self.core.settings.has_presence(channel)) {
            tracing::debug!(is_full, "a connection that an app server wants in a channel cannot join it");
            return None;
        }
        let mut joined = before.unwrap_or_else(|| self.newcomer(channel));
        match state {
            Some(state) if is_new || state != joined.state => joined.state = state,
            _ if is_new => {}
            _ => return None,
        }
        match settled(self.hold(channel, &joined)).await {
            Some(Settlement::Done(version)) => {
                self.channels.insert(channel.clone(), joined);
                Some(version)
            }
            None if is_new => {
                // Not acknowledged, so it shall not happen later.
                let key = RosterKey::Channel(channel.clone());
                drop(self.core.ledger.leave(&self.connection, &key, Reason::Left));
                None
            }
            _ => None,
        }
    }

    fn newcomer(&self, channel: &ChannelName) -> Joined {
        Joined { state: Map::new(), on_leave: None, since: wall_now_ms(), grace_ms: self.grace_ms(None, Some(channel)) }
    }

    fn hold(&self, channel: &ChannelName, joined: &Joined) -> oneshot::Receiver<Settlement> {
        let Joined { state, on_leave, since, grace_ms } = joined;
        let payload = to_json(&self.shown(state, on_leave.as_ref(), *since));
        let content = Content { grace_ms: *grace_ms, since: *since, changed: 0, private: "{}".into(), payload };
        let most = self.core.settings.namespace(channel).and_then(|namespace| namespace.max_members);
        let most = most.unwrap_or(self.core.settings.limits.members_per_channel) as u64;
        self.core.ledger.hold(&self.connection, &RosterKey::Channel(channel.clone()), content, most)
    }
}
