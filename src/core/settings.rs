//! What the core needs to know.

use std::sync::Arc;

use super::error::{Code, Error};
use crate::domain::{
    level::Level,
    name::ChannelName,
    principal::Capabilities,
    settings::{Limits, Namespace, Presence},
};

/// Settings of the core, put together by the roof.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The random id of this process.
    pub instance: Arc<str>,
    /// The version of this program.
    pub version: Arc<str>,
    /// Times.
    pub presence: Presence,
    /// Limits.
    pub limits: Limits,
    /// What differs by channel.
    pub namespaces: Vec<Namespace>,
    /// For how long it is remembered that tokens were revoked, milliseconds.
    pub revocation_ms: u64,
    /// What a token may do that says nothing, where no namespace says anything: nothing, or everything in development mode.
    pub default_can: Arc<Capabilities>,
}

impl Settings {
    /// As much as watchers are told of a channel who ask for this level.
    pub fn level_in(&self, channel: &ChannelName, level: Level) -> Level {
        let most = self.namespace(channel).and_then(|namespace| namespace.level);
        match (level, most) {
            (_, Some(Level::Occupancy)) => Level::Occupancy,
            (Level::Connections, Some(Level::Users)) => Level::Users,
            (level, _) => level,
        }
    }

    /// What differs for a channel.
    pub fn namespace(&self, channel: &ChannelName) -> Option<&Namespace> {
        Namespace::of(&self.namespaces, channel.as_str())
    }

    /// Whether one can be present in a channel at all.
    pub fn has_presence(&self, channel: &ChannelName) -> bool {
        self.namespace(channel).is_none_or(|namespace| namespace.presence)
    }

    /// Refuses a channel in which nobody can be present: an empty answer would say that just now nobody is.
    ///
    /// # Errors
    /// [`Code::Forbidden`].
    pub fn check_presence(&self, channel: &ChannelName) -> Result<(), Error> {
        if self.has_presence(channel) {
            return Ok(());
        }
        Err(Error::new(Code::Forbidden, format!("presence is not available in `{channel}`: its namespace has none")))
    }
}
