//! A master dies and its replica takes over, which has not heard the last of it.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::{Instant, sleep};

use super::{
    harness::{Crowd, Farewell, HostClock, Launch, Person, Row, Sentinels, eventually, segment},
    load::Load,
    stage::{GRACE, SECOND, SHOWN_WITHIN, Stage, people, rooms, times},
};

const SECTION: &str = "Redis fails over";
const PEOPLE: usize = 120;

/// Within this after Sentinel has promoted the replica, everybody who has not gone is shown by every instance, and nobody says stale.
pub async fn until_shown<R>(stage: &Stage<R>, crowd: &Crowd, channels: &[String]) {
    for channel in channels {
        let living = crowd.living(channel);
        for instance in &stage.instances {
            let path = format!("/v1/channels/{}/members?limit=1000", segment(channel));
            eventually(SHOWN_WITHIN, async || {
                let answer = instance.rest().get(&path).await;
                let members = answer.body["members"].as_array().cloned().unwrap_or_default();
                let shown: Vec<_> = members.iter().filter_map(|member| member["user"].as_str()).collect();
                answer.body["stale"] == false && living.iter().all(|user| shown.contains(&user.as_str()))
            })
            .await;
        }
    }
}

/// An epoch that was left does not come again, so that a number of it cannot stand for something else.
pub fn assert_no_epoch_comes_again(witness: &Person) {
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for received in witness.client().received() {
        let (Some(channel), Some(epoch)) = (received.frame["channel"].as_str(), received.frame["epoch"].as_str())
        else {
            continue;
        };
        // Without the mark of what is shown while it settles.
        let epoch = epoch.split('~').next().expect("there is a first part").to_owned();
        let epochs = seen.entry(channel.to_owned()).or_default();
        if epochs.last() != Some(&epoch) {
            assert!(!epochs.contains(&epoch), "{channel}: {epoch} comes again after {epochs:?}");
            epochs.push(epoch);
        }
    }
    assert!(!seen.is_empty());
}

/// Two instances behind Sentinels with a replica that is started like this, people and witnesses; and when everybody had seen everybody.
async fn set(second: Launch, channels: &[String]) -> (Stage<Sentinels>, Arc<Crowd>, Instant) {
    let sentinels = Sentinels::start(second).await;
    let spaces = std::iter::repeat_n(sentinels.space(), 2).collect();
    let mut stage = Stage::set_in(sentinels, spaces, Vec::new(), &[]).await;
    stage.witness(&[0, 1], channels).await;
    let crowd = Arc::new(Crowd::gather(&stage.doors, people(PEOPLE, channels, 12)).await);
    let since = stage.curtain(&crowd, channels).await;
    (stage, crowd, since)
}

async fn a_lagging_replica_takes_over(event: &str, second: Launch) {
    let mut row = Row::begin(SECTION, event);
    let channels = rooms(6);
    let (mut stage, crowd, since) = set(second, &channels).await;

    // What is acknowledged from here on the replica does not hear.
    stage.redis.lag(0).await;
    let mut left: Vec<Farewell> = Vec::new();
    for person in crowd.people.iter().skip(1).step_by(12) {
        left.push(person.bye().await);
    }
    for person in crowd.people.iter().skip(2).step_by(12) {
        left.push(person.vanish().await);
    }
    let load = Load::begin(&crowd, 5);
    sleep(4 * SECOND).await;
    stage.redis.server_mut(0).kill();
    let killed = Instant::now();
    sleep(SECOND).await;
    for person in crowd.people.iter().skip(3).step_by(12) {
        left.push(person.vanish().await);
    }
    stage.redis.until_master(1).await;
    let promoted = Instant::now();
    until_shown(&stage, &crowd, &channels).await;
    let shown = promoted.elapsed();
    // Until the replica was the master nothing could be written, and presence time stood still but for some seconds.
    stage.until_told(since, &left, promoted + GRACE + 20 * SECOND).await;
    let took = stage.assert_told(&crowd, since, &left, &["left", "timeout"]);
    stage.until_all_is_equal(&crowd, &channels, 10 * SECOND).await;

    // And back: the first one follows the second now, and gets its place again.
    stage.redis.start_again(0).await;
    stage.redis.promote(0).await;
    until_shown(&stage, &crowd, &channels).await;
    let acknowledged = load.end(&stage, &crowd).await;
    // What else might follow has followed.
    sleep(GRACE + 8 * SECOND).await;
    stage.assert_told(&crowd, since, &left, &["left", "timeout"]);
    stage.until_all_is_equal(&crowd, &channels, 10 * SECOND).await;
    stage.witnesses.iter().for_each(assert_no_epoch_comes_again);
    stage.assert_no_panic();

    row.saw("The 30 who left: one leave each. Nobody else: nothing.");
    row.saw("No number of an epoch came twice; every state that was acknowledged, also by the master that died, was there in the end.");
    row.took("from the kill until the Sentinels had another master", &[promoted - killed], None);
    row.took("from then until all who live are shown", &[shown], Some(SHOWN_WITHIN));
    row.took("from leaving to being told", &times(&took), None);
    row.measured("changes acknowledged meanwhile", acknowledged.to_string());
    row.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lags_takes_over_and_gives_back_and_only_who_left_has_left() {
    a_lagging_replica_takes_over(
        "Sentinel promotes a replica that lags by five seconds, and later the first one again",
        Launch::default(),
    )
    .await;
}

/// The same where the clock of the replica's host is so many seconds ahead of that of the master's.
#[cfg(target_os = "linux")]
async fn a_replica_whose_clock_is_off_takes_over(ahead_s: i64) {
    let clock = HostClock::right();
    clock.set(ahead_s);
    let event = match ahead_s {
        0.. => format!(
            "Sentinel promotes a replica that lags and whose clock is {ahead_s} s ahead, and later the first one again"
        ),
        _ => format!(
            "Sentinel promotes a replica that lags and whose clock is {} s behind, and later the first one again",
            -ahead_s
        ),
    };
    a_lagging_replica_takes_over(&event, Launch::default().within(&clock.settings())).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn a_replica_whose_clock_is_twenty_seconds_ahead_takes_over() {
    a_replica_whose_clock_is_off_takes_over(20).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn a_replica_whose_clock_is_a_minute_behind_takes_over() {
    a_replica_whose_clock_is_off_takes_over(-60).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn a_frozen_master_wakes_up_when_its_replica_has_its_place() {
    let mut row = Row::begin(SECTION, "a master is frozen until Sentinel has promoted its replica, and wakes up");
    let channels = rooms(6);
    let (mut stage, crowd, since) = set(Launch::default(), &channels).await;
    let load = Load::begin(&crowd, 5);
    stage.redis.server_mut(0).pause();
    let frozen = Instant::now();
    stage.redis.until_master(1).await;
    let promoted = Instant::now();
    // It thinks that it is the master still, until a Sentinel has told it otherwise.
    stage.redis.server_mut(0).resume();
    until_shown(&stage, &crowd, &channels).await;
    let shown = promoted.elapsed();
    let acknowledged = load.end(&stage, &crowd).await;
    sleep(GRACE + 12 * SECOND).await;
    stage.assert_told(&crowd, since, &[], &[]);
    stage.until_all_is_equal(&crowd, &channels, 10 * SECOND).await;
    stage.witnesses.iter().for_each(assert_no_epoch_comes_again);
    stage.assert_no_panic();
    row.saw("Nothing.");
    row.took("until the Sentinels had another master", &[promoted - frozen], None);
    row.took("from then until all who live are shown", &[shown], Some(SHOWN_WITHIN));
    row.measured("changes acknowledged meanwhile", acknowledged.to_string());
    row.finish();
}
