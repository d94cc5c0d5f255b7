//! What people see when an instance or Redis fails. Times are short ones of the same proportions as the defaults.

mod harness;

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use harness::{Client, Instance, Level, Received, Redis, Signal, eventually, holds_within, segment, token};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const RENEW: Duration = Duration::from_millis(300);
const LEASE: Duration = Duration::from_millis(2_000);
const GRACE: Duration = Duration::from_millis(4_000);
/// For sweeping, reading and telling, on a busy machine.
const SLACK: Duration = Duration::from_millis(2_000);
const ROOMS: [&str; 2] = ["room:1", "room/2"];

/// Two instances that share one Redis, with a watcher of both rooms on each.
struct Pair {
    watchers: Vec<Client>,
    one: Instance,
    two: Instance,
    redis: Redis,
}

impl Pair {
    async fn start() -> Self {
        let redis = Redis::start().await;
        let mut space = redis.space();
        space.extend([
            ("ROLLCALL__PRESENCE__GRACE_MS", GRACE.as_millis().to_string()),
            ("ROLLCALL__PRESENCE__SETTLE_MS", "1000".to_owned()),
            ("ROLLCALL__PRESENCE__INSTANCE_RENEW_MS", RENEW.as_millis().to_string()),
            ("ROLLCALL__PRESENCE__INSTANCE_LEASE_MS", LEASE.as_millis().to_string()),
        ]);
        let (one, two) = tokio::join!(Instance::start(&space), Instance::start(&space));
        let mut watchers = Vec::new();
        for (name, instance) in [("watcher-1", &one), ("watcher-2", &two)] {
            let watcher = Client::hello_as(&instance.url(), name).await;
            for room in ROOMS {
                watcher.watch(room, Level::Users).await.unwrap();
            }
            watchers.push(watcher);
        }
        Self { watchers, one, two, redis }
    }

    /// People on one instance, each in both rooms, whom both watchers see.
    async fn people(&self, instance: &Instance, names: &[&str]) -> BTreeMap<String, Client> {
        let mut people = BTreeMap::new();
        for name in names {
            let client = Client::hello_as(&instance.url(), name).await;
            for room in ROOMS {
                client.join(room, json!({"name": name})).await.unwrap();
            }
            people.insert((*name).to_owned(), client);
        }
        for (watcher, room) in self.watchers.iter().flat_map(|watcher| ROOMS.map(|room| (watcher, room))) {
            watcher.until("everybody", |watcher| names.iter().all(|name| watcher.sees(room, name))).await;
        }
        people
    }

    /// Forgets nothing, but tells what is new from here on.
    fn mark(&self) -> Instant {
        Instant::now()
    }

    /// Every watcher's joins and leaves in every room since then are these users' leaves, once each, and no join; nobody got another snapshot.
    fn assert_only_left(&self, since: Instant, left: &[&str]) {
        for watcher in &self.watchers {
            for room in ROOMS {
                let who = format!("{} in {room}", watcher.welcome()["user"]);
                assert_eq!(changes_since(watcher, room, "join", since), [""; 0], "joins that {who} was told of");
                assert_eq!(changes_since(watcher, room, "leave", since), left, "leaves that {who} was told of");
                assert_eq!(watcher.snapshots(room), [1], "{who}");
            }
        }
    }

    /// REST of both instances shows exactly these, and does not call it stale.
    async fn shows(&self, users: &[&str]) -> bool {
        let asked = [&self.one, &self.two].into_iter().flat_map(|instance| ROOMS.map(|room| (instance, room)));
        let answers = asked.map(async |(instance, room)| {
            let answer = instance.rest().get(&format!("/v1/channels/{}/members?limit=1000", segment(room))).await;
            let members = answer.body["members"].as_array().cloned().unwrap_or_default();
            let mut shown: Vec<_> = members.iter().filter_map(|member| member["user"].as_str()).collect();
            shown.sort_unstable();
            answer.status == 200 && answer.body["stale"] == false && shown == users
        });
        join_all(answers).await.into_iter().all(|is_right| is_right)
    }

    /// Something happens that everybody is told of: who hears it has heard all that came before.
    async fn barrier(&self, instance: &Instance, name: &str) {
        let client = Client::hello_as(&instance.url(), name).await;
        for room in ROOMS {
            client.join(room, json!({})).await.unwrap();
        }
        for (watcher, room) in self.watchers.iter().flat_map(|watcher| ROOMS.map(|room| (watcher, room))) {
            watcher.until("the barrier", |watcher| watcher.sees(room, name)).await;
        }
        client.bye().await.unwrap();
        for (watcher, room) in self.watchers.iter().flat_map(|watcher| ROOMS.map(|room| (watcher, room))) {
            watcher.until("no barrier", |watcher| !watcher.sees(room, name)).await;
        }
    }

    fn epochs(&self) -> Vec<String> {
        let views = self.watchers.iter().flat_map(|watcher| ROOMS.map(|room| watcher.view(room).unwrap()));
        views.map(|view| view.version().0.to_owned()).collect()
    }

    fn assert_no_panic(&self) {
        self.one.assert_no_panic();
        self.two.assert_no_panic();
    }
}

fn user_of(change: &Received) -> String {
    change.frame["user"].as_str().expect("a user").to_owned()
}

/// The users of one list since then, sorted; barriers left out.
fn changes_since(watcher: &Client, room: &str, list: &str, since: Instant) -> Vec<String> {
    let changes = watcher.changes(room, list).into_iter().filter(|change| change.at >= since);
    let mut users: Vec<_> = changes.map(|change| user_of(&change)).filter(|user| user != "barrier").collect();
    users.sort();
    users
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_killed_instance_who_comes_back_is_no_event_and_who_does_not_is_lost_once_and_in_time() {
    let mut pair = Pair::start().await;
    let names: Vec<String> = (0..10).map(|number| format!("person-{number}")).collect();
    let mut people = pair.people(&pair.one, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // Another device of one who will not come back, elsewhere: the user stays.
    let device = Client::hello_as(&pair.two.url(), "person-9").await;
    for room in ROOMS {
        device.join(room, json!({"on": "another device"})).await.unwrap();
    }
    let watcher_of_one = pair.watchers.remove(0);
    let watcher = &pair.watchers[0];
    watcher.until("two devices", |watcher| watcher.member("room/2", "person-9")["connections"] == 2).await;

    let killed = pair.mark();
    pair.one.kill();
    let url = pair.two.url();
    let back = join_all((0..7).map(|number| {
        let (name, url) = (format!("person-{number}"), url.clone());
        let client = people.remove(&name).unwrap();
        async move {
            client.until_closed(SECOND).await;
            sleep(Duration::from_millis(200 * number)).await;
            let client = client.resume_on(&url, &token(&name, json!({}))).await;
            assert_eq!(client.welcome()["resumed"], true, "{}", client.welcome());
            assert_eq!(client.welcome()["channels"].as_array().unwrap().len(), 2);
            client
        }
    }))
    .await;
    for room in ROOMS {
        let gone = |watcher: &Client| !watcher.sees(room, "person-7") && !watcher.sees(room, "person-8");
        watcher.until("the lost ones left", gone).await;
        for leave in watcher.changes(room, "leave") {
            assert_eq!(leave.frame["reason"], "instance_lost", "{}", leave.frame);
            let after = leave.at - killed;
            assert!(after >= GRACE, "{} left {after:?} after the kill", leave.frame);
            assert!(after <= GRACE + 2 * RENEW + SLACK, "{} left {after:?} after the kill", leave.frame);
        }
        watcher
            .until("one device", |watcher| {
                let member = watcher.member(room, "person-9");
                member["connections"] == 1 && member["state"]["on"] == "another device"
            })
            .await;
    }
    // What the two watchers share is asserted for the one that is left; the other one comes back to the same.
    sleep(SECOND).await;
    pair.assert_only_left(killed, &["person-7", "person-8"]);
    for client in &back {
        client.update("room:1", json!({"back": true})).await.unwrap();
    }
    let watcher_of_one = watcher_of_one.resume_on(&url, &token("watcher-1", json!({}))).await;
    watcher_of_one.until("the same as the other", |one| one.users("room:1") == watcher.users("room:1")).await;
    assert_eq!(pair.two.rest().users_in("room:1").await, watcher.users("room:1"));
    pair.two.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_redis_was_emptied_nobody_has_left_and_versions_go_on_from_the_epoch_before() {
    let pair = Pair::start().await;
    let ann = pair.people(&pair.one, &["ann"]).await.remove("ann").unwrap();
    let ben = pair.people(&pair.two, &["ben"]).await.remove("ben").unwrap();
    let zoe = pair.people(&pair.one, &["zoe"]).await.remove("zoe").unwrap();
    for room in ROOMS {
        let path = format!("/v1/channels/{}/members/device", segment(room));
        assert_eq!(pair.two.rest().put(&path, json!({"state": {"n": 1}, "ttl_ms": 60_000})).await.status, 204);
    }
    pair.watchers[0].until("the lease", |watcher| ROOMS.iter().all(|room| watcher.sees(room, "device"))).await;
    pair.watchers[1].until("the lease", |watcher| ROOMS.iter().all(|room| watcher.sees(room, "device"))).await;
    // One whose grace runs while it happens, and who does not come back.
    let broken = Instant::now();
    zoe.drop_socket().await;
    sleep(SECOND).await;

    let (before, epochs) = (pair.mark(), pair.epochs());
    pair.redis.command(&["FLUSHALL"]).await;
    eventually(10 * SECOND, || async {
        pair.shows(&["ann", "ben", "device", "zoe"]).await || pair.shows(&["ann", "ben", "device"]).await
    })
    .await;
    for (watcher, room) in pair.watchers.iter().flat_map(|watcher| ROOMS.map(|room| (watcher, room))) {
        watcher.until("zoe's end", |watcher| !watcher.sees(room, "zoe")).await;
        let leave = watcher.changes(room, "leave").pop().unwrap();
        assert_eq!(leave.frame["reason"], "timeout", "{}", leave.frame);
        let after = leave.at - broken;
        assert!(after >= GRACE - SECOND / 10, "left after {after:?}");
        // What passed before the instance had heard of the new epoch may count again, by the settling at most.
        assert!(after <= GRACE + 2 * SECOND + SLACK, "left after {after:?}");
    }
    pair.barrier(&pair.two, "barrier").await;
    pair.assert_only_left(before, &["zoe"]);
    for (old, new) in epochs.iter().zip(pair.epochs()) {
        assert_ne!(*old, new, "the numbers are new, and the delta over the change said from where it goes on");
    }
    assert!(pair.shows(&["ann", "ben", "device"]).await);
    for (client, at) in [(&ann, "one"), (&ben, "two")] {
        client.update("room:1", json!({"still": at})).await.unwrap();
    }
    let again = ann.resume_on(&pair.two.url(), &token("ann", json!({}))).await;
    assert_eq!(again.welcome()["resumed"], true);
    pair.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_redis_comes_back_empty_the_living_are_shown_and_only_who_left_meanwhile_has_left() {
    let mut pair = Pair::start().await;
    let mut people = pair.people(&pair.one, &["ann", "eve", "zoe"]).await;
    people.extend(pair.people(&pair.two, &["ben", "max"]).await);
    let before = pair.mark();
    pair.redis.stop().await;
    // Who says goodbye while Redis is away has left; who breaks has its grace; who comes back to the same instance is there.
    let eve = people.remove("eve").unwrap();
    let goodbye = tokio::spawn(async move { eve.bye().await });
    people["zoe"].drop_socket().await;
    sleep(2 * SECOND).await;
    for watcher in &pair.watchers {
        assert!(watcher.closed().is_none());
    }
    pair.assert_only_left(before, &[]);

    pair.redis.start_again().await;
    let back = Instant::now();
    goodbye.await.unwrap().unwrap();
    // Something is told while the new epoch settles; that eve has gone is known only when it has settled.
    for room in ROOMS {
        people["ann"].update(room, json!({"settles": true})).await.unwrap();
    }
    eventually(10 * SECOND, || async {
        let living = ["ann", "ben", "max"];
        pair.shows(&living).await || pair.shows(&["ann", "ben", "max", "zoe"]).await
    })
    .await;
    println!("shown again after {:?}", back.elapsed());
    for (watcher, room) in pair.watchers.iter().flat_map(|watcher| ROOMS.map(|room| (watcher, room))) {
        watcher.until("the end of zoe", |watcher| !watcher.sees(room, "zoe") && !watcher.sees(room, "eve")).await;
    }
    pair.barrier(&pair.one, "barrier").await;
    pair.assert_only_left(before, &["eve", "zoe"]);
    assert!(pair.shows(&["ann", "ben", "max"]).await);
    people["ann"].leave("room:1").await.unwrap();
    pair.watchers[1].until("ann left", |watcher| !watcher.sees("room:1", "ann")).await;
    pair.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_frozen_sockets_stay_reads_say_so_and_nobody_leaves() {
    let mut pair = Pair::start().await;
    let mut people = pair.people(&pair.one, &["ann", "zoe"]).await;
    people.extend(pair.people(&pair.two, &["ben"]).await);
    let before = pair.mark();
    pair.redis.pause();
    let paused = Instant::now();
    // A join during the outage waits: it is refused as unavailable, or it succeeds in the end.
    let ben = people.remove("ben").unwrap();
    let joining = tokio::spawn(async move {
        let joined = ben.join("room:late", json!({})).await;
        (ben, joined)
    });
    let rest = pair.one.rest();
    eventually(5 * SECOND, async || rest.get("/readyz").await.body["status"] == "degraded").await;
    println!("degraded after {:?}", paused.elapsed());
    let ready = rest.get("/readyz").await;
    assert_eq!(ready.status, 200, "a balancer must not drop every instance at once");
    assert_eq!(rest.get("/livez").await.status, 200);
    for (room, known) in [("room:1", true), ("room:unknown", false)] {
        let answer = rest.get(&format!("/v1/channels/{}/members", segment(room))).await;
        let (status, stale) = (answer.status, &answer.body["stale"]);
        if known {
            assert_eq!((status, stale), (200, &json!(true)), "watched here: {}", answer.text);
            assert_eq!(answer.body["members"].as_array().unwrap().len(), 3);
        } else {
            assert_eq!((status, &answer.body["code"]), (503, &json!("unavailable")), "{}", answer.text);
        }
    }
    people["ann"].ping().await.unwrap();
    sleep((5 * SECOND).saturating_sub(paused.elapsed())).await;
    pair.redis.resume();
    println!("frozen for {:?}", paused.elapsed());

    let (ben, joined) = joining.await.unwrap();
    if let Err(error) = joined {
        assert_eq!(error.code, "unavailable");
        assert!(error.retry_after_ms.is_some());
        // Refused is refused: it does not happen later.
        eventually(5 * SECOND, async || rest.get("/readyz").await.body["status"] == "ready").await;
        eventually(5 * SECOND, async || rest.users_in("room:late").await.is_empty()).await;
        ben.join("room:late", json!({})).await.unwrap();
    }
    eventually(5 * SECOND, async || rest.users_in("room:late").await == ["ben"]).await;
    eventually(5 * SECOND, async || pair.shows(&["ann", "ben", "zoe"]).await).await;
    // Longer than a grace: whoever was thought to be lost would have left by then.
    sleep(GRACE + SECOND).await;
    pair.barrier(&pair.two, "barrier").await;
    pair.assert_only_left(before, &[]);
    for client in people.values().chain(&pair.watchers) {
        assert!(client.closed().is_none(), "{:?}", client.closed());
        client.ping().await.unwrap();
    }
    pair.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_cut_while_changes_go_on_costs_a_delta_over_the_gap_and_no_snapshot() {
    let pair = Pair::start().await;
    let people = pair.people(&pair.one, &["ann", "ben", "zoe"]).await;
    let ann = &people["ann"];
    let before = pair.mark();
    for round in 0..5 {
        let killed = pair.redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert!(matches!(killed, redis::Value::Int(2)), "the feed of each instance: {killed:?}");
        // Some of it is done while nobody hears.
        for step in 0..4 {
            ann.update("room:1", json!({"round": round, "step": step})).await.unwrap();
        }
        let guest = Client::hello_as(&pair.two.url(), &format!("guest-{round}")).await;
        guest.join("room:1", json!({})).await.unwrap();
        guest.leave("room:1").await.unwrap();
        guest.join("room/2", json!({})).await.unwrap();
        for watcher in &pair.watchers {
            watcher
                .until("what happened meanwhile", |watcher| {
                    let state = watcher.member("room:1", "ann")["state"].clone();
                    state["round"] == round && state["step"] == 3 && watcher.sees("room/2", &format!("guest-{round}"))
                })
                .await;
        }
        guest.bye().await.unwrap();
        for watcher in &pair.watchers {
            watcher.until("the guest has gone", |watcher| !watcher.sees("room/2", &format!("guest-{round}"))).await;
        }
        // A feed that comes back counts again only when it is there.
        eventually(5 * SECOND, || async {
            let listed = pair.redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
            match listed {
                redis::Value::BulkString(listed) => String::from_utf8_lossy(&listed).lines().count() == 2,
                redis::Value::VerbatimString { text, .. } => text.lines().count() == 2,
                other => panic!("a list of clients: {other:?}"),
            }
        })
        .await;
    }
    pair.barrier(&pair.one, "barrier").await;
    for watcher in &pair.watchers {
        for room in ROOMS {
            assert_eq!(watcher.snapshots(room), [1]);
            // Of those who came and went nobody stays, and nobody is told to have left twice: the view checks that.
            let joins = changes_since(watcher, room, "join", before);
            assert_eq!(joins, changes_since(watcher, room, "leave", before));
        }
        assert_eq!(watcher.users("room:1"), ["ann", "ben", "zoe"]);
    }
    assert!(pair.shows(&["ann", "ben", "zoe"]).await);
    pair.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_slept_longer_than_its_lease_takes_nothing_back() {
    let mut pair = Pair::start().await;
    let names = ["ann", "ben", "eve", "zoe"];
    let mut people = pair.people(&pair.one, &names).await;
    let before = pair.mark();
    // The watcher of the sleeper sleeps too; what it is told afterwards must be as little.
    pair.one.signal(Signal::Stop);
    let stopped = Instant::now();
    let mut moved = Vec::new();
    for name in ["ann", "ben"] {
        let client = people.remove(name).unwrap().resume_on(&pair.two.url(), &token(name, json!({}))).await;
        assert_eq!(client.welcome()["resumed"], true);
        moved.push((name, client));
    }
    let version = |value: &Value| (value["epoch"].clone(), value["version"].clone());
    let path = format!("/v1/channels/{}", segment("room/2"));
    let here = version(&pair.two.rest().get(&path).await.ok());
    sleep((LEASE + 2 * RENEW + SECOND / 2).saturating_sub(stopped.elapsed())).await;
    assert!(stopped.elapsed() < GRACE, "eve and zoe are waited for");
    pair.one.signal(Signal::Cont);
    println!("slept for {:?}", stopped.elapsed());

    // Longer than lease and grace: whatever the sleeper takes, loses or lets go of shows by then.
    sleep(LEASE + GRACE + SECOND).await;
    for (name, client) in &moved {
        assert!(client.closed().is_none(), "{name} stays with the instance that has the connection");
        client.update("room:1", json!({"moved": true})).await.unwrap();
        let user = pair.one.rest().get(&format!("/v1/users/{name}")).await.ok();
        assert_eq!(user["connections"].as_array().unwrap().len(), 1);
        assert_eq!(user["connections"][0]["connection"], client.connection());
    }
    for (name, client) in &people {
        // Their sockets lived on: the reborn instance offers them again.
        assert!(client.closed().is_none(), "{name}: {:?}", client.closed());
        client.update("room:1", json!({"awake": true})).await.unwrap();
    }
    assert_eq!(version(&pair.two.rest().get(&path).await.ok()), here, "no event, no version");
    assert!(holds_within(5 * SECOND, || pair.shows(&names)).await.is_some());
    pair.barrier(&pair.one, "barrier").await;
    pair.assert_only_left(before, &[]);
    pair.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_socket_holds_up_a_new_epoch_for_no_longer_than_its_pong_may_take() {
    let mut redis = Redis::start().await;
    let mut space = redis.space();
    space.extend([
        ("ROLLCALL__PRESENCE__SETTLE_MS", "1000".to_owned()),
        ("ROLLCALL__PRESENCE__INSTANCE_RENEW_MS", RENEW.as_millis().to_string()),
        ("ROLLCALL__PRESENCE__INSTANCE_LEASE_MS", LEASE.as_millis().to_string()),
        ("ROLLCALL__PRESENCE__PONG_TIMEOUT_MS", "2000".to_owned()),
    ]);
    let instance = Instance::start(&space).await;
    let ann = Client::hello_as(&instance.url(), "ann").await;
    ann.join("room:1", json!({})).await.unwrap();
    // Its pings go unanswered, which nobody knows before one is sent: with the default settings after 25 s.
    ann.stall();
    redis.stop().await;
    sleep(LEASE + SECOND).await;
    redis.start_again().await;
    let rest = instance.rest();
    eventually(10 * SECOND, async || rest.get("/readyz").await.body["status"] == "ready").await;
    instance.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_whose_socket_has_ended_is_given_up() {
    let mut redis = Redis::start().await;
    let instance = Instance::start(&redis.space()).await;
    let ann = Client::hello_as(&instance.url(), "ann").await;
    redis.pause();
    // It would wait for Redis for five seconds, and overtake its own client if that had come back elsewhere meanwhile.
    let hello = json!({"id": 1, "op": "hello", "token": token("ann", json!({})), "resume": ann.resume_token()});
    let again = Client::connect(&instance.url()).await;
    again.send_text(hello.to_string()).await.unwrap();
    let sockets = async || {
        let metrics = instance.rest().get("/metrics").await.text;
        let count = metrics.lines().find_map(|line| line.strip_prefix("rollcall_sockets ").map(str::to_owned));
        count.expect("sockets are counted")
    };
    eventually(SECOND, async || sockets().await == "2").await;
    again.drop_socket().await;
    eventually(2 * SECOND, async || sockets().await == "1").await;
    redis.resume();
    instance.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_hello_while_redis_is_away_may_say_it_again_on_the_same_socket() {
    let mut redis = Redis::start().await;
    let mut space = redis.space();
    space.push(("ROLLCALL__SERVER__HELLO_TIMEOUT_MS", "1000".to_owned()));
    let instance = Instance::start(&space).await;
    redis.stop().await;
    let client = Client::connect(&instance.url()).await;
    let token = token("ann", json!({}));
    let refused = client.hello(&token).await.unwrap_err();
    assert_eq!(refused.code, "unavailable", "{refused:?}");
    redis.start_again().await;
    sleep(Duration::from_millis(refused.retry_after_ms.expect("it says when to try again").min(500))).await;
    client.hello(&token).await.expect("the socket has stayed");
    // Who does not say it again is closed all the same.
    let silent = Client::connect(&instance.url()).await;
    assert_eq!(silent.until_closed(5 * SECOND).await.code, 4001);
}
