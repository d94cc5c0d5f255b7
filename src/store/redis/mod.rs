//! Presence in Redis. What must be atomic is done by a few scripts over one connection; plain reads share some others.

mod audit;
mod client;
mod codec;
mod feed;
mod keys;
mod lag;
mod migrate;
mod reads;
mod scripts;
mod topology;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use redis::{RedisError, Script, aio::MultiplexedConnection};
use tokio::task::JoinHandle;

use self::{
    audit::{Cursor, Walk},
    client::{Connector, failed, is_refusal},
    codec::{Item, Rosters, Unreadable},
    keys::{Keys, SCHEMA},
    scripts::Scripts,
    topology::{Node, Topology, Turn},
};
use super::{
    Audited, Counted, Index, Inside, Numbers, PartitionId, Person, Reading, Renewed, Settings, Store, StoreError,
    Totals, address::Kind,
};
use crate::domain::{
    aside::Said,
    bar::{Barring, BarsThere},
    name::{ChannelName, ConnectionId, RosterKey, UserName},
    partition::{Batch, Beat, Refusal, Renewal, Sweep, Swept, Terms},
    roster::{Control, Generation, Outcome, Row},
};

pub use self::feed::RedisFeed;

/// A day, seconds.
const DAY_S: u64 = 86_400;
/// Over how many partitions presence is spread where the settings do not say: in a Cluster enough for some masters to share evenly.
const PARTITIONS: u16 = 1;
const PARTITIONS_OF_A_CLUSTER: u16 = 64;

impl From<Unreadable> for StoreError {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unusable(unreadable.to_string())
    }
}

/// The store in Redis.
pub struct Redis {
    topology: Arc<Topology>,
    looking: JoinHandle<()>,
    keys: Keys,
    partitions: u16,
    terms: Terms,
    last_seen_s: u64,
    scripts: Scripts,
    test_clock: bool,
    /// By partition.
    bindings: Mutex<Vec<Option<Binding>>>,
    links: AtomicU64,
    /// The line over which the schema was found to be in order; 0 before the first.
    schema_line: AtomicU64,
    ensuring: Turn<()>,
}

/// What a partition's scripts go over. A number is given for each time that a partition begins with a line, and stands with the lease, so that what an
/// older line still carries is refused.
#[derive(Clone, Copy)]
struct Binding {
    line: u64,
    number: u64,
}

/// A line and its number for one partition.
#[derive(Clone)]
struct Link {
    number: u64,
    line: u64,
    connection: MultiplexedConnection,
    node: Arc<Node>,
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl Redis {
    /// Connects, brings the schema up to date, and begins to listen for `instance`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where trying again may help, [`StoreError::Unusable`] where something has to be changed first.
    pub async fn connect(
        settings: &Settings,
        terms: Terms,
        instance: &str,
        last_seen_days: u32,
    ) -> Result<(Arc<Self>, Arc<RedisFeed>), StoreError> {
        Self::connect_with(settings, terms, instance, last_seen_days, Scripts::new(), false).await
    }

    /// The same, but where Redis is out of reach it is connected to later, by the first renewal that finds it.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] where something has to be changed first.
    pub async fn open(
        settings: &Settings,
        terms: Terms,
        instance: &str,
        last_seen_days: u32,
    ) -> Result<(Arc<Self>, Arc<RedisFeed>), StoreError> {
        let redis = Self::unconnected(settings, terms, last_seen_days, Scripts::new(), false).await?;
        if let Err(error) = redis.connected(0).await {
            if let StoreError::Unusable(_) = error {
                return Err(error);
            }
            tracing::warn!(%error, "Redis does not answer yet; this instance gets ready when it does");
        }
        let feed = RedisFeed::open(&redis, instance);
        Ok((redis, feed))
    }

    /// The same with presence time driven by the key `…:test:time`, milliseconds.
    ///
    /// # Errors
    /// As [`Redis::connect`].
    #[cfg(feature = "test-hooks")]
    pub async fn connect_with_test_clock(
        settings: &Settings,
        terms: Terms,
        instance: &str,
        last_seen_days: u32,
    ) -> Result<(Arc<Self>, Arc<RedisFeed>), StoreError> {
        Self::connect_with(settings, terms, instance, last_seen_days, Scripts::by_test_clock(), true).await
    }

    async fn connect_with(
        settings: &Settings,
        terms: Terms,
        instance: &str,
        last_seen_days: u32,
        scripts: Scripts,
        test_clock: bool,
    ) -> Result<(Arc<Self>, Arc<RedisFeed>), StoreError> {
        let redis = Self::unconnected(settings, terms, last_seen_days, scripts, test_clock).await?;
        redis.connected(0).await?;
        let feed = RedisFeed::connect(&redis, instance).await?;
        Ok((redis, feed))
    }

    async fn unconnected(
        settings: &Settings,
        terms: Terms,
        last_seen_days: u32,
        scripts: Scripts,
        test_clock: bool,
    ) -> Result<Arc<Self>, StoreError> {
        if settings.prefix.is_empty() || settings.prefix.contains(|c: char| "{}".contains(c) || !c.is_ascii_graphic()) {
            return Err(StoreError::Unusable("`redis.prefix` needs printable ASCII without spaces and braces".into()));
        }
        let connector = Connector::new(settings).await?;
        let by_default = if connector.kind() == Kind::Cluster { PARTITIONS_OF_A_CLUSTER } else { PARTITIONS };
        let partitions = settings.partitions.unwrap_or(by_default);
        if partitions == 0 || partitions > 4096 {
            return Err(StoreError::Unusable("`redis.partitions` must be between 1 and 4096".into()));
        }
        let keys = Keys::new(&settings.prefix);
        let topology = Topology::new(connector, &keys, partitions);
        Ok(Arc::new(Self {
            looking: tokio::spawn(topology.clone().watch()),
            topology,
            keys,
            partitions,
            terms,
            last_seen_s: u64::from(last_seen_days.max(1)) * DAY_S,
            scripts,
            test_clock,
            bindings: Mutex::new(vec![None; usize::from(partitions)]),
            links: AtomicU64::new(0),
            schema_line: AtomicU64::new(0),
            ensuring: Turn::default(),
        }))
    }

    /// The link of a partition, as long as the data has not moved and nothing has failed on it.
    fn standing_link(&self, partition: PartitionId) -> Result<Link, StoreError> {
        let unconnected = || StoreError::Unavailable("not connected".into());
        let node = self.topology.node_of(partition)?;
        let line = node.line().ok_or_else(unconnected)?;
        let bindings = self.bindings.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = bindings[usize::from(partition)].filter(|binding| binding.line == line.id);
        let number = bound.ok_or_else(unconnected)?.number;
        Ok(Link { number, line: line.id, connection: line.connection, node })
    }

    /// The link there is, or a new one.
    async fn connected(&self, partition: PartitionId) -> Result<Link, StoreError> {
        self.topology.resolve().await?;
        if let Ok(link) = self.standing_link(partition) {
            return Ok(link);
        }
        let node = self.topology.node_of(partition)?;
        self.ensure_schema(&node).await?;
        let line = self.topology.connected(&node).await?;
        let number = self.links.fetch_add(1, Ordering::Relaxed) + 1;
        let mut bindings = self.bindings.lock().unwrap_or_else(PoisonError::into_inner);
        bindings[usize::from(partition)] = Some(Binding { line: line.id, number });
        Ok(Link { number, line: line.id, connection: line.connection, node })
    }

    /// Redis may have been emptied, or be another one, since the last time. Where the schema is not concerned and was in order once, it is.
    async fn ensure_schema(&self, node: &Arc<Node>) -> Result<(), StoreError> {
        let of_schema = self.topology.node_of(SCHEMA)?;
        if !Arc::ptr_eq(&of_schema, node) && self.schema_line.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        let ensuring = async {
            let line = self.topology.connected(&of_schema).await?;
            if self.schema_line.load(Ordering::Relaxed) != line.id {
                let ensured = migrate::ensure(&self.topology, &self.keys, self.partitions).await;
                // It may be the line that has failed: the next try takes another.
                ensured.inspect_err(|_| of_schema.drop_line(line.id))?;
                self.schema_line.store(line.id, Ordering::Relaxed);
            }
            Ok(())
        };
        self.ensuring.take(ensuring).await
    }

    /// A script failed. Where the server itself said no, the line is sound; else nobody knows what is still under way on it, and it is given up.
    fn script_failed(&self, link: &Link, error: &RedisError) -> StoreError {
        if !is_refusal(error) {
            link.node.drop_line(link.line);
        }
        self.topology.doubt();
        failed(error)
    }

    /// Runs a script.
    async fn run(
        &self,
        link: &Link,
        script: &Script,
        partition: PartitionId,
        generation: Option<&Generation>,
        rosters: &Rosters<'_>,
        call: &[Item],
    ) -> Result<Result<(Beat, Option<Item>), Refusal>, StoreError> {
        self.run_with(link, script, partition, generation, rosters, &[], call).await
    }

    /// Runs a script that has keys of its own.
    #[allow(clippy::too_many_arguments, reason = "what a script is called with")]
    async fn run_with(
        &self,
        link: &Link,
        script: &Script,
        partition: PartitionId,
        generation: Option<&Generation>,
        rosters: &Rosters<'_>,
        more: &[String],
        call: &[Item],
    ) -> Result<Result<(Beat, Option<Item>), Refusal>, StoreError> {
        let mut invocation = script.prepare_invoke();
        let keys = self.keys.partition(partition);
        for key in keys.fixed(generation) {
            invocation.key(key);
        }
        #[cfg(feature = "test-hooks")]
        if self.test_clock {
            invocation.key(keys.test_time());
        }
        debug_assert!(cfg!(feature = "test-hooks") || !self.test_clock, "only test builds have another clock");
        for roster in rosters.list() {
            invocation.key(keys.rows(&roster.to_string())).key(keys.side(roster));
        }
        for key in more {
            invocation.key(key);
        }
        let at = [
            keys.stem().into(),
            Item::Text(format!("{:016x}", rand::random::<u64>()).into()),
            self.terms.renew_ms.into(),
            self.terms.lease_ms.into(),
            self.terms.settle_ms.into(),
            self.last_seen_s.into(),
            self.topology.is_cluster().into(),
        ];
        invocation.arg(codec::pack(&at)).arg(codec::pack(call));
        let mut connection = link.connection.clone();
        let answer: Result<Vec<u8>, _> = invocation.invoke_async(&mut connection).await;
        let answer = answer.map_err(|error| self.script_failed(link, &error))?;
        match codec::answer(&answer)? {
            Ok(answer) => Ok(Ok(answer)),
            Err((refusal, said)) => {
                if refusal == Refusal::Terms {
                    let Terms { renew_ms, lease_ms, settle_ms } = self.terms;
                    tracing::error!(
                        theirs = said.unwrap_or_default(),
                        ours = %format!("{renew_ms} {lease_ms} {settle_ms}"),
                        "other instances run with other values of presence.instance_renew_ms, presence.instance_lease_ms and \
                         presence.settle_ms; all must have the same"
                    );
                }
                Ok(Err(refusal))
            }
        }
    }

    /// What a script answered that is refused to nobody.
    fn unrefused<T>(answer: Result<T, Refusal>) -> Result<T, StoreError> {
        answer.map_err(|refusal| StoreError::Unusable(format!("a script refused what it never refuses: {refusal:?}")))
    }

    /// Runs a script that is refused to nobody.
    async fn run_unrefused(
        &self,
        script: &Script,
        partition: PartitionId,
        generation: Option<&Generation>,
        rosters: &Rosters<'_>,
        call: &[Item],
    ) -> Result<(Beat, Option<Item>), StoreError> {
        let link = self.standing_link(partition)?;
        Self::unrefused(self.run(&link, script, partition, generation, rosters, call).await?)
    }
}

#[async_trait]
impl Store for Redis {
    fn partitions(&self) -> u16 {
        self.partitions
    }

    fn partition_of(&self, roster: &RosterKey) -> PartitionId {
        Keys::partition_of_roster(roster, self.partitions)
    }

    async fn renew(&self, partition: PartitionId, renewal: Renewal) -> Result<Result<Renewed, Refusal>, StoreError> {
        let link = self.connected(partition).await?;
        let call = codec::renew_call(&renewal, link.number);
        let generation = Some(&renewal.generation);
        let answer = self.run(&link, &self.scripts.renew, partition, generation, &Rosters::default(), &call).await?;
        Ok(answer.map(|(beat, _)| Renewed { beat, link: link.number }))
    }

    async fn write(
        &self,
        partition: PartitionId,
        batch: &Batch,
    ) -> Result<Result<(Beat, Vec<Outcome>), Refusal>, StoreError> {
        let link = self.standing_link(partition)?;
        if link.number != batch.link {
            // An older link may still carry an older batch: only a renewal over this one shuts it out.
            return Ok(Err(Refusal::Link));
        }
        let (rosters, call) = codec::write_call(batch);
        let generation = Some(&batch.generation);
        match self.run(&link, &self.scripts.write, partition, generation, &rosters, &call).await? {
            Ok((beat, item)) => Ok(Ok((beat, codec::outcomes(item)?))),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    async fn sweep(&self, partition: PartitionId, sweep: &Sweep, most: usize) -> Result<Swept, StoreError> {
        let (rosters, call) = codec::sweep_call(sweep, most);
        let generation = sweep.lost.as_ref().map(|(generation, _)| generation);
        let (beat, item) = self.run_unrefused(&self.scripts.sweep, partition, generation, &rosters, &call).await?;
        Ok(codec::swept(beat, item)?)
    }

    async fn audit(&self, partition: PartitionId, cursor: Option<String>) -> Result<Audited, StoreError> {
        let keys = self.keys.partition(partition);
        let mut walk = Walk::begin(&keys, self.reader(partition).await?).await?;
        let next = walk.page(&Cursor::from_text(cursor.as_deref())).await?;
        while !walk.suspects.is_empty() {
            let suspects = walk.suspects.cut();
            let (rosters, call) = codec::audit_call(&suspects);
            self.run_unrefused(&self.scripts.audit, partition, None, &rosters, &call).await?;
        }
        Ok(Audited { next: next.text(), asked: walk.asked })
    }

    async fn bar(&self, barring: &Barring) -> Result<BarsThere, StoreError> {
        let link = self.standing_link(SCHEMA)?;
        let keys = self.keys.partition(SCHEMA);
        let (none, more, call) = (Rosters::default(), [keys.bars(), keys.bars_until()], codec::bar_call(barring));
        let answer = self.run_with(&link, &self.scripts.bar, SCHEMA, None, &none, &more, &call).await?;
        let (beat, item) = Self::unrefused(answer)?;
        Ok(codec::bars_there(beat, item)?)
    }

    async fn tell(&self, partition: PartitionId, instance: Option<&str>, control: &Control) -> Result<(), StoreError> {
        let keys = self.keys.partition(partition);
        let feed = instance.map_or_else(|| keys.control(), |instance| keys.control_of(instance));
        self.publish(partition, &feed, codec::pack_control(control)).await
    }

    async fn held(
        &self,
        partition: PartitionId,
        generation: &Generation,
        cursor: Option<String>,
        most: usize,
    ) -> Result<(Vec<(RosterKey, ConnectionId)>, Option<String>), StoreError> {
        self.read_held(partition, generation, cursor, most).await
    }

    async fn read(&self, roster: &RosterKey) -> Result<Reading, StoreError> {
        self.read_roster(roster).await
    }

    async fn rows(&self, keys: &[(RosterKey, ConnectionId)]) -> Result<Vec<Option<Row>>, StoreError> {
        self.read_rows(keys).await
    }

    async fn numbers(&self, partition: PartitionId, rosters: &[RosterKey]) -> Result<Numbers, StoreError> {
        self.read_numbers(partition, rosters).await
    }

    async fn counts(&self, channels: &[ChannelName]) -> Result<Vec<Counted>, StoreError> {
        self.read_counts(channels).await
    }

    async fn inside(&self, channels: &[ChannelName]) -> Result<Vec<Inside>, StoreError> {
        self.read_inside(channels).await
    }

    async fn people(&self, users: &[UserName]) -> Result<Vec<Person>, StoreError> {
        self.read_people(users).await
    }

    async fn names(
        &self,
        index: Index,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<String>, StoreError> {
        self.read_names(index, prefix, after, most).await
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        self.read_totals().await
    }

    async fn say(&self, roster: &RosterKey, said: &Said) -> Result<(), StoreError> {
        let partition = self.partition_of(roster);
        self.publish(partition, &self.keys.partition(partition).feed(roster), codec::said(said)).await
    }

    async fn freeze(&self, name: &str, text: &str) -> Result<(), StoreError> {
        let (partition, key) = self.frozen_at(name);
        self.command(partition, redis::cmd("SET").arg(key).arg(text).arg("EX").arg(60)).await
    }

    async fn thaw(&self, name: &str) -> Result<Option<String>, StoreError> {
        let (partition, key) = self.frozen_at(name);
        self.command(partition, redis::cmd("GET").arg(key)).await
    }

    async fn deposit(&self, name: &str, text: &str, ttl_ms: u64) -> Result<(), StoreError> {
        let (partition, key) = self.frozen_at(name);
        self.command(partition, redis::cmd("SET").arg(key).arg(text).arg("PX").arg(ttl_ms)).await
    }

    async fn withdraw(&self, name: &str) -> Result<Option<String>, StoreError> {
        let (partition, key) = self.frozen_at(name);
        self.command(partition, redis::cmd("GETDEL").arg(key)).await
    }
}
