//! What an instance hears: a connection of its own that does nothing else, held by a task that brings it back when it is gone.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use deadpool_redis::Pool;
use futures_util::StreamExt as _;
use redis::aio::{PubSub, PubSubSink, PubSubStream};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    Redis,
    client::{ANSWER, Connector, failed},
    codec,
    keys::{Keys, PartitionKeys},
    lag::Lag,
};
use crate::{
    domain::name::RosterKey,
    store::{Feed, FeedEvent, StoreError, queue::Queue},
    telemetry::vital,
};

/// How many events wait for the reader.
const QUEUE: usize = 16_384;
/// How many feeds are asked for in one command.
const CHUNK: usize = 500;
/// How often the feed asks itself whether it hears.
const PROBE: Duration = Duration::from_secs(4);
/// How many questions may stay unanswered before the connection is given up.
const UNHEARD: u32 = 2;
/// The pauses between attempts to connect: the first and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What an instance hears of the store in Redis.
pub struct RedisFeed {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    keys: Keys,
    partitions: u16,
    control: BTreeSet<String>,
    probe: String,
    wanted: Mutex<Wanted>,
    work: Notify,
    queue: Queue,
    lag: Lag,
    /// Counts the rounds in which subscriptions were brought in line; who waits for one looks after each.
    rounds: watch::Sender<u64>,
}

#[derive(Default)]
struct Wanted {
    followed: HashMap<RosterKey, usize>,
    /// What was followed or unfollowed since the last round.
    changed: HashSet<RosterKey>,
    /// What the server has confirmed on the connection of now.
    confirmed: HashSet<RosterKey>,
    heard: Option<String>,
}

impl Drop for RedisFeed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RedisFeed {
    /// Begins to hear what instances are told, on a connection that stands when this returns.
    pub(super) async fn connect(redis: &Redis, instance: &str) -> Result<Arc<Self>, StoreError> {
        let shared = Shared::new(redis, instance);
        let ear = shared.subscribed(&redis.connector).await?;
        Ok(Self::open_shared(redis, shared, Some(ear)))
    }

    /// The same on a connection that comes when Redis answers.
    pub(super) fn open(redis: &Redis, instance: &str) -> Arc<Self> {
        Self::open_shared(redis, Shared::new(redis, instance), None)
    }

    fn open_shared(redis: &Redis, shared: Arc<Shared>, ear: Option<Ear>) -> Arc<Self> {
        if ear.is_none() {
            shared.lag.lost();
        }
        let keep = shared.clone().keep(redis.connector.clone(), redis.pool.clone(), ear);
        let task = vital::spawn("feed", keep);
        Arc::new(Self { shared, task })
    }
}

/// A follow that was not confirmed yet is taken back when nobody waits for it any more.
struct Pending<'a> {
    feed: &'a RedisFeed,
    roster: &'a RosterKey,
    confirmed: bool,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.confirmed {
            self.feed.unfollow(self.roster);
        }
    }
}

#[async_trait]
impl Feed for RedisFeed {
    async fn follow(&self, roster: &RosterKey) -> Result<(), StoreError> {
        let mut rounds = self.shared.rounds.subscribe();
        {
            let mut wanted = self.shared.lock();
            *wanted.followed.entry(roster.clone()).or_default() += 1;
            wanted.changed.insert(roster.clone());
        }
        self.shared.work.notify_one();
        let mut pending = Pending { feed: self, roster, confirmed: false };
        let confirmed = timeout(ANSWER, async {
            while !self.shared.lock().confirmed.contains(roster) {
                if rounds.changed().await.is_err() {
                    return false;
                }
            }
            true
        });
        pending.confirmed = confirmed.await == Ok(true);
        if pending.confirmed { Ok(()) } else { Err(StoreError::Unavailable("the feed is not connected".into())) }
    }

    fn unfollow(&self, roster: &RosterKey) {
        let mut wanted = self.shared.lock();
        let Some(count) = wanted.followed.get_mut(roster) else { return };
        *count -= 1;
        if *count == 0 {
            wanted.followed.remove(roster);
            wanted.changed.insert(roster.clone());
            drop(wanted);
            self.shared.work.notify_one();
        }
    }

    async fn next(&self) -> FeedEvent {
        self.shared.queue.next().await
    }

    fn lag(&self) -> Duration {
        self.shared.lag.now()
    }
}

/// A connection and the task that reads it.
struct Ear {
    sink: PubSubSink,
    reader: JoinHandle<()>,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Shared {
    fn new(redis: &Redis, instance: &str) -> Arc<Self> {
        let (keys, partitions) = (redis.keys.clone(), redis.partitions);
        let control = (0..partitions).map(|number| keys.partition(number));
        let control = control.flat_map(|keys: PartitionKeys| [keys.control(), keys.control_of(instance)]).collect();
        Arc::new(Self {
            probe: keys.partition(0).probe(instance),
            keys,
            partitions,
            control,
            wanted: Mutex::default(),
            work: Notify::new(),
            queue: Queue::new(QUEUE),
            lag: Lag::default(),
            rounds: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channel(&self, roster: &RosterKey) -> String {
        let partition = Keys::partition_of(&roster.to_string(), self.partitions);
        self.keys.partition(partition).feed(roster)
    }

    /// A connection on which everything is subscribed that is wanted.
    async fn subscribed(self: &Arc<Self>, connector: &Connector) -> Result<Ear, StoreError> {
        self.lock().confirmed.clear();
        let (sink, stream) = PubSub::split(connector.connect_pubsub().await?);
        let mut ear = Ear { sink, reader: tokio::spawn(self.clone().hear(stream)) };
        let fixed: Vec<&String> = self.control.iter().chain([&self.probe]).collect();
        for chunk in fixed.chunks(CHUNK) {
            answered(ear.sink.subscribe(chunk)).await?;
        }
        {
            let mut wanted = self.lock();
            wanted.changed = wanted.followed.keys().cloned().collect();
        }
        self.align(&mut ear).await?;
        Ok(ear)
    }

    /// Brings what the server sends in line with what is wanted.
    async fn align(&self, ear: &mut Ear) -> Result<(), StoreError> {
        let (come, gone): (Vec<_>, Vec<_>) = {
            let mut wanted = self.lock();
            let changed: Vec<RosterKey> = wanted.changed.drain().collect();
            let differs = changed
                .into_iter()
                .filter(|roster| wanted.followed.contains_key(roster) != wanted.confirmed.contains(roster));
            let differs: Vec<RosterKey> = differs.collect();
            differs.into_iter().partition(|roster| wanted.followed.contains_key(roster))
        };
        for chunk in come.chunks(CHUNK) {
            let channels: Vec<String> = chunk.iter().map(|roster| self.channel(roster)).collect();
            answered(ear.sink.subscribe(channels)).await?;
            self.lock().confirmed.extend(chunk.iter().cloned());
            self.rounds.send_modify(|round| *round += 1);
        }
        for chunk in gone.chunks(CHUNK) {
            // Before the server hears of it: whoever follows from here on must wait for a new subscription.
            let channels: Vec<String> = {
                let mut wanted = self.lock();
                let gone: Vec<&RosterKey> =
                    chunk.iter().filter(|roster| !wanted.followed.contains_key(*roster)).collect();
                for roster in &gone {
                    wanted.confirmed.remove(*roster);
                }
                gone.into_iter().map(|roster| self.channel(roster)).collect()
            };
            if !channels.is_empty() {
                answered(ear.sink.unsubscribe(channels)).await?;
            }
        }
        Ok(())
    }

    /// Keeps a connection, for as long as the feed lives.
    async fn keep(self: Arc<Self>, connector: Connector, pool: Pool, mut ear: Option<Ear>) {
        loop {
            if let Some(mut ear) = ear.take() {
                let why = self.serve(&pool, &mut ear).await;
                tracing::warn!(why, "the feed connection is lost");
                self.queue.lose();
                self.lag.lost();
            }
            let mut pause = PAUSE.0;
            while ear.is_none() {
                match self.subscribed(&connector).await {
                    Ok(connected) => ear = Some(connected),
                    Err(error) => {
                        tracing::debug!(%error, "the feed does not connect");
                        // Not in step with the other instances.
                        sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                        pause = (pause * 2).min(PAUSE.1);
                    }
                }
            }
            self.queue.restore();
            self.lag.restored();
            tracing::info!("the feed is connected");
        }
    }

    /// Serves one connection to its end, and says what it was.
    async fn serve(&self, pool: &Pool, ear: &mut Ear) -> &'static str {
        let mut probe = Probe { asked: None, unheard: 0, at: Instant::now() + PROBE };
        loop {
            tokio::select! {
                () = self.work.notified() => {
                    if self.align(ear).await.is_err() {
                        return "a subscription was not confirmed";
                    }
                }
                _ = &mut ear.reader => return "closed",
                () = tokio::time::sleep_until(probe.at) => {
                    if self.has_gone_deaf(pool, &mut probe).await {
                        return "nothing is heard on it";
                    }
                }
            }
        }
    }

    /// Looks whether the last question was heard, and asks the next.
    async fn has_gone_deaf(&self, pool: &Pool, probe: &mut Probe) -> bool {
        if let Some(asked) = probe.asked.take() {
            let heard = self.lock().heard.as_ref() == Some(&asked);
            probe.unheard = if heard { 0 } else { probe.unheard + 1 };
        }
        if probe.unheard >= UNHEARD {
            return true;
        }
        let nonce = format!("{:016x}", rand::random::<u64>());
        self.lag.asked(&nonce);
        let asking = async {
            let mut connection = (*pool.get().await.ok()?).clone();
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(&self.probe).arg(&nonce).exec_async(&mut connection).await.ok()
        };
        // Where the question cannot be asked, nothing is known: Redis itself may be away.
        probe.asked = timeout(ANSWER, asking).await.ok().flatten().map(|()| nonce);
        if probe.asked.is_none() {
            self.lag.unasked();
        }
        probe.at = Instant::now() + PROBE;
        false
    }

    /// Hands on what is heard. The driver's own queue has no limit: this does nothing that could wait.
    async fn hear(self: Arc<Self>, mut stream: PubSubStream) {
        while let Some(message) = stream.next().await {
            let (channel, payload) = (message.get_channel_name(), message.get_payload_bytes());
            if channel == self.probe {
                let heard = String::from_utf8_lossy(payload).into_owned();
                self.lag.heard(&heard);
                self.lock().heard = Some(heard);
                continue;
            }
            let event = if self.control.contains(channel) {
                codec::control(payload).map(FeedEvent::Control)
            } else {
                let Some(roster) = roster_of(channel) else { continue };
                codec::published(roster, payload).map(FeedEvent::Published)
            };
            match event {
                Ok(event) => self.queue.push(event),
                // A newer program may say more. What this one missed shows in the numbers.
                Err(error) => tracing::warn!(%error, "a message on a feed is not understood"),
            }
        }
    }
}

struct Probe {
    asked: Option<String>,
    unheard: u32,
    at: Instant,
}

async fn answered(asked: impl Future<Output = redis::RedisResult<()>>) -> Result<(), StoreError> {
    let answer = timeout(ANSWER, asked).await;
    answer.map_err(|_| StoreError::Unavailable("no answer".into()))?.map_err(|error| failed(&error))
}

/// The roster of a feed: what follows `{p}:f:`.
fn roster_of(channel: &str) -> Option<RosterKey> {
    RosterKey::from_stored(channel.split_once("}:f:")?.1)
}
