//! What those who run the service rely on: the manual lists the metrics that there are, the alerts ask for no others, and what happens is counted.

mod harness;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use harness::{Client, DEADLINE, Instance, Level, Redis, eventually, token};
use rollcall::metrics::Metrics;
use serde_json::json;

const MANUAL: &str = include_str!("../docs/operations.md");
const ALERTS: &str = include_str!("../deploy/alerts.yml");

/// The metrics of the manual's table: the kind and the labels by name.
fn listed() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = MANUAL.lines().filter_map(|line| line.strip_prefix("| `rollcall_"));
    let rows = rows.map(|row| {
        let mut columns = row.split(" | ");
        let name = columns.next().unwrap().trim_end_matches('`');
        let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).map(str::to_owned);
        (format!("rollcall_{name}"), (columns.next().unwrap().to_owned(), labels.collect()))
    });
    rows.collect()
}

#[test]
fn the_manual_lists_every_metric_with_its_kind_and_no_other() {
    let metrics = Metrics::new();
    let there: BTreeMap<_, _> =
        metrics.described().iter().map(|metric| (metric.name.clone(), metric.kind.to_owned())).collect();
    let listed: BTreeMap<_, _> = listed().into_iter().map(|(name, (kind, _))| (name, kind)).collect();
    assert_eq!(listed, there);
    assert!(there.len() > 20, "{there:?}");
}

#[test]
fn alerts_ask_for_metrics_that_there_are_and_the_manual_says_what_to_do_about_each() {
    let metrics = Metrics::new();
    let mut there = BTreeSet::new();
    for metric in metrics.described() {
        match metric.kind {
            "histogram" => there.extend(["_bucket", "_sum", "_count"].map(|part| format!("{}{part}", metric.name))),
            _ => drop(there.insert(metric.name.clone())),
        }
    }
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let asked: BTreeSet<&str> = ALERTS.split(|c| !is_of_name(c)).filter(|word| word.starts_with("rollcall_")).collect();
    assert!(asked.len() > 8, "{asked:?}");
    for metric in asked {
        assert!(there.contains(metric), "{metric} is no metric");
    }
    let names = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned);
    let alerts: BTreeSet<String> = names.collect();
    let rows = MANUAL.lines().filter_map(|line| line.strip_prefix("| `Rollcall")?.split('`').next());
    let explained: BTreeSet<String> = rows.map(|name| format!("Rollcall{name}")).collect();
    assert_eq!(alerts, explained);
}

/// What an instance exports: values by name and labels, as they stand there.
async fn scrape(at: &Instance) -> BTreeMap<String, f64> {
    let text = at.rest().get("/metrics").await.text;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (sample, value) = line.rsplit_once(' ').expect("a sample has a value");
            (sample.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

/// The sum over instances.
async fn sum(instances: &[&Instance], sample: &str) -> f64 {
    let mut sum = 0.0;
    for instance in instances {
        sum += scrape(instance).await.get(sample).unwrap_or_else(|| panic!("{sample} is not exported"));
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_counted_once_over_all_instances() {
    let redis = Redis::start().await;
    let mut space = redis.space();
    space.extend([
        ("ROLLCALL__PRESENCE__SETTLE_MS", "600".to_owned()),
        ("ROLLCALL__PRESENCE__INSTANCE_RENEW_MS", "300".to_owned()),
        ("ROLLCALL__PRESENCE__INSTANCE_LEASE_MS", "2000".to_owned()),
        ("ROLLCALL__PRESENCE__GRACE_MS", "3000".to_owned()),
    ]);
    let (mut one, two) = tokio::join!(Instance::start(&space), Instance::start(&space));
    let labels = listed();
    for sample in scrape(&one).await.keys() {
        let (name, carried) = sample.split_once('{').unwrap_or((sample, "}"));
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        let carried = carried.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        let carried: BTreeSet<_> = carried.map(|(label, _)| label.to_owned()).filter(|label| label != "le").collect();
        assert_eq!(labels.get(name).map(|(_, labels)| labels), Some(&carried), "{sample}");
    }

    let mut watchers = Vec::new();
    for instance in [&one, &two] {
        let watcher = Client::hello_as(&instance.url(), "watcher").await;
        watcher.watch("room:1", Level::Users).await.unwrap();
        watcher.until("an empty room", |watcher| watcher.snapshots("room:1") == [1]).await;
        watchers.push(watcher);
    }
    let mut people = BTreeMap::new();
    for name in ["ann", "ben", "dora", "eve"] {
        let client = Client::hello_as(&one.url(), name).await;
        client.join("room:1", json!({})).await.unwrap();
        people.insert(name, client);
    }
    let phone = Client::hello_as(&two.url(), "ann").await;
    phone.join("room:1", json!({"on": "phone"})).await.unwrap();
    let both = [&one, &two];
    assert_eq!(sum(&both, "rollcall_joins_total").await, 4.0, "a second device is no join");
    assert_eq!(sum(&both, "rollcall_members").await, 5.0);
    assert_eq!(sum(&both, "rollcall_connections").await, 7.0, "two only watch");

    people["ben"].bye().await.unwrap();
    people["eve"].drop_socket().await;
    people["dora"].drop_socket().await;
    let dora = people.remove("dora").unwrap();
    let dora = dora.resume_on(&two.url(), &token("dora", json!({}))).await;
    assert_eq!(dora.welcome()["resumed"], true);
    watchers[1].until("two have left", |watcher| watcher.users("room:1") == ["ann", "dora"]).await;
    // Whoever decided it has its answer a moment after those who watch have heard of it.
    for (sample, count) in [
        (r#"rollcall_leaves_total{reason="left"}"#, 1.0),
        (r#"rollcall_leaves_total{reason="timeout"}"#, 1.0),
        (r#"rollcall_leaves_total{reason="instance_lost"}"#, 0.0),
        ("rollcall_joins_total", 4.0),
        ("rollcall_resumes_total", 1.0),
        ("rollcall_graces_saved_total", 1.0),
        ("rollcall_members", 3.0),
        (r#"rollcall_unacknowledged{partition="0"}"#, 0.0),
    ] {
        eventually(DEADLINE, async || sum(&both, sample).await == count).await;
    }
    let here = scrape(&one).await;
    // Of joins that come within a tick one tells, and a leave was timed too.
    let timed = here["rollcall_write_to_socket_seconds_count"];
    assert!((1.0..=5.0).contains(&timed), "{here:#?}");
    assert!(here["rollcall_batch_seconds_count"] >= 4.0 && here["rollcall_sweeps_total"] >= 1.0, "{here:#?}");
    assert!(here[r#"rollcall_lease_age_seconds{partition="0"}"#] < 2.0, "{here:#?}");
    // The feed asks itself every few seconds.
    eventually(DEADLINE, async || sum(&[&one], "rollcall_feed_lag_seconds").await > 0.0).await;
    assert!(sum(&[&one], "rollcall_feed_lag_seconds").await < 2.0);

    people.clear();
    let lost = Client::hello_as(&one.url(), "lost").await;
    lost.join("room:1", json!({})).await.unwrap();
    watchers[1].until("one more", |watcher| watcher.sees("room:1", "lost")).await;
    one.kill();
    watchers[1].until("who was lost has left", |watcher| !watcher.sees("room:1", "lost")).await;
    eventually(DEADLINE, async || sum(&[&two], r#"rollcall_leaves_total{reason="instance_lost"}"#).await == 1.0).await;
    drop(phone);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_the_lease_ages_the_feed_lags_and_what_waits_is_counted() {
    let mut redis = Redis::start().await;
    let mut space = redis.space();
    space.push(("ROLLCALL__PRESENCE__SETTLE_MS", "6000".to_owned()));
    let one = Instance::start(&space).await;
    let ann = Client::hello_as(&one.url(), "ann").await;
    redis.stop().await;
    eventually(DEADLINE, async || sum(&[&one], r#"rollcall_store_up{partition="0"}"#).await == 0.0).await;
    let refused = ann.join("room:1", json!({})).await.unwrap_err();
    assert_eq!(refused.code, "unavailable");
    let away = scrape(&one).await;
    assert!(away[r#"rollcall_lease_age_seconds{partition="0"}"#] > 4.0, "{away:#?}");
    assert!(away["rollcall_feed_lag_seconds"] > 4.0, "{away:#?}");
    assert!(away[r#"rollcall_unacknowledged{partition="0"}"#] > 0.0 && away["rollcall_renewals_failed_total"] > 0.0);
    assert_eq!(away[r#"rollcall_operations_total{reason="unavailable"}"#], 1.0);
    redis.start_again().await;
    eventually(DEADLINE, async || {
        let now = scrape(&one).await;
        now[r#"rollcall_unacknowledged{partition="0"}"#] == 0.0
            && now[r#"rollcall_lease_age_seconds{partition="0"}"#] < 4.0
            && now["rollcall_feed_lag_seconds"] < 1.0
            && now[r#"rollcall_settling{partition="0"}"#] == 0.0
    })
    .await;
    let again = Duration::from_secs(1);
    assert!(ann.within(again, |ann| ann.closed().is_none()).await);
    ann.join("room:1", json!({})).await.unwrap();
}
