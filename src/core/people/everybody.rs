//! Everybody who comes and goes, for those who watch all users.
//!
//! The names come from the indexes of the store; how somebody is comes from the same entries as for those who are watched by name. The changes stand in one
//! order for all, each user with the last one alone, so that whoever watches everybody is a position in it: no list and no set of their own.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    FRAME_BYTES, LINGER, People, RETRY, Register,
    entry::{Entry, News, Seen},
    watching::{Part, UserWatch, UsersFrame},
};
use crate::{
    core::{indexes::Indexes, mirror::Cause, sleep_until_some},
    domain::{name::UserName, time::wall_now_ms},
    store::Index,
};

/// As many names are listed at a time.
const PAGE: usize = 1_000;
/// As many who went offline, at least, are remembered for somebody who reads slowly, and as many as are online where those are more. Who is further behind gets
/// the whole list again.
pub(super) const REMEMBERED: usize = if cfg!(test) { 20 } else { 10_000 };
/// How often it is looked who can be forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// Where all stand who watch everybody.
#[derive(Default)]
pub(super) struct Everybody {
    /// The lists of those who do.
    lists: BTreeSet<u32>,
    /// The number of the last change of anybody.
    last: u64,
    /// Everybody online by their last change, and who went offline and may have to be told to somebody.
    by_change: BTreeMap<u64, u32>,
    /// Those who went offline, in the order of that.
    offline: VecDeque<(u64, u32)>,
    /// Up to here some who went offline have been forgotten.
    forgotten: u64,
    forgets_at: Option<Instant>,
    /// The names are to be listed.
    to_list: bool,
    /// The names have been listed.
    is_listed: bool,
    /// Of those who were listed, who is not known yet.
    unknown: BTreeSet<u32>,
    /// When it ends, if nobody watches everybody by then.
    ends_at: Option<Instant>,
}

/// Where one watcher is.
#[derive(Debug)]
pub(super) struct Position {
    /// Has been told everything up to this change.
    at: u64,
    /// Up to here who is offline was so before the list began.
    begun: u64,
    /// The list has been told as a whole.
    is_done: bool,
    /// Why it is told again.
    cause: Option<Cause>,
}

impl Everybody {
    /// Whether a list can be told as a whole.
    fn is_ready(&self) -> bool {
        self.is_listed && self.unknown.is_empty()
    }

    /// A user has no entry any more.
    pub fn forget(&mut self, slot: u32, entry: &Entry) {
        self.unknown.remove(&slot);
        self.by_change.remove(&entry.changed);
        if !self.lists.is_empty() {
            self.forgotten = self.forgotten.max(entry.changed);
        }
    }
}

impl Register {
    /// A user has been read. Returns whether those who watch everybody are told of it by their order.
    pub(super) fn note_change(&mut self, slot: u32, news: News) -> bool {
        let Some(entry) = self.slots[slot as usize].as_mut() else { return false };
        let Some(seen) = &entry.others else { return false };
        let everybody = &mut self.everybody;
        let is_online = seen.is_online();
        let was_told = entry.changed > 0;
        let is_told = news.others && (is_online || (was_told && !everybody.lists.is_empty()));
        if is_told || (!is_online && was_told && news.others) {
            everybody.by_change.remove(&entry.changed);
            entry.changed = 0;
        }
        if is_told {
            everybody.last += 1;
            entry.changed = everybody.last;
            everybody.by_change.insert(entry.changed, slot);
            if !is_online {
                everybody.offline.push_back((entry.changed, slot));
            }
        }
        let was_last_unknown = everybody.unknown.remove(&slot) && everybody.is_ready();
        let has_gone = !is_online && entry.changed == 0 && !entry.is_withheld && std::mem::take(&mut entry.everybody);
        if has_gone {
            self.gone.push(slot);
        }
        if is_told || was_last_unknown {
            for number in &self.everybody.lists {
                if let Some(list) = self.lists.get(number) {
                    list.wake();
                }
            }
        }
        self.forget_offline();
        is_told
    }

    /// Forgets who went offline and has been told to all, or is one too many.
    fn forget_offline(&mut self) {
        let now = Instant::now();
        let most = REMEMBERED.max(self.everybody.by_change.len() / 2);
        if self.everybody.forgets_at.is_some_and(|at| at > now) && self.everybody.offline.len() <= most {
            return;
        }
        self.everybody.forgets_at = Some(now + FORGET_EVERY);
        let positions = self.everybody.lists.iter().filter_map(|list| self.lists.get(list)?.all.as_ref());
        let told = positions.map(|position| position.at).min().unwrap_or(u64::MAX);
        while let Some((changed, slot)) = self.everybody.offline.front().copied()
            && (changed <= told || self.everybody.offline.len() > most)
        {
            self.everybody.offline.pop_front();
            let Some(entry) = self.slots[slot as usize].as_mut().filter(|entry| entry.changed == changed) else {
                continue;
            };
            self.everybody.by_change.remove(&changed);
            entry.changed = 0;
            if changed > told {
                self.everybody.forgotten = changed;
            }
            if std::mem::take(&mut entry.everybody) {
                self.gone.push(slot);
            }
        }
    }
}

impl People {
    /// Names came into the index of those who are online.
    pub fn come<'a>(&self, users: impl Iterator<Item = &'a UserName>) {
        let register = &mut *self.lock();
        if register.everybody.lists.is_empty() && register.everybody.ends_at.is_none() {
            return;
        }
        for user in users {
            self.take_in(register, user);
        }
    }

    fn take_in(&self, register: &mut Register, user: &UserName) -> u32 {
        let slot = self.slot_of(register, user);
        let entry = register.entry_mut(slot);
        (entry.everybody, entry.goes_at) = (true, None);
        // Whoever is known as offline has changed.
        if entry.others.as_ref().is_some_and(|seen| !seen.is_online()) {
            self.want_reading(register, slot);
        }
        slot
    }

    /// The index has to be listed: for the first time, or because something was missed.
    pub fn list_again(&self) {
        let mut register = self.lock();
        if !register.everybody.lists.is_empty() {
            register.everybody.to_list = true;
            self.everybody_errands.notify_one();
            // Who has gone meanwhile shows in the numbers.
            self.doubt();
        }
    }

    /// Lists while somebody watches everybody, and lets go of all when nobody does, for ever.
    pub(super) async fn keep_everybody(self: Arc<Self>, indexes: Arc<Indexes>) {
        let mut interest = None;
        loop {
            let (is_wanted, to_list, ends_at) = {
                let mut register = self.lock();
                let everybody = &mut register.everybody;
                let to_list = std::mem::take(&mut everybody.to_list);
                (!everybody.lists.is_empty(), to_list, everybody.ends_at)
            };
            if is_wanted && interest.is_none() {
                interest = Some(indexes.want());
                if indexes.is_whole() {
                    self.list_again();
                }
                continue;
            }
            if to_list {
                if let Err(error) = self.list().await {
                    tracing::debug!(%error, "the users online could not be listed yet");
                    sleep(RETRY).await;
                    self.list_again();
                }
                continue;
            }
            if ends_at.is_some_and(|at| at <= Instant::now()) {
                self.end_everybody();
                interest = None;
                continue;
            }
            tokio::select! {
                biased;
                () = self.everybody_errands.notified() => {}
                () = sleep_until_some(ends_at) => {}
            }
        }
    }

    async fn list(&self) -> Result<(), crate::store::StoreError> {
        let mut after: Option<String> = None;
        loop {
            let names = self.store.names(Index::Online, "", after.as_deref(), PAGE).await?;
            let register = &mut *self.lock();
            for user in names.iter().filter_map(|name| UserName::parse(name).ok()) {
                let slot = self.take_in(register, &user);
                if !register.everybody.is_listed && register.entry(slot).others.is_none() {
                    register.everybody.unknown.insert(slot);
                }
            }
            if names.len() < PAGE {
                register.everybody.is_listed = true;
                if register.everybody.is_ready() {
                    for list in register.everybody.lists.iter().filter_map(|list| register.lists.get(list)) {
                        list.wake();
                    }
                }
                return Ok(());
            }
            after = names.into_iter().next_back();
        }
    }

    /// Nobody has watched everybody for a while. Whom nobody watches by name goes at once: that while was theirs too.
    fn end_everybody(&self) {
        let register = &mut *self.lock();
        let everybody = &mut register.everybody;
        if !everybody.lists.is_empty() {
            return;
        }
        (everybody.ends_at, everybody.is_listed, everybody.to_list) = (None, false, false);
        everybody.unknown.clear();
        for slot in register.all() {
            let entry = register.entry_mut(slot);
            if std::mem::take(&mut entry.everybody) && !entry.is_wanted() {
                let lane = self.lane(&entry.user);
                register.remove(lane, slot);
                self.lanes[lane].to_follow.notify_one();
            }
        }
    }
}

impl UserWatch {
    /// Watches everybody from here on. False where it does already.
    pub fn watch_all(&self) -> bool {
        let register = &mut *self.people.lock();
        let begun = register.everybody.last;
        let list = self.list_mut(register);
        if list.all.is_some() {
            return false;
        }
        list.all = Some(Position { at: 0, begun, is_done: false, cause: None });
        register.everybody.lists.insert(self.number);
        register.everybody.ends_at = None;
        self.people.everybody_errands.notify_one();
        self.wake_if(register, true);
        true
    }

    /// Watches everybody no more. False where it did not.
    pub fn unwatch_all(&self) -> bool {
        let register = &mut *self.people.lock();
        let Some(position) = self.list_mut(register).all.take() else { return false };
        self.leave_everybody(register);
        // Of whom is watched by name the rest is told by name.
        let list = register.lists.get_mut(&self.number).expect("it is there as long as its watch");
        let slots = &register.slots;
        let is_behind = |slot: &&u32| slots[**slot as usize].as_ref().is_some_and(|entry| entry.changed > position.at);
        let behind: Vec<u32> = list.users.iter().filter(is_behind).copied().collect();
        let mut is_news = false;
        for slot in behind {
            is_news |= list.changed(slot, false);
        }
        self.wake_if(register, is_news);
        true
    }

    pub(super) fn leave_everybody(&self, register: &mut Register) {
        if register.everybody.lists.remove(&self.number) && register.everybody.lists.is_empty() {
            register.everybody.ends_at = Some(Instant::now() + LINGER);
            self.people.everybody_errands.notify_one();
        }
    }

    /// What is to be told of everybody next, if there is something now.
    pub(super) fn deliver_all(&self, register: &mut Register) -> Option<UsersFrame> {
        let Register { everybody, lists, slots, .. } = register;
        let list = lists.get_mut(&self.number).expect("it is there as long as its watch");
        let (users, me) = (&list.users, &list.me);
        let position = list.all.as_mut()?;
        if position.at < everybody.forgotten && position.begun < everybody.forgotten {
            *position = Position { at: 0, begun: everybody.last, is_done: false, cause: Some(Cause::Slow) };
        }
        let from = position.at;
        let (mut seen, mut bytes): (Vec<Arc<Seen>>, usize) = (Vec::new(), 0);
        let mut more = false;
        for (changed, slot) in everybody.by_change.range(position.at + 1..) {
            if bytes >= FRAME_BYTES {
                more = true;
                break;
            }
            position.at = *changed;
            let Some(entry) = slots[*slot as usize].as_ref() else { continue };
            let Some(view) = &entry.others else { continue };
            // Who was offline before is not in the list; and oneself, watched by name, is told the truth by that.
            let is_missing = !view.is_online() && *changed <= position.begun;
            let is_own = me.as_ref() == Some(&entry.user) && users.contains(slot);
            if !is_missing && !is_own {
                bytes += view.bytes();
                seen.push(view.clone());
            }
        }
        if position.is_done {
            return (!seen.is_empty()).then(|| UsersFrame { seen, part: None, time: wall_now_ms() });
        }
        let is_whole = !more && everybody.is_ready();
        if !more && !is_whole {
            // Those who are known already wait until they fill a frame, or until all are known.
            position.at = from;
            return None;
        }
        position.is_done = is_whole;
        let part = Some(Part { more: !is_whole, cause: position.cause });
        Some(UsersFrame { seen, part, time: wall_now_ms() })
    }
}
