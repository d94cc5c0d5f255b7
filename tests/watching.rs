//! Watching users, everybody and patterns of channels: what is told, when, and what is not. On two instances.

mod harness;

use std::collections::BTreeMap;

use harness::{Client, DEADLINE, LinkedPair, Pair, eventually, token};
use serde_json::{Value, json};

/// All that was told of users, one after the other.
fn told(client: &Client) -> Vec<Value> {
    let users = |frame: &Value| frame["users"].as_array().cloned().expect("an event of users has a list");
    client.events("users").iter().flat_map(|received| users(&received.frame)).collect()
}

/// How users are as the last event of each said.
fn seen(client: &Client) -> BTreeMap<String, Value> {
    told(client).into_iter().map(|user| (user["user"].as_str().unwrap().to_owned(), user)).collect()
}

fn status(client: &Client, user: &str) -> String {
    seen(client).get(user).map_or("unknown".to_owned(), |user| user["status"].as_str().unwrap().to_owned())
}

/// The statuses that were told of one user, one after the other.
fn statuses(client: &Client, user: &str) -> Vec<String> {
    let of_user = told(client).into_iter().filter(|told| told["user"] == user);
    of_user.map(|told| told["status"].as_str().unwrap().to_owned()).collect()
}

async fn watch_users(client: &Client, users: &[&str]) -> Value {
    client.op(json!({"op": "watch", "users": users})).await.unwrap()
}

/// Nothing that was to be told before this is told after it: somebody else's coming is, by the same way.
async fn barrier(pair: &Pair, client: &Client) {
    let name = harness::fresh("barrier-");
    watch_users(client, &[&name]).await;
    client.until("the barrier is known", |client| status(client, &name) == "offline").await;
    let there = pair.two(&name).await;
    client.until("the barrier", |client| status(client, &name) == "online").await;
    there.bye().await.unwrap();
    client.until("the barrier is gone", |client| statuses(client, &name).len() == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_watched_is_shown_at_once_and_then_told_of_by_changes_only() {
    let pair = Pair::start(&[]).await;
    let ben = pair.one("ben").await;
    ben.op(json!({"op": "update", "state": {"town": "Ulm"}})).await.unwrap();
    ben.op(json!({"op": "status", "status": "busy", "text": "in a call"})).await.unwrap();
    let ann = pair.two("ann").await;
    assert_eq!(watch_users(&ann, &["ben", "zoe", "ben"]).await, json!({"watching": 2}));
    ann.until("both", |ann| seen(ann).len() == 2).await;
    assert_eq!(ann.events("users").len(), 1, "one frame for both");
    let shown = seen(&ann);
    assert_eq!(shown["zoe"], json!({"user": "zoe", "status": "offline"}));
    assert_eq!(
        (&shown["ben"]["status"], &shown["ben"]["text"], &shown["ben"]["state"]),
        (&json!("busy"), &json!("in a call"), &json!({"town": "Ulm"}))
    );
    let since = shown["ben"]["since"].clone();
    assert!(since.as_u64().unwrap() > 1_600_000_000_000, "{shown:?}");

    // A second device, and one that breaks and comes back elsewhere, are no events; nor is where they are.
    let phone = pair.two("ben").await;
    phone.join("room:1", json!({"on": "phone"})).await.unwrap();
    let ben = ben.resume_on(&pair.two.url(), &token("ben", json!({}))).await;
    phone.bye().await.unwrap();
    barrier(&pair, &ann).await;
    assert_eq!(statuses(&ann, "ben"), ["busy"], "{:#?}", told(&ann));

    ben.op(json!({"op": "status", "status": null})).await.unwrap();
    ann.until("as the device says", |ann| status(ann, "ben") == "online").await;
    assert_eq!((seen(&ann)["ben"].get("text"), &seen(&ann)["ben"]["since"]), (None, &since));
    ben.op(json!({"op": "update", "state": {"town": "Bonn"}})).await.unwrap();
    ann.until("the state", |ann| seen(ann)["ben"]["state"] == json!({"town": "Bonn"})).await;
    ben.bye().await.unwrap();
    ann.until("offline", |ann| status(ann, "ben") == "offline").await;
    let gone = seen(&ann)["ben"].clone();
    assert!(gone["last_seen"].as_u64() >= since.as_u64() && gone.get("since").is_none(), "{gone}");
    assert_eq!(gone["state"], json!({"town": "Bonn"}), "what an app shows of a user is shown offline too");
    assert_eq!(statuses(&ann, "ben"), ["busy", "online", "online", "offline"]);
    assert_eq!(statuses(&ann, "zoe"), ["offline"]);

    // Whoever is taken out of the list is told of no more, and whoever is added is shown as they are.
    assert_eq!(ann.op(json!({"op": "unwatch", "users": ["ben", "nobody"]})).await.unwrap()["watching"], 2);
    let _zoe = pair.one("zoe").await;
    let _ben = pair.one("ben").await;
    ann.until("zoe came", |ann| status(ann, "zoe") == "online").await;
    barrier(&pair, &ann).await;
    assert_eq!(status(&ann, "ben"), "offline");
    assert_eq!(watch_users(&ann, &["ben", "zoe"]).await["watching"], 4);
    ann.until("ben is there", |ann| status(ann, "ben") == "online").await;
    assert_eq!(statuses(&ann, "zoe"), ["offline", "online"], "who is watched already is not shown again");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_users_come_in_few_frames_and_cost_few_calls() {
    let pair = Pair::start(&[]).await;
    let rest = pair.one.rest();
    for n in 0..20 {
        let path = format!("/v1/channels/office/members/user-{:04}", n * 100);
        assert_eq!(rest.put(&path, json!({"state": {}, "ttl_ms": 600_000})).await.status, 204);
    }
    let names: Vec<String> = (0..2_000).map(|n| format!("user-{n:04}")).collect();
    let watcher = pair.two("watcher").await;
    for (half, watching) in names.chunks(1_000).zip([1_000, 2_000]) {
        let half: Vec<&str> = half.iter().map(String::as_str).collect();
        assert_eq!(watch_users(&watcher, &half).await["watching"], watching);
    }
    watcher.until("all two thousand", |watcher| seen(watcher).len() == 2_000).await;
    let frames = watcher.events("users");
    let most = frames.iter().map(|received| received.frame.to_string().len()).max().unwrap();
    assert!(frames.len() <= 20 && most < 10_000, "{} frames, the longest of {most} bytes", frames.len());
    let online = seen(&watcher).values().filter(|user| user["status"] == "online").count();
    assert_eq!(online, 20);
    let error = watcher.op(json!({"op": "watch", "users": ["one-more"]})).await.unwrap_err();
    assert_eq!(error.code, "limit");

    // All of them leave at once, and others watch the same people: nothing is read or followed twice.
    let others = futures_util::future::join_all((0..5).map(|n| {
        let (url, names) = (pair.two.url(), &names);
        async move {
            let other = Client::hello_as(&url, &format!("other-{n}")).await;
            let some: Vec<&str> = names.iter().step_by(4).map(String::as_str).collect();
            watch_users(&other, &some).await;
            other.until("five hundred", |other| seen(other).len() == 500).await;
            other
        }
    }))
    .await;
    let text = pair.two.rest().get("/metrics").await.text;
    let metric = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    assert_eq!(metric("rollcall_people "), Some(2_000), "{text}");
    assert!(metric("rollcall_people_read_total ").unwrap() <= 2_100, "{text}");
    for n in 0..20 {
        rest.delete(&format!("/v1/channels/office/members/user-{:04}", n * 100)).await;
    }
    watcher.until("nobody is online", |watcher| seen(watcher).values().all(|user| user["status"] == "offline")).await;
    for other in &others {
        other.until("nor to others", |other| seen(other).values().all(|user| user["status"] == "offline")).await;
        assert_eq!(told(other).len(), 500 + 20);
    }
    assert_eq!(told(&watcher).len(), 2_000 + 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watched_cannot_tell_and_nobody_is_followed_for_longer_than_watched() {
    let pair = Pair::start(&[]).await;
    let ann = pair.one("ann").await;
    ann.join_watching("room:1", json!({})).await.unwrap();
    ann.until("herself", |ann| ann.users("room:1") == ["ann"]).await;
    let before = (ann.frames(), pair.one.rest().get("/v1/users/ann").await.body);
    let watchers = [pair.one("one").await, pair.two("two").await];
    for watcher in &watchers {
        watch_users(watcher, &["ann"]).await;
        watcher.until("ann", |watcher| status(watcher, "ann") == "online").await;
    }
    assert_eq!(pair.redis.followers("*f:u:ann").await, 1);
    for watcher in watchers {
        watcher.bye().await.unwrap();
    }
    ann.ping().await.unwrap();
    let after = (ann.frames() - 1, pair.one.rest().get("/v1/users/ann").await.body);
    assert_eq!(before, after);
    eventually(DEADLINE, async || pair.redis.followers("*f:u:ann").await == 0).await;
    let nobody = pair.one.rest().get("/metrics").await.text;
    assert!(nobody.contains("rollcall_people 0"), "{nobody}");
}

#[tokio::test(flavor = "multi_thread")]
async fn going_out_of_sight_looks_like_leaving_and_oneself_sees_the_truth() {
    let pair = Pair::start(&[]).await;
    let watcher = pair.two("watcher").await;
    watch_users(&watcher, &["ann", "ben"]).await;
    watcher.until("neither", |watcher| seen(watcher).len() == 2).await;
    let (ann, ben) = (pair.one("ann").await, pair.one("ben").await);
    let mirror = pair.two("ann").await;
    watch_users(&mirror, &["ann"]).await;
    watcher.until("both", |watcher| ["ann", "ben"].iter().all(|user| status(watcher, user) == "online")).await;
    mirror.until("herself", |mirror| status(mirror, "ann") == "online").await;

    ann.op(json!({"op": "status", "status": "invisible", "text": "hush"})).await.unwrap();
    ben.bye().await.unwrap();
    mirror.until("the truth", |mirror| status(mirror, "ann") == "invisible").await;
    assert_eq!(seen(&mirror)["ann"]["text"], "hush");
    watcher.until("both left", |watcher| ["ann", "ben"].iter().all(|user| status(watcher, user) == "offline")).await;
    // Devices come and go, out of sight.
    let phone = pair.two("ann").await;
    phone.bye().await.unwrap();
    barrier(&pair, &watcher).await;
    let of = |user: &str| {
        let of_user = told(&watcher).into_iter().filter(|told| told["user"] == user);
        let fields = |told: Value| told.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        of_user.map(fields).collect::<Vec<_>>()
    };
    assert_eq!(of("ann"), of("ben"), "as many events with the same fields: {:#?}", told(&watcher));
    assert_eq!(statuses(&watcher, "ann"), ["offline", "online", "offline"]);

    ann.op(json!({"op": "status", "status": null})).await.unwrap();
    watcher.until("ann is back", |watcher| status(watcher, "ann") == "online").await;
    mirror.until("herself", |mirror| status(mirror, "ann") == "online").await;
    assert_eq!(statuses(&watcher, "ann"), ["offline", "online", "offline", "online"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_choice_ends_with_its_time_for_those_who_watch() {
    let pair = Pair::start(&[]).await;
    let watcher = pair.two("watcher").await;
    watch_users(&watcher, &["ann"]).await;
    let ann = pair.one("ann").await;
    let until = rollcall::domain::time::wall_now_ms() + 1_500;
    ann.op(json!({"op": "status", "status": "away", "text": "back soon", "until": until})).await.unwrap();
    watcher.until("away", |watcher| status(watcher, "ann") == "away").await;
    ann.bye().await.unwrap();
    watcher.until("offline", |watcher| status(watcher, "ann") == "offline").await;
    assert_eq!(seen(&watcher)["ann"]["text"], "back soon");
    watcher.until("the text is over", |watcher| seen(watcher)["ann"].get("text").is_none()).await;
    assert!(rollcall::domain::time::wall_now_ms() >= until);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_lost_its_memory_takes_nobody_offline() {
    let pair = Pair::start(&[]).await;
    let names = ["ann", "ben", "mia"];
    let mut people = Vec::new();
    for (n, name) in names.iter().enumerate() {
        people.push(if n % 2 == 0 { pair.one(name).await } else { pair.two(name).await });
    }
    people[0].op(json!({"op": "status", "status": "busy", "text": "x"})).await.unwrap();
    let watchers = [pair.one("one").await, pair.two("two").await];
    for watcher in &watchers {
        watch_users(watcher, &["ann", "ben", "mia", "zoe"]).await;
        watcher.until("all", |watcher| seen(watcher).len() == 4).await;
        watcher.until("busy", |watcher| status(watcher, "ann") == "busy").await;
    }
    let before = watchers.each_ref().map(|watcher| told(watcher).len());
    pair.redis.flush().await;
    // Who leaves meanwhile has left, who comes has come.
    people[1].bye().await.unwrap();
    let _zoe = pair.two("zoe").await;
    for watcher in &watchers {
        watcher.until("ben left", |watcher| status(watcher, "ben") == "offline").await;
        watcher.until("zoe came", |watcher| status(watcher, "zoe") == "online").await;
    }
    // Somebody who begins to watch is shown the settled truth.
    let late = pair.one("late").await;
    watch_users(&late, &["ann", "ben", "mia", "zoe"]).await;
    late.until("all", |late| seen(late).len() == 4).await;
    assert_eq!(names.map(|name| status(&late, name)), ["busy", "offline", "online"]);
    barrier(&pair, &watchers[0]).await;
    barrier(&pair, &watchers[1]).await;
    for (watcher, before) in watchers.iter().zip(before) {
        let later: Vec<Value> = told(watcher).split_off(before);
        let of_us = later.iter().filter(|user| !user["user"].as_str().unwrap().starts_with("barrier"));
        let mut of_us: Vec<_> = of_us.map(|user| (user["user"].as_str(), user["status"].as_str())).collect();
        of_us.sort_unstable();
        assert_eq!(of_us, [(Some("ben"), Some("offline")), (Some("zoe"), Some("online"))]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_killed_instance_who_does_not_come_back_is_offline_once_with_the_time() {
    let mut pair = Pair::start(&[("ROLLCALL__PRESENCE__GRACE_MS", "3000")]).await;
    let (ann, ben) = (pair.one("ann").await, pair.one("ben").await);
    let watcher = pair.two("watcher").await;
    watch_users(&watcher, &["ann", "ben"]).await;
    watcher.until("both", |watcher| seen(watcher).len() == 2).await;
    let killed_at = rollcall::domain::time::wall_now_ms();
    pair.one.kill();
    let ben = ben.resume_on(&pair.two.url(), &token("ben", json!({}))).await;
    assert_eq!(ben.welcome()["resumed"], true);
    watcher.until("ann is offline", |watcher| status(watcher, "ann") == "offline").await;
    assert!(seen(&watcher)["ann"]["last_seen"].as_u64().unwrap() > killed_at);
    barrier(&pair, &watcher).await;
    assert_eq!(
        (statuses(&watcher, "ann"), statuses(&watcher, "ben")),
        (vec!["online".to_owned(), "offline".to_owned()], vec!["online".to_owned()])
    );
    drop(ann);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_silent_feed_kept_back_is_found_by_comparing() {
    let pair = LinkedPair::start().await;
    let watcher = Client::hello_as(&pair.one.url(), "watcher").await;
    watch_users(&watcher, &["ann", "ben"]).await;
    let ann = Client::hello_as(&pair.two.url(), "ann").await;
    watcher.until("ann", |watcher| status(watcher, "ann") == "online").await;
    pair.link.deafen_feeds();
    ann.bye().await.unwrap();
    let _ben = Client::hello_as(&pair.two.url(), "ben").await;
    watcher.until("ann left", |watcher| status(watcher, "ann") == "offline").await;
    watcher.until("ben came", |watcher| status(watcher, "ben") == "online").await;
    pair.link.restore();
    assert_eq!(statuses(&watcher, "ben"), ["offline", "online"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_says_who_may_be_watched_and_everybody_may_watch_themselves() {
    let pair = Pair::start(&[("ROLLCALL__LIMITS__WATCHED_USERS", "3")]).await;
    let ann = Client::connect(&pair.one.url()).await;
    ann.hello(&token("ann", json!({"can": {"users": ["team:*"]}}))).await.unwrap();
    let error = ann.op(json!({"op": "watch", "users": ["team:ben", "eve"]})).await.unwrap_err();
    assert_eq!(error.code, "forbidden");
    assert!(error.message.contains("`eve`"), "{}", error.message);
    assert_eq!(watch_users(&ann, &["ann", "team:ben"]).await["watching"], 2, "nobody was added before");
    let error = ann.op(json!({"op": "watch", "users": ["team:1", "team:2"]})).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.message.contains('3')), ("limit", true));
    assert_eq!(watch_users(&ann, &["team:1"]).await["watching"], 3);
    ann.until("all three", |ann| seen(ann).len() == 3).await;
    assert_eq!(ann.op(json!({"op": "unwatch", "users": ["team:1", "team:2"]})).await.unwrap()["watching"], 2);
    // Who only watches is still themselves, and nobody else.
    let nobody = Client::connect(&pair.one.url()).await;
    nobody.op(json!({"op": "hello", "token": token("ann", json!({"can": {}})), "present": false})).await.unwrap();
    assert_eq!(nobody.op(json!({"op": "watch", "users": ["ann", "ben"]})).await.unwrap_err().code, "forbidden");
    assert_eq!(watch_users(&nobody, &["ann"]).await["watching"], 1);
}

/// Who the last whole list of those online showed, and what came after it: who is online as this client sees it.
fn online(client: &Client) -> Vec<String> {
    let mut online = std::collections::BTreeSet::new();
    let mut is_listing = false;
    for received in client.events("users") {
        let is_page = received.frame["all_users"] == true;
        if is_page && !is_listing {
            online.clear();
        }
        for user in received.frame["users"].as_array().unwrap() {
            let name = user["user"].as_str().unwrap().to_owned();
            if user["status"] == "offline" {
                online.remove(&name)
            } else {
                online.insert(name)
            };
        }
        is_listing = is_page && received.frame["more"] == true;
    }
    online.into_iter().collect()
}

/// Whether the list of those online has come as a whole.
fn is_listed(client: &Client) -> bool {
    client.events("users").iter().any(|received| received.frame["more"] == false)
}

async fn watch_all(client: &Client) {
    assert_eq!(client.op(json!({"op": "watch", "all_users": true})).await.unwrap(), json!({"all_users": true}));
    client.until("the list of all", is_listed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_is_online_is_listed_in_pages_and_then_told_of_who_comes_and_goes() {
    let pair = Pair::start(&[]).await;
    let rest = pair.one.rest();
    for n in 0..300 {
        let path = format!("/v1/channels/office/members/user-{n:04}");
        assert_eq!(rest.put(&path, json!({"state": {}, "ttl_ms": 600_000})).await.status, 204);
    }
    let watcher = pair.two("watcher").await;
    watch_all(&watcher).await;
    let pages = watcher.events("users");
    assert!(pages.len() > 2 && pages.len() < 10, "{}", pages.len());
    assert!(pages.iter().all(|page| page.frame["all_users"] == true && page.frame.get("cause").is_none()));
    assert_eq!(online(&watcher).len(), 301, "three hundred and oneself");
    let shown = told(&watcher).len();
    assert_eq!(shown, 301, "each once");

    let ann = pair.one("ann").await;
    watcher.until("ann came", |watcher| status(watcher, "ann") == "online").await;
    let phone = pair.two("ann").await;
    phone.bye().await.unwrap();
    ann.op(json!({"op": "status", "status": "busy"})).await.unwrap();
    watcher.until("busy", |watcher| status(watcher, "ann") == "busy").await;
    ann.bye().await.unwrap();
    watcher.until("ann went", |watcher| status(watcher, "ann") == "offline").await;
    assert!(seen(&watcher)["ann"]["last_seen"].as_u64().is_some());
    assert_eq!(statuses(&watcher, "ann"), ["online", "busy", "offline"]);
    assert_eq!(told(&watcher).len(), shown + 3);
    assert!(watcher.events("users").last().unwrap().frame.get("more").is_none());

    // Whom nobody is to see comes and goes, and nobody hears of it.
    let ghost = pair.one("ghost").await;
    watcher.until("ghost came", |watcher| status(watcher, "ghost") == "online").await;
    ghost.op(json!({"op": "status", "status": "invisible"})).await.unwrap();
    watcher.until("ghost went", |watcher| status(watcher, "ghost") == "offline").await;
    let phone = pair.two("ghost").await;
    phone.bye().await.unwrap();
    ghost.bye().await.unwrap();

    // A second watcher on the same instance is listed what is known; ann, who is offline, is not in it.
    let second = pair.two("second").await;
    watch_all(&second).await;
    second.until("three hundred and the two", |second| online(second).len() == 302).await;
    watcher.until("the second", |watcher| status(watcher, "second") == "online").await;
    let name = harness::fresh("barrier-");
    let barrier = pair.one(&name).await;
    for watcher in [&watcher, &second] {
        watcher.until("the barrier", |watcher| status(watcher, &name) == "online").await;
    }
    assert_eq!(statuses(&watcher, "ghost"), ["online", "offline"]);
    assert_eq!((status(&second, "ghost"), status(&second, "ann")), ("unknown".to_owned(), "unknown".to_owned()));

    // All go at once.
    assert_eq!(rest.post("/v1/channels/query", json!({"channels": ["office"]})).await.status, 200);
    for n in 0..300 {
        rest.delete(&format!("/v1/channels/office/members/user-{n:04}")).await;
    }
    for watcher in [&watcher, &second] {
        watcher.until("three are left", |watcher| online(watcher).len() == 3).await;
    }
    assert_eq!(watcher.op(json!({"op": "unwatch", "all_users": true})).await.unwrap(), json!({"all_users": false}));
    let before = told(&watcher).len();
    barrier.bye().await.unwrap();
    second.until("the barrier went", |second| status(second, &name) == "offline").await;
    watcher.ping().await.unwrap();
    assert_eq!(told(&watcher).len(), before);
    assert_eq!(watcher.op(json!({"op": "unwatch", "all_users": true})).await.unwrap_err().code, "conflict");
    second.op(json!({"op": "unwatch", "all_users": true})).await.unwrap();
    eventually(DEADLINE, async || pair.redis.followers("*f:u:*").await + pair.redis.followers("*:w").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_somebody_watches_by_name_and_with_everybody_is_told_once() {
    let pair = Pair::start(&[]).await;
    let watcher = pair.two("watcher").await;
    watch_users(&watcher, &["ann", "watcher"]).await;
    watcher.until("both", |watcher| seen(watcher).len() == 2).await;
    watch_all(&watcher).await;
    let ann = pair.one("ann").await;
    watcher.until("ann came", |watcher| status(watcher, "ann") == "online").await;
    ann.op(json!({"op": "status", "status": "away"})).await.unwrap();
    watcher.until("ann is away", |watcher| status(watcher, "ann") == "away").await;
    let ben = pair.one("ben").await;
    watcher.until("ben came", |watcher| status(watcher, "ben") == "online").await;
    watcher.op(json!({"op": "unwatch", "all_users": true})).await.unwrap();
    ann.bye().await.unwrap();
    ben.bye().await.unwrap();
    watcher.until("ann went, who is watched by name", |watcher| status(watcher, "ann") == "offline").await;
    barrier(&pair, &watcher).await;
    assert_eq!(statuses(&watcher, "ann"), ["offline", "online", "away", "offline"]);
    assert_eq!(statuses(&watcher, "ben"), ["online"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_stays_when_redis_lost_its_memory_and_who_leaves_meanwhile_has_left() {
    let pair = Pair::start(&[]).await;
    let (_ann, ben) = (pair.one("ann").await, pair.two("ben").await);
    let watchers = [pair.one("one").await, pair.two("two").await];
    for watcher in &watchers {
        watch_all(watcher).await;
        watcher.until("four", |watcher| online(watcher).len() == 4).await;
    }
    pair.redis.flush().await;
    ben.bye().await.unwrap();
    let _zoe = pair.one("zoe").await;
    for watcher in &watchers {
        watcher.until("ben went, zoe came", |watcher| online(watcher) == ["ann", "one", "two", "zoe"]).await;
    }
    let late = pair.two("late").await;
    watch_all(&late).await;
    late.until("all", |late| online(late) == ["ann", "late", "one", "two", "zoe"]).await;
    for watcher in &watchers {
        watcher.until("late", |watcher| online(watcher).len() == 5).await;
        assert_eq!(
            (statuses(watcher, "ann"), statuses(watcher, "ben")),
            (vec!["online".to_owned()], vec!["online".to_owned(), "offline".to_owned()])
        );
        let lists = watcher.events("users").iter().filter(|received| received.frame["more"] == false).count();
        assert_eq!(lists, 1, "the list did not come again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_while_the_feed_was_silent_is_found_by_comparing() {
    let pair = LinkedPair::start().await;
    let watcher = Client::hello_as(&pair.one.url(), "watcher").await;
    watch_all(&watcher).await;
    let ann = Client::hello_as(&pair.two.url(), "ann").await;
    watcher.until("ann came", |watcher| online(watcher) == ["ann", "watcher"]).await;
    pair.link.deafen_feeds();
    ann.bye().await.unwrap();
    let _ben = Client::hello_as(&pair.two.url(), "ben").await;
    watcher.until("ann went, ben came", |watcher| online(watcher) == ["ben", "watcher"]).await;
    pair.link.restore();
    assert_eq!(statuses(&watcher, "ben"), ["online"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_ask_for_everybody_may_watch_everybody() {
    let pair = Pair::start(&[]).await;
    for can in [json!({"users": ["*"]}), json!({"users": ["team:**", "ann"]}), json!({"watch": ["**"]})] {
        let client = Client::connect(&pair.one.url()).await;
        client.hello(&token("ann", json!({"can": can}))).await.unwrap();
        let error = client.op(json!({"op": "watch", "all_users": true})).await.unwrap_err();
        assert_eq!((error.code.as_str(), error.message.contains("`**`")), ("forbidden", true), "{can}");
    }
}
