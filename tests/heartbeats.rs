//! Heartbeats in batches, and channels without presence, from outside.

mod harness;

use harness::{API_KEY, Answer, Client, DEADLINE, Events, Instance, Level, Redis, Rest, api_key_setting, eventually};
use serde_json::{Value, json};

#[track_caller]
fn problem(answer: &Answer, status: u16, code: &str) -> String {
    assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{}", answer.text);
    answer.body["detail"].as_str().expect("a sentence").to_owned()
}

async fn beat(rest: &Rest, heartbeats: Vec<Value>) -> Vec<Value> {
    let answer = rest.post("/v1/heartbeats", json!({ "heartbeats": heartbeats })).await.ok();
    let results = answer["results"].as_array().expect("results").clone();
    assert_eq!(results.len(), heartbeats.len());
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn many_devices_are_kept_present_by_one_call_and_watchers_see_them_on_every_instance() {
    let redis = Redis::start().await;
    let space = redis.space();
    let (one, two) = (Instance::start(&space).await, Instance::start(&space).await);
    let watcher = Client::hello_as(&two.url(), "watcher").await;
    watcher.watch("sensors", Level::Users).await.unwrap();
    let rest = one.rest();
    // As many as a call may have; the names are short, for a body has its limit too.
    let beats = |state: i32| -> Vec<Value> {
        let beat = |n: usize| json!({"user": format!("d{n}"), "channel": "sensors", "state": {"c": state}});
        (0..1_000).map(beat).collect()
    };
    let results = beat(&rest, beats(1)).await;
    assert!(results.iter().all(|result| result["ok"]["version"].as_u64().is_some_and(|version| version <= 1_000)));
    let epoch = rest.get("/v1/channels/sensors").await.ok()["epoch"].clone();
    assert!(results.iter().all(|result| result["ok"]["epoch"] == epoch), "{:?}", results[0]);
    assert_eq!(two.rest().occupancy("sensors").await, json!({"users": 1_000, "connections": 1_000}));
    watcher.until("all are there", |it| it.users("sensors").len() == 1_000).await;
    // What says the same is no event; what says something else is.
    let version = rest.get("/v1/channels/sensors").await.ok()["version"].clone();
    beat(&rest, beats(1)).await;
    assert_eq!(rest.get("/v1/channels/sensors").await.ok()["version"], version);
    beat(&two.rest(), beats(2)).await;
    watcher
        .until("the new states", |it| {
            it.users("sensors").iter().all(|user| it.member("sensors", user)["state"] == json!({"c": 2}))
        })
        .await;
    // One that is not said again ends by itself.
    beat(&rest, vec![json!({"user": "brief", "channel": "lobby", "ttl_ms": 1_000})]).await;
    assert_eq!(two.rest().users_in("lobby").await, ["brief"]);
    eventually(DEADLINE, async || two.rest().users_in("lobby").await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_heartbeat_has_its_own_answer_and_one_that_fails_costs_the_others_nothing() {
    let keys = [api_key_setting("all", "read+write", API_KEY), api_key_setting("rooms", "write(room:*)", "rooms")];
    let settings =
        [("ROLLCALL__AUTH__API_KEYS", keys.join(",")), ("ROLLCALL__LIMITS__MEMBERS_PER_CHANNEL", "3".into())];
    let one = Instance::start(&settings).await;
    let rest = one.rest();
    let item = |user: &str, channel: &str| json!({"user": user, "channel": channel});
    let results = beat(
        &rest,
        vec![
            item("ann", "room:1"),
            item("a b", "room:1"),
            item("ann", "a*"),
            json!({"user": "ann", "channel": "room:1", "ttl_ms": 5}),
            json!({"user": "ann", "channel": "room:1", "ttl_ms": 86_400_001}),
            json!({"user": "big", "channel": "room:1", "state": {"x": "y".repeat(5_000)}}),
            item("ben", "room:1"),
        ],
    )
    .await;
    let codes: Vec<&str> = results.iter().map(|result| result["error"]["code"].as_str().unwrap_or("ok")).collect();
    assert_eq!(codes, ["ok", "bad_request", "bad_request", "bad_request", "bad_request", "too_large", "ok"]);
    for (at, part) in [(1, "`user`"), (2, "`channel`"), (3, "`ttl_ms`"), (5, "4096")] {
        let message = results[at]["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
        assert_eq!(results[at].as_object().unwrap().len(), 1);
    }
    assert_eq!(rest.users_in("room:1").await, ["ann", "ben"]);

    // Of several for one seat the last counts, and all of them have its answer.
    let state = |n: usize| json!({"user": "ann", "channel": "room:1", "state": {"n": n}});
    let results = beat(&rest, vec![state(1), item("ben", "room:2"), state(2), state(3)]).await;
    assert!(results[0]["ok"].is_object() && results[0] == results[2] && results[2] == results[3], "{results:?}");
    assert_eq!(rest.members("room:1").await[0]["state"], json!({"n": 3}));

    // A full channel refuses whom it refuses.
    let crowd = (0..5).map(|n| item(&format!("user{n}"), "small")).collect();
    let results = beat(&rest, crowd).await;
    assert_eq!(results.iter().filter(|result| result["ok"].is_object()).count(), 3);
    assert!(results.iter().all(|result| result["ok"].is_object() || result["error"]["code"] == "limit"));

    // A key writes where it may.
    let narrow = rest.with_key(Some("rooms"));
    let results = beat(&narrow, vec![item("cem", "room:1"), item("cem", "lobby")]).await;
    assert!(results[0]["ok"].is_object());
    assert_eq!(results[1]["error"]["code"], "forbidden");
    assert!(results[1]["error"]["message"].as_str().unwrap().contains("`write` for `lobby`"));
    assert_eq!(rest.users_in("lobby").await, [""; 0]);
    assert_eq!(beat(&rest, vec![]).await, [json!(null); 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_batch_of_heartbeats_is_refused_whole() {
    let keys = [api_key_setting("all", "read+write", API_KEY), api_key_setting("reader", "read", "reader")];
    let one = Instance::start(&[("ROLLCALL__AUTH__API_KEYS", keys.join(","))]).await;
    let rest = one.rest();
    let path = "/v1/heartbeats";
    let good = json!({"user": "ann", "channel": "room:1"});
    for (body, part) in [
        (json!({}), "missing field `heartbeats`"),
        (json!({"heartbeats": {}}), "expected a sequence"),
        (json!({"heartbeats": [good], "more": 1}), "unknown field `more`"),
        (json!({"heartbeats": [good, {"user": "ann"}]}), "missing field `channel`"),
        (json!({"heartbeats": [good, {"user": "ann", "channel": "a", "ttl": 1}]}), "unknown field `ttl`"),
        (json!({"heartbeats": [good, {"user": 7, "channel": "a"}]}), "expected a string"),
        (json!({"heartbeats": [good, {"user": "ann", "channel": "a", "state": []}]}), "expected a map"),
        (json!({"heartbeats": [good, {"user": "ann", "channel": "a", "ttl_ms": "soon"}]}), "expected a JSON number"),
        (json!({"heartbeats": [good, "ann"]}), "expected struct"),
        (json!({"heartbeats": vec![json!({"user": "a", "channel": "b"}); 1_001]}), "at most 1000"),
    ] {
        let why = problem(&rest.post(path, body).await, 400, "bad_request");
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(rest.users_in("room:1").await, [""; 0], "nothing of a refused batch was carried out");
    problem(&rest.post(path, json!({"heartbeats": [good], "x": "y".repeat(70_000)})).await, 413, "too_large");
    problem(&rest.with_key(Some("reader")).post(path, json!({"heartbeats": [good]})).await, 403, "forbidden");
    problem(&rest.with_key(None).post(path, json!({"heartbeats": [good]})).await, 401, "unauthorized");
    assert_eq!(rest.get(path).await.status, 405);
    assert_eq!(rest.post("/v1/heartbeats?now=1", json!({"heartbeats": []})).await.status, 400);
    one.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_store_away_a_batch_is_unavailable_as_a_whole() {
    let mut redis = Redis::start().await;
    let one = Instance::start(&redis.space()).await;
    let rest = one.rest();
    let body = json!({"heartbeats": [{"user": "ann", "channel": "a"}, {"user": "ben", "channel": "b"}]});
    redis.stop().await;
    eventually(DEADLINE, async || rest.get("/readyz").await.body["status"] == "degraded").await;
    let answer = rest.post("/v1/heartbeats", body.clone()).await;
    problem(&answer, 503, "unavailable");
    assert!(answer.header("retry-after").is_some());
    // What is wrong in itself is said all the same.
    let mixed = json!({"heartbeats": [{"user": "a b", "channel": "a"}, {"user": "ben", "channel": "b"}]});
    let results = rest.post("/v1/heartbeats", mixed).await.ok();
    assert_eq!(results["results"][0]["error"]["code"], "bad_request");
    assert_eq!(results["results"][1]["error"]["code"], "unavailable");
    assert!(results["results"][1]["error"]["retry_after_ms"].as_u64().is_some());
    redis.start_again().await;
    eventually(DEADLINE, async || rest.post("/v1/heartbeats", body.clone()).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_presence_everybody_is_told_so_and_nobody_is_shown_an_empty_list() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[[namespace]]\nmatch = \"feed:**\"\npresence = false\n").unwrap();
    let redis = Redis::start().await;
    let space = redis.space();
    // Before it was switched off somebody has come.
    let before = Instance::start(&space).await;
    assert_eq!(before.rest().put("/v1/channels/feed:1/members/ann", json!({})).await.status, 204);
    let arguments = ["--config", file.path().to_str().unwrap()];
    let one = Instance::start_with(&arguments, &space).await;
    one.ready().await;
    let rest = one.rest();
    let expect = |answer: Answer, what: &str| {
        let why = problem(&answer, 403, "forbidden");
        assert!(why.contains("presence is not available in `feed:1`"), "{what}: {why}");
    };
    expect(rest.get("/v1/channels/feed:1").await, "channel");
    expect(rest.get("/v1/channels/feed:1/members").await, "members");
    expect(rest.post("/v1/channels/query", json!({"channels": ["room:1", "feed:1"]})).await, "query");
    expect(rest.put("/v1/channels/feed:1/members/ben", json!({})).await, "put");
    let key = ("authorization", "Bearer key-of-the-tests");
    expect(Events::open(&one.url(), "channel=feed:1", &[key]).await.err().unwrap(), "events");
    expect(Events::open(&one.url(), "pattern=feed:1", &[key]).await.err().unwrap(), "events of a pattern");
    let item = |channel: &str| json!({"user": "ben", "channel": channel});
    let results = beat(&rest, vec![item("feed:1"), item("room:1")]).await;
    assert_eq!(results[0]["error"]["code"], "forbidden");
    assert!(results[1]["ok"].is_object());
    let listed = rest.get("/v1/channels").await.ok();
    assert_eq!(listed["channels"].as_array().unwrap().len(), 1, "{listed}");
    // What is left over can be taken away.
    assert_eq!(rest.delete("/v1/channels/feed:1/members/ann").await.status, 204);
    assert_eq!(before.rest().users_in("feed:1").await, [""; 0]);

    let ann = Client::hello_as(&one.url(), "ann").await;
    for error in [
        ann.join("feed:1", json!({})).await.unwrap_err(),
        ann.watch("feed:1", Level::Users).await.unwrap_err(),
        ann.op(json!({"op": "get", "channel": "feed:1"})).await.unwrap_err(),
    ] {
        assert_eq!(error.code, "forbidden");
        assert!(error.message.contains("presence is not available in `feed:1`"), "{}", error.message);
    }
    ann.join_watching("room:1", json!({})).await.unwrap();
}
