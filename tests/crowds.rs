//! Everybody comes at once to a channel that all of them watch: how many frames that is to each, and whether all is right at the end.

mod harness;

use std::time::Duration;

use futures_util::{StreamExt as _, future::join_all, stream};
use harness::{
    Client, DEADLINE, Instance, Level, Names, Onlooker, Redis, Rest, Seen, View, holds_within, segment, token,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

const ROOM: &str = "room:crowd";
/// How many open their sockets at a time.
const AT_ONCE: usize = 32;

fn name(number: usize) -> String {
    format!("person-{number:05}")
}

fn users_of(page: &Value) -> Vec<String> {
    let members = page["members"].as_array().expect("a page has members");
    members.iter().map(|member| member["user"].as_str().expect("a user").to_owned()).collect()
}

/// A crowd whose sockets are open, spread over the instances of one Redis.
struct Storm {
    instances: Vec<Instance>,
    crowd: Vec<Onlooker>,
    _redis: Redis,
}

/// What came of it.
struct Report {
    seen: Vec<Seen>,
    /// From the first wish to the last acknowledgement, and from there until all was right.
    joining: Duration,
    converging: Duration,
}

impl Storm {
    async fn gather(instances: usize, people: usize, more: &[(&'static str, &str)]) -> Self {
        let redis = Redis::start().await;
        let mut settings = redis.space();
        settings.push(("ROLLCALL__LIMITS__CONNECTIONS_PER_ADDRESS", "100000".to_owned()));
        settings.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let instances = join_all((0..instances).map(|_| Instance::start(&settings))).await;
        let urls: Vec<String> = instances.iter().map(Instance::url).collect();
        let coming = (0..people).map(async |number| Onlooker::come(&urls[number % urls.len()], &name(number)).await);
        let crowd = stream::iter(coming).buffered(AT_ONCE).collect().await;
        Self { instances, crowd, _redis: redis }
    }

    /// The first join and watch at the same moment, the others one after another within that time. Ends when everybody has what `is_right` wants, or it
    /// takes too long.
    async fn break_loose(&self, first: usize, within: Duration, is_right: impl Fn(&Seen) -> bool) -> Report {
        let began = Instant::now();
        let others = u32::try_from(self.crowd.len() - first).expect("a crowd has a number").max(1);
        join_all(self.crowd.iter().enumerate().map(async |(number, one)| {
            let place = u32::try_from((number + 1).saturating_sub(first)).expect("a crowd has a number");
            sleep_until(began + within * place / others).await;
            one.join_watching(ROOM).await;
        }))
        .await;
        let joining = began.elapsed();
        let joined = Instant::now();
        let right = holds_within(DEADLINE, async || self.crowd.iter().all(|one| is_right(&one.seen()))).await;
        let converging = joined.elapsed();
        let seen: Vec<Seen> = self.crowd.iter().map(Onlooker::seen).collect();
        if right.is_none() {
            let wrong: Vec<_> = seen.iter().filter(|seen| !is_right(seen)).collect();
            panic!("{} are not right after {converging:?}, such as {:?}", wrong.len(), wrong[0]);
        }
        let report = Report { seen, joining, converging };
        report.print();
        for (one, seen) in self.crowd.iter().zip(&report.seen) {
            assert_eq!(seen.wrong, None, "{}", one.user);
        }
        self.instances.iter().for_each(Instance::assert_no_panic);
        report
    }

    /// The list in pages, as REST has it on one of the instances.
    async fn pages(&self, rest: &Rest) -> Names {
        let mut users = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/channels/{}/members?limit=1000{cursor}", segment(ROOM));
            let page = rest.get(&path).await.ok();
            users.extend(
                page["members"].as_array().expect("a list").iter().map(|one| one["user"].as_str().unwrap().to_owned()),
            );
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        Names::of(users.iter().map(String::as_str))
    }
}

impl Report {
    fn most(&self) -> usize {
        self.seen.iter().map(|seen| seen.frames).max().unwrap_or_default()
    }

    fn print(&self) {
        let count = self.seen.len();
        let mean = |of: fn(&Seen) -> usize| self.seen.iter().map(of).sum::<usize>() / count;
        let most = self.seen.iter().max_by_key(|seen| seen.frames).expect("somebody");
        println!(
            "{count} people: {} frames at most ({} of them pages, {} kB, modes {:?}), {} in the mean, {} kB in the mean; \
             joined in {:?}, right {:?} after",
            most.frames,
            most.pages,
            most.bytes / 1_000,
            most.turns,
            mean(|seen| seen.frames),
            mean(|seen| seen.bytes) / 1_000,
            self.joining,
            self.converging,
        );
    }
}

/// Modes that no channel reaches.
const NEVER: [(&str, &str); 2] =
    [("ROLLCALL__PRESENCE__NET_ABOVE", "999999999999"), ("ROLLCALL__PRESENCE__OCCUPANCY_ABOVE", "1000000000000")];

fn everybody(count: usize) -> Names {
    Names::of((0..count).map(name).collect::<Vec<_>>().iter().map(String::as_str))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_join_at_once_a_channel_that_all_of_them_watch_in_a_hundred_frames_each_and_every_list_is_right() {
    let (storm, all) = (Storm::gather(2, 1_000, &[]).await, everybody(1_000));
    let right = |seen: &Seen| seen.users == 1_000 && seen.names == Some(all);
    let report = storm.break_loose(1_000, Duration::ZERO, right).await;
    assert!(report.most() <= 100, "{} frames", report.most());
    assert!(report.seen.iter().all(|seen| seen.mode == "net"), "there are lists to the end");
    for instance in &storm.instances {
        assert_eq!(storm.pages(&instance.rest()).await, all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_of_whom_most_come_in_the_course_of_twelve_seconds_are_a_hundred_frames_with_modes_and_more_without()
{
    let (within, all) = (Duration::from_secs(12), everybody(1_000));
    let right = |seen: &Seen| seen.users == 1_000 && seen.names == Some(all);
    let (with, without) = tokio::join!(Storm::gather(2, 1_000, &[]), Storm::gather(2, 1_000, &NEVER));
    let (with, without) = tokio::join!(with.break_loose(400, within, right), without.break_loose(400, within, right));
    assert!(with.most() <= 100, "{} frames", with.most());
    assert!(without.most() > 100, "{} frames: this shows nothing of what modes are for", without.most());
    assert!(without.seen.iter().all(|seen| seen.mode == "full"));
}

/// Bounds that a handful reaches.
const FEW: [(&str, &str); 2] = [("ROLLCALL__PRESENCE__NET_ABOVE", "4"), ("ROLLCALL__PRESENCE__OCCUPANCY_ABOVE", "12")];

/// Brings in users, or takes them out.
async fn put(rest: &Rest, users: std::ops::Range<usize>, there: bool) {
    for number in users {
        let path = format!("/v1/channels/{}/members/{}", segment(ROOM), name(number));
        let answer = if there { rest.put(&path, json!({"ttl_ms": 120_000})).await } else { rest.delete(&path).await };
        assert_eq!(answer.status, 204, "{}", answer.text);
    }
}

/// What a watcher sees: the mode, the users of the list if there is one, and how many there are.
fn sees(client: &Client) -> (String, Option<usize>, u64) {
    let Some(view) = client.view(ROOM).filter(View::is_complete) else { return Default::default() };
    let users = view.occupancy()["users"].as_u64().unwrap_or_default();
    (view.mode().to_owned(), view.has_list().then(|| view.users().len()), users)
}

#[track_caller]
fn sees_soon(client: &Client, mode: &str, list: Option<usize>, users: u64) -> impl Future<Output = ()> {
    let wanted = (mode.to_owned(), list, users);
    let place = std::panic::Location::caller();
    async move {
        let seen = holds_within(DEADLINE, async || sees(client) == wanted).await;
        assert!(seen.is_some(), "at {place}: {:?} and not {wanted:?}", sees(client));
    }
}

fn causes(client: &Client) -> Vec<Option<String>> {
    client.view(ROOM).expect("it watches").watches.last().expect("it watches").causes.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_goes_through_the_modes_and_back_by_the_load_of_each_instance_and_whoever_moves_begins_in_that_of_the_other()
 {
    let redis = Redis::start().await;
    let mut settings = redis.space();
    settings.extend(FEW.map(|(name, value)| (name, value.to_owned())));
    let (one, two) = tokio::join!(Instance::start(&settings), Instance::start(&settings));
    let rest = two.rest();
    let (ann, ben) = (Client::hello_as(&one.url(), "ann").await, Client::hello_as(&one.url(), "ben").await);
    let cat = Client::hello_as(&two.url(), "cat").await;
    ann.watch(ROOM, Level::Users).await.unwrap();
    ben.watch(ROOM, Level::Connections).await.unwrap();
    cat.watch(ROOM, Level::Occupancy).await.unwrap();
    sees_soon(&ann, "full", Some(0), 0).await;
    put(&rest, 0..4, true).await;
    for watcher in [&ann, &ben] {
        sees_soon(watcher, "net", Some(4), 4).await;
        assert_eq!(causes(watcher), [None, Some("mode".to_owned())]);
    }
    sees_soon(&cat, "full", None, 4).await;
    put(&rest, 4..8, true).await;
    for watcher in [&ann, &ben] {
        sees_soon(watcher, "occupancy", None, 8).await;
        assert_eq!(causes(watcher).last(), Some(&Some("mode".to_owned())));
    }
    sees_soon(&cat, "net", None, 8).await;
    let metrics = one.rest().get("/metrics").await.text;
    for line in [r#"rollcall_modes{mode="occupancy"} 1"#, r#"rollcall_modes{mode="full"} 0"#] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    // A list can be asked for, and a change is told in numbers.
    let list = ann.op(json!({"op": "get", "channel": ROOM, "members": true})).await.unwrap();
    assert_eq!(users_of(&list).len(), 8);
    put(&rest, 8..9, true).await;
    sees_soon(&ann, "occupancy", None, 9).await;
    // Her socket breaks. With the version of a frame that had no list she goes on where there are lists, and has one.
    cat.unwatch(ROOM).await.unwrap();
    let ann = ann.resume_on(&two.url(), &token("ann", json!({}))).await;
    sees_soon(&ann, "net", Some(9), 9).await;
    put(&rest, 8..9, false).await;
    put(&rest, 4..8, false).await;
    sees_soon(&ann, "net", Some(4), 4).await;
    put(&rest, 1..4, false).await;
    sees_soon(&ann, "full", Some(1), 1).await;
    sees_soon(&ben, "full", Some(1), 1).await;
    let ben = ben.resume_on(&two.url(), &token("ben", json!({}))).await;
    sees_soon(&ben, "full", Some(1), 1).await;
    assert_eq!(ben.snapshots(ROOM).last(), Some(&0), "with a list one goes on from the version");
}

/// Several processes, for one may have 20,000 files open at most.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_join_a_channel_that_all_of_them_watch_in_two_hundred_frames_each_and_have_the_occupancy_soon_after()
 {
    let (storm, all) = (Storm::gather(4, 10_000, &[]).await, everybody(10_000));
    let right = |seen: &Seen| seen.users == 10_000 && seen.mode == "occupancy";
    let report = storm.break_loose(10_000, Duration::ZERO, right).await;
    assert!(report.most() <= 200, "{} frames", report.most());
    assert!(report.seen.iter().all(|seen| seen.names.is_none()), "nobody has a list any more");
    // Two seconds where nothing else runs; here four processes and ten thousand clients share what there is.
    assert!(report.converging <= Duration::from_secs(10), "right {:?} after the last join", report.converging);
    for instance in &storm.instances {
        assert_eq!(storm.pages(&instance.rest()).await, all);
    }
    // The native door has the pages too.
    let asks = Client::hello_as(&storm.instances[3].url(), "late").await;
    let (mut users, mut get) = (Vec::new(), json!({"op": "get", "channel": ROOM, "members": true, "limit": 1_000}));
    loop {
        let page = asks.op(get.clone()).await.unwrap();
        users.extend(users_of(&page));
        if page["next"].is_null() {
            break;
        }
        get["cursor"] = page["next"].clone();
    }
    assert_eq!(Names::of(users.iter().map(String::as_str)), all);
}
