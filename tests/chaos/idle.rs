//! Connections that do nothing cost Redis nothing.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    harness::{Crowd, Level, Redis, Row},
    stage::{SECOND, Stage, people, rooms},
};

const SECTION: &str = "Nothing fails";
const MINUTE: Duration = Duration::from_secs(60);
/// How long a Redis settles that was never used, and a little.
const SETTLE: Duration = Duration::from_secs(8);
/// What an instance may ask of Redis while nothing happens, commands in a second.
const MOST: f64 = 20.0;

/// Redis's own count of calls by command since it was told to begin anew; those inside scripts too, the counting itself not.
async fn calls(redis: &Redis) -> BTreeMap<String, u64> {
    let redis::Value::BulkString(info) = redis.command(&["INFO", "commandstats"]).await else {
        panic!("INFO is a text")
    };
    let info = String::from_utf8_lossy(&info).into_owned();
    let counts = info.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    });
    // This connection's own.
    counts.filter(|(name, _)| !["info", "config|resetstat", "client|setinfo"].contains(&name.as_str())).collect()
}

/// So many connections on one instance, each in a channel of which it watches the counts; then a minute in which nothing happens. Returns what Redis
/// counted.
async fn idle(count: usize, audit: Option<Duration>) -> BTreeMap<String, u64> {
    let (channels, started) = (rooms(100), Instant::now());
    let audit_ms = audit.unwrap_or(5 * MINUTE).as_millis();
    let stage = Stage::set_with(1, &[("ROLLCALL__PRESENCE__AUDIT_MS", audit_ms.to_string())]).await;
    let plans = people(count, &channels, 1).into_iter().map(|mut plan| {
        plan.watches[0].1 = Level::Occupancy;
        plan
    });
    let crowd = Crowd::gather(&stage.doors, plans).await;
    let redis = &stage.redis;
    // What the joins set in motion comes to rest. The first audit follows on the settling of a new Redis, and is over before they have come.
    sleep(5 * SECOND).await;
    if let Some(audit) = audit {
        sleep_until(started + SETTLE + audit + 5 * SECOND).await;
    }
    redis.command(&["CONFIG", "RESETSTAT"]).await;
    sleep(MINUTE).await;
    let counted = calls(redis).await;
    assert!(crowd.is_there() && crowd.visits().is_empty(), "all sockets have stayed");
    let stats = stage.instances[0].rest().get("/v1/stats").await.ok();
    assert_eq!(stats["connections"], count, "all of them are joined");
    stage.assert_no_panic();
    counted
}

fn a_second(counts: &BTreeMap<String, u64>) -> f64 {
    counts.values().sum::<u64>() as f64 / MINUTE.as_secs_f64()
}

/// A minute of 5,000 connections and one of 500, side by side. Returns the commands in a second of each.
async fn both(audit: Option<Duration>, row: &mut Row) -> (f64, f64) {
    let (many, few) = tokio::join!(idle(5_000, audit), idle(500, audit));
    println!("5,000: {many:?}\n500: {few:?}");
    let (many, few) = (a_second(&many), a_second(&few));
    row.measured("commands a second, those inside scripts included, 5,000 connections", format!("{many:.1}"));
    row.measured("the same, 500 connections", format!("{few:.1}"));
    assert!(many <= MOST && few <= MOST, "{many} and {few} commands a second");
    (many, few)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn five_thousand_idle_connections_cost_redis_as_much_as_five_hundred() {
    let mut row = Row::begin(SECTION, "a minute of 5,000 idle connections on one instance, and of 500");
    let (many, few) = both(None, &mut row).await;
    assert!((many - few).abs() <= 2.0, "{many} and {few} commands a second");
    row.saw("Both cost the same, and at most 20 commands a second.");
    row.finish();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn an_audit_of_many_asks_no_more_in_a_second_than_one_of_few() {
    let mut row = Row::begin(SECTION, "the same, while the audit walks through everything");
    // Then the next pass begins; of either it takes longer than this minute.
    let (many, few) = both(Some(MINUTE), &mut row).await;
    assert!(few >= 10.0, "it was under way: {many} and {few}");
    assert!((many - few).abs() <= 2.0, "{many} and {few} commands a second");
    row.saw("Both cost the same, and at most 20 commands a second: of many an audit takes longer.");
    row.finish();
}
