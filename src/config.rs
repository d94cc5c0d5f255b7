//! The settings, put together from the embedded manual, a file and the environment.

use serde::Deserialize;

use crate::{
    auth,
    domain::settings::{Limits, Namespace, Presence},
    doors, store,
};

/// Every setting there is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The listeners.
    pub server: doors::settings::Server,
    /// Where presence is kept.
    pub redis: store::Settings,
    /// Which credentials count.
    pub auth: auth::Settings,
    /// Times of presence.
    pub presence: Presence,
    /// What one caller may use up.
    pub limits: Limits,
    /// What holds for the channels of a pattern; the first that matches counts.
    #[serde(default)]
    pub namespace: Vec<Namespace>,
}
