//! What a call of the store came to, for those who count it. It is counted where it is decided, so that over a cluster each is counted once.

use super::member::Reason;

/// What one call changed of who is where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Users who came into a channel, each with the first connection there. What is put back while an epoch settles has been there before.
    pub joins: u64,
    /// Connections whose end was under way, and that are held again.
    pub saved: u64,
    leaves: [u64; Reason::ALL.len()],
}

impl Tally {
    /// Users whose last connection left a channel, for this reason.
    pub fn leaves(&self, reason: Reason) -> u64 {
        self.leaves[reason as usize]
    }

    /// So many more have left for this reason.
    pub fn add_leaves(&mut self, reason: Reason, users: u64) {
        self.leaves[reason as usize] += users;
    }
}
