//! Three instances over one Redis, each behind a link of its own that can be broken.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, rngs::StdRng};
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, sleep},
};

use super::{
    harness::{Instance, Proxy, Redis, Rest, fresh, truth::Truth},
    typing::Said,
};

pub const CHANNELS: [&str; 3] = ["room:1", "room/2", "😀:{3}"];
/// Where everybody is who has a connection, as far as the diary is concerned.
pub const ONLINE: &str = "(online)";
pub const PLACES: usize = 3;
/// Times of the settings, of the same proportions as the defaults, milliseconds.
pub const GRACE: u64 = 4_000;
pub const RENEW: u64 = 300;
pub const LEASE: u64 = 2_000;
pub const SETTLE: u64 = 1_000;
pub const TYPING: u64 = 3_000;
/// So large is a channel of three connections that two watch, and of five: they go through all modes as people come and go and watchers move.
pub const NET_ABOVE: u64 = 5;
pub const OCCUPANCY_ABOVE: u64 = 9;
/// How long telling may take on a busy machine while nothing is broken, milliseconds.
pub const LAG: u64 = 2_500;
/// After something was broken, until all is as if it had not been, milliseconds.
pub const RECOVERY: u64 = 4_000;

pub struct Place {
    pub instance: Option<Instance>,
    pub proxy: Proxy,
    settings: Vec<(&'static str, String)>,
}

/// See the module.
pub struct World {
    pub redis: AsyncMutex<Redis>,
    pub places: Vec<AsyncMutex<Place>>,
    /// Where each instance listens; none while there is none.
    urls: Mutex<Vec<Option<String>>>,
    /// Since when an instance alone cannot reach Redis, or is not there.
    pub alone_since: Mutex<[Option<u64>; PLACES]>,
    pub truth: Mutex<Truth>,
    pub said: Mutex<Said>,
    pub faults: Mutex<Vec<String>>,
    chance: Mutex<StdRng>,
    began: Instant,
    forgot: AtomicU64,
    unanswered: AtomicU64,
    died: AtomicU64,
    is_calm: AtomicBool,
    is_over: AtomicBool,
}

impl World {
    pub async fn begin(chance: StdRng) -> Arc<Self> {
        let redis = Redis::start().await;
        let prefix = fresh("nemesis");
        let mut places = Vec::new();
        for _ in 0..PLACES {
            let proxy = Proxy::start(redis.port()).await;
            let settings = vec![
                ("ROLLCALL__REDIS__URL", proxy.redis_url()),
                ("ROLLCALL__REDIS__PREFIX", prefix.clone()),
                ("ROLLCALL__PRESENCE__GRACE_MS", GRACE.to_string()),
                ("ROLLCALL__PRESENCE__SETTLE_MS", SETTLE.to_string()),
                ("ROLLCALL__PRESENCE__INSTANCE_RENEW_MS", RENEW.to_string()),
                ("ROLLCALL__PRESENCE__INSTANCE_LEASE_MS", LEASE.to_string()),
                ("ROLLCALL__PRESENCE__PONG_TIMEOUT_MS", "2500".to_owned()),
                ("ROLLCALL__PRESENCE__TYPING_MS", TYPING.to_string()),
                ("ROLLCALL__PRESENCE__NET_ABOVE", NET_ABOVE.to_string()),
                ("ROLLCALL__PRESENCE__OCCUPANCY_ABOVE", OCCUPANCY_ABOVE.to_string()),
            ];
            places.push(Place { instance: Some(Instance::start(&settings).await), proxy, settings });
        }
        let urls = places.iter().map(|place| place.instance.as_ref().map(Instance::url)).collect();
        Arc::new(Self {
            redis: AsyncMutex::new(redis),
            places: places.into_iter().map(AsyncMutex::new).collect(),
            urls: Mutex::new(urls),
            alone_since: Mutex::default(),
            truth: Mutex::default(),
            said: Mutex::default(),
            faults: Mutex::default(),
            chance: Mutex::new(chance),
            began: Instant::now(),
            forgot: 0.into(),
            unanswered: 0.into(),
            died: 0.into(),
            is_calm: false.into(),
            is_over: false.into(),
        })
    }

    /// Milliseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    pub fn at(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.began).as_millis()).expect("not that long")
    }

    /// Where the instance of a place listens, or else any that lives.
    pub fn door(&self, place: Option<usize>) -> (usize, String) {
        let urls = self.urls.lock().unwrap();
        let wished = place.and_then(|place| Some((place, urls[place].clone()?)));
        wished.unwrap_or_else(|| {
            let living: Vec<_> = urls.iter().enumerate().filter_map(|(at, url)| Some((at, url.clone()?))).collect();
            living[self.chance.lock().unwrap().random_range(0..living.len())].clone()
        })
    }

    /// All that live.
    pub async fn doors(&self) -> Vec<(String, Rest)> {
        let urls = self.urls.lock().unwrap().clone();
        urls.into_iter().flatten().map(|url| (url.clone(), Rest::new(&url))).collect()
    }

    pub async fn kill(&self, place: usize) {
        let mut held = self.places[place].lock().await;
        self.urls.lock().unwrap()[place] = None;
        if let Some(mut instance) = held.instance.take() {
            instance.assert_no_panic();
            instance.kill();
        }
    }

    pub async fn start(&self, place: usize) {
        let mut held = self.places[place].lock().await;
        let instance = Instance::start_unready(&held.settings).await;
        self.urls.lock().unwrap()[place] = Some(instance.url());
        held.instance = Some(instance);
    }

    /// Redis has lost what it knew, or is about to.
    pub fn forgets(&self) {
        self.forgot.store(self.now(), Ordering::Relaxed);
        self.truth.lock().unwrap().forgot(self.now());
    }

    /// Somebody asked to be let in and nobody answered: there may be a connection of which nobody knows, until its grace is over.
    pub fn perhaps_came(&self, user: &str, began: u64) {
        let name = format!("unanswered-{}", self.unanswered.fetch_add(1, Ordering::Relaxed));
        let mut truth = self.truth.lock().unwrap();
        truth.joining(ONLINE, &name, user, began);
        truth.will_have_left(ONLINE, &name, self.now(), GRACE + 2 * RENEW);
    }

    /// An instance has died.
    pub fn died(&self) {
        self.died.store(self.now(), Ordering::Relaxed);
    }

    /// Whether who was with the last one that died is gone for good, or elsewhere.
    pub fn may_forget(&self) -> bool {
        let died = self.died.load(Ordering::Relaxed);
        died == 0 || self.now() > died + GRACE + 2 * RENEW + LEASE
    }

    pub fn forgot_since(&self, at: u64) -> bool {
        self.forgot.load(Ordering::Relaxed) >= at
    }

    pub fn fault(&self, what: String) {
        let what = format!("at {} {what}", self.now());
        println!("{what}");
        self.faults.lock().unwrap().push(what);
    }

    /// Nobody does anything more, and everybody who can is there.
    pub fn calm(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
    }

    pub fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    /// Whoever is to go has gone by then.
    pub async fn recovered(&self) {
        sleep(Duration::from_millis(GRACE + 2 * RENEW + LEASE + RECOVERY)).await;
    }

    pub fn finish(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub async fn assert_no_panic(&self) {
        for place in &self.places {
            if let Some(instance) = &place.lock().await.instance {
                instance.assert_no_panic();
            }
        }
    }
}
