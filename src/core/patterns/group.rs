//! One pattern: its channels, what was told of them, and who is where in that.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    core::{
        mirror::{Cause, Cursor, Delivery, Encoded, Frame, Lists, Mirror, Snapshot, Wake, Whole},
        mirrors::Mirrors,
    },
    domain::{
        chance::Map,
        delta::{ConnectionDelta, UserDelta},
        level::Level,
        member::Occupancy,
        mode::Mode,
        name::{ChannelName, RosterKey},
        pattern::Pattern,
        time::wall_now_ms,
        version::Version,
    },
};

/// As many frames wait for a slow watcher, and as many bytes of what they show; one who is further behind gets the whole.
const RING: usize = 1_024;
const RING_BYTES: usize = 1024 * 1024;
/// A channel that comes with more members than these begins without their list.
const JOINS: u64 = 100;
/// Watchers who begin within this begin with the same list of channels.
const SHARED: Duration = Duration::from_secs(1);
/// Whoever reads too slowly for the ring gets another list at most so often: so few of them are kept, however many read slowly.
const AGAIN: Duration = Duration::from_secs(5);

/// A change of one channel of a pattern.
#[derive(Debug)]
pub struct PatternFrame {
    /// Which.
    pub channel: ChannelName,
    /// What. From the number 0 where the channel begins, for those who watch the pattern.
    pub frame: Arc<Frame>,
    /// As the doors write it.
    pub encoded: Encoded,
}

/// The occupied channels of a pattern at one moment.
#[derive(Debug)]
pub struct Channels {
    /// Each with its own version.
    pub channels: Vec<(ChannelName, Version, Occupancy)>,
    /// Unix milliseconds.
    pub time: u64,
    /// As the doors write it, to begin with, and again.
    pub encoded: Encoded,
    /// As the doors write it for whoever was too slow.
    pub encoded_again: Encoded,
    next: u64,
    made_at: Instant,
}

/// What a watcher of a pattern gets next.
#[derive(Debug)]
pub enum PatternDelivery {
    /// The whole, to begin with or for the given reason.
    Channels(Arc<Channels>, Option<Cause>),
    /// A change.
    Frame(Arc<PatternFrame>),
    /// The pattern means more channels than may be watched: the watch has ended.
    Over,
}

/// What became of the list of a group's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Listed,
    Over,
}

/// See the module.
pub(crate) struct Group {
    id: u64,
    pattern: Pattern,
    level: Level,
    /// Whether namespaces bound what is told.
    is_bounded: bool,
    watchers: AtomicUsize,
    marks: Arc<Marks>,
    wake: Arc<dyn Wake>,
    /// Whoever waits for the list is told.
    listed: Notify,
    state: Mutex<State>,
}

/// The mirrors that have something new.
#[derive(Default)]
struct Marks {
    marked: Mutex<BTreeSet<u64>>,
    errands: Notify,
}

impl Wake for Marks {
    fn wake(&self, mirror: u64) {
        self.marked.lock().expect("nothing panics while it holds the marks").insert(mirror);
        self.errands.notify_one();
    }
}

#[derive(Default)]
struct State {
    channels: BTreeMap<ChannelName, Member>,
    by_mirror: Map<u64, ChannelName>,
    /// Those who were listed and are not known yet.
    unknown: BTreeSet<ChannelName>,
    /// Counts the lists that were begun.
    list: u64,
    to_list: bool,
    is_listed: bool,
    is_over: bool,
    ring: VecDeque<Arc<PatternFrame>>,
    ring_bytes: usize,
    first: u64,
    copy: Option<Arc<Channels>>,
    /// When there may be another list for whoever is too slow.
    copy_at: Option<Instant>,
    wakes: Vec<(Arc<dyn Wake>, usize)>,
}

/// One channel, as a watcher of its mirror.
struct Member {
    mirror: Arc<Mirror>,
    cursor: Cursor,
    /// What watchers have been told; none before the first reading.
    shown: Option<(Version, Occupancy)>,
    /// Whether the index has it, as far as was heard.
    is_occupied: bool,
    /// In which list it was, or came since that began.
    listed_in: u64,
    /// During which list it went.
    gone_in: u64,
}

impl Group {
    pub fn new(id: u64, pattern: Pattern, level: Level, is_bounded: bool) -> Arc<Self> {
        let marks = Arc::new(Marks::default());
        Arc::new(Self {
            id,
            pattern,
            level,
            is_bounded,
            watchers: AtomicUsize::new(0),
            wake: marks.clone(),
            marks,
            listed: Notify::new(),
            state: Mutex::default(),
        })
    }

    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    pub fn level(&self) -> Level {
        self.level
    }

    pub fn is_bounded(&self) -> bool {
        self.is_bounded
    }

    pub fn len(&self) -> usize {
        self.lock().channels.len()
    }

    pub fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    pub fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Waits until it is known which channels there are.
    pub async fn listed(&self) -> Standing {
        loop {
            // Told of all that comes from here on, before it looks whether it has come already.
            let listed = self.listed.notified();
            {
                let state = self.lock();
                if state.is_over {
                    return Standing::Over;
                }
                if state.is_listed {
                    return Standing::Listed;
                }
            }
            listed.await;
        }
    }

    /// Waits for something to do.
    pub async fn errands(&self) {
        self.marks.errands.notified().await;
    }

    /// When there is something to do by time alone.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.lock().copy_at
    }

    pub fn want_list(&self) {
        self.lock().to_list = true;
        self.marks.errands.notify_one();
    }

    /// Whether the channels are to be listed; from here on they are.
    pub fn begin_list(&self) -> bool {
        let mut state = self.lock();
        let begins = std::mem::take(&mut state.to_list) && !state.is_over;
        state.list += u64::from(begins);
        begins
    }

    /// All have been listed: what has not come since the list began is not occupied.
    pub fn end_list(&self) {
        let mut state = self.lock();
        let list = state.list;
        for member in state.channels.values_mut().filter(|member| member.listed_in < list) {
            member.is_occupied = false;
        }
        let empty: Vec<ChannelName> = state
            .channels
            .iter()
            .filter(|(_, member)| member.has_ended())
            .map(|(channel, _)| channel.clone())
            .collect();
        for channel in &empty {
            self.let_go(&mut state, channel);
        }
        state.is_listed = true;
        drop(state);
        self.listed.notify_waiters();
        self.wake_watchers();
    }

    /// A channel is occupied: it was listed, or has come into the index.
    pub fn take_in(&self, channel: &ChannelName, level: Level, is_listed: bool, most: usize, mirrors: &Arc<Mirrors>) {
        let mut state = self.lock();
        if state.is_over {
            return;
        }
        let list = state.list;
        if let Some(member) = state.channels.get_mut(channel) {
            member.listed_in = list;
            // What was heard to go while the list was read is newer than the list.
            member.is_occupied |= !is_listed || member.gone_in < list;
            return;
        }
        if state.channels.len() >= most {
            state.is_over = true;
            self.end(&mut state);
            return;
        }
        let mirror = mirrors.watch(&RosterKey::Channel(channel.clone()), level, &self.wake);
        state.by_mirror.insert(mirror.id(), channel.clone());
        if !state.is_listed {
            state.unknown.insert(channel.clone());
        }
        self.marks.wake(mirror.id());
        let cursor = Cursor::new(level, None, None);
        let member = Member { mirror, cursor, shown: None, is_occupied: true, listed_in: list, gone_in: 0 };
        state.channels.insert(channel.clone(), member);
    }

    /// A channel has gone out of the index.
    pub fn gone(&self, channel: &ChannelName) {
        let mut state = self.lock();
        let list = state.list;
        let Some(member) = state.channels.get_mut(channel) else { return };
        (member.is_occupied, member.gone_in) = (false, list);
        if member.has_ended() {
            self.let_go(&mut state, channel);
        }
    }

    /// Takes what the mirrors have.
    pub fn pull(&self) {
        let marked = std::mem::take(&mut *self.marks.marked.lock().expect("nothing panics while it holds the marks"));
        let mut state = self.lock();
        let was_ready = state.is_ready();
        let before = state.next();
        for mirror in marked {
            let Some(channel) = state.by_mirror.get(&mirror).cloned() else { continue };
            let state = &mut *state;
            let Some(member) = state.channels.get_mut(&channel) else { continue };
            let mut told = Vec::new();
            while let Some(delivery) = member.mirror.next(&mut member.cursor) {
                told.extend(member.take(delivery));
            }
            if member.shown.is_some() {
                state.unknown.remove(&channel);
            }
            let has_ended = member.has_ended();
            for frame in told {
                // Who begins later begins with the state of then.
                if was_ready {
                    state.push(&channel, frame);
                }
            }
            if has_ended {
                self.let_go(state, &channel);
            }
        }
        let is_due = state.copy_at.take_if(|at| *at <= Instant::now()).is_some();
        let is_news = state.next() != before || (!was_ready && state.is_ready()) || is_due;
        drop(state);
        if is_news {
            self.wake_watchers();
        }
    }

    /// Nobody is told anything any more.
    pub fn close(&self) {
        self.end(&mut self.lock());
    }

    fn end(&self, state: &mut State) {
        let channels: Vec<ChannelName> = state.channels.keys().cloned().collect();
        for channel in &channels {
            self.let_go(state, channel);
        }
        (state.ring, state.ring_bytes, state.copy) = (VecDeque::new(), 0, None);
        self.listed.notify_waiters();
        self.marks.errands.notify_one();
        for (wake, _) in &state.wakes {
            wake.wake(self.id);
        }
    }

    fn let_go(&self, state: &mut State, channel: &ChannelName) {
        let Some(member) = state.channels.remove(channel) else { return };
        state.by_mirror.remove(&member.mirror.id());
        state.unknown.remove(channel);
        member.mirror.detach(member.cursor.level(), &self.wake);
    }

    fn wake_watchers(&self) {
        for (wake, _) in &self.lock().wakes {
            wake.wake(self.id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a group")
    }
}

impl Member {
    /// Whether nobody is there any more, and the index says so too.
    fn has_ended(&self) -> bool {
        !self.is_occupied && self.shown.as_ref().is_some_and(|(_, occupancy)| occupancy.connections == 0)
    }

    /// Takes what the mirror delivers. Returns the frame that watchers are told.
    fn take(&mut self, delivery: Delivery) -> Option<Arc<Frame>> {
        // Whoever watches the pattern knows nothing of a channel in which nobody is.
        let begins = self.shown.as_ref().is_none_or(|(_, occupancy)| occupancy.connections == 0);
        let (frame, version, occupancy) = match delivery {
            Delivery::Frame(frame) => {
                let (version, occupancy) = (frame.to.clone(), frame.occupancy);
                let frame = match begins {
                    true if occupancy.connections == 0 => None,
                    true => Some(Arc::new(from_nothing(&frame))),
                    false => Some(frame),
                };
                (frame, version, occupancy)
            }
            Delivery::Snapshot(snapshot) => {
                let frame = (snapshot.occupancy.connections > 0).then(|| Arc::new(begun(&snapshot)));
                (frame, snapshot.version.clone(), snapshot.occupancy)
            }
            Delivery::Copy(copy) => {
                let (version, occupancy) = copy.state();
                (Some(Arc::new(counted(version.clone(), occupancy))), version, occupancy)
            }
            // What is said in passing is for those who watch the channel itself.
            Delivery::Aside { .. } => return None,
        };
        self.shown = Some((version, occupancy));
        frame
    }
}

/// A channel begins, for those who watch the pattern: everybody in it has joined, unless they are too many for a list.
fn begun(snapshot: &Snapshot) -> Frame {
    if snapshot.occupancy.connections > JOINS {
        return counted(snapshot.version.clone(), snapshot.occupancy);
    }
    let lists = match &snapshot.whole {
        Whole::Users(members) => Lists::Users(UserDelta { join: members.clone(), ..UserDelta::default() }),
        Whole::Connections(connections) => {
            Lists::Connections(ConnectionDelta { join: connections.clone(), ..ConnectionDelta::default() })
        }
        Whole::Occupancy => Lists::Occupancy,
    };
    Frame { mode: snapshot.mode, lists, time: snapshot.time, ..counted(snapshot.version.clone(), snapshot.occupancy) }
}

/// A channel begins with a change of its mirror.
fn from_nothing(frame: &Frame) -> Frame {
    let Frame { mode, lists, time, .. } = frame;
    Frame { mode: *mode, lists: lists.clone(), time: *time, ..counted(frame.to.clone(), frame.occupancy) }
}

/// A channel begins anew with its counts alone.
fn counted(to: Version, occupancy: Occupancy) -> Frame {
    Frame {
        mode: Mode::Occupancy,
        from: Version { epoch: to.epoch.clone(), number: 0 },
        to,
        lists: Lists::Occupancy,
        occupancy,
        time: wall_now_ms(),
        wanted_at: None,
        encoded: Encoded::default(),
    }
}

impl State {
    fn next(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    /// Whether the whole can be shown.
    fn is_ready(&self) -> bool {
        self.is_listed && self.unknown.is_empty()
    }

    fn push(&mut self, channel: &ChannelName, frame: Arc<Frame>) {
        self.ring_bytes += frame.lists.bytes();
        let frame = PatternFrame { channel: channel.clone(), frame, encoded: Encoded::default() };
        self.ring.push_back(Arc::new(frame));
        while self.ring.len() > RING || (self.ring_bytes > RING_BYTES && self.ring.len() > 1) {
            let oldest = self.ring.pop_front().expect("it is not empty");
            self.ring_bytes -= oldest.frame.lists.bytes();
            self.first += 1;
        }
    }

    /// The whole, for a watcher who begins or was too slow. None where there may be none now.
    fn whole(&mut self, is_slow: bool) -> Option<Arc<Channels>> {
        if !self.is_ready() {
            return None;
        }
        let now = Instant::now();
        if let Some(copy) = &self.copy {
            let goes_on = copy.next >= self.first;
            if goes_on && (is_slow || copy.made_at + SHARED > now) {
                return Some(copy.clone());
            }
            let again_at = copy.made_at + AGAIN;
            if is_slow && again_at > now {
                self.copy_at = self.copy_at.into_iter().chain([again_at]).min();
                return None;
            }
        }
        let shown = |(channel, member): (&ChannelName, &Member)| {
            let (version, occupancy) = member.shown.clone()?;
            (occupancy.connections > 0).then(|| (channel.clone(), version, occupancy))
        };
        let copy = Arc::new(Channels {
            channels: self.channels.iter().filter_map(shown).collect(),
            time: wall_now_ms(),
            encoded: Encoded::default(),
            encoded_again: Encoded::default(),
            next: self.next(),
            made_at: now,
        });
        self.copy = Some(copy.clone());
        Some(copy)
    }
}

/// The watch of one connection over a pattern: dropping it ends it.
pub struct PatternWatch {
    group: Arc<Group>,
    wake: Arc<dyn Wake>,
    at: At,
}

#[derive(Debug, Clone, Copy)]
enum At {
    /// Wants the whole; again, where it was too slow.
    Start { is_slow: bool },
    /// Has everything up to this frame.
    Next(u64),
    /// Has been told that it is over.
    Over,
}

impl PatternWatch {
    pub(super) fn new(group: &Arc<Group>, wake: &Arc<dyn Wake>) -> Self {
        group.watchers.fetch_add(1, Ordering::Relaxed);
        let mut state = group.lock();
        match state.wakes.iter_mut().find(|(known, _)| Arc::ptr_eq(known, wake)) {
            Some((_, count)) => *count += 1,
            None => state.wakes.push((wake.clone(), 1)),
        }
        drop(state);
        Self { group: group.clone(), wake: wake.clone(), at: At::Start { is_slow: false } }
    }

    /// Which pattern.
    pub fn pattern(&self) -> &Pattern {
        &self.group.pattern
    }

    /// How much of each channel.
    pub fn level(&self) -> Level {
        self.group.level
    }

    /// The number by which the wake is called.
    pub fn id(&self) -> u64 {
        self.group.id
    }

    /// What the watcher gets next, if there is anything now.
    pub fn deliver(&mut self) -> Option<PatternDelivery> {
        let mut state = self.group.lock();
        if state.is_over {
            let is_told = matches!(std::mem::replace(&mut self.at, At::Over), At::Over);
            return (!is_told).then_some(PatternDelivery::Over);
        }
        if let At::Next(at) = self.at {
            if let Some(frame) = at.checked_sub(state.first).and_then(|behind| state.ring.get(behind as usize)) {
                self.at = At::Next(at + 1);
                return Some(PatternDelivery::Frame(frame.clone()));
            }
            if at >= state.first {
                return None;
            }
            self.at = At::Start { is_slow: true };
        }
        let At::Start { is_slow } = self.at else { return None };
        let Some(whole) = state.whole(is_slow) else {
            // The keeper sets its timer.
            self.group.marks.errands.notify_one();
            return None;
        };
        self.at = At::Next(whole.next);
        Some(PatternDelivery::Channels(whole, is_slow.then_some(Cause::Slow)))
    }
}

impl std::fmt::Debug for PatternWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PatternWatch").field("pattern", self.pattern()).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Drop for PatternWatch {
    fn drop(&mut self) {
        self.group.watchers.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.group.lock();
        if let Some(at) = state.wakes.iter().position(|(known, _)| Arc::ptr_eq(known, &self.wake)) {
            state.wakes[at].1 -= 1;
            if state.wakes[at].1 == 0 {
                state.wakes.swap_remove(at);
            }
        }
        drop(state);
        self.group.marks.errands.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        member::{Member as Shown, Present, Shown as Payload, Status, empty_state},
        mode::Bounds,
        name::UserName,
        version::Epoch,
    };

    fn version(number: u64) -> Version {
        Version { epoch: Epoch::new("e"), number }
    }

    fn of(connections: u64) -> Occupancy {
        Occupancy { users: connections, connections }
    }

    fn frame(from: u64, to: u64, connections: u64) -> Delivery {
        let frame = counted(version(to), of(connections));
        Delivery::Frame(Arc::new(Frame { from: version(from), mode: Mode::Full, ..frame }))
    }

    fn snapshot(number: u64, connections: u64) -> Delivery {
        let shown = Payload {
            status: Status::Online,
            state: empty_state(),
            info: None,
            device: None,
            since: 1,
            on_leave: None,
        };
        let member = |n: u64| {
            let user = UserName::parse(&format!("u{n}")).unwrap();
            let present = Present { user, user_since: 1, changed: 1, shown: Arc::new(shown.clone()) };
            Shown::over([(&crate::domain::name::ConnectionId::from_stored("c"), &present)].into_iter()).unwrap()
        };
        Delivery::Snapshot(Arc::new(Snapshot {
            level: Level::Users,
            mode: Mode::Full,
            version: version(number),
            whole: Whole::Users((0..connections).map(member).collect()),
            occupancy: of(connections),
            time: 1,
            encoded: Encoded::default(),
        }))
    }

    fn member() -> Member {
        let key = RosterKey::from_stored("c:room").unwrap();
        let mirror = Arc::new(Mirror::new(1, key, Bounds { net_above: 100, occupancy_above: 200 }));
        let cursor = Cursor::new(Level::Users, None, None);
        Member { mirror, cursor, shown: None, is_occupied: true, listed_in: 0, gone_in: 0 }
    }

    fn told(member: &mut Member, delivery: Delivery) -> Option<(u64, u64, usize)> {
        let frame = member.take(delivery)?;
        let joins = match &frame.lists {
            Lists::Users(delta) => delta.join.len(),
            _ => 0,
        };
        Some((frame.from.number, frame.to.number, joins))
    }

    #[test]
    fn a_channel_begins_from_nothing_each_time_that_somebody_is_there_again() {
        let mut channel = member();
        assert_eq!(told(&mut channel, snapshot(5, 0)), None, "nobody is told of a channel in which nobody is");
        assert_eq!(told(&mut channel, frame(5, 6, 1)), Some((0, 6, 0)));
        assert_eq!(told(&mut channel, frame(6, 7, 2)), Some((6, 7, 0)));
        assert_eq!(told(&mut channel, frame(7, 8, 0)), Some((7, 8, 0)), "it ends with its leaves");
        assert!(!channel.has_ended(), "the index has it");
        assert_eq!(told(&mut channel, frame(8, 9, 0)), None);
        assert_eq!(told(&mut channel, frame(9, 10, 1)), Some((0, 10, 0)));
        assert_eq!(told(&mut channel, frame(10, 11, 0)), Some((10, 11, 0)));
        channel.is_occupied = false;
        assert!(channel.has_ended());
    }

    #[test]
    fn who_is_there_when_a_channel_begins_has_joined_unless_they_are_too_many() {
        assert_eq!(told(&mut member(), snapshot(5, 3)), Some((0, 5, 3)));
        assert_eq!(told(&mut member(), snapshot(500, JOINS + 1)), Some((0, 500, 0)));
    }
}
