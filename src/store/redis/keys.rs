//! Every key and feed name in Redis. All keys of a partition share the hash tag `{p}`, which comes before anything that strangers name.

use crate::domain::{
    name::{RosterKey, UserName},
    roster::Generation,
};

pub use crate::store::SCHEMA;

/// The names under one prefix.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

/// What a feed is about.
#[derive(Debug, PartialEq, Eq)]
pub enum Topic {
    /// The changes of a roster.
    Roster(RosterKey),
    /// What comes into the indexes of a partition and goes out of them.
    Index,
    /// What instances are told.
    Control,
    /// An instance's question to itself.
    Probe,
}

/// The names of one partition.
#[derive(Debug, Clone)]
pub struct PartitionKeys {
    stem: String,
}

impl Keys {
    /// The names under `prefix`, which has no braces: the first brace of a key opens the hash tag.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// hash: `number`, `min_reader`, `partitions`. Stands in the first partition for all of them: the lock beside it must be in its slot.
    pub fn schema(&self) -> String {
        self.partition(SCHEMA).named("schema")
    }

    /// string: who changes the schema just now.
    pub fn schema_lock(&self) -> String {
        self.partition(SCHEMA).named("schema:lock")
    }

    /// The names of a partition.
    pub fn partition(&self, partition: u16) -> PartitionKeys {
        PartitionKeys { stem: format!("{}:{{{partition}}}:", self.prefix) }
    }

    /// The partition and the topic of a feed; none for a name that is no feed of ours.
    pub fn topic(&self, feed: &str) -> Option<(u16, Topic)> {
        let rest = feed.strip_prefix(&self.prefix)?.strip_prefix(":{")?;
        let (partition, name) = rest.split_once("}:")?;
        let topic = match name.split_once(':').unwrap_or((name, "")) {
            ("f", roster) => Topic::Roster(RosterKey::from_stored(roster)?),
            ("w", "") => Topic::Index,
            ("ctl", _) => Topic::Control,
            ("probe", _) => Topic::Probe,
            _ => return None,
        };
        Some((partition.parse().ok()?, topic))
    }

    /// The partition of a roster; that which others do not see is in one with its twin.
    pub fn partition_of_roster(roster: &RosterKey, partitions: u16) -> u16 {
        Self::partition_of(&roster.twin(false).to_string(), partitions)
    }

    /// The partition of a roster or any other name: FNV-1a with 64 bits (Fowler, Noll, Vo; offset basis and prime from draft-eastlake-fnv), modulo.
    /// Whoever changes this moves every roster.
    pub fn partition_of(name: &str, partitions: u16) -> u16 {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        u16::try_from(hash % u64::from(partitions.max(1))).expect("less than a u16")
    }
}

impl PartitionKeys {
    /// What every name of the partition begins with.
    pub fn stem(&self) -> &str {
        &self.stem
    }

    fn named(&self, name: &str) -> String {
        format!("{}{name}", self.stem)
    }

    /// hash: `id`, `run`, `opened`, `closed`, `floor`, `history`, `index`, and `joins` and `leaves`, which every epoch goes on counting.
    pub fn epoch(&self) -> String {
        self.named("epoch")
    }

    /// hash: `base`, `beat`, and the terms `renew`, `lease`, `settle`.
    pub fn clock(&self) -> String {
        self.named("clock")
    }

    /// sorted set: generation → deadline of its lease.
    pub fn instances(&self) -> String {
        self.named("instances")
    }

    /// hash: generation → `link done-in-epoch version`.
    pub fn instances_info(&self) -> String {
        self.named("instances:info")
    }

    /// sorted set: `roster connection` → deadline; with an empty connection an empty roster's, whose number is then forgotten.
    pub fn ending(&self) -> String {
        self.named("ending")
    }

    /// sorted set: `roster connection take` → until when it is remembered that somebody else removed it.
    pub fn ended(&self) -> String {
        self.named("ended")
    }

    /// sorted set, all scores 0: users with a connection.
    pub fn online(&self) -> String {
        self.named("online")
    }

    /// sorted set, all scores 0: users with a connection that others do not see.
    pub fn unseen(&self) -> String {
        self.named("unseen")
    }

    /// sorted set, all scores 0: channels with a connection.
    pub fn occupied(&self) -> String {
        self.named("occupied")
    }

    /// sorted set, all scores 0: users of whom something is kept.
    pub fn known(&self) -> String {
        self.named("known")
    }

    /// hash: roster → number.
    pub fn versions(&self) -> String {
        self.named("versions")
    }

    /// set: `roster connection` in rosters of users that the generation held when it last wrote them.
    pub fn held_users(&self, generation: &str) -> String {
        self.named(&format!("held:{generation}:u"))
    }

    /// set: the same in channels.
    pub fn held_channels(&self, generation: &str) -> String {
        self.named(&format!("held:{generation}:c"))
    }

    /// hash: connection → row (see [`super::codec`]).
    pub fn rows(&self, roster: &str) -> String {
        self.named(&format!("{roster}:rows"))
    }

    /// hash, channels only: user → the ids of the user's connections there, joined by spaces.
    pub fn users(&self, roster: &str) -> String {
        self.named(&format!("{roster}:users"))
    }

    /// hash: `last_seen` and `last_active`, unix milliseconds, and the record: `serial`, `hidden`, `lasting` and `profile` (JSON). Expires, unless the
    /// record is a lasting one.
    pub fn person(&self, user: &UserName) -> String {
        self.named(&format!("u:{user}:person"))
    }

    /// The key beside the rows: the users of a channel, the person of a user.
    pub fn side(&self, roster: &RosterKey) -> String {
        match roster {
            RosterKey::Channel(_) | RosterKey::HiddenChannel(_) => self.users(&roster.to_string()),
            RosterKey::User(user) | RosterKey::HiddenUser(user) => self.person(user),
        }
    }

    /// sorted set, in the partition of the schema: who may not come in → until when. Names begin with `b:` for banned users, `u:` for users whose
    /// tokens were revoked, `t:` for ids of tokens.
    pub fn bars(&self) -> String {
        self.named("bars")
    }

    /// hash: of those, users whose tokens were revoked → when at the latest such a token was issued, unix milliseconds.
    pub fn bars_until(&self) -> String {
        self.named("bars:until")
    }

    /// string: a frozen text; expires.
    pub fn frozen(&self, name: &str) -> String {
        self.named(&format!("frozen:{name}"))
    }

    /// string: the host clock of tests, milliseconds.
    #[cfg(feature = "test-hooks")]
    pub fn test_time(&self) -> String {
        self.named("test:time")
    }

    /// The keys that every script declares first, in the order of `scripts/prelude.lua`.
    pub fn fixed(&self, generation: Option<&Generation>) -> Vec<String> {
        let generation = generation.map(ToString::to_string).unwrap_or_default();
        vec![
            self.epoch(),
            self.clock(),
            self.instances(),
            self.instances_info(),
            self.ending(),
            self.ended(),
            self.online(),
            self.occupied(),
            self.versions(),
            self.held_users(&generation),
            self.held_channels(&generation),
            self.known(),
            self.unseen(),
        ]
    }

    /// feed: the changes of a roster.
    pub fn feed(&self, roster: &RosterKey) -> String {
        self.named(&format!("f:{roster}"))
    }

    /// feed: what comes into the indexes that others see and goes out of them.
    pub fn index_feed(&self) -> String {
        self.named("w")
    }

    /// feed: to every instance.
    pub fn control(&self) -> String {
        self.named("ctl")
    }

    /// feed: to one instance.
    pub fn control_of(&self, instance: &str) -> String {
        self.named(&format!("ctl:{instance}"))
    }

    /// feed: an instance's question to itself, whether it hears.
    pub fn probe(&self, instance: &str) -> String {
        self.named(&format!("probe:{instance}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-16/XMODEM, as the Redis Cluster specification has it, of the hash tag or the whole key.
    fn slot(key: &str) -> u16 {
        let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
        let bytes = tag.filter(|tag| !tag.is_empty()).unwrap_or(key).bytes();
        let crc =
            bytes.fold(0_u16, |crc, byte| {
                (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
                    if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
                })
            });
        crc % 16384
    }

    #[test]
    fn the_slots_are_those_of_redis() {
        assert_eq!(slot("123456789"), 0x31c3);
        assert_eq!(slot("foo"), 12182);
        assert_eq!(slot("{foo}bar{baz}"), 12182);
    }

    #[test]
    fn all_keys_of_a_partition_are_in_one_slot_whatever_strangers_call_themselves() {
        let keys = Keys::new("rollcall");
        for partition in [0, 1, 63, 4095] {
            let keys = keys.partition(partition);
            let wanted = slot(&keys.epoch());
            for name in ["a", "{", "}", "{}", "{1}", "}{", "{{x}}", "a}:b{c", "\u{1f600}{\u{1f600}}", "u:x", "%7B2%7D"]
            {
                let generation = Generation { instance: "i{9}".into(), number: 3 };
                let mut all = keys.fixed(Some(&generation));
                for roster in ["c", "u", "x", "h"].map(|kind| format!("{kind}:{name}")) {
                    let roster = RosterKey::from_stored(&roster).expect("a good name");
                    all.extend([keys.rows(&roster.to_string()), keys.side(&roster), keys.feed(&roster)]);
                }
                all.extend([
                    keys.bars(),
                    keys.bars_until(),
                    keys.frozen(name),
                    keys.index_feed(),
                    keys.control(),
                    keys.control_of(name),
                    keys.probe(name),
                ]);
                for key in all {
                    assert_eq!(slot(&key), wanted, "{key}");
                }
            }
        }
    }

    #[test]
    fn a_feed_says_what_it_is_about() {
        let keys = Keys::new("ours:too");
        let roster = RosterKey::from_stored("c:f:}:{1}:probe").unwrap();
        let partition = keys.partition(7);
        assert_eq!(keys.topic(&partition.feed(&roster)), Some((7, Topic::Roster(roster))));
        assert_eq!(keys.topic(&partition.index_feed()), Some((7, Topic::Index)));
        assert_eq!(keys.topic(&partition.control()), Some((7, Topic::Control)));
        assert_eq!(keys.topic(&partition.control_of("f:me")), Some((7, Topic::Control)));
        assert_eq!(keys.topic(&partition.probe("me")), Some((7, Topic::Probe)));
        for other in ["ours:{7}:ctl", "ours:too:{x}:ctl", "ours:too:{7}:rows", "", "{7}:ctl"] {
            assert_eq!(keys.topic(other), None, "{other}");
        }
    }

    #[test]
    fn a_roster_stays_in_its_partition() {
        assert_eq!(Keys::partition_of("c:room:1", 1), 0);
        let spread: std::collections::BTreeSet<u16> =
            (0..1000).map(|n| Keys::partition_of(&format!("c:room:{n}"), 64)).collect();
        assert_eq!(spread.len(), 64);
        for (roster, hidden) in [("c:room:1", "x:room:1"), ("u:ann", "h:ann")] {
            let [roster, hidden] = [roster, hidden].map(|text| RosterKey::from_stored(text).expect("a good name"));
            assert_eq!(Keys::partition_of_roster(&roster, 64), Keys::partition_of(&roster.to_string(), 64));
            assert_eq!(Keys::partition_of_roster(&roster, 64), Keys::partition_of_roster(&hidden, 64));
        }
        // From the reference vectors of FNV-1a 64: "foobar" is 0x85944171f73967e8.
        assert_eq!(Keys::partition_of("foobar", 1000), u16::try_from(0x8594_4171_f739_67e8_u64 % 1000).unwrap());
    }
}
