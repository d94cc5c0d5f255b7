//! A Cluster under load: a slot moves, and a master dies.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    failover::{assert_no_epoch_comes_again, until_shown},
    harness::{Cluster, Crowd, Farewell, Launch, Row},
    load::Load,
    stage::{GRACE, SECOND, SHOWN_WITHIN, Stage, people, rooms, times},
};

const SECTION: &str = "A cluster of Redis fails";
const PEOPLE: usize = 120;

/// How a master goes.
#[derive(PartialEq)]
enum End {
    Killed,
    /// It wakes up when somebody else has its slots, and does not know that yet.
    Frozen,
}

async fn a_slot_moves_and_a_master_dies(event: &str, launch: Launch, end: End) {
    let mut row = Row::begin(SECTION, event);
    let channels = rooms(24);
    let cluster = Cluster::start(&launch).await;
    let space = cluster.space();
    let prefix = space.last().expect("a space has a prefix").1.clone();
    let spaces = vec![space.clone(), space];
    let mut stage = Stage::set_in(cluster, spaces, Vec::new(), &[]).await;
    stage.witness(&[0, 1], &channels).await;
    let crowd = Arc::new(Crowd::gather(&stage.doors, people(PEOPLE, &channels, 12)).await);
    let since = stage.curtain(&crowd, &channels).await;
    let load = Load::begin(&crowd, 5);

    // Every partition is one slot; that of the first channel's moves, key by key.
    let partition = partition_of(&stage.redis, &prefix, &channels[0]).await;
    let slot = stage.redis.slot(&format!("{prefix}:{{{partition}}}:epoch")).await;
    let from = stage.redis.master_of(slot, 0).await.expect("every slot has a master");
    let moving = Instant::now();
    stage.redis.move_slot(slot, from, (from + 1) % 3, Duration::from_millis(20)).await;
    let moved = moving.elapsed();
    until_shown(&stage, &crowd, &channels).await;
    let shown_moved = moving.elapsed() - moved;

    let mut left: Vec<Farewell> = Vec::new();
    for person in crowd.people.iter().skip(1).step_by(12) {
        left.push(person.bye().await);
    }
    match end {
        End::Killed => stage.redis.node_mut(from).kill(),
        End::Frozen => stage.redis.node_mut(from).pause(),
    }
    let killed = Instant::now();
    sleep(SECOND).await;
    for person in crowd.people.iter().skip(2).step_by(12) {
        left.push(person.vanish().await);
    }
    // Some slot that the dead one still had.
    let of_dead = (from * 16_384 / 3) as u16;
    stage.redis.promoted(if of_dead == slot { of_dead + 1 } else { of_dead }, from).await;
    let promoted = Instant::now();
    until_shown(&stage, &crowd, &channels).await;
    let shown = promoted.elapsed();
    if end == End::Frozen {
        stage.redis.node_mut(from).resume();
    }
    stage.until_told(since, &left, promoted + GRACE + 20 * SECOND).await;
    let took = stage.assert_told(&crowd, since, &left, &["left", "timeout"]);
    let acknowledged = load.end(&stage, &crowd).await;
    stage.until_all_is_equal(&crowd, &channels, 10 * SECOND).await;
    stage.witnesses.iter().for_each(assert_no_epoch_comes_again);
    stage.assert_no_panic();

    row.saw("The 20 who left: one leave each. Nobody else: nothing.");
    row.saw("Every state that was acknowledged was there in the end.");
    row.took("the move of a slot, key by key", &[moved], None);
    row.took("from its end until all who live are shown", &[shown_moved], Some(SHOWN_WITHIN));
    row.took("from the end of a master until its replica had its slots", &[promoted - killed], None);
    row.took("from then until all who live are shown", &[shown], Some(SHOWN_WITHIN));
    row.took("from leaving to being told", &times(&took), None);
    row.measured("changes acknowledged meanwhile", acknowledged.to_string());
    row.finish();
}

/// The partition in which somebody keeps the rows of a channel.
async fn partition_of(cluster: &Cluster, prefix: &str, channel: &str) -> u16 {
    for node in cluster.nodes() {
        let keys = node.command(&["KEYS", &format!("{prefix}:*:c:{channel}:rows")]).await;
        let keys: Vec<String> = redis::from_redis_value(keys).expect("names of keys");
        if let Some(key) = keys.first() {
            let (_, rest) = key.split_once('{').expect("a hash tag");
            return rest.split_once('}').expect("a hash tag").0.parse().expect("partitions are numbers");
        }
    }
    panic!("nobody keeps {channel}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_moves_and_a_master_dies_under_load_and_only_who_left_has_left() {
    a_slot_moves_and_a_master_dies(
        "a slot of a Redis Cluster moves, then one of three masters dies",
        Launch::default(),
        End::Killed,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn the_same_over_the_newest_valkey() {
    a_slot_moves_and_a_master_dies(
        "a slot of a Cluster of the newest Valkey moves, then one of three masters dies",
        Launch::valkey(),
        End::Killed,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn a_frozen_master_wakes_up_when_another_has_its_slots() {
    a_slot_moves_and_a_master_dies(
        "a slot of a Redis Cluster moves, then a master is frozen until its replica has its place",
        Launch::default(),
        End::Frozen,
    )
    .await;
}
