//! REST from outside: every route over real Redis, pages of one version, leases, tags, keys, and whatever strangers send.

mod harness;

use std::{collections::BTreeSet, time::Duration};

use harness::{
    API_KEY, Client, DEADLINE, Instance, Level, Redis, Rest, api_key_setting, eventually, free_port, fresh, raw_http,
    segment,
};
use serde_json::{Value, json};

fn seat(channel: &str, user: &str) -> String {
    format!("/v1/channels/{}/members/{}", segment(channel), segment(user))
}

async fn lease(rest: &Rest, channel: &str, user: &str, ttl_ms: u64) {
    let answer = rest.put(&seat(channel, user), json!({"state": {"of": user}, "ttl_ms": ttl_ms})).await;
    assert_eq!(answer.status, 204, "{}", answer.text);
}

/// Leases `count` users, some at a time.
async fn lease_many(rest: &Rest, channel: &str, users: impl Iterator<Item = String>) {
    let users: Vec<String> = users.collect();
    for some in users.chunks(50) {
        futures_util::future::join_all(some.iter().map(|user| lease(rest, channel, user, 120_000))).await;
    }
}

/// The answer is a problem with this status and code; gives its sentence.
#[track_caller]
fn problem(answer: &harness::Answer, status: u16, code: &str) -> String {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.text);
    assert!(answer.header("x-request-id").is_some());
    let body = &answer.body;
    assert_eq!((&body["status"], &body["code"]), (&json!(status), &json!(code)), "{body}");
    assert!(body["title"].is_string() && body["type"].is_string(), "{body}");
    body["detail"].as_str().expect("a problem has a sentence").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_by_put_is_found_by_every_question_on_every_instance() {
    let redis = Redis::start().await;
    let space = redis.space();
    let (one, two) = (Instance::start(&space).await, Instance::start(&space).await);
    let (say, ask) = (one.rest(), two.rest());

    let put = say.put(&seat("room:1", "ann"), json!({"state": {"mood": "well", "n": [1, {}]}, "ttl_ms": 60_000})).await;
    assert_eq!((put.status, put.text.as_str()), (204, ""));
    lease(&say, "room:1", "ben", 60_000).await;
    lease(&say, "room:2", "ann", 60_000).await;
    // The body may leave out everything.
    assert_eq!(say.put(&seat("lobby", "zoe"), json!({})).await.status, 204);

    let channel = ask.get("/v1/channels/room:1").await.ok();
    assert_eq!((&channel["channel"], &channel["stale"]), (&json!("room:1"), &json!(false)));
    assert_eq!(channel["occupancy"], json!({"users": 2, "connections": 2}));
    assert_eq!(channel["version"], 2);
    assert_eq!(put.header("etag").unwrap(), format!("\"{}:1\"", channel["epoch"].as_str().unwrap()));

    let page = ask.get("/v1/channels/room:1/members").await.ok();
    assert_eq!((&page["version"], &page["epoch"]), (&channel["version"], &channel["epoch"]));
    assert_eq!((&page["next"], &page["occupancy"]), (&Value::Null, &channel["occupancy"]));
    let ann = page["members"].as_array().unwrap().iter().find(|member| member["user"] == "ann").unwrap();
    assert_eq!(ann["state"], json!({"mood": "well", "n": [1, {}]}));
    assert_eq!((&ann["status"], &ann["connections"]), (&json!("online"), &json!(1)));

    let list = ask.get("/v1/channels").await.ok();
    let names = |list: &Value| -> Vec<String> {
        list["channels"].as_array().unwrap().iter().map(|one| one["channel"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&list), ["lobby", "room:1", "room:2"]);
    assert_eq!(list["channels"][1]["occupancy"], json!({"users": 2, "connections": 2}));
    assert_eq!(names(&ask.get("/v1/channels?prefix=room:").await.ok()), ["room:1", "room:2"]);
    let first = ask.get("/v1/channels?limit=2").await.ok();
    let rest = format!("/v1/channels?limit=2&cursor={}", segment(first["next"].as_str().unwrap()));
    let last = ask.get(&rest).await.ok();
    assert_eq!((names(&first), names(&last)), (vec!["lobby".into(), "room:1".into()], vec!["room:2".to_owned()]));
    assert_eq!(last["next"], Value::Null);

    let counts = ask.post("/v1/channels/query", json!({"channels": ["room:1", "nobody", "room:1"]})).await.ok();
    assert_eq!(counts["channels"]["room:1"]["occupancy"], json!({"users": 2, "connections": 2}));
    assert_eq!(counts["channels"]["nobody"]["occupancy"], json!({"users": 0, "connections": 0}));
    assert_eq!(counts["channels"].as_object().unwrap().len(), 2);
    assert_eq!(ask.post("/v1/channels/query", json!({"channels": []})).await.ok(), json!({"channels": {}}));

    let users = ask.get("/v1/users").await.ok();
    let online: Vec<_> = users["users"].as_array().unwrap().iter().map(|one| one["user"].as_str().unwrap()).collect();
    assert_eq!(online, ["ann", "ben", "zoe"]);
    assert_eq!(ask.get("/v1/users?prefix=a").await.ok()["users"].as_array().unwrap().len(), 1);
    let ann = ask.get("/v1/users/ann").await.ok();
    assert_eq!((&ann["status"], &ann["channels"]), (&json!("online"), &json!(["room:1", "room:2"])));
    assert_eq!(ann["connections"].as_array().unwrap().len(), 2);
    let nobody = ask.get("/v1/users/nobody").await.ok();
    assert_eq!((&nobody["status"], &nobody["connections"]), (&json!("offline"), &json!([])));
    let statuses = ask.post("/v1/users/query", json!({"users": ["ann", "nobody"]})).await.ok();
    assert_eq!(statuses["users"]["ann"]["status"], "online");
    assert_eq!(statuses["users"]["nobody"], json!({"status": "offline"}));

    let stats = ask.get("/v1/stats").await.ok();
    assert_eq!((&stats["users"], &stats["channels"]), (&json!(3), &json!(3)));
    assert_eq!(stats["instances"].as_array().unwrap().len(), 2);

    for _ in 0..2 {
        assert_eq!(ask.delete(&seat("room:1", "ann")).await.status, 204);
    }
    assert_eq!(say.users_in("room:1").await, ["ben"]);
    assert_eq!(say.users_in("room:2").await, ["ann"]);
    assert_eq!(say.get("/v1/channels/room:1").await.ok()["version"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pages_of_a_list_show_one_version_whatever_happens_and_wherever_they_are_read() {
    let redis = Redis::start().await;
    let space = redis.space();
    let (one, two) = (Instance::start(&space).await, Instance::start(&space).await);
    let rests = [one.rest(), two.rest()];
    let expected: BTreeSet<String> = (0..1150).map(|n| format!("user{n}")).collect();
    lease_many(&rests[0], "big", expected.iter().cloned()).await;
    let epoch_and_version = |page: &Value| (page["epoch"].clone(), page["version"].clone());

    // Pages that end inside of what is kept in one piece, and at its end.
    for limit in [90, 500, 1000] {
        let first = rests[0].get(&format!("/v1/channels/big/members?limit={limit}")).await.ok();
        let mut users: Vec<Value> = first["members"].as_array().unwrap().clone();
        let (mut next, mut turn) = (first["next"].clone(), 0);
        while let Some(cursor) = next.as_str() {
            // Somebody comes and somebody goes between any two pages.
            turn += 1;
            let guest = format!("guest{limit}-{turn}");
            lease(&rests[1], "big", &guest, 120_000).await;
            assert_eq!(rests[0].delete(&seat("big", &guest)).await.status, 204);
            let path = format!("/v1/channels/big/members?limit={limit}&cursor={}", segment(cursor));
            let page = rests[turn % 2].get(&path).await.ok();
            assert_eq!(epoch_and_version(&page), epoch_and_version(&first));
            assert_eq!(page["occupancy"], first["occupancy"]);
            assert!(page["members"].as_array().unwrap().len() <= limit);
            users.extend(page["members"].as_array().unwrap().iter().cloned());
            next = page["next"].clone();
        }
        assert!(turn >= 1, "there was more than one page");
        assert_eq!(users.len(), expected.len());
        let found: BTreeSet<String> = users.iter().map(|member| member["user"].as_str().unwrap().to_owned()).collect();
        assert_eq!(found, expected);
    }

    let first = rests[0].get("/v1/channels/big/members").await.ok();
    assert_eq!(first["members"].as_array().unwrap().len(), 100);
    // What was kept is gone, and so is the version: the reader is told to begin anew.
    redis.command(&["FLUSHALL"]).await;
    let path = format!("/v1/channels/big/members?cursor={}", segment(first["next"].as_str().unwrap()));
    eventually(DEADLINE, async || rests[1].get(&path).await.status == 409).await;
    assert!(problem(&rests[1].get(&path).await, 409, "conflict").contains("begin anew"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_by_itself_unless_it_is_renewed() {
    let redis = Redis::start().await;
    let one = Instance::start(&redis.space()).await;
    let rest = one.rest();
    let watcher = Client::hello_as(&one.url(), "watcher").await;
    watcher.watch("room:1", Level::Users).await.unwrap();
    lease(&rest, "room:1", "brief", 1_000).await;
    lease(&rest, "room:1", "kept", 1_500).await;
    watcher.until("both are there", |it| it.sees("room:1", "brief") && it.sees("room:1", "kept")).await;
    let renewing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            lease(&rest, "room:1", "kept", 1_500).await;
        }
    };
    tokio::select! {
        () = renewing => unreachable!("it renews for ever"),
        () = async { watcher.until("the lease has ended", |it| !it.sees("room:1", "brief")).await; } => {}
    }
    assert_eq!(rest.users_in("room:1").await, ["kept"]);
    let brief = rest.get("/v1/users/brief").await.ok();
    assert_eq!(brief["status"], "offline");
    assert!(brief["last_seen"].as_u64().is_some(), "{brief}");
    // Forgotten, with nothing left to tell; the others are not.
    assert_eq!(rest.delete("/v1/users/brief").await.status, 204);
    assert_eq!(
        rest.post("/v1/users/query", json!({"users": ["brief"]})).await.ok()["users"]["brief"],
        json!({"status": "offline"})
    );
    eventually(DEADLINE, async || rest.users_in("room:1").await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_begins_again_after_it_was_ended_or_has_ended() {
    let redis = Redis::start().await;
    let space = redis.space();
    for settings in [&space[..], &[]] {
        let one = Instance::start(settings).await;
        let rest = one.rest();
        for _ in 0..3 {
            lease(&rest, "room:1", "ann", 60_000).await;
            lease(&rest, "room:1", "ann", 60_000).await;
            assert_eq!(rest.users_in("room:1").await, ["ann"]);
            assert_eq!(rest.delete(&seat("room:1", "ann")).await.status, 204);
            assert_eq!(rest.users_in("room:1").await, [""; 0]);
        }
        lease(&rest, "room:1", "ann", 1_000).await;
        eventually(DEADLINE, async || rest.users_in("room:1").await.is_empty()).await;
        lease(&rest, "room:1", "ann", 60_000).await;
        assert_eq!(rest.users_in("room:1").await, ["ann"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_stands_beside_a_living_connection_and_takes_nothing_from_it() {
    let redis = Redis::start().await;
    let one = Instance::start(&redis.space()).await;
    let rest = one.rest();
    let ann = Client::hello_as(&one.url(), "ann").await;
    ann.join_watching("room:1", json!({"by": "socket"})).await.unwrap();
    lease(&rest, "room:1", "ann", 60_000).await;
    assert_eq!(rest.occupancy("room:1").await, json!({"users": 1, "connections": 2}));
    let user = rest.get("/v1/users/ann").await.ok();
    let devices = user["connections"].as_array().unwrap();
    assert_eq!((devices.len(), &user["channels"]), (2, &json!(["room:1"])), "{user}");
    assert_eq!(rest.members("room:1").await[0]["state"], json!({"of": "ann"}));
    assert_eq!(rest.delete(&seat("room:1", "ann")).await.status, 204);
    assert_eq!(rest.occupancy("room:1").await, json!({"users": 1, "connections": 1}));
    assert_eq!(rest.members("room:1").await[0]["state"], json!({"by": "socket"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_answer_gets_304_until_it_changes() {
    let redis = Redis::start().await;
    let space = redis.space();
    let (one, two) = (Instance::start(&space).await, Instance::start(&space).await);
    let rest = one.rest();
    lease(&rest, "room:1", "ann", 60_000).await;
    let paths =
        ["/v1/channels/room:1", "/v1/channels/room:1/members", "/v1/channels/room:1/members?limit=5", "/v1/users/ann"];
    let mut tags = Vec::new();
    for path in paths {
        let answer = rest.get(path).await;
        let tag = answer.header("etag").expect("a tag").to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
        assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
        for known in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
            let again = two.rest().request("GET", path, &[("If-None-Match", &known)], None).await.unwrap();
            assert_eq!((again.status, again.text.as_str()), (304, ""), "{path} {known}");
            assert_eq!(again.header("etag"), Some(tag.as_str()));
        }
        tags.push(tag);
    }
    assert_eq!(tags[0], tags[1]);
    assert_ne!(tags[1], tags[2], "another question has another tag");
    lease(&rest, "room:1", "ben", 60_000).await;
    lease(&rest, "room:2", "ann", 60_000).await;
    for (path, tag) in paths.iter().zip(&tags) {
        let answer = two.rest().request("GET", path, &[("If-None-Match", tag)], None).await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
        assert_ne!(answer.header("etag"), Some(tag.as_str()));
    }
    let head = rest.request("HEAD", "/v1/channels/room:1", &[], None).await.unwrap();
    assert_eq!((head.status, head.text.as_str(), head.header("etag").is_some()), (200, "", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_does_what_its_scopes_say_and_where() {
    let keys = [
        api_key_setting("all", "read+write", API_KEY),
        api_key_setting("reader", "read", "reader"),
        api_key_setting("rooms", "read(room:*)+write(room:1)", "rooms"),
    ];
    let one = Instance::start(&[("ROLLCALL__AUTH__API_KEYS", keys.join(","))]).await;
    let all = one.rest();
    lease(&all, "room:1", "ann", 60_000).await;
    let statuses = async |key: Option<&str>| {
        let rest = all.with_key(key);
        let query = |names: &[&str]| json!({"channels": names});
        let guest = fresh("guest");
        vec![
            rest.get("/v1/channels").await.status,
            rest.get("/v1/channels/room:1").await.status,
            rest.get("/v1/channels/lobby/members").await.status,
            rest.post("/v1/channels/query", query(&["room:1", "room:2"])).await.status,
            rest.post("/v1/channels/query", query(&["room:1", "lobby"])).await.status,
            rest.put(&seat("room:1", &guest), json!({})).await.status,
            rest.put(&seat("room:2", &guest), json!({})).await.status,
            rest.delete(&seat("room:1", &guest)).await.status,
            rest.delete(&seat("room:2", &guest)).await.status,
            rest.get("/v1/users").await.status,
            rest.get("/v1/users/ann").await.status,
            rest.post("/v1/users/query", json!({"users": []})).await.status,
            rest.delete("/v1/users/ann").await.status,
            rest.get("/v1/stats").await.status,
            rest.get("/metrics").await.status,
        ]
    };
    assert_eq!(
        statuses(Some(API_KEY)).await,
        [200, 200, 200, 200, 200, 204, 204, 204, 204, 200, 200, 200, 204, 200, 200]
    );
    assert_eq!(
        statuses(Some("reader")).await,
        [200, 200, 200, 200, 200, 403, 403, 403, 403, 200, 200, 200, 403, 200, 200]
    );
    assert_eq!(
        statuses(Some("rooms")).await,
        [403, 200, 403, 200, 403, 204, 403, 204, 403, 403, 403, 403, 403, 403, 403]
    );
    assert_eq!(statuses(Some("unknown")).await, [401; 15]);
    assert_eq!(statuses(None).await, [401; 15]);
    let refused = all.with_key(None).get("/v1/users").await;
    problem(&refused, 401, "unauthorized");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    assert!(
        problem(&all.with_key(Some("rooms")).put(&seat("lobby", "ben"), json!({})).await, 403, "forbidden")
            .contains("`write` for `lobby`")
    );
    // What tells nothing of anybody wants no key.
    for path in ["/livez", "/readyz", "/openapi.yaml"] {
        assert_eq!(all.with_key(None).get(path).await.status, 200, "{path}");
    }
    problem(&all.get("/dev/token?user=ann").await, 404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_paths_are_decoded_once_and_kept_as_they_are() {
    let redis = Redis::start().await;
    let one = Instance::start(&redis.space()).await;
    let rest = one.rest();
    let names = [
        "{x}",
        "{p}:{q}",
        "a/b",
        "a%2Fb",
        "100%",
        "room:1",
        "😀",
        "日本:ü",
        "a+b",
        "a?b#c&d=e",
        "query",
        "<img>",
        "\"'`",
        "...",
    ];
    for name in names {
        lease(&rest, name, name, 60_000).await;
    }
    for name in names {
        assert_eq!(rest.get(&format!("/v1/channels/{}", segment(name))).await.ok()["channel"], name);
        assert_eq!(rest.users_in(name).await, [name]);
        assert_eq!(rest.get(&format!("/v1/users/{}", segment(name))).await.ok()["channels"], json!([name]));
    }
    let listed = rest.get("/v1/channels").await.ok();
    let listed: BTreeSet<&str> =
        listed["channels"].as_array().unwrap().iter().map(|one| one["channel"].as_str().unwrap()).collect();
    assert_eq!(listed, BTreeSet::from(names));
    assert_eq!(rest.get("/v1/channels?prefix=100%25").await.ok()["channels"][0]["channel"], "100%");
    // Sent as they are, by a client that encodes nothing.
    for (raw, name) in
        [("{x}", "{x}"), ("room:1", "room:1"), ("%7Bx%7D", "{x}"), ("ro%6Fm%3a1", "room:1"), ("a+b", "a+b")]
    {
        let (status, answer) = raw_get(&one, &format!("/v1/channels/{raw}/members")).await;
        assert!(status == 200 && answer.contains(&format!("\"user\":\"{name}\"")), "{raw}: {answer}");
    }
}

async fn raw_get(instance: &Instance, path: &str) -> (u16, String) {
    raw(instance, format!("GET {path} HTTP/1.1\r\n").as_bytes(), "").await
}

async fn raw(instance: &Instance, line: &[u8], more: &str) -> (u16, String) {
    let mut request = line.to_vec();
    let headers = format!("Host: 127.0.0.1\r\nAuthorization: Bearer {API_KEY}\r\nConnection: close\r\n{more}\r\n");
    request.extend_from_slice(headers.as_bytes());
    raw_http(instance.port(), &request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_queries_that_are_none_are_refused_with_a_sentence() {
    let one = Instance::start(&[]).await;
    let long = "a".repeat(256);
    let bad = [
        "..",
        "%2e%2e",
        ".",
        "%ff",
        "%C3%28",
        "%F0%9F%98",
        "%00",
        "%0a",
        "a%20b",
        "%E2%80%AE",
        "a*",
        "%",
        "a%2",
        "%zz",
        "%EF%BB%BF",
        &long,
    ];
    for name in bad {
        for path in
            [format!("/v1/channels/{name}"), format!("/v1/channels/{name}/members"), format!("/v1/users/{name}")]
        {
            let (status, answer) = raw_get(&one, &path).await;
            assert_eq!(status, 400, "{path}: {answer}");
            assert!(answer.contains("application/problem+json") && answer.contains("bad_request"), "{path}: {answer}");
        }
        for method in ["PUT", "DELETE"] {
            let line = format!("{method} /v1/channels/ok/members/{name} HTTP/1.1\r\n");
            let (status, answer) =
                raw(&one, line.as_bytes(), "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}").await;
            assert_eq!(status, 400, "{method} {name}: {answer}");
        }
    }
    // Bytes that are not even encoded: the framework may refuse them by itself, but never serve them.
    let (status, answer) = raw(&one, b"GET /v1/channels/\xff\xfe HTTP/1.1\r\n", "").await;
    assert_eq!(status, 400, "{answer}");
    for path in [
        "/v1/channels//members",
        "/v1/channels/",
        "/v1/channels/a/members/",
        "/v1",
        "/v2/channels",
        "/v1/channels/../../etc/passwd",
        "/V1/channels",
    ] {
        let (status, answer) = raw_get(&one, path).await;
        assert!(status == 404 && answer.contains("not_found"), "{path}: {answer}");
    }
    let rest = one.rest();
    for (query, part) in [
        ("limit=0", "`limit` is from 1 to 1000"),
        ("limit=1001", "`limit` is from 1 to 1000"),
        ("limit=-1", "the query:"),
        ("limit=", "the query:"),
        ("limit=1&limit=2", "duplicate field `limit`"),
        ("page=2", "unknown field `page`"),
        ("prefix=%ff", "UTF-8"),
        ("prefix=%", "UTF-8"),
        ("prefix=a%20b", "`prefix`"),
        ("prefix=a*", "`prefix`"),
        ("cursor=", "`cursor`"),
        ("cursor=nonsense", "`cursor`"),
    ] {
        for path in ["/v1/channels", "/v1/users"] {
            let why = problem(&rest.get(&format!("{path}?{query}")).await, 400, "bad_request");
            assert!(why.contains(part), "{path}?{query}: {why}");
        }
    }
    for path in ["/v1/channels/a?x=1", "/v1/channels/a/members?prefix=a", "/v1/users/a?x=1", "/v1/stats?x=1"] {
        assert!(problem(&rest.get(path).await, 400, "bad_request").contains("unknown field"), "{path}");
    }
    for (method, path, allow) in [
        ("POST", "/v1/channels", "GET, HEAD"),
        ("DELETE", "/v1/channels/a", "GET, HEAD"),
        ("GET", "/v1/channels/a/members/b", "PUT, DELETE"),
        ("PUT", "/v1/users/a", "GET, HEAD, PATCH, DELETE"),
        ("PUT", "/v1/channels/query", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/stats", "GET, HEAD"),
        ("BREW", "/livez", "GET, HEAD"),
    ] {
        let answer = rest.request(method, path, &[], None).await.unwrap();
        problem(&answer, 405, "bad_request");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    one.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_none_are_refused_and_what_is_wrong_in_them_is_named() {
    let one = Instance::start(&[("ROLLCALL__SERVER__HELLO_TIMEOUT_MS", "1000".to_owned())]).await;
    let rest = one.rest();
    let put = async |body: Value| rest.put(&seat("room:1", "ann"), body).await;
    for (body, part) in [
        (json!({"ttl": 1}), "unknown field `ttl`"),
        (json!({"state": []}), "expected a map"),
        (json!({"state": null}), "expected a map"),
        (json!({"ttl_ms": 999}), "`ttl_ms` is an integer from 1000 to 86400000"),
        (json!({"ttl_ms": 86_400_001}), "`ttl_ms`"),
        (json!({"ttl_ms": 1e300}), "`ttl_ms`"),
        (json!({"ttl_ms": -60_000}), "`ttl_ms`"),
        (json!({"ttl_ms": 60_000.5}), "`ttl_ms`"),
        (json!({"ttl_ms": "60000"}), "invalid type"),
        (json!([]), "it is a JSON object"),
        (json!([{}, 60_000]), "it is a JSON object"),
        (json!("x"), "it is a JSON object"),
        (Value::Null, "it is a JSON object"),
    ] {
        let why = problem(&put(body.clone()).await, 400, "bad_request");
        assert!(why.contains(part), "{body}: {why}");
    }
    let state = |bytes: usize| json!({"state": {"x": "a".repeat(bytes - r#"{"x":""}"#.len())}, "ttl_ms": 60_000.0});
    assert_eq!(put(state(4096)).await.status, 204);
    assert!(problem(&put(state(4097)).await, 413, "too_large").contains("4096"));
    assert!(problem(&put(state(70_000)).await, 413, "too_large").contains("65536"));

    let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    for (path, field) in [("/v1/channels/query", "channels"), ("/v1/users/query", "users")] {
        assert_eq!(rest.post(path, json!({field: names(1000)})).await.ok()[field].as_object().unwrap().len(), 1000);
        problem(&rest.post(path, json!({field: names(1001)})).await, 400, "bad_request");
        problem(&rest.post(path, json!({field: ["a b"]})).await, 400, "bad_request");
        problem(&rest.post(path, json!({field: [1]})).await, 400, "bad_request");
        problem(&rest.post(path, json!({})).await, 400, "bad_request");
        problem(&rest.post(path, json!({field: [], "more": 1})).await, 400, "bad_request");
    }

    let send = async |headers: &str, body: &str| {
        raw(&one, b"PUT /v1/channels/room:1/members/ann HTTP/1.1\r\n", &format!("{headers}\r\n{body}")).await
    };
    let json_of = |length: usize| format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
    let deep = format!("{{\"state\":{}{}}}", "{\"a\":".repeat(5_000), "1".to_owned() + &"}".repeat(5_000));
    for (headers, body, status) in [
        (json_of(2), "{}".to_owned(), 204),
        (json_of(1), "{".to_owned(), 400),
        (json_of(0), String::new(), 400),
        (json_of(4), "{}{}".to_owned(), 400),
        (json_of(23), r#"{"ttl_ms":1,"ttl_ms":1}"#.to_owned(), 400),
        (json_of(deep.len()), deep, 400),
        ("Content-Type: text/plain\r\nContent-Length: 2\r\n".to_owned(), "{}".to_owned(), 415),
        ("Content-Length: 2\r\n".to_owned(), "{}".to_owned(), 415),
        // Ten megabytes are announced, and refused before they are sent.
        (json_of(10_000_000), String::new(), 413),
        // Chunks without end are refused as soon as they are too many.
        (
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            format!("4000\r\n{}\r\n", " ".repeat(0x4000)).repeat(8),
            413,
        ),
        // A body that never comes holds nothing for longer than a socket without a hello.
        (json_of(100), "{".to_owned(), 408),
    ] {
        let (found, answer) = send(&headers, &body).await;
        assert_eq!(found, status, "{headers} {}: {answer}", &body[..body.len().min(80)]);
    }
    one.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn development_mode_asks_for_no_key_and_answers_this_machine_alone() {
    let state = tempfile::tempdir().unwrap();
    let home = state.path().to_str().unwrap().to_owned();
    let one = Instance::start_with(&["--dev"], &[("XDG_STATE_HOME", home)]).await;
    one.ready().await;
    let rest = one.rest().with_key(None);
    lease(&rest, "room:1", "ben", 60_000).await;
    assert_eq!(rest.get("/metrics").await.status, 200);

    let token = rest.get("/dev/token?user=ann").await.ok()["token"].as_str().unwrap().to_owned();
    let ann = Client::connect(&one.url()).await;
    ann.hello(&token).await.unwrap();
    ann.join_watching("room:1", json!({})).await.unwrap();
    ann.until("ben is there", |ann| ann.sees("room:1", "ben")).await;
    assert_eq!(rest.users_in("room:1").await, ["ann", "ben"]);
    assert!(rest.get("/dev/token").await.ok()["token"].is_string());
    problem(&rest.get("/dev/token?user=a%20b").await, 400, "bad_request");
    problem(&rest.get("/dev/token?admin=1").await, 400, "bad_request");

    for path in ["/", "/livez", "/dev/token?user=ann", "/v1/users", "/v1/ws", "/nowhere"] {
        for header in [
            "Host: rebound.example",
            "Host: 127.0.0.1\r\nX-Forwarded-For: 1.2.3.4",
            "Host: localhost\r\nForwarded: for=1.2.3.4",
        ] {
            let request = format!("GET {path} HTTP/1.1\r\n{header}\r\nConnection: close\r\n\r\n");
            let (status, answer) = raw_http(one.port(), request.as_bytes()).await;
            assert_eq!(status, 403, "{path} {header}: {answer}");
        }
    }
    for host in ["localhost", "127.0.0.1:1", "[::1]:8080"] {
        let request = format!("GET /livez HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(raw_http(one.port(), request.as_bytes()).await.0, 200, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_have_a_port_of_their_own_where_one_is_set() {
    let port = free_port();
    let one = Instance::start(&[("ROLLCALL__SERVER__OPS_LISTEN", format!("127.0.0.1:{port}"))]).await;
    let ops = Rest::new(&format!("http://127.0.0.1:{port}")).with_key(None);
    assert_eq!(ops.get("/livez").await.ok(), json!({"status": "live"}));
    assert_eq!(ops.get("/readyz").await.ok(), json!({"status": "ready"}));
    assert_eq!(ops.get("/v1/stats").await.ok()["users"], 0);
    let metrics = ops.get("/metrics").await;
    assert!(metrics.text.contains("rollcall_sockets") && metrics.text.ends_with("# EOF\n"), "{}", metrics.text);
    problem(&ops.get("/v1/users").await, 404, "not_found");
    problem(&one.rest().with_key(None).get("/metrics").await, 401, "unauthorized");
    assert_eq!(one.rest().get("/metrics").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_its_redis_says_so_and_answers_what_it_still_knows() {
    let mut redis = Redis::start().await;
    let one = Instance::start(&redis.space()).await;
    let rest = one.rest();
    let ann = Client::hello_as(&one.url(), "ann").await;
    ann.join_watching("room:1", json!({})).await.unwrap();
    redis.stop().await;
    eventually(DEADLINE, async || {
        let ready = rest.get("/readyz").await;
        ready.status == 200 && ready.body["status"] == "degraded" && ready.body["reason"].is_string()
    })
    .await;
    let channel = rest.get("/v1/channels/room:1").await;
    let tag = channel.header("etag").unwrap().to_owned();
    let channel = channel.ok();
    assert_eq!((&channel["stale"], &channel["occupancy"]["users"]), (&json!(true), &json!(1)));
    let plain = format!("\"{}:{}\"", channel["epoch"].as_str().unwrap(), channel["version"]);
    assert_ne!(tag, plain, "what is stale is another answer");
    assert_eq!(rest.users_in("room:1").await, ["ann"]);
    let others = ["/v1/channels/room:2", "/v1/users/ann", "/v1/channels", "/v1/channels?order=users", "/v1/stats"];
    for path in others {
        let answer = rest.get(path).await;
        problem(&answer, 503, "unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"), "{path}");
    }
    let refused = rest.put(&seat("room:1", "ben"), json!({})).await;
    problem(&refused, 503, "unavailable");
    assert_eq!(rest.get("/livez").await.status, 200);
    redis.start_again().await;
    eventually(DEADLINE, async || rest.get("/readyz").await.body["status"] == "ready").await;
    assert_eq!(rest.users_in("room:1").await, ["ann"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_keeps_the_id_that_it_came_with_if_it_is_one() {
    let one = Instance::start(&[]).await;
    let rest = one.rest();
    let id_for = async |given: &str| {
        let answer = rest.request("GET", "/livez", &[("X-Request-Id", given)], None).await.unwrap();
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        answer.header("x-request-id").unwrap().to_owned()
    };
    let mine = fresh("id-");
    assert_eq!(id_for(&mine).await, mine);
    for other in ["", "a b", "a\"b", &"a".repeat(65)] {
        let id = id_for(other).await;
        assert!(id != other && !id.is_empty() && id.len() <= 64, "{id}");
    }
}
