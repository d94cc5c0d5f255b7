//! What only Redis can suffer, and what only there can be damaged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::Value;
use rollcall::{
    domain::{
        member::Reason,
        name::RosterKey,
        partition::{Batch, Refusal, Renewal, Terms},
        roster::{Ask, Control, Entry, Generation, Outcome, Stay},
        version::Epoch,
    },
    store::{Feed, FeedEvent, Settings, Store, StoreError, redis::Redis},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    harness::{self, DEADLINE, eventually},
    world::*,
};

fn renewal(known: Option<Epoch>) -> Renewal {
    let generation = Generation { instance: "ia".into(), number: 1 };
    Renewal { generation, link: 0, version: "0.1".into(), known, done: true, bye: false }
}

/// One instance by the real clock.
async fn connect(settings: &Settings) -> Result<(Arc<Redis>, Arc<dyn Feed>), StoreError> {
    Redis::connect(settings, TERMS, "ia", 30).await.map(|(store, feed)| (store, feed as Arc<dyn Feed>))
}

async fn write(store: &Redis, link: u64, epoch: &Epoch, entry: Entry) -> Result<Outcome, Refusal> {
    let generation = Generation { instance: "ia".into(), number: 1 };
    let batch = Batch { generation, link, epoch: epoch.clone(), entries: vec![entry] };
    store.write(0, &batch).await.unwrap().map(|(_, mut outcomes)| outcomes.remove(0))
}

fn entry(room: &str, connection: &str, take: u64) -> Entry {
    Entry { roster: channel(room), connection: id(connection), ask: enter(take, "ann", "{}") }
}

async fn audit_all(w: &World) {
    let mut cursor = None;
    loop {
        cursor = w.store.audit(0, cursor).await.unwrap().next;
        if cursor.is_none() {
            return;
        }
    }
}

#[tokio::test]
async fn an_emptied_redis_begins_a_new_epoch_and_settles_when_all_is_said_again() {
    emptied(World::redis(1).await).await;
}

pub async fn emptied(mut w: World) {
    let room = channel("room:1");
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    let before = w.epochs[&0].clone();
    let time = w.server().command(&["GET", "t:{0}:test:time"]).await;
    w.server().command(&["FLUSHALL"]).await;
    let Value::BulkString(time) = time else { panic!() };
    w.server().command(&["SET", "t:{0}:test:time", std::str::from_utf8(&time).unwrap()]).await;

    let late = Entry { roster: room.clone(), connection: id("a"), ask: enter(1, "ann", "{}") };
    assert_eq!(w.batch(vec![late.clone()]).await, Err(Refusal::Epoch));
    let beat = w.try_renew(0, true, false).await.unwrap();
    assert_ne!(beat.epoch, before);
    assert!(beat.settling);
    told(&w, &Control::Epoch(beat.epoch.clone())).await;
    assert!(w.store.read(&room).await.unwrap().settling);
    assert!(matches!(w.batch(vec![late]).await.unwrap().1[0], Outcome::Done { number: 1, .. }));
    // Not done yet: it does not settle by time alone.
    for _ in 0..4 {
        w.clock.pass(1, 2_500).await;
        assert!(w.try_renew(0, false, false).await.unwrap().settling);
    }
    assert!(!w.try_renew(0, true, false).await.unwrap().settling);
    told(&w, &Control::Settled(beat.epoch)).await;
}

#[tokio::test]
async fn rows_that_a_new_epoch_has_not_confirmed_stay_until_it_has_settled() {
    let mut w = World::redis(1).await;
    let room = channel("room:1");
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    w.ask(&room, &id("b"), enter(1, "ben", "{}")).await;
    w.ask(&room, &id("c"), ending(1, "cat", "{}", 1_000)).await;
    w.server().command(&["HSET", "t:{0}:epoch", "run", "another"]).await;
    w.try_renew(0, false, false).await.unwrap();
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    w.clock.pass(1, 2_500).await;
    w.try_renew(0, false, false).await.unwrap();
    audit_all(&w).await;
    w.sweep_once().await;
    assert_eq!(w.store.read(&room).await.unwrap().rows.len(), 3, "nobody goes while it settles");
    for _ in 0..2 {
        w.clock.pass(1, 2_500).await;
        w.try_renew(0, true, false).await.unwrap();
    }
    audit_all(&w).await;
    w.sweep().await;
    assert_eq!(w.row(&room, &id("c")).await, None, "its deadline had passed");
    assert!(matches!(w.row(&room, &id("b")).await.unwrap().stay, Stay::Ending { reason: Reason::InstanceLost, .. }));
    assert_eq!(w.row(&room, &id("a")).await.unwrap().stay, Stay::Held(w.me.clone()));
}

#[tokio::test]
async fn a_restarted_redis_is_found_again_over_a_new_link() {
    let mut redis = harness::Redis::start().await;
    let (store, feed) = connect(&settings(&redis, "t", 1)).await.unwrap();
    let first = store.renew(0, renewal(None)).await.unwrap().unwrap();
    assert_eq!(first.link, 1);
    feed.follow(&channel("room:1")).await.unwrap();
    redis.kill();
    assert!(matches!(store.renew(0, renewal(None)).await, Err(StoreError::Unavailable(_))));
    let batch = Batch {
        generation: renewal(None).generation,
        link: 1,
        epoch: first.beat.epoch.clone(),
        entries: vec![entry("room:1", "a", 1)],
    };
    assert!(matches!(store.write(0, &batch).await, Err(StoreError::Unavailable(_))), "it does not connect by itself");
    assert!(matches!(store.read(&channel("room:1")).await, Err(StoreError::Unavailable(_))));
    redis.start_again().await;
    eventually(DEADLINE, || async { store.renew(0, renewal(None)).await.is_ok() }).await;
    let renewed = store.renew(0, renewal(None)).await.unwrap().unwrap();
    assert!(renewed.link > 1);
    assert_ne!(renewed.beat.epoch, first.beat.epoch);
    let epoch = renewed.beat.epoch;
    assert_eq!(write(&store, 1, &epoch, entry("room:1", "a", 1)).await, Err(Refusal::Link), "what an old link carries");
    assert!(matches!(no_control(&*feed).await, FeedEvent::Lost));
    assert!(matches!(no_control(&*feed).await, FeedEvent::Restored));
    assert!(matches!(write(&store, renewed.link, &epoch, entry("room:1", "a", 1)).await, Ok(Outcome::Done { .. })));
    assert!(matches!(no_control(&*feed).await, FeedEvent::Published(published) if published.to == 1));
}

/// Waits until the instance is told exactly this.
async fn told(w: &World, expected: &Control) {
    while !matches!(w.event().await, FeedEvent::Control(_, control) if control == *expected) {}
}

/// The next event that is no control message.
async fn no_control(feed: &dyn Feed) -> FeedEvent {
    loop {
        let event = tokio::time::timeout(DEADLINE, feed.next()).await.unwrap();
        if !matches!(event, FeedEvent::Control(..)) {
            return event;
        }
    }
}

#[tokio::test]
async fn what_an_older_connection_still_carries_is_refused() {
    overtaken(World::redis(1).await).await;
}

pub async fn overtaken(mut w: World) {
    let room = channel("room:1");
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    // The same instance over another connection, whose number is a later one.
    let mut again = w.another("ia").await;
    w.server().command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    eventually(DEADLINE, || async { again.store.renew(0, renewal(again.epochs.get(&0).cloned())).await.is_ok() }).await;
    again.renew().await;
    assert!(again.links[&0] > 1);
    // What the first one has sent arrives now.
    let (store, _feed) = Redis::connect_with_test_clock(&settings(w.server(), "t", 1), TERMS, "ia", 30).await.unwrap();
    w.store = store;
    let known = w.epochs.get(&0).cloned();
    assert_eq!(w.store.renew(0, renewal(known)).await.unwrap().unwrap_err(), Refusal::Link);
    let late = Entry { roster: room.clone(), connection: id("b"), ask: enter(1, "ben", "{}") };
    assert_eq!(w.batch(vec![late]).await, Err(Refusal::Link));
    assert_eq!(w.row(&room, &id("b")).await, None);
    assert!(matches!(again.ask(&room, &id("b"), enter(1, "ben", "{}")).await, Outcome::Done { .. }));
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again() {
    let w = World::redis(1).await;
    w.ask(&channel("room:1"), &id("a"), enter(1, "ann", "{}")).await;
    w.server().command(&["SCRIPT", "FLUSH"]).await;
    assert!(matches!(w.ask(&channel("room:1"), &id("b"), enter(1, "ben", "{}")).await, Outcome::Done { .. }));
}

#[tokio::test]
async fn a_feed_whose_connection_is_killed_says_so_and_follows_again() {
    let w = World::redis(1).await;
    let rooms: Vec<RosterKey> = (0..1_200).map(|index| channel(&format!("r{index}"))).collect();
    for room in &rooms {
        w.feed.follow(room).await.unwrap();
    }
    w.server().command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let began = tokio::time::Instant::now();
    assert!(matches!(no_control(&*w.feed).await, FeedEvent::Lost));
    assert!(matches!(no_control(&*w.feed).await, FeedEvent::Restored));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for room in [&rooms[0], &rooms[1_199]] {
        w.ask(room, &id("a"), enter(1, "ann", "{}")).await;
        assert!(matches!(no_control(&*w.feed).await, FeedEvent::Published(published) if published.roster == *room));
    }
    let other = w.another("ib").await;
    other.ask(&rooms[0], &id("a"), enter(2, "ann", "{}")).await;
    let replaced =
        Control::Overruled { roster: rooms[0].clone(), connection: id("a"), take: 1, reason: Reason::Replaced };
    told(&w, &replaced).await;
}

#[tokio::test]
async fn a_follow_that_was_given_back_and_taken_again_is_heard() {
    let w = World::redis(1).await;
    let room = channel("room:1");
    for take in 1..200 {
        w.feed.follow(&room).await.unwrap();
        w.ask(&room, &id("a"), enter(take, "ann", &format!("{take}"))).await;
        assert!(matches!(no_control(&*w.feed).await, FeedEvent::Published(published) if published.to == take));
        w.feed.unfollow(&room);
    }
}

/// A proxy that hands on nothing more to who has subscribed, once it is told so.
async fn deaf_proxy(port: u16) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let deaf = Arc::new(AtomicBool::new(false));
    let told = deaf.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            let (subscribed, deaf) = (Arc::new(AtomicBool::new(false)), told.clone());
            let subscribes = subscribed.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 65_536];
                while let Ok(read @ 1..) = from_client.read(&mut bytes).await {
                    if String::from_utf8_lossy(&bytes[..read]).contains("SUBSCRIBE") {
                        subscribes.store(true, Ordering::SeqCst);
                    }
                    if to_server.write_all(&bytes[..read]).await.is_err() {
                        break;
                    }
                }
            });
            tokio::spawn(async move {
                let mut bytes = vec![0; 65_536];
                while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
                    let silent = deaf.load(Ordering::SeqCst) && subscribed.load(Ordering::SeqCst);
                    if !silent && to_client.write_all(&bytes[..read]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (own, deaf)
}

#[tokio::test]
async fn a_feed_that_hears_nothing_though_its_connection_stands_is_found_out() {
    let redis = harness::Redis::start().await;
    let (port, deaf) = deaf_proxy(redis.port()).await;
    let settings = Settings { url: Some(format!("redis://127.0.0.1:{port}/")), ..settings(&redis, "t", 1) };
    let (_store, feed) = connect(&settings).await.unwrap();
    feed.follow(&channel("room:1")).await.unwrap();
    deaf.store(true, Ordering::SeqCst);
    let lost = tokio::time::timeout(DEADLINE, feed.next()).await.expect("silence is noticed");
    assert!(matches!(lost, FeedEvent::Lost), "{lost:?}");
    deaf.store(false, Ordering::SeqCst);
    let restored = tokio::time::timeout(DEADLINE, feed.next()).await.expect("it comes back");
    assert!(matches!(restored, FeedEvent::Restored), "{restored:?}");
}

#[tokio::test]
async fn an_audit_mends_what_was_damaged_by_hand() {
    damaged(World::redis(1).await).await;
}

pub async fn damaged(mut w: World) {
    let room = channel("room:1");
    for (connection, name) in [("a", "ann"), ("b", "ann"), ("c", "ben"), ("d", "dan"), ("e", "eve")] {
        w.ask(&room, &id(connection), enter(1, name, "{}")).await;
    }
    w.ask(&room, &id("d"), ending(1, "dan", "{}", 60_000)).await;
    let ghost = "1 1 100 gone:1 e 1 2000 gus\n{}\n{}";
    for damage in [
        // A row of an instance that never was; a row that is none; a deadline lost; users who are not there; one who is, but not listed.
        &["HSET", "t:{0}:c:room:1:rows", "g", ghost][..],
        &["HSET", "t:{0}:c:room:1:rows", "h", "what is this"],
        &["ZREM", "t:{0}:ending", "c:room:1 d"],
        &["HSET", "t:{0}:c:room:1:users", "nobody", "x y"],
        &["HSET", "t:{0}:c:room:1:users", "ann", "a z"],
        &["HDEL", "t:{0}:c:room:1:users", "ben"],
        &["ZADD", "t:{0}:online", "0", "nobody"],
        &["ZADD", "t:{0}:occupied", "0", "nowhere"],
        &["ZREM", "t:{0}:occupied", "room:1"],
        &["HSET", "t:{0}:versions", "c:empty", "5"],
    ] {
        w.server().command(damage).await;
    }
    let before = w.store.read(&room).await.unwrap().number.unwrap();
    w.feed.follow_index(0).await.unwrap();
    audit_all(&w).await;
    let (mut come, mut gone) = (Vec::new(), Vec::new());
    while come.len() + gone.len() < 3 {
        if let FeedEvent::Index(_, change) = w.event().await {
            come.extend(change.come.iter().map(ToString::to_string));
            gone.extend(change.gone.iter().map(ToString::to_string));
        }
    }
    gone.sort();
    assert_eq!((come, gone), (vec!["c:room:1".to_owned()], vec!["c:nowhere".to_owned(), "u:nobody".to_owned()]));
    assert!(w.store.read(&room).await.unwrap().number.unwrap() > before, "mirrors must read again");
    let Value::Array(fields) = w.server().command(&["HGETALL", "t:{0}:c:room:1:users"]).await else { panic!() };
    let mut users: Vec<(String, String)> = fields
        .chunks(2)
        .map(|pair| {
            let text = |value: &Value| redis::from_redis_value::<String>(value.clone()).unwrap();
            let mut ids: Vec<String> = text(&pair[1]).split(' ').map(str::to_owned).collect();
            ids.sort();
            (text(&pair[0]), ids.join(" "))
        })
        .collect();
    users.sort();
    let expected = [("ann", "a b"), ("ben", "c"), ("dan", "d"), ("eve", "e"), ("gus", "g")];
    assert_eq!(users, expected.map(|(name, ids)| (name.to_owned(), ids.to_owned())));
    assert_eq!(w.server().command(&["HEXISTS", "t:{0}:c:room:1:rows", "h"]).await, Value::Int(0));
    assert_eq!(w.server().command(&["ZRANGE", "t:{0}:online", "0", "-1"]).await, Value::Array(vec![]));
    let occupied = w.server().command(&["ZRANGE", "t:{0}:occupied", "0", "-1"]).await;
    assert_eq!(occupied, Value::Array(vec![Value::BulkString(b"room:1".to_vec())]));
    assert!(matches!(w.server().command(&["ZSCORE", "t:{0}:ending", "c:empty "]).await, Value::BulkString(_)));
    let gus = w.row(&room, &id("g")).await.unwrap();
    assert!(matches!(gus.stay, Stay::Ending { reason: Reason::InstanceLost, .. }), "{gus:?}");
    // Two renewals and the grace for the ghost; the grace for whom nobody had a deadline.
    w.pass(8_100).await;
    w.sweep().await;
    assert_eq!(w.row(&room, &id("g")).await, None);
    assert!(w.row(&room, &id("d")).await.is_some());
    w.pass(7_000).await;
    w.sweep().await;
    assert_eq!(w.row(&room, &id("d")).await, None);
    let number = w.store.read(&room).await.unwrap().number;
    audit_all(&w).await;
    assert_eq!(w.store.read(&room).await.unwrap().number, number, "what is right is left alone");
}

#[tokio::test]
async fn instances_with_other_lengths_are_refused_while_one_lives() {
    let w = World::redis(1).await;
    let terms = Terms { renew_ms: 2_000, ..TERMS };
    let settings = settings(w.server(), "t", 1);
    let (store, _feed) = Redis::connect_with_test_clock(&settings, terms, "ia", 30).await.unwrap();
    assert_eq!(store.renew(0, renewal(None)).await.unwrap().unwrap_err(), Refusal::Terms);
    // Nobody renews any more but who is refused, and time goes on by that.
    for _ in 0..4 {
        w.clock.pass(1, 3_000).await;
        if store.renew(0, renewal(None)).await.unwrap().is_ok() {
            return;
        }
    }
    panic!("the lease of an instance that is gone forbids other lengths for ever");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_a_sentence() {
    let redis = harness::Redis::start().await;
    connect(&settings(&redis, "t", 4)).await.unwrap();
    let refused = async |settings: &Settings| match connect(settings).await {
        Err(StoreError::Unusable(sentence)) => sentence,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    };
    let sentence = refused(&settings(&redis, "t", 2)).await;
    assert!(sentence.contains('4') && sentence.contains('2') && sentence.contains("redis.partitions"), "{sentence}");
    redis.command(&["HSET", "t:{0}:schema", "number", "9", "min_reader", "8"]).await;
    let sentence = refused(&settings(&redis, "t", 4)).await;
    assert!(sentence.contains("schema 9"), "{sentence}");
    redis.command(&["HSET", "t:{0}:schema", "number", "9", "min_reader", "1"]).await;
    connect(&settings(&redis, "t", 4)).await.expect("a newer schema that this program may read");
    let with_url = |url: &str| Settings { url: Some(url.to_owned()), ..settings(&redis, "t", 4) };
    for url in ["http://127.0.0.1/", "redis+sentinel://a", "nonsense", "redis://ann:hunter2@:x/"] {
        let sentence = refused(&with_url(url)).await;
        assert!(sentence.contains("redis.url") && !sentence.contains("hunter2"), "{sentence}");
    }
    refused(&settings(&redis, "{t}", 1)).await;
    redis.command(&["CONFIG", "SET", "requirepass", "correct"]).await;
    let url = format!("redis://:hunter2@127.0.0.1:{}/", redis.port());
    let sentence = refused(&with_url(&url)).await;
    assert!(!sentence.contains("hunter2"), "{sentence}");
    let port = harness::free_port();
    let Err(StoreError::Unavailable(sentence)) =
        connect(&with_url(&format!("redis://:hunter2@127.0.0.1:{port}/"))).await
    else {
        panic!("nobody is there")
    };
    assert!(!sentence.contains("hunter2"), "{sentence}");
}

#[tokio::test]
async fn two_instances_that_start_at_once_agree_on_the_schema() {
    let redis = harness::Redis::start().await;
    let settings = settings(&redis, "t", 8);
    let (one, two, three) = tokio::join!(connect(&settings), connect(&settings), connect(&settings));
    one.and(two).and(three).unwrap();
    assert_eq!(redis.command(&["HGET", "t:{0}:schema", "number"]).await, Value::BulkString(b"1".to_vec()));
    assert_eq!(redis.command(&["EXISTS", "t:{0}:schema:lock"]).await, Value::Int(0));
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_schema_was_looked_at_is_given_up() {
    let redis = harness::Redis::start().await;
    let proxy = harness::Proxy::start(redis.port()).await;
    let settings = Settings { url: Some(proxy.redis_url()), ..settings(&redis, "t", 1) };
    let (store, _feed) = connect(&settings).await.unwrap();
    proxy.cut_once_and_at(":schema\r\n");
    let registers = async || store.renew(0, renewal(None)).await.is_ok() && proxy.has_tripped();
    eventually(DEADLINE, registers).await;
}

#[tokio::test]
async fn redis_is_reached_through_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("redis.sock");
    let redis = harness::Redis::start_with(&["--unixsocket", path.to_str().unwrap()]).await;
    let settings = Settings { url: Some(format!("unix:{}", path.display())), ..settings(&redis, "t", 1) };
    let (store, feed) = connect(&settings).await.unwrap();
    store.renew(0, renewal(None)).await.unwrap().unwrap();
    feed.follow(&channel("room:1")).await.unwrap();
}

#[tokio::test]
async fn redis_is_reached_over_tls_with_a_certificate_authority_of_ones_own() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    let own = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&own, &authority).unwrap();
    let ca = file("ca.pem", &authority.pem());
    let (certificate, own) = (file("cert.pem", &certificate.pem()), file("key.pem", &own.serialize_pem()));
    let port = harness::free_port();
    let redis = harness::Redis::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &own,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let url = Some(format!("rediss://localhost:{port}/"));
    let trusting = Settings { url: url.clone(), ca_file: Some(ca.into()), ..settings(&redis, "t", 1) };
    let (store, feed) = connect(&trusting).await.unwrap();
    store.renew(0, renewal(None)).await.unwrap().unwrap();
    feed.follow(&channel("room:1")).await.unwrap();
    let strange = Settings { url, ..settings(&redis, "t", 1) };
    assert!(connect(&strange).await.is_err(), "nobody vouches for the certificate");
}

#[tokio::test]
async fn what_is_put_back_while_an_epoch_settles_is_no_join() {
    let mut w = World::redis(1).await;
    let room = channel("room:1");
    let enter_at = |connection: &str, name: &str, changed: u64| {
        let mut ask = enter(1, name, "{}");
        if let Ask::Present { body, .. } = &mut ask {
            body.changed = changed;
        }
        Entry { roster: channel("room:1"), connection: id(connection), ask }
    };
    let Outcome::Done { changed, .. } = w.ask(&room, &id("a"), enter(1, "ann", "{}")).await else { panic!() };
    w.server().command(&["DEL", "t:{0}:epoch", "t:{0}:c:room:1:rows", "t:{0}:c:room:1:users", "t:{0}:versions"]).await;
    w.epochs.clear();
    assert!(w.try_renew(0, false, false).await.unwrap().settling);
    let beat = w.batch(vec![enter_at("a", "ann", changed)]).await.unwrap().0;
    assert!(beat.settling && w.row(&room, &id("a")).await.is_some());
    assert_eq!(beat.tally.joins, 0);
    assert_eq!(w.batch(vec![enter_at("b", "ben", 0)]).await.unwrap().0.tally.joins, 1, "who comes meanwhile has come");
    w.pass(8_000).await;
    assert!(!w.try_renew(0, true, false).await.unwrap().settling);
    // Later it is somebody whom watchers have seen leave.
    assert_eq!(w.batch(vec![enter_at("c", "zoe", changed)]).await.unwrap().0.tally.joins, 1);
}
