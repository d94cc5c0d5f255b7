//! Everybody comes at once to a channel that all of them watch: how many frames that is to each, and whether all is right at the end.

mod harness;

use std::time::Duration;

use futures_util::{StreamExt as _, future::join_all, stream};
use harness::{Client, DEADLINE, Instance, Names, Onlooker, Redis, Rest, Seen, holds_within, segment};
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
