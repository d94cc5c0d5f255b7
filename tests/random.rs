//! People who come, go, break and come back at random on two instances, and what watchers were told of it.
//!
//! `ROLLCALL_SEED` replays the choices of a run, `ROLLCALL_RANDOM_S` makes it longer or shorter than a minute.

#[path = "random/diary.rs"]
mod diary;
mod harness;
#[path = "random/wanderer.rs"]
mod wanderer;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use harness::{Client, Instance, Level, Redis, holds_within};
use rand::SeedableRng as _;
use serde_json::Value;

use diary::{Diary, assert_told_once};
use wanderer::Wanderer;

pub const CHANNELS: [&str; 3] = ["room:1", "room/2", "😀:{3}"];
pub const GRACE: Duration = Duration::from_millis(2_000);
/// Within this a watcher hears of what happened.
pub const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// Where all of it happens.
pub struct World {
    pub urls: [String; 2],
    pub diary: Mutex<Diary>,
    /// What one user does on several devices happens one after the other, so that it is known who came first and who left last.
    pub turns: BTreeMap<&'static str, tokio::sync::Mutex<()>>,
    /// One device of a user at a time waits for the end of its grace, so that two ends do not meet.
    pub endings: BTreeMap<&'static str, tokio::sync::Mutex<()>>,
    pub end: tokio::time::Instant,
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")))
}

#[tokio::test(flavor = "multi_thread")]
async fn at_random_every_view_ends_equal_to_rest_and_every_join_and_leave_is_told_once() {
    let seed = setting("ROLLCALL_SEED").unwrap_or_else(rand::random);
    let seconds = setting("ROLLCALL_RANDOM_S").unwrap_or(60);
    println!("ROLLCALL_SEED={seed}, for {seconds} s");

    let redis = Redis::start().await;
    let mut space = redis.space();
    space.extend([
        ("ROLLCALL__PRESENCE__GRACE_MS", GRACE.as_millis().to_string()),
        ("ROLLCALL__PRESENCE__SETTLE_MS", "600".to_owned()),
        ("ROLLCALL__PRESENCE__INSTANCE_RENEW_MS", "300".to_owned()),
        ("ROLLCALL__PRESENCE__INSTANCE_LEASE_MS", "5000".to_owned()),
    ]);
    let (one, two) = tokio::join!(Instance::start(&space), Instance::start(&space));
    let urls = [one.url(), two.url()];

    let mut watchers = Vec::new();
    for (place, url) in urls.iter().enumerate() {
        for level in [Level::Users, Level::Connections] {
            let watcher = Client::hello_as(url, &format!("watcher-{place}-{}", level.as_str())).await;
            for channel in CHANNELS {
                watcher.watch(channel, level).await.unwrap();
                watcher.until("the first snapshot", |watcher| watcher.view(channel).unwrap().is_complete()).await;
            }
            watchers.push(watcher);
        }
    }

    // Two on each instance; ann has a device on both, so that her devices are not the only ones that meet.
    let users = ["ann", "ben", "ann", "zoe"];
    let world = Arc::new(World {
        urls: urls.clone(),
        diary: Mutex::default(),
        turns: users.iter().map(|user| (*user, tokio::sync::Mutex::default())).collect(),
        endings: users.iter().map(|user| (*user, tokio::sync::Mutex::default())).collect(),
        end: tokio::time::Instant::now() + Duration::from_secs(seconds),
    });
    let mut wandering = Vec::new();
    for (number, user) in users.into_iter().enumerate() {
        let random = rand::rngs::StdRng::seed_from_u64(seed.wrapping_add(number as u64));
        let wanderer = Wanderer::start(world.clone(), user, number / 2, random).await;
        wandering.push(tokio::spawn(wanderer.wander()));
    }
    let mut clients = Vec::new();
    for wanderer in wandering {
        clients.push(wanderer.await.expect("a wanderer does not fall"));
    }

    for (place, instance) in [&one, &two].into_iter().enumerate() {
        for channel in CHANNELS {
            for client in clients.iter().chain(&watchers).filter(|client| client.view(channel).is_some()) {
                let equal = holds_within(Duration::from_secs(5), async || {
                    let rest = instance.rest().members(channel).await;
                    let view = client.view(channel).unwrap();
                    match view.level() {
                        Level::Users => by_user(rest) == *view.members(),
                        _ => rest.len() == view.users().len(),
                    }
                });
                let who = client.welcome()["user"].clone();
                let is_equal = equal.await.is_some();
                let rest = instance.rest().members(channel).await;
                assert!(is_equal, "{who} sees in {channel} {:#?}\nREST of {place} {rest:#?}", client.view(channel));
            }
        }
    }
    let diary = std::mem::take(&mut *world.diary.lock().unwrap());
    println!("{}", diary.summary());
    for watcher in &watchers {
        for channel in CHANNELS {
            assert_eq!(watcher.snapshots(channel), [1], "no fault happened");
            assert_told_once(&diary, watcher, channel);
        }
    }
    diary.assert_busy(seconds);
    for instance in [&one, &two] {
        let metrics = instance.rest().get("/metrics").await.text;
        let gaps = metrics.lines().find_map(|line| line.strip_prefix("rollcall_readings_total{reason=\"gap\"} "));
        let gaps = gaps.map_or(0, |count| count.parse().expect("a count"));
        // On a machine that stands still for a moment the feed may be late.
        assert!(gaps <= 2, "nothing was lost, and rosters were read again {gaps} times");
    }
    for instance in [&one, &two] {
        instance.assert_no_panic();
    }
}

fn by_user(members: Vec<Value>) -> BTreeMap<String, Value> {
    members.into_iter().map(|member| (member["user"].as_str().expect("a user").to_owned(), member)).collect()
}
