//! Presence in Redis. What must be atomic is done by a few scripts over one connection; plain reads share some others.

mod audit;
mod client;
mod codec;
mod feed;
mod keys;
mod migrate;
mod reads;
mod scripts;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use deadpool_redis::Pool;
use redis::{Script, aio::MultiplexedConnection};

use self::{
    audit::{Cursor, Walk},
    client::{Connector, failed},
    codec::{Item, Rosters, Unreadable},
    keys::{Keys, PartitionKeys},
    scripts::Scripts,
};
use super::{
    Audited, Counted, Index, Numbers, PartitionId, Person, Reading, Renewed, Settings, Store, StoreError, Totals,
};
use crate::domain::{
    name::{ChannelName, ConnectionId, RosterKey, UserName},
    partition::{Batch, Beat, Refusal, Renewal, Sweep, Swept, Terms},
    roster::{Generation, Outcome, Row},
};

pub use self::feed::RedisFeed;

/// A day, seconds.
const DAY_S: u64 = 86_400;

impl From<Unreadable> for StoreError {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unusable(unreadable.to_string())
    }
}

/// The store in Redis.
pub struct Redis {
    connector: Connector,
    pool: Pool,
    keys: Keys,
    partitions: u16,
    terms: Terms,
    last_seen_s: u64,
    scripts: Scripts,
    test_clock: bool,
    link: Mutex<Option<Link>>,
    connecting: tokio::sync::Mutex<()>,
    links: AtomicU64,
}

/// The connection that scripts go over. Its number is kept with the lease, so that what an older one still carries is refused.
#[derive(Clone)]
struct Link {
    number: u64,
    connection: MultiplexedConnection,
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
        if let Err(error) = redis.connected().await {
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
        redis.connected().await?;
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
        let partitions = settings.partitions.unwrap_or(1);
        if partitions == 0 || partitions > 4096 {
            return Err(StoreError::Unusable("`redis.partitions` must be between 1 and 4096".into()));
        }
        let connector = Connector::new(settings).await?;
        Ok(Arc::new(Self {
            pool: connector.pool()?,
            connector,
            keys: Keys::new(&settings.prefix),
            partitions,
            terms,
            last_seen_s: u64::from(last_seen_days.max(1)) * DAY_S,
            scripts,
            test_clock,
            link: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            links: AtomicU64::new(0),
        }))
    }

    fn linked(&self) -> Option<Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The link there is, or a new one.
    async fn connected(&self) -> Result<Link, StoreError> {
        if let Some(link) = self.linked() {
            return Ok(link);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(link) = self.linked() {
            return Ok(link);
        }
        let mut connection = self.connector.connect().await?;
        // Redis may have been emptied, or be another one, since the last time.
        migrate::ensure(&mut connection, &self.keys, self.partitions).await?;
        let link = Link { number: self.links.fetch_add(1, Ordering::Relaxed) + 1, connection };
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(link.clone());
        Ok(link)
    }

    fn drop_link(&self, number: u64) {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if link.as_ref().is_some_and(|link| link.number == number) {
            *link = None;
        }
    }

    /// Runs a script. After any failure the link is given up: nobody knows what is still under way on it.
    async fn run(
        &self,
        link: &Link,
        script: &Script,
        keys: &PartitionKeys,
        generation: Option<&Generation>,
        rosters: &Rosters<'_>,
        call: &[Item],
    ) -> Result<Result<(Beat, Option<Item>), Refusal>, StoreError> {
        let mut invocation = script.prepare_invoke();
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
        let at = [
            keys.stem().into(),
            Item::Text(format!("{:016x}", rand::random::<u64>()).into()),
            self.terms.renew_ms.into(),
            self.terms.lease_ms.into(),
            self.terms.settle_ms.into(),
            self.last_seen_s.into(),
        ];
        invocation.arg(codec::pack(&at)).arg(codec::pack(call));
        let mut connection = link.connection.clone();
        let answer: Vec<u8> = invocation.invoke_async(&mut connection).await.map_err(|error| {
            self.drop_link(link.number);
            failed(&error)
        })?;
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

    /// Runs a script that is refused to nobody.
    async fn run_unrefused(
        &self,
        script: &Script,
        keys: &PartitionKeys,
        generation: Option<&Generation>,
        rosters: &Rosters<'_>,
        call: &[Item],
    ) -> Result<(Beat, Option<Item>), StoreError> {
        let link = self.standing_link()?;
        let answer = self.run(&link, script, keys, generation, rosters, call).await?;
        answer.map_err(|refusal| StoreError::Unusable(format!("a script refused what it never refuses: {refusal:?}")))
    }

    fn standing_link(&self) -> Result<Link, StoreError> {
        self.linked().ok_or_else(|| StoreError::Unavailable("not connected".into()))
    }
}

#[async_trait]
impl Store for Redis {
    fn partitions(&self) -> u16 {
        self.partitions
    }

    fn partition_of(&self, roster: &RosterKey) -> PartitionId {
        Keys::partition_of(&roster.to_string(), self.partitions)
    }

    async fn renew(&self, partition: PartitionId, renewal: Renewal) -> Result<Result<Renewed, Refusal>, StoreError> {
        let link = self.connected().await?;
        let (keys, call) = (self.keys.partition(partition), codec::renew_call(&renewal, link.number));
        let generation = Some(&renewal.generation);
        let answer = self.run(&link, &self.scripts.renew, &keys, generation, &Rosters::default(), &call).await?;
        Ok(answer.map(|(beat, _)| Renewed { beat, link: link.number }))
    }

    async fn write(
        &self,
        partition: PartitionId,
        batch: &Batch,
    ) -> Result<Result<(Beat, Vec<Outcome>), Refusal>, StoreError> {
        let link = self.standing_link()?;
        if link.number != batch.link {
            // An older link may still carry an older batch: only a renewal over this one shuts it out.
            return Ok(Err(Refusal::Link));
        }
        let (rosters, call) = codec::write_call(batch);
        let keys = self.keys.partition(partition);
        let generation = Some(&batch.generation);
        match self.run(&link, &self.scripts.write, &keys, generation, &rosters, &call).await? {
            Ok((beat, item)) => Ok(Ok((beat, codec::outcomes(item)?))),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    async fn sweep(&self, partition: PartitionId, sweep: &Sweep, most: usize) -> Result<Swept, StoreError> {
        let (rosters, call) = codec::sweep_call(sweep, most);
        let keys = self.keys.partition(partition);
        let generation = sweep.lost.as_ref().map(|(generation, _)| generation);
        let (beat, item) = self.run_unrefused(&self.scripts.sweep, &keys, generation, &rosters, &call).await?;
        Ok(codec::swept(beat, item)?)
    }

    async fn audit(&self, partition: PartitionId, cursor: Option<String>) -> Result<Audited, StoreError> {
        let keys = self.keys.partition(partition);
        let mut walk = Walk::begin(&keys, self.reader().await?).await?;
        let next = walk.page(&Cursor::from_text(cursor.as_deref())).await?;
        while !walk.suspects.is_empty() {
            let suspects = walk.suspects.cut();
            let (rosters, call) = codec::audit_call(&suspects);
            self.run_unrefused(&self.scripts.audit, &keys, None, &rosters, &call).await?;
        }
        Ok(Audited { next: next.text(), asked: walk.asked })
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

    async fn people(&self, users: &[UserName]) -> Result<Vec<Person>, StoreError> {
        self.read_people(users).await
    }

    async fn forget_user(&self, user: &UserName) -> Result<(), StoreError> {
        let partition = self.partition_of(&RosterKey::User(user.clone()));
        self.command(redis::cmd("DEL").arg(self.keys.partition(partition).person(user))).await
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

    async fn freeze(&self, name: &str, text: &str) -> Result<(), StoreError> {
        self.command(redis::cmd("SET").arg(self.frozen_key(name)).arg(text).arg("EX").arg(60)).await
    }

    async fn thaw(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.command(redis::cmd("GET").arg(self.frozen_key(name))).await
    }
}
