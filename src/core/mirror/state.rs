//! The state of a mirror: what is applied, what is told, and what is remembered of it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Cause, Copy, Encoded, Frame, Lists, Snapshot, Wake, Whole, asides::Asides, copies::Copies, pace::Pace,
    timing::Timing,
};
use crate::{
    domain::{
        chance,
        delta::Net,
        level::Level,
        member::{Occupancy, Present, Reason, Roll, Shown},
        mode::Mode,
        name::ConnectionId,
        roster::{Change, Published, Row},
        time::wall_now_ms,
        version::{Epoch, Version},
    },
    store::Reading,
};

/// As many frames wait for a slow watcher; one who is further behind gets a snapshot.
pub(super) const RING: usize = 64;
/// And as many bytes of what they show, or this much for each connection of a larger roster: beyond, the whole is less than what is missing.
const RING_BYTES: usize = 512 * 1024;
const RING_BYTES_EACH: usize = 512;
/// As many touched connections are remembered for watchers who come back with `since`.
const HISTORY: usize = 1_024;
/// How long a promised version may take to come by the feed before the roster is read.
pub(super) const EXPECTED: Duration = Duration::from_millis(500);
/// For so long watches begin with the same snapshot, as far as it has what they were promised, and no more frames than this follow on it: encoding
/// another and keeping it for each who comes would cost more than some frames do.
const BEGUN: Duration = Duration::from_secs(1);
const BEGUN_FRAMES: u64 = 16;
/// So many connections make a roster large enough for that.
pub(super) const BEGUN_LEAST: u64 = 200;
/// A watcher who is this far behind while pages of its first snapshot are still to come will not be in time.
const LATE: u64 = 32;
/// For so long a change of mode is told with one and the same copy, as far as what follows on it is kept: everybody needs it at the same moment.
const TURN: Duration = Duration::from_secs(10);
/// What begins a mark behind an epoch.
const MARK: char = '~';

pub(super) fn new_mark() -> String {
    format!("{MARK}{:08x}", chance::random::<u32>())
}

/// One level of a mirror.
#[derive(Debug, Default)]
pub(super) struct Track {
    pub(super) watchers: usize,
    /// The number of the first frame in the ring.
    pub(super) first: u64,
    pub(super) ring: VecDeque<Arc<Frame>>,
    ring_bytes: usize,
    /// What watchers of this level have been shown; the mirror may be ahead by changes that this level does not show.
    pub(super) shown: Option<Version>,
    pub(super) occupancy: Occupancy,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// The last snapshot with which a watch began.
    pub(super) begun: Option<Begun>,
    /// Somebody who wants to begin waits for the end of the tick.
    pub(super) begins_wait: bool,
    pub(super) copies: Copies,
    /// The last change of mode.
    turn: Option<Turn>,
}

/// A change of mode: whoever stood before it gets the whole as the new mode shows it.
#[derive(Debug)]
struct Turn {
    /// The number of the first frame in the new mode.
    next: u64,
    /// What everybody gets; let go after a while.
    copy: Option<Arc<Copy>>,
    until: Instant,
}

/// A snapshot with which watches begin, for a while: who comes right after gets the same, and what followed on it out of the ring.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) snapshot: Arc<Snapshot>,
    /// The number of the frame that follows.
    pub(super) next: u64,
    pub(super) until: Instant,
}

impl Track {
    pub(super) fn next(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    /// Whether somebody who is here, with pages of a snapshot still to come, will not be in time for what follows on it.
    pub(super) fn is_late(&self, at: u64) -> bool {
        at + LATE < self.next()
    }

    /// Whether what somebody who stands at `at` was shown last is in another mode.
    pub(super) fn is_before_turn(&self, at: u64) -> bool {
        self.turn.as_ref().is_some_and(|turn| at < turn.next)
    }

    /// The copy for those who stood before the last change of mode, and where it goes on.
    fn turned(&self, at: u64) -> Option<(Arc<Copy>, u64)> {
        let turn = self.turn.as_ref().filter(|turn| at < turn.next && turn.next >= self.first)?;
        Some((turn.copy.clone()?, turn.next))
    }

    /// Lets go of what a change of mode was told with when everybody has had the time to ask for it. Returns when that will be.
    pub(super) fn let_go(&mut self, now: Instant) -> Option<Instant> {
        let turn = self.turn.as_mut().filter(|turn| turn.copy.is_some())?;
        if turn.until > now {
            return Some(turn.until);
        }
        turn.copy = None;
        None
    }

    /// Nobody goes on from what was before: who is here gets the whole at `shown`.
    fn restart(&mut self, shown: &Version, occupancy: Occupancy) {
        self.first = self.next() + 1;
        self.ring.clear();
        self.ring_bytes = 0;
        (self.shown, self.occupancy, self.snapshot) = (Some(shown.clone()), occupancy, None);
        self.begun = None;
    }

    /// The snapshot with which a watch begins that was promised at least this, if there is one, and where it goes on.
    pub(super) fn begun(&self, least: Option<&Version>) -> Option<(Arc<Snapshot>, u64)> {
        let begun = self.begun.as_ref().filter(|begun| begun.until > Instant::now())?;
        let is_recent = begun.next >= self.first && begun.next + BEGUN_FRAMES >= self.next();
        let reaches = least.is_none_or(|least| begun.snapshot.version.reaches(least));
        (is_recent && reaches).then(|| (begun.snapshot.clone(), begun.next))
    }

    /// Another frame, of a roster with so many connections.
    pub(super) fn push(&mut self, frame: Frame, connections: u64) {
        self.shown = Some(frame.to.clone());
        self.occupancy = frame.occupancy;
        self.snapshot = None;
        self.begun.take_if(|begun| begun.until <= Instant::now());
        let each = usize::try_from(connections).unwrap_or(usize::MAX).saturating_mul(RING_BYTES_EACH);
        self.ring_bytes += frame.lists.bytes();
        self.ring.push_back(Arc::new(frame));
        // The latest is always there, whatever its length.
        while self.ring.len() > RING || (self.ring_bytes > RING_BYTES.max(each) && self.ring.len() > 1) {
            let oldest = self.ring.pop_front().expect("it is not empty");
            self.ring_bytes -= oldest.lists.bytes();
            self.first += 1;
        }
    }
}

/// One touched connection: what stood there before, and why it went.
pub(super) type Touch = (ConnectionId, Option<Present>, Option<Reason>);

pub(super) struct Step {
    pub(super) from: Version,
    pub(super) touches: Vec<Touch>,
}

pub(super) struct State {
    /// The version that has been applied; none before the first reading.
    pub(super) version: Option<Version>,
    pub(super) roll: Roll,
    pub(super) net: Net,
    pub(super) tracks: [Track; 3],
    pub(super) history: VecDeque<Step>,
    pub(super) history_touches: usize,
    /// Changes heard while the roster is being read.
    pub(super) buffer: Option<Vec<Published>>,
    pub(super) buffer_overflowed: bool,
    /// Rows that a settling epoch has not confirmed are still shown.
    pub(super) withheld: bool,
    /// Connections whose rows an older copy of the store shows otherwise than they are shown here, and that the epoch has not confirmed. They end in
    /// their time; until then they are not believed.
    pub(super) doubted: HashSet<ConnectionId>,
    /// How many readings there have been.
    pub(super) readings: u64,
    /// What epochs are called meanwhile, by this mirror alone: others show something else at the same number.
    pub(super) mark: String,
    pub(super) flushed_at: Option<Instant>,
    pub(super) flush_waits: bool,
    /// Some watcher was told to look again after the next flush, whether that shows anything or not.
    pub(super) somebody_waits: bool,
    /// The highest version that a watcher was promised, and when it should have come.
    pub(super) expected: Option<(Instant, Version)>,
    pub(super) timing: Timing,
    pub(super) pace: Pace,
    /// When there may be another copy for a slow watcher who waits for it.
    pub(super) copy_at: Option<Instant>,
    pub(super) asides: Asides,
    pub(super) wakes: Vec<(Arc<dyn Wake>, usize)>,
}

impl State {
    /// A watcher waits for this version, which the feed should bring soon.
    pub(super) fn expect(&mut self, version: &Version) {
        match &mut self.expected {
            Some((_, promised)) if promised.reaches(version) => {}
            Some((_, promised)) => *promised = version.clone(),
            None => self.expected = Some((Instant::now() + EXPECTED, version.clone())),
        }
    }

    pub(super) fn tick(&self) -> Duration {
        self.pace.tick(self.load(), self.watchers(), self.roll.occupancy().connections as usize)
    }

    fn watchers(&self) -> usize {
        self.tracks.iter().map(|track| track.watchers).sum()
    }

    /// What decides the mode.
    pub(super) fn load(&self) -> u64 {
        self.roll.occupancy().users.saturating_mul(self.watchers() as u64)
    }

    /// Whether the mode is to change now.
    pub(super) fn turns(&self, now: Instant) -> bool {
        self.version.is_some() && self.pace.due(self.load(), now).is_some()
    }

    /// Applies changes that follow on; false where something is missing in between.
    pub(super) fn apply(&mut self, published: &Published) -> bool {
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
            Change::Remove { .. } | Change::Person => None,
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
                    self.timing.heard(connection);
                    self.doubted.remove(connection);
                    touches.push((connection.clone(), before, None));
                }
                Change::Remove { connection, reason } => {
                    self.doubted.remove(connection);
                    let before = self.roll.remove(connection);
                    self.timing.heard(connection);
                    touches.push((connection.clone(), before, Some(*reason)));
                }
                // What is kept of a person stands in no channel.
                Change::Person => {}
            }
        }
        self.step(from, published.version(), touches);
        true
    }

    /// A version as watchers know it. While rows are withheld or doubted nobody may take it for the same version of the settled roster.
    pub(super) fn label(&self, version: &Version) -> Version {
        if !self.withheld && self.doubted.is_empty() {
            return version.clone();
        }
        Version { epoch: Epoch::new(&format!("{}{}", version.epoch, self.mark)), number: version.number }
    }

    /// Settled, watchers learn by which version they can come back, those who were shown something meanwhile.
    pub(super) fn unmark(&mut self) {
        let Some(version) =
            self.version.clone().filter(|_| !self.withheld && self.doubted.is_empty() && self.net.is_empty())
        else {
            return;
        };
        for level in LEVELS {
            let track = &self.tracks[level as usize];
            let is_marked = track.shown.as_ref().is_some_and(|shown| shown.epoch.as_str().contains(MARK));
            if is_marked && track.watchers > 0 {
                self.push_empty(level, &version);
            }
        }
    }

    pub(super) fn step(&mut self, from: Version, to: Version, touches: Vec<Touch>) {
        for (connection, before, left) in &touches {
            self.net.touch(connection, before.as_ref(), *left);
            if let (Some(before), Some(_)) = (before, left) {
                self.asides.gone(&before.user, connection);
            }
        }
        self.timing.reached(&to);
        self.version = Some(to);
        self.history_touches += touches.len();
        self.history.push_back(Step { from, touches });
        while self.history_touches > HISTORY || self.history.len() > HISTORY {
            let oldest = self.history.pop_front().expect("counts touches");
            self.history_touches -= oldest.touches.len();
        }
    }

    /// Puts the reading in place of the roll; the difference counts as touched. While the epoch settles nobody is taken away.
    pub(super) fn replace(&mut self, reading: Reading, version: Version, reasons: &HashMap<ConnectionId, Reason>) {
        let from = self.version.as_ref().map(|version| self.label(version));
        self.withheld = reading.settling;
        self.doubted.clear();
        let mut touches = Vec::new();
        let mut fresh = HashSet::new();
        for (id, row) in reading.rows {
            let Some(present) = present(&row) else { continue };
            fresh.insert(id.clone());
            if self.roll.get(&id) != Some(&present) {
                // Who has earlier state knows more of it than a copy of the store from before.
                if from.is_some() && row.epoch != version.epoch {
                    self.doubted.insert(id);
                    continue;
                }
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
        let Some(from) = from else {
            self.version = Some(version);
            return;
        };
        if !touches.is_empty() && self.label(&version) == from {
            // A row that is confirmed as it was has no number of its own, but here it may be new.
            self.mark = new_mark();
        }
        self.step(from, version, touches);
    }

    /// Makes the frames of a tick, or changes the mode. Returns whether a level has something new.
    pub(super) fn flush(&mut self, now: Instant) -> bool {
        let Some(to) = self.version.as_ref().map(|version| self.label(version)) else { return false };
        if let Some(mode) = self.pace.due(self.load(), now) {
            return self.turn(mode, &to, now);
        }
        let mode = self.pace.mode();
        let net = std::mem::take(&mut self.net);
        let (time, occupancy) = (wall_now_ms(), self.roll.occupancy());
        // Of several levels the first one tells.
        let mut wanted_at = self.timing.flushed();
        let mut pushed = false;
        for (level, track) in LEVELS.into_iter().zip(&mut self.tracks) {
            if track.watchers == 0 {
                // Whoever comes begins with a snapshot of what is there then.
                track.restart(&to, occupancy);
                continue;
            }
            let lists = lists(level, mode, &net, &self.roll);
            let nothing = match &lists {
                Lists::Users(delta) => delta.is_empty(),
                Lists::Connections(delta) => delta.is_empty(),
                Lists::Occupancy => true,
            };
            let from = track.shown.clone().unwrap_or_else(|| to.clone());
            if nothing && track.occupancy == occupancy && from.epoch == to.epoch {
                continue;
            }
            let (to, wanted_at) = (to.clone(), wanted_at.take());
            let frame = Frame { mode, from, to, lists, occupancy, time, wanted_at, encoded: Encoded::default() };
            track.push(frame, occupancy.connections);
            pushed = true;
        }
        for level in LEVELS {
            // Changes may come so quickly that nobody ever finds the end of a tick.
            if std::mem::take(&mut self.tracks[level as usize].begins_wait) {
                self.begin(level);
            }
        }
        pushed
    }

    /// Goes over to another mode. What waited to be told is part of the whole that everybody gets.
    fn turn(&mut self, mode: Mode, to: &Version, now: Instant) -> bool {
        self.net = Net::default();
        self.timing.flushed();
        self.pace.change(mode, now);
        let occupancy = self.roll.occupancy();
        for level in LEVELS {
            let track = &mut self.tracks[level as usize];
            track.restart(to, occupancy);
            let (next, is_watched) = (track.next(), track.watchers > 0);
            let copy = is_watched.then(|| Arc::new(Copy::of(self.snapshot(level), Cause::Mode)));
            let track = &mut self.tracks[level as usize];
            if let Some(copy) = &copy {
                track.copies.add(copy, next, now);
            }
            track.turn = Some(Turn { next, copy, until: now + TURN });
            if std::mem::take(&mut track.begins_wait) {
                self.begin(level);
            }
        }
        true
    }

    /// A frame that only says that the version is reached, for a watcher who was promised it.
    pub(super) fn push_empty(&mut self, level: Level, version: &Version) {
        let (time, occupancy) = (wall_now_ms(), self.roll.occupancy());
        let track = &mut self.tracks[level as usize];
        let from = track.shown.clone().unwrap_or_else(|| version.clone());
        let mode = self.pace.mode();
        let lists = lists(level, mode, &Net::default(), &self.roll);
        let (to, wanted_at) = (version.clone(), None);
        let frame = Frame { mode, from, to, lists, occupancy, time, wanted_at, encoded: Encoded::default() };
        track.push(frame, occupancy.connections);
    }

    /// Whether somebody who comes back with `since` can go on from there: it stands for a list, which where there are none nobody goes on with.
    pub(super) fn goes_on(&self, level: Level) -> bool {
        level == Level::Occupancy || self.pace.mode().has_lists()
    }

    /// What came after `since`, if it is still known. Nothing waits to be flushed.
    pub(super) fn since(&self, level: Level, since: &Version) -> Option<Frame> {
        let mode = self.pace.mode();
        let track = &self.tracks[level as usize];
        let at = self.history.iter().position(|step| step.from == *since)?;
        let mut net = Net::default();
        for (connection, before, left) in self.history.iter().skip(at).flat_map(|step| &step.touches) {
            net.touch(connection, before.as_ref(), *left);
        }
        let to = track.shown.clone()?;
        Some(Frame {
            mode,
            from: since.clone(),
            to,
            lists: lists(level, mode, &net, &self.roll),
            occupancy: self.roll.occupancy(),
            time: wall_now_ms(),
            wanted_at: None,
            encoded: Encoded::default(),
        })
    }

    /// A copy that was made before, for a watcher who has fallen out of the ring at `at`, and where it goes on.
    pub(super) fn given(&mut self, level: Level, at: u64, now: Instant) -> Option<(Arc<Copy>, u64)> {
        let track = &mut self.tracks[level as usize];
        // Before a change of mode there are copies too, in the mode of then.
        let least = track.turn.as_ref().map_or(at, |turn| at.max(turn.next - 1));
        track.turned(at).or_else(|| track.copies.after(least, now))
    }

    /// A copy for a watcher who has fallen out of the ring at `at`, and where in the ring it goes on. Nothing waits to be flushed.
    /// None when the watcher has the latest one that there may be now; `copy_at` then says when to look again.
    pub(super) fn copy_after(&mut self, level: Level, at: u64, now: Instant) -> Option<(Arc<Copy>, u64)> {
        if let Some(given) = self.given(level, at, now) {
            return Some(given);
        }
        let next = self.tracks[level as usize].next();
        let track = &self.tracks[level as usize];
        let (turns, due_at) = (track.is_before_turn(at), track.copies.next_at());
        // Who is in another mode does not wait for what others need so long to read.
        if due_at.is_some_and(|due_at| due_at > now) && !turns {
            self.copy_at = self.copy_at.into_iter().chain(due_at).min();
            return None;
        }
        let cause = if turns { Cause::Mode } else { Cause::Slow };
        let copy = Arc::new(Copy::of(self.snapshot(level), cause));
        self.tracks[level as usize].copies.add(&copy, next, now);
        Some((copy, next))
    }

    /// The whole for a watch that begins.
    pub(super) fn begin(&mut self, level: Level) -> Arc<Snapshot> {
        let snapshot = self.snapshot(level);
        let is_large = self.roll.occupancy().connections >= BEGUN_LEAST || self.pace.mode() != Mode::Full;
        let track = &mut self.tracks[level as usize];
        track.begun =
            is_large.then(|| Begun { snapshot: snapshot.clone(), next: track.next(), until: Instant::now() + BEGUN });
        snapshot
    }

    /// The whole as the level shows it; one copy for all who ask between two frames.
    pub(super) fn snapshot(&mut self, level: Level) -> Arc<Snapshot> {
        let index = level as usize;
        if let Some(snapshot) = &self.tracks[index].snapshot {
            return snapshot.clone();
        }
        let mode = self.pace.mode();
        let whole = match level {
            _ if !mode.has_lists() => Whole::Occupancy,
            Level::Users => Whole::Users(self.roll.members()),
            Level::Connections => {
                Whole::Connections(self.roll.connections().map(|(id, present)| (id.clone(), present.clone())).collect())
            }
            Level::Occupancy => Whole::Occupancy,
        };
        let version = self.tracks[index].shown.clone().or_else(|| Some(self.label(self.version.as_ref()?)));
        let snapshot = Arc::new(Snapshot {
            level,
            mode,
            version: version.expect("asked for after the first reading"),
            whole,
            occupancy: self.roll.occupancy(),
            time: wall_now_ms(),
            encoded: Encoded::default(),
        });
        self.tracks[index].snapshot = Some(snapshot.clone());
        snapshot
    }
}

/// In the order of the tracks, which is that of the enum.
const LEVELS: [Level; 3] = [Level::Users, Level::Connections, Level::Occupancy];

fn lists(level: Level, mode: Mode, net: &Net, roll: &Roll) -> Lists {
    match level {
        _ if !mode.has_lists() => Lists::Occupancy,
        Level::Users => Lists::Users(net.by_user(roll)),
        Level::Connections => Lists::Connections(net.by_connection(roll)),
        Level::Occupancy => Lists::Occupancy,
    }
}

/// Why connections went of which the feed told while the roster was read: the reading itself only shows that they are not there.
pub(super) fn reasons(buffered: &[Published]) -> HashMap<ConnectionId, Reason> {
    let changes = buffered.iter().flat_map(|published| &published.changes);
    let removals = changes.filter_map(|change| match change {
        Change::Remove { connection, reason } => Some((connection.clone(), *reason)),
        Change::Set { .. } | Change::Person => None,
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
