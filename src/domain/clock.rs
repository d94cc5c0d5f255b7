//! Presence time: a clock that runs only while somebody keeps it.

use super::rule::Rule;

/// What a host clock may add between two renewals beyond the renewal length, milliseconds.
pub const SLACK_MS: u64 = 1_000;

/// A clock in milliseconds whose every deadline is decided by it alone.
///
/// It follows a host clock, but a step of that clock counts for at most one renewal and [`SLACK_MS`], and a step back counts for nothing.
/// So an outage, a frozen Redis or a replica with another clock costs a few seconds of presence time, and nobody leaves because nobody was there
/// to renew.
#[derive(Debug, Clone, Default)]
pub struct PresenceClock {
    base: u64,
    beat: u64,
}

impl PresenceClock {
    /// A clock that stood at `base` when the host clock was `beat`, as it was kept somewhere.
    pub fn kept(base: u64, beat: u64) -> Self {
        Self { base, beat }
    }

    /// The presence time at `host_ms` of the host clock, where instances renew every `renew_ms`.
    pub fn now(&self, host_ms: u64, renew_ms: u64) -> u64 {
        if self.beat == 0 {
            return self.base;
        }
        let most = if Rule::PresenceTime.holds() { renew_ms + SLACK_MS } else { u64::MAX };
        self.base + host_ms.saturating_sub(self.beat).min(most)
    }

    /// A renewal: what has passed is kept, and the host clock is read from here on.
    pub fn renew(&mut self, host_ms: u64, renew_ms: u64) {
        self.base = self.now(host_ms, renew_ms);
        self.beat = host_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_or_a_jump_counts_for_four_seconds_at_most() {
        let mut clock = PresenceClock::default();
        clock.renew(1_000_000, 3_000);
        assert_eq!(clock.now(1_002_000, 3_000), 2_000);
        assert_eq!(clock.now(9_000_000, 3_000), 4_000);
        clock.renew(9_000_000, 3_000);
        assert_eq!(clock.now(9_000_000, 3_000), 4_000);
        assert_eq!(clock.now(8_000_000, 3_000), 4_000, "a clock set back does not run backwards");
        clock.renew(8_000_000, 3_000);
        assert_eq!(clock.now(8_001_000, 3_000), 5_000);
    }
}
