//! How long a change takes from the wish to the first socket that is told of it.
//!
//! A sample: a mirror times one change of this instance at a time, and whoever encodes its frame reads the clock. So neither the change that is not
//! timed nor any delivery pays for it.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::{name::ConnectionId, version::Version};

/// A change of which nothing was heard for so long makes room for another.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Timing {
    under_way: Option<UnderWay>,
    /// Since when what waits to be flushed was wanted.
    applied: Option<Instant>,
}

#[derive(Debug)]
struct UnderWay {
    connection: ConnectionId,
    since: Instant,
    /// The version of which it is part, once the store has said so.
    version: Option<Version>,
}

impl Timing {
    /// A change of this connection is on its way to the store, and was wanted since then. False where another one is being timed.
    pub fn begin(&mut self, connection: &ConnectionId, since: Instant, now: Instant) -> bool {
        if self.under_way.as_ref().is_some_and(|change| now < change.since + FORGOTTEN) {
            return false;
        }
        self.under_way = Some(UnderWay { connection: connection.clone(), since, version: None });
        true
    }

    /// The store has answered: the roster is at this version, or nothing came of it. `here` is the mirror's own version.
    pub fn answered(&mut self, version: Option<Version>, here: Option<&Version>) {
        match version {
            // Where the mirror has that version, and the change has not been seen, it was none that shows.
            Some(version) if here.is_none_or(|here| !here.reaches(&version)) => {
                if let Some(change) = &mut self.under_way {
                    change.version = Some(version);
                }
            }
            _ => self.under_way = None,
        }
    }

    /// The feed told of a change of this connection.
    pub fn heard(&mut self, connection: &ConnectionId) {
        self.apply_if(|change| change.connection == *connection);
    }

    /// The mirror is at this version, by whichever way.
    pub fn reached(&mut self, here: &Version) {
        self.apply_if(|change| change.version.as_ref().is_some_and(|version| here.reaches(version)));
    }

    /// What is flushed now was wanted since then; none where it is not timed.
    pub fn flushed(&mut self) -> Option<Instant> {
        self.applied.take()
    }

    fn apply_if(&mut self, is_it: impl Fn(&UnderWay) -> bool) {
        if let Some(change) = self.under_way.take_if(|change| is_it(change)) {
            self.applied.get_or_insert(change.since);
        }
    }
}
