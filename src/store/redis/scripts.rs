//! The scripts, put together from the prelude that all begin with and a body each.

use redis::Script;

#[cfg(feature = "test-hooks")]
use crate::domain::rule::Rule;

/// The host clock of every script: that of Redis, in milliseconds.
const HOST_CLOCK: &str = "local function host_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
";

/// The host clock of tests: a key beside the fixed ones.
#[cfg(feature = "test-hooks")]
const TEST_CLOCK: &str = "local function host_ms()
  return tonumber(redis.call('GET', KEYS[14]))
end
";

const PRELUDE: &str = include_str!("scripts/prelude.lua");
const ROWS: &str = include_str!("scripts/rows.lua");
const RENEW: &str = include_str!("scripts/renew.lua");
const WRITE: &str = include_str!("scripts/write.lua");
const SWEEP: &str = include_str!("scripts/sweep.lua");
const AUDIT: &str = include_str!("scripts/audit.lua");
const BAR: &str = include_str!("scripts/bar.lua");

/// Where each protecting rule stands in the scripts, and what stands there when a test has switched it off.
#[cfg(feature = "test-hooks")]
const RULES: &[(Rule, &str, &str)] = &[
    (Rule::Take, "before.take > take\n      or (before.take == take and ", "false\n      or (false and "),
    (Rule::Take, "take >= 0 and (row.take > take or others)", "false"),
    (Rule::DeadGeneration, "not registering and (not deadline or tonumber(deadline) <= now)", "false"),
    (Rule::DeadGeneration, "not lease or tonumber(lease) <= now", "false"),
    (
        Rule::PresenceTime,
        "now + math.min(math.max(host - tonumber(clock[2]), 0), RENEW_MS + SLACK_MS)",
        "now + math.max(host - tonumber(clock[2]), 0)",
    ),
    (Rule::Settling, "CANDIDATE, now, false", "CANDIDATE, now, true"),
    (Rule::Settling, "'opened', now, 'closed', 0", "'opened', now, 'closed', 1"),
    (Rule::Link, "tonumber(string.match(info, '^%d+')) > link", "false"),
    (Rule::Link, "tonumber(string.match(call('HGET', INFO, me) or '0', '^%d+')) ~= link", "false"),
    (Rule::Floor, "floor = math.max(floor, r.number)", ""),
    (Rule::Audit, "rows, lists = CALL[2], CALL[3]", "rows, lists = {}, {}"),
];

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
    /// Who may not come in.
    pub bar: Script,
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
        let script = |parts: &[&str]| Script::new(&as_ruled(format!("{clock}{PRELUDE}{}", parts.concat())));
        Self {
            renew: script(&[RENEW]),
            write: script(&[ROWS, WRITE]),
            sweep: script(&[ROWS, SWEEP]),
            audit: script(&[ROWS, AUDIT]),
            bar: script(&[BAR]),
        }
    }
}

/// The text of a script with the rules that are in force: all of them.
#[cfg(not(feature = "test-hooks"))]
fn as_ruled(text: String) -> String {
    text
}

/// The text of a script with the rules that are in force.
#[cfg(feature = "test-hooks")]
fn as_ruled(text: String) -> String {
    let off = RULES.iter().filter(|(rule, ..)| !rule.holds());
    off.fold(text, |text, (_, with, without)| text.replace(with, without))
}

#[cfg(all(test, feature = "test-hooks"))]
mod tests {
    use super::*;

    #[test]
    fn each_rule_stands_where_it_can_be_switched_off() {
        let all = [PRELUDE, ROWS, RENEW, WRITE, SWEEP, AUDIT].concat();
        for (rule, with, _) in RULES {
            assert_eq!(all.matches(with).count(), 1, "{rule:?}: `{with}`");
        }
        for rule in Rule::ALL.into_iter().filter(|rule| !matches!(rule, Rule::FeedFirst | Rule::OneBatch)) {
            let _without = rule.without();
            assert_ne!(as_ruled(all.clone()), all, "{rule:?} is kept by the scripts");
        }
        assert_eq!(as_ruled(all.clone()), all);
    }
}
