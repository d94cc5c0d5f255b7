//! A mirror: the state of one roster at a version, kept for those here who watch it.

mod asides;
mod copies;
mod frames;
mod pace;
mod state;
mod timing;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

pub use self::asides::{Aside, Listening};
pub use self::frames::{Cause, Copy, Delivery, Encoded, Frame, Lists, Snapshot, Whole};
pub(crate) use self::state::present;
use self::{
    pace::Pace,
    state::{State, new_mark, reasons},
};
use super::sleep_until_some;
use crate::{
    domain::{
        aside::{Said, What},
        delta::Net,
        level::Level,
        member::Roll,
        mode::{Bounds, Mode},
        name::{ConnectionId, RosterKey},
        roster::Published,
        version::{Epoch, Version},
    },
    store::Reading,
};

/// As many changes are kept while the roster is read; beyond it is read once more.
const BUFFER: usize = 1_024;

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
    /// Has given up what it began with, on which this frame follows, and wants a copy.
    Late(u64),
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

/// See the module.
pub struct Mirror {
    id: u64,
    key: RosterKey,
    state: Mutex<State>,
    watchers: AtomicUsize,
    /// The keeper is to read the roster, or to flush later.
    pub(crate) errands: Notify,
    wants_reading: std::sync::atomic::AtomicBool,
    /// How many asides there have been: most watchers have heard all of them, and see it by this alone.
    asides: AtomicU64,
    /// Somebody types.
    typing: Notify,
}

impl Mirror {
    pub(crate) fn new(id: u64, key: RosterKey, bounds: Bounds) -> Self {
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
            doubted: Default::default(),
            readings: 0,
            mark: new_mark(),
            flushed_at: None,
            flush_waits: false,
            somebody_waits: false,
            expected: None,
            timing: Default::default(),
            pace: Pace::new(bounds),
            copy_at: None,
            asides: Default::default(),
            wakes: Vec::new(),
        };
        Self {
            id,
            key,
            state: Mutex::new(state),
            watchers: AtomicUsize::new(0),
            errands: Notify::new(),
            wants_reading: true.into(),
            asides: AtomicU64::new(0),
            typing: Notify::new(),
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
        if state.turns(Instant::now()) {
            self.errands.notify_one();
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
        if state.wakes.is_empty() {
            state.asides.forget();
        }
        drop(state);
        self.errands.notify_one();
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// How its watchers are told of changes.
    pub(crate) fn mode(&self) -> Mode {
        self.lock().pace.mode()
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
                let at = *at;
                let track = &state.tracks[level as usize];
                let behind = at.checked_sub(track.first).and_then(|behind| usize::try_from(behind).ok());
                if let Some(frame) = behind.and_then(|behind| track.ring.get(behind)) {
                    cursor.at = At::Next(at + 1);
                    return Some(Delivery::Frame(frame.clone()));
                }
                // Fallen out of the ring.
                self.copy_after(&mut state, cursor, at)
            }
            At::Late(at) => {
                let at = *at;
                self.copy_after(&mut state, cursor, at)
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
                if since.is_none()
                    && let Some((snapshot, next)) = state.tracks[level as usize].begun(least.as_ref())
                {
                    cursor.at = At::Next(next);
                    return Some(Delivery::Snapshot(snapshot));
                }
                self.flush_or_wait(&mut state);
                if !state.net.is_empty() {
                    state.somebody_waits = true;
                    state.tracks[level as usize].begins_wait |= since.is_none();
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
                let (since, next) = (since.take().filter(|_| state.goes_on(level)), track.next());
                let known = since.as_ref().is_some_and(|since| track.shown.as_ref() == Some(since));
                let frame = since.filter(|_| !known).and_then(|since| state.since(level, &since));
                cursor.at = At::Next(next);
                if known {
                    return None;
                }
                Some(match frame {
                    Some(frame) => Delivery::Frame(Arc::new(frame)),
                    None => Delivery::Snapshot(state.begin(level)),
                })
            }
        }
    }

    /// Whether a watcher who still reads what it began with is too slow for it: what follows on it will not be kept until then.
    pub fn is_late(&self, cursor: &Cursor) -> bool {
        let At::Next(at) = cursor.at else { return false };
        self.lock().tracks[cursor.level as usize].is_late(at)
    }

    /// Whether a watcher who still reads a list reads it in vain: the channel has become so large that there are no lists any more.
    pub fn has_no_list_for(&self, cursor: &Cursor) -> bool {
        let At::Next(at) = cursor.at else { return false };
        let state = self.lock();
        !state.pace.mode().has_lists() && state.tracks[cursor.level as usize].is_before_turn(at)
    }

    /// A copy instead of what follows, for somebody who was [late](Mirror::is_late), or reads in [vain](Mirror::has_no_list_for).
    pub fn give_up(&self, cursor: &mut Cursor) {
        if let At::Next(at) = cursor.at {
            cursor.at = At::Late(at);
        }
    }

    fn copy_after(&self, state: &mut State, cursor: &mut Cursor, at: u64) -> Option<Delivery> {
        if let Some((copy, next)) = state.given(cursor.level, at, Instant::now()) {
            cursor.at = At::Next(next);
            return Some(Delivery::Copy(copy));
        }
        // A new copy is that of a tick's end: if one is due, that comes first.
        self.flush_or_wait(state);
        if !state.net.is_empty() {
            state.somebody_waits = true;
            return None;
        }
        let Some((copy, next)) = state.copy_after(cursor.level, at, Instant::now()) else {
            self.errands.notify_one();
            return None;
        };
        cursor.at = At::Next(next);
        Some(Delivery::Copy(copy))
    }

    /// Where a watcher begins who hears asides from here on, all but what `connection` says.
    pub fn listen(&self, connection: ConnectionId) -> Listening {
        self.lock().asides.listen(connection)
    }

    /// The next aside for a watcher who has been told of all changes that there are. Who has yet to be shown the roster hears nothing.
    pub fn next_aside(&self, cursor: &Cursor, listening: &mut Listening) -> Option<Delivery> {
        if matches!(cursor.at, At::Start { .. }) || listening.has_all(self.asides.load(Ordering::Acquire)) {
            return None;
        }
        let (aside, lost) = self.lock().asides.next(listening)?;
        Some(Delivery::Aside { aside, lost })
    }

    /// The feed told what is said. Typing lasts so long, if nothing more is heard of it.
    pub(crate) fn hear_aside(&self, said: Said, lasts: Duration) {
        let is_typing = matches!(said.what, What::Typing(true));
        let mut state = self.lock();
        state.asides.hear(said, Instant::now() + lasts);
        self.wake_listeners(&mut state);
        drop(state);
        if is_typing {
            self.typing.notify_one();
        }
    }

    /// Ends in its time what nobody says any more. Runs beside the keeper, whose readings may take long.
    pub(crate) async fn end_typing(&self) {
        loop {
            let next_at = {
                let mut state = self.lock();
                let next_at = state.asides.end_due(Instant::now());
                self.wake_listeners(&mut state);
                next_at
            };
            tokio::select! {
                biased;
                () = self.typing.notified() => {}
                () = sleep_until_some(next_at) => {}
            }
        }
    }

    /// Wakes whoever watches if something has been said that was not there before.
    fn wake_listeners(&self, state: &mut State) {
        if state.wakes.is_empty() {
            state.asides.forget();
        }
        let end = state.asides.end();
        if self.asides.swap(end, Ordering::Release) != end {
            self.wake(state);
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
        self.wake_listeners(&mut state);
        self.flush_or_wait(&mut state);
    }

    /// Whether the mirror has all that the store had when it was asked.
    pub(crate) fn has(&self, epoch: &Epoch, settling: bool, number: Option<u64>) -> bool {
        let state = self.lock();
        // Whom it doubts somebody may take over without a change of the roster's number.
        if (state.withheld || !state.doubted.is_empty()) && !settling {
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

    /// A change of this connection is on its way to the store, wanted since then: it may be timed. False where it is not; otherwise
    /// [`Mirror::timed`] is to be told of the answer.
    pub(crate) fn time(&self, connection: &ConnectionId, since: Instant) -> bool {
        self.is_watched() && self.lock().timing.begin(connection, since, Instant::now())
    }

    /// What became of a change that is timed: the version of which it is part, or nothing.
    pub(crate) fn timed(&self, version: Option<Version>) {
        let state = &mut *self.lock();
        state.timing.answered(version, state.version.as_ref());
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
            state.timing = Default::default();
            let load = state.load();
            state.pace.begin(load, Instant::now());
            state.history.clear();
            state.history_touches = 0;
        } else {
            self.flush_or_wait(&mut state);
            state.unmark();
        }
        state.expected = None;
        self.wake_listeners(&mut state);
        // Those who waited for this very reading look again.
        self.wake(&state);
        again
    }

    /// The keeper's timer: flushes what waits, and reads where a promised version did not come. Returns when it is to come again.
    pub(crate) fn run_errands(&self) -> Option<Instant> {
        let mut state = self.lock();
        if state.flush_waits || state.turns(Instant::now()) {
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
        if state.copy_at.is_some_and(|at| at <= Instant::now()) {
            state.copy_at = None;
            self.wake(&state);
        }
        let turn_at = state.pace.due_at(state.load()).filter(|_| flush_at.is_none());
        let now = Instant::now();
        let let_go_at = state.tracks.iter_mut().filter_map(|track| track.let_go(now)).min();
        let expected_at = state.expected.as_ref().map(|(at, _)| *at);
        flush_at.into_iter().chain(expected_at).chain(state.copy_at).chain(turn_at).chain(let_go_at).min()
    }

    /// The first change at once, later ones with the next tick.
    fn flush_or_wait(&self, state: &mut State) {
        let now = Instant::now();
        if state.net.is_empty() && !state.turns(now) {
            state.flush_waits = false;
            return;
        }
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
        let pushed = state.flush(now);
        if std::mem::take(&mut state.somebody_waits) || pushed {
            self.wake(state);
        }
        if state.pace.due_at(state.load()).is_some() || state.pace.has_just_begun(now) {
            // What is to be done some time later, a way back or to let go of a copy, nobody else will remind the keeper of.
            self.errands.notify_one();
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

#[cfg(test)]
mod tests;
