//! What an instance hears: an ear for each server that has partitions, on a connection of its own that does nothing else. A task keeps each ear and
//! brings it back when it is gone; another sees to it that there are ears where the data is.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use redis::{PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    Redis,
    client::{ANSWER, CONNECT, Home, failed},
    codec,
    keys::{Keys, Topic},
    lag::Lag,
    topology::Topology,
};
use crate::{
    domain::name::RosterKey,
    store::{Feed, FeedEvent, PartitionId, StoreError, queue::Queue},
    telemetry::vital,
};

/// How many events wait for the reader.
const QUEUE: usize = 16_384;
/// How many feeds are asked for at once.
const CHUNK: usize = 500;
/// How often an ear asks itself whether it hears.
const PROBE: Duration = Duration::from_secs(4);
/// How many questions may stay unanswered before the connection is given up.
const UNHEARD: u32 = 2;
/// The pauses between attempts to connect: the first and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What an instance hears of the store in Redis.
pub struct RedisFeed {
    shared: Arc<Shared>,
    _task: Task,
}

/// A task that ends with this value.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Shared {
    topology: Arc<Topology>,
    keys: Keys,
    instance: Arc<str>,
    wanted: Mutex<Wanted>,
    /// Grows with all that is followed or unfollowed: ears bring their subscriptions in line.
    work: watch::Sender<u64>,
    queue: Queue,
    /// Grows when something has been confirmed; who waits for it looks after each.
    rounds: watch::Sender<u64>,
}

#[derive(Default)]
struct Wanted {
    followed: HashMap<Followed, usize>,
    /// What was followed or unfollowed and is not in line yet.
    changed: HashMap<PartitionId, HashSet<Followed>>,
    /// What the server has confirmed on the connection of now.
    confirmed: HashSet<Followed>,
    /// Partitions of which nothing is heard.
    deaf: BTreeSet<PartitionId>,
    /// The last question that was heard, by its feed.
    heard: HashMap<String, String>,
    /// How far each ear is behind, by the feed of its questions.
    lags: HashMap<String, Arc<Lag>>,
}

impl RedisFeed {
    /// Begins to hear, and returns when everything is being heard that instances are told.
    pub(super) async fn connect(redis: &Redis, instance: &str) -> Result<Arc<Self>, StoreError> {
        let feed = Self::open(redis, instance);
        let mut rounds = feed.shared.rounds.subscribe();
        let whole = async {
            while !feed.shared.lock().deaf.is_empty() {
                rounds.changed().await.expect("the feed holds the sender");
            }
        };
        let in_time = timeout(CONNECT + ANSWER, whole).await;
        in_time.map_err(|_| StoreError::Unavailable("the feed does not connect".into()))?;
        Ok(feed)
    }

    /// Begins to hear when Redis answers.
    pub(super) fn open(redis: &Redis, instance: &str) -> Arc<Self> {
        let wanted = Wanted { deaf: (0..redis.partitions).collect(), ..Wanted::default() };
        let shared = Arc::new(Shared {
            topology: redis.topology.clone(),
            keys: redis.keys.clone(),
            instance: instance.into(),
            wanted: Mutex::new(wanted),
            work: watch::Sender::new(0),
            queue: Queue::new(QUEUE),
            rounds: watch::Sender::new(0),
        });
        let task = Task(vital::spawn("feed", shared.clone().keep(redis.partitions)));
        Arc::new(Self { shared, _task: task })
    }
}

/// What can be followed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Followed {
    Roster(RosterKey),
    Index(PartitionId),
}

/// A follow that was not confirmed yet is taken back when nobody waits for it any more.
struct Pending<'a> {
    feed: &'a RedisFeed,
    what: &'a Followed,
    confirmed: bool,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.confirmed {
            self.feed.follow_less(self.what);
        }
    }
}

impl RedisFeed {
    async fn follow_more(&self, what: Followed) -> Result<(), StoreError> {
        let mut rounds = self.shared.rounds.subscribe();
        {
            let mut wanted = self.shared.lock();
            *wanted.followed.entry(what.clone()).or_default() += 1;
            self.shared.change(&mut wanted, &what);
        }
        let mut pending = Pending { feed: self, what: &what, confirmed: false };
        let confirmed = timeout(ANSWER, async {
            while !self.shared.lock().confirmed.contains(&what) {
                if rounds.changed().await.is_err() {
                    return false;
                }
            }
            true
        });
        pending.confirmed = confirmed.await == Ok(true);
        if pending.confirmed { Ok(()) } else { Err(StoreError::Unavailable("the feed is not connected".into())) }
    }

    fn follow_less(&self, what: &Followed) {
        let mut wanted = self.shared.lock();
        let Some(count) = wanted.followed.get_mut(what) else { return };
        *count -= 1;
        if *count == 0 {
            wanted.followed.remove(what);
            self.shared.change(&mut wanted, what);
        }
    }
}

#[async_trait]
impl Feed for RedisFeed {
    async fn follow(&self, roster: &RosterKey) -> Result<(), StoreError> {
        self.follow_more(Followed::Roster(roster.clone())).await
    }

    fn unfollow(&self, roster: &RosterKey) {
        self.follow_less(&Followed::Roster(roster.clone()));
    }

    async fn follow_index(&self, partition: PartitionId) -> Result<(), StoreError> {
        self.follow_more(Followed::Index(partition)).await
    }

    fn unfollow_index(&self, partition: PartitionId) {
        self.follow_less(&Followed::Index(partition));
    }

    async fn next(&self) -> FeedEvent {
        self.shared.queue.next().await
    }

    async fn heard(&self, partition: PartitionId) {
        let mut rounds = self.shared.rounds.subscribe();
        while self.shared.lock().deaf.contains(&partition) {
            if rounds.changed().await.is_err() {
                return;
            }
        }
    }

    fn lag(&self) -> Duration {
        self.shared.lock().lags.values().map(|lag| lag.now()).max().unwrap_or_default()
    }
}

/// What hears one server.
struct Ear {
    connection: MultiplexedConnection,
    partitions: Arc<[PartitionId]>,
    /// The feed by which it asks itself.
    probe: String,
    lag: Arc<Lag>,
    /// The connection is gone, or the server does not send any more what it was asked for.
    ended: Arc<Notify>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn partition_of(&self, what: &Followed) -> PartitionId {
        match what {
            Followed::Roster(roster) => self.topology.partition_of(roster),
            Followed::Index(partition) => *partition,
        }
    }

    fn feed_of(&self, what: &Followed) -> String {
        let keys = self.keys.partition(self.partition_of(what));
        match what {
            Followed::Roster(roster) => keys.feed(roster),
            Followed::Index(_) => keys.index_feed(),
        }
    }

    fn change(&self, wanted: &mut Wanted, what: &Followed) {
        wanted.changed.entry(self.partition_of(what)).or_default().insert(what.clone());
        self.work.send_modify(|count| *count += 1);
    }

    /// Keeps an ear at each server that has partitions, for as long as the feed lives.
    async fn keep(self: Arc<Self>, partitions: u16) {
        let mut tables = self.topology.table();
        let mut ears: HashMap<Home, (Arc<[PartitionId]>, Task)> = HashMap::new();
        loop {
            let table = tables.borrow_and_update().clone();
            if let Some(table) = table {
                let is_first = ears.is_empty();
                ears.retain(|home, (partitions, _)| {
                    let stays = table.partitions_of(home) == **partitions;
                    if !stays {
                        self.deafen(partitions);
                        self.lock().lags.remove(&self.probe_of(partitions));
                    }
                    stays
                });
                for home in table.homes() {
                    if !ears.contains_key(home) {
                        let partitions: Arc<[PartitionId]> = table.partitions_of(home).into();
                        let ear = self.clone().keep_ear(home.clone(), partitions.clone(), !is_first);
                        ears.insert(home.clone(), (partitions, Task(vital::spawn("ear", ear))));
                    }
                }
                debug_assert_eq!(ears.values().map(|(of, _)| of.len()).sum::<usize>(), usize::from(partitions));
            }
            if tables.changed().await.is_err() {
                return;
            }
        }
    }

    /// The feed by which the ear of these partitions asks itself.
    fn probe_of(&self, partitions: &[PartitionId]) -> String {
        let first = *partitions.first().expect("a server without partitions has no ear");
        self.keys.partition(first).probe(&self.instance)
    }

    /// Keeps the ear of one server. `was_heard` where its partitions may have been heard before, so that something may be missing.
    async fn keep_ear(self: Arc<Self>, home: Home, partitions: Arc<[PartitionId]>, mut was_heard: bool) {
        let mut pause = PAUSE.0;
        let lag = Arc::new(Lag::default());
        lag.lost();
        self.lock().lags.insert(self.probe_of(&partitions), lag.clone());
        loop {
            match self.subscribed(&home, &partitions, &lag).await {
                Ok(ear) => {
                    pause = PAUSE.0;
                    tracing::info!(server = %home, "the feed is connected");
                    let is_whole = {
                        let mut wanted = self.lock();
                        wanted.deaf.retain(|partition| !partitions.contains(partition));
                        wanted.deaf.is_empty()
                    };
                    if was_heard {
                        self.queue.restore(is_whole);
                    }
                    was_heard = true;
                    lag.restored();
                    self.rounds.send_modify(|round| *round += 1);
                    let why = self.serve(&ear).await;
                    tracing::warn!(why, server = %home, "the feed connection is lost");
                    self.deafen(&partitions);
                    lag.lost();
                    self.topology.doubt();
                }
                Err(error) => {
                    tracing::debug!(%error, server = %home, "the feed does not connect");
                    self.topology.doubt();
                    // Not in step with the other instances.
                    sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// Nothing is heard of these any more.
    fn deafen(&self, partitions: &[PartitionId]) {
        {
            let mut wanted = self.lock();
            wanted.deaf.extend(partitions);
            self.forget_confirmed(&mut wanted, partitions);
        }
        self.queue.lose();
    }

    fn forget_confirmed(&self, wanted: &mut Wanted, partitions: &[PartitionId]) {
        wanted.confirmed.retain(|what| !partitions.contains(&self.partition_of(what)));
    }

    /// A connection on which everything is subscribed that is wanted of these partitions.
    async fn subscribed(
        self: &Arc<Self>,
        home: &Home,
        partitions: &Arc<[PartitionId]>,
        lag: &Arc<Lag>,
    ) -> Result<Ear, StoreError> {
        let ended = Arc::new(Notify::new());
        let hear = {
            let (shared, ended) = (self.clone(), ended.clone());
            move |push| {
                shared.hear(push, &ended);
                Ok(())
            }
        };
        let connection = self.topology.connector().connect_ear(home, hear).await?;
        let (probe, lag) = (self.probe_of(partitions), lag.clone());
        let ear = Ear { connection, partitions: partitions.clone(), probe, lag, ended };
        let mut fixed = vec![ear.probe.clone()];
        for partition in partitions.iter() {
            let keys = self.keys.partition(*partition);
            fixed.extend([keys.control(), keys.control_of(&self.instance)]);
        }
        for chunk in fixed.chunks(CHUNK) {
            self.tell(&ear, "SUBSCRIBE", chunk).await?;
        }
        {
            let mut wanted = self.lock();
            self.forget_confirmed(&mut wanted, partitions);
            let followed: Vec<Followed> = wanted.followed.keys().cloned().collect();
            for what in followed {
                let partition = self.partition_of(&what);
                if partitions.contains(&partition) {
                    wanted.changed.entry(partition).or_default().insert(what);
                }
            }
        }
        self.align(&ear).await?;
        Ok(ear)
    }

    /// Subscribes or unsubscribes, in one trip. Each feed has a command of its own: in a Cluster one command may name feeds of one slot only.
    async fn tell(&self, ear: &Ear, command: &str, feeds: &[String]) -> Result<(), StoreError> {
        let command = if self.topology.is_cluster() { format!("S{command}") } else { command.to_owned() };
        let mut pipe = redis::pipe();
        for feed in feeds {
            pipe.cmd(&command).arg(feed);
        }
        pipe.exec_async(&mut ear.connection.clone()).await.map_err(|error| failed(&error))
    }

    /// Brings what the server sends in line with what is wanted.
    async fn align(&self, ear: &Ear) -> Result<(), StoreError> {
        let (come, gone): (Vec<_>, Vec<_>) = {
            let mut wanted = self.lock();
            let changed = ear.partitions.iter().filter_map(|partition| wanted.changed.remove(partition));
            let changed: Vec<Followed> = changed.flatten().collect();
            let differs = changed
                .into_iter()
                .filter(|what| wanted.followed.contains_key(what) != wanted.confirmed.contains(what));
            let differs: Vec<Followed> = differs.collect();
            differs.into_iter().partition(|what| wanted.followed.contains_key(what))
        };
        for chunk in come.chunks(CHUNK) {
            let feeds: Vec<String> = chunk.iter().map(|what| self.feed_of(what)).collect();
            self.tell(ear, "SUBSCRIBE", &feeds).await?;
            self.lock().confirmed.extend(chunk.iter().cloned());
            self.rounds.send_modify(|round| *round += 1);
        }
        for chunk in gone.chunks(CHUNK) {
            // Before the server hears of it: whoever follows from here on must wait for a new subscription.
            let feeds: Vec<String> = {
                let mut wanted = self.lock();
                let gone: Vec<&Followed> = chunk.iter().filter(|what| !wanted.followed.contains_key(*what)).collect();
                for what in &gone {
                    wanted.confirmed.remove(*what);
                }
                gone.into_iter().map(|what| self.feed_of(what)).collect()
            };
            if !feeds.is_empty() {
                self.tell(ear, "UNSUBSCRIBE", &feeds).await?;
            }
        }
        Ok(())
    }

    /// Serves one connection to its end, and says what it was.
    async fn serve(&self, ear: &Ear) -> &'static str {
        let mut work = self.work.subscribe();
        // What was wanted since the connection was brought in line is not in that count.
        work.mark_changed();
        let mut probe = Probe { asked: None, unheard: 0, at: Instant::now() + PROBE };
        loop {
            tokio::select! {
                changed = work.changed() => {
                    if changed.is_err() {
                        return "the feed has ended";
                    }
                    if self.align(ear).await.is_err() {
                        return "a subscription was not confirmed";
                    }
                }
                () = ear.ended.notified() => return "closed, or its partitions have moved",
                () = tokio::time::sleep_until(probe.at) => {
                    if self.has_gone_deaf(ear, &mut probe).await {
                        return "nothing is heard on it";
                    }
                }
            }
        }
    }

    /// Looks whether the last question was heard, and asks the next.
    async fn has_gone_deaf(&self, ear: &Ear, probe: &mut Probe) -> bool {
        if let Some(asked) = probe.asked.take() {
            let heard = self.lock().heard.get(&ear.probe) == Some(&asked);
            probe.unheard = if heard { 0 } else { probe.unheard + 1 };
        }
        if probe.unheard >= UNHEARD {
            return true;
        }
        let nonce = format!("{:016x}", rand::random::<u64>());
        ear.lag.asked(&nonce);
        let command = if self.topology.is_cluster() { "SPUBLISH" } else { "PUBLISH" };
        let asking = async {
            let node = self.topology.node_of(ear.partitions[0]).ok()?;
            let mut connection = (*node.pool().get().await.ok()?).clone();
            redis::cmd(command).arg(&ear.probe).arg(&nonce).exec_async(&mut connection).await.ok()
        };
        // Where the question cannot be asked, nothing is known: Redis itself may be away.
        probe.asked = timeout(ANSWER, asking).await.ok().flatten().map(|()| nonce);
        if probe.asked.is_none() {
            ear.lag.unasked();
        }
        probe.at = Instant::now() + PROBE;
        false
    }

    /// Hands on what comes. Called by the reader of the connection: this does nothing that could wait.
    fn hear(&self, push: PushInfo, ended: &Notify) {
        let text = |value: Option<&Value>| match value {
            Some(Value::BulkString(text)) => String::from_utf8(text.clone()).ok(),
            _ => None,
        };
        let feed = text(push.data.first());
        match push.kind {
            PushKind::Disconnection => ended.notify_one(),
            PushKind::SUnsubscribe => {
                // Unasked where the slot has gone to another server.
                let topic = feed.and_then(|feed| self.keys.topic(&feed));
                let is_wanted = topic.is_some_and(|(partition, topic)| match topic {
                    Topic::Roster(roster) => self.lock().confirmed.contains(&Followed::Roster(roster)),
                    Topic::Index => self.lock().confirmed.contains(&Followed::Index(partition)),
                    Topic::Control | Topic::Probe => true,
                });
                if is_wanted {
                    ended.notify_one();
                }
            }
            PushKind::Message | PushKind::SMessage => {
                let (Some(feed), Some(Value::BulkString(payload))) = (feed, push.data.get(1)) else { return };
                self.hear_message(&feed, payload);
            }
            _ => {}
        }
    }

    fn hear_message(&self, feed: &str, payload: &[u8]) {
        let event = match self.keys.topic(feed) {
            Some((_, Topic::Probe)) => {
                let heard = String::from_utf8_lossy(payload).into_owned();
                let mut wanted = self.lock();
                if let Some(lag) = wanted.lags.get(feed) {
                    lag.heard(&heard);
                }
                wanted.heard.insert(feed.to_owned(), heard);
                return;
            }
            Some((partition, Topic::Control)) => {
                codec::control(payload).map(|control| FeedEvent::Control(partition, control))
            }
            Some((_, Topic::Roster(roster))) => codec::heard(roster, payload),
            Some((partition, Topic::Index)) => {
                codec::index_change(payload).map(|change| FeedEvent::Index(partition, change))
            }
            None => return,
        };
        match event {
            Ok(event) => self.queue.push(event),
            // A newer program may say more. What this one missed shows in the numbers.
            Err(error) => tracing::warn!(%error, "a message on a feed is not understood"),
        }
    }
}

struct Probe {
    asked: Option<String>,
    unheard: u32,
    at: Instant,
}
