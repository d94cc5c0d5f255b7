//! The users whose connections this instance answers for, as persons: what they have chosen, how all their devices together are there, and in which
//! rosters their connections stand, those that others see or those that they do not.
//!
//! Sessions know nothing of this. They name the rosters that others see and say that they are online; what really stands in the store is found here,
//! under the lock of the ledger, so that nothing is written in between that shows somebody who is not to be shown.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Book, Content, Ledger, Settlement,
    account::{Account, Place, Waiting, Wanted},
    answered,
};
use crate::{
    core::{mirror::present, notices::Notices},
    domain::{
        member::{Reason, Shown, Status},
        name::{ConnectionId, RosterKey, UserName},
        person::{Choice, Profile, Record, shown},
        roster::{Ask, Entry},
        time::wall_now_ms,
    },
    store::Person,
};

/// For so long it is remembered what somebody has chosen of whom nothing is here any more: longer than any grace, so that it can be put back for who
/// comes back.
const REMEMBERED: Duration = Duration::from_secs(360);
/// As often at most it is noted that a person is active.
const ACTIVE_EVERY: Duration = Duration::from_secs(60);

/// A user some of whose connections are here.
#[derive(Debug)]
pub(super) struct Local {
    connections: BTreeSet<ConnectionId>,
    record: Option<Record>,
    /// What the record says, as long as it holds.
    profile: Profile,
    /// Until when status and text hold that the record names, whether that is over or not.
    until: Option<u64>,
    /// The greatest status of the devices that other instances answer for, as was read last.
    elsewhere: Option<Status>,
    /// Nothing has been read yet of the other devices: what the channels showed when a connection was taken over stands for them.
    unread: bool,
    /// What all channels show.
    status: Status,
    /// Since when nothing is here any more.
    gone_at: Option<Instant>,
    /// When it was last noted that the person is active.
    noted_at: Option<Instant>,
}

impl Default for Local {
    fn default() -> Self {
        Self {
            connections: BTreeSet::new(),
            record: None,
            profile: Profile::default(),
            until: None,
            elsewhere: None,
            unread: false,
            status: Status::Online,
            gone_at: None,
            noted_at: None,
        }
    }
}

impl Local {
    pub(super) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    fn set_record(&mut self, record: Option<Record>) {
        let profile = record.as_ref().map(Record::profile).unwrap_or_default();
        self.until = profile.until;
        self.profile = profile.at(wall_now_ms());
        self.record = record;
    }
}

/// The question that puts a record where none is as recent.
pub(super) fn put(roster: &RosterKey, record: Record) -> Entry {
    Entry { roster: roster.clone(), connection: ConnectionId::from_stored(""), ask: Ask::Person { record } }
}

impl Book {
    /// A connection was taken over whose channels show this status.
    pub(super) fn take_over(&mut self, connection: &ConnectionId, automatic: Status, status: Status) {
        let Some(account) = self.accounts.get_mut(connection) else { return };
        account.automatic = automatic;
        if let Some(local) = self.people.get_mut(&account.user).filter(|local| local.connections.len() == 1) {
            (local.status, local.unread) = (status, true);
        }
    }

    /// An account, with its user.
    pub(super) fn insert(&mut self, connection: &ConnectionId, account: Account) -> Option<Account> {
        let local = self.people.entry(account.user.clone()).or_default();
        local.connections.insert(connection.clone());
        local.gone_at = None;
        self.accounts.insert(connection.clone(), account)
    }

    /// An account goes; with the last one its user.
    pub(super) fn remove(&mut self, connection: &ConnectionId) -> Option<Account> {
        let account = self.accounts.remove(connection)?;
        if let Some(local) = self.people.get_mut(&account.user) {
            local.connections.remove(connection);
            if local.connections.is_empty() {
                local.gone_at = Some(Instant::now());
                if local.record.is_none() {
                    self.people.remove(&account.user);
                }
            }
        }
        Some(account)
    }

    /// Whoever has been away long enough is forgotten.
    pub(super) fn forget_people(&mut self) {
        self.people.retain(|_, local| local.gone_at.is_none_or(|at| at.elapsed() < REMEMBERED));
    }

    /// What a connection shows, with the status of the person in channels and its own in the user's roster.
    pub(super) fn as_shown(&self, connection: &ConnectionId, roster: &RosterKey, payload: Arc<str>) -> Arc<str> {
        let Some(account) = self.accounts.get(connection) else { return payload };
        let status = match roster.is_user() {
            true => account.automatic,
            false => self.people.get(&account.user).map_or(Status::Online, |local| local.status),
        };
        with_status(&payload, status)
    }
}

/// A payload that shows this status.
pub(crate) fn with_status(payload: &Arc<str>, status: Status) -> Arc<str> {
    let Ok(shown) = serde_json::from_str::<Shown>(payload) else { return payload.clone() };
    if shown.status == status {
        return payload.clone();
    }
    serde_json::to_string(&Shown { status, ..shown }).expect("what is shown is JSON").into()
}

impl Ledger {
    /// Whether some of the user's connections are here, or were a moment ago.
    pub fn knows(&self, user: &UserName) -> bool {
        self.lock().people.contains_key(user)
    }

    /// The sessions of a user that are here.
    pub fn sessions_of(&self, user: &UserName) -> Vec<(ConnectionId, Arc<Notices>)> {
        let book = self.lock();
        let connections = book.people.get(user).into_iter().flat_map(|local| &local.connections);
        let session = |id: &ConnectionId| Some((id.clone(), book.accounts.get(id)?.notices.clone()?));
        connections.filter_map(session).collect()
    }

    /// Whether the user is shown to nobody, as far as this instance knows.
    pub fn is_hidden(&self, user: &UserName) -> bool {
        self.lock().people.get(user).is_some_and(|local| local.profile.is_hidden())
    }

    /// All users with something here.
    pub fn people(&self) -> Vec<UserName> {
        self.lock().people.keys().cloned().collect()
    }

    /// What is kept of a user with something here, as far as this instance knows.
    pub fn record(&self, user: &UserName) -> Option<Record> {
        self.lock().people.get(user)?.record.clone()
    }

    /// A connection was taken over: this is what its device said last, and what its channels show.
    pub fn take_over(&self, connection: &ConnectionId, automatic: Status, status: Status) {
        self.lock().take_over(connection, automatic, status);
    }

    /// The device says how its user is there.
    pub fn set_automatic(&self, connection: &ConnectionId, owner: u64, status: Status) {
        let mut book = self.lock();
        let Some(account) = book.accounts.get_mut(connection) else { return };
        if account.owner != owner || account.automatic == status {
            return;
        }
        account.automatic = status;
        let (user, home) = (account.user.clone(), account.home());
        self.show_status(&mut book, connection, &home, status);
        self.weigh(&mut book, &user);
    }

    /// It is to be noted now that the person is active. No more than once a minute, and not of whom nobody is to see.
    pub fn may_note_active(&self, user: &UserName) -> bool {
        let mut book = self.lock();
        let Some(local) = book.people.get_mut(user) else { return false };
        let is_due = local.noted_at.is_none_or(|at| at.elapsed() >= ACTIVE_EVERY) && !local.profile.is_hidden();
        if is_due {
            local.noted_at = Some(Instant::now());
        }
        is_due
    }

    /// What the store says of a user, read just now.
    pub fn learn(&self, user: &UserName, person: &Person) {
        let mut book = self.lock();
        let Some(local) = book.people.get_mut(user) else { return };
        let others = person.reading.rows.iter().chain(&person.hidden).filter(|(id, _)| !local.connections.contains(id));
        local.unread = false;
        local.elsewhere = others.filter_map(|(_, row)| Some(present(row)?.shown.status)).max();
        match &person.record {
            Some(record) => self.adopt(&mut book, user, record.clone()),
            // Erased; while the epoch settles it may be that the store has lost it, and it is put back.
            None if !person.reading.settling && local.record.is_some() => {
                local.set_record(None);
                self.hide(&mut book, user, false);
            }
            None => {}
        }
        self.weigh(&mut book, user);
    }

    /// A record that the store has, or has just taken.
    pub fn note_record(&self, user: &UserName, record: Record) {
        self.adopt(&mut self.lock(), user, record);
    }

    /// Waits until nothing of a connection stands any more where the user is not to be found.
    pub fn moved(&self, connection: &ConnectionId) -> oneshot::Receiver<Settlement> {
        let mut book = self.lock();
        let Some(account) = book.accounts.get_mut(connection) else { return answered(Settlement::Lost) };
        let old = account.home().twin(!account.hidden);
        let Some(place) = account.places.get_mut(&old) else { return answered(Settlement::Lost) };
        let (sender, receiver) = oneshot::channel();
        place.waiters.push((place.revision, sender));
        receiver
    }

    /// Whose choice ends first, and when, unix milliseconds.
    pub fn next_choice_over(&self) -> Option<(UserName, u64)> {
        let book = self.lock();
        let ending = book.people.iter().filter_map(|(user, local)| Some((user, local.until?)));
        ending.min_by_key(|(_, until)| *until).map(|(user, until)| (user.clone(), until))
    }

    pub(in crate::core::ledger) fn adopt(&self, book: &mut Book, user: &UserName, record: Record) {
        let Some(local) = book.people.get_mut(user) else { return };
        if local.record.as_ref().is_none_or(|known| known.serial < record.serial) {
            local.set_record(Some(record));
        }
        // Known or not: a connection may have come since.
        let is_hidden = local.profile.is_hidden();
        self.hide(book, user, is_hidden);
        self.weigh(book, user);
    }

    /// A place was refused because the user is shown to nobody. Where this instance knows better, the store will in a moment.
    pub(in crate::core::ledger) fn refused_as_hidden(
        &self,
        book: &mut Book,
        user: &UserName,
        record: Record,
        connection: &ConnectionId,
        roster: &RosterKey,
    ) {
        let ours = book.people.get(user).and_then(|local| local.record.clone());
        match ours.filter(|ours| ours.serial > record.serial && !ours.hidden) {
            Some(ours) => {
                let home = RosterKey::User(user.clone());
                let partition = usize::from(self.store.partition_of(&home));
                let lane = &mut book.lanes[partition];
                let is_asked =
                    lane.asks.iter().any(|(entry, _)| entry.roster == home && matches!(entry.ask, Ask::Person { .. }));
                if !is_asked {
                    lane.asks.push_front((put(&home, ours), None));
                }
                self.queue(book, connection, roster);
            }
            None => {
                if let Some(local) = book.people.get_mut(user) {
                    local.set_record(Some(record));
                    // A choice whose time is over stands there until somebody says so.
                    local.profile.status = Some(Choice::Invisible);
                }
                self.hide(book, user, true);
                self.close_place(book, connection, roster, &Settlement::Lost);
            }
        }
    }

    /// Moves all that is here of a user to the rosters that others do not see, or back.
    fn hide(&self, book: &mut Book, user: &UserName, hidden: bool) {
        let connections: Vec<ConnectionId> =
            book.people.get(user).map(|local| local.connections.iter().cloned().collect()).unwrap_or_default();
        for connection in connections {
            let Some(account) = book.accounts.get_mut(&connection).filter(|account| account.hidden != hidden) else {
                continue;
            };
            account.hidden = hidden;
            let old: Vec<RosterKey> =
                account.places.keys().filter(|roster| roster.is_hidden() != hidden).cloned().collect();
            // The one that decides comes first.
            let (homes, channels): (Vec<_>, Vec<_>) = old.into_iter().partition(RosterKey::is_user);
            for roster in homes.into_iter().chain(channels) {
                self.move_place(book, &connection, &roster, hidden);
            }
        }
    }

    fn move_place(&self, book: &mut Book, connection: &ConnectionId, roster: &RosterKey, hidden: bool) {
        let member = self.member(roster);
        let Book { accounts, lanes, .. } = &mut *book;
        let Some(account) = accounts.get_mut(connection) else { return };
        let Some(old) = account.places.get_mut(roster) else { return };
        let lane = &lanes[usize::from(old.partition)];
        if matches!(old.wanted, Wanted::Gone(_)) {
            return;
        }
        let wanted = match &old.wanted {
            Wanted::Ending { remaining_ms, .. } => Wanted::Ending { remaining_ms: *remaining_ms, counted_from: None },
            other => other.clone(),
        };
        // Of several devices the same one goes on to show the latest state.
        let mut content = old.content.clone();
        if !hidden {
            // Whoever becomes visible joins: nobody learns that they had been there before.
            content = since_now(content);
        }
        let waiters = std::mem::take(&mut old.waiters).into_iter().map(|(_, waiter)| (1, waiter)).collect();
        let partition = old.partition;
        // What was never there is counted where it comes to be.
        let limit = if old.fresh { old.limit } else { 0 };
        let twin = roster.twin(hidden);
        old.wanted = Wanted::Gone(Reason::Left);
        old.revision += 1;
        old.waiting.get_or_insert_with(|| Waiting::new(&lane.waiting));
        match account.places.get_mut(&twin) {
            Some(place) => {
                // It is about to go, and is wanted again.
                (place.wanted, place.content, place.fresh, place.limit) = (wanted, content, true, 0);
                place.revision += 1;
                place.waiting.get_or_insert_with(|| Waiting::new(&lane.waiting));
                let revision = place.revision;
                let waiters: Vec<(u64, _)> = waiters;
                place.waiters.extend(waiters.into_iter().map(|(_, waiter)| (revision, waiter)));
            }
            None => {
                let place = Place::new(partition, wanted, content, limit, Waiting::new(&lane.waiting), member);
                account.places.insert(twin.clone(), Box::new(Place { waiters, ..place }));
            }
        }
        self.queue(book, connection, &twin);
        self.queue(book, connection, roster);
    }

    /// How all devices together are there; where that is another, all channels show it.
    fn weigh(&self, book: &mut Book, user: &UserName) {
        let Some(local) = book.people.get(user) else { return };
        let here = local.connections.iter().filter_map(|id| Some(book.accounts.get(id)?.automatic));
        let before = Some(local.status).filter(|_| local.unread);
        let status = shown(local.profile.status, here.chain(local.elsewhere).chain(before));
        // Nobody sees the status of whom nobody sees.
        let status = status.unwrap_or(Status::Online);
        if status == local.status {
            return;
        }
        let connections: Vec<ConnectionId> = local.connections.iter().cloned().collect();
        book.people.entry(user.clone()).and_modify(|local| local.status = status);
        for connection in connections {
            let Some(account) = book.accounts.get(&connection) else { continue };
            let channels: Vec<RosterKey> = account.places.keys().filter(|roster| !roster.is_user()).cloned().collect();
            for roster in channels {
                self.show_status(book, &connection, &roster, status);
            }
        }
    }

    /// The status is no state: which of a user's states is the latest does not depend on it.
    fn show_status(&self, book: &mut Book, connection: &ConnectionId, roster: &RosterKey, status: Status) {
        let place = book.accounts.get_mut(connection).and_then(|account| account.places.get_mut(roster));
        let Some(place) = place.filter(|place| !matches!(place.wanted, Wanted::Gone(_))) else { return };
        let payload = with_status(&place.content.payload, status);
        if payload != place.content.payload {
            place.content.payload = payload;
            self.touch(book, connection, roster);
        }
    }
}

/// What a place shows of somebody who has just come.
fn since_now(content: Content) -> Content {
    let since = wall_now_ms();
    let Ok(shown) = serde_json::from_str::<Shown>(&content.payload) else { return Content { since, ..content } };
    let payload = serde_json::to_string(&Shown { since, ..shown }).expect("what is shown is JSON").into();
    Content { since, payload, ..content }
}
