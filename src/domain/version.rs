//! Whose numbers these are, and which of them: `(epoch, number)`.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A random token for one unbroken life of the numbers; a new one is minted when Redis lost or rewound them.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// An epoch as it is stored or came from a client. Any text: what is unknown equals nothing.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The token as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which state of a roster. Numbers grow by one with every change; versions of different epochs have no order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    /// Whose numbers these are.
    pub epoch: Epoch,
    /// Grows by one with every change; 0 for a roster that was never touched or was forgotten while empty.
    pub number: u64,
}

impl Version {
    /// Whether this is `other` or came after it in the same epoch.
    pub fn reaches(&self, other: &Version) -> bool {
        self.epoch == other.epoch && self.number >= other.number
    }
}
