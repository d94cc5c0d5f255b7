//! A bucket of tokens: so many operations a second, lastingly, and as many at once.

use std::time::Duration;

use tokio::time::Instant;

/// Refills steadily up to what a second brings.
#[derive(Debug)]
pub struct Bucket {
    between: Duration,
    /// When the bucket would have been full, had nothing more been taken: the generic cell rate algorithm (ITU-T I.371).
    full_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(per_second: u32, now: Instant) -> Self {
        Self { between: Duration::from_secs(1) / per_second.max(1), full_at: now }
    }

    /// Whether nothing is missing.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// Takes one; 0, or after how many milliseconds there will be one.
    pub fn take(&mut self, now: Instant) -> u64 {
        let full_at = self.full_at.max(now) + self.between;
        let over = full_at.saturating_duration_since(now + Duration::from_secs(1));
        if over.is_zero() {
            self.full_at = full_at;
            return 0;
        }
        u64::try_from(over.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_may_come_at_once_and_then_steadily() {
        let start = Instant::now();
        let mut bucket = Bucket::new(50, start);
        assert!((0..50).all(|_| bucket.take(start) == 0));
        let wait = bucket.take(start);
        assert!((1..=20).contains(&wait), "{wait}");
        assert_eq!(bucket.take(start + Duration::from_millis(20)), 0);
        assert!(bucket.take(start + Duration::from_millis(20)) > 0);
        assert!((0..50).all(|_| bucket.take(start + Duration::from_secs(5)) == 0));
    }
}
