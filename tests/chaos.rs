//! Everything that can break is broken, over real processes with the times of the defaults, and what happened is written down.
//!
//! What runs within seconds is part of `make test`. The rest is marked `ignore` and runs with `make chaos`, which also writes `docs/failures.md`.

mod harness;

#[cfg(target_os = "linux")]
#[path = "chaos/clocks.rs"]
mod clocks;
#[path = "chaos/slow.rs"]
mod slow;
