//! Server-sent events from outside: over real Redis and two instances, with tickets, slow readers, stops, and whatever strangers send.

mod harness;

use std::time::Duration;

use harness::{
    API_KEY, Answer, Client, DEADLINE, Events, Instance, Nginx, Redis, Rest, Throttle, api_key_setting, eventually,
    raw_http, segment, token,
};
use serde_json::{Value, json};

const KEY: (&str, &str) = ("authorization", "Bearer key-of-the-tests");

async fn put(rest: &Rest, channel: &str, user: &str, state: Value) {
    let path = format!("/v1/channels/{}/members/{}", segment(channel), segment(user));
    assert_eq!(rest.put(&path, json!({"state": state, "ttl_ms": 120_000})).await.status, 204);
}

async fn listen(at: &Instance, query: &str) -> Events {
    Events::open(&at.url(), query, &[KEY]).await.unwrap_or_else(|answer| panic!("{query}: {answer:?}"))
}

async fn refused(at: &Instance, query: &str, headers: &[(&str, &str)]) -> Answer {
    match Events::open(&at.url(), query, headers).await {
        Ok(_) => panic!("{query} was not refused"),
        Err(answer) => answer,
    }
}

#[track_caller]
fn problem(answer: &Answer, status: u16, code: &str) -> String {
    assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    answer.body["detail"].as_str().expect("a sentence").to_owned()
}

async fn sockets(at: &Instance) -> u64 {
    metric(at, "rollcall_sockets").await
}

async fn metric(at: &Instance, name: &str) -> u64 {
    let text = at.rest().get("/metrics").await.text;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_gets_the_snapshot_and_then_every_change_wherever_it_happens() {
    let redis = Redis::start().await;
    let space = redis.space();
    let (one, two) = (Instance::start(&space).await, Instance::start(&space).await);
    put(&two.rest(), "room:1", "ann", json!({"n": 1})).await;

    let mut events = listen(&one, "channel=room:1").await;
    assert_eq!(events.headers["x-accel-buffering"], "no");
    assert_eq!(events.headers["cache-control"], "no-store");
    let first = events.next().await;
    assert_eq!((&first.data["event"], &first.data["level"]), (&json!("snapshot"), &json!("users")));
    assert_eq!(events.users(), ["ann"]);
    assert!(events.retry_ms.is_some_and(|ms| (1_000..=5_000).contains(&ms)));
    assert_eq!(sockets(&one).await, 1);

    let ben = Client::hello_as(&two.url(), "ben").await;
    ben.join("room:1", json!({"mood": "well"})).await.unwrap();
    events.until("ben is there", |events| events.users() == ["ann", "ben"]).await;
    ben.bye().await.unwrap();
    events.until("ben has left", |events| events.users() == ["ann"]).await;

    let mut counts = listen(&two, "channel=room:1&level=occupancy").await;
    assert_eq!(counts.next().await.data["members"], Value::Null);
    let mut devices = listen(&two, "channel=room:1&level=connections").await;
    assert_eq!(devices.next().await.data["members"][0]["device"], "lease");

    // Who goes is not kept for.
    drop(events);
    eventually(DEADLINE, async || sockets(&one).await == 0).await;
}

/// How a user is as the last event said.
fn status(events: &Events, user: &str) -> Option<Value> {
    let mut told = events.seen.iter().flat_map(|event| event.data["users"].as_array().cloned().unwrap_or_default());
    told.rfind(|told| told["user"] == user).map(|told| told["status"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_to_everybody_gets_who_is_online_and_then_who_comes_and_goes() {
    let redis = Redis::start().await;
    let keys = [api_key_setting("all", "read+write", API_KEY), api_key_setting("rooms", "read(room:*)", "rooms")];
    let settings = [redis.space(), vec![("ROLLCALL__AUTH__API_KEYS", keys.join(","))]].concat();
    let (one, two) = (Instance::start(&settings).await, Instance::start(&settings).await);
    let _ann = Client::hello_as(&two.url(), "ann").await;
    let mut events = listen(&one, "all_users=true").await;
    events.until("who is there", |events| status(events, "ann") == Some(json!("online"))).await;
    let ben = Client::hello_as(&two.url(), "ben").await;
    events.until("who comes", |events| status(events, "ben") == Some(json!("online"))).await;
    ben.bye().await.unwrap();
    events.until("who goes", |events| status(events, "ben") == Some(json!("offline"))).await;
    problem(&refused(&one, "all_users=true", &[("authorization", "Bearer rooms")]).await, 403, "forbidden");
    let bearer = format!("Bearer {}", token("zoe", json!({"can": {"users": ["ann"]}})));
    problem(&refused(&one, "all_users=true", &[("authorization", &bearer)]).await, 403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_to_a_pattern_gets_its_channels_and_then_who_comes_and_goes_in_each() {
    let redis = Redis::start().await;
    let keys = [api_key_setting("all", "read+write", API_KEY), api_key_setting("rooms", "read(room:*)", "rooms")];
    let settings = [
        redis.space(),
        vec![("ROLLCALL__AUTH__API_KEYS", keys.join(",")), ("ROLLCALL__LIMITS__PATTERN_CHANNELS", "3".to_owned())],
    ]
    .concat();
    let (one, two) = (Instance::start(&settings).await, Instance::start(&settings).await);
    put(&two.rest(), "room:1", "ann", json!({})).await;
    put(&two.rest(), "lobby", "ann", json!({})).await;
    let headers = [("authorization", "Bearer rooms")];
    let mut events = Events::open(&one.url(), "pattern=room:*", &headers).await.ok().unwrap();
    events.until("the list", |events| events.pattern.is_complete()).await;
    assert_eq!(events.pattern.channels.keys().collect::<Vec<_>>(), ["room:1"]);
    put(&two.rest(), "room:2", "ben", json!({})).await;
    events.until("another channel", |events| events.pattern.channels.contains_key("room:2")).await;
    assert_eq!(two.rest().delete("/v1/channels/room:1/members/ann").await.status, 204);
    events.until("who goes", |events| !events.pattern.channels.contains_key("room:1")).await;

    for (query, headers) in [("pattern=**", &headers[..]), ("pattern=other:*", &headers[..])] {
        problem(&refused(&one, query, headers).await, 403, "forbidden");
    }
    // Where it comes to mean too much it is said, and the stream ends.
    for n in 3..10 {
        put(&two.rest(), &format!("room:{n}"), "cem", json!({})).await;
    }
    events.until("the end", |events| events.seen.iter().any(|event| event.data["event"] == "unwatched")).await;
    let last = events.next().await.data;
    assert_eq!((&last["event"], &last["code"]), (&json!("closed"), &json!(1000)), "{last}");
    events.end().await;
    problem(&refused(&one, "pattern=room:*", &headers).await, 409, "limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_to_users_gets_how_they_are_and_then_what_changes_on_every_instance() {
    let redis = Redis::start().await;
    let space = redis.space();
    let keys = [api_key_setting("all", "read+write", API_KEY), api_key_setting("rooms", "read(room:*)", "rooms")];
    let settings = [
        space,
        vec![("ROLLCALL__AUTH__API_KEYS", keys.join(",")), ("ROLLCALL__LIMITS__WATCHED_USERS", "3".to_owned())],
    ]
    .concat();
    let (one, two) = (Instance::start(&settings).await, Instance::start(&settings).await);
    let ann = Client::hello_as(&two.url(), "ann").await;
    let mut events = listen(&one, "users=ann,ben").await;
    events
        .until("how both are", |events| {
            status(events, "ann") == Some(json!("online")) && status(events, "ben") == Some(json!("offline"))
        })
        .await;
    assert!(events.seen.iter().all(|event| event.data["event"] == "users" && event.id.is_none()), "{:?}", events.seen);
    let ben = Client::hello_as(&one.url(), "ben").await;
    events.until("ben has come", |events| status(events, "ben") == Some(json!("online"))).await;
    ann.op(json!({"op": "status", "status": "busy"})).await.unwrap();
    events.until("ann is busy", |events| status(events, "ann") == Some(json!("busy"))).await;
    // Others are told of nobody who is invisible, and an app server listens as others do.
    ann.op(json!({"op": "status", "status": "invisible"})).await.unwrap();
    events.until("ann is gone", |events| status(events, "ann") == Some(json!("offline"))).await;
    ben.bye().await.unwrap();
    events.until("ben is gone", |events| status(events, "ben") == Some(json!("offline"))).await;
    let told = events.seen.last().unwrap().data["users"][0].clone();
    assert!(told["last_seen"].is_u64(), "{told}");

    problem(&refused(&one, "users=a,b,c,d", &[KEY]).await, 409, "limit");
    problem(&refused(&one, "users=ann", &[("authorization", "Bearer rooms")]).await, 403, "forbidden");
    let bearer = format!("Bearer {}", token("zoe", json!({"can": {"users": ["ann"]}})));
    let headers = [("authorization", bearer.as_str())];
    assert!(Events::open(&one.url(), "users=ann", &headers).await.is_ok());
    assert!(Events::open(&one.url(), "users=ann,zoe", &headers).await.is_ok(), "everybody may listen to themselves");
    problem(&refused(&one, "users=ann,ben", &headers).await, 403, "forbidden");
    drop(events);
    eventually(DEADLINE, async || sockets(&one).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_with_the_last_id_gets_what_came_after_on_another_instance_too() {
    let redis = Redis::start().await;
    let space = redis.space();
    let (mut one, two) = (Instance::start(&space).await, Instance::start(&space).await);
    let rest = two.rest();
    put(&rest, "room:1", "ann", json!({})).await;
    // So that two has been told of the changes and not only of their outcome.
    let mut other = listen(&two, "channel=room:1").await;
    other.next().await;
    let mut events = listen(&one, "channel=room:1").await;
    events.next().await;
    put(&rest, "room:1", "ben", json!({})).await;
    events.until("ben is there", |events| events.users() == ["ann", "ben"]).await;

    one.kill();
    events.end().await;
    put(&rest, "room:1", "cem", json!({})).await;
    assert_eq!(rest.delete("/v1/channels/room:1/members/ann").await.status, 204);
    put(&rest, "room:1", "ben", json!({"n": 2})).await;
    other
        .until("the last change", |other| {
            other.view.members().get("ben").is_some_and(|ben| ben["state"] == json!({"n": 2}))
        })
        .await;

    // The view refuses what does not follow on what it has.
    let mut events = events.go_on(&two.url(), "channel=room:1", &[KEY]).await;
    let delta = events.next().await;
    assert_eq!(delta.data["event"], "delta", "nothing is repeated: {delta:?}");
    assert_eq!(events.users(), ["ben", "cem"]);
    assert_eq!(delta.data["leave"][0]["reason"], "left");
    assert_eq!(events.view.members()["ben"]["state"], json!({"n": 2}));

    // Who missed nothing is told nothing, by the header or by the address.
    let id = events.last_id.clone().unwrap();
    let mut again = events.go_on(&two.url(), "channel=room:1", &[KEY]).await;
    let mut by_hand = listen(&two, &format!("channel=room:1&last_event_id={}", segment(&id))).await;
    by_hand.view = again.view.clone();
    by_hand.view.watched_again(harness::Level::Users, true);
    put(&rest, "room:1", "dan", json!({})).await;
    for events in [&mut again, &mut by_hand] {
        let next = events.next().await;
        assert_eq!((&next.data["event"], events.users().len()), (&json!("delta"), 3), "{next:?}");
    }
    // An id of something else brings a snapshot.
    for id in ["elsewhere:7", "what?", ""] {
        let headers = [KEY, ("last-event-id", id)];
        let mut anew = Events::open(&two.url(), "channel=room:1", &headers).await.unwrap_or_else(|_| panic!("{id}"));
        assert_eq!(anew.next().await.data["event"], "snapshot");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_one_stream_on_any_instance_and_only_soon() {
    let redis = Redis::start().await;
    let space = redis.space();
    let (one, two) = (Instance::start(&space).await, Instance::start(&space).await);
    put(&one.rest(), "room:1", "ann", json!({})).await;
    let issued = one.rest().post("/v1/tickets", json!({})).await.ok();
    assert_eq!(issued["expires_ms"], 30_000);
    let ticket = issued["ticket"].as_str().unwrap().to_owned();
    let query = format!("channel=room:1&ticket={ticket}");
    // What is kept neither tells the ticket nor the credential.
    let kept = format!("{:?} {:?}", redis.command(&["KEYS", "*ticket*"]).await, one.log());
    assert!(kept.contains("ticket:") && !kept.contains(&ticket) && !kept.contains(API_KEY), "{kept}");

    let (here, there) = (one.url(), two.url());
    let (first, second) = tokio::join!(Events::open(&here, &query, &[]), Events::open(&there, &query, &[]));
    let (mut events, answer) = match (first, second) {
        (Ok(events), Err(answer)) | (Err(answer), Ok(events)) => (events, answer),
        (first, second) => panic!("one gets in: {} {}", first.is_ok(), second.is_ok()),
    };
    problem(&answer, 401, "unauthorized");
    events.until("ann is there", |events| events.users() == ["ann"]).await;
    problem(&refused(&two, &query, &[]).await, 401, "unauthorized");

    // A client's ticket allows what its token does, and no body at all is needed to get it.
    let can = json!({"watch": ["room:*"]});
    let ann = one.rest().with_key(Some(&token("ann", json!({"can": can}))));
    let mut tickets = Vec::new();
    for _ in 0..3 {
        let answer = ann.request("POST", "/v1/tickets", &[], None).await.unwrap().ok();
        tickets.push(answer["ticket"].as_str().unwrap().to_owned());
    }
    let asked = |channel: &str, ticket: &str| format!("channel={channel}&ticket={ticket}");
    assert!(Events::open(&two.url(), &asked("room:1", &tickets[0]), &[]).await.is_ok());
    problem(&refused(&two, &asked("lobby", &tickets[1]), &[]).await, 403, "forbidden");
    // Time passes: what is left of the ticket's life is taken from it.
    let keys = redis.command(&["KEYS", "*ticket*"]).await;
    let redis::Value::Array(keys) = keys else { panic!("{keys:?}") };
    assert_eq!(keys.len(), 1, "only the third is left");
    let redis::Value::BulkString(key) = &keys[0] else { panic!() };
    let key = std::str::from_utf8(key).unwrap();
    let redis::Value::Int(left) = redis.command(&["PTTL", key]).await else { panic!() };
    assert!((10_000..=30_000).contains(&left), "{left} ms");
    redis.command(&["PEXPIRE", key, "1"]).await;
    eventually(DEADLINE, async || redis.command(&["EXISTS", key]).await == redis::Value::Int(0)).await;
    problem(&refused(&two, &asked("room:1", &tickets[2]), &[]).await, 401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_listen_is_who_may_watch_or_read() {
    let keys = [
        api_key_setting("all", "read", API_KEY),
        api_key_setting("rooms", "read(room:*)", "rooms"),
        api_key_setting("writer", "write", "writer"),
    ];
    let one = Instance::start(&[("ROLLCALL__AUTH__API_KEYS", keys.join(","))]).await;
    let bearer = |credential: &str| format!("Bearer {credential}");
    let status = async |channel: &str, credential: &str| {
        let credential = bearer(credential);
        let opened = Events::open(&one.url(), &format!("channel={channel}"), &[("authorization", &credential)]).await;
        opened.map_or_else(|answer| answer.status, |_| 200)
    };
    assert_eq!((status("lobby", API_KEY).await, status("lobby", "rooms").await), (200, 403));
    assert_eq!((status("room:1", "rooms").await, status("room:1", "writer").await), (200, 403));
    let ann = token("ann", json!({"can": {"watch": ["room:*"]}}));
    assert_eq!((status("room:1", &ann).await, status("lobby", &ann).await), (200, 403));
    let nobody = token("nobody", json!({"sub": null, "can": {"watch": ["room:*"]}}));
    assert_eq!(status("room:1", &nobody).await, 200);
    assert_eq!((status("room:1", "unknown").await, status("room:1", "").await), (401, 401));
    let expired = bearer(&token("ann", json!({"exp": 1})));
    problem(&refused(&one, "channel=room:1", &[("authorization", &expired)]).await, 401, "token_expired");
    let none = refused(&one, "channel=room:1", &[]).await;
    assert!(problem(&none, 401, "unauthorized").contains("ticket"));
    assert_eq!(none.header("www-authenticate"), Some("Bearer"));
    let answer = one.rest().with_key(Some("nothing")).post("/v1/tickets", json!({})).await;
    problem(&answer, 401, "unauthorized");
    // Whoever only listens is nowhere.
    let listening = Events::open(&one.url(), "channel=room:1", &[("authorization", &bearer(&ann))]).await;
    assert_eq!(one.rest().get("/v1/users/ann").await.ok()["status"], "offline");
    drop(listening);

    // On this machine, in development mode, nothing is asked for.
    let open = Instance::start_with(&["--dev"], &[]).await;
    open.ready().await;
    assert!(Events::open(&open.url(), "channel=room:1", &[]).await.is_ok());
    let issued = open.rest().with_key(None).post("/v1/tickets", json!({})).await.ok();
    let query = format!("channel=room:1&ticket={}", issued["ticket"].as_str().unwrap());
    assert!(Events::open(&open.url(), &query, &[]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token_and_says_so() {
    let one = Instance::start(&[("ROLLCALL__AUTH__LEEWAY_MS", "0".to_owned())]).await;
    let soon = harness::token::now_s() + 3;
    let bearer = format!("Bearer {}", token("ann", json!({"exp": soon})));
    let mut events = Events::open(&one.url(), "channel=room:1", &[("authorization", &bearer)]).await.ok().unwrap();
    assert_eq!(events.next().await.data["event"], "snapshot");
    let last = events.next().await;
    assert_eq!((&last.data["event"], &last.data["code"], last.id), (&json!("closed"), &json!(4003), None));
    assert!(events.next_within(DEADLINE).await.is_none(), "nothing follows");
    eventually(DEADLINE, async || sockets(&one).await == 0).await;
    let closes = "rollcall_closes_total{reason=\"token_expired\"}";
    eventually(DEADLINE, async || metric(&one, closes).await == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_token_is_revoked_or_its_user_put_out_and_a_ticket_from_before_opens_none() {
    let redis = Redis::start().await;
    let space = redis.space();
    let (one, two) = (Instance::start(&space).await, Instance::start(&space).await);
    let ann = token("ann", json!({"jti": "stolen"}));
    let ben = token("ben", json!({}));
    let open = async |token: &str| {
        let bearer = format!("Bearer {token}");
        let mut events = Events::open(&one.url(), "channel=room:1", &[("authorization", &bearer)]).await.ok().unwrap();
        events.next().await;
        events
    };
    let (mut of_ann, mut of_ben, mut of_app) = (open(&ann).await, open(&ben).await, open(API_KEY).await);
    let ticket = two.rest().with_key(Some(&ann)).post("/v1/tickets", json!({})).await.ok();
    let ticket = ticket["ticket"].as_str().unwrap().to_owned();

    assert_eq!(two.rest().post("/v1/revocations", json!({"jti": "stolen"})).await.status, 204);
    let last = of_ann.next().await.data;
    assert_eq!((&last["event"], &last["code"]), (&json!("closed"), &json!(4501)), "{last}");
    of_ann.end().await;
    eventually(DEADLINE, async || {
        let bearer = format!("Bearer {ann}");
        Events::open(&two.url(), "channel=room:1", &[("authorization", &bearer)]).await.is_err()
    })
    .await;
    problem(&refused(&two, &format!("channel=room:1&ticket={ticket}"), &[]).await, 401, "unauthorized");

    let banned = two.rest().post("/v1/users/ben/disconnect", json!({"ban_ms": 60_000})).await;
    assert_eq!(banned.status, 200, "{}", banned.text);
    let last = of_ben.next().await.data;
    assert_eq!((&last["event"], &last["code"]), (&json!("closed"), &json!(4504)), "{last}");
    of_ben.end().await;
    let bearer = format!("Bearer {ben}");
    problem(&refused(&one, "channel=room:1", &[("authorization", &bearer)]).await, 403, "forbidden");
    // An app server's stream goes on.
    put(&two.rest(), "room:1", "zoe", json!({})).await;
    of_app.until("zoe is there", |events| events.users() == ["zoe"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stops_tells_listeners_when_to_come_back_and_they_miss_nothing() {
    let redis = Redis::start().await;
    let space = redis.space();
    let (mut one, two) = (Instance::start(&space).await, Instance::start(&space).await);
    put(&two.rest(), "room:1", "ann", json!({})).await;
    // So that two knows what happened and not only what came of it.
    let mut other = listen(&two, "channel=room:1").await;
    other.next().await;
    let mut events = listen(&one, "channel=room:1").await;
    events.until("ann is there", |events| events.users() == ["ann"]).await;
    one.terminate();
    let last = events.next().await;
    assert_eq!(last.data["event"], "reconnect");
    assert_eq!(last.data["after_ms"].as_u64(), events.retry_ms, "the browser does it by itself");
    assert!(events.retry_ms.is_some_and(|ms| ms <= 5_000), "a third of the grace at most");
    events.end().await;
    put(&two.rest(), "room:1", "ben", json!({})).await;
    let mut events = events.go_on(&two.url(), "channel=room:1", &[KEY]).await;
    assert_eq!(events.next().await.data["event"], "delta");
    assert_eq!(events.users(), ["ann", "ben"]);
    assert!(one.ended(DEADLINE).await.success(), "the stream holds nothing up");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_nginx_events_come_at_once_and_a_stream_goes_on_over_another_instance() {
    let redis = Redis::start().await;
    let space = redis.space();
    let mut instances = [Instance::start(&space).await, Instance::start(&space).await];
    let nginx = Nginx::start(&[instances[0].port(), instances[1].port()]).await;
    put(&instances[0].rest(), "room:1", "ann", json!({})).await;
    let mut events = Events::open(&nginx.url(), "channel=room:1", &[KEY]).await.ok().unwrap();
    events.until("ann is there", |events| events.users() == ["ann"]).await;
    put(&instances[0].rest(), "room:1", "ben", json!({})).await;
    // A small event is not kept until there is more of it.
    events.until("ben is there", |events| events.users() == ["ann", "ben"]).await;

    let has_it = usize::from(sockets(&instances[1]).await == 1);
    instances[has_it].terminate();
    assert_eq!(events.next().await.data["event"], "reconnect");
    events.end().await;
    put(&instances[1 - has_it].rest(), "room:1", "cem", json!({})).await;
    let mut events = events.go_on(&nginx.url(), "channel=room:1", &[KEY]).await;
    events.until("cem is there", |events| events.users() == ["ann", "ben", "cem"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_shows_that_it_lives() {
    let one = Instance::start(&[("ROLLCALL__PRESENCE__PING_MS", "200".to_owned())]).await;
    let mut events = listen(&one, "channel=room:1").await;
    events.next().await;
    let before = events.comments;
    assert!(events.next_within(Duration::from_millis(1_500)).await.is_none());
    let lived = events.comments - before;
    assert!((2..=8).contains(&lived), "{lived} signs of life in 1.5 s");
    put(&one.rest(), "room:1", "ann", json!({})).await;
    events.until("it still tells", |events| events.users() == ["ann"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_the_latest_and_one_who_reads_nothing_is_given_up() {
    let one = Instance::start(&[("ROLLCALL__SERVER__SLOW_CLOSE_MS", "2000".to_owned())]).await;
    let rest = one.rest();
    // The states of one channel are 160 KB, and all of them change in each round.
    let round = async |n: usize| {
        let beats: Vec<Value> = (0..16)
            .map(|user| {
                let state = json!({"round": n, "blob": "x".repeat(3_000)});
                json!({"user": format!("user-{user}"), "channel": "busy", "state": state, "ttl_ms": 600_000})
            })
            .collect();
        let results = rest.post("/v1/heartbeats", json!({"heartbeats": beats})).await.ok();
        assert!(results["results"].as_array().unwrap().iter().all(|result| result["ok"].is_object()), "{results}");
    };
    round(0).await;
    let throttle = Throttle::start(one.port(), 20_000).await;
    let slow = Events::open(throttle.url(), "channel=busy", &[KEY]).await;
    let mut slow = slow.unwrap_or_else(|answer| panic!("{answer:?}"));
    let before = one.rss_kb();
    let (mut n, mut most) = (0, 0);
    // Six megabytes that one reads at twenty kilobytes a second.
    while n < 120 {
        n += 1;
        round(n).await;
        most = most.max(one.rss_kb());
        // It is a reader all the time.
        slow.next_within(Duration::from_millis(1)).await;
    }
    let grown = most.saturating_sub(before);
    assert!(grown < 12 * 1024, "{grown} KB for a slow reader");
    throttle.set(10_000_000);
    slow.until("the latest", |slow| {
        slow.view.members().len() == 16 && slow.view.members().values().all(|member| member["state"]["round"] == n)
    })
    .await;
    assert!(slow.seen.len() < 120, "it got {} events of 120 rounds", slow.seen.len());
    drop(slow);
    eventually(DEADLINE, async || sockets(&one).await == 0).await;

    // Now one who reads nothing at all.
    throttle.set(0);
    let request =
        format!("GET /v1/events?channel=busy HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {API_KEY}\r\n\r\n");
    let port = throttle.url().rsplit(':').next().unwrap().parse().unwrap();
    let mut deaf = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut deaf, request.as_bytes()).await.unwrap();
    eventually(DEADLINE, async || sockets(&one).await == 1).await;
    let given_up = "rollcall_closes_total{reason=\"too_slow\"}";
    let began = tokio::time::Instant::now();
    while metric(&one, given_up).await == 0 {
        assert!(began.elapsed() < DEADLINE, "who reads nothing is given up");
        n += 1;
        round(n).await;
    }
    assert_eq!(sockets(&one).await, 0);
    one.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_question_is_refused_and_what_is_wrong_is_named() {
    let one = Instance::start(&[("ROLLCALL__LIMITS__CONNECTIONS_PER_ADDRESS", "4".to_owned())]).await;
    let long = "a".repeat(256);
    for (query, part) in [
        ("", "`channel`"),
        ("channel=a&users=ann", "says what to listen to"),
        ("users=", "`users`"),
        ("users=ann,,ben", "`users`"),
        ("users=ann,b%20c", "`users`"),
        ("users=ann&level=users", "`level`"),
        ("pattern=a*", "whole segment"),
        ("pattern=**:a", "last segment"),
        ("pattern=", "the query:"),
        ("pattern=a:*&channel=a", "says what to listen to"),
        ("pattern=a:*&last_event_id=e:1", "`last_event_id`"),
        ("all_users=true&channel=a", "says what to listen to"),
        ("all_users=true&users=ann", "says what to listen to"),
        ("all_users=false", "`all_users`"),
        ("all_users=yes", "the query:"),
        ("all_users=true&level=users", "`level`"),
        ("users=ann&last_event_id=e:1", "`last_event_id`"),
        ("users=ann&users=ben", "duplicate field"),
        ("channel=", "the query:"),
        ("channel=a%20b", "the query:"),
        ("channel=%ff", "UTF-8"),
        ("channel=a*", "the query:"),
        (&format!("channel={long}"), "255"),
        ("channel=a&channel=b", "duplicate field"),
        ("channel=a&colour=red", "unknown field `colour`"),
        ("channel=a&level=everything", "the query:"),
        ("channel=a&level=", "the query:"),
        ("channel=a&last_event_id=7", "`last_event_id`"),
        ("channel=a&last_event_id=e:-7", "`last_event_id`"),
        ("channel=a&ticket=x", "credentials"),
    ] {
        let why = problem(&refused(&one, query, &[KEY]).await, 400, "bad_request");
        assert!(why.contains(part), "{query}: {why}");
    }
    for ticket in ["", "x", "%00", &"A".repeat(43), &"A".repeat(5_000)] {
        problem(&refused(&one, &format!("channel=a&ticket={ticket}"), &[]).await, 401, "unauthorized");
    }
    let rest = one.rest();
    for (method, path, allow) in [("POST", "/v1/events", "GET, HEAD"), ("GET", "/v1/tickets", "POST")] {
        let answer = rest.request(method, path, &[], None).await.unwrap();
        problem(&answer, 405, "bad_request");
        assert_eq!(answer.header("allow"), Some(allow));
    }
    let head = rest.request("HEAD", "/v1/events?channel=a", &[], None).await.unwrap();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    for body in [json!({"user": "ann"}), json!([])] {
        problem(&rest.post("/v1/tickets", body).await, 400, "bad_request");
    }
    assert_eq!(rest.post("/v1/tickets?for=ann", json!({})).await.status, 400);
    // None of these holds a place; each stream does.
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(listen(&one, "channel=a").await);
    }
    let crowded = refused(&one, "channel=a", &[KEY]).await;
    problem(&crowded, 429, "rate_limited");
    assert!(crowded.header("retry-after").is_some());
    streams.pop();
    eventually(DEADLINE, async || Events::open(&one.url(), "channel=a", &[KEY]).await.is_ok()).await;
    // Half a request is given up like any other.
    let (status, _) = raw_http(one.port(), b"GET /v1/events?channel=a HTTP/1.1\r\nHost: 127.0.0.1\r\nLast-Ev").await;
    assert!(matches!(status, 0 | 408), "{status}");
    one.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_so_many_tickets_a_second() {
    let one = Instance::start(&[("ROLLCALL__LIMITS__OPERATIONS_PER_SECOND", "5".to_owned())]).await;
    let ann = one.rest().with_key(Some(&token("ann", json!({}))));
    let mut refused = 0;
    for _ in 0..40 {
        let answer = ann.post("/v1/tickets", json!({})).await;
        if answer.status != 200 {
            problem(&answer, 429, "rate_limited");
            assert!(answer.header("retry-after").is_some());
            refused += 1;
        }
    }
    assert!(refused > 10, "{refused} of 40 were refused");
    assert_eq!(one.rest().post("/v1/tickets", json!({})).await.status, 200, "others get theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_allowed_origins_may_listen_and_others_may_not() {
    let allowed = ("ROLLCALL__SERVER__ALLOWED_ORIGINS", "https://app.example".to_owned());
    let one = Instance::start(&[allowed]).await;
    let from = |origin: &'static str| ("origin", origin);
    let page = from("https://app.example");
    let issued = one.rest().request("POST", "/v1/tickets", &[page], None).await.unwrap();
    assert_eq!(issued.header("access-control-allow-origin"), Some("https://app.example"));
    let ticket = issued.ok()["ticket"].as_str().unwrap().to_owned();
    let mut events = Events::open(&one.url(), &format!("channel=a&ticket={ticket}"), &[page]).await.ok().unwrap();
    assert_eq!(events.headers["access-control-allow-origin"], "https://app.example");
    assert_eq!(events.headers["vary"], "Origin");
    assert!(events.headers.get("access-control-allow-credentials").is_none());
    assert_eq!(events.next().await.data["event"], "snapshot");
    // A page can read why it was refused.
    let answer = refused(&one, "channel=a&ticket=x", &[page]).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, Some("https://app.example")));
    let asks = [page, ("access-control-request-method", "POST"), ("access-control-request-headers", "authorization")];
    for path in ["/v1/tickets", "/v1/events"] {
        let answer = one.rest().with_key(None).request("OPTIONS", path, &asks, None).await.unwrap();
        assert_eq!((answer.status, answer.text.as_str()), (204, ""));
        assert!(answer.header("access-control-allow-headers").unwrap().contains("authorization"));
        assert!(answer.header("access-control-allow-methods").unwrap().contains("POST"));
        let foreign = [from("https://evil.example"), asks[1], asks[2]];
        let answer = one.rest().request("OPTIONS", path, &foreign, None).await.unwrap();
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None));
    }
    for origin in ["https://evil.example", "null", "http://app.example"] {
        let answer = refused(&one, "channel=a", &[KEY, ("origin", origin)]).await;
        problem(&answer, 403, "forbidden");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    // The browser says no more than a status; the log says which origin it was.
    let is_noted = |line: &String| line.contains("server.allowed_origins") && line.contains("https://evil.example");
    eventually(DEADLINE, async || one.log().iter().any(is_noted)).await;
    // Other routes are for servers, and say nothing to pages.
    let answer = one.rest().request("GET", "/v1/channels", &[page], None).await.unwrap();
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_store_away_streams_stay_and_go_on_and_tickets_wait() {
    let mut redis = Redis::start().await;
    let space = redis.space();
    let (one, two) = (Instance::start(&space).await, Instance::start(&space).await);
    put(&two.rest(), "room:1", "ann", json!({})).await;
    let mut events = listen(&one, "channel=room:1").await;
    events.until("ann is there", |events| events.users() == ["ann"]).await;
    redis.stop().await;
    eventually(DEADLINE, async || one.rest().get("/readyz").await.body["status"] == "degraded").await;
    problem(&one.rest().post("/v1/tickets", json!({})).await, 503, "unavailable");
    let ticket = "A".repeat(43);
    problem(&refused(&one, &format!("channel=a&ticket={ticket}"), &[]).await, 503, "unavailable");
    redis.start_again().await;
    eventually(DEADLINE, async || two.rest().get("/readyz").await.body["status"] == "ready").await;
    put(&two.rest(), "room:1", "ben", json!({})).await;
    events.until("it goes on", |events| events.users() == ["ann", "ben"]).await;
}
