//! Where a simulation happens: some instances over one memory, and the clocks of all.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use rand::{RngExt as _, rngs::StdRng};
use tokio::{sync::Notify, time::Instant};

use super::{
    line::{Ear, Line, Way},
    log::Log,
    truth::Truth,
};
use crate::{
    core::{
        Core, Hello, ResumeClaim,
        rigged::{Rigged, TERMS},
        settings::Settings,
        tests::settings,
    },
    domain::{
        mode::Bounds,
        name::{ChannelName, UserName},
        partition::Partition,
        person::Choice,
        principal::Principal,
    },
    metrics::Metrics,
    store::memory::Memory,
};

/// Those where people go.
pub(crate) const CHANNELS: [&str; 3] = ["a", "b", "c"];
/// How many instances there are.
pub(crate) const PLACES: usize = 3;
/// Times of the settings, milliseconds.
pub(crate) const GRACE: u64 = 15_000;
pub(crate) const RENEW: u64 = TERMS.renew_ms;
/// How long telling may take while nothing is wrong, milliseconds.
pub(crate) const LAG: u64 = 1_500;

pub(crate) fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

/// A hello of somebody, or of nobody, who only watches.
pub(crate) fn hello(user: Option<&UserName>, resume: Option<ResumeClaim>) -> Hello {
    let principal = Principal {
        user: user.cloned(),
        expires_at_ms: u64::MAX,
        issued_at_ms: None,
        token_id: None,
        info: None,
        grace_ms: None,
        can: None,
        channels: Arc::new([]),
    };
    Hello { principal, resume, device: None, present: true }
}

/// One process.
pub(crate) struct Instance {
    pub core: Arc<Core>,
    pub line: Arc<Line>,
    /// Since when it alone cannot reach the memory.
    pub alone_since: Mutex<Option<u64>>,
    is_dead: AtomicBool,
    death: Notify,
}

impl Instance {
    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Relaxed)
    }

    /// Its end without notice.
    pub fn kill(&self) {
        self.line.turn(Way::Gone);
        self.is_dead.store(true, Ordering::Relaxed);
        self.death.notify_waiters();
    }

    /// Waits for its end.
    pub async fn died(&self) {
        let death = self.death.notified();
        if !self.is_dead() {
            death.await;
        }
    }
}

/// See the module.
pub(crate) struct World {
    pub memory: Arc<Memory>,
    pub log: Arc<Log>,
    pub truth: Mutex<Truth>,
    pub faults: Mutex<Vec<String>>,
    places: Mutex<Vec<Arc<Instance>>>,
    chance: Mutex<StdRng>,
    bounds: Bounds,
    started: AtomicUsize,
    jumped: AtomicU64,
    forgot: AtomicU64,
    is_holiday: AtomicBool,
    is_calm: AtomicBool,
    is_over: AtomicBool,
    end: Notify,
}

thread_local! {
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Wall time runs as the simulation does.
fn wall() -> u64 {
    let began = BEGAN.get().expect("a simulation has begun");
    1_700_000_000_000 + u64::try_from(began.elapsed().as_millis()).expect("not that long")
}

impl World {
    /// All instances run. `chance` decides where people go.
    /// Channels are large by these bounds.
    pub fn begin(chance: StdRng, bounds: Bounds) -> Arc<Self> {
        BEGAN.set(Some(Instant::now()));
        crate::domain::time::WALL.set(Some(wall));
        let memory = Memory::shared(TERMS);
        // Room for a clock that is set back.
        memory.jump(1_000_000_000);
        let world = Arc::new(Self {
            memory,
            log: Arc::new(Log::new()),
            truth: Mutex::default(),
            faults: Mutex::default(),
            places: Mutex::default(),
            chance: Mutex::new(chance),
            bounds,
            started: 0.into(),
            jumped: 0.into(),
            forgot: 0.into(),
            is_holiday: false.into(),
            is_calm: false.into(),
            is_over: false.into(),
            end: Notify::new(),
        });
        let places = (0..PLACES).map(|_| world.start()).collect();
        *world.places.lock().unwrap() = places;
        world
    }

    fn start(&self) -> Arc<Instance> {
        let name = format!("i{}", self.started.fetch_add(1, Ordering::Relaxed));
        let line = Arc::new(Line::of(&name, &self.log));
        let ear = Arc::new(Ear::new(&line, self.memory.feed(&name)));
        let store = Arc::new(Rigged::over(self.memory.clone(), line.clone()));
        let mut settings = Settings { instance: name.as_str().into(), ..settings() };
        let Bounds { net_above, occupancy_above } = self.bounds;
        (settings.presence.net_above, settings.presence.occupancy_above) = (net_above, occupancy_above);
        let core = Core::start(store, ear, settings, Metrics::new());
        Arc::new(Instance { core, line, alone_since: Mutex::default(), is_dead: false.into(), death: Notify::new() })
    }

    /// The instances, dead ones included.
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        self.places.lock().unwrap().clone()
    }

    /// A new process in the place of one that is dead.
    pub fn replace(&self, place: usize) {
        let instance = self.start();
        self.places.lock().unwrap()[place] = instance;
    }

    /// One that lives.
    pub fn any_instance(&self) -> Arc<Instance> {
        self.any_of(&self.instances())
    }

    /// One that lives, of these if any of them does.
    pub fn any_of(&self, some: &[Arc<Instance>]) -> Arc<Instance> {
        let all = self.instances();
        let living =
            |among: &[Arc<Instance>]| among.iter().filter(|instance| !instance.is_dead()).cloned().collect::<Vec<_>>();
        let some = living(some);
        let choice = if some.is_empty() { living(&all) } else { some };
        choice[self.chance.lock().unwrap().random_range(0..choice.len())].clone()
    }

    /// The host clock of the memory jumps.
    pub fn jump(&self, ms: i64) {
        self.jumped.store(self.log.now(), Ordering::Relaxed);
        self.memory.jump(ms);
    }

    pub fn jumped_since(&self, at: u64) -> bool {
        self.jumped.load(Ordering::Relaxed) >= at
    }

    /// The memory goes on with what is given.
    pub fn forget(&self, partition: Partition) {
        self.memory.restart(partition);
        self.forgot.store(self.log.now(), Ordering::Relaxed);
        self.truth.lock().unwrap().forgot(self.log.now());
    }

    pub fn forgot_since(&self, at: u64) -> bool {
        self.forgot.load(Ordering::Relaxed) >= at
    }

    /// Something that must not be.
    pub fn fault(&self, what: String) {
        let what = format!("at {} {what}", self.log.now());
        self.log.write(what.clone());
        self.faults.lock().unwrap().push(what);
    }

    /// Nobody is anywhere, or people come again.
    pub fn holiday(&self, is_holiday: bool) {
        self.is_holiday.store(is_holiday, Ordering::Relaxed);
    }

    pub fn is_holiday(&self) -> bool {
        self.is_holiday.load(Ordering::Relaxed)
    }

    /// Nobody does anything more, and everybody who can is there.
    pub fn calm(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
    }

    pub fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    pub fn finish(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.end.notify_waiters();
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Waits for the end.
    pub async fn over(&self) {
        let end = self.end.notified();
        if !self.is_over() {
            end.await;
        }
    }

    /// Who is shown in a channel otherwise than they have chosen: connection, how, and as what.
    pub fn shown_wrong(&self, name: &str) -> Vec<String> {
        let copy = self.memory.copy();
        let rows = copy.rows(&crate::domain::name::RosterKey::Channel(channel(name))).into_iter().flatten();
        let wrong = rows.filter_map(|(id, row)| {
            let shown = crate::core::mirror::present(row)?.shown.status;
            let record = copy.kept(&row.user).and_then(|kept| kept.record.as_ref());
            let chosen = record.and_then(|record| record.profile().status).and_then(Choice::shown).unwrap_or_default();
            (shown != chosen).then(|| format!("{id} of {} is {shown:?} and has chosen {chosen:?}", row.user))
        });
        wrong.collect()
    }

    /// What the store shows of a channel: connection and state.
    pub fn stored(&self, name: &str) -> BTreeMap<String, String> {
        let copy = self.memory.copy();
        let rows = copy.rows(&crate::domain::name::RosterKey::Channel(channel(name))).into_iter().flatten();
        let shown = rows.filter_map(|(id, row)| Some((id.to_string(), crate::core::mirror::present(row)?)));
        shown.map(|(id, present)| (id, present.shown.state.get().to_owned())).collect()
    }
}
