//! Watching the channels of a pattern: which are occupied, then who comes and goes in each. On two instances.

mod harness;

use harness::{Client, DEADLINE, Level, LinkedPair, Pair, eventually, token};
use serde_json::{Value, json};

async fn watch(client: &Client, pattern: &str) -> Value {
    let ok = client.op(json!({"op": "watch", "pattern": pattern})).await.unwrap();
    client.until("the list", |client| client.pattern(pattern).is_complete()).await;
    ok
}

fn occupancy(client: &Client, pattern: &str, channel: &str) -> Value {
    client.pattern(pattern).channels.get(channel).map(|(_, _, occupancy)| occupancy.clone()).unwrap_or_default()
}

fn joined(client: &Client, pattern: &str, channel: &str) -> Vec<String> {
    client.pattern(pattern).joined.remove(channel).unwrap_or_default().into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn occupied_channels_are_listed_and_then_who_comes_and_goes_in_each() {
    let pair = Pair::start(&[]).await;
    let (ann, ben) = (pair.one("ann").await, pair.two("ben").await);
    ann.join("room:1", json!({"name": "Ann"})).await.unwrap();
    ann.join("room:1:side", json!({})).await.unwrap();
    ann.join("hall:1", json!({})).await.unwrap();
    ben.join("room:2", json!({})).await.unwrap();
    let watcher = pair.two("watcher").await;
    assert_eq!(watch(&watcher, "room:*").await, json!({"pattern": "room:*", "level": "users"}));
    assert_eq!(watcher.channels("room:*"), ["room:1", "room:2"]);
    assert_eq!(occupancy(&watcher, "room:*", "room:1"), json!({"users": 1, "connections": 1}));
    let list = watcher.events("channels")[0].frame.clone();
    assert!(list["time"].as_u64().is_some() && list.get("cause").is_none(), "{list}");

    // In a listed channel changes go on from its version; the watcher is in none of them.
    ben.join("room:1", json!({"name": "Ben"})).await.unwrap();
    watcher.until("ben joined", |watcher| joined(watcher, "room:*", "room:1") == ["ben"]).await;
    let delta = watcher.events("delta").last().unwrap().frame.clone();
    assert_eq!((&delta["pattern"], &delta["channel"], &delta["from"]), (&json!("room:*"), &json!("room:1"), &json!(1)));
    assert_eq!((&delta["join"][0]["state"]["name"], &delta["occupancy"]["users"]), (&json!("Ben"), &json!(2)));
    ben.update("room:1", json!({"mood": "fine"})).await.unwrap();
    watcher
        .until("an update", |watcher| {
            watcher.events("delta").last().is_some_and(|delta| delta.frame["update"][0]["state"]["mood"] == "fine")
        })
        .await;

    // One that becomes occupied begins from nothing, and one that empties ends.
    let zoe = pair.one("zoe").await;
    zoe.join("room:3", json!({})).await.unwrap();
    zoe.join("room:3:side", json!({})).await.unwrap();
    watcher.until("room:3", |watcher| joined(watcher, "room:*", "room:3") == ["zoe"]).await;
    assert_eq!(watcher.events("delta").last().unwrap().frame["from"], 0);
    zoe.leave("room:3").await.unwrap();
    watcher.until("room:3 is empty", |watcher| watcher.channels("room:*") == ["room:1", "room:2"]).await;
    let last = watcher.events("delta").last().unwrap().frame.clone();
    assert_eq!((&last["leave"][0]["user"], &last["leave"][0]["reason"]), (&json!("zoe"), &json!("left")));
    zoe.join("room:3", json!({})).await.unwrap();
    watcher.until("room:3 again", |watcher| joined(watcher, "room:*", "room:3") == ["zoe"]).await;
    assert_eq!(watcher.events("delta").last().unwrap().frame["from"], 0);

    // Many watchers on an instance cost one watch of each channel, and all are told the same.
    let second = pair.two("second").await;
    watch(&second, "room:*").await;
    // It may begin with the list that the first has begun with, and then goes on from there.
    second.until("all three", |second| second.channels("room:*") == ["room:1", "room:2", "room:3"]).await;
    zoe.bye().await.unwrap();
    for watcher in [&watcher, &second] {
        watcher.until("zoe left", |watcher| watcher.channels("room:*") == ["room:1", "room:2"]).await;
    }
    let text = pair.two.rest().get("/metrics").await.text;
    assert!(text.contains("rollcall_patterns 1\n"), "{text}");
    assert!(watcher.events("channels").len() == 1 && second.events("channels").len() == 1);
    assert_eq!(pair.one.rest().users_in("room:1").await, ["ann", "ben"]);

    assert_eq!(watcher.op(json!({"op": "unwatch", "pattern": "room:*"})).await.unwrap(), json!({"pattern": "room:*"}));
    assert_eq!(watcher.op(json!({"op": "unwatch", "pattern": "room:*"})).await.unwrap_err().code, "conflict");
    second.bye().await.unwrap();
    eventually(DEADLINE, async || {
        pair.redis.followers("*:w").await == 0
            && pair.two.rest().get("/metrics").await.text.contains("rollcall_patterns 0\n")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_that_come_and_go_quickly_end_up_as_they_are() {
    let pair = Pair::start(&[]).await;
    let watcher = pair.two("watcher").await;
    watch(&watcher, "**").await;
    let people = [pair.one("ann").await, pair.two("ben").await];
    for round in 0..8 {
        for (n, person) in people.iter().enumerate() {
            let channel = format!("room:{}", (round + n) % 3);
            person.join(&channel, json!({"round": round})).await.unwrap();
            if (round + n) % 2 == 0 {
                person.leave(&channel).await.unwrap();
                person.join(&channel, json!({})).await.unwrap();
            }
            person.leave(&channel).await.unwrap();
        }
    }
    people[0].join("room:0", json!({})).await.unwrap();
    watcher.until("one is left", |watcher| watcher.channels("**") == ["room:0"]).await;
    people[1].join("room:0", json!({})).await.unwrap();
    watcher.until("both", |watcher| joined(watcher, "**", "room:0") == ["ann", "ben"]).await;
    assert_eq!(watcher.pattern("**").wholes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_lost_its_memory_empties_no_channel() {
    let pair = Pair::start(&[]).await;
    let (ann, ben) = (pair.one("ann").await, pair.two("ben").await);
    for (person, channel) in [(&ann, "room:1"), (&ben, "room:1"), (&ben, "room:2")] {
        person.join(channel, json!({})).await.unwrap();
    }
    let watcher = pair.two("watcher").await;
    watch(&watcher, "room:*").await;
    let before = watcher.events("delta").len();
    pair.redis.flush().await;
    ben.leave("room:2").await.unwrap();
    let zoe = pair.one("zoe").await;
    zoe.join("room:3", json!({})).await.unwrap();
    watcher.until("as it is", |watcher| watcher.channels("room:*") == ["room:1", "room:3"]).await;
    assert_eq!(occupancy(&watcher, "room:*", "room:1"), json!({"users": 2, "connections": 2}));
    let left: Vec<Value> =
        watcher.events("delta").split_off(before).iter().map(|told| told.frame["leave"].clone()).collect();
    let left: Vec<&str> = left.iter().filter_map(|leave| leave[0]["user"].as_str()).collect();
    assert_eq!(left, ["ben"]);
    let late = pair.one("late").await;
    watch(&late, "room:*").await;
    assert_eq!(late.channels("room:*"), ["room:1", "room:3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_was_occupied_while_the_feed_was_silent_is_found_by_comparing() {
    let pair = LinkedPair::start().await;
    let watcher = Client::hello_as(&pair.one.url(), "watcher").await;
    let ann = Client::hello_as(&pair.two.url(), "ann").await;
    ann.join("room:1", json!({})).await.unwrap();
    watch(&watcher, "room:*").await;
    pair.link.deafen_feeds();
    ann.leave("room:1").await.unwrap();
    ann.join("room:2", json!({})).await.unwrap();
    watcher.until("as it is", |watcher| watcher.channels("room:*") == ["room:2"]).await;
    pair.link.restore();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_bound_the_list_and_a_limit_bounds_what_a_pattern_may_mean() {
    let pair =
        Pair::start(&[("ROLLCALL__LIMITS__PATTERN_CHANNELS", "300"), ("ROLLCALL__LIMITS__WATCHED_PATTERNS", "2")])
            .await;
    let rest = pair.one.rest();
    for n in 0..300 {
        let path = format!("/v1/channels/room:{n:04}/members/ann");
        assert_eq!(rest.put(&path, json!({"state": {}, "ttl_ms": 600_000})).await.status, 204);
    }
    let watcher = pair.two("watcher").await;
    watch(&watcher, "room:*").await;
    assert_eq!(watcher.channels("room:*").len(), 300);
    let pages = watcher.events("channels");
    let most = pages.iter().map(|page| page.frame.to_string().len()).max().unwrap();
    assert!(pages.len() > 2 && most < 10_000, "{} pages of at most {most}", pages.len());

    let hall = format!("/v1/channels/{}/members/ann", "hall:1");
    assert_eq!(rest.put(&hall, json!({"state": {}, "ttl_ms": 600_000})).await.status, 204);
    let error = watcher.op(json!({"op": "watch", "pattern": "**"})).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.message.contains("300")), ("limit", true), "{}", error.message);
    watch(&watcher, "hall:*").await;
    let error = watcher.op(json!({"op": "watch", "pattern": "lobby"})).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.message.contains('2')), ("limit", true), "{}", error.message);
    watch(&watcher, "hall:*").await;

    // It grows beyond while it is watched.
    let path = "/v1/channels/room:more/members/ann";
    assert_eq!(rest.put(path, json!({"state": {}, "ttl_ms": 600_000})).await.status, 204);
    watcher.until("the end", |watcher| !watcher.events("unwatched").is_empty()).await;
    let end = watcher.events("unwatched")[0].frame.clone();
    assert_eq!((&end["pattern"], &end["reason"]), (&json!("room:*"), &json!("limit")));
    assert_eq!(watcher.op(json!({"op": "watch", "pattern": "room:*"})).await.unwrap_err().code, "limit");
    rest.delete(path).await;
    watch(&watcher, "room:*").await;
    assert_eq!(watcher.channels("room:*").len(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_may_be_watched_where_all_that_it_means_may() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rollcall.toml");
    let namespaces = r#"
        [[namespace]]
        match = "quiet:**"
        level = "occupancy"
        can = { join = ["**"], watch = ["quiet:**"] }
        [[namespace]]
        match = "open:secret:**"
        [[namespace]]
        match = "open:**"
        can = { join = ["**"], watch = ["open:**"] }
    "#;
    std::fs::write(&file, namespaces).unwrap();
    let pair = Pair::start_with(&["--config", file.to_str().unwrap()], &[]).await;
    let client = |can: Value| {
        let url = pair.two.url();
        async move {
            let client = Client::connect(&url).await;
            client.hello(&token("eve", json!({"can": can}))).await.unwrap();
            client
        }
    };
    let refused = async |client: &Client, pattern: &str| {
        let error = client.op(json!({"op": "watch", "pattern": pattern})).await.unwrap_err();
        assert_eq!((error.code.as_str(), error.message.contains(pattern)), ("forbidden", true), "{pattern}");
    };
    let narrow = client(json!({"watch": ["room:*", "org:1:**"]})).await;
    for pattern in ["**", "room:**", "*:1", "org:*", "room"] {
        refused(&narrow, pattern).await;
    }
    for pattern in ["room:*", "room:1", "org:1:a:*", "org:1:**"] {
        watch(&narrow, pattern).await;
    }
    // Without `can` each namespace that the pattern meets has its say.
    let by_namespace = client(Value::Null).await;
    for pattern in ["**", "room:*", "open:**", "open:secret:x", "open:*:*"] {
        refused(&by_namespace, pattern).await;
    }
    for pattern in ["open:*", "quiet:**"] {
        watch(&by_namespace, pattern).await;
    }
    // Where only counts are told, a pattern tells only counts.
    let ann = pair.one("ann").await;
    ann.join("quiet:1", json!({"name": "Ann"})).await.unwrap();
    by_namespace.until("somebody", |eve| eve.channels("quiet:**") == ["quiet:1"]).await;
    let delta = by_namespace.events("delta").last().unwrap().frame.clone();
    assert_eq!((delta.get("join"), &delta["occupancy"]["users"]), (None, &json!(1)), "{delta}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_of_connections_holds_for_patterns_too() {
    let pair = Pair::start(&[]).await;
    let watcher = pair.two("watcher").await;
    let ok = watcher.op(json!({"op": "watch", "pattern": "room:*", "level": "connections"})).await.unwrap();
    assert_eq!(ok, json!({"pattern": "room:*", "level": "connections"}));
    watcher.until("the list", |watcher| watcher.pattern("room:*").is_complete()).await;
    let ann = pair.one("ann").await;
    ann.join("room:1", json!({})).await.unwrap();
    watcher.until("ann", |watcher| watcher.channels("room:*") == ["room:1"]).await;
    let delta = watcher.events("delta").last().unwrap().frame.clone();
    assert_eq!(delta["join"][0]["connection"], json!(ann.connection()));
    // A channel that is watched by itself, too, is told twice, and each can be told from the other.
    watcher.watch("room:1", Level::Users).await.unwrap();
    watcher.until("the snapshot", |watcher| watcher.users("room:1") == ["ann"]).await;
    ann.leave("room:1").await.unwrap();
    watcher.until("both", |watcher| watcher.users("room:1").is_empty() && watcher.channels("room:*").is_empty()).await;
}
