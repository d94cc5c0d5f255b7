//! The native door over real processes and a real Redis: what a client is promised.

mod harness;

use std::time::Duration;

use harness::{Client, DEADLINE, Instance, Level, Pair, eventually, token};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

/// Two instances that share one Redis.
fn user_of(change: &harness::Received) -> String {
    change.frame["user"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_is_acknowledged_then_shown_in_a_snapshot_and_told_to_others() {
    let pair = Pair::start(&[]).await;
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    let ok = ann.join_watching("room:1", json!({"name": "Ann"})).await.unwrap();
    assert_eq!((ok["channel"].as_str(), ok["version"].as_u64()), (Some("room:1"), Some(1)));
    ann.until("ann sees herself", |ann| ann.users("room:1") == ["ann"]).await;

    let ben = Client::hello_as(&pair.two.url(), "ben").await;
    ben.watch("room:1", Level::Users).await.unwrap();
    ben.until("ben sees ann and is not there", |ben| ben.users("room:1") == ["ann"]).await;
    ben.join("room:1", json!({})).await.unwrap();
    ann.until("ann sees ben", |ann| ann.users("room:1") == ["ann", "ben"]).await;

    ann.update("room:1", json!({"mood": "busy", "name": null})).await.unwrap();
    ben.until("ben sees the merged state", |ben| {
        ben.view("room:1").unwrap().members()["ann"]["state"] == json!({"mood": "busy"})
    })
    .await;
    let before = ben.view("room:1").unwrap().version().1;
    ann.update("room:1", json!({"mood": "busy"})).await.unwrap();
    ann.leave("room:1").await.unwrap();
    ben.until("ben sees that ann left", |ben| ben.users("room:1") == ["ben"]).await;
    assert_eq!(ben.view("room:1").unwrap().version().1, before + 1, "an update that changes nothing is no change");
    let leaves = ben.changes("room:1", "leave");
    assert_eq!((leaves.len(), leaves[0].frame["reason"].as_str()), (1, Some("left")));
    assert_eq!((ann.snapshots("room:1"), ben.snapshots("room:1")), (vec![1], vec![1]));
    assert_eq!(pair.two.rest().users_in("room:1").await, ["ben"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_on_many_devices_joins_with_the_first_and_leaves_with_the_last() {
    let pair = Pair::start(&[]).await;
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("room:1", Level::Users).await.unwrap();
    let close = Client::hello_as(&pair.two.url(), "close").await;
    close.watch("room:1", Level::Connections).await.unwrap();
    let counter = Client::hello_as(&pair.one.url(), "counter").await;
    counter.watch("room:1", Level::Occupancy).await.unwrap();

    let phone = Client::hello_as(&pair.one.url(), "ann").await;
    phone.join("room:1", json!({"on": "phone"})).await.unwrap();
    watcher.until("the join", |watcher| watcher.users("room:1") == ["ann"]).await;
    let laptop = Client::hello_as(&pair.two.url(), "ann").await;
    laptop.join("room:1", json!({"on": "laptop"})).await.unwrap();
    watcher
        .until("two devices, the latest state", |watcher| {
            let ann = watcher.member("room:1", "ann");
            ann["connections"] == 2 && ann["state"]["on"] == "laptop"
        })
        .await;
    laptop.bye().await.unwrap();
    watcher
        .until("one device, its state", |watcher| {
            let ann = watcher.member("room:1", "ann");
            ann["connections"] == 1 && ann["state"]["on"] == "phone"
        })
        .await;
    phone.bye().await.unwrap();
    watcher.until("nobody", |watcher| watcher.users("room:1").is_empty()).await;
    counter
        .until("counts nobody", |counter| {
            counter.view("room:1").unwrap().occupancy() == &json!({"users": 0, "connections": 0})
        })
        .await;
    close.until("no connection", |close| close.view("room:1").unwrap().members().is_empty()).await;
    let counts = |list| watcher.changes("room:1", list).len();
    assert_eq!((counts("join"), counts("leave")), (1, 1));
    assert_eq!((close.changes("room:1", "join").len(), close.changes("room:1", "leave").len()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_on_another_instance_is_no_event_and_keeps_channels_and_state() {
    let pair = Pair::start(&[]).await;
    let watcher = Client::hello_as(&pair.one.url(), "watcher").await;
    watcher.watch("room:1", Level::Connections).await.unwrap();
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    ann.join_watching("room:1", json!({"n": 1})).await.unwrap();
    ann.join("room:2", json!({"n": 2})).await.unwrap();
    watcher.until("ann is there", |watcher| watcher.view("room:1").unwrap().members().len() == 1).await;
    ann.until("ann has her snapshot", |ann| ann.users("room:1") == ["ann"]).await;
    let version = watcher.view("room:1").unwrap().version().1;
    let mut connection = Value::Null;
    let mut ann = ann;
    for round in 0..4 {
        let url = if round % 2 == 0 { pair.two.url() } else { pair.one.url() };
        ann = ann.resume_on(&url, &token("ann", json!({}))).await;
        let welcome = ann.welcome();
        assert_eq!(welcome["resumed"], true, "{welcome}");
        assert_eq!(welcome["channels"], json!(["room:1", "room:2"]));
        if round > 0 {
            assert_eq!(welcome["connection"], connection);
        }
        connection = welcome["connection"].clone();
    }
    ann.update("room:1", json!({"more": true})).await.unwrap();
    watcher
        .until("the state goes on where it was", |watcher| {
            watcher.view("room:1").unwrap().members().values().any(|ann| ann["state"] == json!({"n": 1, "more": true}))
        })
        .await;
    assert_eq!(watcher.view("room:1").unwrap().version().1, version + 1, "resuming changes no version");
    assert!(watcher.changes("room:1", "leave").is_empty());
    assert_eq!(ann.snapshots("room:1").iter().sum::<usize>(), 1, "with `since` nothing is sent again");
    assert_eq!(pair.one.rest().users_in("room:2").await, ["ann"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_come_back_leaves_once_after_the_grace() {
    let pair = Pair::start(&[("ROLLCALL__PRESENCE__GRACE_MS", "1500")]).await;
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("room:1", Level::Users).await.unwrap();
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    ann.join("room:1", json!({"last": "words"})).await.unwrap();
    watcher.until("ann is there", |watcher| watcher.users("room:1") == ["ann"]).await;
    let broke = tokio::time::Instant::now();
    ann.drop_socket().await;
    watcher.until("ann left", |watcher| watcher.users("room:1").is_empty()).await;
    assert!(broke.elapsed() >= Duration::from_millis(1_400), "not before the grace: {:?}", broke.elapsed());
    let leaves = watcher.changes("room:1", "leave");
    assert_eq!(leaves.len(), 1);
    assert_eq!(
        (leaves[0].frame["reason"].as_str(), &leaves[0].frame["state"]),
        (Some("timeout"), &json!({"last": "words"}))
    );
    // The user's own roster may be in another partition, which is swept a moment later.
    let rest = pair.two.rest();
    eventually(DEADLINE, async || rest.get("/v1/users/ann").await.ok()["status"] == "offline").await;
    let info = rest.get("/v1/users/ann").await.ok();
    assert!(info["last_seen"].as_u64().unwrap() > 1_600_000_000_000, "{info}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sockets_with_one_resume_token_the_later_has_the_connection() {
    let pair = Pair::start(&[]).await;
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    ann.join("room:1", json!({})).await.unwrap();
    let resume = ann.welcome()["resume"].as_str().unwrap().to_owned();
    for url in [pair.two.url(), pair.one.url()] {
        // Nobody has said anything since the welcome, so the first token is still good: its welcome might have been lost.
        let copy = Client::connect(&url).await;
        let welcome = copy.hello_resume(&token("ann", json!({})), &resume).await.unwrap();
        assert_eq!(welcome["resumed"], true);
        if url == pair.two.url() {
            assert_eq!(ann.until_closed(10 * SECOND).await.code, 4502);
        }
        if url == pair.one.url() {
            copy.update("room:1", json!({"back": true})).await.unwrap();
            // The client has answered, and the store has acknowledged something after that: only the newest token counts now.
            let late = Client::connect(&pair.two.url()).await;
            assert_eq!(late.hello_resume(&token("ann", json!({})), &resume).await.unwrap()["resumed"], false);
            assert!(copy.closed().is_none());
        }
    }
    let stranger = Client::connect(&pair.one.url()).await;
    let welcome = stranger.hello_resume(&token("eve", json!({})), &resume).await.unwrap();
    assert_eq!(welcome["resumed"], false, "only the same user may resume");
    let forged = Client::connect(&pair.one.url()).await;
    assert_eq!(forged.hello_resume(&token("ann", json!({})), "AAAA").await.unwrap()["resumed"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_come_in_pages_of_one_version_and_since_brings_what_came_after() {
    let pair = Pair::start(&[]).await;
    let rest = pair.one.rest();
    let state = json!({"blob": "x".repeat(900)});
    for n in 0..60 {
        let path = format!("/v1/channels/big/members/user-{n:03}");
        assert_eq!(rest.put(&path, json!({"state": state, "ttl_ms": 600_000})).await.status, 204);
    }
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("big", Level::Users).await.unwrap();
    watcher.until("sixty members", |watcher| watcher.users("big").len() == 60).await;
    assert!(watcher.events("snapshot").len() > 2, "pages");
    assert_eq!(watcher.snapshots("big"), [1]);

    watcher.drop_socket().await;
    for n in 0..3 {
        rest.delete(&format!("/v1/channels/big/members/user-{n:03}")).await;
    }
    let watcher = watcher.resume_on(&pair.two.url(), &token("watcher", json!({}))).await;
    watcher.until("the three are gone", |watcher| watcher.users("big").len() == 57).await;
    assert_eq!(watcher.snapshots("big").iter().sum::<usize>(), 1, "what came after was known");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watchers_of_a_channel_cost_redis_one_subscription_and_one_read() {
    let pair = Pair::start(&[]).await;
    let ann = Client::hello_as(&pair.two.url(), "ann").await;
    ann.join("room:1", json!({})).await.unwrap();
    let url = pair.one.url();
    let watchers = futures_util::future::join_all((0..200).map(|n| {
        let url = url.clone();
        async move {
            let watcher = Client::hello_as(&url, &format!("watcher-{n}")).await;
            watcher.watch("room:1", Level::Users).await.unwrap();
            watcher.until("ann is there", |watcher| watcher.users("room:1") == ["ann"]).await;
            watcher
        }
    }))
    .await;
    let metric = |text: &str, name: &str| {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    let text = pair.one.rest().get("/metrics").await.text;
    assert_eq!(metric(&text, "rollcall_readings_total"), 1.0, "{text}");
    assert_eq!(metric(&text, "rollcall_mirrors"), 1.0);
    assert_eq!(pair.redis.followers("*f:c:room:1").await, 1);
    ann.leave("room:1").await.unwrap();
    for watcher in &watchers {
        watcher.until("ann left", |watcher| watcher.users("room:1").is_empty()).await;
        assert_eq!(watcher.changes("room:1", "leave").iter().map(user_of).collect::<Vec<_>>(), ["ann"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_answers_no_ping_is_noticed_and_a_quiet_one_that_does_stays() {
    let more = [
        ("ROLLCALL__PRESENCE__PING_MS", "400"),
        ("ROLLCALL__PRESENCE__PONG_TIMEOUT_MS", "400"),
        ("ROLLCALL__PRESENCE__GRACE_MS", "500"),
    ];
    let pair = Pair::start(&more).await;
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("room:1", Level::Users).await.unwrap();
    let quiet = Client::hello_as(&pair.one.url(), "quiet").await;
    quiet.join("room:1", json!({})).await.unwrap();
    let dead = Client::hello_as(&pair.one.url(), "dead").await;
    dead.join("room:1", json!({})).await.unwrap();
    watcher.until("both are there", |watcher| watcher.users("room:1").len() == 2).await;
    dead.stall();
    watcher.until("the dead one left", |watcher| watcher.users("room:1") == ["quiet"]).await;
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(watcher.users("room:1"), ["quiet"]);
    assert_eq!(watcher.changes("room:1", "leave").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_socket_is_noticed_though_a_busy_channel_is_sent_to_it_all_the_time() {
    let more = [
        ("ROLLCALL__PRESENCE__PING_MS", "600"),
        ("ROLLCALL__PRESENCE__PONG_TIMEOUT_MS", "600"),
        ("ROLLCALL__PRESENCE__GRACE_MS", "500"),
    ];
    let pair = Pair::start(&more).await;
    let busy = Client::hello_as(&pair.two.url(), "busy").await;
    busy.join_watching("room:1", json!({})).await.unwrap();
    let dead = Client::hello_as(&pair.one.url(), "dead").await;
    dead.join_watching("room:1", json!({})).await.unwrap();
    busy.until("both are there", |busy| busy.users("room:1").len() == 2).await;
    // The kernel of the other side goes on taking what is sent; nobody reads it.
    dead.stall();
    let left = async {
        for n in 0.. {
            busy.update("room:1", json!({"n": n})).await.unwrap();
            if busy.users("room:1") == ["busy"] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(15 * SECOND, left).await.expect("the dead one leaves");
    assert_eq!(busy.changes("room:1", "leave").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_ends_the_connection_unless_refreshed() {
    let pair = Pair::start(&[("ROLLCALL__AUTH__LEEWAY_MS", "0")]).await;
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("room:1", Level::Users).await.unwrap();
    let soon = || json!({"exp": harness::token::now_s() + 2});
    let ann = Client::connect(&pair.one.url()).await;
    ann.hello(&token("ann", soon())).await.unwrap();
    ann.join("room:1", json!({})).await.unwrap();
    let ben = Client::connect(&pair.one.url()).await;
    ben.hello(&token("ben", soon())).await.unwrap();
    ben.join("room:1", json!({})).await.unwrap();
    ben.refresh(&token("ben", json!({}))).await.unwrap();
    assert_eq!(ben.refresh(&token("ann", json!({}))).await.unwrap_err().code, "conflict");
    assert_eq!(ann.until_closed(10 * SECOND).await.code, 4003);
    watcher.until("only ben stays", |watcher| watcher.users("room:1") == ["ben"]).await;
    assert_eq!(watcher.changes("room:1", "leave")[0].frame["reason"], "expired");
    ben.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_does_not_allow_is_forbidden_and_the_socket_stays() {
    let pair = Pair::start(&[]).await;
    let can = json!({"can": {"join": ["room:*"], "watch": ["lobby"], "users": ["ben"]}});
    let ann = Client::connect(&pair.one.url()).await;
    ann.hello(&token("ann", can)).await.unwrap();
    ann.join("room:1", json!({})).await.unwrap();
    for refused in [
        ann.join("room:1:2", json!({})).await,
        ann.join_watching("room:1", json!({})).await,
        ann.watch("room:1", Level::Users).await,
        ann.get("room:1").await,
        ann.get_users(&["ben", "zoe"]).await,
    ] {
        assert_eq!(refused.unwrap_err().code, "forbidden");
    }
    ann.watch("lobby", Level::Users).await.unwrap();
    assert_eq!(ann.get("lobby").await.unwrap()["occupancy"], json!({"users": 0, "connections": 0}));
    let users = ann.get_users(&["ben", "ann"]).await.unwrap();
    assert_eq!(users["users"]["ben"]["status"], "offline");
    assert_eq!(users["users"]["ann"]["status"], "online");

    let nobody = Client::connect(&pair.one.url()).await;
    nobody.hello(&token("", json!({"sub": null}))).await.unwrap();
    assert_eq!(nobody.join("room:1", json!({})).await.unwrap_err().code, "forbidden");
    nobody.watch("room:1", Level::Users).await.unwrap();
    nobody.until("sees ann", |nobody| nobody.users("room:1") == ["ann"]).await;
    assert_eq!(pair.one.rest().get("/v1/stats").await.ok()["users"], 1, "one who only watches is counted nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_refuse_one_operation_and_close_nothing() {
    let more = [
        ("ROLLCALL__LIMITS__CHANNELS_PER_CONNECTION", "3"),
        ("ROLLCALL__LIMITS__CONNECTIONS_PER_USER", "2"),
        ("ROLLCALL__LIMITS__MEMBERS_PER_CHANNEL", "2"),
    ];
    let pair = Pair::start(&more).await;
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    for n in 0..3 {
        ann.join(&format!("room:{n}"), json!({})).await.unwrap();
    }
    assert_eq!(ann.join("room:3", json!({})).await.unwrap_err().code, "limit");
    let second = Client::hello_as(&pair.two.url(), "ann").await;
    let third = Client::connect(&pair.one.url()).await;
    assert_eq!(third.hello(&token("ann", json!({}))).await.unwrap_err().code, "limit");
    assert_eq!(third.until_closed(5 * SECOND).await.code, 4505);

    let ben = Client::hello_as(&pair.two.url(), "ben").await;
    ben.join("room:0", json!({})).await.unwrap();
    let zoe = Client::hello_as(&pair.two.url(), "zoe").await;
    assert_eq!(zoe.join("room:0", json!({})).await.unwrap_err().code, "limit");
    second.join("room:0", json!({})).await.unwrap();
    zoe.ping().await.unwrap();
    ben.leave("room:0").await.unwrap();
    zoe.join("room:0", json!({})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_instance_sends_its_clients_elsewhere_and_watchers_see_nothing() {
    let mut pair = Pair::start(&[]).await;
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("room:1", Level::Users).await.unwrap();
    watcher.until("the empty channel", |watcher| watcher.snapshots("room:1") == [1]).await;
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    ann.join("room:1", json!({})).await.unwrap();
    watcher.until("ann is there", |watcher| watcher.users("room:1") == ["ann"]).await;
    pair.one.terminate();
    assert_eq!(ann.until_closed(10 * SECOND).await.code, 1012);
    let after = ann.events("reconnect")[0].frame["after_ms"].as_u64().unwrap();
    assert!(after <= 5_000, "within a third of the grace: {after}");
    let ann = ann.resume_on(&pair.two.url(), &token("ann", json!({}))).await;
    assert_eq!(ann.welcome()["resumed"], true);
    assert!(pair.one.ended(20 * SECOND).await.success());
    ann.update("room:1", json!({"here": true})).await.unwrap();
    watcher
        .until("the update", |watcher| watcher.view("room:1").unwrap().members()["ann"]["state"]["here"] == true)
        .await;
    assert!(watcher.changes("room:1", "leave").is_empty());
    assert_eq!(watcher.changes("room:1", "join").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store_serves_one_instance_the_same_way() {
    let instance = Instance::start(&[]).await;
    let ann = Client::hello_as(&instance.url(), "ann").await;
    ann.join_watching("room:1", json!({})).await.unwrap();
    let ben = Client::hello_as(&instance.url(), "ben").await;
    ben.join_watching("room:1", json!({})).await.unwrap();
    ann.until("ben is there", |ann| ann.users("room:1") == ["ann", "ben"]).await;
    let ben = ben.resume_on(&instance.url(), &token("ben", json!({}))).await;
    assert_eq!(ben.welcome()["resumed"], true);
    ben.bye().await.unwrap();
    ann.until("ben left", |ann| ann.users("room:1") == ["ann"]).await;
    assert_eq!(ann.changes("room:1", "leave").len(), 1);
    assert_eq!(ann.snapshots("room:1"), [1]);
}
