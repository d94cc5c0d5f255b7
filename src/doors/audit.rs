//! What is noted about callers who were turned away: enough to see who tries what, and never as much as they like. And what app servers did to people:
//! every time, for those are friends.

use std::sync::{Mutex, MutexGuard};

use tokio::time::Instant;

use super::{bucket::Bucket, cut};
use crate::{
    auth,
    core::Barred,
    domain::name::{ChannelName, UserName},
};

/// As many lines a second, lastingly: whoever sends bad tokens decides how many there are, not how long the log gets.
const LINES_PER_SECOND: u32 = 5;

/// The most of a name or a reason that stands in a line.
const SHORT_BYTES: usize = 200;

/// The audit lines of one instance.
#[derive(Debug)]
pub struct Audit(Mutex<Lines>);

#[derive(Debug)]
struct Lines {
    bucket: Bucket,
    /// Events since the last line that got none.
    untold: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self(Mutex::new(Lines { bucket: Bucket::new(LINES_PER_SECOND, Instant::now()), untold: 0 }))
    }
}

impl Audit {
    /// A client's token did not hold. The line says why, and how many others were refused without a line before.
    pub fn token_refused(&self, why: &auth::Error) {
        if let Some(untold) = self.turn(Instant::now()) {
            tracing::info!(target: "rollcall::audit", %why, untold, "a token was refused");
        }
    }

    /// A client's token holds, and it may not come in.
    pub fn turned_away(&self, why: &Barred) {
        if let Some(untold) = self.turn(Instant::now()) {
            tracing::info!(target: "rollcall::audit", ?why, untold, "a client was turned away");
        }
    }

    /// A browser comes from a page whose origin may not. It is told no more than a status, so whoever runs the service has to read it here.
    pub fn origin_refused(&self, origin: &str) {
        if let Some(untold) = self.turn(Instant::now()) {
            let origin = short(origin);
            tracing::info!(target: "rollcall::audit", origin, untold, "a page was refused: see server.allowed_origins");
        }
    }

    /// Every connection of a user was ended, by the holder of this key.
    pub fn disconnected(&self, by: &str, whom: &UserName, ban_ms: u64, reason: &str, came_to: &str) {
        let (whom, reason) = (short(whom.as_str()), short(reason));
        tracing::info!(target: "rollcall::audit", by, whom, ban_ms, reason, came_to, "a user was disconnected");
    }

    /// Tokens were revoked: one by its id, or those of a user.
    pub fn revoked(&self, by: &str, kind: &str, whom: &str, came_to: &str) {
        tracing::info!(target: "rollcall::audit", by, kind, whom = short(whom), came_to, "tokens were revoked");
    }

    /// Everybody was taken out of a channel.
    pub fn cleared(&self, by: &str, channel: &ChannelName, came_to: &str) {
        tracing::info!(target: "rollcall::audit", by, channel = short(channel.as_str()), came_to, "a channel was cleared");
    }

    /// A user was taken out of a channel.
    pub fn displaced(&self, by: &str, whom: &UserName, channel: &ChannelName, came_to: &str) {
        let (whom, channel) = (short(whom.as_str()), short(channel.as_str()));
        tracing::info!(target: "rollcall::audit", by, whom, channel, came_to, "a user was taken out of a channel");
    }

    /// How many events went untold, if this one may have a line.
    fn turn(&self, now: Instant) -> Option<u64> {
        let mut lines = self.lock();
        if lines.bucket.take(now) > 0 {
            lines.untold += 1;
            return None;
        }
        Some(std::mem::take(&mut lines.untold))
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().expect("nothing panics while it counts lines")
    }
}

/// As much of what somebody wrote as a line of the log has room for.
fn short(text: &str) -> &str {
    cut(text, SHORT_BYTES)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_gets_few_lines_and_the_next_one_counts_the_rest() {
        let audit = Audit::default();
        let now = Instant::now() + Duration::from_secs(1);
        let told = (0..1_000).filter(|_| audit.turn(now).is_some()).count();
        assert_eq!(told, 5);
        assert_eq!(audit.turn(now + Duration::from_secs(1)), Some(995));
        assert_eq!(audit.turn(now + Duration::from_secs(1)), Some(0));
    }
}
