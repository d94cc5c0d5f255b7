//! What comes into the indexes and goes out of them, in every store.

use std::collections::BTreeSet;

use rollcall::{
    domain::{
        name::{ChannelName, RosterKey},
        person::Record,
        roster::{Ask, IndexChange},
    },
    store::FeedEvent,
};

use crate::world::{World, channel, enter, id, leave, user};

/// The next change of an index, whatever else is told.
async fn change(w: &World) -> (u16, IndexChange) {
    loop {
        if let FeedEvent::Index(partition, change) = w.event().await {
            return (partition, change);
        }
    }
}

async fn index(w: &World, roster: &RosterKey) -> u64 {
    w.store.numbers(w.store.partition_of(roster), &[]).await.unwrap().index
}

pub async fn who_comes_into_an_index_and_goes_out_of_it_is_told_by_name_with_a_number(w: World) {
    let room = channel("room:1");
    let home = w.store.partition_of(&room);
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    let begun = index(&w, &room).await;
    assert_eq!(begun, 1, "it has a number though nobody hears of it");
    for partition in 0..w.store.partitions() {
        w.feed.follow_index(partition).await.unwrap();
    }
    // More of the same, and other states, are no change of an index.
    w.ask(&room, &id("b"), enter(1, "ben", "{}")).await;
    w.ask(&room, &id("a"), enter(1, "ann", "{\"s\":1}")).await;
    w.ask(&room, &id("b"), leave(1)).await;
    assert_eq!(index(&w, &room).await, begun);
    w.ask(&room, &id("a"), leave(1)).await;
    let epoch = w.epochs[&home].clone();
    let expected =
        IndexChange { epoch: epoch.clone(), from: begun, to: begun + 1, come: vec![], gone: vec![room.clone()] };
    assert_eq!(change(&w).await, (home, expected));
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    let come = vec![room.clone()];
    assert_eq!(change(&w).await, (home, IndexChange { epoch, from: begun + 1, to: begun + 2, come, gone: vec![] }));
    assert_eq!(index(&w, &room).await, begun + 2);

    let ann = RosterKey::User(user("ann"));
    w.ask(&ann, &id("a"), enter(1, "ann", "{}")).await;
    let (partition, told) = change(&w).await;
    assert_eq!((partition, told.come), (w.store.partition_of(&ann), vec![ann]));
}

pub async fn nothing_is_told_of_the_indexes_about_those_whom_nobody_sees(w: World) {
    for partition in 0..w.store.partitions() {
        w.feed.follow_index(partition).await.unwrap();
    }
    let name = ChannelName::parse("room:1").unwrap();
    w.ask(&RosterKey::HiddenUser(user("ann")), &id("a"), enter(1, "ann", "{}")).await;
    w.ask(&RosterKey::HiddenChannel(name), &id("a"), enter(1, "ann", "{}")).await;
    // What is kept of a person who is nowhere is no coming.
    let record = Record { serial: 1, hidden: false, lasting: true, profile: "{}".into() };
    w.ask(&RosterKey::User(user("zoe")), &id(""), Ask::Person { record }).await;
    let room = channel("room:2");
    w.ask(&room, &id("b"), enter(1, "ben", "{}")).await;
    let (partition, told) = change(&w).await;
    assert_eq!((partition, told.from, told.come), (w.store.partition_of(&room), 0, vec![room]));
}

pub async fn many_that_come_in_one_call_are_one_change(w: World) {
    let names: BTreeSet<RosterKey> = (0..300).map(|n| channel(&format!("room:{n}"))).collect();
    for partition in 0..w.store.partitions() {
        w.feed.follow_index(partition).await.unwrap();
    }
    let mut told = BTreeSet::new();
    for partition in 0..w.store.partitions() {
        let of_partition: Vec<_> = names.iter().filter(|name| w.store.partition_of(name) == partition).collect();
        let entries = of_partition.iter().map(|roster| rollcall::domain::roster::Entry {
            roster: (*roster).clone(),
            connection: id("a"),
            ask: enter(1, "ann", "{}"),
        });
        w.batch(entries.collect()).await.unwrap();
        let (_, change) = change(&w).await;
        assert_eq!((change.from, change.to, change.come.len()), (0, 1, of_partition.len()));
        told.extend(change.come);
    }
    assert_eq!(told, names);
    w.feed.unfollow_index(0);
}
