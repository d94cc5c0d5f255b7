//! What people ask a presence service, one story each, on two instances.

mod harness;

use std::time::Duration;

use harness::{Client, DEADLINE, Instance, Level, Pair, eventually, token};
use serde_json::{Value, json};

/// Somebody who only watches and asks.
async fn onlooker(at: &Instance) -> Client {
    let client = Client::connect(&at.url()).await;
    let hello = json!({"op": "hello", "token": token("onlooker", json!({})), "present": false});
    client.op(hello).await.expect("the hello of an onlooker");
    client
}

/// What a client was told by events of this kind, and of this channel where they have one.
fn events(client: &Client, event: &str, channel: Option<&str>) -> Vec<Value> {
    let frames = client.received().into_iter().map(|received| received.frame);
    frames.filter(|frame| frame["event"] == event && channel.is_none_or(|name| frame["channel"] == name)).collect()
}

/// The latest that a client was told of a user.
fn told_of(client: &Client, user: &str) -> Option<Value> {
    let frames = events(client, "users", None);
    let mut entries = frames.iter().flat_map(|frame| frame["users"].as_array().cloned().unwrap_or_default());
    entries.rfind(|entry| entry["user"] == user)
}

/// How often a client was told of a user.
fn times_told_of(client: &Client, user: &str) -> usize {
    let frames = events(client, "users", None);
    let entries = frames.iter().flat_map(|frame| frame["users"].as_array().cloned().unwrap_or_default());
    entries.filter(|entry| entry["user"] == user).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_notices() {
    let pair = Pair::start(&[]).await;
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    ann.join("room:1", json!({})).await.unwrap();
    let asker = onlooker(&pair.two).await;

    // Asked once: how many, and who.
    let asked = asker.get("room:1").await.unwrap();
    assert_eq!(asked["occupancy"], json!({"users": 1, "connections": 1}));
    let who = asker.op(json!({"op": "get", "channel": "room:1", "members": true})).await.unwrap();
    assert_eq!(who["members"][0]["user"], "ann");
    // Told from then on, first what is there: occupancy, time, who.
    asker.watch("room:1", Level::Users).await.unwrap();
    asker.until("the snapshot", |asker| asker.users("room:1") == ["ann"]).await;
    let snapshot = &events(&asker, "snapshot", Some("room:1"))[0];
    assert!(snapshot["time"].is_u64() && snapshot["occupancy"]["users"] == 1, "{snapshot}");

    let wild = onlooker(&pair.one).await;
    wild.op(json!({"op": "watch", "pattern": "room:*"})).await.unwrap();
    wild.until("the channels", |wild| !events(wild, "channels", None).is_empty()).await;
    let channels = &events(&wild, "channels", None)[0]["channels"];
    assert_eq!((&channels[0]["channel"], &channels[0]["occupancy"]["users"]), (&json!("room:1"), &json!(1)));

    let ben = Client::hello_as(&pair.two.url(), "ben").await;
    ben.join("room:1", json!({})).await.unwrap();
    ben.join("room:2", json!({})).await.unwrap();
    ben.leave("room:1").await.unwrap();
    for watcher in [&asker, &wild] {
        let notices = |list: &str| {
            let deltas = events(watcher, "delta", Some("room:1"));
            let with = deltas.into_iter().filter(|delta| delta[list][0]["user"] == "ben");
            with.map(|delta| (delta["occupancy"]["users"].as_u64(), delta["time"].is_u64())).collect::<Vec<_>>()
        };
        watcher.until("both notices", |_| !notices("join").is_empty() && !notices("leave").is_empty()).await;
        assert_eq!((notices("join"), notices("leave")), (vec![(Some(2), true)], vec![(Some(1), true)]));
    }
    wild.until("a channel that came later", |wild| {
        events(wild, "delta", Some("room:2")).iter().any(|delta| delta["join"][0]["user"] == "ben")
    })
    .await;
    // Whoever watches is no member.
    assert_eq!(pair.two.rest().users_in("room:1").await, ["ann"]);
    assert_eq!(pair.two.rest().get("/v1/users/onlooker").await.ok()["status"], "offline");
}

#[tokio::test(flavor = "multi_thread")]
async fn last_status_kept() {
    let pair = Pair::start(&[("ROLLCALL__PRESENCE__GRACE_MS", "500")]).await;
    let watcher = onlooker(&pair.two).await;
    watcher.watch("lamps", Level::Users).await.unwrap();
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    ann.op(json!({"op": "active"})).await.unwrap();
    ann.op(json!({"op": "status", "status": "busy", "text": "in a call"})).await.unwrap();
    ann.op(json!({"op": "update", "state": {"title": "Dr"}})).await.unwrap();
    let join = json!({"op": "join", "channel": "lamps", "state": {"on": true}, "on_leave": {"on": false}});
    ann.op(join).await.unwrap();
    ann.op(json!({"op": "typing", "channel": "lamps", "typing": true})).await.unwrap();
    watcher.until("ann types", |watcher| events(watcher, "typing", Some("lamps")).len() == 1).await;
    let zoe = Client::hello_as(&pair.two.url(), "zoe").await;
    zoe.op(json!({"op": "update", "state": {"town": "Ulm"}})).await.unwrap();
    zoe.bye().await.unwrap();
    eventually(DEADLINE, async || pair.two.rest().get("/v1/users/zoe").await.body["last_seen"].is_u64()).await;

    // Who comes late has the last status of each at once, of those who are offline too, and nothing of who types.
    let late = onlooker(&pair.two).await;
    late.op(json!({"op": "watch", "users": ["ann", "zoe", "nobody"]})).await.unwrap();
    late.watch("lamps", Level::Users).await.unwrap();
    late.until("all three", |late| ["ann", "zoe", "nobody"].iter().all(|user| told_of(late, user).is_some())).await;
    let ann_told = told_of(&late, "ann").unwrap();
    assert_eq!(
        (&ann_told["status"], &ann_told["text"], &ann_told["state"]),
        (&json!("busy"), &json!("in a call"), &json!({"title": "Dr"}))
    );
    assert!(ann_told["last_active"].is_u64(), "{ann_told}");
    let zoe_told = told_of(&late, "zoe").unwrap();
    assert_eq!((&zoe_told["status"], &zoe_told["state"]), (&json!("offline"), &json!({"town": "Ulm"})));
    assert!(zoe_told["last_seen"].is_u64());
    late.until("ann in the room", |late| late.users("lamps") == ["ann"]).await;
    assert!(events(&late, "typing", None).is_empty());

    // Last words of who goes without a goodbye, and what she chose stays known.
    ann.drop_socket().await;
    late.until("her last words", |late| {
        let leaves = late.changes("lamps", "leave");
        leaves.len() == 1 && leaves[0].frame["state"] == json!({"on": false})
    })
    .await;
    late.until("she is offline", |late| told_of(late, "ann").is_some_and(|told| told["status"] == "offline")).await;
    assert_eq!(told_of(&late, "ann").unwrap()["text"], "in a call");
    assert!(told_of(&late, "ann").unwrap()["last_seen"].is_u64());

    // Everyone known, with those offline.
    let known = pair.two.rest().get("/v1/users?offline=true").await.ok();
    let names: Vec<&str> = known["users"].as_array().unwrap().iter().filter_map(|user| user["user"].as_str()).collect();
    assert_eq!(names, ["ann", "zoe"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics() {
    let pair = Pair::start(&[
        ("ROLLCALL__PRESENCE__GRACE_MS", "500"),
        ("ROLLCALL__PRESENCE__IDLE_AFTER_MS", "1500"),
        ("ROLLCALL__PRESENCE__AWAY_AFTER_MS", "3500"),
    ])
    .await;
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    let ben = Client::hello_as(&pair.two.url(), "ben").await;
    for topic in ["topic:a", "topic:b"] {
        ann.join(topic, json!({})).await.unwrap();
    }
    ben.join("topic:b", json!({})).await.unwrap();
    let rest = pair.two.rest();
    // Users of a topic, topics of a user, and each user once over all topics.
    assert_eq!(rest.users_in("topic:b").await, ["ann", "ben"]);
    assert_eq!(rest.get("/v1/users/ann").await.ok()["channels"], json!(["topic:a", "topic:b"]));
    let over = rest.get("/v1/users?pattern=topic:**").await.ok();
    assert_eq!(over["total"], 2);
    assert_eq!(over["users"][0]["channels"], json!(["topic:a", "topic:b"]));

    // Idle, then away; who is active is found among those who are not.
    let watcher = onlooker(&pair.one).await;
    watcher.watch("topic:a", Level::Users).await.unwrap();
    let keeps_active = async {
        loop {
            ben.op(json!({"op": "active"})).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let looks = async {
        watcher.until("idle", |watcher| watcher.member("topic:a", "ann")["status"] == "idle").await;
        watcher.until("away", |watcher| watcher.member("topic:a", "ann")["status"] == "away").await;
        let active = rest.get("/v1/users?pattern=topic:**&status=online").await.ok();
        assert_eq!((&active["total"], &active["users"][0]["user"]), (&json!(1), &json!("ben")));
    };
    tokio::select! {
        () = keeps_active => {}
        () = looks => {}
    }

    // A reconnect beyond the grace is a leave and another join, online again.
    ann.drop_socket().await;
    watcher.until("ann has gone", |watcher| watcher.users("topic:a").is_empty()).await;
    let again = Client::connect(&pair.two.url()).await;
    let welcome = again.hello_resume(&token("ann", json!({})), &ann.resume_token()).await.unwrap();
    assert_eq!(welcome["resumed"], false);
    again.join("topic:a", json!({})).await.unwrap();
    watcher.until("online again", |watcher| watcher.member("topic:a", "ann")["status"] == "online").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logins() {
    let pair = Pair::start(&[]).await;
    let everybody = onlooker(&pair.one).await;
    let ann_was = Client::hello_as(&pair.two.url(), "early").await;
    eventually(DEADLINE, async || pair.two.rest().get("/v1/users/early").await.body["status"] == "online").await;
    everybody.op(json!({"op": "watch", "all_users": true})).await.unwrap();
    everybody.until("who is there first", |all| told_of(all, "early").is_some()).await;
    let one = onlooker(&pair.two).await;
    one.op(json!({"op": "watch", "users": ["ann"]})).await.unwrap();
    one.until("ann is offline", |one| told_of(one, "ann").is_some_and(|told| told["status"] == "offline")).await;

    // First and last connection only.
    let laptop = Client::hello_as(&pair.one.url(), "ann").await;
    for watcher in [&everybody, &one] {
        watcher.until("ann", |all| told_of(all, "ann").is_some_and(|told| told["status"] == "online")).await;
    }
    let before = (times_told_of(&everybody, "ann"), times_told_of(&one, "ann"));
    let phone = Client::hello_as(&pair.two.url(), "ann").await;
    laptop.bye().await.unwrap();
    let ben = Client::hello_as(&pair.two.url(), "ben").await;
    everybody.until("ben", |all| told_of(all, "ben").is_some()).await;
    assert_eq!((times_told_of(&everybody, "ann"), times_told_of(&one, "ann")), before);
    assert_eq!(told_of(&one, "ben"), None, "one user's logins are those of one");

    // Everyone online, or a map of those who are named; who has no user is nowhere.
    let rest = pair.two.rest();
    let online = rest.get("/v1/users").await.ok();
    let names: Vec<&str> =
        online["users"].as_array().unwrap().iter().filter_map(|user| user["user"].as_str()).collect();
    assert_eq!(names, ["ann", "ben", "early"]);
    let map = rest.post("/v1/users/query", json!({"users": ["ann", "zoe"]})).await.ok();
    assert_eq!((&map["users"]["ann"]["status"], &map["users"]["zoe"]["status"]), (&json!("online"), &json!("offline")));
    assert_eq!(told_of(&everybody, "onlooker"), None);

    phone.bye().await.unwrap();
    for watcher in [&everybody, &one] {
        watcher.until("ann has gone", |all| told_of(all, "ann").is_some_and(|told| told["status"] == "offline")).await;
    }
    ben.bye().await.unwrap();
    ann_was.bye().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn channel_options() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("rollcall.toml");
    let namespaces = r#"
        [[namespace]]
        match = "log:**"
        presence = false
        [[namespace]]
        match = "crowd:**"
        level = "occupancy"
    "#;
    std::fs::write(&config, namespaces).unwrap();
    let pair = Pair::start_with(&["--config", config.to_str().unwrap()], &[]).await;
    let rest = pair.two.rest();
    // Presence by namespace: a clear no, and not an empty list.
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    for refused in [
        ann.join("log:1", json!({})).await.unwrap_err(),
        ann.watch("log:1", Level::Users).await.unwrap_err(),
        ann.get("log:1").await.unwrap_err(),
    ] {
        assert_eq!(refused.code, "forbidden");
        assert!(refused.message.contains("not available"), "{}", refused.message);
    }
    let problem = rest.get("/v1/channels/log:1/members").await;
    assert_eq!((problem.status, &problem.body["code"]), (403, &json!("forbidden")));
    assert!(problem.body["detail"].as_str().unwrap().contains("not available"), "{}", problem.text);

    // Members with user and time; counts of connections and users without the list.
    ann.join("room:1", json!({})).await.unwrap();
    ann.join("crowd:1", json!({})).await.unwrap();
    let phone = Client::hello_as(&pair.two.url(), "ann").await;
    phone.join("crowd:1", json!({})).await.unwrap();
    let member = &rest.members("room:1").await[0];
    assert!(member["user"] == "ann" && member["since"].is_u64(), "{member}");
    let counter = onlooker(&pair.one).await;
    counter.watch("crowd:1", Level::Occupancy).await.unwrap();
    counter
        .until("the counts", |counter| {
            events(counter, "snapshot", Some("crowd:1")).iter().any(|frame| {
                frame["occupancy"] == json!({"users": 1, "connections": 2}) && frame.get("members").is_none()
            })
        })
        .await;
    let list = counter.op(json!({"op": "get", "channel": "crowd:1", "members": true})).await.unwrap_err();
    assert_eq!(list.code, "forbidden");

    // Asking and joining are permitted apart.
    let may = async |can: Value| {
        let client = Client::connect(&pair.two.url()).await;
        client.hello(&token("ben", json!({"can": can}))).await.unwrap();
        client
    };
    let asks = may(json!({"watch": ["room:*"]})).await;
    assert_eq!(asks.get("room:1").await.unwrap()["occupancy"]["users"], 1);
    assert_eq!(asks.join("room:1", json!({})).await.unwrap_err().code, "forbidden");
    let joins = may(json!({"join": ["room:*"]})).await;
    assert_eq!(joins.get("room:1").await.unwrap_err().code, "forbidden");
    joins.join("room:1", json!({})).await.unwrap();
}
