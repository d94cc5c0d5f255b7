//! Watching people and patterns over the memory store, in time that is paused.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    core::{
        Cause, Command, Core, PatternDelivery, PatternWatch, Reply, Session, UserWatch,
        mirrors::LINGER,
        rigged::Rigged,
        simulation,
        tests::{nobody, settings},
    },
    domain::{
        level::Level,
        member::Reason,
        name::{ChannelName, ConnectionId, RosterKey, UserName},
        partition::Batch,
        pattern::Pattern,
        person::{Choice, Profile, Record},
        roster::{Ask, Entry},
        time::wall_now_ms,
    },
    metrics::Metrics,
    store::Store as _,
};

fn user(name: &str) -> UserName {
    UserName::parse(name).unwrap()
}

fn start() -> Arc<Core> {
    start_over().0
}

fn start_over() -> (Arc<Core>, Arc<Rigged>) {
    let (store, feed) = Rigged::open("me");
    let store = Arc::new(store);
    (Core::start(store.clone(), feed, settings(), Metrics::new()), store)
}

async fn hello(core: &Arc<Core>, name: &str) -> Session {
    Session::open(core, simulation::hello(Some(&user(name)), None)).await.unwrap().0
}

/// Long enough for everything to be read and told.
async fn a_moment() {
    sleep(Duration::from_millis(500)).await;
}

async fn choose(session: &mut Session, status: Option<Choice>) {
    let command = Command::Status { status, text: None, until: None };
    session.execute(command, &nobody()).await.unwrap();
}

/// All that waits, as names with whether they are online, and the causes of lists.
fn told(watch: &UserWatch) -> (Vec<(String, bool)>, Vec<Option<Cause>>) {
    let (mut users, mut lists) = (Vec::new(), Vec::new());
    while let Some(frame) = watch.deliver() {
        users.extend(frame.seen.iter().map(|seen| (seen.user.to_string(), seen.is_online())));
        lists.extend(frame.part.map(|part| part.cause));
    }
    (users, lists)
}

#[tokio::test(start_paused = true)]
async fn who_reads_late_is_told_the_latest_of_each_user_once() {
    let core = start();
    let watcher = hello(&core, "watcher").await;
    let mut ann = hello(&core, "ann").await;
    let watch = watcher.user_watch(&nobody());
    assert_eq!(watch.add(&[user("ann"), user("ben")], 2).unwrap(), 2);
    assert!(watch.deliver().is_none(), "nothing is known yet");
    a_moment().await;
    assert_eq!(told(&watch).0, [("ann".to_owned(), true), ("ben".to_owned(), false)]);
    for status in [Choice::Busy, Choice::Away, Choice::Idle] {
        choose(&mut ann, Some(status)).await;
        a_moment().await;
    }
    let frame = watch.deliver().unwrap();
    assert_eq!((frame.seen.len(), frame.seen[0].view.status), (1, Some(Choice::Idle)));
    // There and back again is told where it was read in between, and then it is what it was.
    choose(&mut ann, Some(Choice::Busy)).await;
    choose(&mut ann, Some(Choice::Idle)).await;
    a_moment().await;
    assert!(told(&watch).0.len() <= 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_watch_begins_with_comes_together_and_goes_with_who_is_taken_out() {
    let core = start();
    let watcher = hello(&core, "watcher").await;
    let watch = watcher.user_watch(&nobody());
    watch.add(&[user("ann"), user("ben")], 9).unwrap();
    a_moment().await;
    told(&watch);
    // One is known already, the other is not: both wait.
    let second = hello(&core, "second").await.user_watch(&nobody());
    second.add(&[user("ann"), user("zoe")], 9).unwrap();
    assert!(second.deliver().is_none());
    assert_eq!(second.remove(&[user("zoe")]), 1);
    assert_eq!(told(&second).0, [("ann".to_owned(), false)], "nobody else is waited for");
    second.add(&[user("mia")], 9).unwrap();
    assert_eq!(second.remove(&[user("mia"), user("ann")]), 0);
    a_moment().await;
    assert!(second.deliver().is_none());
    drop((watch, second));
    sleep(Duration::from_secs(11)).await;
    a_moment().await;
    assert_eq!(core.people.len(), 0, "nobody is kept for nobody");
}

/// In time as it is: a choice ends by that of the wall.
#[tokio::test]
async fn what_somebody_has_chosen_ends_with_its_time_though_no_instance_remembers_them() {
    let (core, store) = start_over();
    let watcher = hello(&core, "watcher").await;
    let watch = watcher.user_watch(&nobody());
    let until = Some(wall_now_ms() + 500);
    let profile = Profile { status: Some(Choice::Away), text: Some("back soon".into()), until, state: None };
    let ask = Ask::Person { record: Record::after(None, &profile) };
    let entry = Entry { roster: RosterKey::User(user("ann")), connection: ConnectionId::from_stored(""), ask };
    let standing = core.pulses[0].standing().unwrap();
    let (epoch, link) = (standing.beat.epoch, standing.link);
    let batch = Batch { generation: standing.generation, link, epoch, entries: vec![entry] };
    store.memory.write(0, &batch).await.unwrap().unwrap();
    watch.add(&[user("ann")], 9).unwrap();
    let text = async || {
        for _ in 0..300 {
            sleep(Duration::from_millis(10)).await;
            if let Some(frame) = watch.deliver() {
                return frame.seen[0].view.text.clone();
            }
        }
        panic!("nothing is told");
    };
    assert_eq!(text().await.as_deref(), Some("back soon"));
    assert_eq!(text().await, None);
    assert!(Some(wall_now_ms()) >= until);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_invisible_is_told_the_truth_of_themselves_from_the_first() {
    let core = start();
    let mut ann = hello(&core, "ann").await;
    choose(&mut ann, Some(Choice::Invisible)).await;
    ann.end(Some(Reason::Left));
    let watcher = hello(&core, "watcher").await;
    let watch = watcher.user_watch(&nobody());
    watch.add(&[user("ann")], 9).unwrap();
    a_moment().await;
    assert_eq!(told(&watch).0, [("ann".to_owned(), false)]);
    let ann = hello(&core, "ann").await;
    let own = ann.user_watch(&nobody());
    own.add(&[user("ann")], 9).unwrap();
    a_moment().await;
    let frame = own.deliver().unwrap();
    assert_eq!((frame.seen.len(), frame.seen[0].view.status), (1, Some(Choice::Invisible)));
    assert!(own.deliver().is_none() && watch.deliver().is_none());
}

#[tokio::test(start_paused = true)]
async fn who_watches_everybody_and_is_further_behind_than_is_remembered_gets_the_list_again() {
    let core = start();
    let watcher = hello(&core, "watcher").await;
    let watch = watcher.user_watch(&nobody());
    assert!(watch.watch_all() && !watch.watch_all());
    a_moment().await;
    assert_eq!(told(&watch), (vec![("watcher".to_owned(), true)], vec![None]));
    let guests = async |count: usize| {
        for n in 0..count {
            hello(&core, &format!("guest-{n:03}")).await.end(Some(Reason::Left));
            a_moment().await;
        }
    };
    guests(super::everybody::REMEMBERED - 2).await;
    let (users, lists) = told(&watch);
    assert_eq!((users.len(), lists.len()), (super::everybody::REMEMBERED - 2, 0), "each is told to have gone");
    assert!(users.iter().all(|(_, is_online)| !is_online));
    guests(super::everybody::REMEMBERED + 5).await;
    assert_eq!(told(&watch), (vec![("watcher".to_owned(), true)], vec![Some(Cause::Slow)]));
    guests(1).await;
    assert_eq!(told(&watch), (vec![("guest-000".to_owned(), false)], vec![]));
}

#[tokio::test(start_paused = true)]
async fn when_nobody_watches_everybody_any_more_all_go_after_one_wait_but_for_those_who_are_watched_by_name() {
    let core = start();
    let watcher = hello(&core, "watcher").await;
    let mut online = Vec::new();
    for n in 0..5 {
        online.push(hello(&core, &format!("guest-{n}")).await);
    }
    let (all, by_name) = (watcher.user_watch(&nobody()), watcher.user_watch(&nobody()));
    assert!(all.watch_all());
    by_name.add(&[user("guest-0")], 9).unwrap();
    a_moment().await;
    assert_eq!((told(&all).0.len(), told(&by_name).0.len(), core.people.len()), (6, 1, 6));
    assert!(all.unwatch_all() && !all.unwatch_all());
    sleep(LINGER - Duration::from_secs(1)).await;
    assert_eq!(core.people.len(), 6, "somebody may be back soon");
    sleep(Duration::from_secs(1)).await;
    a_moment().await;
    assert_eq!(core.people.len(), 1, "nobody is kept for nobody");
    choose(&mut online[0], Some(Choice::Busy)).await;
    a_moment().await;
    assert_eq!(told(&by_name).0, [("guest-0".to_owned(), true)], "whoever is watched by name still is");
    // Who comes back begins anew.
    assert!(all.watch_all());
    a_moment().await;
    assert_eq!((told(&all).0.len(), core.people.len()), (6, 6));
    drop((all, by_name));
    sleep(LINGER).await;
    a_moment().await;
    assert_eq!(core.people.len(), 0);
}

async fn watch_rooms(session: &mut Session) -> PatternWatch {
    let pattern = Pattern::parse("room:*").unwrap();
    match session.execute(Command::WatchPattern { pattern, level: Level::Users }, &nobody()).await.unwrap() {
        Reply::WatchingPattern(watch) => watch,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn who_watches_a_pattern_and_falls_out_of_the_ring_gets_the_whole_and_not_too_often() {
    let core = start();
    let mut ann = hello(&core, "ann").await;
    let channel = ChannelName::parse("room:1").unwrap();
    let join = Command::Join {
        channel: channel.clone(),
        state: Default::default(),
        watch: None,
        grace_ms: None,
        on_leave: Default::default(),
    };
    ann.execute(join, &nobody()).await.unwrap();
    let mut watcher = hello(&core, "watcher").await;
    let mut watch = watch_rooms(&mut watcher).await;
    a_moment().await;
    let Some(PatternDelivery::Channels(whole, None)) = watch.deliver() else { panic!() };
    assert_eq!(whole.channels.len(), 1);
    let mut change = async |count: u64| {
        for n in 0..count {
            let patch = serde_json::json!({"n": n}).as_object().cloned().unwrap();
            ann.execute(Command::Update { channel: channel.clone(), patch }, &nobody()).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
        a_moment().await;
    };
    change(3).await;
    let mut versions = Vec::new();
    while let Some(PatternDelivery::Frame(told)) = watch.deliver() {
        versions.push((told.frame.from.number, told.frame.to.number));
    }
    assert_eq!(versions, [(1, 2), (2, 3), (3, 4)]);
    change(1_100).await;
    let Some(PatternDelivery::Channels(whole, Some(Cause::Slow))) = watch.deliver() else { panic!() };
    assert_eq!(whole.channels[0].1.number, 1_104);
    assert!(watch.deliver().is_none());
    // So slow again before the last list is old: there is none until then.
    let long = "x".repeat(3_900);
    for n in 0..300 {
        let patch = serde_json::json!({"n": n, "long": long}).as_object().cloned().unwrap();
        ann.execute(Command::Update { channel: channel.clone(), patch }, &nobody()).await.unwrap();
        sleep(Duration::from_millis(11)).await;
    }
    assert!(watch.deliver().is_none());
    sleep(Duration::from_secs(5)).await;
    let Some(PatternDelivery::Channels(whole, Some(Cause::Slow))) = watch.deliver() else { panic!() };
    assert_eq!(whole.channels[0].1.number, 1_404);
    // Whoever begins then has the same list, and both go on from it.
    let mut second = watch_rooms(&mut watcher).await;
    let Some(PatternDelivery::Channels(same, None)) = second.deliver() else { panic!() };
    assert!(Arc::ptr_eq(&whole, &same));
    let patch = serde_json::json!({"n": "last"}).as_object().cloned().unwrap();
    ann.execute(Command::Update { channel: channel.clone(), patch }, &nobody()).await.unwrap();
    a_moment().await;
    for watch in [&mut watch, &mut second] {
        let Some(PatternDelivery::Frame(told)) = watch.deliver() else { panic!() };
        assert_eq!((told.frame.from.number, told.frame.to.number), (1_404, 1_405));
    }
}
