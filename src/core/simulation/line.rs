//! The way between an instance and the store: it takes time, breaks, falls silent, and brings late what nobody waits for any more.

use std::{
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::log::Log;
use crate::{
    domain::{chance, name::RosterKey},
    store::{Feed, FeedEvent, PartitionId, StoreError, memory::MemoryFeed},
};

/// How long a call waits for its answer.
const ANSWER: Duration = Duration::from_secs(3);
/// The most that one direction takes, milliseconds.
const LATENCY_MS: u64 = 25;
/// What is late comes within this, milliseconds.
const LATE_MS: u64 = 30_000;

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It takes time, and nothing is wrong.
    Open,
    /// Every call fails at once.
    Cut,
    /// Nothing passes, and nobody says so.
    Silent,
    /// The instance itself stands still, its clock included.
    Frozen,
    /// The instance is dead. What it had sent may still arrive.
    Gone,
}

/// See the module.
pub(crate) struct Line {
    /// None for a line that takes no time and is not written down.
    log: Option<(Arc<Log>, String)>,
    way: Mutex<Way>,
    turned: Notify,
    /// The connection there is; 0 is none.
    link: AtomicU64,
    links: AtomicU64,
    /// Of a thousand calls, so many fail, before or after they were carried out.
    pub flaky: AtomicU64,
    /// The feed hears nothing and does not know it.
    pub deaf: AtomicBool,
    /// The feed's connection is lost, and it knows it.
    pub unfed: AtomicBool,
}

impl Line {
    /// One that is not there: calls are carried out at once.
    pub fn straight() -> Self {
        Self::new(None)
    }

    /// One that takes time; what passes is written down under `name`.
    pub fn of(name: &str, log: &Arc<Log>) -> Self {
        Self::new(Some((log.clone(), name.to_owned())))
    }

    fn new(log: Option<(Arc<Log>, String)>) -> Self {
        Self {
            log,
            way: Mutex::new(Way::Open),
            turned: Notify::new(),
            link: 0.into(),
            links: 0.into(),
            flaky: 0.into(),
            deaf: false.into(),
            unfed: false.into(),
        }
    }

    pub fn way(&self) -> Way {
        *self.way.lock().unwrap()
    }

    /// From here on.
    pub fn turn(&self, way: Way) {
        let mut now = self.way.lock().unwrap();
        if *now != Way::Gone {
            *now = way;
        }
        drop(now);
        self.turned.notify_waiters();
    }

    /// Something else than the way has changed.
    pub fn stir(&self) {
        self.turned.notify_waiters();
    }

    /// Waits until the way is another.
    pub async fn turned_from(&self, way: Way) -> Way {
        loop {
            let turned = self.turned.notified();
            let now = self.way();
            if now != way {
                return now;
            }
            turned.await;
        }
    }

    /// The number of the connection, which is made where there is none.
    pub fn connected(&self) -> u64 {
        if self.link.load(Ordering::Relaxed) == 0 {
            self.link.store(self.links.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        self.link.load(Ordering::Relaxed)
    }

    /// The number of the connection there is.
    pub fn standing(&self) -> Result<u64, StoreError> {
        match self.link.load(Ordering::Relaxed) {
            0 => Err(StoreError::Unavailable("not connected".into())),
            link => Ok(link),
        }
    }

    /// A call of a script over the numbered connection, which is given up when it fails.
    pub async fn over<T: Debug + Send + 'static>(
        &self,
        link: u64,
        what: &'static str,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let answer = self.pass(what, what != "renew", call).await;
        if answer.is_err() {
            let _ = self.link.compare_exchange(link, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        answer
    }

    /// A call that only reads.
    pub async fn read<T: Debug + Send + 'static>(
        &self,
        what: &'static str,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.pass(what, false, call).await
    }

    async fn pass<T: Debug + Send + 'static>(
        &self,
        what: &'static str,
        may_be_late: bool,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let Some((log, name)) = &self.log else { return Ok(call()) };
        let unavailable = || StoreError::Unavailable("simulated".into());
        let deadline = Instant::now() + ANSWER;
        let call = {
            let (log, name) = (log.clone(), name.clone());
            move |how: &str| {
                let answer = call();
                log.write(format!("{name} {what}{how}: {answer:?}"));
                answer
            }
        };
        self.travel().await;
        if let Err(gone) = self.open_by(deadline).await {
            if may_be_late && chance::within(0..2) == 0 {
                later(call);
            }
            return if gone { std::future::pending().await } else { Err(unavailable()) };
        }
        if chance::within(0..1_000) < self.flaky.load(Ordering::Relaxed) {
            match chance::within(0..3) {
                0 => {}
                1 if may_be_late => later(call),
                _ => drop(call(" unheard")),
            }
            return Err(unavailable());
        }
        let answer = call("");
        self.travel().await;
        match self.open_by(deadline).await {
            Ok(()) => Ok(answer),
            Err(true) => std::future::pending().await,
            Err(false) => Err(unavailable()),
        }
    }

    async fn travel(&self) {
        sleep(Duration::from_millis(chance::within(1..=LATENCY_MS))).await;
    }

    /// Waits until something passes. An error when the call fails instead; true when there is nobody any more to tell.
    async fn open_by(&self, deadline: Instant) -> Result<(), bool> {
        loop {
            match self.way() {
                Way::Open => return Ok(()),
                Way::Cut => return Err(false),
                Way::Gone => return Err(true),
                // A process that stands still finds its answers when it goes on.
                Way::Frozen => drop(self.turned_from(Way::Frozen).await),
                Way::Silent => {
                    timeout_at(deadline, self.turned_from(Way::Silent)).await.map_err(|_| false)?;
                }
            }
        }
    }
}

/// What was sent over a link that is given up may be carried out when nobody waits for it any more.
fn later<T: 'static>(call: impl FnOnce(&str) -> T + Send + 'static) {
    let late = Duration::from_millis(chance::within(1..=LATE_MS));
    tokio::spawn(async move {
        sleep(late).await;
        call(" late");
    });
}

/// The feed at the end of a line.
pub(crate) struct Ear {
    line: Arc<Line>,
    feed: Arc<MemoryFeed>,
    hears: AtomicBool,
}

impl Ear {
    pub fn new(line: &Arc<Line>, feed: Arc<MemoryFeed>) -> Self {
        Self { line: line.clone(), feed, hears: true.into() }
    }

    fn is_connected(&self) -> bool {
        let way = self.line.way();
        matches!(way, Way::Open | Way::Frozen) && !self.line.unfed.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Feed for Ear {
    async fn follow(&self, roster: &RosterKey) -> Result<(), StoreError> {
        let (feed, roster) = (self.feed.clone(), roster.clone());
        if !self.hears.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("not connected".into()));
        }
        let follow = move || futures_util::FutureExt::now_or_never(feed.follow(&roster)).expect("nothing to wait for");
        self.line.read("follow", follow).await?
    }

    fn unfollow(&self, roster: &RosterKey) {
        self.feed.unfollow(roster);
    }

    async fn follow_index(&self, partition: PartitionId) -> Result<(), StoreError> {
        let feed = self.feed.clone();
        if !self.hears.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("not connected".into()));
        }
        let follow =
            move || futures_util::FutureExt::now_or_never(feed.follow_index(partition)).expect("nothing to wait for");
        self.line.read("follow", follow).await?
    }

    fn unfollow_index(&self, partition: PartitionId) {
        self.feed.unfollow_index(partition);
    }

    async fn next(&self) -> FeedEvent {
        loop {
            if self.line.way() == Way::Gone {
                std::future::pending::<()>().await;
            }
            if self.hears.load(Ordering::Relaxed) != self.is_connected() {
                if self.hears.swap(false, Ordering::Relaxed) {
                    return FeedEvent::Lost;
                }
                // What is said until it follows again is not heard.
                let again = Instant::now() + Duration::from_millis(chance::within(50..1_000));
                while tokio::select! { biased; () = sleep_until(again) => false, _ = self.feed.next() => true } {}
                if self.is_connected() {
                    self.hears.store(true, Ordering::Relaxed);
                    return FeedEvent::Restored;
                }
            }
            let turned = self.line.turned.notified();
            tokio::select! {
                biased;
                () = turned => {}
                event = self.feed.next() => {
                    sleep(Duration::from_millis(chance::within(0..=LATENCY_MS / 5))).await;
                    if self.line.way() == Way::Frozen {
                        self.line.turned_from(Way::Frozen).await;
                    }
                    if self.hears.load(Ordering::Relaxed) && self.is_connected() && !self.line.deaf.load(Ordering::Relaxed) {
                        return event;
                    }
                }
            }
        }
    }
}
