//! A store with instances that use it, and a clock that tests set.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rollcall::{
    domain::{
        member::Reason,
        name::{ChannelName, ConnectionId, RosterKey, UserName},
        partition::{Batch, Beat, Due, Refusal, Renewal, Sweep, Terms},
        roster::{Ask, Body, Entry, Generation, Keep, Outcome, Row},
        version::Epoch,
    },
    store::{Feed, FeedEvent, Settings, Store, memory::Memory, redis::Redis},
};

use crate::harness::Redis as Server;

pub const TERMS: Terms = Terms { renew_ms: 3_000, lease_ms: 10_000, settle_ms: 7_000 };

pub enum Clock {
    /// Paused tokio time.
    Paused,
    /// A key in Redis.
    Key { server: Arc<Server>, prefix: String, now: std::sync::atomic::AtomicU64 },
}

/// One instance, with a store and a feed of its own.
pub struct World {
    pub store: Arc<dyn Store>,
    pub feed: Arc<dyn Feed>,
    pub clock: Arc<Clock>,
    pub me: Generation,
    pub links: BTreeMap<u16, u64>,
    pub epochs: BTreeMap<u16, Epoch>,
    memory: Option<Arc<Memory>>,
}

pub fn settings(server: &Server, prefix: &str, partitions: u16) -> Settings {
    Settings { url: Some(server.url()), prefix: prefix.to_owned(), ca_file: None, partitions: Some(partitions) }
}

impl World {
    pub async fn memory() -> Self {
        let (memory, feed) = Memory::open(TERMS, "ia", 30);
        Self::begin(memory.clone(), feed, Arc::new(Clock::Paused), "ia", Some(memory)).await
    }

    pub async fn redis(partitions: u16) -> Self {
        let server = Arc::new(Server::start().await);
        let now = std::sync::atomic::AtomicU64::new(1_000_000);
        let clock = Arc::new(Clock::Key { server, prefix: "t".to_owned(), now });
        clock.pass(partitions, 0).await;
        Self::redis_on(clock, partitions, "ia").await
    }

    pub async fn redis_on(clock: Arc<Clock>, partitions: u16, instance: &str) -> Self {
        let Clock::Key { server, prefix, .. } = &*clock else { panic!("no Redis") };
        let settings = settings(server, prefix, partitions);
        let (store, feed) = Redis::connect_with_test_clock(&settings, TERMS, instance, 30).await.unwrap();
        Self::begin(store, feed, clock.clone(), instance, None).await
    }

    /// Another instance on the same store.
    pub async fn another(&self, instance: &str) -> Self {
        match &self.memory {
            Some(memory) => {
                let feed = memory.feed(instance);
                Self::begin(memory.clone(), feed, self.clock.clone(), instance, Some(memory.clone())).await
            }
            None => Self::redis_on(self.clock.clone(), self.store.partitions(), instance).await,
        }
    }

    async fn begin(
        store: Arc<dyn Store>,
        feed: Arc<dyn Feed>,
        clock: Arc<Clock>,
        instance: &str,
        memory: Option<Arc<Memory>>,
    ) -> Self {
        let me = Generation { instance: instance.into(), number: 1 };
        let (links, epochs) = (BTreeMap::new(), BTreeMap::new());
        let mut world = Self { store, feed, clock, me, links, epochs, memory };
        world.register().await;
        world
    }

    pub fn server(&self) -> &Server {
        match &*self.clock {
            Clock::Key { server, .. } => server,
            Clock::Paused => panic!("no Redis"),
        }
    }

    pub async fn try_renew(&mut self, partition: u16, done: bool, bye: bool) -> Result<Beat, Refusal> {
        let renewal = Renewal {
            generation: self.me.clone(),
            link: 0,
            version: "0.1".into(),
            known: self.epochs.get(&partition).cloned(),
            done,
            bye,
        };
        let renewed = self.store.renew(partition, renewal).await.unwrap()?;
        self.links.insert(partition, renewed.link);
        self.epochs.insert(partition, renewed.beat.epoch.clone());
        Ok(renewed.beat)
    }

    /// Registers in every partition, and has nothing to confirm.
    pub async fn register(&mut self) {
        for partition in 0..self.store.partitions() {
            self.try_renew(partition, false, false).await.unwrap();
            self.try_renew(partition, true, false).await.unwrap();
        }
    }

    pub async fn renew(&mut self) {
        for partition in 0..self.store.partitions() {
            self.try_renew(partition, true, false).await.unwrap();
        }
    }

    /// Time passes, and this instance lives.
    pub async fn pass(&mut self, ms: u64) {
        let mut left = ms;
        while left > 0 {
            let step = left.min(2_500);
            self.clock.pass(self.store.partitions(), step).await;
            self.renew().await;
            left -= step;
        }
    }

    pub async fn batch(&self, entries: Vec<Entry>) -> Result<(Beat, Vec<Outcome>), Refusal> {
        let partition = self.store.partition_of(&entries[0].roster);
        let batch = Batch {
            generation: self.me.clone(),
            link: self.links[&partition],
            epoch: self.epochs[&partition].clone(),
            entries,
        };
        self.store.write(partition, &batch).await.unwrap()
    }

    pub async fn ask(&self, roster: &RosterKey, connection: &ConnectionId, ask: Ask) -> Outcome {
        let entry = Entry { roster: roster.clone(), connection: connection.clone(), ask };
        self.batch(vec![entry]).await.unwrap().1.remove(0)
    }

    pub async fn row(&self, roster: &RosterKey, connection: &ConnectionId) -> Option<Row> {
        self.store.rows(&[(roster.clone(), connection.clone())]).await.unwrap().remove(0)
    }

    /// Sweeps what is due, once.
    pub async fn sweep_once(&self) {
        for partition in 0..self.store.partitions() {
            let due = self.store.sweep(partition, &Sweep::default(), 100).await.unwrap().due;
            let due = due.into_iter().map(|due| (due, u64::MAX >> 1)).collect();
            self.store.sweep(partition, &Sweep { due, lost: None }, 100).await.unwrap();
        }
    }

    /// Sweeps a partition until nothing is due, as a sweeper would whom nobody keeps from it.
    pub async fn sweep(&self) {
        for partition in 0..self.store.partitions() {
            let mut sweep = Sweep::default();
            loop {
                let swept = self.store.sweep(partition, &sweep, 100).await.unwrap();
                if swept.due.is_empty() && swept.dead.is_empty() {
                    break;
                }
                let due: Vec<(Due, u64)> = swept.due.into_iter().map(|due| (due, u64::MAX >> 1)).collect();
                let mut lost = None;
                if let Some(dead) = swept.dead.first() {
                    let (rows, next) = self.store.held(partition, dead, None, 100).await.unwrap();
                    let (more, _) = match next {
                        Some(next) => self.store.held(partition, dead, Some(next), 100).await.unwrap(),
                        None => (Vec::new(), None),
                    };
                    lost = Some((dead.clone(), rows.into_iter().chain(more).collect()));
                }
                sweep = Sweep { due, lost };
            }
        }
    }

    pub async fn event(&self) -> FeedEvent {
        tokio::time::timeout(Duration::from_secs(10), self.feed.next()).await.expect("the feed says something")
    }
}

impl Clock {
    /// Lets time pass.
    pub async fn pass(&self, partitions: u16, ms: u64) {
        match self {
            Self::Paused => tokio::time::advance(Duration::from_millis(ms)).await,
            Self::Key { server, prefix, now } => {
                let now = now.fetch_add(ms, std::sync::atomic::Ordering::SeqCst) + ms;
                for partition in 0..partitions {
                    server.command(&["SET", &format!("{prefix}:{{{partition}}}:test:time"), &now.to_string()]).await;
                }
            }
        }
    }
}

pub fn channel(name: &str) -> RosterKey {
    RosterKey::Channel(ChannelName::parse(name).unwrap())
}

pub fn user(name: &str) -> UserName {
    UserName::parse(name).unwrap()
}

pub fn id(name: &str) -> ConnectionId {
    ConnectionId::from_stored(name)
}

pub fn body(name: &str, payload: &str) -> Body {
    Body {
        user: user(name),
        valid: 1,
        grace_ms: 15_000,
        since: 1_700_000_000_000,
        changed: 0,
        private: "{\"p\":1}".into(),
        payload: payload.into(),
    }
}

pub fn enter(take: u64, name: &str, payload: &str) -> Ask {
    Ask::Present { take, fresh: true, limit: 0, keep: Keep::Held, body: body(name, payload) }
}

pub fn ending(take: u64, name: &str, payload: &str, remaining_ms: u64) -> Ask {
    Ask::Present { take, fresh: true, limit: 0, keep: Keep::Ending { remaining_ms }, body: body(name, payload) }
}

pub fn leave(take: u64) -> Ask {
    Ask::Absent { take: Some(take), reason: Reason::Left }
}

pub fn kick() -> Ask {
    Ask::Absent { take: None, reason: Reason::Kicked }
}
