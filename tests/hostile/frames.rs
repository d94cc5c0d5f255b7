//! Bytes that are no frames, frames that are no operations, operations that are wrong.

use serde_json::{Value, json};
use std::time::Duration;

use super::raw::{BINARY, PING, Raw, TEXT, frame, header};
use crate::harness::{Client, Instance, Level, token};

const FIN: u8 = 0x80;

/// What breaks WebSocket itself ends the socket, each with the close code that says why.
pub async fn broken_frames(at: &Instance) {
    let text = br#"{"id":2,"op":"ping"}"#;
    let mut unmasked = vec![FIN | TEXT, u8::try_from(text.len()).unwrap()];
    unmasked.extend(text);
    let mut absurd = vec![FIN | TEXT, 0xff];
    absurd.extend([0xff; 12]);
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("a binary frame", frame(FIN | BINARY, text), 1003),
        ("invalid UTF-8", frame(FIN | TEXT, b"{\"op\":\"\xff\xfe\"}"), 1007),
        ("an unmasked frame", unmasked, 1002),
        ("reserved bits", frame(FIN | 0x40 | TEXT, text), 1002),
        ("an unknown kind", frame(FIN | 3, text), 1002),
        ("a continuation of nothing", frame(FIN, text), 1002),
        ("two beginnings", [frame(TEXT, b"{"), frame(TEXT, b"{")].concat(), 1002),
        ("a ping in fragments", frame(PING, b"x"), 1002),
        ("a long ping", frame(FIN | PING, &[0; 126]), 1002),
        ("a length beyond all", absurd, 1009),
        ("a frame of one byte too many", frame(FIN | TEXT, &[b' '; 65_537]), 1009),
        ("brackets, 100,000 deep", frame(FIN | TEXT, &[b'['; 100_000]), 1009),
        ("no JSON", frame(FIN | TEXT, b"hello?"), 4500),
        ("nothing", frame(FIN | TEXT, b""), 4500),
        ("half a JSON", frame(FIN | TEXT, br#"{"id":1,"op":"#), 4500),
    ];
    for (what, bytes, code) in cases {
        let mut socket = Raw::hello_as(at, "eve").await;
        socket.send(&bytes).await;
        assert_eq!(socket.end().await.code, Some(code), "{what}");
    }
    // The largest that fits, cut into pieces with a ping between them, is read.
    let mut whole = br#"{"id":7,"op":"ping"}"#.to_vec();
    whole.resize(65_536, b' ');
    let mut socket = Raw::hello_as(at, "eve").await;
    socket.frame(TEXT, &whole[..30_000]).await;
    socket.frame(FIN | PING, b"still there?").await;
    socket.frame(0, b"").await;
    socket.frame(FIN, &whole[30_000..]).await;
    assert_eq!(socket.next_text().await["id"], 7);
}

/// A frame is measured by what its header promises: the rest of it is not awaited, and not kept.
pub async fn long_frames(at: &Instance) {
    let mut socket = Raw::hello_as(at, "eve").await;
    let before = at.rss_kb();
    socket.send(&header(FIN | TEXT, 10 << 20)).await;
    let chunk = vec![b'x'; 64 * 1024];
    for _ in 0..160 {
        if !socket.send(&chunk).await {
            break;
        }
    }
    drop(socket);
    let mut socket = Raw::hello_as(at, "eve").await;
    socket.send(&header(FIN | TEXT, 10 << 20)).await;
    socket.send(&[0; 4]).await;
    assert_eq!(socket.end().await.code, Some(1009), "10 MB, by the header alone");
    let mut socket = Raw::hello_as(at, "eve").await;
    socket.send(&header(FIN | TEXT, 1 << 40)).await;
    socket.send(&[0; 4]).await;
    assert_eq!(socket.end().await.code, Some(1009), "a terabyte");
    // One who sends all of it before reading learns of it too.
    let eve = Client::hello_as(&at.url(), "eve").await;
    let _ = eve.send_text("x".repeat(10 << 20)).await;
    assert_eq!(eve.until_closed(Duration::from_secs(10)).await.code, 1009);
    let grown = at.rss_kb().saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KB for a frame that nobody shall keep");
}

/// Fragments add up to as much as one frame may have; empty ones add up to nothing, and nothing grows with them.
pub async fn fragments_without_end(at: &Instance) {
    let mut socket = Raw::hello_as(at, "eve").await;
    socket.frame(TEXT, b"\"").await;
    for _ in 0..80 {
        socket.frame(0, &[b'x'; 1_000]).await;
    }
    assert_eq!(socket.end().await.code, Some(1009));

    let mut socket = Raw::hello_as(at, "eve").await;
    let before = at.rss_kb();
    socket.frame(TEXT, b"{").await;
    let empty = frame(0, b"").repeat(10_000);
    for _ in 0..50 {
        assert!(socket.send(&empty).await);
    }
    socket.frame(FIN, br#""id":9,"op":"ping"}"#).await;
    assert_eq!(socket.next_text().await["id"], 9, "half a million empty fragments later");
    let grown = at.rss_kb().saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KB for empty fragments");
}

/// A frame that is half there holds nobody up: before hello the time for hello ends it.
pub async fn half_a_frame(at: &Instance) {
    let mut socket = Raw::open(at).await;
    let whole = frame(FIN | TEXT, br#"{"id":1,"op":"hello","token":"x"}"#);
    socket.send(&whole[..20]).await;
    assert_eq!(socket.end().await.code, Some(4001));
}

/// What is JSON and no operation is an error, and the socket stays.
pub async fn wrong_operations(at: &Instance) {
    let mut socket = Raw::hello_as(at, "eve").await;
    let deep = |levels| {
        format!(r#"{{"id":5,"op":"join","channel":"a","state":{{"a":{}{}}}}}"#, "[".repeat(levels), "]".repeat(levels))
    };
    let many: Vec<String> = (0..1_001).map(|n| format!("u{n}")).collect();
    let long = "x".repeat(60_000);
    // What is sent, the id of the answer, its code, and what the sentence names.
    let cases: Vec<(String, Value, &str, &str)> = vec![
        ("[1]".into(), Value::Null, "bad_request", "object"),
        ("null".into(), Value::Null, "bad_request", "object"),
        ("7".into(), Value::Null, "bad_request", "object"),
        ("\"join\"".into(), Value::Null, "bad_request", "object"),
        ("{}".into(), Value::Null, "bad_request", "`op`"),
        (r#"{"id":5}"#.into(), json!(5), "bad_request", "`op`"),
        (r#"{"id":5,"op":7}"#.into(), json!(5), "bad_request", "`op`"),
        (r#"{"id":5,"op":"fly"}"#.into(), json!(5), "unknown_op", "`fly`"),
        (r#"{"id":5,"op":"typing","channel":"a","typing":true}"#.into(), json!(5), "conflict", "not joined"),
        (r#"{"id":5,"op":"typing","typing":true}"#.into(), json!(5), "bad_request", "`channel`"),
        (r#"{"id":5,"op":"typing","channel":"a","to":"b","typing":true}"#.into(), json!(5), "bad_request", "`to`"),
        (r#"{"id":5,"op":"typing","channel":"a"}"#.into(), json!(5), "bad_request", "`typing`"),
        (r#"{"id":5,"op":"typing","channel":"a","typing":1}"#.into(), json!(5), "bad_request", "boolean"),
        (r#"{"id":5,"op":"typing","channel":"*","typing":true}"#.into(), json!(5), "bad_request", "`channel`"),
        (r#"{"id":5,"op":"typing","to":"a b","typing":true}"#.into(), json!(5), "bad_request", "`to`"),
        (r#"{"id":5,"op":"typing","to":["b"],"typing":true}"#.into(), json!(5), "bad_request", "string"),
        (r#"{"id":5,"op":"typing","to":"b","typing":true,"by":"c"}"#.into(), json!(5), "bad_request", "`by`"),
        (r#"{"id":5,"op":"send","channel":"a"}"#.into(), json!(5), "bad_request", "`data`"),
        (r#"{"id":5,"op":"send","data":1}"#.into(), json!(5), "bad_request", "`channel`"),
        (r#"{"id":5,"op":"send","channel":7,"data":1}"#.into(), json!(5), "bad_request", "string"),
        (r#"{"id":5,"op":"send","channel":"a","data":1,"echo":"yes"}"#.into(), json!(5), "bad_request", "boolean"),
        (r#"{"id":5,"op":"send","channel":"a","data":1,"to":"b"}"#.into(), json!(5), "bad_request", "`to`"),
        (json!({"id": 5, "op": "send", "channel": "a", "data": long}).to_string(), json!(5), "too_large", "1024"),
        (r#"{"id":5,"op":"JOIN","channel":"a"}"#.into(), json!(5), "unknown_op", "`JOIN`"),
        (r#"{"op":"fly"}"#.into(), Value::Null, "unknown_op", "`fly`"),
        (r#"{"id":-1,"op":"ping"}"#.into(), Value::Null, "bad_request", "`id`"),
        (r#"{"id":1.5,"op":"ping"}"#.into(), Value::Null, "bad_request", "`id`"),
        (r#"{"id":9007199254740992,"op":"ping"}"#.into(), Value::Null, "bad_request", "`id`"),
        (r#"{"id":1e400,"op":"ping"}"#.into(), Value::Null, "bad_request", "number"),
        (r#"{"id":"5","op":"ping"}"#.into(), Value::Null, "bad_request", "`id`"),
        (r#"{"id":null,"op":"ping"}"#.into(), Value::Null, "bad_request", "`id`"),
        (r#"{"id":5,"op":"join","channel":"a","colour":"red"}"#.into(), json!(5), "bad_request", "`colour`"),
        (r#"{"id":5,"op":"join","channel":"a","on_leave":[]}"#.into(), json!(5), "bad_request", "map"),
        (r#"{"id":5,"op":"join","channel":"a","on_leave":null}"#.into(), json!(5), "bad_request", "map"),
        (
            json!({"id": 5, "op": "join", "channel": "a", "on_leave": {"x": long}}).to_string(),
            json!(5),
            "too_large",
            "4096",
        ),
        (r#"{"id":5,"op":"ping","extra":1}"#.into(), json!(5), "bad_request", "`extra`"),
        (r#"{"id":5,"op":"watch"}"#.into(), json!(5), "bad_request", "`channel`"),
        (r#"{"id":5,"op":"watch","users":"ben"}"#.into(), json!(5), "bad_request", "sequence"),
        (r#"{"id":5,"op":"watch","users":["ben",7]}"#.into(), json!(5), "bad_request", "string"),
        (r#"{"id":5,"op":"watch","users":["ben","a b"]}"#.into(), json!(5), "bad_request", "white space"),
        (r#"{"id":5,"op":"watch","users":["ben"],"user":"b"}"#.into(), json!(5), "bad_request", "`user`"),
        (r#"{"id":5,"op":"watch","users":["ben"],"channel":"a"}"#.into(), json!(5), "bad_request", "one of"),
        (r#"{"id":5,"op":"watch","users":["ben"],"level":"users"}"#.into(), json!(5), "bad_request", "`level`"),
        (r#"{"id":5,"op":"watch","users":["ben"],"since":{}}"#.into(), json!(5), "bad_request", "`since`"),
        (r#"{"id":5,"op":"watch","all_users":false}"#.into(), json!(5), "bad_request", "`all_users`"),
        (r#"{"id":5,"op":"watch","all_users":"yes"}"#.into(), json!(5), "bad_request", "boolean"),
        (r#"{"id":5,"op":"watch","all_users":true,"users":["ben"]}"#.into(), json!(5), "bad_request", "one of"),
        (r#"{"id":5,"op":"unwatch","all_users":true}"#.into(), json!(5), "conflict", "not watched"),
        (r#"{"id":5,"op":"unwatch"}"#.into(), json!(5), "bad_request", "`channel`"),
        (r#"{"id":5,"op":"unwatch","users":["ben"],"level":"users"}"#.into(), json!(5), "bad_request", "`level`"),
        (json!({"id": 5, "op": "watch", "users": many}).to_string(), json!(5), "too_large", "1000"),
        (json!({"id": 5, "op": "unwatch", "users": many}).to_string(), json!(5), "too_large", "1000"),
        (r#"{"id":5,"op":"watch","pattern":"room*"}"#.into(), json!(5), "bad_request", "`pattern`"),
        (r#"{"id":5,"op":"watch","pattern":"**:a"}"#.into(), json!(5), "bad_request", "`pattern`"),
        (r#"{"id":5,"op":"watch","pattern":""}"#.into(), json!(5), "bad_request", "`pattern`"),
        (r#"{"id":5,"op":"watch","pattern":7}"#.into(), json!(5), "bad_request", "string"),
        (r#"{"id":5,"op":"watch","pattern":"room:*","since":{}}"#.into(), json!(5), "bad_request", "`since`"),
        (r#"{"id":5,"op":"watch","pattern":"room:*","level":"all"}"#.into(), json!(5), "bad_request", "`all`"),
        (r#"{"id":5,"op":"watch","pattern":"a","channel":"a"}"#.into(), json!(5), "bad_request", "one of"),
        (r#"{"id":5,"op":"unwatch","pattern":"room:*"}"#.into(), json!(5), "conflict", "not watched"),
        (r#"{"id":5,"op":"join"}"#.into(), json!(5), "bad_request", "`channel`"),
        (r#"{"id":5,"op":"join","channel":7}"#.into(), json!(5), "bad_request", "string"),
        (r#"{"id":5,"op":"join","channel":"a","state":[]}"#.into(), json!(5), "bad_request", "map"),
        (r#"{"id":5,"op":"join","channel":"a","watch":1}"#.into(), json!(5), "bad_request", "boolean"),
        (r#"{"id":5,"op":"join","channel":"a","level":"users"}"#.into(), json!(5), "bad_request", "`level`"),
        (r#"{"id":5,"op":"join","channel":"a","grace_ms":300001}"#.into(), json!(5), "bad_request", "`grace_ms`"),
        (r#"{"id":5,"op":"join","channel":"a","grace_ms":-1}"#.into(), json!(5), "bad_request", "u64"),
        (r#"{"id":5,"op":"watch","channel":"a","level":"everything"}"#.into(), json!(5), "bad_request", "`everything`"),
        (r#"{"id":5,"op":"update","channel":"a","state":{}}"#.into(), json!(5), "conflict", "not joined"),
        (r#"{"id":5,"op":"leave","channel":"a"}"#.into(), json!(5), "conflict", "not joined"),
        (r#"{"id":5,"op":"unwatch","channel":"a"}"#.into(), json!(5), "conflict", "not watched"),
        (r#"{"id":5,"op":"get"}"#.into(), json!(5), "bad_request", "`get`"),
        (r#"{"id":5,"op":"get","channel":"a","users":["b"]}"#.into(), json!(5), "bad_request", "`get`"),
        (r#"{"id":5,"op":"get","channel":"a","members":1}"#.into(), json!(5), "bad_request", "integer `1`"),
        (r#"{"id":5,"op":"get","channel":"a","limit":5}"#.into(), json!(5), "bad_request", "`limit`"),
        (r#"{"id":5,"op":"get","channel":"a","members":true,"limit":0}"#.into(), json!(5), "bad_request", "`limit`"),
        (
            r#"{"id":5,"op":"get","channel":"a","members":true,"limit":1e9}"#.into(),
            json!(5),
            "bad_request",
            "1000000000",
        ),
        (
            r#"{"id":5,"op":"get","channel":"a","members":true,"cursor":"bQ"}"#.into(),
            json!(5),
            "bad_request",
            "`cursor`",
        ),
        (
            json!({"id": 5, "op": "get", "channel": "a", "members": true, "cursor": &long}).to_string(),
            json!(5),
            "bad_request",
            "`cursor`",
        ),
        (json!({"id": 5, "op": "get", "users": many}).to_string(), json!(5), "too_large", "1000"),
        (r#"{"id":5,"op":"refresh","token":"x"}"#.into(), json!(5), "unauthorized", "token"),
        (r#"{"id":5,"op":"hello","token":"x"}"#.into(), json!(5), "bad_request", "already"),
        (
            r#"{"id":5,"op":"join","channel":"a","state":{"cut":"\ud83d"}}"#.into(),
            Value::Null,
            "bad_request",
            "cannot be read",
        ),
        (
            r#"{"id":5,"op":"join","channel":"a","state":{"n":1e999}}"#.into(),
            Value::Null,
            "bad_request",
            "cannot be read",
        ),
        (deep(500), Value::Null, "bad_request", "recursion"),
        (deep(32_000), Value::Null, "bad_request", "recursion"),
        (json!({"id": 5, "op": long}).to_string(), json!(5), "unknown_op", "xxx"),
        (json!({"id": 5, "op": "ping", long.as_str(): 1}).to_string(), json!(5), "bad_request", "unknown field"),
    ];
    for chunk in cases.chunks(20) {
        for (sent, id, code, names) in chunk {
            socket.text(sent).await;
            let answer = socket.next_text().await;
            let shown = sent.get(..200).unwrap_or(sent);
            assert_eq!((&answer["id"], answer["error"]["code"].as_str()), (id, Some(*code)), "{shown}: {answer}");
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.contains(names) && message.len() < 600, "{shown}: {message}");
        }
        // Fifty a second are let in.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Of a field that stands there twice the last counts; what stands in a state is the client's own affair.
    socket.text(r#"{"id":4,"id":6,"op":"leave","op":"ping"}"#).await;
    assert_eq!(socket.next_text().await["id"], 6);
    socket
        .text(r#"{"id":7,"op":"join","channel":"proto","state":{"__proto__":{"admin":true},"constructor":null}}"#)
        .await;
    assert!(socket.next_text().await.get("ok").is_some());
}

/// Names are checked by one rule, states by their size, and `since` may be anything.
pub async fn sizes_and_names(at: &Instance) {
    let eve = Client::hello_as(&at.url(), "eve").await;
    for bad in [&"a".repeat(256), "", "a b", "a\nb", "a\0", "\u{200b}", "a\u{202e}b", ".", "..", "room:*", "\u{e000}"] {
        assert_eq!(eve.join(bad, json!({})).await.unwrap_err().code, "bad_request", "{bad:?}");
        assert_eq!(eve.get_users(&[bad]).await.unwrap_err().code, "bad_request", "{bad:?}");
    }
    let longest = "é".repeat(127);
    eve.join(&longest, json!({})).await.unwrap();

    assert_eq!(eve.join("sizes", json!({"blob": "x".repeat(5_000)})).await.unwrap_err().code, "too_large");
    let state = json!({"blob": "x".repeat(4_000)});
    eve.join_watching("sizes", state.clone()).await.unwrap();
    assert_eq!(eve.update("sizes", json!({"more": "x".repeat(100)})).await.unwrap_err().code, "too_large");
    eve.until("the state is as it was", |eve| eve.member("sizes", "eve")["state"] == state).await;
    eve.update("sizes", json!({"blob": null})).await.unwrap();

    for since in [
        json!({"epoch": "", "version": 0}),
        json!({"epoch": "nobody's", "version": 1}),
        json!({"epoch": "x".repeat(50_000), "version": u64::MAX}),
        json!({"epoch": eve.view("sizes").unwrap().version().0, "version": u64::MAX}),
        json!({"epoch": eve.view("sizes").unwrap().version().0, "version": 0}),
        // Who had no list begins with one.
        json!({"epoch": eve.view("sizes").unwrap().version().0, "version": eve.view("sizes").unwrap().version().1, "mode": "occupancy"}),
    ] {
        let ben = Client::hello_as(&at.url(), "ben").await;
        ben.watch_since("sizes", Level::Users, Some(since)).await.unwrap();
        ben.until("who is there", |ben| ben.users("sizes") == ["eve"]).await;
        ben.bye().await.unwrap();
    }
    for since in [
        json!({"epoch": "a", "version": -1}),
        json!({"epoch": "a", "version": 1e30}),
        json!({"epoch": 1, "version": 1}),
        json!({"epoch": "a", "version": 1, "mode": "loud"}),
        json!({"epoch": "a", "version": 1, "mode": 7}),
        json!(7),
    ] {
        assert_eq!(eve.watch_since("sizes", Level::Users, Some(since)).await.unwrap_err().code, "bad_request");
    }
    eve.bye().await.unwrap();
}

/// The 129th is refused, the 128 stay.
pub async fn too_many_channels(at: &Instance) {
    let eve = Client::hello_as(&at.url(), "eve").await;
    let names: Vec<String> = (0..129).map(|n| format!("many:{n}")).collect();
    let eve = &eve;
    for name in &names[..128] {
        patient(|| eve.join(name, json!({}))).await.unwrap();
    }
    assert_eq!(patient(|| eve.join(&names[128], json!({}))).await.unwrap_err().code, "limit");
    patient(|| eve.join(&names[0], json!({"again": true}))).await.unwrap();
    for name in &names[..128] {
        patient(|| eve.watch(name, Level::Occupancy)).await.unwrap();
    }
    assert_eq!(patient(|| eve.watch(&names[128], Level::Occupancy)).await.unwrap_err().code, "limit");
    patient(|| eve.watch(&names[0], Level::Users)).await.unwrap();
    eve.bye().await.ok();
}

/// Asks again when told to slow down, after the time that is named.
async fn patient<F: Future<Output = Result<Value, crate::harness::OpError>>>(
    operation: impl Fn() -> F,
) -> Result<Value, crate::harness::OpError> {
    loop {
        match operation().await {
            Err(error) if error.code == "rate_limited" => {
                let wait = error.retry_after_ms.expect("who is too fast is told how long to wait");
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            answer => return answer,
        }
    }
}

/// Before hello only `ping` is answered, and after the time for it the socket ends.
pub async fn without_hello(at: &Instance) {
    let mut socket = Raw::open(at).await;
    socket.text(r#"{"id":1,"op":"join","channel":"a"}"#).await;
    assert_eq!(socket.next_text().await["error"]["code"], "bad_request");
    socket.text(r#"{"op":"hello"}"#).await;
    let answer = socket.next_text().await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!("bad_request")));
    socket.text(r#"{"id":2,"op":"hello"}"#).await;
    assert_eq!(socket.next_text().await["error"]["code"], "unauthorized");
    let device = "x".repeat(10_000);
    socket.text(&json!({"id": 3, "op": "hello", "token": token("eve", json!({})), "device": device}).to_string()).await;
    let answer = socket.next_text().await;
    assert_eq!(answer["error"]["code"], "bad_request");
    assert!(answer["error"]["message"].as_str().unwrap().contains("`device`"), "{answer}");
    socket.text(r#"{"id":4,"op":"ping"}"#).await;
    assert!(socket.next_text().await["ok"]["server_time"].is_u64());
    assert_eq!(socket.end().await.code, Some(4001));
}
