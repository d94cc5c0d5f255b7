//! What the nemesis breaks, and for how long.

use std::{sync::Arc, time::Duration};

use rand::{RngExt as _, rngs::StdRng};
use tokio::time::sleep;

use super::{
    harness::Signal,
    world::{PLACES, RECOVERY, World},
};

/// One thing that is broken, and for how long, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Plague {
    /// An instance is killed; another takes its place.
    Killed {
        place: usize,
        ms: u64,
    },
    /// An instance stands still, perhaps for longer than its lease.
    Stopped {
        place: usize,
        ms: u64,
    },
    /// The link of one instance is cut, or silent.
    Cut {
        place: usize,
        ms: u64,
    },
    Silent {
        place: usize,
        ms: u64,
    },
    /// Those of all.
    AllCut {
        ms: u64,
    },
    AllSilent {
        ms: u64,
    },
    /// Redis stands still.
    Frozen {
        ms: u64,
    },
    /// Redis loses its memory, at once or with its process.
    Flushed,
    Restarted {
        ms: u64,
    },
    /// Redis closes all feeds, or all connections.
    FeedsKilled,
    AllKilled,
}

impl Plague {
    /// Any of them but the last one again. The memory is lost only where nobody is gone with an instance: both at once the promises do not cover.
    pub fn any(chance: &mut StdRng, last: Option<Self>, may_forget: bool) -> Self {
        let place = chance.random_range(0..PLACES);
        // Of one instance alone, well within lease and grace.
        let ms = chance.random_range(200..3_000);
        loop {
            let plague = match chance.random_range(0..12) {
                0 | 1 => Self::Killed { place, ms },
                2 => Self::Stopped { place, ms },
                3 => Self::Cut { place, ms },
                4 => Self::Silent { place, ms: ms * 2 / 3 },
                5 => Self::AllCut { ms: ms * 3 },
                6 => Self::AllSilent { ms: ms * 2 },
                7 => Self::Frozen { ms: ms * 2 },
                8 => Self::Flushed,
                9 => Self::Restarted { ms },
                10 => Self::FeedsKilled,
                _ => Self::AllKilled,
            };
            let is_another = last.is_none_or(|last| std::mem::discriminant(&last) != std::mem::discriminant(&plague));
            let forgets = matches!(plague, Self::Flushed | Self::Restarted { .. });
            if is_another && (may_forget || !forgets) {
                return plague;
            }
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Killed { .. } => "an instance killed",
            Self::Stopped { .. } => "an instance stopped",
            Self::Cut { .. } => "one link cut",
            Self::Silent { .. } => "one link silent",
            Self::AllCut { .. } => "all links cut",
            Self::AllSilent { .. } => "all links silent",
            Self::Frozen { .. } => "Redis frozen",
            Self::Flushed => "Redis emptied",
            Self::Restarted { .. } => "Redis restarted empty",
            Self::FeedsKilled => "all feeds killed",
            Self::AllKilled => "all connections killed",
        }
    }

    pub async fn strike(self, world: &Arc<World>, chance: &mut StdRng) {
        let began = world.now();
        let last = |ms: u64| sleep(Duration::from_millis(ms));
        let alone = |place: usize, since| world.alone_since.lock().unwrap()[place] = since;
        let mut recovery = RECOVERY;
        let pause = chance.random_range(500..2_500);
        match self {
            Self::Killed { place, ms } => {
                alone(place, Some(began));
                world.kill(place).await;
                let killed = world.now();
                world.truth.lock().unwrap().noise(began, killed + 500);
                world.truth.lock().unwrap().excuse(began, killed + 10_000);
                last(ms).await;
                world.start(place).await;
                alone(place, None);
                world.died();
                last(RECOVERY + pause).await;
                return;
            }
            Self::Stopped { place, ms } => {
                alone(place, Some(began));
                let mut held = world.places[place].lock().await;
                let instance = held.instance.as_mut().expect("it was started again");
                instance.signal(Signal::Stop);
                last(ms).await;
                instance.signal(Signal::Cont);
                alone(place, None);
            }
            Self::Cut { place, ms } => {
                alone(place, Some(began));
                let held = world.places[place].lock().await;
                held.proxy.cut();
                last(ms).await;
                held.proxy.restore();
                alone(place, None);
            }
            Self::Silent { place, ms } => {
                alone(place, Some(began));
                let held = world.places[place].lock().await;
                held.proxy.blackhole();
                last(ms).await;
                held.proxy.restore();
                alone(place, None);
            }
            Self::AllCut { ms } => {
                for place in &world.places {
                    place.lock().await.proxy.cut();
                }
                last(ms).await;
                for place in &world.places {
                    place.lock().await.proxy.restore();
                }
            }
            Self::AllSilent { ms } => {
                for place in &world.places {
                    place.lock().await.proxy.blackhole();
                }
                last(ms).await;
                for place in &world.places {
                    place.lock().await.proxy.restore();
                }
            }
            Self::Frozen { ms } => {
                let mut redis = world.redis.lock().await;
                redis.pause();
                last(ms).await;
                redis.resume();
            }
            Self::Flushed => {
                world.redis.lock().await.command(&["FLUSHALL"]).await;
                world.forgets();
            }
            Self::Restarted { ms } => {
                let mut redis = world.redis.lock().await;
                redis.stop().await;
                world.forgets();
                last(ms).await;
                redis.start_again().await;
                // Who does not answer is waited for before the epoch settles.
                recovery += 2_500;
            }
            Self::FeedsKilled => drop(world.redis.lock().await.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await),
            Self::AllKilled => {
                let redis = world.redis.lock().await;
                redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
                redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
            }
        }
        world.truth.lock().unwrap().noise(began, world.now() + recovery);
        last(recovery + pause).await;
    }
}
