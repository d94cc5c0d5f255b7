//! A mirror: the state of one roster at a version, kept for those here who watch it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

use crate::{
    domain::{
        delta::{ConnectionDelta, Net, UserDelta},
        level::Level,
        member::{Member, Occupancy, Present, Reason, Roll, Shown},
        name::{ConnectionId, RosterKey},
        roster::{Change, Published, Row},
        time::wall_now_ms,
        version::{Epoch, Version},
    },
    store::Reading,
};

/// As many frames wait for a slow watcher; one who is further behind gets a snapshot.
const RING: usize = 64;
/// As many touched connections are remembered for watchers who come back with `since`.
const HISTORY: usize = 1_024;
/// As many changes are kept while the roster is read; beyond it is read once more.
const BUFFER: usize = 1_024;
/// How long a promised version may take to come by the feed before the roster is read.
const EXPECTED: Duration = Duration::from_millis(500);
/// The least and the most time between two frames of a level.
const TICK_LEAST: Duration = Duration::from_millis(10);
const TICK_MOST: Duration = Duration::from_millis(100);

/// One encoded form of something, made by the first who needs it and shared by all.
#[derive(Debug, Default)]
pub struct Encoded(OnceLock<Vec<Bytes>>);

impl Encoded {
    /// The encoded frames; `encode` runs once.
    pub fn get(&self, encode: impl FnOnce() -> Vec<Bytes>) -> &[Bytes] {
        self.0.get_or_init(encode)
    }
}

/// The changes that a level shows.
#[derive(Debug, Clone)]
pub enum Lists {
    /// Level users.
    Users(UserDelta),
    /// Level connections.
    Connections(ConnectionDelta),
    /// Level occupancy: no lists.
    Occupancy,
}

/// One frame of changes, shared by all watchers of a level.
#[derive(Debug)]
pub struct Frame {
    /// The version before.
    pub from: Version,
    /// The version after.
    pub to: Version,
    /// What changed.
    pub lists: Lists,
    /// The counts after.
    pub occupancy: Occupancy,
    /// Unix milliseconds.
    pub time: u64,
    /// As the native door sends it.
    pub encoded: Encoded,
}

/// The whole roster as a level shows it.
#[derive(Debug)]
pub enum Whole {
    /// Level users: the members in the order of the list.
    Users(Vec<Member>),
    /// Level connections.
    Connections(Vec<(ConnectionId, Present)>),
    /// Level occupancy.
    Occupancy,
}

/// A frozen copy at one version.
#[derive(Debug)]
pub struct Snapshot {
    /// The version.
    pub version: Version,
    /// The entries.
    pub whole: Whole,
    /// The counts.
    pub occupancy: Occupancy,
    /// Unix milliseconds.
    pub time: u64,
    /// As the native door sends it after a watch: pages without a cause.
    pub encoded: Encoded,
    /// As the native door sends it again, with its cause.
    pub encoded_again: Encoded,
}

/// Why a snapshot is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The watcher was too slow for single changes.
    Slow,
}

impl Cause {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
        }
    }
}

/// What a watcher gets next.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// The whole.
    Snapshot(Arc<Snapshot>, Option<Cause>),
    /// A change.
    Frame(Arc<Frame>),
}

/// Where a watcher is in a mirror.
#[derive(Debug, Clone)]
pub struct Cursor {
    level: Level,
    at: At,
}

#[derive(Debug, Clone)]
enum At {
    /// Wants the whole, at this version or later.
    ///
    /// `asked` is the count of readings when `since` was found to be ahead: after the next one it is known whether there is such a version.
    Start { least: Option<Version>, since: Option<Version>, asked: Option<u64> },
    /// Has everything up to this frame.
    Next(u64),
}

impl Cursor {
    /// A watcher who begins: with what came after `since` if that is known, else with a snapshot, which is at least `least`.
    pub fn new(level: Level, least: Option<Version>, since: Option<Version>) -> Self {
        Self { level, at: At::Start { least, since, asked: None } }
    }

    /// How much the watcher is told.
    pub fn level(&self) -> Level {
        self.level
    }
}

/// Told when a mirror has something new, once for many watchers.
pub trait Wake: Send + Sync {
    /// `mirror` has something new.
    fn wake(&self, mirror: u64);
}

/// One level of a mirror.
#[derive(Debug, Default)]
struct Track {
    watchers: usize,
    /// The number of the first frame in the ring.
    first: u64,
    ring: VecDeque<Arc<Frame>>,
    /// What watchers of this level have been shown; the mirror may be ahead by changes that this level does not show.
    shown: Option<Version>,
    occupancy: Occupancy,
    snapshot: Option<Arc<Snapshot>>,
}

impl Track {
    fn next(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    fn push(&mut self, frame: Frame) {
        self.shown = Some(frame.to.clone());
        self.occupancy = frame.occupancy;
        self.snapshot = None;
        if self.ring.len() == RING {
            self.ring.pop_front();
            self.first += 1;
        }
        self.ring.push_back(Arc::new(frame));
    }
}

/// One touched connection: what stood there before, and why it went.
type Touch = (ConnectionId, Option<Present>, Option<Reason>);

struct Step {
    from: Version,
    touches: Vec<Touch>,
}

struct State {
    /// The version that has been applied; none before the first reading.
    version: Option<Version>,
    roll: Roll,
    net: Net,
    tracks: [Track; 3],
    history: VecDeque<Step>,
    history_touches: usize,
    /// Changes heard while the roster is being read.
    buffer: Option<Vec<Published>>,
    buffer_overflowed: bool,
    /// Rows that a settling epoch has not confirmed are still shown.
    withheld: bool,
    /// How many readings there have been.
    readings: u64,
    /// What epochs are called meanwhile, by this mirror alone: others show something else at the same number.
    mark: String,
    flushed_at: Option<Instant>,
    flush_waits: bool,
    /// Some watcher was told to look again after the next flush, whether that shows anything or not.
    somebody_waits: bool,
    /// The highest version that a watcher was promised, and when it should have come.
    expected: Option<(Instant, Version)>,
    wakes: Vec<(Arc<dyn Wake>, usize)>,
}

/// See the module.
pub struct Mirror {
    id: u64,
    key: RosterKey,
    state: Mutex<State>,
    watchers: AtomicUsize,
    /// The keeper is to read the roster, or to flush later.
    pub(crate) errands: Notify,
    wants_reading: std::sync::atomic::AtomicBool,
}

impl Mirror {
    pub(crate) fn new(id: u64, key: RosterKey) -> Self {
        let state = State {
            version: None,
            roll: Roll::default(),
            net: Net::default(),
            tracks: Default::default(),
            history: VecDeque::new(),
            history_touches: 0,
            buffer: None,
            buffer_overflowed: false,
            withheld: false,
            readings: 0,
            mark: format!("~{:08x}", rand::random::<u32>()),
            flushed_at: None,
            flush_waits: false,
            somebody_waits: false,
            expected: None,
            wakes: Vec::new(),
        };
        Self {
            id,
            key,
            state: Mutex::new(state),
            watchers: AtomicUsize::new(0),
            errands: Notify::new(),
            wants_reading: true.into(),
        }
    }

    /// Tells mirrors apart, within this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Which roster.
    pub fn key(&self) -> &RosterKey {
        &self.key
    }

    /// A watcher comes; `wake` is told of news.
    pub fn attach(&self, level: Level, wake: &Arc<dyn Wake>) {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        state.tracks[level as usize].watchers += 1;
        match state.wakes.iter_mut().find(|(known, _)| Arc::ptr_eq(known, wake)) {
            Some((_, count)) => *count += 1,
            None => state.wakes.push((wake.clone(), 1)),
        }
    }

    /// A watcher goes.
    pub fn detach(&self, level: Level, wake: &Arc<dyn Wake>) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.lock();
        state.tracks[level as usize].watchers -= 1;
        if let Some(at) = state.wakes.iter().position(|(known, _)| Arc::ptr_eq(known, wake)) {
            state.wakes[at].1 -= 1;
            if state.wakes[at].1 == 0 {
                state.wakes.swap_remove(at);
            }
        }
        drop(state);
        self.errands.notify_one();
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// The version it is at; none before the first reading.
    pub fn version(&self) -> Option<Version> {
        self.lock().version.clone()
    }

    /// The roster as this instance last knew it, with its version; none before the first reading.
    pub fn roll(&self) -> Option<(Version, Roll)> {
        let state = self.lock();
        Some((state.version.clone()?, state.roll.clone()))
    }

    /// What a watcher gets next, if there is anything now; the cursor moves on.
    pub fn next(&self, cursor: &mut Cursor) -> Option<Delivery> {
        let mut state = self.lock();
        let level = cursor.level;
        let next = state.tracks[level as usize].next();
        match &mut cursor.at {
            At::Next(at) if *at == next => None,
            At::Next(at) => {
                let track = &state.tracks[level as usize];
                let behind = at.checked_sub(track.first).and_then(|behind| usize::try_from(behind).ok());
                if let Some(frame) = behind.and_then(|behind| track.ring.get(behind)) {
                    *at += 1;
                    return Some(Delivery::Frame(frame.clone()));
                }
                // Fallen out of the ring. The copy is that of a tick's end: if one is due, that comes first.
                self.flush_or_wait(&mut state);
                if !state.net.is_empty() {
                    state.somebody_waits = true;
                    return None;
                }
                *at = state.tracks[level as usize].next();
                Some(Delivery::Snapshot(state.snapshot(level), Some(Cause::Slow)))
            }
            At::Start { least, since, asked } => {
                let version = state.version.clone()?;
                let is_ahead = |wished: &Version| wished.epoch == version.epoch && wished.number > version.number;
                if let Some(least) = least.as_ref().filter(|least| is_ahead(least)) {
                    // The change is on its way; should the feed have lost it, the keeper reads.
                    state.expect(least);
                    state.somebody_waits = true;
                    self.errands.notify_one();
                    return None;
                }
                if let Some(since) = since.as_ref().filter(|since| is_ahead(since))
                    && *asked.get_or_insert(state.readings) == state.readings
                {
                    // Another instance was quicker. A reading at once would see what happened without its reasons.
                    state.expect(since);
                    state.somebody_waits = true;
                    self.errands.notify_one();
                    return None;
                }
                self.flush_or_wait(&mut state);
                if !state.net.is_empty() {
                    state.somebody_waits = true;
                    return None;
                }
                let label = state.label(&version);
                // Whoever has seen or was promised more than this level showed is not sent back behind it.
                let shown = state.tracks[level as usize].shown.clone();
                let behind = shown.as_ref().is_some_and(|shown| {
                    let is_more = |wished: &Version| wished.epoch == version.epoch && wished.number > shown.number;
                    shown.epoch != label.epoch
                        || least.as_ref().is_some_and(is_more)
                        || (version.number > shown.number && since.as_ref().is_some_and(is_more))
                });
                if behind {
                    state.push_empty(level, &label);
                    self.wake(&state);
                }
                let track = &state.tracks[level as usize];
                let (since, next) = (since.take(), track.next());
                let known = since.as_ref().is_some_and(|since| track.shown.as_ref() == Some(since));
                let frame = since.filter(|_| !known).and_then(|since| state.since(level, &since));
                cursor.at = At::Next(next);
                if known {
                    return None;
                }
                Some(match frame {
                    Some(frame) => Delivery::Frame(Arc::new(frame)),
                    None => Delivery::Snapshot(state.snapshot(level), None),
                })
            }
        }
    }

    /// The feed told of changes.
    pub(crate) fn hear(&self, published: Published) {
        let mut state = self.lock();
        if let Some(buffer) = &mut state.buffer {
            if buffer.len() < BUFFER {
                buffer.push(published);
            } else {
                state.buffer_overflowed = true;
            }
            return;
        }
        if !state.apply(&published) {
            self.wants_reading.store(true, Ordering::Relaxed);
            self.errands.notify_one();
            return;
        }
        self.flush_or_wait(&mut state);
    }

    /// Whether the mirror has all that the store had when it was asked.
    pub(crate) fn has(&self, epoch: &Epoch, settling: bool, number: Option<u64>) -> bool {
        let state = self.lock();
        if state.withheld && !settling {
            return false;
        }
        match (&state.version, number) {
            // It waits for its first reading, and will get it.
            (None, _) => true,
            (Some(version), Some(number)) => version.epoch == *epoch && version.number >= number,
            // Forgotten while empty: any version of an empty mirror is right.
            (Some(version), None) => version.epoch == *epoch && state.roll.occupancy().connections == 0,
        }
    }

    /// Whether it shows rows that a settling epoch has not confirmed, or waits for the epoch to settle.
    pub(crate) fn is_withheld(&self) -> bool {
        self.lock().withheld
    }

    pub(crate) fn want_reading(&self) {
        self.wants_reading.store(true, Ordering::Relaxed);
        self.errands.notify_one();
    }

    /// Whether the keeper is to read; from here on changes are buffered until [`Mirror::install`].
    pub(crate) fn begin_reading(&self) -> bool {
        if !self.wants_reading.swap(false, Ordering::Relaxed) {
            return false;
        }
        let mut state = self.lock();
        // A reading may take long; what waits for its tick does not wait for that.
        if state.flush_waits {
            self.flush_now(&mut state, Instant::now());
        }
        state.buffer = Some(Vec::new());
        state.buffer_overflowed = false;
        true
    }

    /// The reading failed: what was buffered waits for the next one.
    pub(crate) fn reading_failed(&self) {
        self.lock().buffer = None;
        self.wants_reading.store(true, Ordering::Relaxed);
    }

    /// The roster was read. Watchers see the difference only. Returns whether it must be read again.
    pub(crate) fn install(&self, reading: Reading) -> bool {
        let mut state = self.lock();
        let buffered = state.buffer.take().unwrap_or_default();
        let overflowed = std::mem::take(&mut state.buffer_overflowed);
        let first = state.version.is_none();
        if first && reading.settling {
            // Whoever has no earlier state waits until the epoch has settled: it may be incomplete.
            state.withheld = true;
            return false;
        }
        let version = reading.version();
        let rewound = state.version.as_ref().is_some_and(|v| v.epoch == version.epoch && v.number > version.number);
        if rewound && reading.number.is_some() {
            return true;
        }
        state.readings += 1;
        state.replace(reading, version, &reasons(&buffered));
        let mut again = overflowed;
        for published in buffered {
            again |= !state.apply(&published);
        }
        if first {
            let (version, occupancy) = (state.version.clone(), state.roll.occupancy());
            for track in &mut state.tracks {
                (track.shown, track.occupancy) = (version.clone(), occupancy);
            }
            state.net = Net::default();
            state.history.clear();
            state.history_touches = 0;
        } else {
            self.flush_or_wait(&mut state);
            state.unmark();
        }
        state.expected = None;
        // Those who waited for this very reading look again.
        self.wake(&state);
        again
    }

    /// The keeper's timer: flushes what waits, and reads where a promised version did not come. Returns when it is to come again.
    pub(crate) fn run_errands(&self) -> Option<Instant> {
        let mut state = self.lock();
        if state.flush_waits {
            self.flush_or_wait(&mut state);
        }
        let flush_at = state.flush_waits.then(|| state.flushed_at.expect("waits for the next tick") + state.tick());
        if let Some((at, promised)) = &state.expected {
            if state.version.as_ref().is_some_and(|version| version.reaches(promised)) {
                state.expected = None;
                // What brought it may have come to nothing that is shown.
                if std::mem::take(&mut state.somebody_waits) {
                    self.wake(&state);
                }
            } else if *at <= Instant::now() {
                state.expected = None;
                self.want_reading();
            }
        }
        flush_at.into_iter().chain(state.expected.as_ref().map(|(at, _)| *at)).min()
    }

    /// The first change at once, later ones with the next tick.
    fn flush_or_wait(&self, state: &mut State) {
        if state.net.is_empty() {
            state.flush_waits = false;
            return;
        }
        let now = Instant::now();
        if state.flushed_at.is_none_or(|at| now >= at + state.tick()) {
            self.flush_now(state, now);
        } else if !state.flush_waits {
            state.flush_waits = true;
            self.errands.notify_one();
        }
    }

    fn flush_now(&self, state: &mut State, now: Instant) {
        state.flush_waits = false;
        state.flushed_at = Some(now);
        let pushed = state.flush();
        if std::mem::take(&mut state.somebody_waits) || pushed {
            self.wake(state);
        }
    }

    fn wake(&self, state: &State) {
        for (wake, _) in &state.wakes {
            wake.wake(self.id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a mirror")
    }
}

impl State {
    /// A watcher waits for this version, which the feed should bring soon.
    fn expect(&mut self, version: &Version) {
        match &mut self.expected {
            Some((_, promised)) if promised.reaches(version) => {}
            Some((_, promised)) => *promised = version.clone(),
            None => self.expected = Some((Instant::now() + EXPECTED, version.clone())),
        }
    }

    /// The time between two frames grows with what a frame costs.
    fn tick(&self) -> Duration {
        let watchers: usize = self.tracks.iter().map(|track| track.watchers).sum();
        let cost = (watchers + self.roll.occupancy().connections as usize) / 20;
        (TICK_LEAST + Duration::from_millis(cost as u64)).min(TICK_MOST)
    }

    /// Applies changes that follow on; false where something is missing in between.
    fn apply(&mut self, published: &Published) -> bool {
        let Some(version) = &self.version else { return true };
        if version.epoch != published.epoch {
            return false;
        }
        if published.to <= version.number {
            return true;
        }
        let fits = published.from == version.number
            || (published.starts && self.roll.occupancy().connections == 0 && self.net.is_empty());
        if !fits {
            return false;
        }
        let from = self.label(version);
        // All is read before anything is changed: half of it would never be shown.
        let payloads = published.changes.iter().filter_map(|change| match change {
            Change::Set { payload, .. } => Some(read_payload(payload)),
            Change::Remove { .. } => None,
        });
        let Some(shown) = payloads.collect::<Option<Vec<_>>>() else { return false };
        let mut shown = shown.into_iter();
        let mut touches = Vec::with_capacity(published.changes.len());
        for change in &published.changes {
            match change {
                Change::Set { connection, user, since, changed, .. } => {
                    let shown = Arc::new(shown.next().expect("one for each that is set"));
                    let present = Present { user: user.clone(), user_since: *since, changed: *changed, shown };
                    let before = self.roll.set(connection.clone(), present);
                    touches.push((connection.clone(), before, None));
                }
                Change::Remove { connection, reason } => {
                    let before = self.roll.remove(connection);
                    touches.push((connection.clone(), before, Some(*reason)));
                }
            }
        }
        self.step(from, published.version(), touches);
        true
    }

    /// A version as watchers know it. While rows are withheld nobody may take it for the same version of the settled roster.
    fn label(&self, version: &Version) -> Version {
        if !self.withheld {
            return version.clone();
        }
        Version { epoch: Epoch::new(&format!("{}{}", version.epoch, self.mark)), number: version.number }
    }

    /// Settled, watchers learn by which version they can come back, those who were shown something meanwhile.
    fn unmark(&mut self) {
        let Some(version) = self.version.clone().filter(|_| !self.withheld && self.net.is_empty()) else { return };
        for level in LEVELS {
            let track = &self.tracks[level as usize];
            let is_marked = track.shown.as_ref().is_some_and(|shown| shown.epoch.as_str().ends_with(&self.mark));
            if is_marked && track.watchers > 0 {
                self.push_empty(level, &version);
            }
        }
    }

    fn step(&mut self, from: Version, to: Version, touches: Vec<Touch>) {
        for (connection, before, left) in &touches {
            self.net.touch(connection, before.as_ref(), *left);
        }
        self.version = Some(to);
        self.history_touches += touches.len();
        self.history.push_back(Step { from, touches });
        while self.history_touches > HISTORY || self.history.len() > HISTORY {
            let oldest = self.history.pop_front().expect("counts touches");
            self.history_touches -= oldest.touches.len();
        }
    }

    /// Puts the reading in place of the roll; the difference counts as touched. While the epoch settles nobody is taken away.
    fn replace(&mut self, reading: Reading, version: Version, reasons: &HashMap<ConnectionId, Reason>) {
        let from = self.version.as_ref().map(|version| self.label(version));
        self.withheld = reading.settling;
        let mut touches = Vec::new();
        let mut fresh = std::collections::HashSet::new();
        for (id, row) in reading.rows {
            let Some(present) = present(&row) else { continue };
            fresh.insert(id.clone());
            if self.roll.get(&id) != Some(&present) {
                let before = self.roll.set(id.clone(), present);
                touches.push((id, before, None));
            }
        }
        if !reading.settling {
            let gone: Vec<ConnectionId> =
                self.roll.connections().map(|(id, _)| id).filter(|id| !fresh.contains(*id)).cloned().collect();
            for id in gone {
                let before = self.roll.remove(&id);
                let reason = reasons.get(&id).copied().unwrap_or(Reason::Timeout);
                touches.push((id, before, Some(reason)));
            }
        }
        match from {
            Some(from) => self.step(from, version, touches),
            None => self.version = Some(version),
        }
    }

    /// Makes the frames of a tick. Returns whether a level has a new one.
    fn flush(&mut self) -> bool {
        let Some(to) = self.version.as_ref().map(|version| self.label(version)) else { return false };
        let net = std::mem::take(&mut self.net);
        let (time, occupancy) = (wall_now_ms(), self.roll.occupancy());
        let mut pushed = false;
        for (level, track) in LEVELS.into_iter().zip(&mut self.tracks) {
            if track.watchers == 0 {
                // Whoever comes begins with a snapshot of what is there then.
                track.first = track.next() + 1;
                track.ring.clear();
                (track.shown, track.occupancy, track.snapshot) = (Some(to.clone()), occupancy, None);
                continue;
            }
            let lists = lists(level, &net, &self.roll);
            let nothing = match &lists {
                Lists::Users(delta) => delta.is_empty(),
                Lists::Connections(delta) => delta.is_empty(),
                Lists::Occupancy => true,
            };
            let from = track.shown.clone().unwrap_or_else(|| to.clone());
            if nothing && track.occupancy == occupancy && from.epoch == to.epoch {
                continue;
            }
            track.push(Frame { from, to: to.clone(), lists, occupancy, time, encoded: Encoded::default() });
            pushed = true;
        }
        pushed
    }

    /// A frame that only says that the version is reached, for a watcher who was promised it.
    fn push_empty(&mut self, level: Level, version: &Version) {
        let (time, occupancy) = (wall_now_ms(), self.roll.occupancy());
        let track = &mut self.tracks[level as usize];
        let from = track.shown.clone().unwrap_or_else(|| version.clone());
        let lists = lists(level, &Net::default(), &self.roll);
        track.push(Frame { from, to: version.clone(), lists, occupancy, time, encoded: Encoded::default() });
    }

    /// What came after `since`, if it is still known. Nothing waits to be flushed.
    fn since(&self, level: Level, since: &Version) -> Option<Frame> {
        let track = &self.tracks[level as usize];
        let at = self.history.iter().position(|step| step.from == *since)?;
        let mut net = Net::default();
        for (connection, before, left) in self.history.iter().skip(at).flat_map(|step| &step.touches) {
            net.touch(connection, before.as_ref(), *left);
        }
        let to = track.shown.clone()?;
        Some(Frame {
            from: since.clone(),
            to,
            lists: lists(level, &net, &self.roll),
            occupancy: self.roll.occupancy(),
            time: wall_now_ms(),
            encoded: Encoded::default(),
        })
    }

    /// The whole as the level shows it; one copy for all who ask between two frames.
    fn snapshot(&mut self, level: Level) -> Arc<Snapshot> {
        let index = level as usize;
        if let Some(snapshot) = &self.tracks[index].snapshot {
            return snapshot.clone();
        }
        let whole = match level {
            Level::Users => Whole::Users(self.roll.members()),
            Level::Connections => {
                Whole::Connections(self.roll.connections().map(|(id, present)| (id.clone(), present.clone())).collect())
            }
            Level::Occupancy => Whole::Occupancy,
        };
        let version = self.tracks[index].shown.clone().or_else(|| Some(self.label(self.version.as_ref()?)));
        let snapshot = Arc::new(Snapshot {
            version: version.expect("asked for after the first reading"),
            whole,
            occupancy: self.roll.occupancy(),
            time: wall_now_ms(),
            encoded: Encoded::default(),
            encoded_again: Encoded::default(),
        });
        self.tracks[index].snapshot = Some(snapshot.clone());
        snapshot
    }
}

/// In the order of the tracks, which is that of the enum.
const LEVELS: [Level; 3] = [Level::Users, Level::Connections, Level::Occupancy];

fn lists(level: Level, net: &Net, roll: &Roll) -> Lists {
    match level {
        Level::Users => Lists::Users(net.by_user(roll)),
        Level::Connections => Lists::Connections(net.by_connection(roll)),
        Level::Occupancy => Lists::Occupancy,
    }
}

/// Why connections went of which the feed told while the roster was read: the reading itself only shows that they are not there.
fn reasons(buffered: &[Published]) -> HashMap<ConnectionId, Reason> {
    let changes = buffered.iter().flat_map(|published| &published.changes);
    let removals = changes.filter_map(|change| match change {
        Change::Remove { connection, reason } => Some((connection.clone(), *reason)),
        Change::Set { .. } => None,
    });
    removals.collect()
}

fn read_payload(payload: &str) -> Option<Shown> {
    serde_json::from_str(payload).inspect_err(|error| tracing::warn!(%error, "a stored payload cannot be read")).ok()
}

/// A stored row as readers know it; none for a payload that cannot be read.
pub(crate) fn present(row: &Row) -> Option<Present> {
    let shown = Arc::new(read_payload(&row.payload)?);
    Some(Present { user: row.user.clone(), user_since: row.since, changed: row.changed, shown })
}

#[cfg(test)]
mod tests;
