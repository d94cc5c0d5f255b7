//! Several instances over one memory, people who come and go at random, and a nemesis, in time that is paused: thousands of seconds in a few, and the
//! same again from the same seed. Afterwards what every watcher was told is compared with what truly happened.
//!
//! `ROLLCALL_SEED=… cargo test --lib simulation` replays a run.

mod ghost;
mod line;
mod log;
mod nemesis;
mod person;
mod rooms;
mod tests;
#[path = "../../../tests/harness/truth.rs"]
mod truth;
mod watcher;
mod world;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::sleep;

use self::{
    ghost::Ghost,
    person::Person,
    watcher::{Seen, Watcher},
    world::{CHANNELS, LAG, PLACES, World},
};
pub(crate) use self::{
    line::{Line, Way},
    log::Log,
    nemesis::Fault,
    world::hello,
};
use crate::domain::{chance, level::Level, mode::Bounds};

/// Who is there: some with several devices.
const PEOPLE: [&str; 8] = ["ann", "ben", "ann", "cat", "dan", "ben", "eve", "ann"];

/// Who is invisible.
const GHOSTS: [&str; 2] = ["gus", "hal"];

/// What came of a run.
pub(crate) struct Outcome {
    pub faults: Vec<String>,
    pub log: Vec<String>,
    pub counts: BTreeMap<&'static str, usize>,
    pub seconds: u64,
}

/// Bounds that nobody here reaches, and such between which the channels go to and fro with everybody who comes.
const FAR: Bounds = Bounds { net_above: 50_000, occupancy_above: 5_000_000 };
const NEAR: Bounds = Bounds { net_above: 3, occupancy_above: 7 };

/// Runs one simulation to its end: `plan` draws the faults.
pub(crate) fn run(seed: u64, plan: impl FnOnce(&mut StdRng) -> Vec<Fault>) -> Outcome {
    run_within(seed, FAR, plan)
}

/// The same with other bounds of what is a large channel.
pub(crate) fn run_within(seed: u64, bounds: Bounds, plan: impl FnOnce(&mut StdRng) -> Vec<Fault>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    chance::seed(random.random());
    let plan = plan(&mut random);
    let outcome = runtime.block_on(simulate(random, bounds, plan));
    drop(runtime);
    outcome
}

/// Somebody comes into each of many rooms while somebody else begins to watch it; returns what was not shown in time.
pub(crate) fn watched_rooms(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    chance::seed(seed);
    runtime.block_on(async { rooms::faults(World::begin(StdRng::seed_from_u64(seed), FAR)).await })
}

/// Faults of every kind in an order of chance.
pub(crate) fn some(count: usize) -> impl FnOnce(&mut StdRng) -> Vec<Fault> {
    move |random| (0..count).map(|_| Fault::any(random)).collect()
}

async fn simulate(mut random: StdRng, bounds: Bounds, plan: Vec<Fault>) -> Outcome {
    let mut own = |salt: u64| StdRng::seed_from_u64(random.random::<u64>() ^ salt);
    let world = World::begin(own(0), bounds);
    let seen = Seen::default();
    let mut watching = Vec::new();
    for number in 0..PLACES {
        for level in [Level::Users, Level::Connections] {
            let passes = number == PLACES - 1;
            let watcher = Watcher::new(&world, &format!("watcher-{number}-{level:?}"), level, passes);
            watching.push(tokio::spawn(watcher.watch(seen.clone())));
        }
    }
    // The first epoch of all settles.
    sleep(Duration::from_secs(10)).await;
    let people: Vec<_> = PEOPLE.iter().map(|user| tokio::spawn(Person::new(&world, user, own(1)).live())).collect();
    let ghosts: Vec<_> = GHOSTS.iter().map(|user| tokio::spawn(Ghost::new(&world, user, own(3)).live())).collect();
    sleep(Duration::from_secs(20)).await;
    let mut chance = own(2);
    for fault in plan {
        fault.strike(&world, &mut chance).await;
    }
    world.calm();
    let mut stay = Vec::new();
    for person in people {
        stay.push(person.await.expect("nobody falls"));
    }
    let mut unseen = Vec::new();
    for ghost in ghosts {
        unseen.push(ghost.await.expect("nobody falls"));
    }
    // Whoever is to go has gone by then.
    sleep(Duration::from_secs(90)).await;
    for wrong in unseen.iter().filter_map(Ghost::wrong) {
        world.fault(wrong);
    }
    compare(&world, &stay, &seen, watching).await
}

/// Every view and the store against those who are there, and every history against the truth.
async fn compare(
    world: &Arc<World>,
    stay: &[Person],
    seen: &Seen,
    watching: Vec<tokio::task::JoinHandle<()>>,
) -> Outcome {
    let end = world.log.now();
    world.finish();
    for watcher in watching {
        watcher.await.expect("no watcher falls");
    }
    let truth = world.truth.lock().unwrap().clone();
    for name in CHANNELS {
        let mut shows: BTreeMap<String, Option<u64>> = BTreeMap::new();
        for (channel, id, state) in stay.iter().flat_map(Person::shows) {
            if channel == name {
                shows.insert(id, state);
            }
        }
        let living: Vec<_> = truth.living(name, false).into_iter().collect();
        if living != shows.keys().cloned().collect::<Vec<_>>() {
            world.fault(format!("the diary has {living:?} in {name}, and there are {shows:?}"));
        }
        let stored = world.stored(name);
        let right = |id: &String, state: &String| {
            shows.get(id).is_some_and(|shown| shown.is_none_or(|shown| *state == format!("{{\"n\":{shown}}}")))
        };
        if stored.len() != shows.len() || !stored.iter().all(|(id, state)| right(id, state)) {
            world.fault(format!("stored in {name} {stored:?}, and there are {shows:?}"));
        }
        for wrong in world.shown_wrong(name) {
            world.fault(format!("in {name} {wrong}"));
        }
        for (history, views) in seen.lock().unwrap().iter() {
            let view = views.get(name).cloned().unwrap_or_default();
            let is_right = if !view.has_list() {
                view.occupancy.connections == stored.len() as u64
            } else if history.by_user {
                view.shown.keys().cloned().collect::<Vec<_>>()
                    == truth.living(name, true).into_iter().collect::<Vec<_>>()
            } else {
                view.shown.len() == stored.len()
                    && view.shown.iter().all(|(id, (_, state))| stored.get(id) == Some(state))
            };
            if !is_right {
                world.fault(format!("{} sees in {name} {:?}, and stored are {stored:?}", history.name, view.shown));
            }
        }
    }
    for (history, _) in seen.lock().unwrap().iter() {
        for fault in truth.judge(history, LAG, end) {
            world.faults.lock().unwrap().push(format!("{}: {fault}", history.name));
        }
    }
    let mut faults = std::mem::take(&mut *world.faults.lock().unwrap());
    // Those of tasks that ended at the same moment.
    faults.sort();
    Outcome { faults, log: world.log.take(), counts: truth.counts().clone(), seconds: end / 1_000 }
}
