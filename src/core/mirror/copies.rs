//! The frozen copies that slow watchers of a level are reading.
//!
//! A watcher that reads slowly needs minutes for a large roster, and all that time its copy has to be kept. So that this does not cost the whole roster
//! for each of them, they share: there is another copy only when the latest is old, by the measure of how long copies are read here.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::Copy;

/// A copy is the latest for at least as long as a reader of so many bytes a second needs for it.
const RATE: usize = 64 * 1024;
/// And for this at most: no reader waits longer for the latest state.
const OLDEST: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Given {
    copy: Weak<Copy>,
    /// The number of the frame that follows on it.
    next: u64,
    made_at: Instant,
}

/// Those that somebody still reads, the latest last.
#[derive(Debug, Default)]
pub(super) struct Copies(Vec<Given>);

impl Copies {
    /// The latest, if it has more than a watcher who stands at `at` and is not too old; and where the watcher goes on.
    pub(super) fn after(&mut self, at: u64, now: Instant) -> Option<(Arc<Copy>, u64)> {
        self.0.retain(|given| given.copy.strong_count() > 0);
        let latest = self.0.last().filter(|latest| latest.next > at)?;
        if now >= self.next_at()? {
            return None;
        }
        Some((latest.copy.upgrade()?, latest.next))
    }

    /// When there may be another one; none means now. The longer the oldest is being read already, the longer the latest stays the latest: so there are
    /// few, however many read and however slowly.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let (oldest, latest) = self.0.first().zip(self.0.last())?;
        let bytes = latest.copy.upgrade().map_or(0, |copy| copy.bytes());
        let quickest = Duration::from_millis((bytes * 1_000 / RATE) as u64);
        let age = latest.made_at - oldest.made_at;
        Some(latest.made_at + quickest.max(age).min(OLDEST))
    }

    pub(super) fn add(&mut self, copy: &Arc<Copy>, next: u64, now: Instant) {
        self.0.push(Given { copy: Arc::downgrade(copy), next, made_at: now });
    }
}
