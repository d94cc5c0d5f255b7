//! How this instance stands with one partition, as its heart, its writer, its sweeper and its sessions share it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::domain::{partition::Beat, roster::Generation, version::Epoch};

/// How this instance stands with a partition.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    pub generation: Generation,
    pub link: u64,
    pub beat: Beat,
}

#[derive(Debug, Default)]
struct Held {
    registration: Option<Registration>,
    /// Counts the changes that those who wait are told of.
    turn: u64,
    /// The latest presence time that was seen, and in which epoch.
    latest: Option<(Epoch, u64)>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pulse {
    held: Mutex<Held>,
    renewed_at: Mutex<Instant>,
    news: Notify,
    poke: Notify,
    suspicion: Notify,
    is_down: AtomicBool,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
            renewed_at: Mutex::new(Instant::now()),
            news: Notify::new(),
            poke: Notify::new(),
            suspicion: Notify::new(),
            is_down: AtomicBool::new(false),
        }
    }
}

impl Pulse {
    /// How this instance stands now; none while the store is out of reach.
    pub fn standing(&self) -> Option<Registration> {
        self.lock().registration.clone()
    }

    /// Whether the last renewal failed: whoever asks the store now would wait for nothing. Not so in the moment in which a new epoch or a new link
    /// is learnt.
    pub fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    /// How long ago the lease was renewed last, or was first tried to get.
    pub fn lease_age(&self) -> Duration {
        self.renewed_at.lock().expect("nothing panics while it holds a time").elapsed()
    }

    /// The latest presence time that was seen, and in which epoch; of the last registration, whether it holds or not.
    pub fn latest(&self) -> Option<(Epoch, u64)> {
        self.lock().latest.clone()
    }

    /// For waiting on changes of the standing.
    pub fn subscribe(self: &Arc<Self>) -> Standing {
        Standing { seen: self.lock().turn, pulse: self.clone() }
    }

    /// A later answer of the same epoch.
    pub fn note(&self, beat: &Beat) {
        let mut held = self.lock();
        if let Some((epoch, now)) = &mut held.latest
            && *epoch == beat.epoch
        {
            *now = beat.now.max(*now);
        }
        let Some(registration) = held.registration.as_mut().filter(|held| held.beat.epoch == beat.epoch) else {
            return;
        };
        let settled = registration.beat.settling && !beat.settling;
        if beat.now >= registration.beat.now {
            registration.beat = beat.clone();
        }
        if settled {
            self.tell(held);
        }
    }

    /// The instance is registered like this.
    pub fn register(&self, registration: Registration) {
        self.is_down.store(false, Ordering::Relaxed);
        *self.renewed_at.lock().expect("nothing panics while it holds a time") = Instant::now();
        let mut held = self.lock();
        held.latest = Some((registration.beat.epoch.clone(), registration.beat.now));
        held.registration = Some(registration);
        self.tell(held);
    }

    /// The store is out of reach.
    pub fn down(&self) {
        self.is_down.store(true, Ordering::Relaxed);
        self.forget();
    }

    /// The registration does not hold any more: the heart is to renew at once, and nobody writes until it has.
    pub fn doubt(&self) {
        self.forget();
        self.poke();
    }

    /// The heart is to renew at once.
    pub fn poke(&self) {
        self.poke.notify_one();
    }

    /// Waits until somebody pokes.
    pub async fn poked(&self) {
        self.poke.notified().await;
    }

    /// Others may have taken or ended what this instance answers for, and it was not told.
    pub fn suspect(&self) {
        self.suspicion.notify_one();
    }

    /// Waits until somebody suspects something.
    pub async fn suspected(&self) {
        self.suspicion.notified().await;
    }

    fn forget(&self) {
        let mut held = self.lock();
        held.registration = None;
        self.tell(held);
    }

    fn tell(&self, mut held: MutexGuard<'_, Held>) {
        held.turn += 1;
        drop(held);
        self.news.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("nothing panics while it holds the registration")
    }
}

/// Waits for changes of the standing. Not tokio's `watch`: that wakes those who wait in an order of chance, which no simulation could replay.
pub(crate) struct Standing {
    pulse: Arc<Pulse>,
    seen: u64,
}

impl Standing {
    /// The standing now; the next change is one after this.
    pub fn look(&mut self) -> Option<Registration> {
        let held = self.pulse.lock();
        self.seen = held.turn;
        held.registration.clone()
    }

    /// Waits for a change since the last look, and looks.
    pub async fn changed(&mut self) -> Option<Registration> {
        let pulse = self.pulse.clone();
        loop {
            // Told of all that comes from here on, before it looks whether something has come already.
            let news = pulse.news.notified();
            if pulse.lock().turn != self.seen {
                return self.look();
            }
            news.await;
        }
    }

    /// Waits until the instance is registered, in a way that `suits`.
    pub async fn registered(&mut self, suits: impl Fn(&Registration) -> bool) -> Registration {
        let mut standing = self.look();
        loop {
            if let Some(registration) = standing.filter(&suits) {
                return registration;
            }
            standing = self.changed().await;
        }
    }
}
