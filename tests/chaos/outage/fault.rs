//! What happens to Redis.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::super::{
    harness::{Proxy, Redis},
    stage::SECOND,
};

/// What happens to Redis, or to the way there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// SIGTERM, and started again later with what it has kept on disk.
    Stopped,
    Frozen,
    /// The end without notice, and started again at once with nothing.
    Emptied,
    /// The end without notice, and started again at once with a copy from some seconds before.
    Rewound,
    Flushed,
    /// All connections are closed, again and again.
    ConnectionsKilled,
    Cut,
    BlackHoled,
    /// Everything takes so much longer, each way.
    Slow(Duration),
    /// Cut and mended in turn, so long each.
    Flapping(Duration),
    /// The same for one of the two instances only.
    FlappingForOne(Duration),
}

impl Fault {
    /// Whether nothing gets through from beginning to end.
    pub fn is_absence(self) -> bool {
        matches!(self, Self::Stopped | Self::Frozen | Self::Cut | Self::BlackHoled)
    }

    /// Whether the numbers begin anew.
    pub fn is_new_epoch(self) -> bool {
        matches!(self, Self::Stopped | Self::Emptied | Self::Rewound | Self::Flushed)
    }

    /// Carries it out, and returns when it had begun and when everything was as before.
    pub async fn strike(self, away: Duration, redis: &mut Redis, links: &[Proxy]) -> (Instant, Instant) {
        sleep(SECOND).await;
        let mut began = Instant::now();
        let end = began + away;
        match self {
            Self::Stopped => {
                redis.stop().await;
                began = Instant::now();
                sleep_until(end).await;
                redis.start_again().await;
            }
            Self::Frozen => {
                redis.pause();
                began = Instant::now();
                sleep_until(end).await;
                redis.resume();
            }
            Self::Emptied | Self::Rewound => {
                redis.kill();
                redis.start_again().await;
            }
            Self::Flushed => {
                redis.command(&["FLUSHALL"]).await;
            }
            Self::ConnectionsKilled => {
                while Instant::now() < end {
                    for kind in ["normal", "pubsub"] {
                        redis.command(&["CLIENT", "KILL", "TYPE", kind]).await;
                    }
                    sleep(SECOND / 2).await;
                }
            }
            Self::Cut => {
                links.iter().for_each(Proxy::cut);
                sleep_until(end).await;
                links.iter().for_each(Proxy::restore);
            }
            Self::BlackHoled => {
                links.iter().for_each(Proxy::blackhole);
                sleep_until(end).await;
                links.iter().for_each(Proxy::restore);
            }
            Self::Slow(by) => {
                links.iter().for_each(|link| link.delay(by));
                sleep_until(end).await;
                links.iter().for_each(Proxy::restore);
            }
            Self::Flapping(each) | Self::FlappingForOne(each) => {
                let links = if let Self::Flapping(_) = self { links } else { &links[..1] };
                while Instant::now() < end {
                    links.iter().for_each(Proxy::cut);
                    sleep(each).await;
                    links.iter().for_each(Proxy::restore);
                    if Instant::now() < end {
                        sleep(each).await;
                    }
                }
            }
        }
        (began, Instant::now())
    }
}
