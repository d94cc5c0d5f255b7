//! The feed by which instances hear of changes is lost, loudly or silently, while everything else works.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    harness::{Client, Crowd, Level, Person, Plan, Received, Redis, Row, eventually},
    lookout::Lookouts,
    stage::{SECOND, Stage, people, rooms},
};

const SECTION: &str = "A feed fails";
/// Within this what was missed is found.
const FOUND_WITHIN: Duration = Duration::from_secs(10);
/// How often a watched channel has been read again because something was missing.
async fn gaps(stage: &Stage) -> u64 {
    let metrics = stage.instances[0].rest().get("/metrics").await.text;
    let line = metrics.lines().find_map(|line| line.strip_prefix("rollcall_readings_total{reason=\"gap\"} "));
    line.map_or(0, |count| count.parse().expect("a count"))
}

async fn feeds_lost(stage: &Stage) -> u64 {
    let metrics = stage.instances[0].rest().get("/metrics").await.text;
    let line = metrics.lines().find_map(|line| line.strip_prefix("rollcall_feed_lost_total "));
    line.expect("it is counted").parse().expect("a count")
}

/// How many feeds Redis has.
async fn feeds(redis: &Redis) -> usize {
    match redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await {
        redis::Value::BulkString(list) => String::from_utf8_lossy(&list).lines().count(),
        redis::Value::VerbatimString { text, .. } => text.lines().count(),
        other => panic!("a list of clients: {other:?}"),
    }
}

/// Two instances; the watcher is on the first, the others on the second, whose feed stays.
struct Scene {
    stage: Stage,
    crowd: Crowd,
    watcher: Person,
    /// Where the watcher is.
    lookouts: Lookouts,
    room: String,
}

impl Scene {
    async fn set() -> Self {
        let channels = rooms(1);
        let stage = Stage::set_with_links(2, Redis::start().await).await;
        let plan = Plan::watching("watcher", &channels, Level::Users);
        let watcher = Person::come_at(&stage.instances[0].url(), &stage.doors, plan).await;
        stage.doors.are([stage.instances[1].url()]);
        let crowd = Crowd::gather(&stage.doors, people(20, &channels, 100)).await;
        let (url, guests) = (stage.instances[0].url(), (0..10).map(|round| format!("guest-{round}")));
        let lookouts = Lookouts::post([&url, &url], crowd.living(&channels[0]).into_iter().chain(guests)).await;
        lookouts.until_online(&crowd.living(&channels[0])).await;
        stage.curtain(&crowd, &channels).await;
        let room = channels[0].clone();
        watcher.client().until("everybody", |client| client.users(&room).len() == 20).await;
        Self { stage, crowd, watcher, lookouts, room }
    }

    /// Several changes of each kind. Returns when the first was acknowledged.
    async fn change(&self, round: usize) -> Instant {
        let first = &self.crowd.people[0];
        first.client().update(&self.room, json!({"round": round, "step": 0})).await.unwrap();
        let begun = Instant::now();
        let url = self.stage.instances[1].url();
        let passing = Client::hello_as(&url, "passing").await;
        passing.join(&self.room, json!({})).await.unwrap();
        let guest = Client::hello_as(&url, &format!("guest-{round}")).await;
        guest.join(&self.room, json!({})).await.unwrap();
        // Who came last time leaves, and somebody comes and goes, which is nothing over a gap.
        passing.bye().await.unwrap();
        first.client().update(&self.room, json!({"round": round, "step": 1})).await.unwrap();
        begun
    }

    /// Waits until the watcher has all of a round. Returns the deltas that brought it.
    async fn until_found(&self, round: usize, since: Instant) -> Vec<Received> {
        let client = self.watcher.client();
        let guest = format!("guest-{round}");
        let is_found = |client: &Client| {
            let state = client.member(&self.room, "person/0000")["state"].clone();
            state["round"] == round && state["step"] == 1 && client.sees(&self.room, &guest)
        };
        client.until("what happened meanwhile", is_found).await;
        self.lookouts.until_sees(&guest).await;
        client.events("delta").into_iter().filter(|delta| delta.at >= since).collect()
    }

    async fn end(self, row: &mut Row) {
        let client = self.watcher.client();
        assert_eq!(client.snapshots(&self.room), [1], "no second snapshot");
        let mut seen = client.users(&self.room);
        seen.sort();
        for instance in &self.stage.instances {
            assert_eq!(instance.rest().users_in(&self.room).await, seen);
        }
        assert!(self.crowd.visits().is_empty() && self.watcher.visits().is_empty(), "all sockets have stayed");
        self.lookouts.assert_none_went_offline(&self.crowd.living(&self.room));
        self.stage.assert_no_panic();
        row.saw("Who watches people, by name or all of them: those who came, and that nobody else went offline.");
        row.saw("No snapshot, no socket closed; the view equals the channel.");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_falls_silent_is_found_in_time_and_one_delta_covers_the_gap() {
    let mut row = Row::begin(SECTION, "the feed of an instance falls silent: its connection stays and brings nothing");
    let scene = Scene::set().await;
    let (mut found, mut replaced) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let (gaps_before, lost_before) = (gaps(&scene.stage).await, feeds_lost(&scene.stage).await);
        scene.stage.links[0].deafen_feeds();
        let deaf = Instant::now();
        let begun = scene.change(round).await;
        assert!(begun.elapsed() < 2 * SECOND, "the changes are close together");
        let deltas = scene.until_found(round, deaf).await;
        assert_eq!(deltas.len(), 1, "one delta covers the gap: {deltas:#?}");
        assert!(gaps(&scene.stage).await > gaps_before, "it was found by comparing, not heard");
        found.push(deltas[0].at - begun);
        // The silent connection itself is found too, and another one takes its place.
        let is_replaced = async || feeds_lost(&scene.stage).await > lost_before && feeds(&scene.stage.redis).await >= 2;
        eventually(20 * SECOND, is_replaced).await;
        replaced.push(deaf.elapsed());
        sleep(SECOND).await;
        // Heard at once again.
        let asked = Instant::now();
        scene.crowd.people[1].client().update(&scene.room, json!({"heard": round})).await.unwrap();
        let heard = |client: &Client| client.member(&scene.room, "person/0001")["state"]["heard"] == round;
        assert!(scene.watcher.client().within(2 * SECOND, heard).await, "{:?}", asked.elapsed());
    }
    row.took("from the first change that was not heard to the delta", &found, Some(FOUND_WITHIN));
    row.took("until the silent connection is replaced", &replaced, None);
    assert!(found.iter().all(|found| *found <= FOUND_WITHIN), "{found:?}");
    row.saw("One delta over everything that was missed.");
    scene.end(&mut row).await;
    row.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_killed_again_and_again_is_found_at_once_and_misses_nothing() {
    let mut row = Row::begin(SECTION, "the feeds of both instances are killed ten times (CLIENT KILL), changes go on");
    let scene = Scene::set().await;
    let mut found = Vec::new();
    for round in 0..10 {
        eventually(5 * SECOND, async || feeds(&scene.stage.redis).await == 2).await;
        let killed = scene.stage.redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert!(matches!(killed, redis::Value::Int(2)), "the feed of each instance: {killed:?}");
        let begun = scene.change(round).await;
        scene.until_found(round, begun).await;
        found.push(begun.elapsed());
    }
    row.took("from the first change after the kill until all of it is shown", &found, Some(FOUND_WITHIN));
    assert!(found.iter().all(|found| *found <= FOUND_WITHIN), "{found:?}");
    assert!(gaps(&scene.stage).await > 0, "something was missed, and found");
    row.saw("What was missed, once and in order.");
    scene.end(&mut row).await;
    row.finish();
}
