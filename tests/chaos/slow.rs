//! Watchers who read slowly, or not at all, in a busy channel of two thousand.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::harness::{Client, Instance, Level, Redis, Rest, Row, Throttle, eventually};

const SECOND: Duration = Duration::from_secs(1);
const ROOM: &str = "room:1";
const MEMBERS: usize = 2_000;
/// What a slow watcher may cost: promised.
const COST_KB: u64 = 256;
/// What the kernel keeps for a socket at most: the setting of the listener, doubled as the kernel does.
const KERNEL_KB: u64 = 64;

fn member(number: usize) -> String {
    format!("/v1/channels/room:1/members/member-{number:04}")
}

async fn put(rest: &Rest, number: usize, round: u64) {
    let state = json!({"state": {"round": round, "at": "somewhere"}, "ttl_ms": 3_600_000});
    let answer = rest.put(&member(number), state).await;
    assert_eq!(answer.status, 204, "{}", answer.text);
}

/// A channel of two thousand members, put there by an app server.
struct Busy {
    at: Instance,
    _redis: Redis,
}

impl Busy {
    async fn start(settings: &[(&'static str, String)]) -> Self {
        let redis = Redis::start().await;
        let at = Instance::start(&[redis.space(), settings.to_vec()].concat()).await;
        let rest = at.rest();
        for first in (0..MEMBERS).step_by(50) {
            join_all((first..first + 50).map(|number| put(&rest, number, 0))).await;
        }
        Self { at, _redis: redis }
    }

    /// One member after the other changes, several at a time, until told to stop. Returns how many changes there were.
    fn change(&self) -> (watch::Sender<bool>, JoinHandle<u64>) {
        let (end, ended) = watch::channel(false);
        let rest = self.at.rest();
        let task = tokio::spawn(async move {
            let mut round = 1;
            while !*ended.borrow() {
                let first = usize::try_from(round).expect("few") * 5 % MEMBERS;
                join_all((first..first + 5).map(|number| put(&rest, number, round))).await;
                round += 1;
                sleep(Duration::from_millis(20)).await;
            }
            round * 5
        });
        (end, task)
    }

    /// A watcher whose frames a probe's changes are timed by.
    async fn quick(&self) -> Client {
        let quick = Client::hello_as(&self.at.url(), "quick").await;
        quick.watch(ROOM, Level::Users).await.unwrap();
        quick.until("everybody", |quick| quick.users(ROOM).len() >= MEMBERS).await;
        quick
    }
}

/// How long changes took from the moment they were asked for until a quick watcher saw them: the greatest of the hundred, but one.
async fn p99(busy: &Busy, quick: &Client) -> Duration {
    let rest = busy.at.rest();
    let mut took = Vec::new();
    for _ in 0..100 {
        let mark = rand::random::<u32>();
        let asked = Instant::now();
        let state = json!({"state": {"mark": mark}, "ttl_ms": 3_600_000});
        assert_eq!(rest.put("/v1/channels/room:1/members/probe", state).await.status, 204);
        quick.until("the probe", |quick| quick.member(ROOM, "probe")["state"]["mark"] == mark).await;
        took.push(asked.elapsed());
        sleep(Duration::from_millis(30)).await;
    }
    took.sort_unstable();
    took[took.len() - 2]
}

/// Bytes that the kernel holds for the sockets of a port, from its own table: the greatest of one socket.
fn most_unsent(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("there is a table of sockets");
    let here = format!(":{port:04X}");
    let sockets = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1)?.ends_with(&here)).then(|| u64::from_str_radix(fields.get(4)?.split(':').next()?, 16).ok())?
    });
    sockets.max().unwrap_or(0)
}

fn view(client: &Client) -> Vec<(String, Value)> {
    let view = client.view(ROOM).expect("it watches");
    view.members().iter().map(|(user, member)| (user.clone(), member["state"].clone())).collect()
}

fn is_right(client: &Client, quick: &Client) -> bool {
    let (one, other) = (client.view(ROOM), quick.view(ROOM));
    one.zip(other).is_some_and(|(one, other)| one.version() == other.version() && one.members() == other.members())
}

/// Slow watchers come to a busy channel, and read at their pace. What they cost is measured, what the others notice, and that they end with the right view.
async fn slow_watchers(row: &mut Row, watchers: u32, rate: u64, busy_for: Duration, patience: Option<Duration>) {
    let busy = Busy::start(&[]).await;
    let quick = busy.quick().await;
    let (end, changing) = busy.change();
    let without = p99(&busy, &quick).await;

    let before_kb = busy.at.rss_kb();
    let link = Throttle::start(busy.at.port(), rate).await;
    let slow: Vec<Client> = join_all((0..watchers).map(async |number| {
        // One after the other, so that each begins at another version.
        sleep(number * SECOND / 5).await;
        let client = Client::connect(link.url()).await;
        client.hello(&crate::harness::token(&format!("slow-{number}"), json!({}))).await.unwrap();
        client.watch(ROOM, Level::Users).await.unwrap();
        client
    }))
    .await;
    let began = Instant::now();
    let (mut most_kb, mut with, mut unsent) = (before_kb, Duration::ZERO, 0);
    while began.elapsed() < busy_for {
        most_kb = most_kb.max(busy.at.rss_kb());
        unsent = unsent.max(most_unsent(busy.at.port()));
        if with.is_zero() {
            with = p99(&busy, &quick).await;
        }
        if let Some(closed) = slow.iter().find_map(Client::closed) {
            let metrics = busy.at.rest().get("/metrics").await.text;
            let closes: Vec<_> = metrics.lines().filter(|line| line.starts_with("rollcall_closes_total{")).collect();
            panic!("{closed:?} after {:?}: {closes:?}", began.elapsed());
        }
        sleep(SECOND / 10).await;
    }
    for client in &slow {
        assert!(client.closed().is_none(), "closed after {:?}: {:?}", began.elapsed(), client.closed());
    }
    end.send_replace(true);
    let changes = changing.await.unwrap();
    let cost_kb = most_kb.saturating_sub(before_kb) / u64::from(watchers);
    println!(
        "{changes} changes; RSS {before_kb} to {most_kb} KB: {cost_kb} KB each; {unsent} bytes unsent; p99 {without:?} and {with:?}"
    );
    assert!(unsent <= KERNEL_KB * 1_024, "the kernel holds {unsent} bytes for one of them");
    assert!(
        cost_kb + KERNEL_KB <= COST_KB,
        "{cost_kb} KB in the process for each of them, and the kernel's {KERNEL_KB}"
    );
    assert!(with <= without * 3 + SECOND / 2, "the others' p99 was {without:?} and is {with:?}");

    row.measured("memory of the process for each", format!("{cost_kb} KB, and {KERNEL_KB} KB at most in the kernel"));
    row.took("p99 of a change to a quick watcher, without them", &[without], None);
    row.took("p99 of a change to a quick watcher, with them", &[with], None);
    row.saw("the others: nothing");
    let Some(patience) = patience else { return };
    let still = Instant::now();
    for (number, client) in slow.iter().enumerate() {
        let ended = client.within(patience.saturating_sub(still.elapsed()), |client| is_right(client, &quick)).await;
        assert!(client.closed().is_none(), "{number} was closed: {:?}", client.closed());
        let (version, latest) = (client.view(ROOM).map(|v| v.version().1), quick.view(ROOM).map(|v| v.version().1));
        assert!(ended, "{number} is at {version:?} and not {latest:?} after {:?}", still.elapsed());
        assert_eq!(view(client), view(&quick));
    }
    row.took("until every view was right after the last change", &[still.elapsed()], None);
    row.saw("the slow ones: fewer and larger frames, then the right view; none was closed");
    busy.at.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_who_read_thirty_kilobytes_a_second_cost_little_and_end_with_the_right_view() {
    let mut row = Row::begin("Slow watchers", "20 watchers of a busy channel of 2,000 members read 30 kB/s");
    slow_watchers(&mut row, 20, 30_000, 15 * SECOND, Some(120 * SECOND)).await;
    row.finish();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn twenty_who_read_a_kilobyte_a_second_cost_little_and_end_with_the_right_view() {
    let mut row = Row::begin("Slow watchers", "20 watchers of a busy channel of 2,000 members read 1 kB/s");
    slow_watchers(&mut row, 20, 1_000, 180 * SECOND, Some(1_200 * SECOND)).await;
    row.finish();
}

/// As little as is read here is no honest client; it is just not closed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn twenty_who_read_just_enough_not_to_be_closed_cost_no_more() {
    let mut row = Row::begin(
        "Slow watchers",
        "20 watchers of a busy channel of 2,000 members read 400 B/s, just enough not to be closed",
    );
    slow_watchers(&mut row, 20, 400, 180 * SECOND, None).await;
    row.saw("the slow ones: nothing, for as long as it was looked at; none was closed");
    row.finish();
}

/// The socket of somebody who stopped reading is closed as too slow, and the others do not notice.
#[tokio::test(flavor = "multi_thread")]
async fn one_who_reads_nothing_is_closed_as_too_slow() {
    let mut row =
        Row::begin("Slow watchers", "a watcher of a busy channel of 2,000 members reads nothing (slow_close_ms 5,000)");
    let busy = Busy::start(&[("ROLLCALL__SERVER__SLOW_CLOSE_MS", "5000".to_owned())]).await;
    let quick = busy.quick().await;
    let (end, changing) = busy.change();
    let without = p99(&busy, &quick).await;
    let link = Throttle::start(busy.at.port(), 1_000_000).await;
    let files =
        || std::fs::read_dir(format!("/proc/{}/fd", busy.at.pid())).expect("a living process has files").count();
    let before = files();
    let deaf = Client::hello_as(link.url(), "deaf").await;
    deaf.watch(ROOM, Level::Users).await.unwrap();
    deaf.until("everybody", |deaf| deaf.users(ROOM).len() >= MEMBERS).await;
    let closes = async || {
        let metrics = busy.at.rest().get("/metrics").await.text;
        metrics.lines().any(|line| line == r#"rollcall_closes_total{reason="too_slow"} 1"#)
    };
    link.set(0);
    let stopped = Instant::now();
    let with = p99(&busy, &quick).await;
    eventually(20 * SECOND, closes).await;
    let after = stopped.elapsed();
    assert!(after >= 5 * SECOND, "closed after {after:?}");
    assert!(with <= without * 3 + SECOND / 2, "the others' p99 was {without:?} and is {with:?}");
    end.send_replace(true);
    changing.await.unwrap();
    // Nothing of it stays, though it still reads nothing. What REST has opened meanwhile is closed when it has not been used for five seconds.
    eventually(20 * SECOND, async || files() <= before).await;
    link.set(1_000_000);
    assert_eq!(deaf.until_closed(10 * SECOND).await.code, 4008);
    row.took("until it was closed", &[after], Some(5 * SECOND));
    row.saw("it was closed with 4008; the others saw nothing");
    busy.at.assert_no_panic();
    row.finish();
}

/// A ping waits behind all that was sent before it: in the kernel's buffer too, of which nothing shows. Whoever is still reading that is no silent socket,
/// neither in the pages of a snapshot nor in one long frame, and though nothing follows any more.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_still_reading_what_was_sent_is_not_taken_for_silent() {
    let mut row = Row::begin(
        "Slow watchers",
        "a channel falls still while a watcher reads at 16 kB/s (ping_ms 1,000, pong_timeout_ms 1,000)",
    );
    let (silent_after, members) = (2 * SECOND, 60);
    let at = Instance::start(&[
        ("ROLLCALL__PRESENCE__PING_MS", "1000".to_owned()),
        ("ROLLCALL__PRESENCE__PONG_TIMEOUT_MS", "1000".to_owned()),
    ])
    .await;
    let rest = at.rest();
    let fill = async |round: u64| {
        let state = json!({"state": {"round": round, "blob": "x".repeat(3_900)}, "ttl_ms": 600_000});
        let puts = (0..members).map(async |number| rest.put(&member(number), state.clone()).await);
        assert!(join_all(puts).await.iter().all(|answer| answer.status == 204));
    };
    fill(1).await;
    let link = Throttle::start(at.port(), 1_000_000).await;
    let slow = Client::hello_as(link.url(), "slow").await;
    link.set(16_000);
    slow.watch(ROOM, Level::Users).await.unwrap();
    for round in [1, 2] {
        let began = Instant::now();
        let has_all = |slow: &Client| {
            slow.view(ROOM).is_some_and(|view| {
                let seen = view.members().values().filter(|member| member["state"]["round"] == round).count();
                seen == members
            })
        };
        let done = slow.within(60 * SECOND, has_all).await;
        assert!(done, "round {round}: closed {:?} after {:?}", slow.closed(), began.elapsed());
        assert!(
            began.elapsed() > 2 * silent_after,
            "it was read in {:?}: too quickly to show anything",
            began.elapsed()
        );
        row.took("until all was read", &[began.elapsed()], None);
        // All of them change within a tick or two: a frame of some two hundred kilobytes.
        fill(round + 1).await;
    }
    assert!(slow.closed().is_none());
    // Somebody who reads nothing, and to whom nothing is sent, is silent as before.
    let quiet = Client::hello_as(link.url(), "quiet").await;
    quiet.stall();
    let stalled = Instant::now();
    let silent = async || {
        let metrics = at.rest().get("/metrics").await.text;
        metrics.lines().any(|line| line == r#"rollcall_closes_total{reason="silent"} 1"#)
    };
    eventually(10 * SECOND, silent).await;
    let after = stalled.elapsed();
    assert!(after <= silent_after + 2 * SECOND, "noticed after {after:?}");
    row.took("until a silent socket was noticed", &[after], Some(silent_after));
    row.saw("the slow one: everything, in the end; it was not closed as silent");
    row.finish();
}
