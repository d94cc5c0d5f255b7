//! Who watches whom: the list of one connection, and what it is still to be told.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    FRAME_BYTES, People, Register,
    entry::{Entry, Seen},
    everybody::Position,
};
use crate::{
    core::{
        error::{Code, Error},
        mirror::{Cause, Wake},
    },
    domain::{name::UserName, time::wall_now_ms},
};

/// What the ids of lists begin at, for they share a hub with those of mirrors, which count from 1.
const FIRST_ID: u64 = 1 << 62;

/// How some users are, for one who watches them.
#[derive(Debug)]
pub struct UsersFrame {
    /// The users.
    pub seen: Vec<Arc<Seen>>,
    /// Where it is a part of the list of all who are online.
    pub part: Option<Part>,
    /// Unix milliseconds.
    pub time: u64,
}

/// A part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Others follow.
    pub more: bool,
    /// Why it is told again.
    pub cause: Option<Cause>,
}

/// The users whom a connection watches. Not a queue of what has happened but a set of those who have changed: whoever reads slowly gets the latest.
pub(super) struct List {
    id: u64,
    pub(super) me: Option<UserName>,
    wake: Arc<dyn Wake>,
    pub(super) users: BTreeSet<u32>,
    /// Those who look different from what was delivered last; never more than are watched.
    dirty: BTreeSet<u32>,
    /// The user is to be read for themselves: what was read for others may be older than the device that asks.
    awaits_self: bool,
    /// Watches of whose users some are not known yet: what they begin with is delivered together.
    beginning: Vec<Beginning>,
    /// Where it is among the changes of everybody.
    pub(super) all: Option<Position>,
}

#[derive(Debug)]
struct Beginning {
    slots: BTreeSet<u32>,
    unknown: usize,
}

impl List {
    /// A user looks different, or is known for the first time. Returns whether there is something to deliver.
    pub fn changed(&mut self, slot: u32, first: bool) -> bool {
        if let Some(at) = self.beginning.iter().position(|beginning| beginning.slots.contains(&slot)) {
            self.beginning[at].unknown -= usize::from(first);
            return self.begun(at);
        }
        self.dirty.insert(slot)
    }

    /// The user whose list it is was read. Returns whether that was waited for.
    pub fn has_read_self(&mut self) -> bool {
        std::mem::take(&mut self.awaits_self)
    }

    /// There is something to deliver.
    pub fn wake(&self) {
        self.wake.wake(self.id);
    }

    /// Delivers what a watch begins with, if all of it is known.
    fn begun(&mut self, at: usize) -> bool {
        if self.beginning[at].unknown > 0 {
            return false;
        }
        let begun = self.beginning.swap_remove(at);
        let is_some = !begun.slots.is_empty();
        self.dirty.extend(begun.slots);
        is_some
    }

    fn remove(&mut self, slot: u32, is_known: bool) -> bool {
        self.dirty.remove(&slot);
        let mut is_news = false;
        if let Some(at) = self.beginning.iter().position(|beginning| beginning.slots.contains(&slot)) {
            self.beginning[at].slots.remove(&slot);
            self.beginning[at].unknown -= usize::from(!is_known);
            is_news = self.begun(at);
        }
        self.users.remove(&slot);
        is_news
    }
}

/// The watch of one connection over users: dropping it ends it.
pub struct UserWatch {
    pub(super) people: Arc<People>,
    pub(super) number: u32,
    id: u64,
}

impl UserWatch {
    /// A watch over nobody yet. `me` is whom the truth is told about themselves; `wake` is told of news.
    pub(crate) fn new(people: &Arc<People>, me: Option<UserName>, wake: &Arc<dyn Wake>) -> Self {
        let mut register = people.lock();
        register.last_id += 1;
        let id = FIRST_ID + register.last_id;
        let number = register.free_lists.pop().unwrap_or_else(|| {
            let used = register.lists.last_key_value();
            used.map_or(0, |(last, _)| last + 1)
        });
        let (users, dirty, beginning) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        register.lists.insert(
            number,
            List { id, me, wake: wake.clone(), users, dirty, awaits_self: false, beginning, all: None },
        );
        drop(register);
        Self { people: people.clone(), number, id }
    }

    /// The number by which the wake is called.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Watches these too. Returns how many are watched then.
    ///
    /// # Errors
    /// [`Code::Limit`] where they would be more than `most`; then nobody is added.
    pub fn add(&self, users: &[UserName], most: usize) -> Result<usize, Error> {
        let register = &mut *self.people.lock();
        let users: BTreeSet<&UserName> = users.iter().collect();
        let watched = &self.list(register).users;
        let is_new = |user: &&&UserName| {
            let slot = register.names.get(**user);
            slot.is_none_or(|slot| !watched.contains(slot))
        };
        let new: Vec<&UserName> = users.iter().filter(is_new).copied().collect();
        if watched.len() + new.len() > most {
            let message = format!("a connection watches at most {most} users; unwatch some first");
            return Err(Error::new(Code::Limit, message));
        }
        let mut beginning = Beginning { slots: BTreeSet::new(), unknown: 0 };
        for user in new {
            let slot = self.people.slot_of(register, user);
            let is_self = self.list(register).me.as_ref() == Some(user);
            self.list_mut(register).awaits_self |= is_self;
            let entry = register.entry_mut(slot);
            entry.watchers.insert(self.number);
            entry.goes_at = None;
            beginning.slots.insert(slot);
            beginning.unknown += usize::from(is_self || entry.others.is_none());
            if is_self {
                self.people.want_reading(register, slot);
            }
        }
        let list = self.list_mut(register);
        list.users.extend(&beginning.slots);
        list.beginning.push(beginning);
        let is_news = list.begun(list.beginning.len() - 1);
        let count = list.users.len();
        self.wake_if(register, is_news);
        Ok(count)
    }

    /// Watches these no more; whoever is not watched is passed over. Returns how many are watched then.
    pub fn remove(&self, users: &[UserName]) -> usize {
        let register = &mut *self.people.lock();
        let mut is_news = false;
        for user in users {
            let Some(slot) = register.names.get(user).copied() else { continue };
            if !register.entry_mut(slot).watchers.remove(&self.number) {
                continue;
            }
            let is_known = register.entry(slot).others.is_some();
            let list = self.list_mut(register);
            let awaits = list.me.as_ref() == Some(user) && std::mem::take(&mut list.awaits_self);
            is_news |= list.remove(slot, is_known && !awaits);
            self.people.let_linger(register, slot);
        }
        self.wake_if(register, is_news);
        self.list(register).users.len()
    }

    /// What is to be told next, if there is something now.
    pub fn deliver(&self) -> Option<UsersFrame> {
        let register = &mut *self.people.lock();
        self.deliver_named(register).or_else(|| self.deliver_all(register))
    }

    fn deliver_named(&self, register: &mut Register) -> Option<UsersFrame> {
        let list = register.lists.get_mut(&self.number).expect("it is there as long as its watch");
        let slots = &register.slots;
        let (mut seen, mut bytes) = (Vec::new(), 0);
        while bytes < FRAME_BYTES
            && let Some(slot) = list.dirty.pop_first()
        {
            let entry: Option<&Entry> = slots.get(slot as usize).and_then(Option::as_ref);
            let Some(entry) = entry else { continue };
            let is_self = list.me.as_ref() == Some(&entry.user);
            if let Some(view) = entry.seen(is_self) {
                bytes += view.bytes();
                seen.push(view.clone());
            }
        }
        (!seen.is_empty()).then(|| UsersFrame { seen, part: None, time: wall_now_ms() })
    }

    fn list<'a>(&self, register: &'a Register) -> &'a List {
        register.lists.get(&self.number).expect("it is there as long as its watch")
    }

    pub(super) fn list_mut<'a>(&self, register: &'a mut Register) -> &'a mut List {
        register.lists.get_mut(&self.number).expect("it is there as long as its watch")
    }

    pub(super) fn wake_if(&self, register: &Register, is_news: bool) {
        if is_news {
            self.list(register).wake();
        }
    }
}

impl std::fmt::Debug for UserWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserWatch").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for UserWatch {
    fn drop(&mut self) {
        let register = &mut *self.people.lock();
        self.leave_everybody(register);
        let Some(list) = register.lists.remove(&self.number) else { return };
        register.free_lists.push(self.number);
        for slot in list.users {
            register.entry_mut(slot).watchers.remove(&self.number);
            self.people.let_linger(register, slot);
        }
    }
}
