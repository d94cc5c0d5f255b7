//! Wall time, which is shown to people and decides nothing about presence.

use std::time::{SystemTime, UNIX_EPOCH};

/// The host's wall time, unix milliseconds: for what people read and for the expiry of tokens, which others have dated by wall time.
#[allow(clippy::disallowed_methods, reason = "the one place where wall time enters")]
pub fn wall_now_ms() -> u64 {
    #[cfg(test)]
    if let Some(wall) = WALL.get() {
        return wall();
    }
    // A host whose clock stands before 1970 counts as being in 1970: tokens live longer there, and nobody is refused for it.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
thread_local! {
    /// The wall clock of a simulation on this thread.
    pub static WALL: std::cell::Cell<Option<fn() -> u64>> = const { std::cell::Cell::new(None) };
}
