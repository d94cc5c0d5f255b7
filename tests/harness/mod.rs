//! What the black-box tests stand on: real processes on loopback, and a client that checks every frame it reads.
//!
//! Written against `docs/protocol.md` alone. Nothing in here knows how the service is made; a test that needs to know is no black box.
//!
//! ```text
//! let redis = Redis::start().await;
//! let space = redis.space();                                  // url and a fresh prefix, for every instance that shall share a view
//! let one = Instance::start(&space).await;
//! let ann = Client::hello_as(&one.url(), "ann").await;        // panics on drop if any frame broke the protocol
//! ann.join_watching("room:1", json!({})).await.unwrap();
//! ann.until("ben is here", |ann| ann.sees("room:1", "ben")).await;
//! ```
#![allow(dead_code, reason = "every test binary compiles the whole harness and uses its own part")]
#![allow(unused_imports, reason = "as above")]

mod backend;
mod child;
mod client;
mod clock;
mod cluster;
pub mod conversation;
mod crowd;
mod events;
mod instance;
mod nginx;
mod onlooker;
mod pair;
mod proxy;
mod redis;
mod report;
mod rest;
mod sentinel;
mod throttle;
pub mod token;
pub mod truth;
mod view;

pub use backend::Backend;
pub use child::Signal;
pub use client::{Client, Closed, OpError, PatternView, Received, Told};
pub use clock::HostClock;
pub use cluster::Cluster;
pub use crowd::{Crowd, Doors, Farewell, Person, Plan, Visit};
pub use events::{Event, Events};
pub use instance::Instance;
pub use nginx::Nginx;
pub use onlooker::{Names, Onlooker, Seen};
pub use pair::{LinkedPair, Pair, QUICK};
pub use proxy::Proxy;
pub use redis::{Launch, Redis, Space};
pub use report::Row;
pub use rest::{Answer, Rest, raw_http, segment};
pub use sentinel::Sentinels;
pub use throttle::Throttle;
pub use token::{API_KEY, HS256_SECRET, KeyPair, api_key_setting, everything, mint, token, unsigned};
pub use view::{Level, View, WatchRecord};

use std::time::Duration;

/// How long anything in a test may take that has no promise of its own: long, because it only costs time when the test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Polls `condition` until it holds. `None` when the deadline passed first.
pub async fn holds_within<F, C>(deadline: Duration, mut condition: C) -> Option<()>
where
    C: FnMut() -> F,
    F: Future<Output = bool>,
{
    let end = tokio::time::Instant::now() + deadline;
    loop {
        if condition().await {
            return Some(());
        }
        if tokio::time::Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Polls `condition` until it holds, and fails the test at the deadline.
#[track_caller]
pub fn eventually<F, C>(deadline: Duration, condition: C) -> impl Future<Output = ()>
where
    C: FnMut() -> F,
    F: Future<Output = bool>,
{
    let place = std::panic::Location::caller();
    async move {
        assert!(holds_within(deadline, condition).await.is_some(), "at {place}: did not come true within {deadline:?}");
    }
}

/// A port that was free a moment ago, below those that the system gives to whoever connects somewhere: so it stays free while nobody listens on it.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(10_000..32_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A short random text, for prefixes and names that must not meet those of another test.
pub fn fresh(what: &str) -> String {
    format!("{what}{:08x}", rand::random::<u32>())
}
