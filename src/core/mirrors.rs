//! The mirrors of this instance: opened by the first watcher of a roster, kept by a task each, closed some time after the last has gone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep, timeout},
};

use super::{
    mirror::{Mirror, Wake},
    sleep_until_some,
};
use crate::{
    domain::{
        aside::Said,
        chance::Map,
        level::Level,
        mode::{Bounds, Mode},
        name::RosterKey,
        roster::Published,
        rule::Rule,
    },
    metrics::{Because, Metrics},
    store::{Feed, PartitionId, Store},
    telemetry::vital,
};

/// As many rosters are read at a time.
const READERS: usize = 16;
/// What is watched stays for as long after its last watcher: people reload pages.
pub(super) const LINGER: Duration = Duration::from_secs(10);
/// How often the numbers of all that is followed are compared with the store's.
pub(super) const COMPARE: Duration = Duration::from_secs(8);
/// A change that the store has and nobody here has heard of may still be on its way for so long.
pub(super) const ON_ITS_WAY: Duration = Duration::from_millis(300);
/// The most rosters in one comparison.
const CHUNK: usize = 500;
/// Before what failed is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(250);

/// See the module.
pub(crate) struct Mirrors {
    store: Arc<dyn Store>,
    feed: Arc<dyn Feed>,
    metrics: Arc<Metrics>,
    bounds: Bounds,
    readers: Semaphore,
    doubts: Notify,
    open: Mutex<(u64, Map<RosterKey, Arc<Mirror>>)>,
}

impl Mirrors {
    pub fn new(store: Arc<dyn Store>, feed: Arc<dyn Feed>, bounds: Bounds, metrics: Arc<Metrics>) -> Arc<Self> {
        let (readers, doubts) = (Semaphore::new(READERS), Notify::new());
        Arc::new(Self { store, feed, metrics, bounds, readers, doubts, open: Mutex::new((0, Map::default())) })
    }

    /// The mirror of a roster, with one watcher more.
    pub fn watch(self: &Arc<Self>, key: &RosterKey, level: Level, wake: &Arc<dyn Wake>) -> Arc<Mirror> {
        let mut open = self.lock();
        let mirror = match open.1.get(key) {
            Some(mirror) => mirror.clone(),
            None => {
                open.0 += 1;
                let mirror = Arc::new(Mirror::new(open.0, key.clone(), self.bounds));
                open.1.insert(key.clone(), mirror.clone());
                self.metrics.mirrors.set(i64::try_from(open.1.len()).unwrap_or(i64::MAX));
                vital::spawn("mirror", self.clone().keep_all(mirror.clone()));
                mirror
            }
        };
        mirror.attach(level, wake);
        mirror
    }

    /// The mirror of a roster, if somebody watches it.
    pub fn get(&self, key: &RosterKey) -> Option<Arc<Mirror>> {
        self.lock().1.get(key).cloned()
    }

    /// How many mirrors are in a mode just now.
    pub fn in_mode(&self, mode: Mode) -> usize {
        self.all().iter().filter(|mirror| mirror.mode() == mode).count()
    }

    /// The feed told of changes.
    pub fn hear(&self, published: Published) {
        self.metrics.published.inc();
        if let Some(mirror) = self.get(&published.roster) {
            mirror.hear(published);
        }
    }

    /// The feed told what is said in a roster. Typing lasts so long.
    pub fn hear_aside(&self, roster: &RosterKey, said: Said, lasts: Duration) {
        if let Some(mirror) = self.get(roster) {
            mirror.hear_aside(said, lasts);
        }
    }

    /// The epoch of a partition has settled: what was withheld can be read.
    pub fn settled(&self, partition: PartitionId) {
        for mirror in self.all() {
            if mirror.is_withheld() && self.store.partition_of(mirror.key()) == partition {
                mirror.want_reading();
            }
        }
    }

    /// Compares for ever, and at once when told that something may be missing.
    pub async fn run(self: Arc<Self>) {
        loop {
            let _ = timeout(COMPARE, self.doubts.notified()).await;
            self.compare().await;
        }
    }

    /// Something may be missing: compare at once. However often this is said, one comparison runs at a time.
    pub fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// Compares every mirror with the store; where something is missing that is not on its way, the roster is read.
    async fn compare(&self) {
        let mut by_partition: BTreeMap<PartitionId, Vec<Arc<Mirror>>> = BTreeMap::new();
        for mirror in self.all() {
            by_partition.entry(self.store.partition_of(mirror.key())).or_default().push(mirror);
        }
        let mut suspects = Vec::new();
        for (partition, mirrors) in by_partition {
            for chunk in mirrors.chunks(CHUNK) {
                let keys: Vec<RosterKey> = chunk.iter().map(|mirror| mirror.key().clone()).collect();
                let numbers = match self.store.numbers(partition, &keys).await {
                    Ok(numbers) => Arc::new(numbers),
                    Err(error) => {
                        tracing::debug!(%error, partition, "versions could not be compared");
                        break;
                    }
                };
                for (mirror, number) in chunk.iter().zip(&numbers.numbers) {
                    if !mirror.has(&numbers.epoch, numbers.settling, *number) {
                        suspects.push((mirror.clone(), numbers.clone(), *number));
                    }
                }
            }
        }
        if suspects.is_empty() {
            return;
        }
        // Once for all of them: after a new epoch every roster is one.
        sleep(ON_ITS_WAY).await;
        for (mirror, numbers, number) in suspects {
            if !mirror.has(&numbers.epoch, numbers.settling, number) {
                mirror.want_reading();
            }
        }
    }

    /// Keeps one mirror, and what is said in it.
    async fn keep_all(self: Arc<Self>, mirror: Arc<Mirror>) {
        tokio::select! {
            biased;
            () = self.keep(mirror.clone()) => {}
            () = mirror.end_typing() => {}
        }
    }

    /// Keeps one mirror: follows, reads, ticks, until nobody has watched it for a while.
    async fn keep(self: Arc<Self>, mirror: Arc<Mirror>) {
        let mut following = false;
        let mut cause = "first";
        let mut close_at = None;
        loop {
            if !following && (Rule::FeedFirst.holds() || mirror.version().is_some()) {
                match self.feed.follow(mirror.key()).await {
                    Ok(()) => following = true,
                    Err(error) => {
                        tracing::debug!(%error, "a roster could not be followed yet");
                        sleep(RETRY).await;
                    }
                }
            } else if mirror.begin_reading() {
                self.read(&mirror, cause).await;
                cause = "gap";
            } else {
                let at = mirror.run_errands().into_iter().chain(close_at).min();
                tokio::select! {
                    biased;
                    () = mirror.errands.notified() => {}
                    () = sleep_until_some(at) => {}
                }
            }
            if mirror.is_watched() {
                close_at = None;
            } else if *close_at.get_or_insert_with(|| Instant::now() + LINGER) <= Instant::now() {
                let mut open = self.lock();
                if !mirror.is_watched() {
                    open.1.remove(mirror.key());
                    self.metrics.mirrors.set(i64::try_from(open.1.len()).unwrap_or(i64::MAX));
                    break;
                }
            }
        }
        if following {
            self.feed.unfollow(mirror.key());
        }
    }

    async fn read(&self, mirror: &Mirror, cause: &'static str) {
        let _permit = self.readers.acquire().await.expect("never closed");
        match self.store.read(mirror.key()).await {
            Ok(reading) => {
                self.metrics.readings.get_or_create(&Because { reason: cause }).inc();
                if mirror.install(reading) {
                    sleep(RETRY).await;
                    mirror.want_reading();
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a roster could not be read yet");
                mirror.reading_failed();
                sleep(RETRY).await;
            }
        }
    }

    fn all(&self) -> Vec<Arc<Mirror>> {
        self.lock().1.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Map<RosterKey, Arc<Mirror>>)> {
        self.open.lock().expect("nothing panics while it holds the map")
    }
}
