//! The same over REST and plain HTTP.

use std::time::Duration;

use serde_json::json;

use crate::harness::{API_KEY, Client, Instance, Level, Redis, raw_http, segment, token};

fn request(method: &str, target: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {API_KEY}\r\nConnection: close\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

/// Paths are decoded once, and what is no name is refused.
pub async fn paths(at: &Instance) {
    for (path, status) in [
        ("/v1/channels/..", 400),
        ("/v1/channels/.", 400),
        ("/v1/channels/../users", 404),
        ("/v1/channels/%2e%2e", 400),
        ("/v1/channels/%2E%2E/members", 400),
        ("/v1/channels/%252e%252e", 200),
        ("/v1/channels/%ff", 400),
        ("/v1/channels/%c3%28", 400),
        ("/v1/channels/%00", 400),
        ("/v1/channels/a%0d%0ab", 400),
        ("/v1/channels/%", 400),
        ("/v1/channels/%zz", 400),
        ("/v1/channels/a%20b", 400),
        ("/v1/channels/%2A", 400),
        ("/v1/channels/a%2Fb", 200),
        ("/v1/channels/a%252Fb", 200),
        ("/v1/channels//members", 404),
        ("/v1/channels/a/b", 404),
        ("/v1/channels/a?colour=red", 400),
        ("/v1/channels/a/members?limit=-1", 400),
        ("/v1/channels/a/members?limit=100000", 400),
        ("/v1/channels/a/members?cursor=AAAA", 400),
        ("//v1/channels/a", 404),
        ("/etc/passwd", 404),
        ("/../../etc/passwd", 404),
    ] {
        let (got, answer) = raw_http(at.port(), &request("GET", path, "", "")).await;
        assert_eq!(got, status, "{path}: {answer}");
        assert!(answer.contains("application/problem+json") || got == 200, "{path}: {answer}");
    }
    let long = "a".repeat(256);
    let (got, _) = raw_http(at.port(), &request("GET", &format!("/v1/users/{long}"), "", "")).await;
    assert_eq!(got, 400);
}

/// Bodies that are too long, of another kind, or not what they should be.
pub async fn bodies(at: &Instance) {
    let path = "/v1/channels/a/members/eve";
    let json_type = "Content-Type: application/json\r\n";
    let put = |kind: &str, body: &str| request("PUT", path, &format!("{kind}Content-Length: {}\r\n", body.len()), body);
    let deep = format!(r#"{{"state":{{"a":{}{}}}}}"#, "[".repeat(30_000), "]".repeat(30_000));
    for (what, bytes, status) in [
        ("10 MB", put(json_type, &format!(r#"{{"state":{{"a":"{}"}}}}"#, "x".repeat(10 << 20))), 413),
        (
            "10 MB that is announced and does not come",
            request("PUT", path, &format!("{json_type}Content-Length: 10485760\r\n"), ""),
            413,
        ),
        ("a state of 5 KB", put(json_type, &json!({"state": {"a": "x".repeat(5_000)}}).to_string()), 413),
        ("no type", put("", r#"{"state":{}}"#), 415),
        ("a form", put("Content-Type: application/x-www-form-urlencoded\r\n", "state=1"), 415),
        ("text", put("Content-Type: text/plain\r\n", r#"{"state":{}}"#), 415),
        ("30,000 levels", put(json_type, &deep), 400),
        ("no JSON", put(json_type, "hello?"), 400),
        ("nothing", put(json_type, ""), 400),
        ("a list", put(json_type, "[]"), 400),
        ("an unknown field", put(json_type, r#"{"state":{},"colour":"red"}"#), 400),
        ("a lease of an hour ago", put(json_type, r#"{"state":{},"ttl_ms":-1}"#), 400),
        ("a good one", put(json_type, r#"{"state":{"ok":true}}"#), 204),
    ] {
        let (got, answer) = raw_http(at.port(), &bytes).await;
        assert_eq!(got, status, "{what}: {}", answer.get(..600).unwrap_or(&answer));
    }
    at.rest().delete(path).await;
}

/// Whoever asks for somebody to be put out, and does not say it as it is to be said, puts nobody out.
pub async fn putting_out(at: &Instance) {
    let ann = Client::hello_as(&at.url(), "ann").await;
    ann.join("room:1", json!({})).await.unwrap();
    let rest = at.rest();
    let disconnect = "/v1/users/ann/disconnect";
    let many = "é".repeat(1_001);
    for (path, body) in [
        (disconnect, json!({"ban_ms": -1})),
        (disconnect, json!({"ban_ms": 0.5})),
        (disconnect, json!({"ban_ms": 1e30})),
        (disconnect, json!({"ban_ms": 315_360_000_001_u64})),
        (disconnect, json!({"ban_ms": "1"})),
        (disconnect, json!({"ban_ms": null})),
        (disconnect, json!({"reason": many})),
        (disconnect, json!({"reason": 7})),
        (disconnect, json!({"reason": "x", "colour": "red"})),
        (disconnect, json!(["x", 0])),
        ("/v1/users/ann%20/disconnect", json!({})),
        ("/v1/users/ann/disconnect?ban_ms=1", json!({})),
        ("/v1/revocations", json!({})),
        ("/v1/revocations", json!({"jti": null})),
        ("/v1/revocations", json!({"jti": ""})),
        ("/v1/revocations", json!({"jti": "x".repeat(256)})),
        ("/v1/revocations", json!({"jti": 7})),
        ("/v1/revocations", json!({"user": "ann", "channel": "room:1"})),
        ("/v1/revocations", json!({"user": "a b"})),
        ("/v1/revocations", json!({"users": ["ann"]})),
        ("/v1/revocations", json!({"channel": "room:*"})),
        ("/v1/revocations", json!(["ann"])),
    ] {
        let answer = rest.post(path, body.clone()).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (400, &json!("bad_request")),
            "{path} {body}: {}",
            answer.text
        );
        assert!(answer.text.len() < 1_000, "{}", answer.text);
    }
    for (path, status) in [(disconnect, 405), ("/v1/revocations", 405), ("/v1/users/ann/disconnect/now", 404)] {
        assert_eq!(rest.get(path).await.status, status, "{path}");
    }
    ann.update("room:1", json!({"still": "here"})).await.unwrap();
    ann.bye().await.unwrap();
}

/// Heads that are too long, wrong, or never end.
pub async fn heads(at: &Instance) {
    let many: String = (0..200).map(|n| format!("X-{n}: x\r\n")).collect();
    let (status, _) = raw_http(at.port(), &request("GET", "/v1/stats", &many, "")).await;
    assert!(matches!(status, 400 | 431), "200 headers: {status}");
    let long = format!("X-Long: {}\r\n", "x".repeat(200_000));
    let (status, _) = raw_http(at.port(), &request("GET", "/v1/stats", &long, "")).await;
    assert!(matches!(status, 0 | 400 | 431), "a header of 200 KB: {status}");
    for bytes in [
        b"hello?\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET  HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        request("POST", "/v1/users/query", "Content-Length: 5\r\nContent-Length: 6\r\n", "{}"),
        request("POST", "/v1/users/query", "Content-Length: -1\r\n", "{}"),
        request("POST", "/v1/users/query", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ] {
        let (status, answer) = raw_http(at.port(), &bytes).await;
        assert!(matches!(status, 0 | 400..500), "{:?}: {answer}", String::from_utf8_lossy(&bytes));
    }
    let (status, _) = raw_http(at.port(), b"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgr").await;
    assert!(matches!(status, 0 | 408), "half a request is given up: {status}");
    for key in ["", "wrong", "key-of-the-tests "] {
        let answer = at.rest().with_key(Some(key)).get("/v1/stats").await;
        assert_eq!(answer.status, if key.ends_with(' ') { 200 } else { 401 }, "{key:?}");
    }
    assert_eq!(at.rest().with_key(None).get("/v1/stats").await.status, 401);
}

/// Names that look like something else are only names, from door to door, on Redis.
pub async fn names(at: &Instance, redis: &Redis) {
    let names = [
        "{x}",
        "{",
        "}{",
        "c:{a}:rows",
        "a%2Fb",
        "a/b",
        "a:b",
        "%",
        "%00",
        "😀",
        "日本/東京",
        "__proto__",
        "constructor",
        "-",
        "--help",
        "'\"`$(x)",
        "<img/src=x>",
        "\\",
        "a\\r\\n",
        "...",
        ".a",
        "query",
        "members",
        "KEYS",
        "é",
        "e\u{301}",
        "[]",
        "null",
        "0",
    ];
    let rest = at.rest();
    for (n, name) in names.into_iter().enumerate() {
        let ann = Client::connect(&at.url()).await;
        ann.hello(&token(name, json!({}))).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        ann.join_watching(name, json!({ name: name })).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        ann.until("oneself", |ann| ann.users(name) == [name]).await;
        assert_eq!(ann.member(name, name)["state"], json!({ name: name }));
        assert_eq!(rest.users_in(name).await, [name]);
        let user = rest.get(&format!("/v1/users/{}", segment(name))).await.ok();
        assert_eq!((&user["status"], &user["channels"]), (&json!("online"), &json!([name])), "{name}");
        let found = ann.get_users(&[name]).await.unwrap();
        assert_eq!(found["users"][name]["status"], "online");
        let path = format!("/v1/channels/{}/members/{}", segment(name), segment("other"));
        assert_eq!(rest.put(&path, json!({"state": {}})).await.status, 204);
        ann.until("the other too", |ann| ann.users(name).len() == 2).await;
        assert_eq!(rest.delete(&path).await.status, 204);
        let listed = rest.get(&format!("/v1/channels?prefix={}", segment(name))).await.ok();
        assert!(listed["channels"].as_array().unwrap().iter().any(|one| one["channel"] == name), "{listed}");
        let placed = rest.post(&format!("/v1/users/{0}/channels/b:{0}", segment(name)), json!({})).await;
        assert_eq!(placed.ok(), json!({"connections": 1}), "{name}");
        let path = format!("/v1/users/{}/disconnect", segment(name));
        assert_eq!(rest.post(&path, json!({"reason": name, "ban_ms": 1})).await.ok(), json!({"connections": 1}));
        if n == 0 {
            let closed = ann.until_closed(Duration::from_secs(5)).await;
            assert_eq!((closed.code, closed.reason.as_str()), (4504, name));
            let keys = redis.command(&["KEYS", "*"]).await;
            assert!(format!("{keys:?}").contains("{x}"), "the name stands in a key as it is");
        }
    }
    // Bytes tell names apart, not what they look like.
    let watcher = Client::hello_as(&at.url(), "watcher").await;
    watcher.join("é", json!({})).await.unwrap();
    watcher.watch("e\u{301}", Level::Users).await.unwrap();
    assert_eq!(rest.users_in("e\u{301}").await, Vec::<String>::new());
}
