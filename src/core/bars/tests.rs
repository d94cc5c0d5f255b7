//! Who may not come in, over a store with faults, in time that is paused.

use std::sync::atomic::Ordering;

use tokio::time::advance;

use super::*;
use crate::{
    core::{
        Command, HelloError, Notice, Revocation, Session,
        rigged::{Rigged, TERMS},
        simulation::hello,
        tests::{nobody, settings},
    },
    domain::{
        name::{ChannelName, RosterKey},
        partition::Partition,
        roster::Control,
    },
    metrics::Metrics,
};

struct Scene {
    store: Arc<Rigged>,
    core: Arc<Core>,
}

fn user(name: &str) -> UserName {
    UserName::parse(name).unwrap()
}

fn channel() -> ChannelName {
    ChannelName::parse("a").unwrap()
}

fn principal(name: &str) -> Principal {
    hello(Some(&user(name)), None).principal
}

impl Scene {
    fn begin() -> Self {
        let (store, feed) = Rigged::open("me");
        let store = Arc::new(store);
        let core = Core::start(store.clone(), feed, settings(), Metrics::new());
        Self { store, core }
    }

    async fn hello(&self, name: &str) -> Result<Session, HelloError> {
        Session::open(&self.core, hello(Some(&user(name)), None)).await.map(|(session, _)| session)
    }

    /// What the store has.
    async fn stored(&self) -> Vec<Bar> {
        self.store.memory.bar(&Barring { page: (0, 1_000), ..Barring::default() }).await.unwrap().bars
    }

    async fn turns(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
}

fn ban(name: &str, remaining_ms: u64) -> Bar {
    Bar { whom: Whom::User(user(name)), until_ms: 0, remaining_ms }
}

/// What a session hears next.
async fn told(session: &Session) -> Notice {
    let notices = session.notices();
    timeout(Duration::from_secs(60), notices.next()).await.expect("it is told something")
}

async fn pass(ms: u64) {
    for _ in 0..ms / 500 {
        advance(Duration::from_millis(500)).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_comes_in_before_it_is_known_who_may_not() {
    let (store, feed) = Rigged::open("me");
    store.memory.bar(&Barring { bars: vec![ban("eve", 60_000)], most: 9, ..Barring::default() }).await.unwrap();
    store.away.store(3, Ordering::Relaxed);
    let store = Arc::new(store);
    let core = Core::start(store.clone(), feed, settings(), Metrics::new());
    assert_eq!(core.may_enter(&principal("eve")), Err(Barred::Unknown));
    assert_eq!(core.readiness(), crate::core::Readiness::Starting);
    let scene = Scene { store, core };
    // It waits, and then it is refused.
    assert!(matches!(scene.hello("eve").await, Err(HelloError::Barred(Barred::Banned { .. }))));
    assert!(scene.hello("ann").await.is_ok());
    scene.store.away.store(usize::MAX, Ordering::Relaxed);
    let (store, feed) = Rigged::open("another");
    store.away.store(usize::MAX, Ordering::Relaxed);
    let core = Core::start(Arc::new(store), feed, settings(), Metrics::new());
    let hello = hello(Some(&user("ann")), None);
    let refused = Session::open(&core, hello).await.err();
    assert!(matches!(refused, Some(HelloError::Other(error)) if error.code == Code::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn a_ban_is_counted_down_here_while_the_store_is_away() {
    let scene = Scene::begin();
    let session = scene.hello("ann").await.unwrap();
    scene.core.disconnect(&user("ann"), "enough", 30_000).await.unwrap();
    assert_eq!(told(&session).await, Notice::PutOut(Out::Banned, "enough".into()));
    drop(session);
    scene.store.away.store(usize::MAX, Ordering::Relaxed);
    pass(29_500).await;
    let remaining_ms = match scene.core.may_enter(&principal("ann")) {
        Err(Barred::Banned { remaining_ms }) => remaining_ms,
        other => panic!("{other:?}"),
    };
    assert!((1..=500).contains(&remaining_ms), "{remaining_ms}");
    pass(500).await;
    assert_eq!(scene.core.may_enter(&principal("ann")), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_has_lost_is_brought_back_with_what_remains() {
    let scene = Scene::begin();
    scene.hello("ann").await.unwrap();
    for number in 0..250 {
        scene.core.bar(ban(&format!("user{number}"), 600_000), &"".into()).await.unwrap();
    }
    scene.core.revoke(Revocation::TokensOf(user("ann"))).await.unwrap();
    let until = scene.stored().await.iter().map(|bar| bar.until_ms).max();
    scene.core.bar(ban("short", 5_000), &"".into()).await.unwrap();
    pass(60_000).await;
    scene.store.memory.restart(Partition::new(TERMS));
    assert_eq!(scene.stored().await, []);
    pass(5_000).await;
    let stored = scene.stored().await;
    assert_eq!(stored.len(), 251, "all but the one that was over");
    assert_eq!(stored.iter().map(|bar| bar.until_ms).max(), until);
    assert!(stored.iter().skip(1).all(|bar| (530_000..=540_000).contains(&bar.remaining_ms)), "{stored:?}");
    // An older copy is no different: what it never heard of is brought back too.
    let copy = scene.store.memory.copy();
    scene.core.bar(ban("late", 600_000), &"".into()).await.unwrap();
    scene.store.memory.restart(copy);
    pass(5_000).await;
    assert_eq!(scene.stored().await.len(), 252);
}

#[tokio::test(start_paused = true)]
async fn what_was_told_and_not_heard_is_read_when_the_feed_is_back() {
    let scene = Scene::begin();
    let session = scene.hello("ann").await.unwrap();
    scene.turns().await;
    // More at once than the feed has room for: what comes last is not heard.
    let memory = &scene.store.memory;
    let noise = Control::Join { connections: Vec::new(), channel: channel(), state: None };
    for _ in 0..10_000 {
        memory.tell(SCHEMA, None, &noise).await.unwrap();
    }
    memory.bar(&Barring { bars: vec![ban("ann", 60_000)], most: 9, ..Barring::default() }).await.unwrap();
    assert_eq!(scene.core.may_enter(&principal("ann")), Ok(()));
    assert_eq!(told(&session).await, Notice::PutOut(Out::Banned, "".into()));
    assert!(scene.core.may_enter(&principal("ann")).is_err());
}

#[tokio::test(start_paused = true)]
async fn who_joins_again_while_being_told_of_having_left_is_there() {
    let scene = Scene::begin();
    let mut session = scene.hello("ann").await.unwrap();
    let join = || Command::Join {
        channel: channel(),
        state: Default::default(),
        watch: None,
        grace_ms: None,
        on_leave: Default::default(),
    };
    session.execute(join(), &nobody()).await.unwrap();
    assert_eq!(scene.core.clear(&channel()).await.unwrap(), 1);
    // The notice waits while an operation has the session.
    session.execute(join(), &nobody()).await.unwrap();
    let Notice::Left(left, _) = told(&session).await else { panic!("it was taken out") };
    assert!(!session.forget(&left), "it has joined since");
    let patch = Command::Update { channel: channel(), patch: Default::default() };
    session.execute(patch.clone(), &nobody()).await.unwrap();
    assert_eq!(scene.core.clear(&channel()).await.unwrap(), 1);
    let Notice::Left(left, _) = told(&session).await else { panic!("it was taken out") };
    assert!(session.forget(&left));
    assert_eq!(session.execute(patch, &nobody()).await.unwrap_err().code, Code::Conflict);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_is_forgotten_and_one_that_was_refused_too() {
    let scene = Scene::begin();
    let sessions = [scene.hello("ann").await.unwrap(), scene.hello("ben").await.unwrap()];
    scene.core.bar(ban("eve", 60_000), &"".into()).await.unwrap();
    assert!(scene.hello("eve").await.is_err());
    assert_eq!(scene.core.bars.lock().callers.len(), 2);
    let [ann, ben] = sessions;
    ann.end(None);
    drop(ben);
    assert!(scene.core.bars.lock().callers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn whoever_is_in_a_grace_is_taken_away_too_and_does_not_come_back_in_a_new_epoch() {
    let scene = Scene::begin();
    let mut session = scene.hello("ann").await.unwrap();
    let join = Command::Join {
        channel: channel(),
        state: Default::default(),
        watch: None,
        grace_ms: None,
        on_leave: Default::default(),
    };
    session.execute(join, &nobody()).await.unwrap();
    let connection = session.connection().clone();
    drop(session);
    pass(500).await;
    assert_eq!(scene.core.disconnect(&user("ann"), "", 0).await.unwrap(), 1);
    let keys = [RosterKey::User(user("ann")), RosterKey::Channel(channel())].map(|roster| (roster, connection.clone()));
    assert_eq!(scene.store.memory.rows(&keys).await.unwrap(), [None, None]);
    scene.store.memory.restart(Partition::new(TERMS));
    pass(5_000).await;
    assert_eq!(scene.store.memory.rows(&keys).await.unwrap(), [None, None]);
}
