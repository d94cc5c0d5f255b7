//! Plain commands, reads above all: no script, so that a large roster costs Redis as little as it can. What belongs together is read in one MULTI.

use std::collections::{BTreeMap, HashMap, btree_map::Entry};

use futures_util::future::try_join_all;
use redis::{FromRedisValue, Pipeline, RedisError, Value, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::{
    Redis,
    client::{ANSWER, failed},
    codec,
    keys::Keys,
};
use crate::{
    domain::{
        clock::PresenceClock,
        member::Occupancy,
        name::{ChannelName, ConnectionId, RosterKey, UserName},
        person::Record,
        roster::{Generation, Row},
        time::wall_now_ms,
        version::{Epoch, Version},
    },
    store::{
        Counted, Index, Inside, Numbers, PartitionId, Person, Reading, Registered, Store as _, StoreError, Totals,
    },
};

/// How many keys or fields one MULTI asks for: each blocks Redis for about a millisecond at most.
const CHUNK: usize = 500;

/// The epoch as a reading names it.
#[derive(Clone)]
struct Head {
    epoch: Epoch,
    settling: bool,
    /// The number of the last change of the indexes.
    index: u64,
}

fn value<T: FromRedisValue>(value: Value) -> Result<T, StoreError> {
    redis::from_redis_value(value).map_err(|error| StoreError::Unusable(error.to_string()))
}

/// What stands in the hash of a person: serial, hidden, lasting, profile, last seen, last active.
type Kept = (Option<u64>, Option<u8>, Option<u8>, Option<String>, Option<u64>, Option<u64>);

/// The answers of a MULTI, one after the other.
struct Answers(std::vec::IntoIter<Value>);

impl Answers {
    fn next<T: FromRedisValue>(&mut self) -> Result<T, StoreError> {
        value(self.0.next().ok_or_else(|| StoreError::Unusable("Redis answered too little".into()))?)
    }

    fn head(&mut self) -> Result<Head, StoreError> {
        let (epoch, closed, index): (Option<String>, Option<u8>, Option<u64>) = self.next()?;
        // Emptied, and no instance has renewed since: nothing can be said for the next seconds.
        let epoch = epoch.ok_or_else(|| StoreError::Unavailable("no epoch has begun yet".into()))?;
        Ok(Head { epoch: Epoch::new(&epoch), settling: closed != Some(1), index: index.unwrap_or(0) })
    }

    /// What [`Redis::add_host_clock`] has asked for: seconds and microseconds, or the one number of a test's clock.
    fn host_ms(&mut self) -> Result<u64, StoreError> {
        match self.next()? {
            Value::Array(time) => {
                let (seconds, micros): (u64, u64) = value(Value::Array(time))?;
                Ok(seconds * 1_000 + micros / 1_000)
            }
            ms => value(ms),
        }
    }

    fn rows(&mut self) -> Result<Vec<(ConnectionId, Row)>, StoreError> {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = self.next()?;
        // What is no row is left out here and taken away by the audit.
        let read = |(connection, text): (Vec<u8>, Vec<u8>)| {
            let row = codec::row(std::str::from_utf8(&text).ok()?).ok()?;
            Some((ConnectionId::from_stored(std::str::from_utf8(&connection).ok()?), row))
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }
}

impl Redis {
    /// A connection for plain reads of a partition.
    pub(super) async fn reader(&self, partition: PartitionId) -> Result<MultiplexedConnection, StoreError> {
        let node = self.topology.node_of(partition)?;
        // The pool tries all its connections, one after the other, each for as long as an answer may take: once is enough.
        let pooled = timeout(ANSWER, node.pool().get()).await;
        let pooled = pooled.map_err(|_| self.nobody_answers("no connection answers"))?;
        let pooled = pooled.map_err(|error| match error {
            deadpool_redis::PoolError::Backend(error) => self.reading_failed(&error),
            other => self.nobody_answers(&other.to_string()),
        })?;
        // The connection is shared by its nature: it goes back at once, and others may use it while we wait.
        Ok((*pooled).clone())
    }

    fn nobody_answers(&self, why: &str) -> StoreError {
        self.topology.doubt();
        StoreError::Unavailable(why.to_owned())
    }

    fn reading_failed(&self, error: &RedisError) -> StoreError {
        self.topology.doubt();
        failed(error)
    }

    pub(super) async fn command<T: FromRedisValue>(
        &self,
        partition: PartitionId,
        command: &redis::Cmd,
    ) -> Result<T, StoreError> {
        let answer = command.query_async(&mut self.reader(partition).await?).await;
        answer.map_err(|error| self.reading_failed(&error))
    }

    /// Tells whoever hears a feed of this partition just now.
    pub(super) async fn publish(&self, partition: PartitionId, feed: &str, message: Vec<u8>) -> Result<(), StoreError> {
        let publish = if self.topology.is_cluster() { "SPUBLISH" } else { "PUBLISH" };
        self.command::<u64>(partition, redis::cmd(publish).arg(feed).arg(message)).await.map(drop)
    }

    async fn ask(&self, mut connection: MultiplexedConnection, pipe: &Pipeline) -> Result<Answers, StoreError> {
        let answers: Vec<Value> =
            pipe.query_async(&mut connection).await.map_err(|error| self.reading_failed(&error))?;
        Ok(Answers(answers.into_iter()))
    }

    /// Asks a partition at one moment.
    async fn ask_partition(&self, partition: PartitionId, pipe: &Pipeline) -> Result<Answers, StoreError> {
        self.ask(self.reader(partition).await?, pipe).await
    }

    /// A connection for each of these partitions; one for those that share a server.
    async fn readers(
        &self,
        partitions: impl Iterator<Item = PartitionId>,
    ) -> Result<HashMap<PartitionId, MultiplexedConnection>, StoreError> {
        let table = self.topology.table().borrow().clone();
        let table = table.ok_or_else(|| StoreError::Unavailable("it is not known yet where the data is".into()))?;
        let (mut by_home, mut readers) = (BTreeMap::new(), HashMap::new());
        for partition in partitions {
            let connection = match by_home.entry(table.home(partition)) {
                Entry::Occupied(entry) => MultiplexedConnection::clone(entry.get()),
                Entry::Vacant(entry) => entry.insert(self.reader(partition).await?).clone(),
            };
            readers.insert(partition, connection);
        }
        Ok(readers)
    }

    /// A MULTI that begins with the epoch.
    fn pipe(&self, partition: PartitionId) -> Pipeline {
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("HMGET").arg(self.keys.partition(partition).epoch()).arg(&["id", "closed", "index"]);
        pipe
    }

    /// Where a frozen text is kept.
    pub(super) fn frozen_at(&self, name: &str) -> (PartitionId, String) {
        let partition = Keys::partition_of(name, self.partitions);
        (partition, self.keys.partition(partition).frozen(name))
    }

    pub(super) async fn read_roster(&self, roster: &RosterKey) -> Result<Reading, StoreError> {
        let partition = self.partition_of(roster);
        let (keys, name) = (self.keys.partition(partition), roster.to_string());
        let mut pipe = self.pipe(partition);
        pipe.cmd("HGET").arg(keys.versions()).arg(&name).cmd("HGETALL").arg(keys.rows(&name));
        let mut answers = self.ask_partition(partition, &pipe).await?;
        let Head { epoch, settling, .. } = answers.head()?;
        Ok(Reading { epoch, settling, number: answers.next()?, rows: answers.rows()? })
    }

    /// Asks for many things of many partitions: what `add` adds to a MULTI for one, `take` takes out of its answers. The order is kept.
    async fn spread<'a, K, T>(
        &self,
        wanted: &'a [K],
        partition_of: impl Fn(&K) -> PartitionId,
        add: impl Fn(&mut Pipeline, PartitionId, &K),
        take: impl Fn(&Head, &mut Answers, &'a K) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut groups: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
        for (index, key) in wanted.iter().enumerate() {
            groups.entry(partition_of(key)).or_default().push(index);
        }
        let groups: Vec<(PartitionId, &[usize])> =
            groups.iter().flat_map(|(partition, group)| group.chunks(CHUNK).map(|chunk| (*partition, chunk))).collect();
        let mut found: Vec<Option<T>> = wanted.iter().map(|_| None).collect();
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let readers = self.readers(groups.iter().map(|(partition, _)| *partition)).await?;
        let asked = groups.iter().map(|(partition, group)| {
            let mut pipe = self.pipe(*partition);
            group.iter().for_each(|index| add(&mut pipe, *partition, &wanted[*index]));
            let connection = readers[partition].clone();
            async move { self.ask(connection, &pipe).await }
        });
        for ((_, group), mut answers) in groups.iter().zip(try_join_all(asked).await?) {
            let head = answers.head()?;
            for index in *group {
                found[*index] = Some(take(&head, &mut answers, &wanted[*index])?);
            }
        }
        Ok(found.into_iter().map(|found| found.expect("every key is in one group")).collect())
    }

    pub(super) async fn read_rows(&self, keys: &[(RosterKey, ConnectionId)]) -> Result<Vec<Option<Row>>, StoreError> {
        self.spread(
            keys,
            |(roster, _)| self.partition_of(roster),
            |pipe, partition, (roster, connection)| {
                let key = self.keys.partition(partition).rows(&roster.to_string());
                pipe.cmd("HGET").arg(key).arg(connection.as_str());
            },
            |_, answers, _| {
                let text: Option<Vec<u8>> = answers.next()?;
                Ok(text.and_then(|text| codec::row(std::str::from_utf8(&text).ok()?).ok()))
            },
        )
        .await
    }

    pub(super) async fn read_numbers(
        &self,
        partition: PartitionId,
        rosters: &[RosterKey],
    ) -> Result<Numbers, StoreError> {
        let mut pipe = self.pipe(partition);
        let versions = self.keys.partition(partition).versions();
        for chunk in rosters.chunks(CHUNK) {
            let names: Vec<String> = chunk.iter().map(RosterKey::to_string).collect();
            pipe.cmd("HMGET").arg(&versions).arg(names);
        }
        let mut answers = self.ask_partition(partition, &pipe).await?;
        let Head { epoch, settling, index } = answers.head()?;
        let mut numbers = Vec::with_capacity(rosters.len());
        for _ in rosters.chunks(CHUNK) {
            numbers.extend(answers.next::<Vec<Option<u64>>>()?);
        }
        Ok(Numbers { epoch, settling, numbers, index })
    }

    pub(super) async fn read_counts(&self, channels: &[ChannelName]) -> Result<Vec<Counted>, StoreError> {
        let rosters: Vec<RosterKey> = channels.iter().cloned().map(RosterKey::Channel).collect();
        self.spread(
            &rosters,
            |roster| self.partition_of(roster),
            |pipe, partition, roster| {
                let (keys, name) = (self.keys.partition(partition), roster.to_string());
                pipe.cmd("HGET").arg(keys.versions()).arg(&name);
                pipe.cmd("HLEN").arg(keys.users(&name)).cmd("HLEN").arg(keys.rows(&name));
            },
            |head, answers, _| {
                let number: Option<u64> = answers.next()?;
                Ok(Counted {
                    version: Version { epoch: head.epoch.clone(), number: number.unwrap_or(0) },
                    settling: head.settling,
                    occupancy: Occupancy { users: answers.next()?, connections: answers.next()? },
                })
            },
        )
        .await
    }

    pub(super) async fn read_inside(&self, channels: &[ChannelName]) -> Result<Vec<Inside>, StoreError> {
        let rosters: Vec<RosterKey> = channels.iter().cloned().map(RosterKey::Channel).collect();
        self.spread(
            &rosters,
            |roster| self.partition_of(roster),
            |pipe, partition, roster| {
                pipe.cmd("HKEYS").arg(self.keys.partition(partition).users(&roster.to_string()));
            },
            |head, answers, _| {
                let names: Vec<Vec<u8>> = answers.next()?;
                let read = |name: Vec<u8>| UserName::parse(std::str::from_utf8(&name).ok()?).ok();
                Ok(Inside { settling: head.settling, users: names.into_iter().filter_map(read).collect() })
            },
        )
        .await
    }

    pub(super) async fn read_people(&self, users: &[UserName]) -> Result<Vec<Person>, StoreError> {
        let rosters: Vec<RosterKey> = users.iter().cloned().map(RosterKey::User).collect();
        // What is kept for good has no expiry that would take these with it.
        let long_ago = wall_now_ms().saturating_sub(self.last_seen_s * 1_000);
        self.spread(
            &rosters,
            |roster| self.partition_of(roster),
            |pipe, partition, roster| {
                let (keys, name) = (self.keys.partition(partition), roster.to_string());
                pipe.cmd("HGET").arg(keys.versions()).arg(&name).cmd("HGETALL").arg(keys.rows(&name));
                pipe.cmd("HGETALL").arg(keys.rows(&roster.twin(true).to_string()));
                let fields = ["serial", "hidden", "lasting", "profile", "last_seen", "last_active"];
                pipe.cmd("HMGET").arg(keys.side(roster)).arg(&fields);
            },
            |head, answers, _| {
                let Head { epoch, settling, .. } = head.clone();
                let reading = Reading { epoch, settling, number: answers.next()?, rows: answers.rows()? };
                let hidden = answers.rows()?;
                let (serial, is_hidden, is_lasting, profile, last_seen, last_active): Kept = answers.next()?;
                let record = serial.map(|serial| Record {
                    serial,
                    hidden: is_hidden == Some(1),
                    lasting: is_lasting == Some(1),
                    profile: profile.unwrap_or_default().into(),
                });
                let is_lasting = record.as_ref().is_some_and(|record: &Record| record.lasting);
                let recent = |at: &u64| !is_lasting || *at >= long_ago;
                let (last_seen, last_active) = (last_seen.filter(recent), last_active.filter(recent));
                Ok(Person { reading, hidden, record, last_seen, last_active })
            },
        )
        .await
    }

    pub(super) async fn read_names(
        &self,
        index: Index,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<String>, StoreError> {
        let from = match after {
            Some(after) if after >= prefix => format!("({after}"),
            _ => format!("[{prefix}"),
        };
        // No name contains the byte 0xff: every name with the prefix sorts before it.
        let to = [b"(", prefix.as_bytes(), &[0xff]].concat();
        let readers = self.readers(0..self.partitions).await?;
        let asked = (0..self.partitions).map(|partition| {
            let keys = self.keys.partition(partition);
            let key = match index {
                Index::Online => keys.online(),
                Index::Unseen => keys.unseen(),
                Index::Occupied => keys.occupied(),
                Index::Known => keys.known(),
            };
            let mut command = redis::cmd("ZRANGEBYLEX");
            command.arg(key).arg(&from).arg(&to).arg("LIMIT").arg(0).arg(most);
            let mut connection = readers[&partition].clone();
            async move { command.query_async::<Vec<String>>(&mut connection).await }
        });
        let found = try_join_all(asked).await.map_err(|error| self.reading_failed(&error))?;
        let mut names: Vec<String> = found.into_iter().flatten().collect();
        names.sort_unstable();
        names.truncate(most);
        Ok(names)
    }

    pub(super) async fn read_totals(&self) -> Result<Totals, StoreError> {
        let readers = self.readers(0..self.partitions).await?;
        let mut totals = Totals::default();
        let mut instances: BTreeMap<Generation, Registered> = BTreeMap::new();
        let asked = (0..self.partitions).map(|partition| self.read_totals_of(partition, readers[&partition].clone()));
        for part in try_join_all(asked).await? {
            totals.users += part.users;
            totals.channels += part.channels;
            totals.joins += part.joins;
            totals.leaves += part.leaves;
            for one in part.instances {
                match instances.entry(one.generation.clone()) {
                    Entry::Vacant(entry) => drop(entry.insert(one)),
                    Entry::Occupied(mut entry) => {
                        let known = entry.get_mut();
                        known.connections += one.connections;
                        known.lease_ms = known.lease_ms.min(one.lease_ms);
                    }
                }
            }
        }
        totals.instances = instances.into_values().collect();
        Ok(totals)
    }

    async fn read_totals_of(
        &self,
        partition: PartitionId,
        connection: MultiplexedConnection,
    ) -> Result<Totals, StoreError> {
        let keys = self.keys.partition(partition);
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("ZCARD").arg(keys.online()).cmd("ZCARD").arg(keys.occupied());
        pipe.cmd("HMGET").arg(keys.epoch()).arg(&["joins", "leaves"]);
        pipe.cmd("HMGET").arg(keys.clock()).arg(&["base", "beat", "renew"]);
        self.add_host_clock(&mut pipe, partition);
        pipe.cmd("HGETALL").arg(keys.instances_info()).cmd("ZRANGE").arg(keys.instances()).arg(&[
            "0",
            "-1",
            "WITHSCORES",
        ]);
        let mut answers = self.ask(connection.clone(), &pipe).await?;
        let (users, channels) = (answers.next()?, answers.next()?);
        let (joins, leaves): (Option<u64>, Option<u64>) = answers.next()?;
        let (base, beat, renew_ms): (Option<u64>, Option<u64>, Option<u64>) = answers.next()?;
        let clock = PresenceClock::kept(base.unwrap_or(0), beat.unwrap_or(0));
        let now = clock.now(answers.host_ms()?, renew_ms.unwrap_or(0));
        let info: HashMap<String, String> = answers.next()?;
        let leases: HashMap<String, u64> = answers.next()?;
        let registered = |(text, info): (String, String)| {
            Some(Registered {
                generation: Generation::from_stored(&text)?,
                version: info.splitn(3, ' ').nth(2).unwrap_or_default().into(),
                connections: 0,
                lease_ms: leases.get(&text)?.saturating_sub(now),
            })
        };
        let mut instances: Vec<Registered> = info.into_iter().filter_map(registered).collect();
        if !instances.is_empty() {
            let mut pipe = redis::pipe();
            for one in &instances {
                pipe.cmd("SCARD").arg(keys.held_users(&one.generation.to_string()));
            }
            let mut answers = self.ask(connection, &pipe).await?;
            for one in &mut instances {
                one.connections = answers.next()?;
            }
        }
        Ok(Totals { users, channels, joins: joins.unwrap_or(0), leaves: leaves.unwrap_or(0), instances })
    }

    /// Asks for the clock that the scripts go by.
    fn add_host_clock(&self, pipe: &mut Pipeline, partition: PartitionId) {
        #[cfg(feature = "test-hooks")]
        if self.test_clock {
            pipe.cmd("GET").arg(self.keys.partition(partition).test_time());
            return;
        }
        let _ = partition;
        pipe.cmd("TIME");
    }

    pub(super) async fn read_held(
        &self,
        partition: PartitionId,
        generation: &Generation,
        cursor: Option<String>,
        most: usize,
    ) -> Result<(Vec<(RosterKey, ConnectionId)>, Option<String>), StoreError> {
        let keys = self.keys.partition(partition);
        let (set, at) = cursor.as_deref().and_then(|cursor| cursor.split_once(':')).unwrap_or(("u", "0"));
        let (key, in_users) = match set {
            "c" => (keys.held_channels(&generation.to_string()), false),
            _ => (keys.held_users(&generation.to_string()), true),
        };
        let scan = redis::cmd("SSCAN").arg(key).arg(at).arg("COUNT").arg(most.max(1)).to_owned();
        let (next, members): (String, Vec<String>) = self.command(partition, &scan).await?;
        let rows = members.iter().filter_map(|member| {
            let (roster, connection) = codec::place(member)?;
            Some((roster, connection?))
        });
        let next = match (next.as_str(), in_users) {
            ("0", true) => Some("c:0".to_owned()),
            ("0", false) => None,
            (next, _) => Some(format!("{set}:{next}")),
        };
        Ok((rows.collect(), next))
    }
}
