//! What should be in the store, against what the store has acknowledged.
//!
//! Writing is reconciling: nobody queues operations. Sessions change what they want here, in absolute values; one writer per partition sends the
//! difference. After an outage, a new link, a new generation or a new epoch everything counts as unacknowledged and is sent again, so that healing
//! is the ordinary path. The size is bounded by the connections that this instance answers for.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::{Notify, oneshot};

use super::notices::Notices;
use crate::{
    domain::{
        member::{Reason, Whereabouts},
        name::{ConnectionId, RosterKey, UserName},
        partition::Beat,
        roster::{Ask, Body, Entry, Keep, Outcome},
        version::{Epoch, Version},
    },
    store::{PartitionId, Store},
};

/// How one place of a connection is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// With a socket here.
    Held,
    /// Without one, for this long from the moment that Redis first heard of it.
    Ending { remaining_ms: u64, counted_from: Option<(Epoch, u64)> },
    /// Not at all.
    Gone(Reason),
}

/// What a place shows.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    /// How long it stays without a socket, milliseconds.
    pub grace_ms: u64,
    /// Unix milliseconds.
    pub since: u64,
    /// 0, or as acknowledged.
    pub changed: u64,
    /// What others do not see; the ledger itself fills it in for users' rosters.
    pub private: Arc<str>,
    /// What others see.
    pub payload: Arc<str>,
}

/// How a wait for the store ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// Acknowledged, at this version of the roster.
    Done(Version),
    /// Somebody else removed or took it.
    Lost,
    /// The roster is full.
    Full,
}

#[derive(Debug)]
struct Place {
    wanted: Wanted,
    content: Content,
    limit: u64,
    fresh: bool,
    revision: u64,
    acknowledged: Option<u64>,
    queued: bool,
    waiters: Vec<(u64, oneshot::Sender<Settlement>)>,
}

impl Place {
    fn is_acknowledged(&self) -> bool {
        self.acknowledged == Some(self.revision)
    }

    fn settle(&mut self, up_to: u64, settlement: &Settlement) {
        for (revision, waiter) in std::mem::take(&mut self.waiters) {
            if revision <= up_to {
                // The one who waited may have given up.
                let _ = waiter.send(settlement.clone());
            } else {
                self.waiters.push((revision, waiter));
            }
        }
    }
}

/// A connection that this instance answers for.
#[derive(Debug)]
struct Account {
    owner: u64,
    user: UserName,
    take: u64,
    valid: u64,
    needs_proof: bool,
    places: BTreeMap<RosterKey, Place>,
    notices: Option<Arc<Notices>>,
}

#[derive(Debug, Default)]
struct Lane {
    dirty: VecDeque<(ConnectionId, RosterKey)>,
    asks: VecDeque<(Entry, oneshot::Sender<(Outcome, Beat)>)>,
}

#[derive(Debug)]
struct Book {
    owners: u64,
    accounts: HashMap<ConnectionId, Account>,
    lanes: Vec<Lane>,
}

/// An entry on its way, so that its answer finds what it was for.
pub(crate) enum Sent {
    /// A place as it was wanted.
    Place { connection: ConnectionId, roster: RosterKey, take: u64, revision: u64, removal: bool },
    /// A question asked once.
    Ask(oneshot::Sender<(Outcome, Beat)>),
}

/// Why everything counts as unacknowledged again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reset {
    /// The numbers are new: rows that were acknowledged may be missing.
    pub epoch: bool,
    /// The lease had ended: others may have taken what this instance held.
    pub reborn: bool,
}

/// As many one-time questions may wait in a partition; a further one is refused as unavailable.
const ASKS: usize = 10_000;

/// See the module.
pub(crate) struct Ledger {
    store: Arc<dyn Store>,
    book: Mutex<Book>,
    wake: Vec<Notify>,
}

impl Ledger {
    pub fn new(store: Arc<dyn Store>) -> Self {
        let partitions = usize::from(store.partitions());
        let lanes = (0..partitions).map(|_| Lane::default()).collect();
        Self {
            store,
            book: Mutex::new(Book { owners: 0, accounts: HashMap::new(), lanes }),
            wake: (0..partitions).map(|_| Notify::new()).collect(),
        }
    }

    /// Waits until the lane of a partition may have something to send.
    pub async fn changed(&self, partition: PartitionId) {
        self.wake[usize::from(partition)].notified().await;
    }

    /// Whether nothing of a partition waits to be sent or to be acknowledged.
    pub fn is_settled(&self, partition: PartitionId) -> bool {
        let book = self.lock();
        let lane = &book.lanes[usize::from(partition)];
        lane.dirty.is_empty()
            && lane.asks.is_empty()
            && book
                .accounts
                .values()
                .flat_map(|account| &account.places)
                .all(|(roster, place)| place.is_acknowledged() || self.store.partition_of(roster) != partition)
    }

    /// How many connections this instance answers for.
    pub fn len(&self) -> usize {
        self.lock().accounts.len()
    }

    /// Whether this instance answers for the connection in that roster.
    pub fn knows(&self, connection: &ConnectionId, roster: &RosterKey) -> bool {
        self.lock().accounts.get(connection).is_some_and(|account| account.places.contains_key(roster))
    }

    /// Opens an account for a connection whose socket is here: new (take 1) or claimed. An account of an older take is dropped, its session told.
    /// Returns the owner's number, which tells the session from a later one with the same connection.
    pub fn open(
        &self,
        connection: &ConnectionId,
        user: &UserName,
        take: u64,
        valid: u64,
        notices: Option<Arc<Notices>>,
    ) -> u64 {
        let mut book = self.lock();
        book.owners += 1;
        let owner = book.owners;
        let places = BTreeMap::new();
        let account = Account { owner, user: user.clone(), take, valid, needs_proof: false, places, notices };
        if let Some(notices) = book.accounts.insert(connection.clone(), account).and_then(|old| old.notices) {
            notices.end(Reason::Replaced);
        }
        owner
    }

    /// Wants a place held with this content. `limit` binds only the first time, 0 is none.
    pub fn hold(
        &self,
        connection: &ConnectionId,
        roster: &RosterKey,
        content: Content,
        limit: u64,
    ) -> oneshot::Receiver<Settlement> {
        self.want(connection, roster, Some(content), Wanted::Held, limit)
    }

    /// Wants a lease without a socket, which was acknowledged already, kept in mind for the case that Redis loses it.
    pub fn remember_lease(
        &self,
        connection: &ConnectionId,
        roster: &RosterKey,
        content: Content,
        remaining_ms: u64,
        beat: &Beat,
    ) {
        let mut book = self.lock();
        let Some(account) = book.accounts.get_mut(connection) else { return };
        let counted_from = Some((beat.epoch.clone(), beat.now));
        let place = Place {
            wanted: Wanted::Ending { remaining_ms, counted_from },
            content,
            limit: 0,
            fresh: false,
            revision: 1,
            acknowledged: Some(1),
            queued: false,
            waiters: Vec::new(),
        };
        account.places.insert(roster.clone(), place);
    }

    /// Wants another payload shown.
    pub fn show(
        &self,
        connection: &ConnectionId,
        roster: &RosterKey,
        payload: Arc<str>,
    ) -> oneshot::Receiver<Settlement> {
        let content = {
            let book = self.lock();
            let place = book.accounts.get(connection).and_then(|account| account.places.get(roster));
            place.map(|place| place.content.clone())
        };
        match content {
            Some(content) => {
                let changed = if content.payload == payload { content.changed } else { 0 };
                self.want(connection, roster, Some(Content { payload, changed, ..content }), Wanted::Held, 0)
            }
            None => answered(Settlement::Lost),
        }
    }

    /// Wants the connection out of one roster.
    pub fn leave(
        &self,
        connection: &ConnectionId,
        roster: &RosterKey,
        reason: Reason,
    ) -> oneshot::Receiver<Settlement> {
        self.want(connection, roster, None, Wanted::Gone(reason), 0)
    }

    /// Wants the connection out of everything.
    pub fn leave_all(&self, connection: &ConnectionId, owner: u64, reason: Reason) {
        self.every_place(connection, owner, |_| Wanted::Gone(reason));
    }

    /// The socket is gone without a goodbye: every place keeps its grace; where that is 0 the connection leaves at once.
    pub fn broke(&self, connection: &ConnectionId, owner: u64) {
        self.every_place(connection, owner, |content| match content.grace_ms {
            0 => Wanted::Gone(Reason::Timeout),
            remaining_ms => Wanted::Ending { remaining_ms, counted_from: None },
        });
    }

    /// The client has answered with its newest take: older resume tokens end.
    pub fn confirm(&self, connection: &ConnectionId, owner: u64) {
        let mut book = self.lock();
        let Some(account) = book.accounts.get_mut(connection) else { return };
        if account.owner != owner || account.valid == account.take {
            return;
        }
        account.valid = account.take;
        let user = RosterKey::User(account.user.clone());
        self.touch(&mut book, connection, &user);
    }

    /// The socket has shown that it lives; what a reborn instance held back is offered again, as a new take.
    pub fn prove(&self, connection: &ConnectionId) {
        let mut book = self.lock();
        let Some(account) = book.accounts.get_mut(connection) else { return };
        if !account.needs_proof {
            return;
        }
        account.needs_proof = false;
        account.take += 1;
        let rosters: Vec<RosterKey> = account.places.keys().cloned().collect();
        for place in account.places.values_mut() {
            place.fresh = true;
        }
        for roster in rosters {
            self.touch(&mut book, connection, &roster);
        }
    }

    /// Asks once, outside of what is wanted: a claim, a lease on somebody's behalf, a removal. Lost with the link: the caller may ask again.
    pub fn ask(&self, entry: Entry) -> Option<oneshot::Receiver<(Outcome, Beat)>> {
        let partition = usize::from(self.store.partition_of(&entry.roster));
        let (sender, receiver) = oneshot::channel();
        let mut book = self.lock();
        let lane = &mut book.lanes[partition];
        if lane.asks.len() >= ASKS {
            return None;
        }
        lane.asks.push_back((entry, sender));
        drop(book);
        self.wake[partition].notify_one();
        Some(receiver)
    }

    /// Questions whose asker gave up are dropped, so that they are not carried out after an outage.
    fn live_ask(lane: &mut Lane) -> Option<(Entry, oneshot::Sender<(Outcome, Beat)>)> {
        while let Some((entry, sender)) = lane.asks.pop_front() {
            if !sender.is_closed() {
                return Some((entry, sender));
            }
        }
        None
    }

    /// The next batch of a partition, at most `most` entries.
    pub fn batch(&self, partition: PartitionId, most: usize) -> (Vec<Entry>, Vec<Sent>) {
        let mut book = self.lock();
        let Book { accounts, lanes, .. } = &mut *book;
        let lane = &mut lanes[usize::from(partition)];
        let (mut entries, mut sent) = (Vec::new(), Vec::new());
        let mut included = std::collections::HashSet::new();
        while entries.len() < most
            && let Some((connection, roster)) = lane.dirty.pop_front()
        {
            let Some(account) = accounts.get_mut(&connection) else { continue };
            let user = RosterKey::User(account.user.clone());
            if let Some(place) = account.places.get_mut(&roster) {
                place.queued = false;
            }
            // The row of the user first, for it decides who has the connection and names the channels; but last when both go.
            let goes = account.places.get(&roster).is_some_and(|place| matches!(place.wanted, Wanted::Gone(_)));
            let user_waits = account.places.get(&user).is_some_and(|place| !place.is_acknowledged());
            if roster != user && user_waits && !goes {
                if self.store.partition_of(&user) != partition {
                    continue;
                }
                if included.insert((connection.clone(), user.clone()))
                    && let Some(one) = self.entry(account, &connection, &user)
                {
                    entries.push(one.0);
                    sent.push(one.1);
                }
            }
            if included.insert((connection.clone(), roster.clone()))
                && let Some(one) = self.entry(account, &connection, &roster)
            {
                entries.push(one.0);
                sent.push(one.1);
            }
        }
        while entries.len() < most
            && let Some((entry, sender)) = Self::live_ask(lane)
        {
            entries.push(entry);
            sent.push(Sent::Ask(sender));
        }
        (entries, sent)
    }

    fn entry(&self, account: &Account, connection: &ConnectionId, roster: &RosterKey) -> Option<(Entry, Sent)> {
        let place = account.places.get(roster)?;
        if place.is_acknowledged() {
            return None;
        }
        let is_user = matches!(roster, RosterKey::User(_));
        if matches!(place.wanted, Wanted::Gone(_)) && is_user && account.places.len() > 1 {
            // Erased after the channels.
            return None;
        }
        if account.needs_proof && place.wanted == Wanted::Held {
            return None;
        }
        let Content { grace_ms, since, changed, private, payload } = place.content.clone();
        let private = if is_user { whereabouts(account).to_json() } else { private };
        let grace_ms = if is_user { longest_grace(account).unwrap_or(grace_ms) } else { grace_ms };
        let body = || Body {
            user: account.user.clone(),
            valid: if is_user { account.valid } else { 0 },
            grace_ms,
            since,
            changed,
            private,
            payload,
        };
        let present =
            |keep| Ask::Present { take: account.take, fresh: place.fresh, limit: place.limit, keep, body: body() };
        let ask = match &place.wanted {
            Wanted::Held => present(Keep::Held),
            Wanted::Ending { remaining_ms, .. } => present(Keep::Ending { remaining_ms: *remaining_ms }),
            Wanted::Gone(reason) => Ask::Absent { take: Some(account.take), reason: *reason },
        };
        let entry = Entry { roster: roster.clone(), connection: connection.clone(), ask };
        let sent = Sent::Place {
            connection: connection.clone(),
            roster: roster.clone(),
            take: account.take,
            revision: place.revision,
            removal: matches!(place.wanted, Wanted::Gone(_)),
        };
        Some((entry, sent))
    }

    /// A batch was carried out.
    pub fn answered(&self, beat: &Beat, sent: Vec<Sent>, outcomes: Vec<Outcome>) {
        let mut book = self.lock();
        for (sent, outcome) in sent.into_iter().zip(outcomes) {
            match sent {
                Sent::Ask(sender) => {
                    let _ = sender.send((outcome, beat.clone()));
                }
                place @ Sent::Place { .. } => self.conclude(&mut book, beat, &place, outcome),
            }
        }
    }

    /// A batch failed or was refused: its places are sent again, its questions are lost.
    pub fn failed(&self, sent: Vec<Sent>) {
        let mut book = self.lock();
        for sent in sent {
            if let Sent::Place { connection, roster, .. } = sent {
                self.queue(&mut book, &connection, &roster);
            }
        }
    }

    fn conclude(&self, book: &mut Book, beat: &Beat, sent: &Sent, outcome: Outcome) {
        let Sent::Place { connection, roster, take, revision, removal } = sent else { return };
        let Some(account) = book.accounts.get_mut(connection) else { return };
        let Some(place) = account.places.get_mut(roster).filter(|_| account.take == *take) else { return };
        let is_user = matches!(roster, RosterKey::User(_));
        if *removal && !matches!(outcome, Outcome::Lost) {
            let number = if let Outcome::Done { number, .. } = outcome { number } else { 0 };
            let settlement = Settlement::Done(Version { epoch: beat.epoch.clone(), number });
            if place.revision == *revision {
                self.close_place(book, connection, roster, &settlement);
            } else {
                // Wanted again meanwhile: it begins anew.
                place.settle(*revision, &settlement);
                place.fresh = true;
                place.content.changed = 0;
                self.queue(book, connection, roster);
            }
            return;
        }
        match outcome {
            Outcome::Done { number, changed, since, .. } => {
                place.fresh = false;
                place.limit = 0;
                place.content.since = since;
                if place.revision == *revision {
                    place.content.changed = changed;
                    place.acknowledged = Some(*revision);
                    if let Wanted::Ending { counted_from, .. } = &mut place.wanted {
                        counted_from.get_or_insert_with(|| (beat.epoch.clone(), beat.now));
                    }
                }
                place.settle(*revision, &Settlement::Done(Version { epoch: beat.epoch.clone(), number }));
                self.queue(book, connection, roster);
                if is_user {
                    // The channels have waited for this.
                    self.queue_all(book, connection);
                }
            }
            Outcome::Gone => {
                if let Some(notices) = &account.notices {
                    match roster {
                        RosterKey::Channel(channel) => notices.left(channel.clone(), Reason::Kicked),
                        RosterKey::User(_) => notices.end(Reason::Kicked),
                    }
                }
                self.close_place(book, connection, roster, &Settlement::Lost);
                if is_user {
                    self.wipe(book, connection, Reason::Kicked);
                }
            }
            Outcome::Lost => {
                if let Some(notices) = &account.notices {
                    notices.end(Reason::Replaced);
                }
                book.accounts.remove(connection);
            }
            Outcome::Full => self.close_place(book, connection, roster, &Settlement::Full),
            Outcome::Claimed { .. } => tracing::error!("a place was answered with a claim"),
        }
    }

    /// A place is no more: the user's row forgets it, and the account ends with its last place.
    fn close_place(&self, book: &mut Book, connection: &ConnectionId, roster: &RosterKey, settlement: &Settlement) {
        let Some(account) = book.accounts.get_mut(connection) else { return };
        let user = RosterKey::User(account.user.clone());
        if let Some(mut place) = account.places.remove(roster) {
            place.settle(u64::MAX, settlement);
        }
        if account.places.is_empty() && account.notices.as_ref().is_none_or(|notices| notices.is_over()) {
            book.accounts.remove(connection);
        } else if *roster != user {
            self.touch(book, connection, &user);
        }
    }

    /// The user's row was taken away by somebody: its places in channels go too.
    fn wipe(&self, book: &mut Book, connection: &ConnectionId, reason: Reason) {
        let Some(account) = book.accounts.get_mut(connection) else { return };
        let rosters: Vec<RosterKey> = account.places.keys().cloned().collect();
        for place in account.places.values_mut() {
            place.wanted = Wanted::Gone(reason);
        }
        for roster in rosters {
            self.touch(book, connection, &roster);
        }
    }

    /// Somebody else removed or took what this instance answered for.
    pub fn overruled(&self, connection: &ConnectionId, roster: &RosterKey, take: u64, reason: Reason) {
        let mut book = self.lock();
        let Some(account) = book.accounts.get_mut(connection) else { return };
        if account.take > take {
            return;
        }
        let is_user = matches!(roster, RosterKey::User(_));
        let held = account.places.get(roster).is_some_and(|place| place.wanted == Wanted::Held);
        if held && matches!(reason, Reason::Timeout | Reason::InstanceLost) {
            // The lease ran out under a living socket: the rebirth offers it again.
            return;
        }
        if reason == Reason::Replaced {
            if is_user {
                if let Some(notices) = &account.notices {
                    notices.end(reason);
                }
                book.accounts.remove(connection);
            }
            return;
        }
        if let Some(notices) = &account.notices {
            match roster {
                RosterKey::User(_) => notices.end(reason),
                RosterKey::Channel(channel) => notices.left(channel.clone(), reason),
            }
        }
        self.close_place(&mut book, connection, roster, &Settlement::Lost);
        if is_user {
            self.wipe(&mut book, connection, reason);
        }
    }

    /// Everything of a partition counts as unacknowledged. `last_now` is the last presence time that was seen in each epoch but the new one.
    pub fn reset(&self, partition: PartitionId, reset: Reset, last: Option<(&Epoch, u64)>) {
        let mut book = self.lock();
        let mut touched = Vec::new();
        for (connection, account) in &mut book.accounts {
            let mut reborn = false;
            for (roster, place) in &mut account.places {
                if self.store.partition_of(roster) != partition {
                    continue;
                }
                place.acknowledged = None;
                place.fresh |= reset.epoch;
                reborn |= reset.reborn && place.wanted == Wanted::Held;
                if reset.epoch
                    && let Wanted::Ending { remaining_ms, counted_from } = &mut place.wanted
                    && let Some((epoch, from)) = counted_from.take()
                    && let Some((last_epoch, last_now)) = last
                    && epoch == *last_epoch
                {
                    *remaining_ms = remaining_ms.saturating_sub(last_now.saturating_sub(from));
                }
                touched.push((connection.clone(), roster.clone()));
            }
            if reborn {
                account.needs_proof = true;
                if let Some(notices) = &account.notices {
                    notices.ask_for_proof();
                }
            }
        }
        for (connection, roster) in touched {
            self.queue(&mut book, &connection, &roster);
        }
        drop(book);
        self.wake[usize::from(partition)].notify_one();
    }

    /// What a partition's `held` set should name is sent again where the set does not.
    pub fn resend_missing(&self, partition: PartitionId, held: &std::collections::HashSet<(RosterKey, ConnectionId)>) {
        let mut book = self.lock();
        let mut missing = Vec::new();
        for (connection, account) in &mut book.accounts {
            for (roster, place) in &mut account.places {
                if place.wanted == Wanted::Held
                    && place.is_acknowledged()
                    && self.store.partition_of(roster) == partition
                    && !held.contains(&(roster.clone(), connection.clone()))
                {
                    place.acknowledged = None;
                    missing.push((connection.clone(), roster.clone()));
                }
            }
        }
        for (connection, roster) in missing {
            self.queue(&mut book, &connection, &roster);
        }
    }

    /// Drops what has ended long ago by this partition's time, though nobody said so.
    pub fn drop_ended(&self, beat: &Beat, slack_ms: u64) {
        let mut book = self.lock();
        book.accounts.retain(|_, account| {
            account.places.is_empty()
                || !account.places.values().all(|place| match &place.wanted {
                    Wanted::Ending { remaining_ms, counted_from: Some((epoch, from)) } => {
                        *epoch == beat.epoch && beat.now > from + remaining_ms + slack_ms
                    }
                    _ => false,
                })
        });
    }

    /// A lease was ended on purpose.
    pub fn drop_lease(&self, connection: &ConnectionId) {
        let mut book = self.lock();
        if book.accounts.get(connection).is_some_and(|account| account.notices.is_none()) {
            book.accounts.remove(connection);
        }
    }

    /// The session is over: an account without places is not kept for it.
    pub fn detach(&self, connection: &ConnectionId, owner: u64) {
        let mut book = self.lock();
        if let Some(account) = book.accounts.get_mut(connection)
            && account.owner == owner
        {
            account.notices = None;
            if account.places.is_empty() {
                book.accounts.remove(connection);
            }
        }
    }

    fn every_place(&self, connection: &ConnectionId, owner: u64, wanted: impl Fn(&Content) -> Wanted) {
        let mut book = self.lock();
        let Some(account) = book.accounts.get_mut(connection).filter(|account| account.owner == owner) else { return };
        account.notices = None;
        account.needs_proof = false;
        // The user's row stays as long as the longest of the channels.
        let longest = longest_grace(account);
        let rosters: Vec<RosterKey> = account.places.keys().cloned().collect();
        for (roster, place) in &mut account.places {
            if let (RosterKey::User(_), Some(longest)) = (roster, longest) {
                place.content.grace_ms = longest;
            }
            if !matches!(place.wanted, Wanted::Gone(_)) {
                place.wanted = wanted(&place.content);
            }
        }
        for roster in rosters {
            self.touch(&mut book, connection, &roster);
        }
    }

    fn want(
        &self,
        connection: &ConnectionId,
        roster: &RosterKey,
        content: Option<Content>,
        wanted: Wanted,
        limit: u64,
    ) -> oneshot::Receiver<Settlement> {
        let (sender, receiver) = oneshot::channel();
        let mut book = self.lock();
        let Some(account) = book.accounts.get_mut(connection) else { return answered(Settlement::Lost) };
        let revision = match (account.places.get_mut(roster), content) {
            (Some(place), content) => {
                if let Some(content) = content {
                    place.content = content;
                }
                place.wanted = wanted;
                place.revision += 1;
                place.waiters.push((place.revision, sender));
                place.revision
            }
            (None, Some(content)) => {
                let waiters = vec![(1, sender)];
                let place = Place {
                    wanted,
                    content,
                    limit,
                    fresh: true,
                    revision: 1,
                    acknowledged: None,
                    queued: false,
                    waiters,
                };
                account.places.insert(roster.clone(), place);
                1
            }
            (None, None) => return answered(Settlement::Lost),
        };
        if let (RosterKey::Channel(_), 1) = (roster, revision) {
            // The user's row names the channel before the channel's row is made.
            let user = RosterKey::User(account.user.clone());
            self.touch(&mut book, connection, &user);
        }
        self.queue(&mut book, connection, roster);
        receiver
    }

    /// Counts a place as changed and queues it.
    fn touch(&self, book: &mut Book, connection: &ConnectionId, roster: &RosterKey) {
        if let Some(place) = book.accounts.get_mut(connection).and_then(|account| account.places.get_mut(roster)) {
            place.revision += 1;
            self.queue(book, connection, roster);
        }
    }

    fn queue_all(&self, book: &mut Book, connection: &ConnectionId) {
        let Some(account) = book.accounts.get(connection) else { return };
        let waiting = account.places.iter().filter(|(_, place)| !place.is_acknowledged());
        for roster in waiting.map(|(roster, _)| roster.clone()).collect::<Vec<_>>() {
            self.queue(book, connection, &roster);
        }
    }

    fn queue(&self, book: &mut Book, connection: &ConnectionId, roster: &RosterKey) {
        let place = book.accounts.get_mut(connection).and_then(|account| account.places.get_mut(roster));
        let Some(place) = place.filter(|place| !place.queued && !place.is_acknowledged()) else { return };
        place.queued = true;
        let partition = usize::from(self.store.partition_of(roster));
        book.lanes[partition].dirty.push_back((connection.clone(), roster.clone()));
        self.wake[partition].notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nothing panics while it holds the ledger")
    }
}

fn whereabouts(account: &Account) -> Whereabouts {
    let channels = account.places.keys().filter_map(|roster| match roster {
        RosterKey::Channel(channel) => Some(channel.clone()),
        RosterKey::User(_) => None,
    });
    Whereabouts { channels: channels.collect() }
}

/// The longest grace of the connection's channels; none without channels.
fn longest_grace(account: &Account) -> Option<u64> {
    let channels = account.places.iter().filter(|(roster, _)| matches!(roster, RosterKey::Channel(_)));
    channels.map(|(_, place)| place.content.grace_ms).max()
}

fn answered(settlement: Settlement) -> oneshot::Receiver<Settlement> {
    let (sender, receiver) = oneshot::channel();
    let _ = sender.send(settlement);
    receiver
}
