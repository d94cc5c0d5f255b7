//! Who is put out and kept out: disconnected, banned, revoked. On two instances, over restarts, and when Redis loses its memory.

mod harness;

use std::time::Duration;

use futures_util::future::join_all;
use harness::{
    API_KEY, Client, DEADLINE, Events, Instance, Level, OpError, Pair, Redis, api_key_setting, eventually,
    holds_within, token,
};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

/// Asks the first instance.
async fn disconnect(pair: &Pair, user: &str, body: Value) -> u64 {
    let answer = pair.one.rest().post(&format!("/v1/users/{user}/disconnect"), body).await.ok();
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
    answer["connections"].as_u64().unwrap()
}

/// The same.
async fn revoke(pair: &Pair, body: Value) {
    let answer = pair.one.rest().post("/v1/revocations", body).await;
    assert_eq!((answer.status, answer.text.as_str()), (204, ""));
}

/// Says hello on a socket of its own; where that is refused, how the socket is closed.
async fn hello(at: &Instance, token: &str) -> Result<Client, (OpError, u16)> {
    let client = Client::connect(&at.url()).await;
    match client.hello(token).await {
        Ok(_) => Ok(client),
        Err(error) => {
            let closed = client.until_closed(5 * SECOND).await;
            Err((error, closed.code))
        }
    }
}

async fn is_refused(at: &Instance, token: &str, close: u16) -> bool {
    matches!(hello(at, token).await, Err((_, code)) if code == close)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_of_a_user_ends_at_once_and_is_told_why() {
    let pair = Pair::start(&[]).await;
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("room:1", Level::Connections).await.unwrap();
    watcher.watch("room:2", Level::Users).await.unwrap();
    let (laptop, phone) =
        (Client::hello_as(&pair.one.url(), "ann").await, Client::hello_as(&pair.two.url(), "ann").await);
    laptop.join("room:1", json!({})).await.unwrap();
    laptop.join("room:2", json!({})).await.unwrap();
    phone.join("room:1", json!({})).await.unwrap();
    // One whose socket broke a moment ago, one who only watches, and presence on her behalf.
    let broken = Client::hello_as(&pair.two.url(), "ann").await;
    broken.join("room:1", json!({})).await.unwrap();
    broken.drop_socket().await;
    let (resume, ann) = (broken.resume_token(), token("ann", json!({})));
    let reader = Client::connect(&pair.two.url()).await;
    reader.op(json!({"op": "hello", "token": ann, "present": false})).await.unwrap();
    let put = pair.two.rest().put("/v1/channels/room:1/members/ann", json!({"ttl_ms": 600_000})).await;
    assert_eq!(put.status, 204);
    let ben = Client::hello_as(&pair.one.url(), "ben").await;
    ben.join("room:1", json!({})).await.unwrap();
    watcher.until("all are there", |watcher| watcher.view("room:1").unwrap().members().len() == 5).await;

    let reason = format!("you know why {}", "\u{1f600}".repeat(60));
    assert_eq!(disconnect(&pair, "ann", json!({"reason": reason})).await, 4);
    for client in [&laptop, &phone, &reader] {
        let closed = client.until_closed(SECOND).await;
        assert_eq!(closed.code, 4503);
        assert!(reason.starts_with(&closed.reason) && closed.reason.len() > 119 && closed.reason.len() <= 123);
    }
    watcher.until("only ben is left", |watcher| watcher.view("room:1").unwrap().members().len() == 1).await;
    watcher.until("nobody is left", |watcher| watcher.users("room:2").is_empty()).await;
    let reasons = |channel| -> Vec<String> {
        let left = watcher.changes(channel, "leave").into_iter();
        left.map(|change| {
            format!("{} {}", change.frame["user"].as_str().unwrap(), change.frame["reason"].as_str().unwrap())
        })
        .collect()
    };
    assert_eq!(
        (reasons("room:1"), reasons("room:2")),
        (vec!["ann kicked".to_owned(); 4], vec!["ann kicked".to_owned()])
    );
    let user = pair.two.rest().get("/v1/users/ann").await.ok();
    assert_eq!((&user["status"], &user["connections"]), (&json!("offline"), &json!([])));
    assert_eq!(disconnect(&pair, "ann", json!({})).await, 0, "asked again there is nobody");
    assert!(ben.closed().is_none() && watcher.closed().is_none());

    // No ban: she may come back, but nothing goes on where it was.
    let again = Client::connect(&pair.two.url()).await;
    let welcome = again.hello_resume(&ann, &resume).await.unwrap();
    assert_eq!((&welcome["resumed"], &welcome["channels"]), (&json!(false), &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_user_is_out_and_stays_out_on_every_instance_until_the_ban_is_over() {
    let pair = Pair::start(&[]).await;
    let ann = Client::hello_as(&pair.two.url(), "ann").await;
    ann.join("room:1", json!({})).await.unwrap();
    assert_eq!(disconnect(&pair, "ann", json!({"reason": "enough", "ban_ms": 8_000})).await, 1);
    let banned_at = tokio::time::Instant::now();
    let closed = ann.until_closed(SECOND).await;
    assert_eq!((closed.code, closed.reason.as_str()), (4504, "enough"));
    let good = token("ann", json!({}));
    for at in [&pair.one, &pair.two] {
        assert!(holds_within(SECOND, async || is_refused(at, &good, 4504).await).await.is_some());
    }
    let (error, _) = hello(&pair.two, &good).await.err().expect("she is banned");
    assert_eq!(error.code, "forbidden");
    assert!(error.retry_after_ms.is_some_and(|ms| ms <= 8_000), "{error:?}");
    // Others are none of it, and her old socket cannot be taken up again.
    Client::hello_as(&pair.two.url(), "ben").await;
    let resume = Client::connect(&pair.two.url()).await;
    assert_eq!(resume.hello_resume(&good, &ann.resume_token()).await.unwrap_err().code, "forbidden");
    eventually(DEADLINE, async || hello(&pair.two, &good).await.is_ok()).await;
    assert!(banned_at.elapsed() >= Duration::from_millis(7_900), "{:?}", banned_at.elapsed());
    assert!(hello(&pair.one, &good).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_and_revocations_outlive_all_instances_and_a_redis_that_lost_its_memory() {
    let mut pair = Pair::start(&[]).await;
    disconnect(&pair, "ann", json!({"ban_ms": 3_600_000})).await;
    revoke(&pair, json!({"jti": "t1"})).await;
    revoke(&pair, json!({"user": "cat"})).await;
    let tokens = [
        (token("ann", json!({})), 4504),
        (token("ben", json!({"jti": "t1"})), 4501),
        (token("cat", json!({"iat": harness::token::now_s()})), 4501),
    ];
    let all_are_refused = async |at: &Instance| {
        for (token, close) in &tokens {
            if !is_refused(at, token, *close).await {
                return false;
            }
        }
        true
    };
    for instance in [&mut pair.one, &mut pair.two] {
        instance.terminate();
        instance.ended(DEADLINE).await;
    }
    let one = Instance::start(&pair.space).await;
    assert!(all_are_refused(&one).await, "an instance that is ready knows");
    pair.redis.flush().await;
    assert!(all_are_refused(&one).await, "it remembers");
    eventually(DEADLINE, async || one.rest().get("/readyz").await.body["status"] == "ready").await;
    let mut two = Instance::start(&pair.space).await;
    assert!(all_are_refused(&two).await, "it has brought them back");
    two.kill();
    let good = token("ben", json!({"jti": "t2"}));
    assert!(hello(&one, &good).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_hello_while_being_banned_is_out_in_the_end() {
    let pair = Pair::start(&[("ROLLCALL__LIMITS__CONNECTIONS_PER_USER", "100")]).await;
    let good = token("ann", json!({}));
    let hellos = async |at: &Instance| {
        let mut clients = Vec::new();
        for _ in 0..15 {
            let client = Client::connect(&at.url()).await;
            // Some come in before the ban, some do not; some in the middle of it.
            let _ = client.hello(&good).await;
            clients.push(client);
        }
        clients
    };
    let ban = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        disconnect(&pair, "ann", json!({"ban_ms": 600_000})).await
    };
    let (a, b, c, d, _) = tokio::join!(hellos(&pair.one), hellos(&pair.two), hellos(&pair.one), hellos(&pair.two), ban);
    let ends: Vec<Client> = [a, b, c, d].into_iter().flatten().collect();
    let codes: Vec<u16> = join_all(ends.iter().map(async |client| client.until_closed(2 * SECOND).await.code)).await;
    assert!(codes.iter().all(|code| *code == 4504), "{codes:?}");
    eventually(5 * SECOND, async || pair.two.rest().get("/v1/users/ann").await.body["connections"] == json!([])).await;
    pair.one.assert_no_panic();
    pair.two.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_events_end_with_the_user_and_the_token_and_no_ticket_is_given_for_another() {
    let pair = Pair::start(&[]).await;
    let (ann, ben) = (token("ann", json!({})), token("ben", json!({"jti": "t1"})));
    let bearers = [&ann, &ben].map(|token| format!("Bearer {token}"));
    let open = async |bearer: &str| Events::open(&pair.two.url(), "channel=room:1", &[("authorization", bearer)]).await;
    let mut streams = Vec::new();
    for bearer in &bearers {
        let mut stream = open(bearer).await.unwrap_or_else(|answer| panic!("{answer:?}"));
        assert_eq!(stream.next().await.data["event"], "snapshot");
        streams.push(stream);
    }
    // One that was given before, for whoever thinks ahead.
    let rest = pair.two.rest();
    let ticket = rest.with_key(Some(&ann)).post("/v1/tickets", json!({})).await.ok()["ticket"].clone();
    disconnect(&pair, "ann", json!({"reason": "enough", "ban_ms": 600_000})).await;
    revoke(&pair, json!({"jti": "t1"})).await;
    let expected = [(4504, "enough", 403, "forbidden"), (4501, "the token does not hold", 401, "unauthorized")];
    for ((stream, bearer), (close, said, status, code)) in streams.iter_mut().zip(&bearers).zip(expected) {
        let closed = stream.next().await.data;
        assert_eq!(closed, json!({"event": "closed", "code": close, "message": said}));
        stream.end().await;
        let refused = open(bearer).await.err().expect("it may not come in");
        assert_eq!((refused.status, &refused.body["code"]), (status, &json!(code)), "{}", refused.text);
        let key = bearer.strip_prefix("Bearer ").unwrap();
        let refused = rest.with_key(Some(key)).post("/v1/tickets", json!({})).await;
        assert_eq!((refused.status, &refused.body["code"]), (status, &json!(code)), "{}", refused.text);
    }
    let query = format!("channel=room:1&ticket={}", ticket.as_str().unwrap());
    assert_eq!(Events::open(&pair.two.url(), &query, &[]).await.err().map(|refused| refused.status), Some(403));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_revoked_by_its_id_ends_everywhere_whoever_it_names() {
    let pair = Pair::start(&[]).await;
    let watcher = Client::hello_as(&pair.one.url(), "watcher").await;
    watcher.watch("room:1", Level::Users).await.unwrap();
    let bad = token("ann", json!({"jti": "bad"}));
    let ann = hello(&pair.two, &bad).await.unwrap();
    ann.join("room:1", json!({})).await.unwrap();
    let nobody = hello(&pair.two, &token("", json!({"sub": null, "jti": "bad"}))).await.unwrap();
    let good = token("ann", json!({"jti": "good"}));
    let other = hello(&pair.one, &good).await.unwrap();
    // A connection goes by the token that it was refreshed with last.
    let fresh = hello(&pair.two, &bad).await.unwrap();
    fresh.refresh(&good).await.unwrap();
    let stale = hello(&pair.two, &good).await.unwrap();
    stale.refresh(&bad).await.unwrap();
    watcher.until("ann is there", |watcher| watcher.users("room:1") == ["ann"]).await;

    revoke(&pair, json!({"jti": "bad"})).await;
    for client in [&ann, &nobody, &stale] {
        assert_eq!(client.until_closed(SECOND).await.code, 4501);
    }
    watcher.until("ann is gone", |watcher| watcher.users("room:1").is_empty()).await;
    assert_eq!(watcher.changes("room:1", "leave")[0].frame["reason"], "kicked");
    let (error, close) = hello(&pair.one, &bad).await.err().expect("it was revoked");
    assert_eq!((error.code.as_str(), close), ("unauthorized", 4501));
    assert_eq!(other.refresh(&bad).await.unwrap_err().code, "unauthorized");
    other.ping().await.expect("the token from before still holds");
    fresh.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_user_that_were_issued_until_now_end_and_later_ones_hold() {
    let pair = Pair::start(&[]).await;
    let now = harness::token::now_s();
    let old = token("ann", json!({"iat": now - 60}));
    let undated = token("ann", json!({}));
    let (a, b) = (hello(&pair.one, &old).await.unwrap(), hello(&pair.two, &undated).await.unwrap());
    let later = hello(&pair.two, &token("ann", json!({"iat": now + 60}))).await.unwrap();
    let ben = hello(&pair.two, &token("ben", json!({"iat": now - 60}))).await.unwrap();
    revoke(&pair, json!({"user": "ann"})).await;
    for client in [&a, &b] {
        assert_eq!(client.until_closed(SECOND).await.code, 4501);
    }
    for token in [&old, &undated, &token("ann", json!({"iat": now}))] {
        assert!(is_refused(&pair.two, token, 4501).await);
    }
    later.ping().await.unwrap();
    ben.ping().await.unwrap();
    assert!(hello(&pair.one, &token("ann", json!({"iat": now + 60}))).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_is_cleared_is_left_by_everybody_once_and_may_be_joined_again() {
    let keys =
        [api_key_setting("tests", "read+write+admin", API_KEY), api_key_setting("rooms", "admin(room:*)", "rooms")];
    let pair = Pair::start(&[("ROLLCALL__AUTH__API_KEYS", &keys.join(","))]).await;
    let watcher = Client::hello_as(&pair.two.url(), "watcher").await;
    watcher.watch("room:1", Level::Users).await.unwrap();
    let people = [Client::hello_as(&pair.one.url(), "ann").await, Client::hello_as(&pair.two.url(), "ben").await];
    for client in &people {
        client.join("room:1", json!({})).await.unwrap();
        client.join("room:2", json!({})).await.unwrap();
    }
    let put = pair.two.rest().put("/v1/channels/room:1/members/cat", json!({"ttl_ms": 600_000})).await;
    assert_eq!(put.status, 204);
    watcher.until("all are there", |watcher| watcher.users("room:1") == ["ann", "ben", "cat"]).await;
    let rooms = pair.one.rest().with_key(Some("rooms"));
    assert_eq!(rooms.post("/v1/revocations", json!({"channel": "room:1"})).await.status, 204);
    watcher.until("nobody is there", |watcher| watcher.users("room:1").is_empty()).await;
    let leaves = watcher.changes("room:1", "leave");
    assert_eq!(leaves.len(), 3);
    assert!(leaves.iter().all(|leave| leave.frame["reason"] == "kicked"), "{leaves:?}");
    for client in &people {
        client.until("it is told", |client| !client.events("left").is_empty()).await;
        let left = json!({"event": "left", "channel": "room:1", "reason": "kicked"});
        assert_eq!(client.events("left")[0].frame, left);
        client.update("room:2", json!({"still": "here"})).await.unwrap();
        assert_eq!(client.update("room:1", json!({})).await.unwrap_err().code, "conflict");
    }
    assert_eq!(pair.two.rest().get("/v1/users/cat").await.ok()["status"], "offline");
    people[0].join("room:1", json!({})).await.unwrap();
    watcher.until("ann is back", |watcher| watcher.users("room:1") == ["ann"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_ban_more_than_may_be_is_refused_and_puts_nobody_out() {
    let pair = Pair::start(&[("ROLLCALL__LIMITS__REVOCATIONS", "2")]).await;
    let ann = Client::hello_as(&pair.two.url(), "ann").await;
    revoke(&pair, json!({"jti": "a"})).await;
    disconnect(&pair, "ben", json!({"ban_ms": 600_000})).await;
    let post = async |path: &str, body| pair.two.rest().post(path, body).await;
    for (path, body) in [
        ("/v1/users/ann/disconnect", json!({"ban_ms": 600_000})),
        ("/v1/revocations", json!({"jti": "b"})),
        ("/v1/revocations", json!({"user": "ann"})),
    ] {
        let answer = post(path, body).await;
        assert_eq!((answer.status, &answer.body["code"]), (409, &json!("limit")), "{}", answer.text);
    }
    ann.ping().await.unwrap();
    let metrics = pair.two.rest().get("/metrics").await.text;
    assert!(metrics.contains("\nrollcall_bars 2\n"), "{metrics}");
    // What is there already may last longer, and what puts out without lasting needs no room.
    assert_eq!(post("/v1/users/ben/disconnect", json!({"ban_ms": 900_000})).await.status, 200);
    assert_eq!(disconnect(&pair, "ann", json!({})).await, 1);
    assert_eq!(ann.until_closed(SECOND).await.code, 4503);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_did_what_to_whom_stands_in_the_log_and_nothing_else_of_them() {
    let at = Instance::start(&[]).await;
    let ann = hello(&at, &token("ann", json!({"jti": "secret"}))).await.unwrap();
    ann.join("room:1", json!({"mood": "private"})).await.unwrap();
    let rest = at.rest();
    let long = format!("because\nof {}", "x".repeat(900));
    rest.post("/v1/users/ann/disconnect", json!({"reason": long, "ban_ms": 5_000})).await.ok();
    rest.post("/v1/users/ann/disconnect", json!({})).await.ok();
    rest.post("/v1/revocations", json!({"jti": "token-7"})).await.ok();
    rest.post("/v1/revocations", json!({"user": "ben"})).await.ok();
    rest.post("/v1/revocations", json!({"channel": "room:1"})).await.ok();
    rest.request("DELETE", "/v1/users/ann/channels/room:1", &[], None).await.unwrap().ok();
    // More than an attack is allowed: these come from friends.
    for _ in 0..20 {
        rest.post("/v1/users/zoe/disconnect", json!({})).await.ok();
    }
    let audited = |needle: &str| -> Vec<String> {
        let lines = at.log().into_iter().filter(|line| line.contains("rollcall::audit"));
        lines.filter(|line| line.contains(needle)).collect()
    };
    eventually(5 * SECOND, async || audited("zoe").len() == 20).await;
    let lines = audited("a user was disconnected");
    assert_eq!(lines.len(), 22, "{lines:#?}");
    assert!(lines[0].contains("ann") && lines[0].contains("tests") && lines[0].contains("5000"), "{}", lines[0]);
    assert!(lines[0].contains("because") && lines[0].len() < 600, "{}", lines[0]);
    for (what, whom) in [
        ("tokens were revoked", "token-7"),
        ("tokens were revoked", "ben"),
        ("a channel was cleared", "room:1"),
        ("a user was taken out of a channel", "ann"),
    ] {
        assert!(audited(what).iter().any(|line| line.contains(whom) && line.contains("tests")), "{:#?}", at.log());
    }
    let log = at.log().join("\n");
    assert!(!log.contains("private") && !log.contains("eyJ") && !log.contains("secret"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_without_the_scope_put_nobody_out() {
    let keys = [
        api_key_setting("tests", "read+write+admin", API_KEY),
        api_key_setting("writer", "read+write", "writer"),
        api_key_setting("rooms", "admin(room:*)+write(room:*)", "rooms"),
    ];
    let at = Instance::start(&[("ROLLCALL__AUTH__API_KEYS", keys.join(","))]).await;
    let ann = Client::hello_as(&at.url(), "ann").await;
    ann.join("room:1", json!({})).await.unwrap();
    let status = async |key: Option<&str>, method: &str, path: &str, body: Value| {
        at.rest().with_key(key).request(method, path, &[], Some(&body)).await.unwrap().status
    };
    for (key, expected) in [(None, 401), (Some("wrong"), 401), (Some("writer"), 403), (Some("rooms"), 403)] {
        assert_eq!(status(key, "POST", "/v1/users/ann/disconnect", json!({})).await, expected);
        assert_eq!(status(key, "POST", "/v1/revocations", json!({"jti": "a"})).await, expected);
        assert_eq!(status(key, "POST", "/v1/revocations", json!({"user": "ann"})).await, expected);
        assert_eq!(status(key, "POST", "/v1/revocations", json!({"channel": "lobby"})).await, expected);
    }
    assert_eq!(status(Some("writer"), "POST", "/v1/revocations", json!({"channel": "room:1"})).await, 403);
    for key in [None, Some("wrong")] {
        assert_eq!(status(key, "POST", "/v1/users/ann/channels/room:2", json!({})).await, 401);
        assert_eq!(status(key, "DELETE", "/v1/users/ann/channels/room:1", json!({})).await, 401);
    }
    assert_eq!(status(Some("rooms"), "POST", "/v1/users/ann/channels/lobby", json!({})).await, 403);
    assert_eq!(status(Some("rooms"), "DELETE", "/v1/users/ann/channels/lobby", json!({})).await, 403);
    assert_eq!(status(Some("rooms"), "POST", "/v1/users/ann/channels/room:2", json!({})).await, 200);
    ann.update("room:1", json!({"still": "here"})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_nobody_is_banned_and_who_was_stays_out() {
    let mut redis = Redis::start().await;
    let at = Instance::start(&redis.space()).await;
    at.rest().post("/v1/users/eve/disconnect", json!({"ban_ms": 600_000})).await.ok();
    let ann = Client::hello_as(&at.url(), "ann").await;
    redis.stop().await;
    for (path, body) in [
        ("/v1/users/ann/disconnect", json!({"ban_ms": 600_000})),
        ("/v1/users/ann/disconnect", json!({})),
        ("/v1/revocations", json!({"user": "ann"})),
        ("/v1/revocations", json!({"channel": "room:1"})),
        ("/v1/users/ann/channels/room:1", json!({})),
    ] {
        let answer = at.rest().post(path, body).await;
        assert_eq!((answer.status, &answer.body["code"]), (503, &json!("unavailable")), "{path}: {}", answer.text);
        assert!(answer.header("retry-after").is_some());
    }
    assert!(is_refused(&at, &token("eve", json!({})), 4504).await, "that needs no Redis");
    assert!(ann.closed().is_none());
    redis.start_again().await;
    at.assert_no_panic();
}
