//! The harness is a measuring instrument: these tests see it refuse what it has to refuse.

mod harness;

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use harness::{
    Client, DEADLINE, Instance, Level, Nginx, Proxy, Redis, Rest, View, eventually, raw_http, segment, token,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};
use tokio_tungstenite::tungstenite::Message;

fn member(user: &str, connections: u64) -> Value {
    json!({"user": user, "status": "online", "state": {}, "info": {}, "since": 1, "connections": connections})
}

fn snapshot(version: u64, members: &[Value]) -> Value {
    let connections: u64 = members.iter().map(|member| member["connections"].as_u64().unwrap()).sum();
    json!({"event": "snapshot", "channel": "c", "level": "users", "mode": "full", "epoch": "e", "version": version,
        "members": members, "occupancy": {"users": members.len(), "connections": connections}, "more": false, "time": 1})
}

fn delta(from: u64, to: u64, users: u64, lists: Value) -> Value {
    let mut delta = json!({"event": "delta", "channel": "c", "mode": "full", "epoch": "e", "from": from, "to": to,
        "occupancy": {"users": users, "connections": users}, "time": 1});
    delta.as_object_mut().unwrap().extend(lists.as_object().unwrap().clone());
    delta
}

/// A view of ann at version 7.
fn ann_alone() -> View {
    let mut view = View::new(Level::Users);
    view.take(&snapshot(7, &[member("ann", 1)])).unwrap();
    view
}

#[test]
fn a_view_follows_snapshots_deltas_and_a_change_of_epoch() {
    let mut view = ann_alone();
    view.take(&delta(7, 9, 2, json!({"join": [member("ben", 1)]}))).unwrap();
    let mut next = delta(9, 2, 1, json!({"leave": [{"user": "ann", "reason": "left", "state": {}}]}));
    next["epoch"] = json!("f");
    next["from_epoch"] = json!("e");
    view.take(&next).unwrap();
    assert_eq!((view.version(), view.users()), (("f", 2), vec!["ben".to_owned()]));
    assert_eq!((view.watches.len(), view.watches[0].snapshots, view.watches[0].deltas), (1, 1, 2));
}

#[test]
fn a_view_refuses_every_frame_that_breaks_the_protocol() {
    let leave = json!({"user": "ann", "reason": "left"});
    let broken: Vec<(&str, Value)> = vec![
        ("for a view at", delta(8, 9, 2, json!({"join": [member("ben", 1)]}))),
        ("for a view at", delta(6, 9, 2, json!({"join": [member("ben", 1)]}))),
        ("leads nowhere", delta(7, 7, 1, json!({}))),
        ("was there", delta(7, 8, 1, json!({"join": [member("ann", 1)]}))),
        ("is not there", delta(7, 8, 2, json!({"update": [member("ben", 1)]}))),
        ("is not there", delta(7, 8, 1, json!({"leave": [{"user": "ben", "reason": "left"}]}))),
        ("twice", delta(7, 8, 0, json!({"update": [member("ann", 1)], "leave": [leave]}))),
        ("no reason", delta(7, 8, 0, json!({"leave": [{"user": "ann", "reason": "replaced"}]}))),
        ("is empty", delta(7, 8, 1, json!({"join": []}))),
        ("occupancy says", delta(7, 8, 2, json!({"leave": [leave]}))),
        ("occupancy says", delta(7, 8, 1, json!({"update": [member("ann", 2)]}))),
        ("its cause", snapshot(8, &[member("ann", 1)])),
    ];
    for (expected, frame) in broken {
        let error = ann_alone().take(&frame).expect_err(&frame.to_string());
        assert!(error.contains(expected), "{error}: {frame}");
    }
    let mut other_epoch = delta(7, 8, 0, json!({"leave": [leave]}));
    other_epoch["epoch"] = json!("f");
    assert!(ann_alone().take(&other_epoch).unwrap_err().contains("for a view at"));
    let mut with_cause = snapshot(9, &[]);
    with_cause["cause"] = json!("gap");
    let mut view = ann_alone();
    view.take(&with_cause).unwrap();
    assert_eq!((view.watches[0].snapshots, view.users().len()), (2, 0));
}

#[test]
fn a_view_takes_pages_of_one_version_and_nothing_between_them() {
    let page = |version, user, more| {
        let mut page = snapshot(version, &[member(user, 1)]);
        page["occupancy"] = json!({"users": 2, "connections": 2});
        page["more"] = json!(more);
        page
    };
    let mut view = View::new(Level::Users);
    assert!(view.take(&delta(6, 7, 1, json!({}))).unwrap_err().contains("before the first snapshot"));
    view.take(&page(7, "ann", true)).unwrap();
    assert!(view.clone().take(&delta(7, 8, 2, json!({}))).unwrap_err().contains("between the pages"));
    assert!(view.clone().take(&page(8, "ben", false)).unwrap_err().contains("a page at"));
    assert!(view.clone().take(&page(7, "ann", false)).unwrap_err().contains("twice"));
    view.take(&page(7, "ben", false)).unwrap();
    assert_eq!((view.users().len(), view.watches[0].snapshots), (2, 1));
}

#[test]
fn a_view_lets_the_mode_change_by_a_snapshot_alone_and_has_no_list_in_the_last() {
    let counts = |mut frame: Value| {
        frame["mode"] = json!("occupancy");
        frame.as_object_mut().unwrap().remove("members");
        frame
    };
    let because = |mut frame: Value| {
        frame["cause"] = json!("mode");
        frame
    };
    let mut without = delta(7, 8, 1, json!({}));
    without.as_object_mut().unwrap().remove("mode");
    assert!(ann_alone().take(&without).unwrap_err().contains("no mode"));
    assert!(ann_alone().take(&counts(delta(7, 8, 1, json!({})))).unwrap_err().contains("in mode occupancy"));
    let mut net = delta(7, 8, 1, json!({}));
    net["mode"] = json!("net");
    assert!(ann_alone().take(&net).unwrap_err().contains("without a snapshot"));
    let mut view = ann_alone();
    view.take(&because(counts(snapshot(7, &[member("ann", 1)])))).unwrap();
    assert_eq!((view.has_list(), view.users().len(), view.mode()), (false, 0, "occupancy"));
    assert_eq!(view.since(), Some(json!({"epoch": "e", "version": 7, "mode": "occupancy"})));
    view.take(&counts(delta(7, 8, 5, json!({})))).unwrap();
    let named = counts(delta(8, 9, 6, json!({"join": [member("ben", 1)]})));
    assert!(view.clone().take(&named).unwrap_err().contains("where there are no lists"));
    // Half of a list may be given up for it.
    let mut view = ann_alone();
    let mut page = because(snapshot(9, &[member("ann", 1)]));
    page["more"] = json!(true);
    view.take(&page).unwrap();
    view.take(&because(counts(snapshot(9, &[member("ann", 1), member("ben", 1)])))).unwrap();
    assert!(view.is_complete() && !view.has_list());
}

#[test]
fn the_snapshot_after_a_join_has_to_be_as_new_and_to_contain_whoever_joined() {
    let joined = || {
        let mut view = View::new(Level::Users);
        view.joined("e", 7, Some("ann"));
        view
    };
    assert!(joined().take(&snapshot(6, &[member("ann", 1)])).unwrap_err().contains("joined at 7"));
    assert!(joined().take(&snapshot(7, &[member("ben", 1)])).unwrap_err().contains("does not contain"));
    joined().take(&snapshot(7, &[member("ann", 1)])).unwrap();
}

/// A service of one socket that answers hello and watch, and then sends `frames`.
async fn scripted(frames: Vec<Value>) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        #[allow(clippy::result_large_err, reason = "the callback's type is the library's")]
        let echo = |_: &_, mut response: tokio_tungstenite::tungstenite::handshake::server::Response| {
            response.headers_mut().insert("sec-websocket-protocol", "rollcall.v1".parse().unwrap());
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(socket, echo).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            let Ok(text) = message.to_text() else { break };
            let Ok(operation) = serde_json::from_str::<Value>(text) else { break };
            let ok = json!({"id": operation["id"], "ok": {"connection": "x", "user": "ann", "resume": "r"}});
            socket.send(Message::text(ok.to_string())).await.unwrap();
            if operation["op"] == "watch" {
                for frame in &frames {
                    socket.send(Message::text(frame.to_string())).await.unwrap();
                }
            }
        }
    });
    base
}

#[tokio::test]
async fn a_client_keeps_a_view_and_counts_snapshots_per_watch() {
    let base =
        scripted(vec![snapshot(7, &[member("ann", 1)]), delta(7, 8, 2, json!({"join": [member("ben", 1)]}))]).await;
    let client = Client::hello_as(&base, "ann").await;
    client.watch("c", Level::Users).await.unwrap();
    client.until("ben is here", |client| client.sees("c", "ben")).await;
    assert_eq!((client.snapshots("c"), client.changes("c", "join").len()), (vec![1], 1));
    client.assert_clean();
    client.drop_socket().await;
    assert_eq!(client.closed().unwrap().code, 1006);
    assert_eq!(client.ping().await.unwrap_err().code, "closed");
}

#[tokio::test]
async fn a_client_that_resumes_elsewhere_goes_on_with_its_view() {
    for (from, violations) in [(7, 0), (8, 1)] {
        let one = scripted(vec![snapshot(7, &[member("ann", 1)])]).await;
        let two = scripted(vec![delta(from, 9, 2, json!({"join": [member("ben", 1)]}))]).await;
        let client = Client::hello_as(&one, "ann").await;
        client.watch("c", Level::Users).await.unwrap();
        client.until("the snapshot came", |client| client.sees("c", "ann")).await;
        let client = client.resume_on(&two, &token("ann", json!({}))).await;
        client.until("ben is here", |client| client.sees("c", "ben")).await;
        assert_eq!(client.snapshots("c"), [1, 0]);
        let watches = client.view("c").unwrap().watches;
        assert_eq!(watches.iter().map(|watch| watch.since).collect::<Vec<_>>(), [false, true]);
        assert_eq!(client.take_violations().len(), violations);
    }
}

#[tokio::test]
async fn dropping_a_client_that_saw_a_gap_fails_its_test() {
    let base =
        scripted(vec![snapshot(7, &[member("ann", 1)]), delta(8, 9, 2, json!({"join": [member("ben", 1)]}))]).await;
    let outcome = tokio::spawn(async move {
        let client = Client::hello_as(&base, "ann").await;
        client.watch("c", Level::Users).await.unwrap();
        client.until("the delta came", |client| client.events("delta").len() == 1).await;
        // The drop at the end is what fails.
    });
    let panic = outcome.await.expect_err("the drop panics").into_panic();
    let said = panic.downcast_ref::<String>().expect("a panic with a text");
    assert!(said.contains("broke the protocol") && said.contains("for a view at"), "{said}");
}

#[tokio::test]
async fn redis_stops_comes_back_on_its_port_and_freezes() {
    let mut redis = Redis::start().await;
    redis.command(&["SET", "key", "value"]).await;
    let port = redis.port();
    redis.stop().await;
    assert!(redis.try_command(&["PING"]).await.is_err());
    redis.start_again().await;
    assert_eq!(redis.port(), port);
    assert_eq!(redis.command(&["GET", "key"]).await, ::redis::Value::Nil);
    redis.pause();
    let ping = tokio::time::timeout(Duration::from_millis(200), redis.try_command(&["PING"])).await;
    assert!(!matches!(ping, Ok(Ok(_))), "a frozen server answers nobody: {ping:?}");
    redis.resume();
    redis.command(&["PING"]).await;
}

#[tokio::test]
async fn an_instance_is_a_process_that_ends_with_the_test() {
    let mut instance = Instance::start(&[]).await;
    assert!(instance.runs() && instance.rss_kb() > 500);
    assert_eq!(instance.rest().get("/readyz").await.status, 200);
    instance.kill();
    instance.ended(DEADLINE).await;
    assert!(instance.rest().try_get("/readyz").await.is_err());
}

/// Answers every request with its first line as the body; echoes bytes after an upgrade request instead.
async fn mirror() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (read, mut write) = socket.into_split();
                let mut lines = BufReader::new(read).lines();
                let mut said = Vec::new();
                while let Ok(Some(line)) = lines.next_line().await {
                    if line.is_empty() {
                        let body = said.join("\n");
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                        if write.write_all((head + &body).as_bytes()).await.is_err() {
                            return;
                        }
                        said.clear();
                    } else {
                        said.push(line);
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn nginx_passes_paths_undecoded_and_the_address_of_the_client() {
    let nginx = Nginx::start(&[mirror().await]).await;
    let rest = Rest::new(&nginx.url()).with_key(None);
    let path = format!("/v1/channels/{}/members?limit=1", segment("org/1:😀{}"));
    let answer = rest.request("GET", &path, &[("X-Forwarded-For", "10.9.8.7")], None).await.unwrap();
    assert!(answer.text.starts_with(&format!("GET {path} HTTP/1.1")), "{}", answer.text);
    assert!(answer.text.contains("%2F"));
    let forwarded: Vec<_> =
        answer.text.lines().filter(|line| line.to_lowercase().starts_with("x-forwarded-for")).collect();
    assert_eq!(forwarded, ["X-Forwarded-For: 127.0.0.1"]);
    assert!(answer.text.contains(&format!("Host: 127.0.0.1:{}", nginx.port())), "{}", answer.text);
}

#[tokio::test]
async fn nginx_goes_on_to_the_next_instance_and_carries_web_sockets() {
    let base = scripted(vec![]).await;
    let living: u16 = base.rsplit(':').next().unwrap().parse().unwrap();
    let nginx = Nginx::start(&[harness::free_port(), living]).await;
    let client = Client::hello_as(&nginx.url(), "ann").await;
    assert_eq!(client.connection(), "x");
}

#[tokio::test]
async fn a_proxy_cuts_freezes_delays_and_mends() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nGET / HTTP/1.1";
    let proxy = Proxy::start(mirror().await).await;
    let ask = || async { raw_http(proxy.port(), b"GET / HTTP/1.1\r\n\r\n").await.0 };
    let request = |mut socket: tokio::net::TcpStream| async move {
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
        let mut answer = [0; ANSWER.len()];
        socket.read_exact(&mut answer).await.map(|_| socket)
    };
    let connect = || tokio::net::TcpStream::connect(("127.0.0.1", proxy.port()));

    let socket = request(connect().await.unwrap()).await.expect("an open proxy passes");
    proxy.cut();
    assert!(request(socket).await.is_err(), "a link that was cut is closed");
    assert_eq!(ask().await, 0);
    proxy.restore();
    let socket = request(connect().await.unwrap()).await.expect("a mended proxy passes");

    proxy.blackhole();
    let waiting = tokio::spawn(request(connect().await.unwrap()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished(), "nothing passes a black hole");
    proxy.restore();
    tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap().expect("what was held back passes in the end");

    proxy.delay(Duration::from_millis(150));
    let begun = tokio::time::Instant::now();
    request(socket).await.expect("a slow proxy passes");
    assert!(begun.elapsed() >= Duration::from_millis(300), "both ways are slow");
    proxy.cut_once();
    proxy.restore();
    request(connect().await.unwrap()).await.expect("a new link works after the cut of the old ones");
}

#[tokio::test]
async fn waiting_ends_when_the_condition_holds_and_not_later_than_the_deadline() {
    let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
    eventually(DEADLINE, || async { count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 3 }).await;
    assert!(harness::holds_within(Duration::from_millis(50), || async { false }).await.is_none());
}

#[test]
fn tokens_are_what_they_say() {
    let parts = |token: &str| token.split('.').count();
    assert_eq!((parts(&token("ann", json!({}))), parts(&harness::unsigned("ann", json!({})))), (3, 3));
    for pair in [harness::KeyPair::es256(), harness::KeyPair::ed25519()] {
        assert!(pair.public_pem.contains("PUBLIC KEY"));
        assert_eq!(parts(&pair.token("ann", json!({"sub": null}))), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_makes_the_feeds_of_now_deaf_and_nothing_else() {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let client = redis::Client::open(proxy.redis_url()).unwrap();
    let subscribe = async || {
        let mut feed = client.get_async_pubsub().await.unwrap();
        feed.subscribe("news").await.unwrap();
        feed
    };
    let mut deaf = subscribe().await;
    let mut other = client.get_multiplexed_async_connection().await.unwrap();
    proxy.deafen_feeds();
    let mut hearing = subscribe().await;
    redis::cmd("PUBLISH").arg("news").arg("now").exec_async(&mut other).await.unwrap();
    let hears = async |feed: &mut redis::aio::PubSub| {
        tokio::time::timeout(Duration::from_secs(1), feed.on_message().next()).await.is_ok()
    };
    assert!(hears(&mut hearing).await);
    assert!(!hears(&mut deaf).await);
}
