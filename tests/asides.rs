//! What is said in passing, on two instances: who types, to a channel and towards one user, and signals. Nothing of it is kept.

mod harness;

use std::time::Duration;

use futures_util::future::join_all;
use harness::{API_KEY, Client, DEADLINE, Events, Instance, Level, Pair, Redis, eventually, holds_within, token};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Typing that ends by time only when the test has failed long before: whatever ends it is something else.
const LONG: (&str, &str) = ("ROLLCALL__PRESENCE__TYPING_MS", "60000");
const SHORT: (&str, &str) = ("ROLLCALL__PRESENCE__TYPING_MS", "1000");
const ROOM: &str = "room:1";

async fn types(client: &Client, typing: bool) {
    client.op(json!({"op": "typing", "channel": ROOM, "typing": typing})).await.unwrap();
}

async fn types_to(client: &Client, to: &str, typing: bool) {
    client.op(json!({"op": "typing", "to": to, "typing": typing})).await.unwrap();
}

async fn watching(at: &Instance, user: &str, level: Level) -> Client {
    let client = Client::hello_as(&at.url(), user).await;
    client.watch(ROOM, level).await.unwrap();
    client.until("the snapshot", |client| client.snapshots(ROOM) == [1]).await;
    client
}

async fn joined(at: &Instance, user: &str) -> Client {
    let client = Client::hello_as(&at.url(), user).await;
    client.join_watching(ROOM, json!({})).await.unwrap();
    client.until("the snapshot", |client| client.snapshots(ROOM) == [1]).await;
    client
}

/// What a client was told of typing, one after the other: `ann+` has begun, `ann-` has ended.
fn typists(client: &Client) -> Vec<String> {
    let told = |received: harness::Received| {
        let sign = if received.frame["typing"] == true { '+' } else { '-' };
        format!("{}{sign}", received.frame["user"].as_str().unwrap())
    };
    client.events("typing").into_iter().map(told).collect()
}

/// The data of the signals that a client has heard.
fn signals(client: &Client) -> Vec<Value> {
    client.events("signal").into_iter().map(|received| received.frame["data"].clone()).collect()
}

/// Waits until a signal that `speaker` sends now has come to all of these: so has all that was said in the channel before it.
async fn settled(speaker: &Client, listeners: &[&Client]) {
    let mark = json!(harness::fresh("mark"));
    speaker.op(json!({"op": "send", "channel": ROOM, "data": mark})).await.unwrap();
    for listener in listeners {
        listener.until("the mark", |listener| signals(listener).contains(&mark)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_on_all_instances_are_told_that_somebody_begins_and_ends_to_type() {
    let pair = Pair::start(&[LONG]).await;
    let ann = joined(&pair.one, "ann").await;
    let near = watching(&pair.one, "near", Level::Connections).await;
    let far = watching(&pair.two, "far", Level::Users).await;
    let counts = watching(&pair.two, "counts", Level::Occupancy).await;
    let (far_version, watchers) = (far.view(ROOM).unwrap().version().1, [&near, &far, &counts]);
    for _ in 0..3 {
        types(&ann, true).await;
    }
    for watcher in watchers {
        watcher.until("ann types", |watcher| typists(watcher) == ["ann+"]).await;
        let told = watcher.events("typing").remove(0).frame;
        assert_eq!(told, json!({"event": "typing", "channel": ROOM, "user": "ann", "typing": true}));
    }
    types(&ann, false).await;
    types(&ann, false).await;
    settled(&ann, &watchers).await;
    for watcher in watchers {
        assert_eq!(typists(watcher), ["ann+", "ann-"], "a repeat only extends it, and it ends once");
    }
    assert!(typists(&ann).is_empty(), "nobody is told what they say themselves");
    assert_eq!(far.view(ROOM).unwrap().version().1, far_version, "no version changes by it");
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_ends_by_itself_when_it_is_not_repeated() {
    let pair = Pair::start(&[SHORT]).await;
    let ann = joined(&pair.one, "ann").await;
    let far = watching(&pair.two, "far", Level::Users).await;
    let began = Instant::now();
    let mut last = began;
    while began.elapsed() < Duration::from_millis(2_500) {
        last = Instant::now();
        types(&ann, true).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    far.until("it has ended", |far| typists(far) == ["ann+", "ann-"]).await;
    let ended = far.events("typing").pop().unwrap().at;
    let after = ended.saturating_duration_since(last);
    assert!(after >= Duration::from_millis(900), "{after:?} after the last repeat, and not after the first word");
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_ends_with_the_connection_however_it_ends_and_with_the_membership() {
    let pair = Pair::start(&[LONG]).await;
    let far = watching(&pair.two, "far", Level::Users).await;

    let bye = joined(&pair.one, "bye").await;
    types(&bye, true).await;
    far.until("bye types", |far| typists(far) == ["bye+"]).await;
    bye.bye().await.unwrap();
    far.until("bye has ended", |far| typists(far) == ["bye+", "bye-"]).await;

    // The grace is 15 s: it is the socket that ends it, and not the leave.
    let broken = joined(&pair.one, "broken").await;
    types(&broken, true).await;
    far.until("broken types", |far| typists(far).last().is_some_and(|last| last == "broken+")).await;
    broken.drop_socket().await;
    far.until("broken has ended", |far| typists(far).last().is_some_and(|last| last == "broken-")).await;
    assert!(far.sees(ROOM, "broken"));

    let leaver = joined(&pair.one, "leaver").await;
    types(&leaver, true).await;
    far.until("leaver types", |far| typists(far).last().is_some_and(|last| last == "leaver+")).await;
    leaver.leave(ROOM).await.unwrap();
    far.until("leaver has ended", |far| typists(far).last().is_some_and(|last| last == "leaver-")).await;
    let refused = leaver.op(json!({"op": "typing", "channel": ROOM, "typing": true})).await.unwrap_err();
    assert_eq!(refused.code, "conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_ends_though_the_instance_of_who_types_was_killed() {
    let mut pair = Pair::start(&[SHORT]).await;
    let ann = joined(&pair.one, "ann").await;
    let far = watching(&pair.two, "far", Level::Users).await;
    let mia = Client::hello_as(&pair.two.url(), "mia").await;
    types(&ann, true).await;
    types_to(&ann, "mia", true).await;
    far.until("ann types", |far| typists(far) == ["ann+"]).await;
    mia.until("ann types to mia", |mia| typists(mia) == ["ann+"]).await;
    pair.one.kill();
    far.until("it has ended", |far| typists(far) == ["ann+", "ann-"]).await;
    mia.until("it has ended", |mia| typists(mia) == ["ann+", "ann-"]).await;
    assert!(far.sees(ROOM, "ann"), "long before she is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_later_is_told_nothing_of_what_was_said_before() {
    let pair = Pair::start(&[LONG]).await;
    let ann = joined(&pair.one, "ann").await;
    let far = watching(&pair.two, "far", Level::Users).await;
    types(&ann, true).await;
    ann.op(json!({"op": "send", "channel": ROOM, "data": "early"})).await.unwrap();
    far.until("all of it", |far| typists(far) == ["ann+"] && signals(far) == ["early"]).await;
    let late = watching(&pair.two, "late", Level::Users).await;
    let elsewhere = watching(&pair.one, "elsewhere", Level::Users).await;
    types(&ann, false).await;
    settled(&ann, &[&far, &late, &elsewhere]).await;
    assert_eq!(typists(&far), ["ann+", "ann-"]);
    for late in [&late, &elsewhere] {
        assert!(typists(late).is_empty(), "neither the beginning nor the end: {:?}", typists(late));
        assert_eq!(signals(late).len(), 1, "the mark alone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_devices_somebody_types_until_the_last_stops() {
    let pair = Pair::start(&[LONG]).await;
    let laptop = joined(&pair.one, "ann").await;
    let phone = joined(&pair.two, "ann").await;
    let far = watching(&pair.two, "far", Level::Users).await;
    types(&laptop, true).await;
    far.until("ann types", |far| typists(far) == ["ann+"]).await;
    types(&phone, true).await;
    types(&laptop, false).await;
    settled(&laptop, &[&far, &phone]).await;
    assert_eq!(typists(&far), ["ann+"]);
    types(&phone, false).await;
    settled(&laptop, &[&far, &phone]).await;
    assert_eq!(typists(&far), ["ann+", "ann-"]);
    assert_eq!(typists(&phone), ["ann+", "ann-"], "who was told of the beginning is told of the end");
    assert!(typists(&laptop).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_of_a_user_are_told_who_types_to_them_and_nobody_else_is() {
    let pair = Pair::start(&[LONG]).await;
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    let laptop = Client::hello_as(&pair.one.url(), "ben").await;
    let phone = Client::hello_as(&pair.two.url(), "ben").await;
    let zoe = watching(&pair.two, "zoe", Level::Users).await;
    types_to(&ann, "ben", true).await;
    types_to(&ann, "ben", true).await;
    for device in [&laptop, &phone] {
        device.until("ann types", |device| typists(device) == ["ann+"]).await;
        let told = device.events("typing").remove(0).frame;
        assert_eq!(told, json!({"event": "typing", "to": "ben", "user": "ann", "typing": true}));
    }
    types_to(&ann, "ben", false).await;
    for device in [&laptop, &phone] {
        device.until("ann has ended", |device| typists(device) == ["ann+", "ann-"]).await;
    }
    types_to(&ann, "ben", true).await;
    phone.until("again", |phone| typists(phone) == ["ann+", "ann-", "ann+"]).await;
    // It ends with the connection, by time only a minute later.
    ann.drop_socket().await;
    phone.until("ended", |phone| typists(phone) == ["ann+", "ann-", "ann+", "ann-"]).await;
    assert!(typists(&zoe).is_empty());

    // The user's own other devices, and not the one that says it.
    types_to(&laptop, "ben", true).await;
    phone.until("ben types", |phone| typists(phone).last().is_some_and(|last| last == "ben+")).await;
    assert!(!typists(&laptop).contains(&"ben+".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_towards_a_user_ends_by_itself_and_its_answer_tells_nothing_of_the_user() {
    let pair = Pair::start(&[SHORT]).await;
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    let ben = Client::hello_as(&pair.two.url(), "ben").await;
    let answer = |to: &'static str| {
        let ann = &ann;
        async move { ann.op(json!({"op": "typing", "to": to, "typing": true})).await.unwrap() }
    };
    assert_eq!(answer("ben").await, answer("nobody").await, "there or not");
    ben.until("it has ended", |ben| typists(ben) == ["ann+", "ann-"]).await;
    // Who is invisible is told all the same.
    ben.op(json!({"op": "status", "status": "invisible"})).await.unwrap();
    assert_eq!(answer("ben").await, json!({}));
    ben.until("again", |ben| typists(ben) == ["ann+", "ann-", "ann+", "ann-"]).await;

    let narrow = Client::connect(&pair.one.url()).await;
    narrow.hello(&token("eve", json!({"can": {"users": ["mia"], "typing": ["**"]}}))).await.unwrap();
    let refused = narrow.op(json!({"op": "typing", "to": "ben", "typing": true})).await.unwrap_err();
    assert_eq!(refused.code, "forbidden");
    assert_eq!(narrow.op(json!({"op": "typing", "to": "mia", "typing": true})).await.unwrap(), json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_goes_once_to_whoever_watches_and_to_the_sender_only_if_asked() {
    let pair = Pair::start(&[]).await;
    let ann = joined(&pair.one, "ann").await;
    // She need not be in a channel to which she sends.
    let outside = watching(&pair.two, "ann", Level::Occupancy).await;
    let near = watching(&pair.one, "near", Level::Connections).await;
    let version = near.view(ROOM).unwrap().version().1;
    let data = [json!({"wave": [1, null, "é"]}), json!("text"), json!(1.5), json!(null), json!([]), json!(false)];
    for data in &data {
        outside.op(json!({"op": "send", "channel": ROOM, "data": data})).await.unwrap();
    }
    outside.op(json!({"op": "send", "channel": ROOM, "data": "aloud", "echo": true})).await.unwrap();
    ann.until("the echo", |ann| signals(ann).len() == data.len() + 1).await;
    near.until("the echo", |near| signals(near).len() == data.len() + 1).await;
    outside.until("the echo", |outside| signals(outside) == ["aloud"]).await;
    assert_eq!(signals(&near)[..data.len()], data);
    let told = near.events("signal").remove(0).frame;
    let now = rollcall::domain::time::wall_now_ms();
    assert!(told["time"].as_u64().unwrap().abs_diff(now) < 60_000, "{told}");
    assert_eq!((&told["user"], &told["channel"]), (&json!("ann"), &json!(ROOM)));
    assert_eq!(near.view(ROOM).unwrap().version().1, version);
    assert_eq!(pair.two.rest().users_in(ROOM).await, ["ann"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_bring_what_is_said_too() {
    let pair = Pair::start(&[LONG]).await;
    let ann = joined(&pair.one, "ann").await;
    let key = format!("Bearer {API_KEY}");
    let mut events = Events::open(&pair.two.url(), "channel=room:1", &[("authorization", &*key)]).await.unwrap();
    events.next().await;
    types(&ann, true).await;
    ann.op(json!({"op": "send", "channel": ROOM, "data": {"wave": 1}})).await.unwrap();
    let (typing, signal) = (events.next().await, events.next().await);
    assert_eq!(typing.data, json!({"event": "typing", "channel": ROOM, "user": "ann", "typing": true}));
    assert_eq!((&signal.data["event"], &signal.data["data"]), (&json!("signal"), &json!({"wave": 1})));
    assert_eq!((typing.id, signal.id), (None, None), "whoever comes back goes on from the last change");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_say_something_is_told_why() {
    let redis = Redis::start().await;
    let config = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let namespaces = "[[namespace]]\nmatch = 'quiet:**'\npresence = false\n";
    std::fs::write(config.path(), namespaces).unwrap();
    let at = Instance::start_with(&["--config", config.path().to_str().unwrap()], &redis.space()).await;
    at.ready().await;
    let send = |channel: &str| json!({"op": "send", "channel": channel, "data": 1});
    let typing = |channel: &str| json!({"op": "typing", "channel": channel, "typing": true});
    let code = |client: &'static str, result: Result<Value, harness::OpError>| {
        result.map_or_else(|error| error.code, |_| format!("{client}: ok"))
    };

    let narrow = Client::connect(&at.url()).await;
    let can = json!({"join": ["**"], "watch": ["**"], "typing": ["desk:*"], "send": ["bell:*"]});
    narrow.hello(&token("eve", json!({"can": can}))).await.unwrap();
    for channel in ["desk:1", "bell:1"] {
        narrow.join(channel, json!({})).await.unwrap();
    }
    assert_eq!(code("eve", narrow.op(typing("bell:1")).await), "forbidden");
    assert_eq!(code("eve", narrow.op(typing("desk:2")).await), "conflict", "not joined");
    assert_eq!(code("eve", narrow.op(typing("desk:1")).await), "eve: ok");
    assert_eq!(code("eve", narrow.op(send("desk:1")).await), "forbidden");
    assert_eq!(code("eve", narrow.op(send("bell:7")).await), "eve: ok");

    let nobody = Client::connect(&at.url()).await;
    nobody.hello(&token("x", json!({"sub": null}))).await.unwrap();
    let absent = Client::connect(&at.url()).await;
    absent.op(json!({"op": "hello", "token": token("zoe", json!({})), "present": false})).await.unwrap();
    for client in [&nobody, &absent] {
        assert_eq!(code("nobody", client.op(send("bell:1")).await), "forbidden");
        assert_eq!(code("nobody", client.op(typing("desk:1")).await), "forbidden");
        assert_eq!(code("nobody", client.op(json!({"op": "typing", "to": "ben", "typing": true})).await), "forbidden");
    }

    let ann = Client::hello_as(&at.url(), "ann").await;
    for wrong in [send("quiet:1"), typing("quiet:1")] {
        let refused = ann.op(wrong).await.unwrap_err();
        assert_eq!(refused.code, "forbidden");
        assert!(refused.message.contains("not available"), "{}", refused.message);
    }
    assert_eq!(code("ann", ann.op(json!({"op": "send", "channel": "a", "data": "x".repeat(1_022)})).await), "ann: ok");
    let refused = ann.op(json!({"op": "send", "channel": "a", "data": "x".repeat(1_023)})).await.unwrap_err();
    assert_eq!(refused.code, "too_large");
    assert!(refused.message.contains("1024"), "{}", refused.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_a_second_and_the_end_of_typing_is_always_heard() {
    let pair = Pair::start(&[LONG]).await;
    let ann = joined(&pair.one, "ann").await;
    let far = watching(&pair.two, "far", Level::Users).await;
    types(&ann, true).await;
    let ann = &ann;
    let flood = join_all((0..20).map(|n| ann.op(json!({"op": "send", "channel": ROOM, "data": n})))).await;
    let refused: Vec<_> = flood.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(!refused.is_empty());
    for error in &refused {
        assert_eq!(error.code, "rate_limited");
        assert!((1..=1_000).contains(&error.retry_after_ms.unwrap()), "{error:?}");
    }
    let typing = json!({"op": "typing", "channel": ROOM, "typing": true});
    while ann.op(typing.clone()).await.is_ok() {}
    types(ann, false).await;
    far.until("it has ended", |far| typists(far) == ["ann+", "ann-"]).await;
    let heard = flood.iter().filter(|answer| answer.is_ok()).count();
    far.until("what was let through", |far| signals(far).len() == heard).await;
    assert!(heard >= 9, "a second's worth comes at once: {heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_invisible_is_not_seen_to_type_and_sends_nothing() {
    let pair = Pair::start(&[LONG]).await;
    let ann = joined(&pair.one, "ann").await;
    let far = watching(&pair.two, "far", Level::Users).await;
    types(&ann, true).await;
    types_to(&ann, "far", true).await;
    far.until("ann types", |far| typists(far) == ["ann+", "ann+"]).await;
    types_to(&ann, "far", false).await;
    ann.op(json!({"op": "status", "status": "invisible"})).await.unwrap();
    far.until("with her it ends", |far| typists(far) == ["ann+", "ann+", "ann-", "ann-"]).await;
    types(&ann, true).await;
    types_to(&ann, "far", true).await;
    let refused = ann.op(json!({"op": "send", "channel": ROOM, "data": "boo"})).await.unwrap_err();
    assert_eq!(refused.code, "conflict");
    let ben = joined(&pair.one, "ben").await;
    settled(&ben, &[&far]).await;
    // What goes to one user comes another way: after this it has come.
    types_to(&ben, "far", true).await;
    far.until("ben types", |far| typists(far).last().is_some_and(|last| last == "ben+")).await;
    assert_eq!(typists(&far), ["ann+", "ann+", "ann-", "ann-", "ben+"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_nothing_is_said_and_whoever_tries_is_told() {
    let mut redis = Redis::start().await;
    let mut space = redis.space();
    space.extend([("ROLLCALL__PRESENCE__INSTANCE_RENEW_MS", "300".to_owned()), (SHORT.0, SHORT.1.to_owned())]);
    let at = Instance::start(&space).await;
    let ann = joined(&at, "ann").await;
    let near = watching(&at, "near", Level::Users).await;
    types(&ann, true).await;
    near.until("ann types", |near| typists(near) == ["ann+"]).await;
    redis.kill();
    for operation in [
        json!({"op": "send", "channel": ROOM, "data": 1}),
        json!({"op": "typing", "channel": ROOM, "typing": true}),
        json!({"op": "typing", "to": "near", "typing": true}),
    ] {
        let refused = ann.op(operation).await.unwrap_err();
        assert_eq!(refused.code, "unavailable");
        assert!(refused.retry_after_ms.is_some());
    }
    near.until("it ends in its time all the same", |near| typists(near) == ["ann+", "ann-"]).await;
    redis.start_again().await;
    let said = || async { ann.op(json!({"op": "send", "channel": ROOM, "data": "back"})).await.is_ok() };
    eventually(DEADLINE, said).await;
    let heard = holds_within(DEADLINE, || async {
        let _ = said().await;
        !signals(&near).is_empty()
    });
    assert!(heard.await.is_some(), "and when it is back all is as before");
    near.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_loses_signals_and_no_change() {
    let pair = Pair::start(&[
        ("ROLLCALL__LIMITS__SIGNAL_BYTES", "60000"),
        ("ROLLCALL__LIMITS__SIGNALS_PER_SECOND", "10000"),
        ("ROLLCALL__LIMITS__OPERATIONS_PER_SECOND", "10000"),
        LONG,
    ])
    .await;
    let ann = joined(&pair.one, "ann").await;
    let slow = watching(&pair.two, "slow", Level::Users).await;
    types(&ann, true).await;
    slow.until("ann types", |slow| typists(slow) == ["ann+"]).await;
    slow.stall();
    let (mut sent, long) = (0, "x".repeat(50_000));
    let lost = || async {
        let text = pair.two.rest().get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix("rollcall_asides_lost_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let mut changes = 0;
    // Far more than the kernels keep for the socket.
    while sent < 400 {
        ann.op(json!({"op": "send", "channel": ROOM, "data": {"n": sent, "long": long}})).await.unwrap();
        sent += 1;
        if sent % 20 == 0 {
            changes += 1;
            ann.update(ROOM, json!({"n": changes})).await.unwrap();
        }
        if sent == 200 {
            // Of the end of this the ring will not tell any more.
            types(&ann, false).await;
        }
    }
    slow.unstall();
    slow.until("the last state", |slow| slow.member(ROOM, "ann")["state"]["n"] == changes).await;
    slow.until("the last signal", |slow| signals(slow).last().is_some_and(|last| last["n"] == sent - 1)).await;
    slow.until("the end of typing", |slow| typists(slow) == ["ann+", "ann-"]).await;
    let heard: Vec<u64> = signals(&slow).iter().map(|data| data["n"].as_u64().unwrap()).collect();
    assert!(heard.len() < sent, "all {sent} were heard");
    assert!(heard.is_sorted_by(|a, b| a < b), "once each, in order: {heard:?}");
    assert_eq!(slow.snapshots(ROOM), [1], "and no change was lost with them");
    let lost = lost().await;
    assert!(lost as usize + heard.len() >= sent && lost > 0, "{lost} lost, {} heard", heard.len());
}
