//! The core over a store with faults, in time that is paused.

use std::sync::atomic::Ordering;

use super::{
    rigged::{Rigged, TERMS},
    simulation::{Line, Log, hello},
    *,
};
use crate::{
    domain::{
        member::Reason,
        name::{ChannelName, ConnectionId, RosterKey, UserName},
        partition::{Batch, Renewal},
        principal::Capabilities,
        roster::{Ask, Body, Entry, Generation, Keep, Stay},
        settings::{Limits, Presence},
        version::Epoch,
    },
    store::memory::{Memory, MemoryFeed},
};

pub(super) fn settings() -> Settings {
    Settings {
        instance: "me".into(),
        version: "test".into(),
        presence: Presence {
            ping_ms: 25_000,
            pong_timeout_ms: 10_000,
            grace_ms: 15_000,
            instance_lease_ms: 10_000,
            instance_renew_ms: 3_000,
            settle_ms: 7_000,
            idle_after_ms: 60_000,
            away_after_ms: 300_000,
            typing_ms: 3_000,
            last_seen_days: 30,
            net_above: 50_000,
            occupancy_above: 5_000_000,
            audit_ms: 300_000,
        },
        limits: Limits {
            frame_bytes: 65_536,
            state_bytes: 4_096,
            channels_per_connection: 128,
            user_state_bytes: 1_024,
            watched_users: 2_000,
            watched_patterns: 16,
            pattern_channels: 10_000,
            signal_bytes: 1_024,
            signals_per_second: 10,
            operations_per_second: 50,
            connections_per_user: 32,
            connections_per_address: 1_000,
            members_per_channel: 100_000,
            revocations: 10_000,
        },
        namespaces: Vec::new(),
        revocation_ms: 86_400_000,
        default_can: Arc::new(Capabilities::all()),
    }
}

fn user() -> UserName {
    UserName::parse("ann").unwrap()
}

fn channel() -> ChannelName {
    ChannelName::parse("a").unwrap()
}

struct Nobody;

impl Wake for Nobody {
    fn wake(&self, _: u64) {}
}

pub(super) fn nobody() -> Arc<dyn Wake> {
    Arc::new(Nobody)
}

struct Scene {
    store: Arc<Rigged>,
    core: Arc<Core>,
}

impl Scene {
    fn over((store, feed): (Rigged, Arc<MemoryFeed>)) -> Self {
        let store = Arc::new(store);
        let core = Core::start(store.clone(), feed, settings(), Metrics::new());
        Self { store, core }
    }

    async fn hello(&self, resume: Option<ResumeClaim>) -> Result<(Session, Welcome), HelloError> {
        Session::open(&self.core, hello(Some(&user()), resume)).await
    }

    async fn joined(&self) -> (Session, Welcome) {
        let (mut session, welcome) = self.hello(None).await.unwrap();
        join(&mut session).await.unwrap();
        (session, welcome)
    }

    async fn stay(&self, connection: &ConnectionId) -> Option<Stay> {
        let key = (RosterKey::Channel(channel()), connection.clone());
        let rows = self.store.memory.rows(&[key]).await.unwrap();
        rows.into_iter().flatten().next().map(|row| row.stay)
    }

    async fn is_online(&self) -> bool {
        self.core.users(&[user()]).await.unwrap()[0].view.status.is_some()
    }
}

async fn join(session: &mut Session) -> Result<Reply, Error> {
    let join = Command::Join {
        channel: channel(),
        state: Default::default(),
        watch: None,
        grace_ms: None,
        on_leave: Default::default(),
    };
    session.execute(join, &nobody()).await
}

/// A connection that an instance holds in a channel which will not be heard of again.
async fn held_by_a_dead_instance(store: &Rigged) -> ConnectionId {
    let (batch, connection) = last_batch(store).await;
    store.memory.write(0, &batch).await.unwrap().unwrap();
    connection
}

/// An instance that has registered just now, and its last batch, which is under way: a connection that it holds in a channel.
async fn last_batch(store: &Rigged) -> (Batch, ConnectionId) {
    let dead = Generation { instance: "dead".into(), number: 1 };
    let renewal =
        Renewal { generation: dead.clone(), link: 1, version: "test".into(), known: None, done: true, bye: false };
    let beat = store.memory.renew(0, renewal).await.unwrap().unwrap().beat;
    let connection = ConnectionId::from_bytes([1; 16]);
    let body = Body {
        user: user(),
        valid: 0,
        grace_ms: 15_000,
        since: 1,
        changed: 0,
        private: "{}".into(),
        payload: r#"{"status":"online","state":{},"since":1}"#.into(),
    };
    let entries = [RosterKey::User(user()), RosterKey::Channel(channel())].map(|roster| {
        let ask = Ask::Present { take: 1, fresh: true, limit: 0, keep: Keep::Held, body: body.clone() };
        Entry { roster, connection: connection.clone(), ask }
    });
    (Batch { generation: dead, link: 1, epoch: beat.epoch, entries: entries.into() }, connection)
}

/// A batch arrives when whoever sent it is dead and forgotten. Returns what is wrong then.
pub(super) fn a_batch_comes_too_late() -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime can be built").block_on(async {
        let scene = Scene::over(Rigged::open("me"));
        let (batch, connection) = last_batch(&scene.store).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let written = scene.store.memory.write(0, &batch).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let stay = scene.stay(&connection).await;
        stay.map(|stay| format!("{written:?}, and a minute later {connection} is still {stay:?}")).into_iter().collect()
    })
}

#[tokio::test(start_paused = true)]
async fn who_was_held_by_a_dead_instance_leaves_though_a_page_of_its_list_is_empty() {
    let (mut store, feed) = Rigged::open("me");
    store.empty_pages = true;
    let connection = held_by_a_dead_instance(&store).await;
    let scene = Scene::over((store, feed));
    tokio::time::sleep(Duration::from_secs(17)).await;
    assert!(scene.stay(&connection).await.is_some(), "its grace goes on");
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(scene.stay(&connection).await, None);
    assert!(!scene.is_online().await);
}

#[tokio::test(start_paused = true)]
async fn an_outage_in_which_clients_try_again_and_again_leaves_nothing_behind() {
    let scene = Scene::over(Rigged::open("me"));
    let (session, welcome) = scene.joined().await;
    scene.store.away.store(usize::MAX, Ordering::Relaxed);
    // The next renewal finds out.
    tokio::time::sleep(Duration::from_secs(4)).await;
    for _ in 0..5 {
        assert!(matches!(scene.hello(None).await, Err(HelloError::Other(error)) if error.code == Code::Unavailable));
    }
    assert_eq!(scene.core.ledger.len(), 1, "only who was there before");
    scene.store.away.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Presence time stood still: nobody's lease has ended.
    assert!(matches!(scene.stay(&welcome.connection).await, Some(Stay::Held(held)) if held.number == 1));
    session.end(Some(Reason::Left));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!scene.is_online().await);
    assert_eq!(scene.core.ledger.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reborn_instance_gets_back_whom_it_held_and_their_resume_tokens_still_hold() {
    let scene = Scene::over(Rigged::open("me"));
    let (session, welcome) = scene.joined().await;
    // Somebody else keeps the time while this one is deaf, so that its lease ends.
    let other = Generation { instance: "other".into(), number: 1 };
    scene.store.deaf.store(usize::MAX, Ordering::Relaxed);
    let mut known: Option<Epoch> = None;
    for _ in 0..6 {
        let renewal = Renewal {
            generation: other.clone(),
            link: 1,
            version: "test".into(),
            known: known.clone(),
            done: true,
            bye: false,
        };
        known = Some(scene.store.memory.renew(0, renewal).await.unwrap().unwrap().beat.epoch);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    scene.store.deaf.store(0, Ordering::Relaxed);
    let notices = session.notices();
    let proof = tokio::time::timeout(Duration::from_secs(5), notices.next()).await;
    assert_eq!(proof, Ok(Notice::Prove));
    scene.core.prove(session.connection());
    let mut session = session;
    session.confirm();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(scene.stay(&welcome.connection).await, Some(Stay::Held(held)) if held.number == 2));
    drop(session);
    let claim = ResumeClaim { user: user(), connection: welcome.connection.clone(), take: welcome.take };
    let (_session, again) = scene.hello(Some(claim)).await.unwrap();
    assert!(again.resumed);
    assert_eq!(again.channels, [channel()]);
}

#[tokio::test(start_paused = true)]
async fn stopping_writes_every_end_gives_the_lease_back_and_does_not_register_again() {
    let scene = Scene::over(Rigged::open("me"));
    let (broken, welcome) = scene.joined().await;
    let (left, bye) = scene.joined().await;
    broken.end(None);
    left.end(Some(Reason::Left));
    scene.core.stop(Duration::from_secs(5)).await;
    assert!(matches!(scene.stay(&welcome.connection).await, Some(Stay::Ending { .. })));
    assert_eq!(scene.stay(&bye.connection).await, None);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(scene.store.memory.totals().await.unwrap().instances.is_empty());
}

async fn leave(session: &mut Session) -> Result<Reply, Error> {
    session.execute(Command::Leave { channel: channel() }, &nobody()).await
}

#[tokio::test(start_paused = true)]
async fn who_joins_again_after_a_leave_whose_answer_was_lost_is_there() {
    let scene = Scene::over(Rigged::open("me"));
    let (mut session, welcome) = scene.joined().await;
    // The leave is carried out, and then nothing is heard for a while.
    scene.store.unanswered.store(1, Ordering::Relaxed);
    scene.store.deaf.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(leave(&mut session).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(scene.stay(&welcome.connection).await, None);
    let (joined, ()) = tokio::join!(join(&mut session), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.store.deaf.store(0, Ordering::Relaxed);
    });
    assert!(joined.is_ok(), "{joined:?}");
    assert!(matches!(scene.stay(&welcome.connection).await, Some(Stay::Held(_))));
}

#[tokio::test(start_paused = true)]
async fn a_resume_whose_answer_was_lost_keeps_nobody_there_who_does_not_come_again() {
    let scene = Scene::over(Rigged::open("me"));
    let (session, welcome) = scene.joined().await;
    drop(session);
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.store.unanswered.store(1, Ordering::Relaxed);
    let claim = ResumeClaim { user: user(), connection: welcome.connection.clone(), take: welcome.take };
    assert!(matches!(scene.hello(Some(claim)).await, Err(HelloError::Other(error)) if error.code == Code::Unavailable));
    assert!(scene.is_online().await);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!scene.is_online().await);
    assert_eq!(scene.stay(&welcome.connection).await, None);
}

fn apart() -> (Rigged, Arc<MemoryFeed>) {
    let (mut store, feed) = Rigged::open("me");
    store.apart = true;
    (store, feed)
}

#[tokio::test(start_paused = true)]
async fn a_resume_waits_until_the_partitions_of_its_channels_have_them_again() {
    let scene = Scene::over(apart());
    let (session, welcome) = scene.joined().await;
    drop(session);
    *scene.store.emptied.lock().unwrap() = Some(1);
    // The next renewal tells that the channels' partition settles.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let claim = ResumeClaim { user: user(), connection: welcome.connection.clone(), take: welcome.take };
    let (again, ()) = tokio::join!(scene.hello(Some(claim)), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        *scene.store.emptied.lock().unwrap() = None;
    });
    let (_session, again) = again.unwrap();
    assert!(again.resumed);
    assert_eq!(again.channels, [channel()]);
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_partitions_that_answer_can_be_asked_for_while_another_is_away() {
    let scene = Scene::over(apart());
    let (_session, _) = scene.joined().await;
    assert_eq!(scene.core.readiness(), Readiness::Ready);
    *scene.store.dark.lock().unwrap() = Some(0);
    // The next renewal finds out.
    while scene.core.readiness() == Readiness::Ready {
        scene.core.largest("").await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(scene.core.readiness(), Readiness::Degraded);
    let listing = scene.core.listing(&channel()).await.unwrap();
    assert!(!listing.stale && listing.members.len() == 1);
    assert!(!scene.core.counts(&[channel()]).await.unwrap()[0].stale);
    assert_eq!(scene.core.users(&[user()]).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(scene.core.totals().await.unwrap_err().code, Code::Unavailable, "that is over all of them");
    assert_eq!(scene.core.largest("").await.unwrap_err().code, Code::Unavailable, "whatever was found just before");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_refused_leaves_nobody_online() {
    let scene = Scene::over(apart());
    scene.hello(None).await.unwrap().0.end(Some(Reason::Left));
    *scene.store.dark.lock().unwrap() = Some(1);
    let refused = scene.core.lease(&channel(), &user(), Default::default(), 3_600_000).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable);
    tokio::time::sleep(Duration::from_millis(100)).await;
    *scene.store.dark.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!scene.is_online().await);
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_is_given_up_at_any_moment_leaves_nobody_behind() {
    let (memory, feed) = Memory::open(TERMS, "me", 30);
    let line = Arc::new(Line::of("me", &Arc::new(Log::new())));
    let scene = Scene::over((Rigged::over(memory, line), feed));
    for soon in (5..145).step_by(7) {
        let (session, welcome) = scene.joined().await;
        session.end(None);
        let claim = ResumeClaim { user: user(), connection: welcome.connection, take: welcome.take };
        drop(tokio::time::timeout(Duration::from_millis(soon), scene.hello(Some(claim))).await);
    }
    // Before the first comparison of what is held with what is known.
    tokio::time::sleep(Duration::from_secs(20)).await;
    for roster in [RosterKey::User(user()), RosterKey::Channel(channel())] {
        let rows = scene.store.memory.read(&roster).await.unwrap().rows;
        assert!(rows.is_empty(), "{roster}: {rows:#?}");
    }
}
