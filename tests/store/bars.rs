//! Who may not come in, in every store.

use std::sync::Arc;

use rollcall::{
    domain::{
        bar::{Bar, Barring, BarsThere, Whom},
        name::ChannelName,
        roster::Control,
    },
    store::{FeedEvent, SCHEMA},
};

use crate::world::{World, id, user};

const MINUTE: u64 = 60_000;

pub fn banned(name: &str, remaining_ms: u64) -> Bar {
    Bar { whom: Whom::User(user(name)), until_ms: 0, remaining_ms }
}

fn tokens_of(name: &str, until_ms: u64, remaining_ms: u64) -> Bar {
    Bar { whom: Whom::TokensOf(user(name)), until_ms, remaining_ms }
}

fn token(id: &str, remaining_ms: u64) -> Bar {
    Bar { whom: Whom::Token(id.into()), until_ms: 0, remaining_ms }
}

async fn add(w: &World, bars: Vec<Bar>, most: u64) -> BarsThere {
    w.store.bar(&Barring { bars, most, said: "enough".into(), page: (0, 0) }).await.unwrap()
}

async fn list(w: &World, page: (u64, u64)) -> Vec<Bar> {
    w.store.bar(&Barring { page, ..Barring::default() }).await.unwrap().bars
}

/// The next that instances are told beside epochs.
async fn told(w: &World) -> Control {
    loop {
        match w.event().await {
            FeedEvent::Control(_, Control::Epoch(_) | Control::Settled(_)) => {}
            FeedEvent::Control(_, control) => return control,
            other => panic!("{other:?}"),
        }
    }
}

pub async fn who_may_not_come_in_is_kept_until_the_time_is_over_and_told_to_every_instance(mut w: World) {
    let other = w.another("ib").await;
    let bars =
        vec![banned("日本", MINUTE), tokens_of("ann", 1_700_000_000_123, 2 * MINUTE), token("a b\n", 3 * MINUTE)];
    let there = add(&w, bars.clone(), 10).await;
    assert_eq!((there.refused, there.count, there.bars), (0, 3, Vec::new()));
    for w in [&w, &other] {
        assert_eq!(told(w).await, Control::Barred { bars: bars.clone(), said: Arc::from("enough") });
    }
    let mut listed = list(&other, (0, 10)).await;
    listed.reverse();
    assert_eq!(listed, bars);
    w.pass(MINUTE - 1).await;
    assert_eq!(list(&w, (0, 10)).await.len(), 3);
    w.pass(1).await;
    assert_eq!(list(&w, (0, 10)).await, [token("a b\n", 2 * MINUTE), tokens_of("ann", 1_700_000_000_123, MINUTE)]);
    w.pass(2 * MINUTE).await;
    let there = add(&w, Vec::new(), 10).await;
    assert_eq!((there.count, list(&w, (0, 10)).await), (0, Vec::new()));
}

pub async fn of_two_with_one_name_the_later_counts_and_what_changes_nothing_is_not_told(w: World) {
    add(&w, vec![tokens_of("ann", 5_000, MINUTE)], 10).await;
    told(&w).await;
    // Shorter; as long, but for the way here; of an earlier time; nothing at all.
    for bar in [tokens_of("ann", 0, 1_000), tokens_of("ann", 5_000, MINUTE + 1_000), tokens_of("ann", 4_000, 0)] {
        add(&w, vec![bar], 10).await;
        assert_eq!(list(&w, (0, 10)).await, [tokens_of("ann", 5_000, MINUTE)]);
    }
    add(&w, vec![token("over", 0)], 10).await;
    // In each of its two times.
    add(&w, vec![tokens_of("ann", 6_000, 1_000)], 10).await;
    add(&w, vec![tokens_of("ann", 1_000, 2 * MINUTE)], 10).await;
    assert_eq!(list(&w, (0, 10)).await, [tokens_of("ann", 6_000, 2 * MINUTE)]);
    let said = Arc::from("enough");
    for bar in [tokens_of("ann", 6_000, MINUTE), tokens_of("ann", 6_000, 2 * MINUTE)] {
        assert_eq!(told(&w).await, Control::Barred { bars: vec![bar], said: Arc::clone(&said) });
    }
}

pub async fn one_bar_more_than_may_be_is_refused_until_another_is_over(mut w: World) {
    assert_eq!(add(&w, vec![banned("a", MINUTE), banned("b", 2 * MINUTE), banned("c", MINUTE)], 2).await.refused, 1);
    // What is there already may last longer.
    assert_eq!(add(&w, vec![banned("b", 3 * MINUTE)], 2).await.refused, 0);
    assert_eq!(list(&w, (0, 10)).await, [banned("b", 3 * MINUTE), banned("a", MINUTE)]);
    w.pass(MINUTE).await;
    let there = add(&w, vec![banned("c", MINUTE)], 2).await;
    assert_eq!((there.refused, there.count), (0, 2));
}

pub async fn bars_are_listed_in_pages_whatever_ends_meanwhile(mut w: World) {
    let bars: Vec<Bar> = (0..25).map(|n| banned(&format!("user{n}"), MINUTE * (1 + n / 5))).collect();
    add(&w, bars.clone(), 100).await;
    let mut listed = list(&w, (0, 10)).await;
    // The shortest five are over, and the list goes on where it was.
    w.pass(MINUTE).await;
    listed.extend(list(&w, (10, 10)).await);
    assert_eq!(list(&w, (20, 10)).await, []);
    let mut names: Vec<String> = listed.iter().map(|bar| bar.whom.to_stored()).collect();
    assert_eq!(names.len(), 20);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 20);
    assert!(names.iter().all(|name| !["b:user0", "b:user4"].contains(&name.as_str())));
}

pub async fn an_hour_that_the_clock_of_the_host_jumps_ends_no_ban_early(mut w: World) {
    add(&w, vec![banned("ann", MINUTE)], 10).await;
    w.clock.pass(w.store.partitions(), 60 * MINUTE).await;
    assert_eq!(list(&w, (0, 10)).await, [banned("ann", MINUTE - 4_000)]);
    w.renew().await;
    w.pass(MINUTE - 4_001).await;
    assert_eq!(list(&w, (0, 10)).await, [banned("ann", 1)]);
    w.pass(1).await;
    assert_eq!(list(&w, (0, 10)).await, []);
}

pub async fn what_one_instance_is_told_no_other_hears(w: World) {
    let other = w.another("ib").await;
    let channel = ChannelName::parse("room:1").unwrap();
    let join = Control::Join { connections: vec![id("a")], channel, state: Some("{\"n\":[]}".into()) };
    let out = Control::PutOut { user: user("ann"), said: "enough".into() };
    w.store.tell(SCHEMA, Some("ib"), &join).await.unwrap();
    w.store.tell(SCHEMA, None, &out).await.unwrap();
    assert_eq!((told(&other).await, told(&other).await), (join, out.clone()));
    assert_eq!(told(&w).await, out);
}
