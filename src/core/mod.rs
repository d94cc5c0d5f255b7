//! The service as the doors see it. Knows neither HTTP nor Redis.

mod across;
mod asides;
mod bars;
mod error;
mod heart;
mod indexes;
mod largest;
mod leases;
mod ledger;
mod mirror;
mod mirrors;
#[cfg(test)]
mod mutants;
mod notices;
mod patterns;
mod people;
mod persons;
mod placing;
mod pulse;
mod putting_out;
mod queries;
#[cfg(test)]
mod rigged;
mod session;
mod settings;
mod shared;
#[cfg(test)]
mod simulation;
mod sweeper;
#[cfg(test)]
mod tests;
mod typers;

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

pub use self::{
    across::{Across, Sought},
    asides::Addressee,
    bars::Barred,
    error::{Code, Error},
    largest::{Largest, MOST_RANKED},
    mirror::{Aside, Cause, Copy, Delivery, Encoded, Frame, Lists, Mirror, Snapshot, Wake, Whole},
    notices::{Notice, Notices, Out, Typing},
    patterns::{Channels, PatternDelivery, PatternFrame, PatternWatch},
    people::{Part, Seen, UserWatch, UsersFrame},
    putting_out::Revocation,
    queries::{Count, Device, Listing, UserInfo},
    session::{Command, Hello, HelloError, Reply, ResumeClaim, Session, Watch, Welcome},
    settings::Settings,
};
use self::{
    bars::Bars,
    heart::{Heart, Writer},
    indexes::Indexes,
    largest::Rankings,
    ledger::Ledger,
    mirrors::Mirrors,
    patterns::Patterns,
    people::People,
    persons::Persons,
    pulse::Pulse,
    shared::Shared,
    sweeper::Sweeper,
};
pub use crate::store::{Index, Totals};
use crate::{
    domain::{
        mode::Mode,
        name::{ChannelName, ConnectionId, RosterKey},
        roster::{Control, IndexChange},
    },
    metrics::{In, Metrics, Of, from_zero},
    store::{Feed, FeedEvent, PartitionId, SCHEMA, Store},
    telemetry::vital,
};

/// Whether an instance can do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet: it has had no contact with the store, or began while the epoch settled.
    Starting,
    /// It can.
    Ready,
    /// The store is out of reach: sockets stay, reads may be stale, writes wait.
    Degraded,
    /// The epoch settles: who is there is known, who is not may still come.
    Settling,
}

/// The service.
pub struct Core {
    pub(crate) store: Arc<dyn Store>,
    feed: Arc<dyn Feed>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) mirrors: Arc<Mirrors>,
    pub(crate) people: Arc<People>,
    pub(crate) patterns: Arc<Patterns>,
    indexes: Arc<Indexes>,
    persons: Persons,
    pub(crate) pulses: Vec<Arc<Pulse>>,
    pub(crate) bars: Arc<Bars>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) listings: Shared<ChannelName, Listing>,
    rankings: Rankings,
    hearts: Vec<JoinHandle<()>>,
    sweepers: Vec<JoinHandle<()>>,
    was_ready: std::sync::atomic::AtomicBool,
}

impl Core {
    /// Builds the service and starts its tasks on the runtime of the caller.
    pub fn start(store: Arc<dyn Store>, feed: Arc<dyn Feed>, settings: Settings, metrics: Arc<Metrics>) -> Arc<Self> {
        let settings = Arc::new(settings);
        let ledger = Arc::new(Ledger::new(store.clone()));
        let pulses: Vec<Arc<Pulse>> = (0..store.partitions()).map(|_| Arc::default()).collect();
        let mirrors = Mirrors::new(store.clone(), feed.clone(), settings.presence.mode_bounds(), metrics.clone());
        let bars = Bars::new(store.clone(), feed.clone(), settings.limits.revocations);
        let (mut hearts, mut sweepers) = (Vec::new(), Vec::new());
        for partition in 0..store.partitions() {
            let pulse = &pulses[usize::from(partition)];
            let heart = Heart {
                partition,
                store: store.clone(),
                ledger: ledger.clone(),
                pulse: pulse.clone(),
                settings: settings.clone(),
                metrics: metrics.clone(),
            };
            let writer = Writer {
                partition,
                store: store.clone(),
                ledger: ledger.clone(),
                pulse: pulse.clone(),
                mirrors: mirrors.clone(),
                metrics: metrics.clone(),
            };
            let sweeper = Sweeper {
                partition,
                store: store.clone(),
                ledger: ledger.clone(),
                pulse: pulse.clone(),
                settings: settings.clone(),
                metrics: metrics.clone(),
            };
            hearts.push(vital::spawn("heart", heart.run()));
            vital::spawn("writer", writer.run());
            sweepers.push(vital::spawn("sweeper", sweeper.run()));
        }
        vital::spawn("comparison", mirrors.clone().run());
        vital::spawn("bars", bars.clone().run(pulses[usize::from(SCHEMA)].clone()));
        let people = People::new(store.clone(), feed.clone(), metrics.clone());
        let indexes = Indexes::new(store.clone(), feed.clone());
        people.start(&indexes);
        let patterns = Patterns::new(store.clone(), mirrors.clone(), indexes.clone(), settings.clone());
        vital::spawn("indexes", indexes.clone().run(people.clone(), patterns.clone()));
        let was_ready = false.into();
        from_zero(&metrics.operations, ["ok"].into_iter().chain(Code::ALL.map(Code::as_str)));
        let persons = Persons::default();
        let core = Arc::new(Self {
            store,
            feed,
            ledger,
            mirrors,
            people,
            patterns,
            indexes,
            persons,
            pulses,
            bars,
            metrics,
            settings,
            listings: Shared::default(),
            rankings: Rankings::default(),
            hearts,
            sweepers,
            was_ready,
        });
        vital::spawn("persons", core.clone().keep_persons());
        vital::spawn("listener", core.clone().listen());
        core
    }

    /// What the core was built with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The text that a Prometheus server reads, with what stands just now.
    pub fn scrape(&self) -> String {
        let as_gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.accounts.set(as_gauge(self.ledger.len()));
        self.metrics.members.set(as_gauge(self.ledger.members()));
        self.metrics.bars.set(as_gauge(self.bars.len()));
        self.metrics.people.set(as_gauge(self.people.len()));
        let (patterns, channels) = self.patterns.len();
        self.metrics.patterns.set(as_gauge(patterns));
        self.metrics.pattern_channels.set(as_gauge(channels));
        self.metrics.feed_lag.set(self.feed.lag().as_secs_f64());
        for mode in Mode::ALL {
            let of = In { mode: mode.as_str() };
            self.metrics.modes.get_or_create(&of).set(as_gauge(self.mirrors.in_mode(mode)));
        }
        for (partition, pulse) in (0..).zip(&self.pulses) {
            let of = Of { partition };
            self.metrics.lease_age.get_or_create(&of).set(pulse.lease_age().as_secs_f64());
            self.metrics.unacknowledged.get_or_create(&of).set(as_gauge(self.ledger.waiting(partition)));
        }
        self.metrics.text()
    }

    /// The socket of a connection has answered a ping that was sent because of [`Notice::Prove`]. Not a matter of the session, which an operation may
    /// have that waits for just this.
    pub fn prove(&self, connection: &ConnectionId) {
        self.ledger.prove(connection);
    }

    /// Whether it can do its work.
    pub fn readiness(&self) -> Readiness {
        use std::sync::atomic::Ordering::Relaxed;
        let standing: Vec<_> = self.pulses.iter().map(|pulse| pulse.standing()).collect();
        let was_ready = self.was_ready.load(Relaxed);
        // While a new link or epoch is being learnt there is no standing for a moment, and nothing is wrong.
        let is_up =
            standing.iter().zip(&self.pulses).all(|(held, pulse)| held.is_some() || (was_ready && !pulse.is_down()));
        let is_settled = standing.iter().flatten().all(|held| !held.beat.settling);
        // Until it is known who may not come in nobody does.
        let is_up = is_up && self.bars.is_loaded();
        match (is_up, is_settled) {
            (true, true) => {
                self.was_ready.store(true, Relaxed);
                Readiness::Ready
            }
            _ if !was_ready => Readiness::Starting,
            (false, _) => Readiness::Degraded,
            (true, false) => Readiness::Settling,
        }
    }

    /// Sends what is still to be sent, within `most`, and gives the lease back. The doors have ended their sessions before.
    pub async fn stop(&self, most: Duration) {
        let until = Instant::now() + most;
        let is_settled = || (0..self.store.partitions()).all(|partition| self.ledger.is_settled(partition));
        while !is_settled() && Instant::now() < until {
            sleep(Duration::from_millis(10)).await;
        }
        // Whoever has said goodbye must not register anew.
        self.hearts.iter().chain(&self.sweepers).for_each(JoinHandle::abort);
        for (partition, pulse) in (0..self.store.partitions()).zip(&self.pulses) {
            if let Some(standing) = pulse.standing() {
                Heart::farewell(self.store.as_ref(), partition, &standing, &self.settings.version).await;
            }
        }
    }

    fn hear_index(&self, partition: PartitionId, change: &IndexChange) {
        let misses = self.indexes.hear(partition, change);
        self.people.come(change.come.iter().filter_map(|roster| match roster {
            RosterKey::User(user) => Some(user),
            _ => None,
        }));
        self.patterns.hear(change);
        if misses {
            self.people.list_again();
            self.patterns.list_again();
        }
    }

    /// The feed is the only source of events, for the instance that caused them too.
    async fn listen(self: Arc<Self>) {
        loop {
            let event = self.feed.next().await;
            // Where there is always another event, others have their turn all the same.
            tokio::task::consume_budget().await;
            match event {
                FeedEvent::Published(published) if published.roster.is_user() => self.people.hear(&published),
                FeedEvent::Published(published) => self.mirrors.hear(published),
                FeedEvent::Said(roster, said) => self.mirrors.hear_aside(&roster, said, self.typing_lasts()),
                FeedEvent::Control(_, Control::Typing(towards)) => self.hear_typing(&towards),
                FeedEvent::Index(partition, change) => self.hear_index(partition, &change),
                FeedEvent::Control(_, Control::Overruled { roster, connection, take, reason }) => {
                    self.ledger.overruled(&connection, &roster, take, reason);
                }
                FeedEvent::Control(_, Control::Person(user)) => {
                    if self.ledger.knows(&user) {
                        self.persons.hear([user]);
                    }
                }
                FeedEvent::Control(_, Control::Barred { bars, said }) => self.bars.learn(&bars, &said),
                FeedEvent::Control(_, Control::PutOut { user, said }) => self.bars.put_out(&user, &said),
                FeedEvent::Control(_, Control::Join { connections, channel, state }) => {
                    for notices in connections.iter().filter_map(|connection| self.ledger.notices(connection)) {
                        notices.join(channel.clone(), state.clone());
                    }
                }
                FeedEvent::Control(partition, Control::Epoch(epoch)) => {
                    let pulse = &self.pulses[usize::from(partition)];
                    if pulse.standing().is_some_and(|held| held.beat.epoch != epoch) {
                        pulse.poke();
                    }
                }
                FeedEvent::Control(partition, Control::Settled(_)) => {
                    self.pulses[usize::from(partition)].poke();
                    self.mirrors.settled(partition);
                    self.people.settled(partition);
                }
                FeedEvent::Lost => {
                    self.metrics.feed_lost.inc();
                    tracing::warn!("the feed is lost; what is missed will be read");
                }
                FeedEvent::Restored => {
                    tracing::info!("the feed is back; comparing versions");
                    self.mirrors.doubt();
                    self.people.doubt();
                    self.indexes.doubt();
                    // Nor was anybody heard who took or ended what is answered for here.
                    self.pulses.iter().for_each(|pulse| pulse.suspect());
                    self.persons.hear(self.ledger.people());
                    self.bars.doubt();
                }
            }
        }
    }
}

/// Waits until then; where nothing is due, for ever. Cancel-safe.
pub(crate) async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
