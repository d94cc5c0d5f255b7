//! What breaks, and when: drawn from the seed before anything happens.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::{RngExt as _, rngs::StdRng};
use tokio::time::sleep;

use super::{
    line::Way,
    world::{PLACES, World},
};
use crate::{
    core::rigged::TERMS,
    domain::{
        name::{ConnectionId, RosterKey},
        partition::Partition,
    },
};

/// After a fault, how long it may take until all is as if it had not been, milliseconds.
const RECOVERY: u64 = 10_000;
/// While an epoch settles, who does not answer is waited for, milliseconds.
const PROOF: u64 = 5_000;
/// The period of the audit, with all that it may wait for, milliseconds.
const AUDIT: u64 = 330_000;

/// One thing that is broken, and for how long, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// Time passes, and nothing is broken.
    Nothing {
        ms: u64,
    },
    /// An instance dies, perhaps after its line was silent for a while; another takes its place later.
    Kill {
        place: usize,
        silent_ms: u64,
        ms: u64,
    },
    /// One line is wrong, or the lines of all.
    Line {
        place: Option<usize>,
        way: Way,
        ms: u64,
    },
    /// Calls fail now and then, before or after they are carried out.
    Flaky {
        per_mille: u64,
        ms: u64,
    },
    /// A feed hears nothing, or has lost its connection.
    Deaf {
        place: usize,
        ms: u64,
    },
    Unfed {
        place: usize,
        ms: u64,
    },
    /// The memory is empty all at once, or after it was away.
    Emptied {
        ms: u64,
    },
    /// The memory is what it was so long ago.
    Rewound {
        ms: u64,
    },
    /// The host clock jumps.
    Jump {
        ms: i64,
    },
    /// The indexes forget all rows, and perhaps an instance dies at that moment.
    Damage {
        kills: Option<usize>,
    },
    /// For more than an hour nobody is anywhere.
    Hour,
}

impl Fault {
    /// Any of them. None of those that the promises do not cover: see `docs/operations.md`.
    pub fn any(chance: &mut StdRng) -> Self {
        let place = chance.random_range(0..PLACES);
        // Well within lease and grace: an instance that alone is away for longer loses its people.
        let ms = chance.random_range(500..14_000);
        match chance.random_range(0..14) {
            0 | 1 => Self::Kill { place, silent_ms: chance.random_range(0..2_500), ms },
            2 => Self::Line { place: Some(place), way: Way::Frozen, ms },
            3 => Self::Line { place: Some(place), way: Way::Cut, ms },
            4 => Self::Line { place: Some(place), way: Way::Silent, ms },
            5 => Self::Line { place: None, way: Way::Cut, ms: ms * 5 },
            6 => Self::Line { place: None, way: Way::Silent, ms: ms * 3 },
            7 => Self::Flaky { per_mille: chance.random_range(10..200), ms: ms * 2 },
            8 => Self::Deaf { place, ms: ms / 2 },
            9 => Self::Unfed { place, ms },
            10 => Self::Emptied { ms: if chance.random_bool(0.5) { 0 } else { ms } },
            11 => Self::Rewound { ms },
            12 => Self::Jump { ms: chance.random_range(-3_600_000..3_600_000) },
            _ => Self::Damage { kills: chance.random_bool(0.5).then_some(place) },
        }
    }

    /// How long the nemesis waits before the next fault, milliseconds: so long that no two meet which the promises do not cover together.
    fn pause(self) -> u64 {
        match self {
            // Who was on an instance that died is gone for good, or taken over by others: until then the memory may not be lost.
            Self::Kill { .. } => 45_000,
            Self::Emptied { .. } | Self::Rewound { .. } => 60_000,
            Self::Damage { .. } => AUDIT,
            Self::Nothing { .. } => 0,
            _ => 20_000,
        }
    }

    pub async fn strike(self, world: &Arc<World>, chance: &mut StdRng) {
        let began = world.log.now();
        world.log.write(format!("nemesis: {self:?}"));
        let instances = world.instances();
        let last = |ms: u64| sleep(Duration::from_millis(ms));
        let mut recovery = RECOVERY;
        match self {
            Self::Nothing { ms } => {
                last(ms).await;
                return;
            }
            Self::Kill { place, silent_ms, ms } => {
                *instances[place].alone_since.lock().unwrap() = Some(began);
                instances[place].line.turn(Way::Silent);
                last(silent_ms).await;
                instances[place].kill();
                let killed = world.log.now();
                world.truth.lock().unwrap().noise(began, killed + 500);
                world.truth.lock().unwrap().excuse(began, killed + 30_000);
                last(ms).await;
                world.replace(place);
                last(self.pause() + chance.random_range(0..20_000)).await;
                return;
            }
            Self::Line { place, way, ms } => {
                let broken = instances.iter().enumerate().filter(|(at, _)| place.is_none_or(|place| place == *at));
                let broken: Vec<_> = broken.map(|(_, instance)| instance).collect();
                let alone = |since| broken.iter().for_each(|instance| *instance.alone_since.lock().unwrap() = since);
                alone(place.map(|_| began));
                broken.iter().for_each(|instance| instance.line.turn(way));
                last(ms).await;
                broken.iter().for_each(|instance| instance.line.turn(Way::Open));
                alone(None);
            }
            Self::Flaky { per_mille, ms } => {
                let set =
                    |value| instances.iter().for_each(|instance| instance.line.flaky.store(value, Ordering::Relaxed));
                set(per_mille);
                last(ms).await;
                set(0);
                // What was sent late comes late.
                recovery += 30_000;
            }
            Self::Deaf { place, ms } => {
                let line = &instances[place].line;
                line.deaf.store(true, Ordering::Relaxed);
                last(ms).await;
                // A feed asks itself whether it hears.
                line.unfed.store(true, Ordering::Relaxed);
                line.stir();
                line.deaf.store(false, Ordering::Relaxed);
                last(100).await;
                line.unfed.store(false, Ordering::Relaxed);
                line.stir();
            }
            Self::Unfed { place, ms } => {
                instances[place].line.unfed.store(true, Ordering::Relaxed);
                instances[place].line.stir();
                last(ms).await;
                instances[place].line.unfed.store(false, Ordering::Relaxed);
                instances[place].line.stir();
            }
            Self::Emptied { ms } => {
                Self::restart(world, Partition::new(TERMS), ms).await;
                recovery += PROOF;
            }
            Self::Rewound { ms } => {
                let copy = world.memory.copy();
                last(ms).await;
                Self::restart(world, copy, chance.random_range(0..3_000)).await;
                // Whoever was there in the copy and is not any more goes the way of a lost instance.
                recovery += 30_000;
            }
            Self::Jump { ms } => world.jump(ms),
            Self::Damage { kills } => {
                recovery = AUDIT;
                Self::damage(world);
                if let Some(place) = kills {
                    instances[place].kill();
                    last(2_000).await;
                    world.replace(place);
                }
            }
            Self::Hour => {
                world.holiday(true);
                last(4_000_000).await;
                world.holiday(false);
            }
        }
        world.truth.lock().unwrap().noise(began, world.log.now() + recovery);
        last(self.pause() + chance.random_range(0..20_000)).await;
    }

    /// The memory's process ends, and another begins with what it is given.
    async fn restart(world: &World, partition: Partition, away_ms: u64) {
        let instances = world.instances();
        let lines: Vec<_> =
            instances.iter().filter(|instance| !instance.is_dead()).map(|one| one.line.clone()).collect();
        lines.iter().for_each(|line| line.turn(Way::Cut));
        sleep(Duration::from_millis(away_ms.max(1))).await;
        world.forget(partition);
        lines.iter().for_each(|line| line.turn(Way::Open));
    }

    fn damage(world: &World) {
        let copy = world.memory.copy();
        let all: Vec<(RosterKey, ConnectionId)> = copy
            .rosters()
            .flat_map(|roster| copy.rows(roster).into_iter().flatten().map(|(id, _)| (roster.clone(), id.clone())))
            .collect();
        world.memory.carry_out(|partition, _| all.iter().for_each(|(roster, id)| partition.forget_index(roster, id)));
    }
}
