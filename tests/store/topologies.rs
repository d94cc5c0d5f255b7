//! A store behind replicas, Sentinels and Clusters: what must not repeat, what must follow, and what is refused.

use std::{sync::Arc, time::Duration};

use rollcall::{
    domain::{partition::Renewal, roster::Generation},
    store::{Feed as _, FeedEvent, Settings, Store as _, StoreError, redis::Redis},
};
use tokio::time::sleep;

use crate::{
    harness::{Cluster, DEADLINE, Launch, Redis as Server, Sentinels, eventually},
    world::*,
};

async fn follows(replica: &Server, master: &Server) {
    replica.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).await;
    eventually(DEADLINE, async || replica.info("replication", "master_link_status").await == "up").await;
}

async fn refused(url: String, partitions: Option<u16>) -> String {
    let settings = Settings { url: Some(url), prefix: "t".to_owned(), ca_file: None, partitions };
    match Redis::connect(&settings, TERMS, "ia", 30).await {
        Err(StoreError::Unusable(sentence)) => sentence,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    }
}

fn url_of(space: &[(&'static str, String)]) -> String {
    space.iter().find(|(name, _)| name.ends_with("URL")).expect("a space has an address").1.clone()
}

#[tokio::test]
async fn a_master_that_took_an_older_copy_and_got_its_place_back_does_not_repeat_its_numbers() {
    let mut world = World::redis(1).await;
    let room = channel("room:1");
    let replica = Server::start_with(&["--repl-diskless-sync-delay", "0"]).await;
    world.server().command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).await;
    follows(&replica, world.server()).await;
    world.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    let number = |reading: rollcall::store::Reading| reading.version();
    let shared = number(world.store.read(&room).await.unwrap());
    eventually(DEADLINE, async || {
        let offset = world.server().info("replication", "master_repl_offset").await;
        replica.info("replication", "slave_repl_offset").await == offset
    })
    .await;
    // The replica lags from here on, and then has the master's place for a moment in which nobody writes there.
    replica.command(&["REPLICAOF", "NO", "ONE"]).await;
    world.ask(&room, &id("b"), enter(1, "ben", "{}")).await;
    world.ask(&room, &id("c"), enter(1, "cy", "{}")).await;
    let told = number(world.store.read(&room).await.unwrap());
    assert_eq!((&told.epoch, told.number), (&shared.epoch, shared.number + 2));
    follows(world.server(), &replica).await;
    world.server().command(&["REPLICAOF", "NO", "ONE"]).await;

    let beat = loop {
        // A line to somebody who was a replica meanwhile may have been given up.
        if let Ok(Ok(renewed)) = world.store.renew(0, renewal(&world)).await {
            break renewed.beat;
        }
        sleep(Duration::from_millis(50)).await;
    };
    assert_ne!(beat.epoch, told.epoch, "the same process, and not the same numbers");
    world.register().await;
    world.ask(&room, &id("d"), enter(1, "dan", "{}")).await;
    let now = number(world.store.read(&room).await.unwrap());
    assert!(now.number <= told.number && now.epoch == beat.epoch, "{now:?} after {told:?}");
}

fn renewal(world: &World) -> Renewal {
    Renewal {
        generation: world.me.clone(),
        link: 0,
        version: "0.1".into(),
        known: world.epochs.get(&0).cloned(),
        done: true,
        bye: false,
    }
}

#[tokio::test]
async fn who_stands_behind_an_address_is_looked_at_first() {
    let old = Server::launch(Launch::old_redis()).await;
    let sentence = refused(old.url(), None).await;
    assert!(sentence.contains("this is Redis 6.2") && sentence.contains("7.0"), "{sentence}");

    let single = Server::start().await;
    let sentence = refused(format!("redis+cluster://127.0.0.1:{}", single.port()), None).await;
    assert!(sentence.contains("no Cluster"), "{sentence}");

    let lone = Server::start_with(&["--cluster-enabled", "yes", "--cluster-port", "0"]).await;
    let sentence = refused(lone.url(), None).await;
    assert!(sentence.contains("redis+cluster://"), "{sentence}");
}

#[tokio::test]
async fn sentinels_are_asked_by_the_name_of_the_master() {
    let sentinels = Sentinels::start(Launch::default()).await;
    let url = url_of(&sentinels.space());
    let settings =
        |url: &str| Settings { url: Some(url.to_owned()), prefix: "t".into(), ca_file: None, partitions: None };
    let (store, feed) = Redis::connect(&settings(&url), TERMS, "ia", 30).await.unwrap();
    assert_eq!(store.partitions(), 1);
    feed.follow(&channel("room:1")).await.unwrap();
    let wrong = url.replace("/presence", "/absence");
    let sentence = refused(wrong, None).await;
    assert!(sentence.contains("no Sentinel knows a master by the name `absence`"), "{sentence}");
    let one = url.split("://").nth(1).unwrap().split(',').next().unwrap();
    let sentence = refused(format!("redis://{one}"), None).await;
    assert!(sentence.contains("this is a Sentinel"), "{sentence}");
}

#[tokio::test]
async fn a_slot_moves_with_its_feeds_and_its_numbers_are_new() {
    let cluster = Arc::new(Cluster::start(&Launch::default()).await);
    let settings =
        Settings { url: Some(url_of(&cluster.space())), prefix: "t".into(), ca_file: None, partitions: Some(8) };
    let (store, feed) = Redis::connect(&settings, TERMS, "ia", 30).await.unwrap();
    let room = channel("room:1");
    let partition = store.partition_of(&room);
    let slot = cluster.slot(&format!("t:{{{partition}}}:epoch")).await;
    let me = Generation { instance: "ia".into(), number: 1 };
    let renew = async |known| {
        let generation = me.clone();
        let renewal = Renewal { generation, link: 0, version: "0.1".into(), known, done: true, bye: false };
        store.renew(partition, renewal).await
    };
    let before = renew(None).await.unwrap().unwrap();
    feed.follow(&room).await.unwrap();
    let write = async |link, epoch, connection: &str| {
        let entry = rollcall::domain::roster::Entry {
            roster: room.clone(),
            connection: id(connection),
            ask: enter(1, connection, "{}"),
        };
        let batch = rollcall::domain::partition::Batch { generation: me.clone(), link, epoch, entries: vec![entry] };
        store.write(partition, &batch).await
    };
    write(before.link, before.beat.epoch.clone(), "a").await.unwrap().unwrap();
    let heard = async || loop {
        match tokio::time::timeout(DEADLINE, feed.next()).await.expect("the feed says something") {
            FeedEvent::Published(published) => break published,
            _ => continue,
        }
    };
    assert_eq!(heard().await.to, 1);

    let from = cluster.master_of(slot, 0).await.unwrap();
    let to = (from + 1) % 3;
    cluster.move_slot(slot, from, to, Duration::from_millis(5)).await;
    let mut after = None;
    eventually(DEADLINE, async || match renew(None).await {
        Ok(Ok(renewed)) => renewed.beat.epoch != before.beat.epoch,
        _ => false,
    })
    .await;
    eventually(DEADLINE, async || feed.follow(&room).await.is_ok()).await;
    if let Ok(Ok(renewed)) = renew(None).await {
        after = Some(renewed);
    }
    let after = after.expect("it has just answered");
    assert!(after.link > before.link, "what the old line still carries is refused");
    write(after.link, after.beat.epoch.clone(), "b").await.unwrap().unwrap();
    let told = heard().await;
    assert_eq!((told.from, told.to, &told.epoch), (1, 2, &after.beat.epoch));
    assert_eq!(store.read(&room).await.unwrap().rows.len(), 2, "what had been there has moved too");
}
