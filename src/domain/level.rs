//! How much a watcher is told.

use serde::{Deserialize, Serialize};

/// How much a watcher is told about a channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// One entry for each user.
    #[default]
    Users,
    /// One entry for each connection.
    Connections,
    /// Only how many there are.
    Occupancy,
}
