//! The scripts, put together from the prelude that all begin with and a body each.

use redis::Script;

/// The host clock of every script: that of Redis, in milliseconds.
const HOST_CLOCK: &str = "local function host_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
";

/// The host clock of tests: a key beside the fixed ones.
#[cfg(feature = "test-hooks")]
const TEST_CLOCK: &str = "local function host_ms()
  return tonumber(redis.call('GET', KEYS[12]))
end
";

const PRELUDE: &str = include_str!("scripts/prelude.lua");
const ROWS: &str = include_str!("scripts/rows.lua");

/// The scripts of a store.
#[derive(Debug)]
pub struct Scripts {
    /// A lease lives on.
    pub renew: Script,
    /// A batch.
    pub write: Script,
    /// What is due ends.
    pub sweep: Script,
    /// What is wrong is mended.
    pub audit: Script,
}

impl Scripts {
    /// The scripts by the clock of Redis.
    pub fn new() -> Self {
        Self::by(HOST_CLOCK)
    }

    /// The scripts by a clock that a test sets.
    #[cfg(feature = "test-hooks")]
    pub fn by_test_clock() -> Self {
        Self::by(TEST_CLOCK)
    }

    fn by(clock: &str) -> Self {
        let script = |parts: &[&str]| Script::new(&format!("{clock}{PRELUDE}{}", parts.concat()));
        Self {
            renew: script(&[include_str!("scripts/renew.lua")]),
            write: script(&[ROWS, include_str!("scripts/write.lua")]),
            sweep: script(&[ROWS, include_str!("scripts/sweep.lua")]),
            audit: script(&[ROWS, include_str!("scripts/audit.lua")]),
        }
    }
}
