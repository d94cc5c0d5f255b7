//! A store for tests: the memory store, with as many partitions as a test wants and with faults that it chooses.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use futures_util::FutureExt as _;

use super::simulation::Line;
use crate::{
    domain::{
        aside::Said,
        bar::{Barring, BarsThere},
        name::{ChannelName, ConnectionId, RosterKey, UserName},
        partition::{Batch, Beat, Refusal, Renewal, Sweep, Swept, Terms},
        roster::{Control, Generation, Outcome, Row},
    },
    store::{
        Audited, Counted, Index, Inside, Numbers, PartitionId, Person, Reading, Renewed, Store, StoreError, Totals,
        memory::{Memory, MemoryFeed},
    },
};

/// The lengths that tests use.
pub(crate) const TERMS: Terms = Terms { renew_ms: 3_000, lease_ms: 10_000, settle_ms: 7_000 };

/// See the module. Everything is kept in one memory; only the numbers of the partitions differ.
pub(crate) struct Rigged {
    pub memory: Arc<Memory>,
    /// What lies between the instance and the memory.
    pub line: Arc<Line>,
    /// Users are in partition 0, channels in 1.
    pub apart: bool,
    /// As many calls of anything but reading fail.
    pub away: AtomicUsize,
    /// As many renewals fail.
    pub deaf: AtomicUsize,
    /// A partition in which everything but reading fails.
    pub dark: Mutex<Option<PartitionId>>,
    /// As many batches are carried out, and their answers lost.
    pub unanswered: AtomicUsize,
    /// A partition that has lost its rows, and settles.
    pub emptied: Mutex<Option<PartitionId>>,
    /// Every first page of what a generation holds is empty though others follow.
    pub empty_pages: bool,
}

/// The memory answers without waiting for anything.
fn at_once<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("the memory has nothing to wait for")
}

impl Rigged {
    pub fn open(instance: &str) -> (Self, Arc<MemoryFeed>) {
        let (memory, feed) = Memory::open(TERMS, instance, 30);
        (Self::over(memory, Arc::new(Line::straight())), feed)
    }

    /// An instance's way to a memory that others use too.
    pub fn over(memory: Arc<Memory>, line: Arc<Line>) -> Self {
        let (away, deaf, unanswered) = (0.into(), 0.into(), 0.into());
        let (dark, emptied) = (Mutex::new(None), Mutex::new(None));
        Self { memory, line, apart: false, away, deaf, dark, unanswered, emptied, empty_pages: false }
    }

    fn fails(count: &AtomicUsize) -> Result<(), StoreError> {
        let left = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_ok() { Err(StoreError::Unavailable("rigged".into())) } else { Ok(()) }
    }

    fn reaches(&self, partition: PartitionId) -> Result<(), StoreError> {
        Self::fails(&self.away)?;
        let is_dark = *self.dark.lock().unwrap() == Some(partition);
        if is_dark { Err(StoreError::Unavailable("rigged".into())) } else { Ok(()) }
    }

    fn is_emptied(&self, partition: PartitionId) -> bool {
        *self.emptied.lock().unwrap() == Some(partition)
    }
}

#[async_trait]
impl Store for Rigged {
    fn partitions(&self) -> u16 {
        if self.apart { 2 } else { 1 }
    }

    fn partition_of(&self, roster: &RosterKey) -> PartitionId {
        u16::from(self.apart && !roster.is_user())
    }

    async fn renew(&self, partition: PartitionId, renewal: Renewal) -> Result<Result<Renewed, Refusal>, StoreError> {
        self.reaches(partition)?;
        Self::fails(&self.deaf)?;
        let (memory, link) = (self.memory.clone(), self.line.connected());
        let renewal = Renewal { link, ..renewal };
        let call = move || memory.carry_out(|partition, at| partition.renew(at, &renewal));
        let mut renewed = self.line.over(link, "renew", call).await?;
        if let Ok(beat) = &mut renewed {
            beat.settling |= self.is_emptied(partition);
        }
        Ok(renewed.map(|beat| Renewed { beat, link }))
    }

    async fn write(
        &self,
        partition: PartitionId,
        batch: &Batch,
    ) -> Result<Result<(Beat, Vec<Outcome>), Refusal>, StoreError> {
        self.reaches(partition)?;
        let link = self.line.standing()?;
        if link != batch.link {
            return Ok(Err(Refusal::Link));
        }
        let (memory, batch) = (self.memory.clone(), batch.clone());
        let call = move || memory.carry_out(|partition, at| partition.write(at, &batch));
        let mut answer = self.line.over(link, "write", call).await?;
        Self::fails(&self.unanswered)?;
        if let Ok((beat, _)) = &mut answer {
            beat.settling |= self.is_emptied(partition);
        }
        Ok(answer)
    }

    async fn sweep(&self, partition: PartitionId, sweep: &Sweep, most: usize) -> Result<Swept, StoreError> {
        self.reaches(partition)?;
        let (memory, sweep, link) = (self.memory.clone(), sweep.clone(), self.line.standing()?);
        let call = move || memory.carry_out(|partition, at| partition.sweep(at, &sweep, most));
        let mut swept = self.line.over(link, "sweep", call).await?;
        swept.beat.settling |= self.is_emptied(partition);
        Ok(swept)
    }

    async fn audit(&self, partition: PartitionId, cursor: Option<String>) -> Result<Audited, StoreError> {
        let (memory, link) = (self.memory.clone(), self.line.standing()?);
        self.line.over(link, "audit", move || at_once(memory.audit(partition, cursor))).await?
    }

    async fn bar(&self, barring: &Barring) -> Result<BarsThere, StoreError> {
        self.reaches(0)?;
        let (memory, barring, link) = (self.memory.clone(), barring.clone(), self.line.standing()?);
        self.line.over(link, "bar", move || memory.carry_out(|partition, at| partition.bar(at, &barring))).await
    }

    async fn tell(&self, partition: PartitionId, instance: Option<&str>, control: &Control) -> Result<(), StoreError> {
        let memory = self.memory.clone();
        let (instance, control) = (instance.map(str::to_owned), control.clone());
        let call = move || at_once(memory.tell(partition, instance.as_deref(), &control));
        self.line.read("tell", call).await?
    }

    async fn held(
        &self,
        partition: PartitionId,
        generation: &Generation,
        cursor: Option<String>,
        most: usize,
    ) -> Result<(Vec<(RosterKey, ConnectionId)>, Option<String>), StoreError> {
        let cursor = match cursor.as_deref() {
            None if self.empty_pages => return Ok((Vec::new(), Some("second".to_owned()))),
            Some("second") => None,
            _ => cursor,
        };
        let (memory, generation) = (self.memory.clone(), generation.clone());
        self.line.read("held", move || at_once(memory.held(partition, &generation, cursor, most))).await?
    }

    async fn read(&self, roster: &RosterKey) -> Result<Reading, StoreError> {
        let (memory, roster) = (self.memory.clone(), roster.clone());
        self.line.read("read", move || at_once(memory.read(&roster))).await?
    }

    async fn rows(&self, keys: &[(RosterKey, ConnectionId)]) -> Result<Vec<Option<Row>>, StoreError> {
        let (memory, asked) = (self.memory.clone(), keys.to_vec());
        let rows = self.line.read("rows", move || at_once(memory.rows(&asked))).await??;
        let there = |(roster, _): &(RosterKey, ConnectionId)| !self.is_emptied(self.partition_of(roster));
        Ok(keys.iter().zip(rows).map(|(key, row)| row.filter(|_| there(key))).collect())
    }

    async fn numbers(&self, partition: PartitionId, rosters: &[RosterKey]) -> Result<Numbers, StoreError> {
        let (memory, rosters) = (self.memory.clone(), rosters.to_vec());
        self.line.read("numbers", move || at_once(memory.numbers(partition, &rosters))).await?
    }

    async fn counts(&self, channels: &[ChannelName]) -> Result<Vec<Counted>, StoreError> {
        self.memory.counts(channels).await
    }

    async fn inside(&self, channels: &[ChannelName]) -> Result<Vec<Inside>, StoreError> {
        self.memory.inside(channels).await
    }

    async fn people(&self, users: &[UserName]) -> Result<Vec<Person>, StoreError> {
        self.memory.people(users).await
    }

    async fn names(
        &self,
        index: Index,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<String>, StoreError> {
        self.memory.names(index, prefix, after, most).await
    }

    async fn totals(&self) -> Result<Totals, StoreError> {
        self.memory.totals().await
    }

    async fn say(&self, roster: &RosterKey, said: &Said) -> Result<(), StoreError> {
        let (memory, roster, said) = (self.memory.clone(), roster.clone(), said.clone());
        self.line.read("say", move || at_once(memory.say(&roster, &said))).await?
    }

    async fn freeze(&self, name: &str, text: &str) -> Result<(), StoreError> {
        self.memory.freeze(name, text).await
    }

    async fn thaw(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.memory.thaw(name).await
    }

    async fn deposit(&self, name: &str, text: &str, ttl_ms: u64) -> Result<(), StoreError> {
        self.memory.deposit(name, text, ttl_ms).await
    }

    async fn withdraw(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.memory.withdraw(name).await
    }
}
