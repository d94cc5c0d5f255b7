//! One suite for every store, and what only Redis can suffer. The clock of Redis is set by tests: `--features test-hooks`.
#![cfg(feature = "test-hooks")]

mod harness;

#[path = "store/bars.rs"]
mod bars;
#[path = "store/indexes.rs"]
mod indexes;
#[path = "store/model.rs"]
mod model;
#[path = "store/mutants.rs"]
mod mutants;
#[path = "store/redis_only.rs"]
mod redis_only;
#[path = "store/suite.rs"]
mod suite;
#[path = "store/topologies.rs"]
mod topologies;
#[path = "store/world.rs"]
mod world;
