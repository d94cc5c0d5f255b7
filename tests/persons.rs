//! People, and not sockets: how they are there, what they have chosen, and whom nobody is to see. On two instances.

mod harness;

use std::time::Duration;

use harness::{Client, DEADLINE, Instance, Level, Pair, Redis, eventually, holds_within, token};
use serde_json::{Value, json};

/// What REST says of a user, on the second instance.
async fn by_rest(pair: &Pair, name: &str) -> Value {
    // Null while Redis has just lost its memory.
    pair.two.rest().get(&format!("/v1/users/{name}")).await.body
}

const QUICK_TO_IDLE: [(&str, &str); 2] =
    [("ROLLCALL__PRESENCE__IDLE_AFTER_MS", "1000"), ("ROLLCALL__PRESENCE__AWAY_AFTER_MS", "2500")];

/// The statuses that a watcher has been told of a member, one after the other.
fn statuses(watcher: &Client, channel: &str, user: &str) -> Vec<String> {
    let of_user = |list| watcher.changes(channel, list).into_iter().filter(|change| change.frame["user"] == user);
    of_user("join").chain(of_user("update")).map(|change| change.frame["status"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_activity_one_is_idle_and_then_away_and_each_is_told_once() {
    let pair = Pair::start(&QUICK_TO_IDLE).await;
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("room:1", Level::Users).await.unwrap();
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    ann.join("room:1", json!({"n": 1})).await.unwrap();
    watcher.until("away", |watcher| watcher.member("room:1", "ann")["status"] == "away").await;
    assert_eq!(statuses(&watcher, "room:1", "ann"), ["online", "idle", "away"]);
    ann.op(json!({"op": "active"})).await.unwrap();
    watcher.until("online again", |watcher| watcher.member("room:1", "ann")["status"] == "online").await;
    let member = watcher.member("room:1", "ann");
    assert_eq!((&member["state"], &member["connections"]), (&json!({"n": 1}), &json!(1)));
    let user = by_rest(&pair, "ann").await;
    assert!(user["last_active"].as_u64().unwrap() >= user["since"].as_u64().unwrap(), "{user}");
    assert!(watcher.changes("room:1", "leave").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_devices_are_one_person_and_only_what_they_are_together_is_told() {
    let pair = Pair::start(&QUICK_TO_IDLE).await;
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("room:1", Level::Users).await.unwrap();
    let laptop = Client::hello_as(&pair.one.url(), "ann").await;
    laptop.join("room:1", json!({"on": "laptop"})).await.unwrap();
    // The phone is not in the room, and on another instance.
    let phone = Client::hello_as(&pair.two.url(), "ann").await;
    let awake = tokio::time::Instant::now();
    while awake.elapsed() < Duration::from_secs(4) {
        phone.op(json!({"op": "active"})).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(statuses(&watcher, "room:1", "ann"), ["online"], "she is active on the phone");
    assert_eq!(by_rest(&pair, "ann").await["status"], "online");
    // With the phone goes what it said of her.
    phone.bye().await.unwrap();
    watcher.until("away", |watcher| watcher.member("room:1", "ann")["status"] == "away").await;
    assert_eq!(statuses(&watcher, "room:1", "ann").last().unwrap(), "away");
    assert!(watcher.changes("room:1", "leave").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_status_is_the_persons_on_all_devices_and_lasts_until_its_time() {
    let pair = Pair::start(&[]).await;
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("room:1", Level::Users).await.unwrap();
    let laptop = Client::hello_as(&pair.one.url(), "ann").await;
    laptop.join("room:1", json!({"on": "laptop"})).await.unwrap();
    let phone = Client::hello_as(&pair.two.url(), "ann").await;
    phone.op(json!({"op": "status", "status": "busy", "text": "in a call"})).await.unwrap();
    watcher.until("busy", |watcher| watcher.member("room:1", "ann")["status"] == "busy").await;
    let user = by_rest(&pair, "ann").await;
    assert_eq!((&user["status"], &user["text"]), (&json!("busy"), &json!("in a call")));
    // Choosing is no news of the state, and neither is anybody's coming.
    assert_eq!(watcher.member("room:1", "ann")["state"], json!({"on": "laptop"}));

    // It lasts though all connections go.
    laptop.bye().await.unwrap();
    phone.bye().await.unwrap();
    watcher.until("gone", |watcher| watcher.users("room:1").is_empty()).await;
    let again = Client::hello_as(&pair.two.url(), "ann").await;
    again.join("room:1", json!({})).await.unwrap();
    watcher.until("busy again", |watcher| watcher.member("room:1", "ann")["status"] == "busy").await;
    assert_eq!(statuses(&watcher, "room:1", "ann"), ["online", "busy", "busy"], "never online in between");

    let until = rollcall::domain::time::wall_now_ms() + 1_500;
    again.op(json!({"op": "status", "status": "away", "until": until})).await.unwrap();
    watcher.until("away", |watcher| watcher.member("room:1", "ann")["status"] == "away").await;
    watcher.until("by the devices again", |watcher| watcher.member("room:1", "ann")["status"] == "online").await;
    assert!(rollcall::domain::time::wall_now_ms() >= until);
    again.op(json!({"op": "status", "status": "idle"})).await.unwrap();
    again.op(json!({"op": "status", "status": null})).await.unwrap();
    watcher.until("automatic", |watcher| watcher.member("room:1", "ann")["status"] == "online").await;
    assert_eq!(by_rest(&pair, "ann").await.get("text"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_chosen_survives_a_redis_that_lost_its_memory() {
    let pair = Pair::start(&[]).await;
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("room:1", Level::Users).await.unwrap();
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    ann.join("room:1", json!({})).await.unwrap();
    ann.op(json!({"op": "status", "status": "busy"})).await.unwrap();
    ann.op(json!({"op": "update", "state": {"mood": "fine"}})).await.unwrap();
    watcher.until("busy", |watcher| watcher.member("room:1", "ann")["status"] == "busy").await;
    let ghost = Client::hello_as(&pair.one.url(), "ghost").await;
    ghost.op(json!({"op": "status", "status": "invisible"})).await.unwrap();
    ghost.join("room:1", json!({})).await.unwrap();

    pair.redis.flush().await;
    eventually(DEADLINE, async || {
        let (ann, ghost) = (by_rest(&pair, "ann").await, by_rest(&pair, "ghost").await);
        ann["status"] == "busy" && ann["state"]["mood"] == "fine" && ghost["status"] == "invisible"
    })
    .await;
    assert_eq!(watcher.users("room:1"), ["ann"]);
    assert_eq!(statuses(&watcher, "room:1", "ann"), ["online", "busy"]);
    assert_eq!(watcher.changes("room:1", "join").len(), 1, "the ghost was never shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_goes_through_a_resume_on_another_instance_without_an_event() {
    let pair = Pair::start(&QUICK_TO_IDLE).await;
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("room:1", Level::Connections).await.unwrap();
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    ann.join("room:1", json!({})).await.unwrap();
    watcher
        .until("away", |watcher| {
            watcher.view("room:1").unwrap().members().values().any(|member| member["status"] == "away")
        })
        .await;
    let before = watcher.view("room:1").unwrap().version().1;
    let ann = ann.resume_on(&pair.two.url(), &token("ann", json!({}))).await;
    assert_eq!(ann.welcome()["resumed"], true);
    ann.ping().await.unwrap();
    // Somebody else's coming is the next that happens.
    let ben = Client::hello_as(&pair.one.url(), "ben").await;
    ben.join("room:1", json!({})).await.unwrap();
    watcher.until("ben", |watcher| watcher.view("room:1").unwrap().members().len() == 2).await;
    assert_eq!(watcher.view("room:1").unwrap().version().1, before + 1);
    ann.op(json!({"op": "active"})).await.unwrap();
    watcher
        .until("online", |watcher| {
            watcher.view("room:1").unwrap().members().values().all(|member| member["status"] == "online")
        })
        .await;
}

/// Whether a client was told of all these users.
fn told_of(client: &Client, users: &[&str]) -> bool {
    users.iter().all(|user| last_told_of(client, user).is_some())
}

fn is_told(client: &Client, user: &str, status: &str) -> bool {
    last_told_of(client, user).is_some_and(|entry| entry["status"] == status)
}

fn last_told_of(client: &Client, user: &str) -> Option<Value> {
    let events = client.events("users");
    let lists = events.iter().filter_map(|event| event.frame["users"].as_array());
    lists.flatten().rfind(|entry| entry["user"] == user).cloned()
}

/// Everything that a client was sent, without what differs in every run, and when.
async fn trace(pair: &Pair, early: &Client, with_ghost: bool) -> Vec<Value> {
    let room = if with_ghost { "room:a" } else { "room:b" };
    let ghost = if with_ghost {
        let ghost = Client::hello_as(&pair.one.url(), "ghost").await;
        early.until("the ghost as everybody", |early| is_told(early, "ghost", "online")).await;
        ghost.op(json!({"op": "status", "status": "invisible", "text": "hush"})).await.unwrap();
        ghost.bye().await.unwrap();
        Some(())
    } else {
        None
    };
    // What was before has been told where the observer will be: otherwise she would hear the end of it.
    let are_gone = |early: &Client| is_told(early, "ghost", "offline") && is_told(early, "other", "offline");
    early.until("nobody of before", are_gone).await;
    let observer = Client::hello_as(&pair.two.url(), "observer").await;
    observer.join_watching(room, json!({})).await.unwrap();
    observer.until("herself", |observer| observer.users(room) == ["observer"]).await;
    // By name, with everybody, and by the name of the channel as a pattern.
    observer.op(json!({"op": "watch", "users": ["ghost"]})).await.unwrap();
    observer.op(json!({"op": "watch", "all_users": true})).await.unwrap();
    observer.op(json!({"op": "watch", "pattern": room})).await.unwrap();
    observer
        .until("all of them have begun", |observer| {
            !observer.events("channels").is_empty() && told_of(observer, &["ghost", "observer"])
        })
        .await;
    let mut answers = Vec::new();
    // The ghost comes, joins, changes, types its state, breaks, comes back and goes.
    if ghost.is_some() {
        let ghost = Client::hello_as(&pair.one.url(), "ghost").await;
        let joined = ghost.join(room, json!({"boo": true})).await.unwrap();
        // To oneself the channel looks as it does to others.
        ghost.watch(room, Level::Users).await.unwrap();
        assert_eq!(joined["version"], 1, "that of what others see");
        ghost.until("the others", |ghost| ghost.users(room) == ["observer"]).await;
        ghost.update(room, json!({"boo": 2})).await.unwrap();
        ghost.op(json!({"op": "active"})).await.unwrap();
        answers.push(observer.get(room).await.unwrap());
        answers.push(observer.get_users(&["ghost", "observer"]).await.unwrap());
        let ghost = ghost.resume_on(&pair.two.url(), &token("ghost", json!({}))).await;
        assert_eq!((&ghost.welcome()["resumed"], &ghost.welcome()["channels"]), (&json!(true), &json!([room])));
        let own = ghost.get_users(&["ghost"]).await.unwrap();
        assert_eq!(
            (&own["users"]["ghost"]["status"], &own["users"]["ghost"]["text"]),
            (&json!("invisible"), &json!("hush"))
        );
        ghost.leave(room).await.unwrap();
        ghost.join(room, json!({})).await.unwrap();
        let listed = pair.one.rest().get("/v1/users").await.ok();
        let ghost_listed = listed["users"].as_array().unwrap().iter().find(|one| one["user"] == "ghost").cloned();
        assert_eq!(ghost_listed.unwrap()["status"], "invisible");
        let truth = by_rest(pair, "ghost").await;
        assert_eq!((&truth["status"], &truth["channels"]), (&json!("invisible"), &json!([room])));
        ghost.bye().await.unwrap();
        eventually(DEADLINE, async || by_rest(pair, "ghost").await["status"] == "offline").await;
    } else {
        answers.push(observer.get(room).await.unwrap());
        answers.push(observer.get_users(&["ghost", "observer"]).await.unwrap());
    }
    let other = Client::hello_as(&pair.one.url(), "other").await;
    other.join(room, json!({})).await.unwrap();
    observer
        .until("the other", |observer| observer.users(room) == ["observer", "other"] && told_of(observer, &["other"]))
        .await;
    answers.push(observer.get(room).await.unwrap());
    answers.push(observer.get_users(&["ghost"]).await.unwrap());
    observer.op(json!({"op": "bye"})).await.unwrap();
    other.bye().await.unwrap();
    eventually(DEADLINE, async || by_rest(pair, "other").await["status"] == "offline").await;
    // Which people come in one frame is a matter of the moment, and so is whether what watches in two ways is told first in the one.
    let frames = observer.received().into_iter().map(|received| received.frame);
    let events: Vec<Value> = frames.filter(|frame| frame.get("event").is_some()).collect();
    let of_people = |frame: &&Value| frame["event"] == "users";
    let people = events.iter().filter(of_people).flat_map(|frame| frame["users"].as_array().cloned().unwrap());
    let by_pattern = events.iter().filter(|frame| frame.get("pattern").is_some()).cloned();
    let others = events.iter().filter(|frame| !of_people(frame) && frame.get("pattern").is_none()).cloned();
    let text =
        Value::Array(others.chain(by_pattern).chain(people).chain(answers).collect()).to_string().replace(room, "room");
    let mut all: Value = serde_json::from_str(&text).unwrap();
    forget_times(&mut all);
    all.as_array().unwrap().clone()
}

fn forget_times(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                match name.as_str() {
                    // Whether there is one is compared, and when is not: this is another moment.
                    "time" | "since" | "last_seen" | "last_active" => *value = json!("some time"),
                    _ => forget_times(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(forget_times),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_cannot_tell_whether_somebody_invisible_is_there() {
    let pair = Pair::start(&[]).await;
    // Once nobody has been there at all, and once somebody whom nobody is to see; the person was seen once before in both.
    let seen = Client::hello_as(&pair.one.url(), "ghost").await;
    seen.bye().await.unwrap();
    eventually(DEADLINE, async || by_rest(&pair, "ghost").await["last_seen"].is_u64()).await;
    let last_seen = by_rest(&pair, "ghost").await["last_seen"].clone();
    let early = Client::hello_as(&pair.two.url(), "early").await;
    early.op(json!({"op": "watch", "users": ["ghost", "other"]})).await.unwrap();
    let without = trace(&pair, &early, false).await;
    let with = trace(&pair, &early, true).await;
    assert_eq!(with, without);
    assert!(with.len() >= 6, "{with:#?}");
    // Choosing it was a goodbye to others, and what came after it is not told.
    let told = Client::hello_as(&pair.two.url(), "asker").await.get_users(&["ghost"]).await.unwrap();
    assert!(told["users"]["ghost"]["last_seen"].as_u64() >= last_seen.as_u64(), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn becoming_invisible_is_a_leave_and_becoming_visible_a_join() {
    let pair = Pair::start(&[]).await;
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("room:1", Level::Users).await.unwrap();
    let laptop = Client::hello_as(&pair.one.url(), "ann").await;
    laptop.join("room:1", json!({"on": "laptop"})).await.unwrap();
    let phone = Client::hello_as(&pair.two.url(), "ann").await;
    phone.join("room:1", json!({"on": "phone"})).await.unwrap();
    watcher.until("two devices", |watcher| watcher.member("room:1", "ann")["connections"] == 2).await;
    laptop.op(json!({"op": "status", "status": "invisible"})).await.unwrap();
    watcher.until("gone", |watcher| watcher.users("room:1").is_empty()).await;
    let left = watcher.changes("room:1", "leave");
    assert_eq!((left.len(), left[0].frame["reason"].as_str()), (1, Some("left")));
    eventually(DEADLINE, async || {
        let ann = by_rest(&pair, "ann").await;
        ann["status"] == "invisible" && ann["connections"].as_array().unwrap().len() == 2
    })
    .await;
    // A change of what nobody sees is none.
    phone.update("room:1", json!({"on": "the moon"})).await.unwrap();
    phone.op(json!({"op": "status", "status": null})).await.unwrap();
    watcher.until("back", |watcher| watcher.member("room:1", "ann")["connections"] == 2).await;
    assert_eq!(watcher.changes("room:1", "join").len(), 2);
    assert_eq!(watcher.member("room:1", "ann")["state"], json!({"on": "the moon"}));
    phone.bye().await.unwrap();
    laptop.bye().await.unwrap();
    watcher.until("gone again", |watcher| watcher.users("room:1").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_invisible_leave_like_all_others_when_their_instance_dies() {
    let mut pair = Pair::start(&[("ROLLCALL__PRESENCE__GRACE_MS", "500")]).await;
    let ghost = Client::hello_as(&pair.one.url(), "ghost").await;
    ghost.op(json!({"op": "status", "status": "invisible"})).await.unwrap();
    ghost.join("room:1", json!({})).await.unwrap();
    assert_eq!(by_rest(&pair, "ghost").await["status"], "invisible");
    pair.one.kill();
    let gone =
        holds_within(Duration::from_secs(30), async || by_rest(&pair, "ghost").await["status"] == "offline").await;
    assert!(gone.is_some());
    assert_eq!(by_rest(&pair, "ghost").await["channels"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_app_says_of_a_person_is_kept_until_it_is_erased() {
    let pair = Pair::start(&[]).await;
    let rest = pair.one.rest();
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    ann.op(json!({"op": "update", "state": {"title": "Dr", "old": 1}})).await.unwrap();
    ann.op(json!({"op": "update", "state": {"old": null}})).await.unwrap();
    ann.bye().await.unwrap();
    eventually(DEADLINE, async || {
        let ann = by_rest(&pair, "ann").await;
        ann["status"] == "offline" && ann["state"] == json!({"title": "Dr"})
    })
    .await;
    let patch = json!({"state": {"town": "Ulm"}, "status": "away", "text": "until Monday"});
    assert_eq!(rest.patch("/v1/users/ann", patch).await.status, 204);
    let told = by_rest(&pair, "ann").await;
    assert_eq!((&told["state"], &told["text"]), (&json!({"title": "Dr", "town": "Ulm"}), &json!("until Monday")));
    assert_eq!(rest.delete("/v1/users/ann").await.status, 204);
    let told = by_rest(&pair, "ann").await;
    assert!(["state", "text", "last_seen", "last_active"].iter().all(|name| told.get(name).is_none()), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_choose_and_what_is_no_status_is_told_so() {
    let pair = Pair::start(&[]).await;
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    for (operation, code) in [
        (json!({"op": "status"}), "bad_request"),
        (json!({"op": "status", "status": "asleep"}), "bad_request"),
        (json!({"op": "status", "status": 1}), "bad_request"),
        (json!({"op": "status", "status": "busy", "until": -1}), "bad_request"),
        (json!({"op": "status", "status": "busy", "until": "soon"}), "bad_request"),
        (json!({"op": "status", "status": null, "until": 5}), "bad_request"),
        (json!({"op": "status", "status": "busy", "text": "x".repeat(257)}), "bad_request"),
        (json!({"op": "status", "status": "busy", "text": "a\nb"}), "bad_request"),
        (json!({"op": "status", "status": "busy", "colour": "red"}), "bad_request"),
        (json!({"op": "active", "now": true}), "bad_request"),
        (json!({"op": "update", "state": {"a": "x".repeat(2_000)}}), "too_large"),
        (json!({"op": "update", "state": []}), "bad_request"),
    ] {
        let refused = ann.op(operation.clone()).await.unwrap_err();
        assert_eq!(refused.code, code, "{operation}");
    }
    let rest = pair.two.rest();
    for body in
        [json!({}), json!({"status": "asleep"}), json!({"text": "x"}), json!({"state": 1}), json!({"nobody": 1})]
    {
        assert_eq!(rest.patch("/v1/users/ann", body.clone()).await.status, 400, "{body}");
    }
    assert_eq!(rest.patch("/v1/users/ann", json!({"state": {"a": "x".repeat(2_000)}})).await.status, 413);
    assert_eq!(by_rest(&pair, "ann").await.get("state"), None);

    let meek = Client::connect(&pair.one.url()).await;
    meek.hello(&token("meek", json!({"can": {"join": ["**"]}}))).await.unwrap();
    for operation in [json!({"op": "status", "status": "busy"}), json!({"op": "update", "state": {"a": 1}})] {
        assert_eq!(meek.op(operation).await.unwrap_err().code, "forbidden");
    }
    let nobody = Client::connect(&pair.one.url()).await;
    nobody.op(json!({"op": "hello", "token": token("ann", json!({})), "present": false})).await.unwrap();
    for operation in [json!({"op": "status", "status": "busy"}), json!({"op": "active"})] {
        assert_eq!(nobody.op(operation).await.unwrap_err().code, "forbidden");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_nothing_can_be_chosen_and_nobody_changes() {
    let mut redis = Redis::start().await;
    let space = redis.space();
    let one = Instance::start(&space).await;
    let ann = Client::hello_as(&one.url(), "ann").await;
    redis.pause();
    let refused = ann.op(json!({"op": "status", "status": "busy"})).await.unwrap_err();
    assert_eq!(refused.code, "unavailable");
    redis.resume();
    eventually(DEADLINE, async || ann.op(json!({"op": "status", "status": "away"})).await.is_ok()).await;
}
