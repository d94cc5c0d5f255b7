//! Too much, too fast, too slow.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::raw::{PING, Raw, frame, upgrade};
use crate::harness::{Client, Instance, Level, eventually, raw_http, token};

const SECOND: Duration = Duration::from_secs(1);

/// Who asks too fast is told to slow down, operation by operation; the others notice nothing.
pub async fn operations(at: &Instance) {
    let mut eve = Raw::hello_as(at, "eve").await;
    let ann = Client::hello_as(&at.url(), "ann").await;
    let flood = tokio::spawn(async move {
        let (mut done, mut refused) = (0, 0);
        for round in 0..20 {
            let burst: Vec<u8> = (0..50)
                .flat_map(|n| {
                    let id = round * 50 + n + 10;
                    frame(
                        0x81,
                        json!({"id": id, "op": "join", "channel": "flood", "state": {"n": id}}).to_string().as_bytes(),
                    )
                })
                .collect();
            assert!(eve.send(&burst).await);
            for _ in 0..50 {
                let answer = eve.next_text().await;
                if answer.get("ok").is_some() {
                    done += 1;
                } else {
                    assert_eq!(answer["error"]["code"], "rate_limited", "{answer}");
                    assert!(
                        answer["error"]["retry_after_ms"].as_u64().is_some_and(|wait| (1..=1_000).contains(&wait)),
                        "{answer}"
                    );
                    refused += 1;
                }
            }
        }
        eve.text(r#"{"op":"bye"}"#).await;
        (done, refused, eve.end().await.code)
    });
    let mut slowest = Duration::ZERO;
    while !flood.is_finished() {
        let asked = Instant::now();
        ann.ping().await.unwrap();
        slowest = slowest.max(asked.elapsed());
        sleep(Duration::from_millis(25)).await;
    }
    let (done, refused, code) = flood.await.unwrap();
    assert_eq!(code, Some(1000), "a goodbye is heard, however fast it comes");
    assert!((49..900).contains(&done) && refused > 100, "{done} done, {refused} refused");
    assert!(slowest < SECOND, "another waited {slowest:?}");
    ann.bye().await.unwrap();
}

/// Pings are answered, and nobody is held up by one who sends nothing else, whether it reads the answers or not.
pub async fn pings(at: &Instance) {
    let mut reader = Raw::hello_as(at, "eve").await;
    for _ in 0..20 {
        assert!(reader.send(&frame(0x80 | PING, &[b'p'; 125]).repeat(100)).await);
    }
    reader.text(r#"{"id":5,"op":"ping"}"#).await;
    assert_eq!(reader.next_text().await["id"], 5);
    reader.text(r#"{"op":"bye"}"#).await;

    // This one reads nothing. Its pongs fill what the kernel keeps, and then the queue; the other side must still be able to end it.
    let mut deaf = Raw::hello_as(at, "deaf").await;
    deaf.text(r#"{"id":2,"op":"join","channel":"deaf","grace_ms":0}"#).await;
    let watcher = Client::hello_as(&at.url(), "watcher").await;
    watcher.watch("deaf", Level::Users).await.unwrap();
    watcher.until("the deaf one is there", |watcher| watcher.users("deaf") == ["deaf"]).await;
    let burst = frame(0x80 | PING, &[b'p'; 125]).repeat(500);
    let resume = deaf_resume(at).await;
    let began = Instant::now();
    while began.elapsed() < 2 * SECOND {
        if tokio::time::timeout(Duration::from_millis(300), deaf.send(&burst)).await.is_err() {
            break;
        }
    }
    deaf_taken_over(at, resume).await;
    drop(deaf);
    watcher.until("the deaf one is gone", |watcher| watcher.users("deaf").is_empty()).await;
    watcher.bye().await.unwrap();
}

/// A resume token of a second connection of the same user whose socket is full of unread pongs.
async fn deaf_resume(at: &Instance) -> (Raw, String) {
    let mut socket = Raw::open(at).await;
    socket.text(&json!({"id": 1, "op": "hello", "token": token("deaf", json!({}))}).to_string()).await;
    let resume = socket.next_text().await["ok"]["resume"].as_str().unwrap().to_owned();
    let burst = frame(0x80 | PING, &[b'p'; 125]).repeat(500);
    let began = Instant::now();
    while began.elapsed() < 2 * SECOND {
        if tokio::time::timeout(Duration::from_millis(300), socket.send(&burst)).await.is_err() {
            break;
        }
    }
    (socket, resume)
}

/// The socket that is full must give its connection up to the one that resumes it, and its place among the open ones.
async fn deaf_taken_over(at: &Instance, (socket, resume): (Raw, String)) {
    let before = open_sockets(at).await;
    let heir = Client::connect(&at.url()).await;
    assert_eq!(heir.hello_resume(&token("deaf", json!({})), &resume).await.unwrap()["resumed"], true);
    eventually(10 * SECOND, || async { open_sockets(at).await <= before }).await;
    heir.bye().await.unwrap();
    drop(socket);
}

/// How many sockets the instance says that it has.
pub async fn open_sockets(at: &Instance) -> i64 {
    let text = at.rest().get("/metrics").await.text;
    let line = text.lines().find(|line| line.starts_with("rollcall_sockets ")).expect("sockets are counted");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// One who never reads costs a fixed amount, delays nobody, and is closed.
pub async fn one_who_never_reads(at: &Instance) {
    let mut deaf = Raw::hello_as(at, "deaf").await;
    deaf.text(r#"{"id":2,"op":"join","channel":"busy","watch":true}"#).await;
    assert!(deaf.next_text().await.get("ok").is_some());
    let quick = Client::hello_as(&at.url(), "quick").await;
    quick.watch("busy", Level::Users).await.unwrap();
    let before = at.rss_kb();
    let rest = at.rest();
    let (mut most, mut slowest, began) = (0, Duration::ZERO, Instant::now());
    let mut round = 0;
    let sockets = open_sockets(at).await;
    while open_sockets(at).await >= sockets {
        assert!(began.elapsed() < 30 * SECOND, "the deaf one is still there");
        let state = json!({"round": round, "blob": "x".repeat(3_900)});
        for user in 0..40 {
            let body = json!({"state": state, "ttl_ms": 60_000});
            assert_eq!(rest.put(&format!("/v1/channels/busy/members/user-{user}"), body).await.status, 204);
        }
        let asked = Instant::now();
        quick.until("this round", |quick| quick.member("busy", "user-39")["state"]["round"] == round).await;
        slowest = slowest.max(asked.elapsed());
        most = most.max(at.rss_kb());
        round += 1;
    }
    assert!(slowest < SECOND, "the quick one waited {slowest:?}");
    let grown = most.saturating_sub(before);
    assert!(grown < 12 * 1024, "{grown} KB for one who does not read ({round} rounds)");
    let lasted = began.elapsed();
    assert!(lasted < 10 * SECOND, "closed after {lasted:?}, {round} rounds");
    assert_eq!(deaf.end().await.code, Some(4008));
    for user in 0..40 {
        rest.delete(&format!("/v1/channels/busy/members/user-{user}")).await;
    }
    quick.bye().await.unwrap();
}

/// A thousand sockets that say nothing are ended one by one, and meanwhile others are served.
pub async fn a_thousand_without_hello(at: &Instance) {
    let mut silent = Vec::new();
    for _ in 0..1_000 {
        silent.push(Raw::open(at).await);
    }
    let ann = Client::hello_as(&at.url(), "ann").await;
    ann.join("lobby", json!({})).await.unwrap();
    for socket in silent {
        assert_eq!(socket.end().await.code, Some(4001));
    }
    ann.bye().await.unwrap();
    eventually(10 * SECOND, || async { open_sockets(at).await == 0 }).await;
}

/// Of one address only so many; who goes makes room.
pub async fn too_many_from_one_address(at: &Instance, most: usize) {
    let mut sockets = Vec::new();
    for _ in 0..most {
        sockets.push(Raw::open(at).await);
    }
    let (status, answer) = raw_http(at.port(), upgrade(at, &[]).as_bytes()).await;
    assert_eq!(status, 429, "{answer}");
    assert!(answer.to_ascii_lowercase().contains("retry-after:"), "{answer}");
    drop(sockets);
    eventually(10 * SECOND, || async {
        let mut socket = Raw(tokio::net::TcpStream::connect(("127.0.0.1", at.port())).await.unwrap());
        socket.ask(&upgrade(at, &[])).await.starts_with("HTTP/1.1 101")
    })
    .await;
}
