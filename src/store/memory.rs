//! Presence in the memory of one process: the rules themselves, behind a lock. For a single instance without Redis, and for tests.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    Audited, Counted, Feed, FeedEvent, Index, Inside, Numbers, PartitionId, Person, Reading, Registered, Renewed,
    Store, StoreError, Totals, queue::Queue,
};
use crate::domain::{
    aside::Said,
    bar::{Barring, BarsThere},
    chance,
    name::{ChannelName, ConnectionId, RosterKey, UserName},
    partition::{Batch, Beat, Now, Partition, Refusal, Renewal, Sweep, Swept, Terms, Told},
    roster::{Control, Generation, Outcome, Row},
    time::wall_now_ms,
    version::{Epoch, Version},
};

/// How many events wait for a feed's reader. When it is full events are dropped, and the reader is told `Lost` and `Restored` once it has read the rest.
const QUEUE: usize = 4096;
/// How long a frozen text is kept, milliseconds.
const FROZEN_MS: u64 = 60_000;
/// How many frozen texts are kept; the oldest make room.
const FROZEN_MOST: usize = 1024;
/// How many deposits are kept; the oldest make room.
const DEPOSITS_MOST: usize = 4096;
/// How many rosters a call of `audit` looks at.
const AUDIT_PAGE: usize = 100;
const DAY_MS: u64 = 86_400_000;

/// The store of a single process. It has one partition, and nobody else to wait for: its epoch is settled from the start.
#[derive(Debug)]
pub struct Memory {
    began: Instant,
    last_seen_ms: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    partition: Partition,
    run: Arc<str>,
    #[cfg(test)]
    ahead_ms: i64,
    frozen: VecDeque<(u64, String, String)>,
    deposits: VecDeque<(u64, String, String)>,
    feeds: Vec<Weak<MemoryFeed>>,
}

/// What an instance hears of a [`Memory`].
#[derive(Debug)]
pub struct MemoryFeed {
    instance: Arc<str>,
    followed: Mutex<HashMap<RosterKey, usize>>,
    /// How often the indexes are followed.
    index: AtomicUsize,
    queue: Queue,
}

impl Memory {
    /// An empty store and the feed of the instance that is to use it. `last_seen_days` is for how long it remembers when a user was last seen.
    pub fn open(terms: Terms, instance: &str, last_seen_days: u32) -> (Arc<Self>, Arc<MemoryFeed>) {
        // Nobody holds anything yet, so that there is nothing to settle.
        let memory = Self::begin(Terms { settle_ms: 0, ..terms }, last_seen_days);
        let feed = memory.feed(instance);
        (memory, feed)
    }

    fn begin(terms: Terms, last_seen_days: u32) -> Arc<Self> {
        let memory = Arc::new(Self {
            began: Instant::now(),
            last_seen_ms: u64::from(last_seen_days) * DAY_MS,
            inner: Mutex::new(Inner {
                partition: Partition::new(terms),
                run: "memory".into(),
                #[cfg(test)]
                ahead_ms: 0,
                frozen: VecDeque::new(),
                deposits: VecDeque::new(),
                feeds: Vec::new(),
            }),
        });
        memory.with(|partition, at| partition.sweep(at, &Sweep::default(), 0));
        memory
    }

    /// Another feed on the same store, for tests with several instances in one process.
    pub fn feed(&self, instance: &str) -> Arc<MemoryFeed> {
        let feed = Arc::new(MemoryFeed {
            instance: instance.into(),
            followed: Mutex::new(HashMap::new()),
            index: AtomicUsize::new(0),
            queue: Queue::new(QUEUE),
        });
        let mut inner = self.lock();
        inner.feeds.retain(|feed| feed.strong_count() > 0);
        inner.feeds.push(Arc::downgrade(&feed));
        feed
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The rules do not panic half way through a change that a later call could not go on from.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the store was made. Starts at 1, because a presence clock takes 0 for never.
    fn host_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn with<T>(&self, call: impl FnOnce(&mut Partition, &Now) -> T) -> T {
        let mut inner = self.lock();
        let at = Now {
            host_ms: self.host_ms(),
            wall_ms: wall_now_ms(),
            run: inner.run.clone(),
            candidate: Epoch::new(&format!("{:016x}", chance::random::<u64>())),
        };
        #[cfg(test)]
        let at = Now { host_ms: at.host_ms.saturating_add_signed(inner.ahead_ms), ..at };
        let answer = call(&mut inner.partition, &at);
        let told = inner.partition.told();
        // Still under the lock: every feed hears the changes in the order of their numbers.
        for feed in inner.feeds.iter().filter_map(Weak::upgrade) {
            feed.hear(&told);
        }
        answer
    }

    fn reading(partition: &Partition, roster: &RosterKey) -> Reading {
        let (epoch, settling) = partition.epoch().expect("begun when the store was opened");
        let rows = partition.rows(roster).into_iter().flatten();
        Reading {
            epoch: epoch.clone(),
            settling,
            number: partition.number(roster),
            rows: rows.map(|(connection, row)| (connection.clone(), row.clone())).collect(),
        }
    }
}

/// What only simulations may do.
#[cfg(test)]
impl Memory {
    /// One that is shared by several instances, and so has to settle.
    pub(crate) fn shared(terms: Terms) -> Arc<Self> {
        Self::begin(terms, 30)
    }

    /// Any call at all, and every feed hears what comes of it.
    pub(crate) fn carry_out<T>(&self, call: impl FnOnce(&mut Partition, &Now) -> T) -> T {
        self.with(call)
    }

    /// All that it holds now.
    pub(crate) fn copy(&self) -> Partition {
        self.lock().partition.clone()
    }

    /// Another process goes on with what is given: an empty partition, or an older copy.
    pub(crate) fn restart(&self, partition: Partition) {
        let mut inner = self.lock();
        inner.run = format!("{}'", inner.run).into();
        inner.partition = partition;
        drop(inner);
        self.with(|partition, at| partition.sweep(at, &Sweep::default(), 0));
    }

    /// The host clock jumps.
    pub(crate) fn jump(&self, ms: i64) {
        self.lock().ahead_ms += ms;
    }
}

#[async_trait]
impl Store for Memory {
    fn partitions(&self) -> u16 {
        1
    }

    fn partition_of(&self, _: &RosterKey) -> PartitionId {
        0
    }

    async fn renew(&self, _: PartitionId, renewal: Renewal) -> Result<Result<Renewed, Refusal>, StoreError> {
        // There is no connection that could be lost.
        let renewal = Renewal { link: 1, ..renewal };
        Ok(self.with(|partition, at| partition.renew(at, &renewal)).map(|beat| Renewed { beat, link: 1 }))
    }

    async fn write(&self, _: PartitionId, batch: &Batch) -> Result<Result<(Beat, Vec<Outcome>), Refusal>, StoreError> {
        Ok(self.with(|partition, at| partition.write(at, batch)))
    }

    async fn sweep(&self, _: PartitionId, sweep: &Sweep, most: usize) -> Result<Swept, StoreError> {
        Ok(self.with(|partition, at| partition.sweep(at, sweep, most)))
    }

    async fn audit(&self, _: PartitionId, cursor: Option<String>) -> Result<Audited, StoreError> {
        let after = cursor.as_deref().and_then(RosterKey::from_stored);
        Ok(self.with(|partition, at| {
            partition.forget_people_before(at.wall_ms.saturating_sub(self.last_seen_ms));
            let page = partition.rosters().filter(|roster| after.as_ref().is_none_or(|after| *roster > after));
            let page: Vec<RosterKey> = page.take(AUDIT_PAGE).cloned().collect();
            let rows: Vec<_> = page
                .iter()
                .flat_map(|roster| {
                    let rows = partition.rows(roster).into_iter().flatten();
                    rows.map(|(connection, _)| (roster.clone(), connection.clone()))
                })
                .collect();
            partition.audit(at, &rows);
            let next = page.last().filter(|_| page.len() == AUDIT_PAGE).map(RosterKey::to_string);
            Audited { next, asked: 0 }
        }))
    }

    async fn bar(&self, barring: &Barring) -> Result<BarsThere, StoreError> {
        Ok(self.with(|partition, at| partition.bar(at, barring)))
    }

    async fn tell(&self, _: PartitionId, instance: Option<&str>, control: &Control) -> Result<(), StoreError> {
        let told = Told { control: vec![(instance.map(Into::into), control.clone())], ..Told::default() };
        for feed in self.lock().feeds.iter().filter_map(Weak::upgrade) {
            feed.hear(&told);
        }
        Ok(())
    }

    async fn held(
        &self,
        _: PartitionId,
        generation: &Generation,
        cursor: Option<String>,
        most: usize,
    ) -> Result<(Vec<(RosterKey, ConnectionId)>, Option<String>), StoreError> {
        let after = cursor.as_deref().and_then(|cursor| {
            let (roster, connection) = cursor.split_once(' ')?;
            Some((RosterKey::from_stored(roster)?, ConnectionId::from_stored(connection)))
        });
        let inner = self.lock();
        let rows: Vec<_> = inner
            .partition
            .held_by(generation)
            .filter(|(roster, connection)| {
                after.as_ref().is_none_or(|after| (*roster, *connection) > (&after.0, &after.1))
            })
            .take(most.max(1))
            .map(|(roster, connection)| (roster.clone(), connection.clone()))
            .collect();
        let next = rows.last().filter(|_| rows.len() == most.max(1));
        let next = next.map(|(roster, connection)| format!("{roster} {connection}"));
        Ok((rows, next))
    }

    async fn read(&self, roster: &RosterKey) -> Result<Reading, StoreError> {
        Ok(Self::reading(&self.lock().partition, roster))
    }

    async fn rows(&self, keys: &[(RosterKey, ConnectionId)]) -> Result<Vec<Option<Row>>, StoreError> {
        let inner = self.lock();
        let row = |(roster, connection): &(RosterKey, ConnectionId)| {
            inner.partition.rows(roster).and_then(|rows| rows.get(connection)).cloned()
        };
        Ok(keys.iter().map(row).collect())
    }

    async fn numbers(&self, _: PartitionId, rosters: &[RosterKey]) -> Result<Numbers, StoreError> {
        let inner = self.lock();
        let (epoch, settling) = inner.partition.epoch().expect("begun when the store was opened");
        let numbers = rosters.iter().map(|roster| inner.partition.number(roster)).collect();
        Ok(Numbers { epoch: epoch.clone(), settling, numbers, index: inner.partition.index() })
    }

    async fn counts(&self, channels: &[ChannelName]) -> Result<Vec<Counted>, StoreError> {
        let inner = self.lock();
        let (epoch, settling) = inner.partition.epoch().expect("begun when the store was opened");
        let count = |channel: &ChannelName| {
            let roster = RosterKey::Channel(channel.clone());
            let number = inner.partition.number(&roster).unwrap_or(0);
            Counted {
                version: Version { epoch: epoch.clone(), number },
                settling,
                occupancy: inner.partition.occupancy(&roster),
            }
        };
        Ok(channels.iter().map(count).collect())
    }

    async fn inside(&self, channels: &[ChannelName]) -> Result<Vec<Inside>, StoreError> {
        let inner = self.lock();
        let (_, settling) = inner.partition.epoch().expect("begun when the store was opened");
        let inside = |channel: &ChannelName| {
            let rows = inner.partition.rows(&RosterKey::Channel(channel.clone())).into_iter().flatten();
            let users: BTreeSet<&UserName> = rows.map(|(_, row)| &row.user).collect();
            Inside { settling, users: users.into_iter().cloned().collect() }
        };
        Ok(channels.iter().map(inside).collect())
    }

    async fn people(&self, users: &[UserName]) -> Result<Vec<Person>, StoreError> {
        let inner = self.lock();
        let long_ago = wall_now_ms().saturating_sub(self.last_seen_ms);
        let person = |user: &UserName| {
            let kept = inner.partition.kept(user).cloned().unwrap_or_default();
            let is_lasting = kept.record.as_ref().is_some_and(|record| record.lasting);
            let recent = |at: &u64| !is_lasting || *at >= long_ago;
            Person {
                reading: Self::reading(&inner.partition, &RosterKey::User(user.clone())),
                hidden: Self::reading(&inner.partition, &RosterKey::HiddenUser(user.clone())).rows,
                record: kept.record,
                last_seen: kept.last_seen.filter(recent),
                last_active: kept.last_active.filter(recent),
            }
        };
        Ok(users.iter().map(person).collect())
    }

    async fn names(
        &self,
        index: Index,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<String>, StoreError> {
        let inner = self.lock();
        let names: Box<dyn Iterator<Item = &str> + Send> = match index {
            Index::Known => Box::new(inner.partition.known().map(UserName::as_str)),
            Index::Online | Index::Unseen | Index::Occupied => {
                Box::new(inner.partition.rosters().filter_map(move |roster| match (index, roster) {
                    (Index::Online, RosterKey::User(user)) | (Index::Unseen, RosterKey::HiddenUser(user)) => {
                        Some(user.as_str())
                    }
                    (Index::Occupied, RosterKey::Channel(channel)) => Some(channel.as_str()),
                    _ => None,
                }))
            }
        };
        let wanted = names.filter(|name| name.starts_with(prefix) && after.is_none_or(|after| *name > after));
        Ok(wanted.take(most).map(str::to_owned).collect())
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        let (inner, host_ms) = (self.lock(), self.host_ms());
        let mut totals =
            Totals { joins: inner.partition.joins(), leaves: inner.partition.leaves(), ..Totals::default() };
        for roster in inner.partition.rosters() {
            match roster {
                RosterKey::Channel(_) => totals.channels += 1,
                RosterKey::User(_) => totals.users += 1,
                RosterKey::HiddenChannel(_) | RosterKey::HiddenUser(_) => {}
            }
        }
        totals.instances = inner
            .partition
            .instances(host_ms)
            .map(|(generation, version, lease_ms)| {
                let held = inner.partition.held_by(generation);
                let connections = held.filter(|(roster, _)| roster.is_user()).count() as u64;
                Registered { generation: generation.clone(), version: version.clone(), connections, lease_ms }
            })
            .collect();
        Ok(totals)
    }

    async fn say(&self, roster: &RosterKey, said: &Said) -> Result<(), StoreError> {
        // Under the lock, as changes are: whoever says something after a change is heard after it.
        for feed in self.lock().feeds.iter().filter_map(Weak::upgrade) {
            if feed.followed().contains_key(roster) {
                feed.queue.push(FeedEvent::Said(roster.clone(), said.clone()));
            }
        }
        Ok(())
    }

    async fn freeze(&self, name: &str, text: &str) -> Result<(), StoreError> {
        let now = self.host_ms();
        let mut inner = self.lock();
        inner.frozen.retain(|(ends, kept, _)| *ends > now && kept != name);
        if inner.frozen.len() >= FROZEN_MOST {
            inner.frozen.pop_front();
        }
        inner.frozen.push_back((now + FROZEN_MS, name.to_owned(), text.to_owned()));
        Ok(())
    }

    async fn thaw(&self, name: &str) -> Result<Option<String>, StoreError> {
        let now = self.host_ms();
        let inner = self.lock();
        let kept = inner.frozen.iter().find(|(ends, kept, _)| *ends > now && kept == name);
        Ok(kept.map(|(_, _, text)| text.clone()))
    }

    async fn deposit(&self, name: &str, text: &str, ttl_ms: u64) -> Result<(), StoreError> {
        let now = self.host_ms();
        let mut inner = self.lock();
        inner.deposits.retain(|(ends, kept, _)| *ends > now && kept != name);
        if inner.deposits.len() >= DEPOSITS_MOST {
            inner.deposits.pop_front();
        }
        inner.deposits.push_back((now.saturating_add(ttl_ms), name.to_owned(), text.to_owned()));
        Ok(())
    }

    async fn withdraw(&self, name: &str) -> Result<Option<String>, StoreError> {
        let now = self.host_ms();
        let mut inner = self.lock();
        let at = inner.deposits.iter().position(|(ends, kept, _)| *ends > now && kept == name);
        Ok(at.and_then(|at| inner.deposits.remove(at)).map(|(_, _, text)| text))
    }
}

impl MemoryFeed {
    fn followed(&self) -> MutexGuard<'_, HashMap<RosterKey, usize>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, told: &Told) {
        let followed = self.followed();
        for published in told.published.iter().filter(|published| followed.contains_key(&published.roster)) {
            self.queue.push(FeedEvent::Published(published.clone()));
        }
        for change in told.index.iter().filter(|_| self.index.load(Ordering::Relaxed) > 0) {
            self.queue.push(FeedEvent::Index(0, change.clone()));
        }
        for (_, control) in told.control.iter().filter(|(to, _)| to.as_ref().is_none_or(|to| *to == self.instance)) {
            self.queue.push(FeedEvent::Control(0, control.clone()));
        }
    }
}

#[async_trait]
impl Feed for MemoryFeed {
    async fn follow(&self, roster: &RosterKey) -> Result<(), StoreError> {
        *self.followed().entry(roster.clone()).or_default() += 1;
        Ok(())
    }

    fn unfollow(&self, roster: &RosterKey) {
        let mut followed = self.followed();
        if let Some(count) = followed.get_mut(roster) {
            *count -= 1;
            if *count == 0 {
                followed.remove(roster);
            }
        }
    }

    async fn follow_index(&self, _: PartitionId) -> Result<(), StoreError> {
        self.index.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn unfollow_index(&self, _: PartitionId) {
        // As with rosters, once too often is nothing.
        let _ = self.index.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }

    async fn next(&self) -> FeedEvent {
        self.queue.next().await
    }
}
