//! Lists of users from outside: those in channels of a pattern, and those who are not there.

mod harness;

use std::collections::BTreeMap;

use harness::{API_KEY, Answer, Client, DEADLINE, Instance, Redis, Rest, api_key_setting, eventually, segment};
use serde_json::{Value, json};

#[track_caller]
fn problem(answer: &Answer, status: u16, code: &str) -> String {
    assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{}", answer.text);
    answer.body["detail"].as_str().expect("a sentence").to_owned()
}

async fn beat(rest: &Rest, seats: impl Iterator<Item = (String, String)>) {
    let beats: Vec<Value> =
        seats.map(|(user, channel)| json!({"user": user, "channel": channel, "ttl_ms": 600_000})).collect();
    for some in beats.chunks(500) {
        let results = rest.post("/v1/heartbeats", json!({ "heartbeats": some })).await.ok();
        assert!(results["results"].as_array().unwrap().iter().all(|result| result["ok"].is_object()), "{results}");
    }
}

/// Everybody on all pages: the channels by user, and the total of each page.
async fn all(rest: &Rest, query: &str) -> (BTreeMap<String, Vec<String>>, Vec<u64>) {
    let (mut found, mut totals) = (BTreeMap::new(), Vec::new());
    let mut more = String::new();
    loop {
        let page = rest.get(&format!("/v1/users?{query}{more}")).await.ok();
        totals.push(page["total"].as_u64().expect("a total"));
        assert_eq!(page["stale"], false);
        for user in page["users"].as_array().unwrap() {
            let channels = user["channels"].as_array().unwrap();
            let channels = channels.iter().map(|channel| channel.as_str().unwrap().to_owned()).collect();
            let name = user["user"].as_str().unwrap().to_owned();
            assert!(found.last_key_value().is_none_or(|(last, _): (&String, _)| *last < name), "in their order");
            assert!(user["since"].is_u64(), "{user}");
            found.insert(name, channels);
        }
        match page["next"].as_str() {
            Some(next) => more = format!("&cursor={}", segment(next)),
            None => return (found, totals),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_a_pattern_of_channels_are_found_once_each_with_their_channels() {
    let redis = Redis::start().await;
    let space = redis.space();
    let (one, two) = (Instance::start(&space).await, Instance::start(&space).await);
    let rest = two.rest();
    // Each of 130 is in three of forty topics; others are elsewhere.
    let topics = |n: usize| [n % 40, (n + 7) % 40, (n * 3) % 40].map(|topic| format!("topic:{topic}"));
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for n in 0..130 {
        let mut channels = topics(n).to_vec();
        channels.sort();
        channels.dedup();
        expected.insert(format!("user{n}"), channels);
    }
    let seats = expected.iter().flat_map(|(user, channels)| channels.iter().map(|c| (user.clone(), c.clone())));
    beat(&one.rest(), seats.chain([("zoe".to_owned(), "lobby".to_owned()), ("zoe".into(), "topic/1".into())])).await;

    for pattern in ["topic:**", "topic:*"] {
        let (found, totals) = all(&rest, &format!("pattern={pattern}&limit=50")).await;
        assert_eq!(found, expected, "{pattern}");
        assert_eq!(totals, [130, 130, 130]);
    }
    let (found, _) = all(&rest, "pattern=topic:7").await;
    let of_seven = expected.iter().filter(|(_, channels)| channels.contains(&"topic:7".to_owned()));
    assert_eq!(found.keys().collect::<Vec<_>>(), of_seven.map(|(user, _)| user).collect::<Vec<_>>());
    assert!(found.values().all(|channels| channels == &["topic:7"]), "channels of the pattern alone");
    assert_eq!(all(&rest, "pattern=topic:**&prefix=user12").await.1, [11]);
    let (found, totals) = all(&rest, "pattern=**&prefix=zoe").await;
    assert_eq!((found["zoe"].as_slice(), totals), (&["lobby".to_owned(), "topic/1".to_owned()][..], vec![1]));
    let nobody = rest.get("/v1/users?pattern=nothing:*").await.ok();
    assert_eq!(nobody, json!({"users": [], "total": 0, "next": null, "stale": false}));
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_a_pattern_are_chosen_by_status_and_the_invisible_are_told_of_too() {
    let redis = Redis::start().await;
    let space = redis.space();
    let (one, two) = (Instance::start(&space).await, Instance::start(&space).await);
    let rest = two.rest();
    let ann = Client::hello_as(&one.url(), "ann").await;
    let ben = Client::hello_as(&one.url(), "ben").await;
    let cem = Client::hello_as(&two.url(), "cem").await;
    for (client, channel) in [(&ann, "topic:1"), (&ann, "topic:2"), (&ben, "topic:1"), (&cem, "topic:3")] {
        client.join(channel, json!({})).await.unwrap();
    }
    ben.op(json!({"op": "status", "status": "busy"})).await.unwrap();
    cem.op(json!({"op": "status", "status": "invisible"})).await.unwrap();
    let users = async |query: &str| {
        let found = rest.get(&format!("/v1/users?pattern=topic:**{query}")).await.ok();
        let users = found["users"].as_array().unwrap().iter();
        let users: Vec<(String, String)> = users
            .map(|user| (user["user"].as_str().unwrap().to_owned(), user["status"].as_str().unwrap().to_owned()))
            .collect();
        assert_eq!(found["total"], users.len());
        users
    };
    let pair = |user: &str, status: &str| (user.to_owned(), status.to_owned());
    let everybody = [pair("ann", "online"), pair("ben", "busy"), pair("cem", "invisible")];
    eventually(DEADLINE, async || users("").await == everybody).await;
    assert_eq!(users("&status=online").await, everybody[..1]);
    assert_eq!(users("&status=busy,away").await, everybody[1..2]);
    assert_eq!(users("&status=invisible").await, everybody[2..]);
    assert_eq!(users("&status=away").await, []);
    let busy = rest.get("/v1/users?status=busy").await.ok();
    assert_eq!((&busy["users"][0]["user"], busy["users"].as_array().unwrap().len()), (&json!("ben"), 1));
    let found = rest.get("/v1/users?pattern=topic:3&offline=true").await.ok();
    assert_eq!(found["users"][0]["channels"], json!(["topic:3"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_are_not_there_are_listed_when_asked_for() {
    let redis = Redis::start().await;
    let space = redis.space();
    let (one, two) = (Instance::start(&space).await, Instance::start(&space).await);
    let rest = two.rest();
    let gone: Vec<String> = (0..25).map(|n| format!("gone{n:02}")).collect();
    for user in &gone {
        let client = Client::hello_as(&one.url(), user).await;
        client.bye().await.unwrap();
    }
    let _ann = Client::hello_as(&one.url(), "ann").await;
    assert_eq!(rest.patch("/v1/users/kept", json!({"state": {"title": "Dr"}})).await.status, 204);
    let pages = async |query: &str| {
        let (mut users, mut more) = (Vec::new(), String::new());
        loop {
            let page = rest.get(&format!("/v1/users?limit=10{query}{more}")).await.ok();
            users.extend(page["users"].as_array().unwrap().iter().cloned());
            match page["next"].as_str() {
                Some(next) => more = format!("&cursor={}", segment(next)),
                None => return users,
            }
        }
    };
    let names = |users: &[Value]| -> Vec<String> {
        users.iter().map(|user| user["user"].as_str().unwrap().to_owned()).collect()
    };
    let expected = [vec!["ann".to_owned()], gone.clone(), vec!["kept".to_owned()]].concat();
    eventually(DEADLINE, async || names(&pages("&offline=true").await) == expected).await;
    let users = pages("&offline=true").await;
    assert_eq!(users[0]["status"], "online");
    assert!(users[1]["status"] == "offline" && users[1]["last_seen"].is_u64(), "{}", users[1]);
    assert_eq!((&users[26]["status"], &users[26]["state"]), (&json!("offline"), &json!({"title": "Dr"})));
    assert_eq!(names(&pages("").await), ["ann"]);
    assert_eq!(names(&pages("&offline=false").await), ["ann"]);
    assert_eq!(names(&pages("&offline=true&prefix=gone1").await), gone[10..20]);
    // Whoever is erased is not known any more.
    for user in ["gone03", "kept"] {
        assert_eq!(rest.delete(&format!("/v1/users/{user}")).await.status, 204);
    }
    let expected: Vec<String> = expected.into_iter().filter(|user| user != "gone03" && user != "kept").collect();
    eventually(DEADLINE, async || names(&pages("&offline=true").await) == expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_ask_for_too_much_or_make_no_sense_are_told_what_to_ask_instead() {
    let keys = [api_key_setting("all", "read+write", API_KEY), api_key_setting("rooms", "read(topic:**)", "rooms")];
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[[namespace]]\nmatch = \"feed:**\"\npresence = false\n").unwrap();
    let settings =
        [("ROLLCALL__AUTH__API_KEYS", keys.join(",")), ("ROLLCALL__LIMITS__PATTERN_CHANNELS", "20".to_owned())];
    let one = Instance::start_with(&["--config", file.path().to_str().unwrap()], &settings).await;
    one.ready().await;
    let rest = one.rest();
    beat(&rest, (0..21).map(|n| ("ann".to_owned(), format!("topic:{n}")))).await;
    let why = problem(&rest.get("/v1/users?pattern=topic:*").await, 413, "too_large");
    assert!(why.contains("more than 20") && why.contains("narrower"), "{why}");
    assert_eq!(rest.get("/v1/users?pattern=topic:5").await.ok()["total"], 1);
    assert_eq!(rest.delete("/v1/channels/topic:0/members/ann").await.status, 204);
    assert_eq!(rest.get("/v1/users?pattern=topic:*").await.ok()["users"][0]["channels"].as_array().unwrap().len(), 20);
    for (query, part) in [
        ("pattern=", "the query:"),
        ("pattern=room*", "whole segment"),
        ("pattern=**:a", "last segment"),
        ("pattern=%ff", "UTF-8"),
        ("pattern=a&pattern=b", "duplicate field"),
        ("pattern=a&status=", "`status`"),
        ("pattern=a&status=offline", "`status`"),
        ("pattern=a&status=online,,busy", "`status`"),
        ("pattern=a&limit=0", "`limit`"),
        ("pattern=a&cursor=x", "`cursor`"),
        ("pattern=a&prefix=a*", "`prefix`"),
        ("status=gone", "`status`"),
        ("offline=perhaps", "the query:"),
        ("offline=", "the query:"),
    ] {
        let why = problem(&rest.get(&format!("/v1/users?{query}")).await, 400, "bad_request");
        assert!(why.contains(part), "{query}: {why}");
    }
    let why = problem(&rest.get("/v1/users?pattern=feed:1").await, 403, "forbidden");
    assert!(why.contains("presence is not available"), "{why}");
    assert_eq!(rest.get("/v1/users?pattern=feed:*").await.ok()["total"], 0);
    // Users belong to no channel: a key narrowed to channels does not ask about them.
    problem(&rest.with_key(Some("rooms")).get("/v1/users?pattern=topic:5").await, 403, "forbidden");
    problem(&rest.with_key(None).get("/v1/users?pattern=topic:5").await, 401, "unauthorized");
    one.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_store_away_nobody_is_said_to_be_nowhere() {
    let mut redis = Redis::start().await;
    let one = Instance::start(&redis.space()).await;
    let rest = one.rest();
    beat(&rest, [("ann".to_owned(), "topic:1".to_owned())].into_iter()).await;
    redis.stop().await;
    eventually(DEADLINE, async || rest.get("/readyz").await.body["status"] == "degraded").await;
    for query in ["pattern=topic:**", "pattern=topic:1", "pattern=**&status=online", "offline=true"] {
        problem(&rest.get(&format!("/v1/users?{query}")).await, 503, "unavailable");
    }
}
