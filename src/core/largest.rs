//! The largest channels, for those who look on.
//!
//! No index has channels by their size: to keep one would cost every join, and is asked for by few. So the sizes of all occupied channels are read, up to a
//! bound, and what was found is the answer for everybody who asks within the next seconds. An instance that nobody asks reads nothing.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use super::{Core, error::Error, shared::Shared};
use crate::{
    domain::{member::Occupancy, name::ChannelName},
    store::Index,
};

/// At most so many occupied channels are looked at: some 25 ms of one Redis, in pieces between which others have their turn.
const LOOKED_AT: usize = 10_000;
/// As many names are asked for in one call, and as many channels counted.
const PAGE: usize = 1_000;
/// As many of the largest are kept, and can be asked for.
pub const MOST_RANKED: usize = 1_000;
/// For how long what was found is the answer.
const FRESH: Duration = Duration::from_secs(3);
/// Of as many prefixes what was found is kept; the oldest makes room.
const PREFIXES: usize = 16;

/// The largest channels as they were found.
#[derive(Debug, PartialEq, Eq)]
pub struct Largest {
    /// The one with the most users first, those with as many in the order of their names.
    pub channels: Vec<(ChannelName, Occupancy)>,
    /// Whether all occupied channels were looked at.
    pub complete: bool,
    /// Whether part of the store settles, and somebody may be missing.
    pub stale: bool,
}

/// What was found, by prefix.
#[derive(Default)]
pub(crate) struct Rankings {
    asked: Shared<String, Arc<Largest>>,
    found: Mutex<HashMap<String, (Instant, Arc<Largest>)>>,
}

impl Core {
    /// The largest channels whose names begin with `prefix`, [`MOST_RANKED`] at most, as they were a few seconds ago at most. Whom others do not see is
    /// not counted.
    ///
    /// # Errors
    /// [`Code::Unavailable`](super::Code::Unavailable).
    pub async fn largest(&self, prefix: &str) -> Result<Arc<Largest>, Error> {
        self.largest_among(prefix, LOOKED_AT).await
    }

    async fn largest_among(&self, prefix: &str, most: usize) -> Result<Arc<Largest>, Error> {
        // As with every list of channels, whoever asks is told at once that the store is away.
        self.reach(async { Ok(()) }).await.map_err(|error| self.refuse(error))?;
        self.rankings.ask(prefix, self.rank(prefix, most)).await
    }

    async fn rank(&self, prefix: &str, most: usize) -> Result<Largest, Error> {
        let (mut channels, mut looked_at, mut stale) = (Vec::new(), 0, false);
        let mut after: Option<String> = None;
        let complete = loop {
            // One more than may be looked at says whether there are more.
            let wanted = PAGE.min(most + 1 - looked_at);
            let names = self.names(Index::Occupied, prefix, after.as_deref(), wanted).await?;
            let is_last = names.len() < wanted;
            let within = &names[..names.len().min(most - looked_at)];
            looked_at += within.len();
            let found = within.iter().filter_map(|name| ChannelName::parse(name).ok());
            let found: Vec<ChannelName> = found.filter(|name| self.settings.has_presence(name)).collect();
            let counts = if found.is_empty() { Vec::new() } else { self.counts(&found).await? };
            stale |= counts.iter().any(|count| count.stale);
            // Whoever left between the two questions makes no channel of nobody.
            let counted = found.into_iter().zip(counts.iter().map(|count| count.occupancy));
            channels.extend(counted.filter(|(_, occupancy)| occupancy.connections > 0));
            if is_last {
                break true;
            }
            if within.len() < names.len() {
                break false;
            }
            after = names.last().cloned();
        };
        channels.sort_unstable_by(|(a, many), (b, more)| (Reverse(many.users), a).cmp(&(Reverse(more.users), b)));
        channels.truncate(MOST_RANKED);
        Ok(Largest { channels, complete, stale })
    }
}

impl Rankings {
    /// What was found lately, or what `read` finds, for all who ask meanwhile.
    async fn ask(
        &self,
        prefix: &str,
        read: impl Future<Output = Result<Largest, Error>>,
    ) -> Result<Arc<Largest>, Error> {
        if let Some(known) = self.fresh(prefix) {
            return Ok(known);
        }
        let key = prefix.to_owned();
        let asked = self.asked.ask(&key, async {
            // Somebody else may have read it while this one waited for its turn.
            if let Some(known) = self.fresh(prefix) {
                return Ok(known);
            }
            let found = Arc::new(read.await?);
            self.keep(prefix, found.clone());
            Ok(found)
        });
        asked.await.map(|found| (*found).clone())
    }

    fn fresh(&self, prefix: &str) -> Option<Arc<Largest>> {
        let found = self.lock();
        let (at, largest) = found.get(prefix)?;
        (at.elapsed() < FRESH).then(|| largest.clone())
    }

    fn keep(&self, prefix: &str, largest: Arc<Largest>) {
        let mut found = self.lock();
        found.retain(|_, (at, _)| at.elapsed() < FRESH);
        if found.len() >= PREFIXES {
            let oldest = found.iter().min_by_key(|(_, (at, _))| *at).map(|(prefix, _)| prefix.clone());
            oldest.and_then(|oldest| found.remove(&oldest));
        }
        found.insert(prefix.to_owned(), (Instant::now(), largest));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Arc<Largest>)>> {
        self.found.lock().expect("nothing panics while it holds the map")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::future::join_all;
    use tokio::time::{advance, sleep};

    use super::{super::simulation::hello, *};
    use crate::{
        core::{
            Command, Session,
            rigged::TERMS,
            tests::{nobody, settings},
        },
        domain::name::UserName,
        metrics::Metrics,
        store::memory::{Memory, MemoryFeed},
    };

    struct Scene {
        core: Arc<Core>,
        sessions: Vec<Session>,
    }

    impl Scene {
        /// As many users in each channel as are named.
        async fn with(channels: &[(&str, usize)]) -> Self {
            Self::over(Memory::open(TERMS, "me", 30), channels).await
        }

        async fn over((store, feed): (Arc<Memory>, Arc<MemoryFeed>), channels: &[(&str, usize)]) -> Self {
            let core = Core::start(store, feed, settings(), Metrics::new());
            let mut scene = Self { core, sessions: Vec::new() };
            for (channel, users) in channels {
                scene.come(channel, *users).await;
            }
            scene
        }

        async fn come(&mut self, channel: &str, users: usize) {
            for _ in 0..users {
                let user = UserName::parse(&format!("user{}", self.sessions.len())).unwrap();
                let (mut session, _) = Session::open(&self.core, hello(Some(&user), None)).await.unwrap();
                let channel = ChannelName::parse(channel).unwrap();
                let join = Command::Join {
                    channel,
                    state: Default::default(),
                    watch: None,
                    grace_ms: None,
                    on_leave: Default::default(),
                };
                session.execute(join, &nobody()).await.unwrap();
                self.sessions.push(session);
            }
        }

        async fn among(&self, prefix: &str, most: usize) -> Arc<Largest> {
            self.core.largest_among(prefix, most).await.unwrap()
        }
    }

    fn sizes(largest: &Largest) -> Vec<(&str, u64)> {
        largest.channels.iter().map(|(name, occupancy)| (name.as_str(), occupancy.users)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_largest_come_first_and_of_two_alike_the_one_with_the_lesser_name() {
        let scene = Scene::with(&[("b", 2), ("a", 1), ("room:2", 3), ("c", 2), ("room:1", 1)]).await;
        let all = scene.among("", 100).await;
        assert_eq!(sizes(&all), [("room:2", 3), ("b", 2), ("c", 2), ("a", 1), ("room:1", 1)]);
        assert!(all.complete && !all.stale);
        assert_eq!(sizes(&*scene.among("room:", 100).await), [("room:2", 3), ("room:1", 1)]);
        assert_eq!(sizes(&*scene.among("nothing", 100).await), []);
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_are_more_than_are_looked_at_it_says_so() {
        let scene = Scene::with(&[("a:1", 1), ("a:2", 2), ("a:3", 1), ("b:1", 1), ("b:2", 5)]).await;
        let some = scene.among("", 4).await;
        assert_eq!((sizes(&some).len(), sizes(&some)[0], some.complete), (4, ("a:2", 2), false));
        let all = scene.among("a:", 3).await;
        assert_eq!((sizes(&all).len(), all.complete), (3, true), "as many as may be looked at, and no more");
        assert!(!scene.among("b", 1).await.complete);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_found_is_the_answer_for_some_seconds() {
        let mut scene = Scene::with(&[("a", 1)]).await;
        let first = scene.among("", 100).await;
        scene.come("a", 1).await;
        assert!(Arc::ptr_eq(&first, &scene.among("", 100).await));
        assert_eq!(sizes(&*scene.among("a", 100).await), [("a", 2)], "of another prefix nothing was known");
        advance(FRESH).await;
        assert_eq!(sizes(&*scene.among("", 100).await), [("a", 2)]);
        // However many prefixes are asked for, a bounded number is kept.
        for number in 0..2 * PREFIXES {
            scene.among(&format!("prefix{number}"), 100).await;
        }
        assert_eq!(scene.core.rankings.lock().len(), PREFIXES);
    }

    #[tokio::test(start_paused = true)]
    async fn while_instances_confirm_what_they_hold_the_answer_is_stale() {
        let memory = Memory::shared(TERMS);
        let feed = memory.feed("me");
        let scene = Scene::over((memory, feed), &[("a", 1)]).await;
        assert!(scene.among("", 100).await.stale);
        sleep(Duration::from_secs(15)).await;
        let settled = scene.among("", 100).await;
        assert_eq!((sizes(&settled), settled.stale), (vec![("a", 1)], false));
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_at_once_it_is_read_once_and_a_failure_is_not_kept() {
        let (rankings, begun) = (Rankings::default(), AtomicU64::new(0));
        let read = async |fails: bool| {
            begun.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_secs(1)).await;
            if fails {
                Err(Error::unavailable("away"))
            } else {
                Ok(Largest { channels: vec![], complete: true, stale: false })
            }
        };
        let failed = join_all((0..100).map(|_| rankings.ask("", read(true)))).await;
        assert!(failed.iter().all(Result::is_err));
        assert_eq!(begun.swap(0, Ordering::Relaxed), 2, "that of the first, and one for all others");
        assert!(join_all((0..100).map(|_| rankings.ask("", read(false)))).await.iter().all(Result::is_ok));
        assert_eq!(begun.load(Ordering::Relaxed), 1);
    }
}
