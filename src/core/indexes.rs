//! Hears by name who comes into the indexes of the store and goes out of them, for as long as somebody here wants to know.
//!
//! Names only, and a hint: how somebody is, and who is in a channel, is read as for those who are watched by name. What was missed shows in the numbers,
//! and then the index is listed again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::join_all;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::{
    mirrors::{COMPARE, ON_ITS_WAY, RETRY},
    patterns::Patterns,
    people::People,
};
use crate::{
    domain::{roster::IndexChange, version::Epoch},
    store::{Feed, PartitionId, Store},
};

/// See the module.
pub(crate) struct Indexes {
    store: Arc<dyn Store>,
    feed: Arc<dyn Feed>,
    /// How many want to hear.
    wanted: AtomicUsize,
    errands: Notify,
    doubts: Notify,
    /// Of the partitions that are followed: the last change that is known. None until the number was read.
    followed: Mutex<BTreeMap<PartitionId, Option<(Epoch, u64)>>>,
}

/// Somebody wants to hear, until this is dropped.
pub(crate) struct Interest(Arc<Indexes>);

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.wanted.fetch_sub(1, Ordering::Relaxed);
        self.0.errands.notify_one();
    }
}

impl Indexes {
    pub fn new(store: Arc<dyn Store>, feed: Arc<dyn Feed>) -> Arc<Self> {
        let (wanted, errands, doubts) = (AtomicUsize::new(0), Notify::new(), Notify::new());
        Arc::new(Self { store, feed, wanted, errands, doubts, followed: Mutex::default() })
    }

    /// Wants to hear from here on. Where all [is heard](Indexes::is_whole) already, whoever does lists at once; otherwise they are told when to, and
    /// again whenever something was missed.
    pub fn want(self: &Arc<Self>) -> Interest {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        self.errands.notify_one();
        Interest(self.clone())
    }

    /// Whether all is being heard.
    pub fn is_whole(&self) -> bool {
        let followed = self.lock();
        followed.len() == usize::from(self.store.partitions()) && followed.values().all(Option::is_some)
    }

    /// The feed told of a change. Returns whether something before it is missing.
    pub fn hear(&self, partition: PartitionId, change: &IndexChange) -> bool {
        let mut followed = self.lock();
        let Some(at) = followed.get_mut(&partition) else { return false };
        let misses = match at {
            // All is listed as soon as the number is known.
            None => false,
            Some((epoch, number)) => *epoch != change.epoch || *number < change.from,
        };
        if at.as_ref().is_none_or(|(epoch, number)| *epoch != change.epoch || *number < change.to) {
            *at = Some((change.epoch.clone(), change.to));
        }
        misses
    }

    /// Something may be missing: compare at once.
    pub fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// Follows, compares and lets go, for ever.
    pub async fn run(self: Arc<Self>, people: Arc<People>, patterns: Arc<Patterns>) {
        let list_again = || {
            people.list_again();
            patterns.list_again();
        };
        let mut compare_at = Instant::now() + COMPARE;
        loop {
            if self.wanted.load(Ordering::Relaxed) == 0 {
                for partition in std::mem::take(&mut *self.lock()).into_keys() {
                    self.feed.unfollow_index(partition);
                }
                self.errands.notified().await;
                continue;
            }
            let missing: Vec<PartitionId> = {
                let followed = self.lock();
                (0..self.store.partitions()).filter(|partition| !followed.contains_key(partition)).collect()
            };
            if !missing.is_empty() {
                let count = self.follow(&missing).await;
                if count > 0 {
                    self.compare().await;
                    list_again();
                    compare_at = Instant::now() + COMPARE;
                }
                if count < missing.len() {
                    sleep(RETRY).await;
                }
                continue;
            }
            tokio::select! {
                biased;
                () = self.errands.notified() => continue,
                _ = timeout_at(compare_at, self.doubts.notified()) => {}
            }
            compare_at = Instant::now() + COMPARE;
            if self.compare().await {
                list_again();
            }
        }
    }

    /// Follows these partitions. Returns how many of them are being heard now.
    async fn follow(&self, missing: &[PartitionId]) -> usize {
        let following = missing.iter().map(|partition| self.feed.follow_index(*partition));
        let mut count = 0;
        for (partition, answer) in missing.iter().zip(join_all(following).await) {
            match answer {
                Ok(()) => {
                    self.lock().insert(*partition, None);
                    count += 1;
                }
                Err(error) => {
                    tracing::debug!(%error, partition, "an index could not be followed yet");
                }
            }
        }
        count
    }

    /// Compares the numbers with the store's. Returns whether something is missing that is not on its way.
    async fn compare(&self) -> bool {
        let followed: Vec<PartitionId> = self.lock().keys().copied().collect();
        let asked = followed.iter().map(|partition| self.store.numbers(*partition, &[]));
        let mut suspects = Vec::new();
        for (partition, answer) in followed.iter().zip(join_all(asked).await) {
            match answer {
                Ok(numbers) => {
                    let there = (numbers.epoch, numbers.index);
                    if self.lags(*partition, &there) {
                        suspects.push((*partition, there));
                    }
                }
                Err(error) => tracing::debug!(%error, partition, "the number of an index could not be compared"),
            }
        }
        if suspects.is_empty() {
            return false;
        }
        sleep(ON_ITS_WAY).await;
        let mut is_missing = false;
        for (partition, there) in suspects {
            if self.lags(partition, &there) {
                is_missing = true;
                self.lock().entry(partition).and_modify(|at| *at = Some(there));
            }
        }
        is_missing
    }

    fn lags(&self, partition: PartitionId, there: &(Epoch, u64)) -> bool {
        let followed = self.lock();
        match followed.get(&partition) {
            Some(Some((epoch, number))) => *epoch != there.0 || *number < there.1,
            Some(None) => true,
            None => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Option<(Epoch, u64)>>> {
        self.followed.lock().expect("nothing panics while it holds the numbers")
    }
}
