//! The service as the doors see it. Knows neither HTTP nor Redis.

mod error;
mod heart;
mod leases;
mod ledger;
mod mirror;
mod mirrors;
mod notices;
mod queries;
#[cfg(test)]
mod rigged;
mod session;
mod settings;
mod sweeper;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

pub use self::{
    error::{Code, Error},
    mirror::{Cause, Copy, Delivery, Encoded, Frame, Lists, Mirror, Snapshot, Wake, Whole},
    notices::{Notice, Notices},
    queries::{Count, Device, Listing, UserInfo},
    session::{Command, Hello, HelloError, Reply, ResumeClaim, Session, Watch, Welcome},
    settings::Settings,
};
use self::{
    heart::{Heart, Pulse, Writer},
    ledger::Ledger,
    mirrors::Mirrors,
    sweeper::Sweeper,
};
pub use crate::store::{Index, Totals};
use crate::{
    domain::{name::ConnectionId, roster::Control},
    metrics::Metrics,
    store::{Feed, FeedEvent, Store},
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
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) mirrors: Arc<Mirrors>,
    pub(crate) pulses: Vec<Arc<Pulse>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: Arc<Settings>,
    hearts: Vec<JoinHandle<()>>,
    sweepers: Vec<JoinHandle<()>>,
    was_ready: std::sync::atomic::AtomicBool,
}

impl Core {
    /// Builds the service and starts its tasks on the runtime of the caller.
    pub fn start(store: Arc<dyn Store>, feed: Arc<dyn Feed>, settings: Settings, metrics: Arc<Metrics>) -> Arc<Self> {
        let settings = Arc::new(settings);
        let ledger = Arc::new(Ledger::new(store.clone()));
        let pulses: Vec<_> = (0..store.partitions()).map(|_| Arc::new(Pulse::new())).collect();
        let mirrors = Mirrors::new(store.clone(), feed.clone(), metrics.clone());
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
                metrics: metrics.clone(),
            };
            let sweeper = Sweeper {
                partition,
                store: store.clone(),
                ledger: ledger.clone(),
                pulse: pulse.clone(),
                metrics: metrics.clone(),
            };
            hearts.push(vital::spawn("heart", heart.run()));
            vital::spawn("writer", writer.run());
            sweepers.push(vital::spawn("sweeper", sweeper.run()));
        }
        vital::spawn("comparison", mirrors.clone().run());
        let was_ready = false.into();
        let core = Arc::new(Self { store, ledger, mirrors, pulses, metrics, settings, hearts, sweepers, was_ready });
        vital::spawn("listener", core.clone().listen(feed));
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

    /// The feed is the only source of events, for the instance that caused them too.
    async fn listen(self: Arc<Self>, feed: Arc<dyn Feed>) {
        loop {
            let event = feed.next().await;
            // Where there is always another event, others have their turn all the same.
            tokio::task::consume_budget().await;
            match event {
                FeedEvent::Published(published) => self.mirrors.hear(published),
                FeedEvent::Control(Control::Overruled { roster, connection, take, reason }) => {
                    self.ledger.overruled(&connection, &roster, take, reason);
                }
                FeedEvent::Control(Control::Epoch(epoch)) => {
                    for pulse in &self.pulses {
                        if pulse.standing().is_some_and(|held| held.beat.epoch != epoch) {
                            pulse.poke();
                        }
                    }
                }
                FeedEvent::Control(Control::Settled(_)) => {
                    for pulse in &self.pulses {
                        pulse.poke();
                    }
                    self.mirrors.settled();
                }
                FeedEvent::Lost => {
                    self.metrics.feed_lost.inc();
                    tracing::warn!("the feed is lost; what is missed will be read");
                }
                FeedEvent::Restored => {
                    tracing::info!("the feed is back; comparing versions");
                    self.mirrors.doubt();
                }
            }
        }
    }
}
