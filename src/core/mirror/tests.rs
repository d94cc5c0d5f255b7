//! A mirror against what a feed tells and what a reading finds.

mod asides;

use super::*;
use super::{
    pace::HOLD,
    state::{BEGUN_LEAST, EXPECTED, RING},
};
use crate::domain::{
    member::{Occupancy, Reason},
    name::{ChannelName, ConnectionId, UserName},
    roster::{Change, Row, Stay},
};

struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(&self, _: u64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A mirror, and watchers who check that every frame follows on the one before.
struct Scene {
    mirror: Mirror,
    woken: Arc<Woken>,
    wake: Arc<dyn Wake>,
}

struct Watcher {
    cursor: Cursor,
    at: Option<Version>,
    /// How much is there, as the frames tell.
    occupancy: Occupancy,
    /// The copy of which it has not read all pages.
    reads: Option<Arc<Copy>>,
}

fn key() -> RosterKey {
    RosterKey::Channel(ChannelName::parse("a").unwrap())
}

fn id(n: u16) -> ConnectionId {
    let [high, low] = n.to_be_bytes();
    ConnectionId::from_bytes([high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

fn payload(state: u64) -> Arc<str> {
    format!(r#"{{"status":"online","state":{{"n":{state}}},"since":1}}"#).into()
}

fn user(n: u16) -> UserName {
    UserName::parse(&format!("user{n}")).unwrap()
}

fn set(n: u16, state: u64) -> Change {
    Change::Set { connection: id(n), user: user(n), since: 1, changed: state, payload: payload(state) }
}

fn gone(n: u16) -> Change {
    Change::Remove { connection: id(n), reason: Reason::Left }
}

fn version(epoch: &str, number: u64) -> Version {
    Version { epoch: Epoch::new(epoch), number }
}

fn published(epoch: &str, from: u64, changes: Vec<Change>) -> Published {
    let to = from + changes.len() as u64;
    let occupancy = Occupancy::default();
    Published { roster: key(), epoch: Epoch::new(epoch), from, to, starts: false, occupancy, changes }
}

fn reading(epoch: &str, number: Option<u64>, rows: &[(u16, u64)]) -> Reading {
    let rows = rows.iter().map(|(n, state)| {
        let row = Row {
            user: user(*n),
            take: 1,
            valid: 0,
            stay: Stay::Ending { reason: Reason::Timeout, by: "me".into() },
            epoch: Epoch::new(epoch),
            grace_ms: 0,
            since: 1,
            changed: *state,
            private: "{}".into(),
            payload: payload(*state),
        };
        (id(*n), row)
    });
    Reading { epoch: Epoch::new(epoch), settling: false, number, rows: rows.collect() }
}

fn settling(epoch: &str, number: Option<u64>, rows: &[(u16, u64)]) -> Reading {
    Reading { settling: true, ..reading(epoch, number, rows) }
}

impl Scene {
    fn new() -> Self {
        Self::within(Bounds { net_above: 50_000, occupancy_above: 5_000_000 })
    }

    fn within(bounds: Bounds) -> Self {
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let wake: Arc<dyn Wake> = woken.clone();
        Self { mirror: Mirror::new(1, key(), bounds), woken, wake }
    }

    fn read(&self, reading: Reading) -> bool {
        self.mirror.want_reading();
        assert!(self.mirror.begin_reading());
        self.mirror.install(reading)
    }

    fn at(epoch: &str, number: u64, rows: &[(u16, u64)]) -> Self {
        let scene = Self::new();
        assert!(!scene.read(reading(epoch, Some(number), rows)));
        scene
    }

    fn watch(&self, level: Level, least: Option<Version>, since: Option<Version>) -> Watcher {
        self.mirror.attach(level, &self.wake);
        let at = since.clone();
        Watcher { cursor: Cursor::new(level, least, since), at, occupancy: Occupancy::default(), reads: None }
    }

    fn woken(&self) -> bool {
        self.woken.0.swap(0, Ordering::Relaxed) > 0
    }

    fn asks_for_reading(&self) -> bool {
        self.mirror.wants_reading.load(Ordering::Relaxed)
    }

    /// The longest tick later, whatever the mode.
    async fn long_tick(&self) {
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        self.mirror.run_errands();
    }

    /// A tick later what waits is flushed; so that changes are far between, a tick has a tenth of a second at least.
    async fn tick(&self) {
        let tick = self.mirror.lock().tick();
        tokio::time::advance(tick.max(Duration::from_millis(100))).await;
        self.mirror.run_errands();
    }
}

impl Watcher {
    /// What comes next, in a word; the versions must follow on.
    fn next(&mut self, scene: &Scene) -> String {
        let Some(delivery) = scene.mirror.next(&mut self.cursor) else { return "nothing".to_owned() };
        match delivery {
            Delivery::Aside { .. } => panic!("asides come by themselves"),
            Delivery::Snapshot(snapshot) => self.take("", &snapshot),
            Delivery::Copy(copy) => {
                // What its pages show, the first time that somebody asks for them; later ones get the same.
                let describe = |snapshot: &Snapshot| {
                    let mut other = Self {
                        cursor: self.cursor.clone(),
                        at: self.at.clone(),
                        occupancy: self.occupancy,
                        reads: None,
                    };
                    let said = other.take(copy.cause().as_str(), snapshot);
                    vec![said, snapshot.version.epoch.to_string(), snapshot.version.number.to_string()]
                        .into_iter()
                        .map(bytes::Bytes::from)
                        .collect()
                };
                let pages: Vec<String> =
                    copy.pages(describe).iter().map(|page| String::from_utf8(page.to_vec()).unwrap()).collect();
                self.at = Some(version(&pages[1], pages[2].parse().unwrap()));
                self.reads = Some(copy);
                pages[0].clone()
            }
            Delivery::Frame(frame) => {
                assert_eq!(self.at.as_ref(), Some(&frame.from), "a gap");
                assert!(frame.from.epoch != frame.to.epoch || frame.from.number <= frame.to.number, "it leads back");
                self.at = Some(frame.to.clone());
                self.occupancy = frame.occupancy;
                let counts = match &frame.lists {
                    Lists::Users(delta) => (delta.join.len(), delta.update.len(), delta.leave.len()),
                    Lists::Connections(delta) => (delta.join.len(), delta.update.len(), delta.leave.len()),
                    Lists::Occupancy => (0, 0, 0),
                };
                format!("{}-{} +{} ~{} -{}", frame.from.number, frame.to.number, counts.0, counts.1, counts.2)
            }
        }
    }

    fn take(&mut self, cause: &str, snapshot: &Snapshot) -> String {
        if let Some(at) = &self.at {
            assert!(
                at.epoch != snapshot.version.epoch || at.number <= snapshot.version.number,
                "a snapshot leads back: {at:?} to {:?}",
                snapshot.version
            );
        }
        self.at = Some(snapshot.version.clone());
        self.occupancy = snapshot.occupancy;
        let entries = match &snapshot.whole {
            Whole::Users(members) => members.len() as u64,
            Whole::Connections(connections) => connections.len() as u64,
            Whole::Occupancy => snapshot.occupancy.connections,
        };
        assert_eq!(entries, snapshot.occupancy.connections, "everybody here has one connection");
        format!("snapshot {cause} {} of {}", snapshot.version.number, snapshot.occupancy.connections)
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_gets_a_snapshot_and_then_every_change_once() {
    let scene = Scene::at("e", 5, &[(1, 1)]);
    let mut ann = scene.watch(Level::Users, None, None);
    assert_eq!(ann.next(&scene), "snapshot  5 of 1");
    assert_eq!(ann.next(&scene), "nothing");
    scene.mirror.hear(published("e", 5, vec![set(2, 1)]));
    assert!(scene.woken());
    assert_eq!(ann.next(&scene), "5-6 +1 ~0 -0");
    // Told again, it is nothing.
    scene.mirror.hear(published("e", 5, vec![set(2, 1)]));
    scene.tick().await;
    assert_eq!(ann.next(&scene), "nothing");
    assert!(!scene.asks_for_reading());
}

#[tokio::test(start_paused = true)]
async fn a_tick_is_one_frame_and_nets_what_happened_in_it() {
    let scene = Scene::at("e", 0, &[]);
    let mut ann = scene.watch(Level::Users, None, None);
    assert_eq!(ann.next(&scene), "snapshot  0 of 0");
    scene.mirror.hear(published("e", 0, vec![set(1, 1)]));
    assert_eq!(ann.next(&scene), "0-1 +1 ~0 -0");
    for number in 1..9 {
        scene.mirror.hear(published("e", number, vec![set(1, number + 1)]));
    }
    scene.mirror.hear(published("e", 9, vec![set(2, 1), gone(2)]));
    assert_eq!(ann.next(&scene), "nothing");
    scene.tick().await;
    assert!(scene.woken());
    assert_eq!(ann.next(&scene), "1-11 +0 ~1 -0");
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_read_and_watchers_see_the_difference() {
    let scene = Scene::at("e", 1, &[(1, 1)]);
    let mut ann = scene.watch(Level::Users, None, None);
    ann.next(&scene);
    scene.mirror.hear(published("e", 3, vec![set(3, 1)]));
    assert_eq!(ann.next(&scene), "nothing");
    assert!(scene.asks_for_reading());
    assert!(!scene.read(reading("e", Some(4), &[(2, 1), (3, 1)])));
    assert_eq!(ann.next(&scene), "1-4 +2 ~0 -1");
}

#[tokio::test(start_paused = true)]
async fn what_is_heard_during_a_reading_is_applied_after_it() {
    let scene = Scene::new();
    let mut ann = scene.watch(Level::Connections, None, None);
    assert_eq!(ann.next(&scene), "nothing");
    assert!(scene.mirror.begin_reading());
    scene.mirror.hear(published("e", 1, vec![set(1, 1)]));
    scene.mirror.hear(published("e", 2, vec![set(2, 1)]));
    assert!(!scene.mirror.install(reading("e", Some(2), &[(1, 1)])));
    assert!(scene.woken());
    assert_eq!(ann.next(&scene), "snapshot  3 of 2");

    scene.mirror.want_reading();
    assert!(scene.mirror.begin_reading());
    scene.mirror.hear(published("e", 5, vec![set(5, 1)]));
    assert!(scene.mirror.install(reading("e", Some(4), &[(1, 1), (2, 1), (3, 1)])), "one is missing in between");
}

#[tokio::test(start_paused = true)]
async fn a_reading_holds_up_no_frame_that_waits_for_its_tick() {
    let scene = Scene::at("e", 0, &[]);
    let mut ann = scene.watch(Level::Users, None, None);
    ann.next(&scene);
    scene.mirror.hear(published("e", 0, vec![set(1, 1)]));
    scene.mirror.hear(published("e", 1, vec![set(2, 1)]));
    assert_eq!(ann.next(&scene), "0-1 +1 ~0 -0");
    scene.mirror.want_reading();
    assert!(scene.mirror.begin_reading());
    assert_eq!(ann.next(&scene), "1-2 +1 ~0 -0");
}

#[tokio::test(start_paused = true)]
async fn more_than_is_kept_during_a_reading_is_read_again() {
    let scene = Scene::new();
    assert!(scene.mirror.begin_reading());
    for number in 0..=BUFFER as u64 {
        scene.mirror.hear(published("e", number, vec![set(1, number + 1)]));
    }
    assert!(scene.mirror.install(reading("e", Some(0), &[])));
}

#[tokio::test(start_paused = true)]
async fn a_rewound_reading_is_not_believed() {
    let scene = Scene::at("e", 5, &[(1, 1)]);
    assert!(scene.read(reading("e", Some(4), &[])));
    assert_eq!(scene.mirror.version(), Some(version("e", 5)));
}

#[tokio::test(start_paused = true)]
async fn settling_adds_obeys_leaves_and_withholds_removals() {
    let scene = Scene::at("e1", 50, &[(1, 1), (2, 1), (3, 1)]);
    let mut ann = scene.watch(Level::Users, None, None);
    ann.next(&scene);
    scene.mirror.hear(published("e2", 0, vec![set(1, 1)]));
    assert!(scene.asks_for_reading());
    assert!(!scene.read(settling("e2", Some(2), &[(1, 1), (4, 1)])));
    assert!(scene.mirror.is_withheld());
    assert_eq!(ann.next(&scene), "50-2 +1 ~0 -0");
    scene.mirror.hear(published("e2", 2, vec![set(2, 1), gone(2)]));
    scene.tick().await;
    assert_eq!(ann.next(&scene), "2-4 +0 ~0 -1");
    assert!(!scene.mirror.has(&Epoch::new("e2"), false, Some(4)), "settled, it must be read");
    assert!(!scene.read(reading("e2", Some(4), &[(1, 1), (4, 1)])));
    scene.tick().await;
    assert_eq!(ann.next(&scene), "4-4 +0 ~0 -1");
    assert_eq!(ann.at, Some(version("e2", 4)));
    assert_eq!(ann.occupancy.connections, 2);
    assert!(scene.mirror.has(&Epoch::new("e2"), false, Some(4)));
}

/// The same with rows that the epoch has not confirmed: an older copy of the store shows them.
fn with_unconfirmed(mut now: Reading, rows: &[(u16, u64)]) -> Reading {
    now.rows.extend(reading("older", None, rows).rows);
    now
}

#[tokio::test(start_paused = true)]
async fn what_only_an_older_copy_of_the_store_shows_is_no_event() {
    let scene = Scene::at("e1", 50, &[(1, 7), (2, 1)]);
    let mut ann = scene.watch(Level::Users, None, None);
    ann.next(&scene);
    // In the copy the first is as before the last change, and two are there who have left since.
    let copy = [(1, 5), (3, 1), (4, 1)];
    assert!(!scene.read(with_unconfirmed(settling("e2", Some(40), &[(2, 1)]), &copy)));
    scene.tick().await;
    assert_eq!(ann.next(&scene), "nothing");
    assert!(!scene.read(with_unconfirmed(reading("e2", Some(41), &[(1, 7), (2, 1)]), &copy[1..])));
    scene.tick().await;
    assert_eq!(ann.next(&scene), "nothing");
    // Who comes now is shown the same, under a version that means nothing elsewhere.
    let mut ben = scene.watch(Level::Users, None, None);
    assert_eq!(ben.next(&scene), "snapshot  41 of 2");
    assert_ne!(ben.at, Some(version("e2", 41)));
    assert!(!scene.mirror.has(&Epoch::new("e2"), false, Some(41)), "one of them may be taken over silently");
    // One comes back after all, the other ends in its time.
    assert!(!scene.read(with_unconfirmed(reading("e2", Some(41), &[(1, 7), (2, 1), (3, 1)]), &copy[2..])));
    scene.tick().await;
    assert_eq!(ann.next(&scene), "50-41 +0 ~0 -0", "the one who came was told a version");
    let before = ann.at.clone();
    assert_eq!(ann.next(&scene), "41-41 +1 ~0 -0");
    assert_ne!(ann.at, before, "what is different is called differently");
    scene.mirror.hear(published("e2", 41, vec![gone(4)]));
    scene.tick().await;
    assert_eq!(ann.next(&scene), "41-42 +0 ~0 -0");
    assert_eq!(ann.at, Some(version("e2", 42)));
    assert!(scene.mirror.has(&Epoch::new("e2"), false, Some(42)));
}

#[tokio::test(start_paused = true)]
async fn whoever_watched_while_the_epoch_settled_is_not_taken_to_know_what_came_of_it() {
    // This mirror has kept a row that nobody confirms, at the very number at which others have it not.
    let scene = Scene::at("e1", 50, &[(1, 1), (2, 1)]);
    let mut ann = scene.watch(Level::Users, None, None);
    ann.next(&scene);
    assert!(!scene.read(settling("e2", Some(3), &[(1, 1), (3, 1)])));
    ann.next(&scene);
    let since = ann.at.clone();
    // Her socket breaks; she comes back to an instance that has read the settled roster.
    let elsewhere = Scene::at("e2", 3, &[(1, 1), (3, 1)]);
    let mut again = elsewhere.watch(Level::Users, None, since.clone());
    assert_eq!(again.next(&elsewhere), "snapshot  3 of 2");
    // Or to this one.
    assert!(!scene.read(reading("e2", Some(3), &[(1, 1), (3, 1)])));
    scene.tick().await;
    let mut again = scene.watch(Level::Users, None, since);
    assert_ne!(again.next(&scene), "nothing");
    assert_eq!(again.occupancy.connections, 2);
    // Whoever stayed is told.
    ann.next(&scene);
    assert_eq!(ann.occupancy.connections, 2);
    assert_eq!(ann.at, Some(version("e2", 3)));
}

#[tokio::test(start_paused = true)]
async fn settling_that_changes_nothing_tells_nothing() {
    let scene = Scene::at("e1", 50, &[(1, 1)]);
    let mut ann = scene.watch(Level::Users, None, None);
    ann.next(&scene);
    assert!(!scene.read(settling("e2", Some(3), &[(1, 1)])));
    assert!(!scene.read(reading("e2", Some(3), &[(1, 1)])));
    scene.tick().await;
    assert_eq!(ann.next(&scene), "nothing");
    // Who was shown something meanwhile learns the version that it has come to.
    assert!(!scene.read(settling("e3", Some(1), &[(1, 1), (2, 1)])));
    scene.tick().await;
    assert_eq!(ann.next(&scene), "50-1 +1 ~0 -0");
    assert_ne!(ann.at, Some(version("e3", 1)));
    assert!(!scene.read(reading("e3", Some(1), &[(1, 1), (2, 1)])));
    assert_eq!(ann.next(&scene), "1-1 +0 ~0 -0");
    assert_eq!(ann.at, Some(version("e3", 1)));
}

#[tokio::test(start_paused = true)]
async fn a_watcher_without_earlier_state_waits_until_the_epoch_has_settled() {
    let scene = Scene::new();
    let mut ann = scene.watch(Level::Users, None, None);
    assert!(!scene.read(settling("e", Some(1), &[(1, 1)])));
    assert_eq!(ann.next(&scene), "nothing");
    assert!(!scene.mirror.has(&Epoch::new("e"), false, Some(1)));
    assert!(!scene.read(reading("e", Some(1), &[(1, 1)])));
    assert!(scene.woken());
    assert_eq!(ann.next(&scene), "snapshot  1 of 1");
}

#[tokio::test(start_paused = true)]
async fn since_gives_what_came_after_where_it_is_known() {
    let scene = Scene::at("e", 1, &[(1, 1)]);
    scene.mirror.hear(published("e", 1, vec![set(2, 1), set(3, 1)]));
    scene.tick().await;
    scene.mirror.hear(published("e", 3, vec![set(4, 1)]));
    scene.tick().await;
    let come_back = |number| scene.watch(Level::Users, None, Some(version("e", number)));
    assert_eq!(come_back(4).next(&scene), "nothing", "nothing came after");
    assert_eq!(come_back(3).next(&scene), "3-4 +1 ~0 -0");
    assert_eq!(come_back(1).next(&scene), "1-4 +3 ~0 -0");
    assert_eq!(come_back(2).next(&scene), "snapshot  4 of 4", "in the middle of what came at once");
    assert_eq!(come_back(0).next(&scene), "snapshot  4 of 4", "before the first reading");
    let mut stranger = scene.watch(Level::Users, None, Some(version("other", 3)));
    assert_eq!(stranger.next(&scene), "snapshot  4 of 4");
}

#[tokio::test(start_paused = true)]
async fn since_ahead_of_the_mirror_is_read_for_once() {
    let scene = Scene::at("e", 1, &[(1, 1)]);
    let mut ann = scene.watch(Level::Users, None, Some(version("e", 2)));
    assert_eq!(ann.next(&scene), "nothing");
    assert!(!scene.asks_for_reading(), "the feed may still bring it, and says why people go");
    tokio::time::advance(EXPECTED).await;
    scene.mirror.run_errands();
    assert!(scene.asks_for_reading());
    scene.read(reading("e", Some(2), &[(1, 1), (2, 1)]));
    assert!(scene.woken());
    assert_eq!(ann.next(&scene), "nothing", "she has all of it");
    scene.tick().await;
    scene.mirror.hear(published("e", 2, vec![gone(1)]));
    assert_eq!(ann.next(&scene), "2-3 +0 ~0 -1");
}

#[tokio::test(start_paused = true)]
async fn since_ahead_that_comes_by_the_feed_is_not_read_and_one_that_never_was_is_a_snapshot() {
    let scene = Scene::at("e", 1, &[(1, 1)]);
    let mut ann = scene.watch(Level::Users, None, Some(version("e", 2)));
    assert_eq!(ann.next(&scene), "nothing");
    scene.mirror.hear(published("e", 1, vec![set(2, 1)]));
    assert!(scene.woken());
    assert_eq!(ann.next(&scene), "nothing", "she has all of it");
    tokio::time::advance(EXPECTED).await;
    scene.mirror.run_errands();
    assert!(!scene.asks_for_reading(), "what came is not read again");

    let mut liar = scene.watch(Level::Users, None, Some(version("e", 99)));
    liar.at = None;
    assert_eq!(liar.next(&scene), "nothing");
    tokio::time::advance(EXPECTED).await;
    scene.mirror.run_errands();
    assert!(scene.asks_for_reading());
    scene.read(reading("e", Some(2), &[(1, 1), (2, 1)]));
    assert_eq!(liar.next(&scene), "snapshot  2 of 2");
}

#[tokio::test(start_paused = true)]
async fn who_goes_while_the_roster_is_read_goes_for_the_reason_that_the_feed_told() {
    let scene = Scene::at("e", 1, &[(1, 1), (2, 1)]);
    let mut bob = scene.watch(Level::Users, None, None);
    bob.next(&scene);
    scene.mirror.want_reading();
    assert!(scene.mirror.begin_reading());
    scene.mirror.hear(published("e", 1, vec![Change::Remove { connection: id(2), reason: Reason::Kicked }]));
    scene.mirror.install(reading("e", Some(2), &[(1, 1)]));
    scene.tick().await;
    let Some(Delivery::Frame(frame)) = scene.mirror.next(&mut bob.cursor) else { panic!("a frame") };
    let Lists::Users(delta) = &frame.lists else { panic!("of users") };
    assert_eq!(delta.leave[0].reason, Reason::Kicked);
}

#[tokio::test(start_paused = true)]
async fn since_between_what_a_level_showed_does_not_lead_back() {
    let scene = Scene::at("e", 1, &[(1, 1)]);
    // Watched, but nothing of what follows shows at this level.
    let mut bob = scene.watch(Level::Occupancy, None, None);
    bob.next(&scene);
    for number in 1..5 {
        scene.mirror.hear(published("e", number, vec![set(1, number + 1)]));
        scene.tick().await;
    }
    assert_eq!(bob.next(&scene), "nothing");
    let mut ann = scene.watch(Level::Occupancy, None, Some(version("e", 3)));
    assert_eq!(ann.next(&scene), "3-5 +0 ~0 -0");
    let mut zoe = scene.watch(Level::Occupancy, None, Some(version("e", 5)));
    assert_eq!(zoe.next(&scene), "nothing");
    assert_eq!(bob.next(&scene), "1-5 +0 ~0 -0");
    for watcher in [&mut ann, &mut zoe, &mut bob] {
        assert_eq!(watcher.next(&scene), "nothing");
    }
    scene.mirror.hear(published("e", 5, vec![set(2, 1)]));
    for watcher in [&mut ann, &mut zoe, &mut bob] {
        assert_eq!(watcher.next(&scene), "5-6 +0 ~0 -0");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_falls_out_of_the_ring_gets_one_snapshot_and_goes_on() {
    let scene = Scene::at("e", 0, &[]);
    let mut slow = scene.watch(Level::Users, None, None);
    let mut quick = scene.watch(Level::Users, None, None);
    for watcher in [&mut slow, &mut quick] {
        watcher.next(&scene);
    }
    let mut number = 0;
    for _ in 0..RING {
        scene.mirror.hear(published("e", number, vec![set(1, number + 1)]));
        scene.tick().await;
        number += 1;
        assert!(quick.next(&scene).starts_with(&format!("{}-{number}", number - 1)));
    }
    let mut last = scene.watch(Level::Users, None, None);
    assert_eq!(last.next(&scene), format!("snapshot  {number} of 1"));
    scene.mirror.hear(published("e", number, vec![set(2, 1)]));
    scene.tick().await;
    number += 1;
    // One more than the ring has, and something waits for its tick.
    scene.mirror.hear(published("e", number, vec![set(3, 1)]));
    scene.mirror.hear(published("e", number + 1, vec![set(4, 1)]));
    assert_eq!(slow.next(&scene), "nothing");
    scene.woken();
    scene.tick().await;
    assert!(scene.woken());
    assert_eq!(slow.next(&scene), format!("snapshot slow {} of 4", number + 2));
    assert_eq!(slow.next(&scene), "nothing");
    scene.mirror.hear(published("e", number + 2, vec![gone(1)]));
    scene.tick().await;
    for watcher in [&mut slow, &mut last] {
        while watcher.next(&scene) != "nothing" {}
        assert_eq!(watcher.at, Some(version("e", number + 3)));
        assert_eq!(watcher.occupancy.connections, 3);
    }
}

/// Falls behind everything that is kept, from number on; returns the number after.
async fn more_than_the_ring(scene: &Scene, mut number: u64) -> u64 {
    for _ in 0..=RING {
        scene.mirror.hear(published("e", number, vec![set(1, number + 1)]));
        scene.tick().await;
        number += 1;
    }
    number
}

#[tokio::test(start_paused = true)]
async fn those_who_read_slowly_share_their_copies_and_there_are_few_however_many_they_are() {
    let scene = Scene::at("e", 0, &[(1, 0)]);
    let mut watchers: Vec<Watcher> = (0..200).map(|_| scene.watch(Level::Users, None, None)).collect();
    for watcher in &mut watchers {
        watcher.next(&scene);
    }
    let mut number = 0;
    for watcher in &mut watchers {
        // One after the other begins with a copy, and is still reading it at the end.
        number = more_than_the_ring(&scene, number).await;
        let said = watcher.next(&scene);
        assert!(said.starts_with("snapshot slow"), "{said}");
        watcher.next(&scene);
    }
    let mut copies: Vec<*const Copy> =
        watchers.iter().map(|watcher| Arc::as_ptr(watcher.reads.as_ref().unwrap())).collect();
    copies.sort();
    copies.dedup();
    assert!(copies.len() <= 30, "{} copies", copies.len());
    // Whoever has read the latest waits for the next, is woken when there may be one, and has the latest state then.
    let mut last = watchers.pop().unwrap();
    last.reads = None;
    number = more_than_the_ring(&scene, number).await;
    let mut said = last.next(&scene);
    scene.woken();
    if said == "nothing" {
        let at = scene.mirror.run_errands().expect("it comes again by itself");
        tokio::time::sleep_until(at).await;
        scene.mirror.run_errands();
        assert!(scene.woken());
        said = last.next(&scene);
    }
    assert_eq!(said, format!("snapshot slow {number} of 1"));
}

#[tokio::test(start_paused = true)]
async fn a_quick_reader_who_had_stalled_gets_the_latest_state_at_once() {
    let scene = Scene::at("e", 0, &[(1, 0)]);
    let mut watcher = scene.watch(Level::Users, None, None);
    watcher.next(&scene);
    for round in 1..5 {
        let number = more_than_the_ring(&scene, (round - 1) * (RING as u64 + 1)).await;
        assert_eq!(watcher.next(&scene), format!("snapshot slow {number} of 1"));
        watcher.reads = None;
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_come_right_after_each_other_begin_with_the_same_unless_they_were_promised_more() {
    let rows: Vec<(u16, u64)> = (0..u16::try_from(BEGUN_LEAST).unwrap()).map(|n| (n, 0)).collect();
    let scene = Scene::at("e", 0, &rows);
    let mut one = scene.watch(Level::Users, None, None);
    assert_eq!(one.next(&scene), "snapshot  0 of 200");
    scene.mirror.hear(published("e", 0, vec![set(500, 1)]));
    scene.tick().await;
    let mut two = scene.watch(Level::Users, None, None);
    assert_eq!(two.next(&scene), "snapshot  0 of 200");
    assert_eq!(two.next(&scene), "0-1 +1 ~0 -0");
    let mut joined = scene.watch(Level::Users, Some(version("e", 1)), None);
    assert_eq!(joined.next(&scene), "snapshot  1 of 201");
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    scene.mirror.hear(published("e", 1, vec![set(501, 1)]));
    scene.tick().await;
    let mut later = scene.watch(Level::Users, None, None);
    assert_eq!(later.next(&scene), "snapshot  2 of 202");
}

#[tokio::test(start_paused = true)]
async fn of_large_states_fewer_frames_are_kept() {
    let scene = Scene::at("e", 0, &[]);
    let mut slow = scene.watch(Level::Users, None, None);
    slow.next(&scene);
    let mut number = 0;
    for round in 0..6 {
        let state =
            format!(r#"{{"status":"online","state":{{"n":{round},"blob":"{}"}},"since":1}}"#, "x".repeat(4_000));
        let large =
            |n| Change::Set { connection: id(n), user: user(n), since: 1, changed: 1, payload: state.clone().into() };
        scene.mirror.hear(published("e", number, (0..40).map(large).collect()));
        scene.tick().await;
        number += 40;
    }
    assert_eq!(slow.next(&scene), format!("snapshot slow {number} of 40"));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_late_with_the_first_snapshot_gets_a_copy_instead_of_what_follows() {
    let scene = Scene::at("e", 0, &[(1, 0)]);
    let mut watcher = scene.watch(Level::Users, None, None);
    watcher.next(&scene);
    assert!(!scene.mirror.is_late(&watcher.cursor));
    for number in 0..40 {
        scene.mirror.hear(published("e", number, vec![set(1, number + 1)]));
        scene.tick().await;
    }
    assert!(scene.mirror.is_late(&watcher.cursor));
    scene.mirror.give_up(&mut watcher.cursor);
    assert_eq!(watcher.next(&scene), "snapshot slow 40 of 1");
    assert_eq!(watcher.next(&scene), "nothing");
    scene.mirror.hear(published("e", 40, vec![gone(1)]));
    scene.tick().await;
    assert_eq!(watcher.next(&scene), "40-41 +0 ~0 -1");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_who_comes_in_the_middle_of_a_tick_that_shows_nothing_is_woken_all_the_same() {
    let scene = Scene::at("e", 0, &[]);
    scene.mirror.hear(published("e", 0, vec![set(1, 1)]));
    scene.mirror.hear(published("e", 1, vec![set(2, 1), gone(2)]));
    let mut ann = scene.watch(Level::Users, None, None);
    assert_eq!(ann.next(&scene), "nothing");
    scene.woken();
    scene.tick().await;
    assert!(scene.woken(), "nobody else will wake her");
    assert_eq!(ann.next(&scene), "snapshot  1 of 1");
}

#[tokio::test(start_paused = true)]
async fn a_promised_version_is_waited_for_and_then_read_for() {
    let scene = Scene::at("e", 1, &[]);
    let mut ann = scene.watch(Level::Occupancy, Some(version("e", 2)), None);
    assert_eq!(ann.next(&scene), "nothing");
    scene.mirror.run_errands();
    assert!(!scene.asks_for_reading());
    scene.mirror.hear(published("e", 1, vec![set(1, 1)]));
    assert!(scene.woken());
    assert_eq!(ann.next(&scene), "snapshot  2 of 1");

    let mut bob = scene.watch(Level::Users, Some(version("e", 3)), None);
    assert_eq!(bob.next(&scene), "nothing");
    tokio::time::advance(EXPECTED).await;
    scene.mirror.run_errands();
    assert!(scene.asks_for_reading());
}

#[tokio::test(start_paused = true)]
async fn a_promised_version_that_a_level_does_not_show_is_reached_all_the_same() {
    let scene = Scene::at("e", 1, &[(1, 1)]);
    let mut bob = scene.watch(Level::Occupancy, None, None);
    bob.next(&scene);
    let mut ann = scene.watch(Level::Occupancy, Some(version("e", 2)), None);
    assert_eq!(ann.next(&scene), "nothing");
    scene.woken();
    scene.mirror.hear(published("e", 1, vec![set(1, 2)]));
    assert!(scene.woken());
    assert_eq!(ann.next(&scene), "snapshot  2 of 1");
    assert_eq!(bob.next(&scene), "1-2 +0 ~0 -0");
}

#[tokio::test(start_paused = true)]
async fn levels_have_their_own_frames_which_all_follow_on() {
    let scene = Scene::at("e", 0, &[]);
    let mut early = scene.watch(Level::Users, None, None);
    early.next(&scene);
    scene.mirror.hear(published("e", 0, vec![set(1, 1)]));
    scene.mirror.hear(published("e", 1, vec![set(1, 2)]));
    // In the middle of a tick.
    let mut late = [Level::Users, Level::Connections, Level::Occupancy].map(|level| scene.watch(level, None, None));
    for watcher in &mut late {
        assert_eq!(watcher.next(&scene), "nothing");
    }
    scene.tick().await;
    for watcher in &mut late {
        let first = watcher.next(&scene);
        assert!(first.starts_with("snapshot") && first.ends_with("of 1"), "{first}");
    }
    scene.mirror.hear(published("e", 2, vec![set(1, 3)]));
    scene.tick().await;
    scene.mirror.hear(published("e", 3, vec![set(2, 1)]));
    scene.tick().await;
    for watcher in late.iter_mut().chain([&mut early]) {
        while watcher.next(&scene) != "nothing" {}
        assert_eq!(watcher.at, Some(version("e", 4)));
        assert_eq!(watcher.occupancy.connections, 2);
    }
    // The last of a level goes; whoever comes later begins with what is there then.
    scene.mirror.detach(Level::Connections, &scene.wake);
    scene.mirror.hear(published("e", 4, vec![gone(1)]));
    scene.tick().await;
    assert_eq!(scene.watch(Level::Connections, None, None).next(&scene), "snapshot  5 of 1");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_roster_starts_again_above_the_floor() {
    let scene = Scene::at("e", 7, &[(1, 1)]);
    let mut ann = scene.watch(Level::Users, None, None);
    ann.next(&scene);
    scene.mirror.hear(published("e", 7, vec![gone(1)]));
    assert_eq!(ann.next(&scene), "7-8 +0 ~0 -1");
    scene.tick().await;
    assert!(scene.mirror.has(&Epoch::new("e"), false, None), "an absent number means empty");
    scene.mirror.hear(Published { starts: true, ..published("e", 30, vec![set(2, 1)]) });
    assert_eq!(ann.next(&scene), "8-31 +1 ~0 -0");
    assert!(!scene.asks_for_reading());
    // Where somebody is there that cannot be: it is read.
    scene.mirror.hear(Published { starts: true, ..published("e", 40, vec![set(3, 1)]) });
    assert!(scene.asks_for_reading());
}

#[tokio::test(start_paused = true)]
async fn changes_of_which_one_cannot_be_read_are_not_half_applied() {
    let scene = Scene::at("e", 0, &[]);
    let mut ann = scene.watch(Level::Users, None, None);
    ann.next(&scene);
    let broken = Change::Set { connection: id(2), user: user(2), since: 1, changed: 1, payload: "{".into() };
    scene.mirror.hear(published("e", 0, vec![set(1, 1), broken]));
    assert!(scene.asks_for_reading());
    scene.read(reading("e", Some(2), &[(1, 1)]));
    assert_eq!(ann.next(&scene), "0-2 +1 ~0 -0");
}

/// Since when what comes next was wanted, if that is timed.
fn wanted_at(watcher: &mut Watcher, scene: &Scene) -> Option<Instant> {
    match scene.mirror.next(&mut watcher.cursor).expect("something comes") {
        Delivery::Frame(frame) => frame.wanted_at,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_timed_from_the_wish_to_its_frame_whichever_comes_first_the_answer_or_the_feed() {
    let scene = Scene::at("e", 5, &[(1, 1)]);
    let wish = Instant::now();
    assert!(!scene.mirror.time(&id(2), wish), "nobody watches");
    let mut ann = scene.watch(Level::Users, None, None);
    let mut ben = scene.watch(Level::Connections, None, None);
    ann.next(&scene);
    ben.next(&scene);
    assert!(scene.mirror.time(&id(2), wish));
    assert!(!scene.mirror.time(&id(3), wish), "one at a time");
    // Somebody else's change is not the one.
    scene.mirror.hear(published("e", 5, vec![set(4, 1)]));
    assert_eq!(wanted_at(&mut ann, &scene), None);
    scene.tick().await;
    scene.mirror.hear(published("e", 6, vec![set(2, 1)]));
    scene.mirror.timed(Some(version("e", 7)));
    assert_eq!(wanted_at(&mut ann, &scene), Some(wish));
    ben.next(&scene);
    assert_eq!(wanted_at(&mut ben, &scene), None, "of several levels one tells");

    assert!(scene.mirror.time(&id(2), wish));
    scene.mirror.timed(Some(version("e", 8)));
    scene.tick().await;
    scene.mirror.hear(published("e", 7, vec![gone(2)]));
    assert_eq!(wanted_at(&mut ann, &scene), Some(wish));
    // What the feed has lost is told when it is read.
    assert!(scene.mirror.time(&id(5), wish));
    scene.mirror.timed(Some(version("e", 9)));
    scene.tick().await;
    assert!(!scene.read(reading("e", Some(9), &[(1, 1), (4, 1), (5, 1)])));
    assert_eq!(wanted_at(&mut ann, &scene), Some(wish));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_which_nothing_comes_is_timed_no_more() {
    let scene = Scene::at("e", 5, &[(1, 1)]);
    let mut ann = scene.watch(Level::Users, None, None);
    ann.next(&scene);
    for answer in [None, Some(version("e", 5))] {
        assert!(scene.mirror.time(&id(1), Instant::now()));
        scene.mirror.timed(answer);
    }
    // An answer of an epoch that is over is waited for, but not for ever.
    assert!(scene.mirror.time(&id(1), Instant::now()));
    scene.mirror.timed(Some(version("d", 9)));
    assert!(!scene.mirror.time(&id(2), Instant::now()));
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    assert!(scene.mirror.time(&id(2), Instant::now()));
    scene.mirror.hear(published("e", 5, vec![set(1, 2)]));
    assert_eq!(wanted_at(&mut ann, &scene), None);
}

/// Small enough for a few to be a crowd: with one watcher three are many, and six are too many for a list.
const FEW: Bounds = Bounds { net_above: 2, occupancy_above: 5 };

/// A channel of that many, and a watcher of each level who has begun.
fn crowd(count: u16, levels: &[Level]) -> (Scene, Vec<Watcher>) {
    let watchers = levels.len() as u64;
    let scene = Scene::within(Bounds { net_above: 2 * watchers, occupancy_above: 5 * watchers });
    let rows: Vec<(u16, u64)> = (0..count).map(|n| (n, 0)).collect();
    assert!(!scene.read(reading("e", Some(0), &rows)));
    let mut all: Vec<Watcher> = levels.iter().map(|level| scene.watch(*level, None, None)).collect();
    for watcher in &mut all {
        assert_eq!(watcher.next(&scene), format!("snapshot  0 of {count}"));
    }
    scene.woken();
    (scene, all)
}

const LEVELS: [Level; 3] = [Level::Users, Level::Connections, Level::Occupancy];

#[tokio::test(start_paused = true)]
async fn a_channel_that_grows_tells_all_levels_of_each_mode_by_one_snapshot_and_goes_on() {
    let (scene, mut watchers) = crowd(1, &LEVELS);
    assert_eq!(scene.mirror.mode(), Mode::Full);
    scene.mirror.hear(published("e", 0, vec![set(10, 1), set(11, 1)]));
    assert_eq!(scene.mirror.mode(), Mode::Net);
    assert!(scene.woken());
    for watcher in &mut watchers {
        assert_eq!(watcher.next(&scene), "snapshot mode 2 of 3", "what changed is part of it");
        assert_eq!(watcher.next(&scene), "nothing");
    }
    // The whole is short now, and there are no names in it or in what follows.
    scene.mirror.hear(published("e", 2, vec![set(12, 1), set(13, 1), set(14, 1)]));
    scene.long_tick().await;
    assert_eq!(scene.mirror.mode(), Mode::Occupancy);
    for watcher in &mut watchers {
        assert_eq!(watcher.next(&scene), "snapshot mode 5 of 6");
    }
    scene.long_tick().await;
    scene.mirror.hear(published("e", 5, vec![set(15, 1)]));
    for watcher in &mut watchers {
        assert_eq!(watcher.next(&scene), "5-6 +0 ~0 -0");
        assert_eq!(watcher.occupancy.connections, 7);
    }
    // A state that nobody is shown is no frame.
    scene.long_tick().await;
    scene.mirror.hear(published("e", 6, vec![set(15, 2)]));
    assert!(watchers.iter_mut().all(|watcher| watcher.next(&scene) == "nothing"));
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_shrinks_goes_back_below_half_and_not_before_its_mode_has_lasted() {
    let (scene, mut watchers) = crowd(6, &[Level::Users]);
    assert_eq!(scene.mirror.mode(), Mode::Occupancy, "the watcher counts too, and begins in it");
    scene.mirror.hear(published("e", 0, vec![gone(0), gone(1), gone(2)]));
    scene.long_tick().await;
    assert_eq!(watchers[0].next(&scene), "0-3 +0 ~0 -0");
    tokio::time::advance(2 * HOLD).await;
    assert_eq!(scene.mirror.run_errands(), None, "3 is not below half of 5, and what told of the mode is let go");
    assert_eq!(scene.mirror.mode(), Mode::Occupancy);
    scene.mirror.hear(published("e", 3, vec![gone(3)]));
    scene.long_tick().await;
    assert_eq!(scene.mirror.mode(), Mode::Net);
    assert_eq!(watchers[0].next(&scene), "snapshot mode 4 of 2", "with the list again");
    scene.mirror.hear(published("e", 4, vec![gone(4), gone(5)]));
    scene.long_tick().await;
    assert_eq!(watchers[0].next(&scene), "4-6 +0 ~0 -2");
    assert_eq!(scene.mirror.mode(), Mode::Net, "it began a moment ago");
    let at = scene.mirror.run_errands().expect("the keeper looks again");
    tokio::time::sleep_until(at).await;
    scene.woken();
    scene.mirror.run_errands();
    assert!(scene.woken());
    assert_eq!(watchers[0].next(&scene), "snapshot mode 6 of 0");
    assert_eq!(scene.mirror.mode(), Mode::Full);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_sways_about_a_bound_does_not_change_the_mode_again_and_again() {
    let (scene, mut watchers) = crowd(2, &[Level::Users]);
    let mut turns = 0;
    for number in 0..200 {
        let change = if number % 2 == 0 { set(7, 1) } else { gone(7) };
        scene.mirror.hear(published("e", number, vec![change]));
        scene.long_tick().await;
        turns += usize::from(watchers[0].next(&scene).contains("mode"));
    }
    assert_eq!((turns, scene.mirror.mode()), (1, Mode::Net));
}

#[tokio::test(start_paused = true)]
async fn watchers_who_come_and_go_change_the_mode_though_nobody_joins() {
    let scene = Scene::within(FEW);
    assert!(!scene.read(reading("e", Some(0), &[(1, 0), (2, 0)])));
    let mut ann = scene.watch(Level::Users, None, None);
    ann.next(&scene);
    scene.mirror.run_errands();
    assert_eq!(scene.mirror.mode(), Mode::Full);
    let mut ben = scene.watch(Level::Users, None, None);
    scene.mirror.run_errands();
    assert_eq!(ann.next(&scene), "snapshot mode 0 of 2");
    assert_eq!(ben.next(&scene), "snapshot  0 of 2", "who begins begins in the mode that is");
    scene.mirror.detach(Level::Users, &scene.wake);
    tokio::time::advance(HOLD).await;
    scene.mirror.run_errands();
    assert_eq!(scene.mirror.mode(), Mode::Net, "two are not below half of two");
    scene.mirror.hear(published("e", 0, vec![gone(1), gone(2)]));
    scene.long_tick().await;
    assert_eq!(ann.next(&scene), "snapshot mode 2 of 0");
}

#[tokio::test(start_paused = true)]
async fn the_larger_the_longer_the_ticks_and_the_first_change_after_silence_is_told_at_once() {
    for (count, mode, least) in [(2, Mode::Full, 250), (4, Mode::Net, 426), (7, Mode::Occupancy, 795)] {
        let (scene, mut watchers) = crowd(count, &[Level::Users]);
        scene.long_tick().await;
        watchers[0].next(&scene);
        scene.long_tick().await;
        assert_eq!(scene.mirror.mode(), mode);
        // A device more changes the counts and no load.
        let device =
            |n: u16| Change::Set { connection: id(n), user: user(0), since: 1, changed: 1, payload: payload(1) };
        scene.mirror.hear(published("e", 0, vec![device(100)]));
        assert!(watchers[0].next(&scene).starts_with("0-1"), "at once");
        scene.mirror.hear(published("e", 1, vec![device(101)]));
        tokio::time::advance(std::time::Duration::from_millis(least - 1)).await;
        scene.mirror.run_errands();
        assert_eq!(watchers[0].next(&scene), "nothing");
        tokio::time::advance(std::time::Duration::from_millis(1)).await;
        scene.mirror.run_errands();
        assert!(watchers[0].next(&scene).starts_with("1-2"), "after a tick");
    }
}

/// How many frames the first of a thousand has who come evenly in that time, each to watch, of whom those on other instances are seen here only. And the
/// mode at the end.
async fn told_while_a_thousand_come(within: Duration, instances: u16) -> (usize, Mode) {
    let scene = Scene::new();
    assert!(!scene.read(reading("e", Some(0), &[])));
    let mut first = scene.watch(Level::Users, None, None);
    first.next(&scene);
    let (began, mut frames) = (Instant::now(), 0);
    for number in 1..=1_000_u16 {
        let comes_at = began + within * u32::from(number) / 1_000;
        while let Some(due_at) = scene.mirror.run_errands().filter(|due_at| *due_at < comes_at) {
            tokio::time::sleep_until(due_at).await;
        }
        tokio::time::sleep_until(comes_at).await;
        scene.mirror.hear(published("e", u64::from(number) - 1, vec![set(number, 1)]));
        if number % instances == 0 && number > 1 {
            scene.mirror.attach(Level::Users, &scene.wake);
        }
        while first.next(&scene) != "nothing" {
            frames += 1;
        }
    }
    scene.long_tick().await;
    frames += usize::from(first.next(&scene) != "nothing");
    assert_eq!(first.occupancy.users, 1_000);
    (frames, scene.mirror.mode())
}

#[tokio::test(start_paused = true)]
async fn a_thousand_who_come_evenly_are_few_frames_however_long_it_takes_them_to_be_a_crowd() {
    for (seconds, instances, most) in [(5, 2, 30), (12, 2, 60), (20, 1, 80), (20, 2, 90), (20, 4, 110)] {
        let (frames, mode) = told_while_a_thousand_come(Duration::from_secs(seconds), instances).await;
        println!("{seconds} s, {instances} instances: {frames} frames");
        assert_eq!(mode, Mode::Net);
        assert!(frames <= most, "{frames} frames in {seconds} s on one of {instances} instances");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_back_with_since_goes_on_where_there_are_lists_and_begins_anew_where_there_are_none() {
    for (count, told) in [(4, "0-1 +1 ~0 -0"), (7, "snapshot  1 of 8")] {
        let (scene, mut watchers) = crowd(count, &[Level::Users]);
        scene.long_tick().await;
        watchers[0].next(&scene);
        scene.long_tick().await;
        scene.mirror.hear(published("e", 0, vec![set(100, 1)]));
        let mut again = scene.watch(Level::Users, None, Some(version("e", 0)));
        assert_eq!(again.next(&scene), told);
        assert_eq!(again.next(&scene), "nothing");
        let mut counts = scene.watch(Level::Occupancy, None, Some(version("e", 0)));
        assert_eq!(counts.next(&scene), "0-1 +0 ~0 -0");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_still_being_read_is_given_up_when_there_are_lists_no_more() {
    let (scene, mut watchers) = crowd(1, &[Level::Users]);
    scene.mirror.hear(published("e", 0, vec![set(10, 1), set(11, 1)]));
    assert!(!scene.mirror.has_no_list_for(&watchers[0].cursor));
    assert_eq!(watchers[0].next(&scene), "snapshot mode 2 of 3");
    assert!(!scene.mirror.has_no_list_for(&watchers[0].cursor));
    scene.mirror.hear(published("e", 2, vec![set(12, 1), set(13, 1), set(14, 1)]));
    scene.long_tick().await;
    assert!(scene.mirror.has_no_list_for(&watchers[0].cursor));
    scene.mirror.give_up(&mut watchers[0].cursor);
    assert_eq!(watchers[0].next(&scene), "snapshot mode 5 of 6");
    assert!(!scene.mirror.has_no_list_for(&watchers[0].cursor));
}

#[tokio::test(start_paused = true)]
async fn who_looks_late_learns_of_the_mode_though_changes_come_all_the_time_and_slow_readers_have_a_copy() {
    let (scene, mut watchers) = crowd(1, &[Level::Users, Level::Users, Level::Users]);
    // One has a copy from before, and reads it for minutes.
    let number = more_than_the_ring(&scene, 0).await;
    assert!(watchers[0].next(&scene).starts_with("snapshot slow"));
    scene.mirror.hear(published("e", number, vec![set(10, 1), set(11, 1)]));
    scene.tick().await;
    scene.mirror.hear(published("e", number + 2, vec![set(12, 1)]));
    // Something waits for its tick, and will at any other time too.
    assert_eq!(watchers[1].next(&scene), format!("snapshot mode {} of 4", number + 2));
    scene.long_tick().await;
    assert_eq!(watchers[1].next(&scene), format!("{}-{} +1 ~0 -0", number + 2, number + 3));
    // Much later it is another copy, for the same reason, and the slow one is not given the old one either.
    let mut at = number + 3;
    for round in 0..80 {
        scene.mirror.hear(published("e", at, vec![set(12, round)]));
        scene.long_tick().await;
        at += 1;
    }
    for index in [2, 0] {
        let watcher = &mut watchers[index];
        assert_eq!(watcher.next(&scene), format!("snapshot mode {at} of 5"));
    }
}
