//! What the core needs to know.

use std::sync::Arc;

use crate::domain::{
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
    /// What a token may do that says nothing, where no namespace says anything: nothing, or everything in development mode.
    pub default_can: Arc<Capabilities>,
}

impl Settings {
    /// What differs for a channel.
    pub fn namespace(&self, channel: &ChannelName) -> Option<&Namespace> {
        Namespace::of(&self.namespaces, channel.as_str())
    }
}
