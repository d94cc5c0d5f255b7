//! Redis is away for everybody, or lost what it knew, in every way that we know.

#[path = "outage/fault.rs"]
mod fault;
#[path = "outage/meanwhile.rs"]
mod meanwhile;

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until},
};

use self::{
    fault::Fault,
    meanwhile::{Sleepers, break_sockets, join_late, leave},
};
use super::{
    harness::{Crowd, Person, Redis, Rest, Row, Visit, holds_within, segment},
    lookout::Lookouts,
    stage::{GRACE, Heard, LOST_WITHIN, SECOND, SHOWN_WITHIN, Stage, people, rooms},
};

const SECTION: &str = "Redis fails";
const PEOPLE: usize = 200;
/// Every fourth of them really leaves meanwhile, half with a goodbye.
const LEAVING: usize = 50;
/// Where ten try to join meanwhile.
const LATE: &str = "room:late";
/// Where those are who come back late, and how long after breaking, or after an absence of Redis.
const ASLEEP: &str = "room:asleep";
const SLEEP: Duration = Duration::from_secs(10);
const SLEEP_ON: Duration = Duration::from_secs(5);
/// Where an app server has put somebody before.
const LEASED: &str = "room:leased";
/// How long a read may take to be answered, whatever the answer: it waits for a connection and for Redis, with a little for the machine.
const READ_WITHIN: Duration = Duration::from_secs(7);
/// How long `/readyz` may still say `ready`: a renewal that is not answered, and the next.
const DEGRADED_WITHIN: Duration = Duration::from_secs(8);

/// One question and its answer.
struct Read {
    asked: Instant,
    answered: Instant,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Fresh,
    Stale,
    Unavailable,
}

/// What an instance said of itself and of others, all the time.
#[derive(Default)]
struct Watched {
    reads: Vec<Read>,
    /// When `/readyz` was first asked and said `degraded`.
    degraded: Option<Instant>,
}

/// Asks an instance until told to stop whether it is ready. Returns when it first said `degraded`.
async fn keep_looking(rest: Rest, over: watch::Receiver<bool>) -> Option<Instant> {
    let mut degraded = None;
    while !*over.borrow() {
        let ready = rest.get("/readyz").await;
        assert_eq!(ready.status, 200, "a balancer must not drop every instance: {}", ready.text);
        if ready.body["status"] == "degraded" {
            degraded.get_or_insert_with(Instant::now);
        }
        sleep(SECOND / 20).await;
    }
    degraded
}

/// Asks an instance until told to stop, who is in a channel that it mirrors, and who in one that nobody watches. No answer that
/// does not call itself stale may miss one of those who live.
async fn keep_asking(rest: Rest, channel: String, living: Vec<String>, over: watch::Receiver<bool>) -> Watched {
    let looking = tokio::spawn(keep_looking(rest.clone(), over.clone()));
    let mut watched = Watched::default();
    while !*over.borrow() {
        for (channel, living) in [(channel.as_str(), &*living), ("room:unwatched", &[])] {
            let asked = Instant::now();
            let answer = rest.get(&format!("/v1/channels/{}/members?limit=1000", segment(channel))).await;
            let kind = match answer.status {
                200 if answer.body["stale"] == true => Kind::Stale,
                200 => {
                    let members = answer.body["members"].as_array().expect("a list");
                    let shown: Vec<&str> = members.iter().filter_map(|member| member["user"].as_str()).collect();
                    let missing: Vec<_> = living.iter().filter(|user| !shown.contains(&user.as_str())).collect();
                    assert!(missing.is_empty(), "{channel} without {missing:?}, not called stale");
                    Kind::Fresh
                }
                503 => {
                    assert_eq!(answer.body["code"], "unavailable", "{}", answer.text);
                    assert!(answer.header("retry-after").is_some());
                    Kind::Unavailable
                }
                other => panic!("{other} {}", answer.text),
            };
            watched.reads.push(Read { asked, answered: Instant::now(), kind });
        }
        sleep(SECOND / 5).await;
    }
    watched.degraded = looking.await.expect("it is always ready");
    watched
}

/// Waits until every instance shows the living in every channel and does not call it stale. Returns how long after `returned` each of them did.
async fn until_shown(stage: &Stage, living: &[(String, Vec<String>)], returned: Instant) -> Vec<Duration> {
    let shows = stage.instances.iter().map(async |instance| {
        let (rest, lacks) = (instance.rest(), std::sync::Mutex::new(String::new()));
        let is_shown = async || {
            for (channel, living) in living {
                let answer = rest.get(&format!("/v1/channels/{}/members?limit=1000", segment(channel))).await;
                let members = answer.body["members"].as_array().cloned().unwrap_or_default();
                let shows = |user: &&String| members.iter().any(|member| member["user"] == user.as_str());
                let missing: Vec<&String> = living.iter().filter(|user| !shows(user)).collect();
                if answer.body["stale"] != false || !missing.is_empty() {
                    let status = (answer.status, &answer.body["stale"], &answer.body["code"]);
                    *lacks.lock().unwrap() = format!("{channel} {status:?} without {missing:?}");
                    return false;
                }
            }
            true
        };
        let came = holds_within(3 * SHOWN_WITHIN, is_shown).await;
        let ready = rest.get("/readyz").await.text;
        assert!(came.is_some(), "{} {ready}; log {:#?}", lacks.lock().unwrap(), instance.log());
        returned.elapsed()
    });
    join_all(shows).await
}

async fn state_of(rest: &Rest, channel: &str, user: &str) -> Value {
    let members = rest.members(channel).await;
    members.into_iter().find(|member| member["user"] == user).unwrap_or_default()["state"].clone()
}

/// One kind of failure, from beginning to end.
async fn outage(event: &str, fault: Fault, away: Duration) {
    let mut row = Row::begin(SECTION, event);
    let channels = rooms(4);
    let redis = match fault {
        Fault::Stopped => Redis::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"]).await,
        Fault::Rewound => Redis::start_with(&["--dbfilename", "copy.rdb"]).await,
        _ => Redis::start().await,
    };
    let mut stage = Stage::set_with_links(2, redis).await;
    stage.witness(&[0, 1], &channels).await;
    let crowd = Crowd::gather(&stage.doors, people(PEOPLE, &channels, 10)).await;
    let sleepers = Sleepers::come(&stage.instances[0].url()).await;
    let lease = format!("/v1/channels/{}/members/device", segment(LEASED));
    let leased = stage.instances[0].rest().put(&lease, json!({"state": {"is": "leased"}, "ttl_ms": 300_000})).await;
    assert_eq!(leased.status, 204);
    let everybody: Vec<String> = crowd.people.iter().map(|person| person.user().to_owned()).collect();
    let (one, two) = (stage.instances[0].url(), stage.instances[1].url());
    let lookouts = Lookouts::post([&one, &two], everybody.clone()).await;
    lookouts.until_online(&everybody).await;
    let since = stage.curtain(&crowd, &channels).await;
    if fault == Fault::Rewound {
        // What follows is not in the copy: goodbyes that it does not know of, and changes that it has never seen.
        stage.redis.command(&["SAVE"]).await;
    }

    // None of these watches: numbers 0, 10, 20 and so on do.
    let leaving: Vec<&Person> = crowd.people.iter().skip(3).step_by(4).take(LEAVING).collect();
    let others: Vec<&Person> = crowd.people.iter().skip(2).step_by(20).collect();
    let (sealed, joining) = (&others[..5], &crowd.people.iter().skip(4).step_by(20).collect::<Vec<_>>());
    for person in sealed {
        person.client().update(&person.plan().joins[0], json!({"sealed": true})).await.unwrap();
    }
    let returning: Vec<&Person> = crowd.people.iter().skip(6).step_by(20).collect();
    leaving.iter().for_each(|person| assert!(person.plan().watches.is_empty()));
    let names: Vec<&str> = leaving.iter().map(|person| person.user()).collect();
    let living: Vec<(String, Vec<String>)> = channels
        .iter()
        .map(|channel| {
            let users = crowd.living(channel).into_iter().filter(|user| !names.contains(&user.as_str()));
            (channel.clone(), users.collect())
        })
        .collect();

    let (elsewhere, (back, is_back)) = (stage.instances[1].url(), oneshot::channel());
    let sleeping = tokio::spawn(async move {
        sleepers.fall_asleep().await;
        if fault.is_absence() {
            let returned: Instant = is_back.await.expect("it comes back");
            sleep_until(returned + SLEEP_ON).await;
        } else {
            sleep(SLEEP).await;
        }
        sleepers.wake(&elsewhere).await;
    });
    let over = watch::Sender::new(false);
    let asking: Vec<_> = stage
        .instances
        .iter()
        .map(|instance| {
            let (channel, living) = living[0].clone();
            tokio::spawn(keep_asking(instance.rest(), channel, living, over.subscribe()))
        })
        .collect();
    let during = (away + SECOND).max(4 * SECOND);
    let ((began, returned), left, (joined, refused), ()) = tokio::join!(
        fault.strike(away, &mut stage.redis, &stage.links),
        leave(&leaving, during),
        join_late(joining, during),
        break_sockets(&returning),
    );
    // They may have waited for this.
    let _ = back.send(returned);
    let shown = until_shown(&stage, &living, returned).await;
    row.took("from its return until an instance shows the living", &shown, Some(SHOWN_WITHIN));
    assert!(shown.iter().all(|shown| *shown <= SHOWN_WITHIN), "{shown:?}");

    // Longer than lease and grace: whoever was thought to be lost would have left by then.
    let last = left.iter().map(|farewell| farewell.at).max().expect("some left").max(returned);
    stage.until_told(since, &left, last + GRACE + SHOWN_WITHIN + 10 * SECOND).await;
    sleep_until(last + LOST_WITHIN + SECOND).await;
    over.send_replace(true);
    let watched: Vec<Watched> =
        join_all(asking).await.into_iter().map(|watched| watched.expect("all was right")).collect();

    let heard = stage.assert_told(&crowd, since, &left, &["left", "timeout", "instance_lost"]);
    let late_by = |heard: &Heard| heard.told.saturating_duration_since(heard.left.max(returned));
    let said: Vec<Duration> = heard.iter().filter(|heard| heard.said).map(late_by).collect();
    let silent: Vec<Duration> = heard.iter().filter(|heard| !heard.said).map(late_by).collect();
    row.took(
        "to the leave of who said goodbye, from that or the return, whichever was later",
        &said,
        Some(SHOWN_WITHIN),
    );
    row.took("the same of who closed without a word, whose grace is 15 s", &silent, Some(GRACE + SHOWN_WITHIN));
    assert!(said.iter().all(|late| *late <= SHOWN_WITHIN), "{:?}", said.iter().max());
    assert!(silent.iter().all(|late| *late <= GRACE + SHOWN_WITHIN), "{:?}", silent.iter().max());
    // Over a gap only the difference shows, without the reason: that one is taken for a timeout.
    assert!(heard.iter().all(|heard| heard.said || heard.reason != "left"), "nobody else has said goodbye");
    let unsaid = heard.iter().filter(|heard| heard.said && heard.reason != "left").count();
    row.measured("goodbyes that were told as `timeout`, of all that were told", format!("{unsaid} of {}", said.len()));

    let late = lookouts.assert_told(since, &left, returned);
    row.took(
        "the same for who watches people, from that, the end of the grace or the return",
        &late,
        Some(SHOWN_WITHIN),
    );
    assert!(late.iter().all(|late| *late <= SHOWN_WITHIN), "{:?}", late.iter().max());
    let stay: Vec<String> = everybody.into_iter().filter(|user| !names.contains(&user.as_str())).collect();
    lookouts.until_online(&stay).await;
    row.saw("Who watches people, by name or all of them: the 50 offline, once each, and nothing of anybody else.");

    sleeping.await.expect("the places of those who came back late were kept");
    assert!(crowd.is_there(), "everybody has a socket");
    let visits: Vec<Visit> = returning.iter().flat_map(|person| person.visits()).collect();
    assert!(visits.iter().all(|visit| visit.resumed), "{visits:#?}");
    assert_eq!(crowd.visits().len(), returning.len(), "no other socket broke, and none twice");
    let late = visits.iter().map(|visit| visit.back_at.saturating_duration_since(visit.broke_at.max(returned)));
    row.took(
        "from the break or the return, whichever was later, until who came back was resumed",
        &late.collect::<Vec<_>>(),
        Some(GRACE),
    );
    assert!(stage.witnesses.iter().all(|witness| witness.visits().is_empty()));
    for (witness, channel) in
        stage.witnesses.iter().flat_map(|witness| channels.iter().map(move |channel| (witness, channel)))
    {
        assert_eq!(witness.client().snapshots(channel), [1], "{} in {channel}", witness.user());
    }
    stage.until_all_is_equal(&crowd, &channels, 5 * SECOND).await;
    for instance in &stage.instances {
        let rest = instance.rest();
        assert_eq!(rest.users_in(LATE).await, joined, "who was acknowledged is there, who was refused is not");
        assert_eq!(rest.users_in(LEASED).await, ["device"]);
        for person in sealed {
            assert_eq!(state_of(&rest, &person.plan().joins[0], person.user()).await["sealed"], true);
        }
    }
    stage.assert_no_panic();
    conclude(row, fault, away, (began, returned), &watched, (joined.len(), refused));
}

/// What the questions of the whole time have shown.
fn conclude(
    mut row: Row,
    fault: Fault,
    away: Duration,
    (began, returned): (Instant, Instant),
    watched: &[Watched],
    (joined, refused): (usize, usize),
) {
    let reads = || watched.iter().flat_map(|watched| &watched.reads);
    let count = |kind: Kind| reads().filter(|read| read.kind == kind).count();
    let (stale, unavailable) = (count(Kind::Stale), count(Kind::Unavailable));
    row.saw("All sockets stay open, and nobody gets a second snapshot.");
    row.saw("10 whose sockets broke as it began came back at once, 5 after a while; all were resumed: nothing.");
    if fault.is_absence() {
        let meanwhile = reads().filter(|read| read.asked > began && read.answered < returned);
        let kinds: Vec<Kind> = meanwhile.map(|read| read.kind).collect();
        assert!(!kinds.contains(&Kind::Fresh), "nobody can know anything fresh");
        row.saw("Meanwhile every read is `stale` or `unavailable`.");
        if away >= 2 * DEGRADED_WITHIN {
            assert!(kinds.contains(&Kind::Stale), "a channel that is watched here is known");
            assert!(kinds.contains(&Kind::Unavailable), "a channel that nobody watches is not known");
            let degraded = watched.iter().map(|watched| watched.degraded.expect("it was degraded") - began);
            let degraded: Vec<Duration> = degraded.collect();
            assert!(degraded.iter().all(|after| *after <= DEGRADED_WITHIN), "{degraded:?}");
            row.took("until `/readyz` says `degraded`", &degraded, Some(DEGRADED_WITHIN));
        }
    } else {
        row.saw("No read that does not call itself stale misses a living person.");
    }
    if fault.is_new_epoch() {
        assert!(watched.iter().all(|watched| watched.degraded.is_some()), "while it settles it says so");
    }
    let slowest = reads().map(|read| read.answered - read.asked).max().expect("many were asked");
    assert!(slowest <= READ_WITHIN, "{slowest:?}");
    row.measured(
        "reads: stale, unavailable, all; the slowest",
        format!("{stale}, {unavailable}, {}; {} ms", reads().count(), slowest.as_millis()),
    );
    row.saw(match refused {
        0 => "10 joins under way: all were acknowledged, and are there.".to_owned(),
        _ => format!(
            "10 joins under way: {joined} were acknowledged in the end, and are there. {refused} answers were `unavailable`; what was \
             refused did not happen later."
        ),
    });
    row.saw("What was acknowledged before is there: states, a lease given by REST.");
    row.saw("The 50 who really left: one leave each, none before its grace. Nobody else left, nobody joined.");
    row.finish();
}

/// A failure, and for how long.
macro_rules! outages {
    ($($(#[$attribute:meta])* $name:ident: $event:literal, $fault:expr, $seconds:literal s;)+) => {$(
        #[tokio::test(flavor = "multi_thread")]
        $(#[$attribute])*
        async fn $name() {
            outage($event, $fault, Duration::from_secs($seconds)).await;
        }
    )+};
}

outages! {
    #[ignore = "long: make chaos"]
    redis_is_stopped_for_5_seconds: "Redis is stopped for 5 s and comes back with what it had", Fault::Stopped, 5 s;
    #[ignore = "long: make chaos"]
    redis_is_stopped_for_20_seconds: "Redis is stopped for 20 s and comes back with what it had", Fault::Stopped, 20 s;
    #[ignore = "long: make chaos"]
    redis_is_stopped_for_60_seconds: "Redis is stopped for 60 s and comes back with what it had", Fault::Stopped, 60 s;
    redis_is_frozen_for_5_seconds: "Redis is frozen for 5 s (SIGSTOP)", Fault::Frozen, 5 s;
    #[ignore = "long: make chaos"]
    redis_is_frozen_for_30_seconds: "Redis is frozen for 30 s (SIGSTOP)", Fault::Frozen, 30 s;
    redis_dies_and_is_started_again_empty: "Redis dies (kill -9) and is started again empty", Fault::Emptied, 0 s;
    #[ignore = "long: make chaos"]
    redis_dies_and_is_started_again_with_an_older_copy: "Redis dies (kill -9) and is started again with a copy from before the 50 left", Fault::Rewound, 0 s;
    #[ignore = "long: make chaos"]
    redis_is_flushed: "FLUSHALL", Fault::Flushed, 0 s;
    #[ignore = "long: make chaos"]
    all_connections_to_redis_are_killed_again_and_again: "all connections to Redis are killed every half second, for 10 s (CLIENT KILL)", Fault::ConnectionsKilled, 10 s;
    #[ignore = "long: make chaos"]
    the_link_to_redis_is_cut_for_20_seconds: "the link to Redis is cut for 20 s", Fault::Cut, 20 s;
    #[ignore = "long: make chaos"]
    the_link_to_redis_is_black_holed_for_20_seconds: "the link to Redis swallows everything for 20 s", Fault::BlackHoled, 20 s;
    #[ignore = "long: make chaos"]
    the_link_to_redis_is_slow_for_30_seconds: "everything on the link to Redis takes half a second longer each way, for 30 s", Fault::Slow(Duration::from_millis(500)), 30 s;
    #[ignore = "long: make chaos"]
    the_link_to_redis_flaps_every_9_seconds: "the link to Redis is cut for 9 s, mended for 9 s, four times", Fault::Flapping(Duration::from_secs(9)), 63 s;
    #[ignore = "long: make chaos"]
    the_link_of_one_instance_flaps_every_9_seconds: "the link of one of two instances to Redis is cut for 9 s, mended for 9 s, four times", Fault::FlappingForOne(Duration::from_secs(9)), 63 s;
}
