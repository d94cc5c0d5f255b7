//! Clocks that jump, of an instance's host and of Redis's: nothing happens.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use crate::harness::{Client, HostClock, Instance, Level, Redis, Row, segment, token};

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(3);
const HOUR: i64 = 3_600;
const ROOM: &str = "room:1";

/// Two instances and their Redis, each on a host of its own.
struct Hosts {
    one: Instance,
    two: Instance,
    redis: Redis,
    clock_of_one: HostClock,
    clock_of_redis: HostClock,
}

impl Hosts {
    async fn start() -> Self {
        let (clock_of_one, clock_of_redis) = (HostClock::right(), HostClock::right());
        let redis = Redis::start_in(&clock_of_redis.settings(), &[]).await;
        let space = redis.space();
        let settings_of_one = [space.clone(), clock_of_one.settings()].concat();
        let (one, two) = tokio::join!(Instance::start(&settings_of_one), Instance::start(&space));
        Self { one, two, redis, clock_of_one, clock_of_redis }
    }

    /// What Redis holds for the time, unix seconds.
    async fn time_of_redis(&self) -> i64 {
        let redis::Value::Array(parts) = self.redis.command(&["TIME"]).await else { panic!("TIME is a list") };
        let redis::Value::BulkString(seconds) = &parts[0] else { panic!("TIME is texts") };
        String::from_utf8_lossy(seconds).parse().expect("seconds")
    }

    async fn version(&self) -> Value {
        let channel = self.two.rest().get(&format!("/v1/channels/{}", segment(ROOM))).await.ok();
        json!([channel["epoch"], channel["version"], channel["occupancy"], channel["stale"]])
    }
}

/// A token that outlives every jump: its end is judged by the wall clock of the instance that it is shown to.
fn lasting(user: &str) -> String {
    token(user, json!({"exp": crate::harness::token::now_s() + 30 * 24 * 3_600}))
}

async fn hello(base: &str, user: &str) -> Client {
    let client = Client::connect(base).await;
    client.hello(&lasting(user)).await.unwrap_or_else(|error| panic!("hello of {user}: {error:?}"));
    client
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Of {
    Instance,
    Redis,
    Both,
}

/// People are present, in their grace and in the middle of coming back while the clocks jump, one jump after the other.
async fn the_clock_jumps(row: &mut Row, of: Of, jumps: &[i64]) {
    let hosts = Hosts::start().await;
    let bases = [hosts.one.url(), hosts.two.url()];
    let mut watchers = Vec::new();
    for (base, name) in bases.iter().zip(["watcher-1", "watcher-2"]) {
        let watcher = hello(base, name).await;
        watcher.watch(ROOM, Level::Users).await.unwrap();
        watchers.push(watcher);
    }
    let mut people = Vec::new();
    for number in 0..10 {
        // A token for an hour: what is left of it at hello is what is left, however the clock jumps.
        let client = Client::hello_as(&bases[number % 2], &format!("present-{number}")).await;
        client.join(ROOM, json!({"number": number})).await.unwrap();
        people.push(client);
    }
    let lease = format!("/v1/channels/{}/members/device", segment(ROOM));
    assert_eq!(hosts.one.rest().put(&lease, json!({"ttl_ms": 120_000})).await.status, 204);
    let mut coming = Vec::new();
    for jump in 0..jumps.len() {
        let client = hello(&bases[jump % 2], &format!("coming-{jump}")).await;
        client.join(ROOM, json!({})).await.unwrap();
        coming.push(client);
    }
    let lost = hello(&bases[0], "lost").await;
    lost.join(ROOM, json!({})).await.unwrap();
    let all = people.len() + coming.len() + 2;
    for watcher in &watchers {
        watcher.until("everybody", |watcher| watcher.users(ROOM).len() == all).await;
    }
    let before = hosts.version().await;
    let began = Instant::now();

    lost.drop_socket().await;
    let broken = Instant::now();
    let mut back = Vec::new();
    for (number, (&ahead_s, client)) in jumps.iter().zip(coming).enumerate() {
        // In its grace when the clock jumps, and on its way back to the other instance right after.
        client.drop_socket().await;
        sleep(SECOND / 4).await;
        if of != Of::Redis {
            hosts.clock_of_one.set(ahead_s);
        }
        if of != Of::Instance {
            hosts.clock_of_redis.set(ahead_s);
        }
        let user = format!("coming-{number}");
        let client = client.resume_on(&bases[(number + 1) % 2], &lasting(&user)).await;
        assert_eq!(client.welcome()["resumed"], true, "{}", client.welcome());
        back.push(client);
        // Longer than a renewal, so that the jump is part of the next.
        sleep(RENEW + SECOND / 2).await;
        let real = i64::try_from(crate::harness::token::now_s()).expect("this century");
        let of_redis = hosts.time_of_redis().await - real;
        let of_one = people[0].ping().await.unwrap()["server_time"].as_i64().expect("a number") / 1_000 - real;
        for (seen, jumped) in [(of_one, of != Of::Redis), (of_redis, of != Of::Instance)] {
            let expected = if jumped { ahead_s } else { 0 };
            assert!((seen - expected).abs() <= 5, "the clock is {seen} s ahead and should be {expected}");
        }
        if broken.elapsed() < GRACE - SECOND {
            assert_eq!(hosts.version().await, before, "no event after a jump to {ahead_s:+} s");
        }
    }

    // Whose grace ran all the while leaves when it is over: by none of the jumps sooner, and by none later.
    let watched_till = broken + GRACE + 3 * SECOND;
    for watcher in &watchers {
        let is_gone = |watcher: &Client| !watcher.sees(ROOM, "lost");
        watcher.within(watched_till.saturating_duration_since(Instant::now()), is_gone).await;
        let leaves = watcher.changes(ROOM, "leave");
        assert_eq!(leaves.len(), 1, "{leaves:?}");
        assert_eq!((&leaves[0].frame["user"], &leaves[0].frame["reason"]), (&json!("lost"), &json!("timeout")));
        let after = leaves[0].at - broken;
        // Presence time stands still between a jump backwards and the next renewal: that much later at most, for each.
        let backwards = jumps.iter().scan(0, |at, &to| Some(to < std::mem::replace(at, to))).filter(|back| *back);
        let late = if of == Of::Instance { 0 } else { u32::try_from(backwards.count()).expect("few") };
        // And a jump forwards counts as a renewal and a second at most.
        let early = if of == Of::Instance { Duration::ZERO } else { jumps.len() as u32 * (RENEW + SECOND) };
        assert!(after + early + SECOND / 10 >= GRACE, "left {after:?} after the break");
        assert!(after <= GRACE + late * RENEW + 3 * SECOND, "left {after:?} after the break");
        row.took("the end of a grace that ran meanwhile", &[after], Some(GRACE));
        assert!(watcher.changes(ROOM, "join").iter().all(|join| join.at < began), "nobody joined");
        assert_eq!(watcher.snapshots(ROOM), [1]);
    }
    for client in people.iter().chain(&back).chain(&watchers) {
        assert!(client.closed().is_none(), "{:?}", client.closed());
        client.ping().await.unwrap();
    }
    for client in people.iter().chain(&back) {
        client.update(ROOM, json!({"still": true})).await.unwrap();
    }
    let mut shown = hosts.one.rest().users_in(ROOM).await;
    assert_eq!(shown.len(), all - 1);
    assert_eq!(shown, hosts.two.rest().users_in(ROOM).await);
    shown.retain(|user| !watchers[0].sees(ROOM, user));
    assert!(shown.is_empty(), "{shown:?}");
    for instance in [&hosts.one, &hosts.two] {
        instance.assert_no_panic();
        let metrics = instance.rest().get("/metrics").await.text;
        let epochs =
            metrics.lines().find(|line| line.starts_with("rollcall_epochs_total ")).expect("epochs are counted");
        assert_eq!(epochs, "rollcall_epochs_total 1", "no jump is a new epoch");
        assert!(!instance.log().iter().any(|line| line.contains("the lease had ended")), "{:#?}", instance.log());
    }
    row.saw("nothing: no event, no version, no socket closed; who came back meanwhile was resumed");
    row.saw("who was in their grace and did not come back left once, when it was over");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_clock_of_an_instance_jumps_nothing_happens() {
    let mut row = Row::begin("Clocks", "the clock of an instance's host jumps 3 h ahead, 3 h back, and right again");
    the_clock_jumps(&mut row, Of::Instance, &[3 * HOUR, -3 * HOUR, 0]).await;
    row.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_clock_of_redis_jumps_nothing_happens() {
    let mut row = Row::begin("Clocks", "the clock of Redis's host jumps 3 h ahead, 3 h back, and right again");
    the_clock_jumps(&mut row, Of::Redis, &[3 * HOUR, -3 * HOUR, 0]).await;
    row.finish();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn when_all_clocks_jump_about_for_a_minute_nothing_happens() {
    let mut row = Row::begin(
        "Clocks",
        "the clocks of Redis and an instance jump together for a minute, by seconds, hours and days",
    );
    let day = 24 * HOUR;
    let jumps = [20, -60, HOUR, -HOUR, day, 0, -2 * day, 5, -5, 12 * HOUR, 4, 0];
    the_clock_jumps(&mut row, Of::Both, &jumps).await;
    row.finish();
}

/// The life that a token has left is counted from hello on: a clock that is set right later takes none of it, and adds none.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_when_the_life_that_it_had_at_hello_is_over() {
    let clock = HostClock::right();
    let at = Instance::start(&clock.settings()).await;
    let short = json!({"exp": crate::harness::token::now_s() + 3});
    let leeway = 5 * SECOND;
    let client = Client::connect(&at.url()).await;
    client.hello(&token("ann", short)).await.unwrap();
    let greeted = Instant::now();
    clock.set(-3 * HOUR);
    sleep_until(greeted + SECOND).await;
    clock.set(3 * HOUR);
    sleep_until(greeted + 2 * SECOND).await;
    assert!(client.closed().is_none(), "{:?}", client.closed());
    clock.set(-3 * HOUR);
    assert_eq!(client.until_closed(15 * SECOND).await.code, 4003);
    let lasted = greeted.elapsed();
    assert!(lasted > leeway && lasted < leeway + 6 * SECOND, "ended after {lasted:?}");
}
