//! The users whom somebody here watches, wherever they are.
//!
//! Not a mirror each, for people have few devices and watchers have many people: an entry for each user, shared by all who watch them, and for each
//! partition a task that follows and one that reads. What a feed says is a hint that a user has changed; the users who have are read together, at the
//! next tick, and whoever watches one of them is told when the user looks different from before.

mod entry;
mod everybody;
#[cfg(test)]
mod tests;
mod watching;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};

pub use self::{
    entry::Seen,
    watching::{Part, UserWatch, UsersFrame},
};
use self::{
    entry::{Entry, News},
    everybody::Everybody,
    watching::List,
};
use super::{
    indexes::Indexes,
    mirrors::{COMPARE, LINGER, ON_ITS_WAY, RETRY},
    sleep_until_some,
};
use crate::{
    domain::{
        chance::Map,
        name::{ConnectionId, RosterKey, UserName},
        roster::Published,
        time::wall_now_ms,
    },
    metrics::Metrics,
    store::{Feed, Numbers, PartitionId, Person, Store},
    telemetry::vital,
};

/// A frame closes when it has about so many bytes.
const FRAME_BYTES: usize = 8 * 1024;
/// As many users are followed, compared or read in one call.
const CHUNK: usize = 500;
/// As many such calls of a partition run at a time.
const READERS: usize = 4;
/// The least and the most time between two readings of a partition's users, and so between two events of one of them.
const TICK_LEAST: Duration = Duration::from_millis(10);
const TICK_MOST: Duration = Duration::from_millis(100);
/// A choice whose time is over is looked for again after this at the latest.
const LONGEST: Duration = Duration::from_secs(3_600);

/// See the module.
pub(crate) struct People {
    store: Arc<dyn Store>,
    feed: Arc<dyn Feed>,
    metrics: Arc<Metrics>,
    doubts: Notify,
    everybody_errands: Notify,
    lanes: Vec<Lane>,
    register: Mutex<Register>,
}

/// What wakes the tasks of a partition.
#[derive(Default)]
struct Lane {
    to_follow: Notify,
    to_read: Notify,
}

/// What waits for the tasks of a partition. Each entry waits once at most.
#[derive(Default)]
struct Waiting {
    to_follow: VecDeque<u32>,
    to_read: VecDeque<u32>,
    /// What nobody wants any more.
    to_unfollow: Vec<RosterKey>,
    /// Entries that nobody watched any more, and when they may go.
    lingering: VecDeque<(Instant, u32)>,
    /// When choices end, unix milliseconds.
    ending: BTreeSet<(u64, u32)>,
}

/// Everybody who is watched, and everybody who watches.
struct Register {
    last_id: u64,
    names: Map<UserName, u32>,
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    lists: BTreeMap<u32, List>,
    free_lists: Vec<u32>,
    waiting: Vec<Waiting>,
    everybody: Everybody,
    /// Who is not kept for those who watch everybody any more.
    gone: Vec<u32>,
}

/// A roster of a user: slot and id of the entry, and its name.
type Place = (u32, u64, RosterKey);

/// A user who is to be read.
struct Asked {
    slot: u32,
    id: u64,
    user: UserName,
    removed: Vec<ConnectionId>,
}

impl People {
    pub fn new(store: Arc<dyn Store>, feed: Arc<dyn Feed>, metrics: Arc<Metrics>) -> Arc<Self> {
        let partitions = usize::from(store.partitions());
        let register = Register {
            last_id: 0,
            names: Map::default(),
            slots: Vec::new(),
            free: Vec::new(),
            lists: BTreeMap::new(),
            free_lists: Vec::new(),
            waiting: (0..partitions).map(|_| Waiting::default()).collect(),
            everybody: Everybody::default(),
            gone: Vec::new(),
        };
        let lanes = (0..partitions).map(|_| Lane::default()).collect();
        let (doubts, everybody_errands) = (Notify::new(), Notify::new());
        Arc::new(Self { store, feed, metrics, doubts, everybody_errands, lanes, register: Mutex::new(register) })
    }

    /// Starts the tasks.
    pub fn start(self: &Arc<Self>, indexes: &Arc<Indexes>) {
        vital::spawn("everybody", self.clone().keep_everybody(indexes.clone()));
        for partition in 0..self.store.partitions() {
            vital::spawn("people followed", self.clone().follow_for_ever(partition));
            vital::spawn("people read", self.clone().read_for_ever(partition));
        }
        vital::spawn("people compared", self.clone().compare_for_ever());
    }

    /// The feed told of changes of a user.
    pub fn hear(&self, published: &Published) {
        let RosterKey::User(user) = &published.roster else { return };
        let mut register = self.lock();
        let Some(slot) = register.names.get(user).copied() else { return };
        self.metrics.published.inc();
        register.entry_mut(slot).hear(&published.changes);
        self.want_reading(&mut register, slot);
    }

    /// The epoch of a partition has settled: what was withheld can be read.
    pub fn settled(&self, partition: PartitionId) {
        let mut register = self.lock();
        for slot in register.all() {
            if register.entry(slot).is_withheld && self.partition_of(&register.entry(slot).user) == partition {
                self.want_reading(&mut register, slot);
            }
        }
    }

    /// Something may be missing: compare at once. However often this is said, one comparison runs at a time.
    pub fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// How many users have an entry.
    pub fn len(&self) -> usize {
        self.lock().names.len()
    }

    fn partition_of(&self, user: &UserName) -> PartitionId {
        self.store.partition_of(&RosterKey::User(user.clone()))
    }

    fn lane(&self, user: &UserName) -> usize {
        usize::from(self.partition_of(user))
    }

    /// The slot of a user's entry, which is made where there is none.
    fn slot_of(&self, register: &mut Register, user: &UserName) -> u32 {
        if let Some(slot) = register.names.get(user) {
            return *slot;
        }
        register.last_id += 1;
        let entry = Entry::new(register.last_id, user.clone());
        let slot = match register.free.pop() {
            Some(slot) => {
                register.slots[slot as usize] = Some(entry);
                slot
            }
            None => {
                register.slots.push(Some(entry));
                u32::try_from(register.slots.len() - 1).expect("there are not as many people")
            }
        };
        register.names.insert(user.clone(), slot);
        self.want_following(register, slot);
        slot
    }

    fn want_following(&self, register: &mut Register, slot: u32) {
        let entry = register.entry_mut(slot);
        if std::mem::replace(&mut entry.to_follow, true) {
            return;
        }
        let lane = self.lane(&entry.user);
        register.waiting[lane].to_follow.push_back(slot);
        self.lanes[lane].to_follow.notify_one();
    }

    /// What is not followed yet is read when it is.
    fn want_reading(&self, register: &mut Register, slot: u32) {
        let entry = register.entry_mut(slot);
        if !entry.is_followed || std::mem::replace(&mut entry.to_read, true) || entry.is_being_read {
            return;
        }
        let lane = self.lane(&entry.user);
        register.waiting[lane].to_read.push_back(slot);
        self.lanes[lane].to_read.notify_one();
    }

    /// Nobody watches the user any more: the entry goes in a while.
    fn let_linger(&self, register: &mut Register, slot: u32) {
        let goes_at = Instant::now() + LINGER;
        let entry = register.entry_mut(slot);
        if entry.is_wanted() {
            return;
        }
        entry.goes_at = Some(goes_at);
        let lane = self.lane(&entry.user);
        register.waiting[lane].lingering.push_back((goes_at, slot));
        self.lanes[lane].to_follow.notify_one();
    }

    /// Follows for ever, and lets go of whom nobody has watched for a while.
    async fn follow_for_ever(self: Arc<Self>, partition: PartitionId) {
        let lane = usize::from(partition);
        loop {
            let (wanted, unwanted, until) = self.lock().next_to_follow(lane);
            for roster in &unwanted {
                self.feed.unfollow(roster);
            }
            if wanted.is_empty() {
                tokio::select! {
                    biased;
                    () = self.lanes[lane].to_follow.notified() => {}
                    () = sleep_until_some(until) => {}
                }
                continue;
            }
            let following = wanted.iter().map(|(_, _, roster)| self.feed.follow(roster));
            let mut failed = false;
            for ((slot, id, roster), answer) in wanted.iter().zip(join_all(following).await) {
                let mut register = self.lock();
                let entry = register.get_mut(*slot).filter(|entry| entry.id == *id);
                match (entry, answer) {
                    (Some(entry), Ok(())) => {
                        entry.is_followed = true;
                        self.want_reading(&mut register, *slot);
                    }
                    (None, Ok(())) => self.feed.unfollow(roster),
                    (Some(_), Err(error)) => {
                        tracing::debug!(%error, "a user could not be followed yet");
                        failed = true;
                        self.want_following(&mut register, *slot);
                    }
                    (None, Err(_)) => {}
                }
            }
            if failed {
                sleep(RETRY).await;
            }
        }
    }

    /// Reads who has changed, for ever: the first at once, more with the next tick.
    async fn read_for_ever(self: Arc<Self>, partition: PartitionId) {
        let lane = usize::from(partition);
        let mut next_at = Instant::now();
        loop {
            let due = self.lock().next_ending(lane);
            let timer =
                sleep(due.map_or(LONGEST, |at| Duration::from_millis(at.saturating_sub(wall_now_ms())).min(LONGEST)));
            tokio::select! {
                biased;
                () = self.lanes[lane].to_read.notified() => {}
                () = timer => self.end_choices(lane),
            }
            loop {
                sleep_until(next_at).await;
                let asked = self.lock().next_to_read(lane);
                if asked.is_empty() {
                    break;
                }
                let count = asked.len();
                let failed = self.read(asked).await;
                let tick = (TICK_LEAST + Duration::from_millis(count as u64 / 20)).min(TICK_MOST);
                next_at = Instant::now() + if failed { RETRY } else { tick };
            }
        }
    }

    /// Whose choice is over is read again.
    fn end_choices(&self, lane: usize) {
        let mut register = self.lock();
        let now = wall_now_ms();
        while let Some((at, slot)) = register.waiting[lane].ending.first().copied().filter(|(at, _)| *at <= now) {
            register.waiting[lane].ending.remove(&(at, slot));
            if register.get_mut(slot).is_some() {
                self.want_reading(&mut register, slot);
            }
        }
    }

    /// Reads these. Returns whether some could not be read.
    async fn read(&self, asked: Vec<Asked>) -> bool {
        let chunks: Vec<&[Asked]> = asked.chunks(CHUNK).collect();
        let reading = chunks.iter().map(|chunk| async {
            let users: Vec<UserName> = chunk.iter().map(|asked| asked.user.clone()).collect();
            self.store.people(&users).await
        });
        let mut failed = false;
        for (chunk, answer) in chunks.iter().zip(join_all(reading).await) {
            match answer {
                Ok(people) => {
                    self.metrics.people_read.inc_by(people.len() as u64);
                    for (asked, person) in chunk.iter().zip(people) {
                        failed |= self.install(asked, person);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "people could not be read yet");
                    failed = true;
                    let mut register = self.lock();
                    for Asked { slot, id, removed, .. } in *chunk {
                        let Some(entry) = register.get_mut(*slot).filter(|entry| entry.id == *id) else { continue };
                        entry.is_being_read = false;
                        entry.removed.splice(0..0, removed.iter().cloned());
                        entry.to_read = false;
                        self.want_reading(&mut register, *slot);
                    }
                }
            }
        }
        failed
    }

    /// What was read is shown. Returns whether it is to be read again in a moment.
    fn install(&self, asked: &Asked, person: Person) -> bool {
        let mut register = self.lock();
        let Some(entry) = register.get_mut(asked.slot).filter(|entry| entry.id == asked.id) else { return false };
        entry.is_being_read = false;
        let ended_before = entry.changes_at();
        let news = entry.install(person, &asked.removed);
        let ends_at = entry.changes_at();
        let again = news.again || std::mem::take(&mut entry.to_read);
        let ending = &mut register.waiting[self.lane(&asked.user)].ending;
        if let Some(before) = ended_before {
            ending.remove(&(before, asked.slot));
        }
        if let Some(at) = ends_at.filter(|at| *at > wall_now_ms()) {
            ending.insert((at, asked.slot));
        }
        if again {
            self.want_reading(&mut register, asked.slot);
        }
        register.tell(asked.slot, news);
        for slot in std::mem::take(&mut register.gone) {
            self.let_linger(&mut register, slot);
        }
        news.again
    }

    /// Compares for ever, and at once when told that something may be missing.
    async fn compare_for_ever(self: Arc<Self>) {
        loop {
            let _ = timeout(COMPARE, self.doubts.notified()).await;
            self.compare().await;
        }
    }

    /// Compares everybody with the store; who has changed there, and of whom nothing is on its way, is read.
    async fn compare(&self) {
        let mut suspects = Vec::new();
        for (partition, of_partition) in self.by_partition() {
            for chunk in of_partition.chunks(CHUNK) {
                let rosters: Vec<RosterKey> = chunk.iter().map(|(_, _, roster)| roster.clone()).collect();
                let numbers = match self.store.numbers(partition, &rosters).await {
                    Ok(numbers) => Arc::new(numbers),
                    Err(error) => {
                        tracing::debug!(%error, partition, "people could not be compared");
                        break;
                    }
                };
                let register = self.lock();
                for ((slot, id, _), number) in chunk.iter().zip(&numbers.numbers) {
                    if register.lags(*slot, *id, &numbers, *number) {
                        suspects.push((*slot, *id, numbers.clone(), *number));
                    }
                }
            }
        }
        if suspects.is_empty() {
            return;
        }
        // Once for all of them: after a new epoch everybody is one.
        sleep(ON_ITS_WAY).await;
        let mut register = self.lock();
        for (slot, id, numbers, number) in suspects {
            if register.lags(slot, id, &numbers, number) {
                self.want_reading(&mut register, slot);
            }
        }
    }

    /// Whom to compare, by partition.
    fn by_partition(&self) -> BTreeMap<PartitionId, Vec<Place>> {
        let register = self.lock();
        let mut by_partition: BTreeMap<PartitionId, Vec<_>> = BTreeMap::new();
        for slot in register.all() {
            let entry = register.entry(slot);
            let of_partition = by_partition.entry(self.partition_of(&entry.user)).or_default();
            of_partition.push((slot, entry.id, RosterKey::User(entry.user.clone())));
        }
        by_partition
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        self.register.lock().expect("nothing panics while it holds the register")
    }
}

impl Register {
    fn all(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.names.values().copied().collect();
        // One order, whatever that of the map is.
        all.sort_unstable();
        all
    }

    fn get(&self, slot: u32) -> Option<&Entry> {
        self.slots.get(slot as usize)?.as_ref()
    }

    fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    fn entry(&self, slot: u32) -> &Entry {
        self.get(slot).expect("whoever has the slot holds the entry")
    }

    fn entry_mut(&mut self, slot: u32) -> &mut Entry {
        self.get_mut(slot).expect("whoever has the slot holds the entry")
    }

    /// Whom to follow next, what to let go, and when to look again.
    fn next_to_follow(&mut self, lane: usize) -> (Vec<Place>, Vec<RosterKey>, Option<Instant>) {
        let now = Instant::now();
        while let Some((at, slot)) = self.waiting[lane].lingering.front().copied().filter(|(at, _)| *at <= now) {
            self.waiting[lane].lingering.pop_front();
            // Whoever came back in between stays, and stands further behind if they went again.
            if self.get(slot).is_some_and(|entry| entry.goes_at == Some(at)) {
                self.remove(lane, slot);
            }
        }
        let waiting = &mut self.waiting[lane];
        let unwanted = std::mem::take(&mut waiting.to_unfollow);
        let until = waiting.lingering.front().map(|(at, _)| *at);
        let mut wanted = Vec::new();
        while wanted.len() < CHUNK
            && let Some(slot) = self.waiting[lane].to_follow.pop_front()
        {
            let Some(entry) = self.get_mut(slot).filter(|entry| entry.to_follow) else { continue };
            entry.to_follow = false;
            wanted.push((slot, entry.id, RosterKey::User(entry.user.clone())));
        }
        (wanted, unwanted, until)
    }

    fn remove(&mut self, lane: usize, slot: u32) {
        let Some(entry) = self.slots[slot as usize].take() else { return };
        self.names.remove(&entry.user);
        self.free.push(slot);
        self.everybody.forget(slot, &entry);
        let waiting = &mut self.waiting[lane];
        if entry.is_followed {
            waiting.to_unfollow.push(RosterKey::User(entry.user.clone()));
        }
        if let Some(at) = entry.changes_at() {
            waiting.ending.remove(&(at, slot));
        }
    }

    /// Whom to read next.
    fn next_to_read(&mut self, lane: usize) -> Vec<Asked> {
        let mut asked = Vec::new();
        while asked.len() < CHUNK * READERS
            && let Some(slot) = self.waiting[lane].to_read.pop_front()
        {
            let Some(entry) = self.get_mut(slot).filter(|entry| entry.to_read && !entry.is_being_read) else {
                continue;
            };
            (entry.to_read, entry.is_being_read) = (false, true);
            let removed = std::mem::take(&mut entry.removed);
            asked.push(Asked { slot, id: entry.id, user: entry.user.clone(), removed });
        }
        asked
    }

    fn next_ending(&self, lane: usize) -> Option<u64> {
        self.waiting[lane].ending.first().map(|(at, _)| *at)
    }

    /// Whether the store has more of a user than the entry.
    fn lags(&self, slot: u32, id: u64, numbers: &Numbers, number: Option<u64>) -> bool {
        let entry = self.get(slot).filter(|entry| entry.id == id);
        entry.is_some_and(|entry| !entry.has(&numbers.epoch, numbers.settling, number))
    }

    /// Tells the lists in which a user is what has come of a reading.
    fn tell(&mut self, slot: u32, news: News) {
        let is_told_to_all = self.note_change(slot, news);
        let entry = self.slots[slot as usize].as_ref().expect("it was read just now");
        for number in &entry.watchers {
            let Some(list) = self.lists.get_mut(number) else { continue };
            let is_self = list.me.as_ref() == Some(&entry.user);
            let is_first = news.first || (is_self && entry.others.is_some() && !news.again && list.has_read_self());
            // Whoever watches everybody too is told once.
            let is_told_by_name = !is_told_to_all || list.all.is_none();
            let is_told = is_first || if is_self { news.own } else { news.others && is_told_by_name };
            if is_told && list.changed(slot, is_first) {
                list.wake();
            }
        }
    }
}
