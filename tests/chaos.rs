//! Everything that can break is broken, over real processes with the times of the defaults, and what happened is written down.
//!
//! What runs within seconds is part of `make test`. The rest is marked `ignore` and runs with `make chaos`, which also writes `docs/failures.md`.

mod harness;

#[path = "chaos/audit.rs"]
mod audit;
#[cfg(target_os = "linux")]
#[path = "chaos/clocks.rs"]
mod clocks;
#[path = "chaos/cluster.rs"]
mod cluster;
#[path = "chaos/crash.rs"]
mod crash;
#[path = "chaos/failover.rs"]
mod failover;
#[path = "chaos/feed.rs"]
mod feed;
#[path = "chaos/idle.rs"]
mod idle;
#[path = "chaos/load.rs"]
mod load;
#[path = "chaos/lookout.rs"]
mod lookout;
#[path = "chaos/outage.rs"]
mod outage;
#[path = "chaos/rolling.rs"]
mod rolling;
#[path = "chaos/slow.rs"]
mod slow;
#[path = "chaos/stage.rs"]
mod stage;
