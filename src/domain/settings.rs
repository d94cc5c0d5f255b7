//! The settings that the rules of presence read. `config.default.toml` says what each means and how far it may be moved.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::{level::Level, mode::Bounds, pattern::Pattern, principal::Capabilities};

/// The longest grace there is, milliseconds.
pub const MAX_GRACE_MS: u64 = 300_000;

/// Times of presence: `presence.*`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Presence {
    /// How often a quiet socket is asked whether it still lives.
    pub ping_ms: u64,
    /// How long the answer to a ping may take.
    pub pong_timeout_ms: u64,
    /// How long a connection keeps its place after its socket broke, where nothing nearer says otherwise.
    pub grace_ms: u64,
    /// How long an instance's lease lasts without a renewal.
    pub instance_lease_ms: u64,
    /// How often an instance renews its lease.
    pub instance_renew_ms: u64,
    /// How long a new epoch settles at least, in presence time.
    pub settle_ms: u64,
    /// How often an instance looks through all rows for what nothing alive answers for.
    pub audit_ms: u64,
    /// Without activity for so long, a user is idle.
    pub idle_after_ms: u64,
    /// Without activity for so long, a user is away.
    pub away_after_ms: u64,
    /// How long "is typing" holds without being said again.
    pub typing_ms: u64,
    /// How long it is remembered when somebody was last seen, days.
    pub last_seen_days: u32,
    /// Members times watchers on this instance from which on watchers get net changes at longer intervals.
    pub net_above: u64,
    /// Members times watchers on this instance from which on watchers get the occupancy only.
    pub occupancy_above: u64,
}

impl Presence {
    /// From which load on a channel is large.
    pub fn mode_bounds(&self) -> Bounds {
        Bounds { net_above: self.net_above, occupancy_above: self.occupancy_above }
    }
}

/// What one caller may use up: `limits.*`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The longest frame or request body that is read, bytes.
    pub frame_bytes: usize,
    /// The longest state of a connection or `info` of a token, bytes of compact JSON.
    pub state_bytes: usize,
    /// In how many channels a connection may be.
    pub channels_per_connection: usize,
    /// The longest state of a user, bytes of compact JSON.
    pub user_state_bytes: usize,
    /// How many users a connection may watch by name.
    pub watched_users: usize,
    /// How many patterns of channels a connection may watch.
    pub watched_patterns: usize,
    /// How many occupied channels a watched pattern may mean.
    pub pattern_channels: usize,
    /// The longest signal, bytes of compact JSON.
    pub signal_bytes: usize,
    /// How many signals and signs of typing a connection may send in a second, lastingly.
    pub signals_per_second: u32,
    /// How many operations a connection may ask for in a second, lastingly.
    pub operations_per_second: u32,
    /// How many connections a user may have.
    pub connections_per_user: usize,
    /// How many sockets may come from one address, on one instance.
    pub connections_per_address: usize,
    /// How many users may be in a channel.
    pub members_per_channel: usize,
    /// How many bans and revocations are remembered.
    pub revocations: usize,
}

/// What holds for the channels of a pattern, where it differs from the rest: `[[namespace]]`. The first that matches counts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Whose settings these are.
    #[serde(rename = "match")]
    pub pattern: Pattern,
    /// The grace here, instead of `presence.grace_ms`.
    #[serde(default)]
    pub grace_ms: Option<u64>,
    /// How many users may be in a channel, instead of `limits.members_per_channel`.
    #[serde(default)]
    pub max_members: Option<usize>,
    /// The most that watchers are told here; none is no bound.
    #[serde(default)]
    pub level: Option<Level>,
    /// What a token may do here that says nothing about it.
    #[serde(default, deserialize_with = "shared")]
    pub can: Option<Arc<Capabilities>>,
    /// Whether one can be present here at all.
    #[serde(default = "yes")]
    pub presence: bool,
    /// Whether clients may give a state here; servers always may.
    #[serde(default = "yes")]
    pub client_state: bool,
}

impl Namespace {
    /// The settings that count for `channel`: those of the first pattern that means it.
    pub fn of<'a>(namespaces: &'a [Namespace], channel: &str) -> Option<&'a Namespace> {
        namespaces.iter().find(|namespace| namespace.pattern.matches(channel))
    }
}

fn yes() -> bool {
    true
}

fn shared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<Capabilities>>, D::Error> {
    Capabilities::deserialize(deserializer).map(|can| Some(Arc::new(can)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_namespace_that_matches_counts() {
        let namespaces: Vec<Namespace> = ["room:vip", "room:**", "**"]
            .iter()
            .map(|pattern| serde_json::from_value(serde_json::json!({"match": pattern})).unwrap())
            .collect();
        let found = |channel| Namespace::of(&namespaces, channel).map(|namespace| namespace.pattern.as_str());
        assert_eq!(found("room:vip"), Some("room:vip"));
        assert_eq!(found("room:1"), Some("room:**"));
        assert_eq!(found("lobby"), Some("**"));
        assert_eq!(Namespace::of(&namespaces[..1], "lobby"), None);
    }
}
