//! What should be in the store, against what the store has acknowledged.
//!
//! Writing is reconciling: nobody queues operations. Sessions change what they want here, in absolute values; one writer per partition sends the
//! difference. After an outage, a new link, a new generation or a new epoch everything counts as unacknowledged and is sent again, so that healing
//! is the ordinary path. The size is bounded by the connections that this instance answers for.

mod account;
mod departed;
mod persons;
mod reconciling;
mod sending;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, oneshot};

use self::{
    account::{Account, Counted, Place, Waiting, Wanted, longest_grace},
    departed::Departed,
    persons::Local,
};
pub(crate) use self::{persons::with_status, reconciling::Reset, sending::Sent};
use super::notices::Notices;
use crate::{
    domain::{
        chance::Map,
        member::{Reason, Shown, Status},
        name::{ConnectionId, RosterKey, UserName},
        partition::Beat,
        roster::{Entry, Outcome},
        version::{Epoch, Version},
    },
    store::{PartitionId, Store},
};

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

impl Content {
    /// In the place of what was there before. Where others see no difference, the user's states stay in their order.
    fn after(self, before: &Self) -> Self {
        let shown = |content: &Self| serde_json::from_str::<Shown>(&content.payload).ok();
        if self.changed != 0 || self.payload == before.payload {
            return self;
        }
        match (shown(before), shown(&self)) {
            (Some(old), Some(new)) if new.looks_like(&old) => Self { changed: before.changed, ..self },
            _ => self,
        }
    }
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

#[derive(Debug, Default)]
struct Lane {
    dirty: VecDeque<(ConnectionId, RosterKey)>,
    asks: VecDeque<(Entry, Asker)>,
    /// How many places are not acknowledged.
    waiting: Arc<AtomicUsize>,
    /// How many of them the store may have lost.
    owed: Arc<AtomicUsize>,
    /// Counts the resets: an answer to a batch from before one says nothing of what the store holds now.
    era: u64,
    /// The epoch of the last registration.
    epoch: Option<Epoch>,
    departed: Departed,
}

/// Who waits for the answer to a question; none where this instance only puts something right.
type Asker = Option<oneshot::Sender<(Outcome, Beat)>>;

#[derive(Debug)]
struct Book {
    owners: u64,
    accounts: Map<ConnectionId, Account>,
    people: Map<UserName, Local>,
    lanes: Vec<Lane>,
}

/// As many one-time questions may wait in a partition; a further one is refused as unavailable.
const ASKS: usize = 10_000;

/// See the module.
pub(crate) struct Ledger {
    store: Arc<dyn Store>,
    book: Mutex<Book>,
    wake: Vec<Notify>,
    members: Arc<AtomicUsize>,
}

impl Ledger {
    pub fn new(store: Arc<dyn Store>) -> Self {
        let partitions = usize::from(store.partitions());
        let lanes = (0..partitions).map(|_| Lane::default()).collect();
        Self {
            store,
            book: Mutex::new(Book { owners: 0, accounts: Map::default(), people: Map::default(), lanes }),
            wake: (0..partitions).map(|_| Notify::new()).collect(),
            members: Arc::default(),
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
        lane.asks.is_empty() && lane.waiting.load(Ordering::Relaxed) == 0
    }

    /// Whether the store has acknowledged, in the epoch of now, all that this instance answered for when it registered. What has come to be wanted since
    /// does not count: where people come all the time there is always something.
    pub fn is_done(&self, partition: PartitionId) -> bool {
        self.lock().lanes[usize::from(partition)].owed.load(Ordering::Relaxed) == 0
    }

    /// How many connections this instance answers for.
    pub fn len(&self) -> usize {
        self.lock().accounts.len()
    }

    /// In how many channels, over all connections.
    pub fn members(&self) -> usize {
        self.members.load(Ordering::Relaxed)
    }

    /// How many places of a partition wait to be acknowledged.
    pub fn waiting(&self, partition: PartitionId) -> usize {
        self.lock().lanes[usize::from(partition)].waiting.load(Ordering::Relaxed)
    }

    fn member(&self, roster: &RosterKey) -> Option<Counted> {
        (!roster.is_user()).then(|| Counted::new(&self.members))
    }

    /// Whether this instance wants the connection held in that roster, or, where the user is shown to nobody, in its twin.
    pub fn holds(&self, connection: &ConnectionId, roster: &RosterKey) -> bool {
        let book = self.lock();
        book.accounts.get(connection).is_some_and(|account| account.holds(&roster.twin(account.hidden)))
    }

    /// What the session of a connection must hear; none where no socket here has it.
    pub fn notices(&self, connection: &ConnectionId) -> Option<Arc<Notices>> {
        self.lock().accounts.get(connection)?.notices.clone()
    }

    /// Whether the store may think that this instance holds the connection in that roster: it does, or says something else just now.
    pub fn may_hold(&self, connection: &ConnectionId, roster: &RosterKey) -> bool {
        let book = self.lock();
        let Some(account) = book.accounts.get(connection) else { return false };
        account.holds(roster) || account.places.get(roster).is_some_and(|place| !place.is_acknowledged())
    }

    /// Opens an account for a connection whose socket is here: new (take 1) or claimed. An account of an older take is dropped, its session told; where
    /// there is one of a later take, the session that asks is told, and none is opened for it.
    /// Returns the owner's number, which tells the session from another one with the same connection.
    pub fn open(
        &self,
        connection: &ConnectionId,
        user: &UserName,
        hidden: bool,
        take: u64,
        valid: u64,
        notices: Option<Arc<Notices>>,
    ) -> u64 {
        let mut book = self.lock();
        book.owners += 1;
        let owner = book.owners;
        if book.accounts.get(connection).is_some_and(|account| account.take > take) {
            if let Some(notices) = notices {
                notices.end(Reason::Replaced);
            }
            return owner;
        }
        let places = BTreeMap::new();
        let user = user.clone();
        let (automatic, needs_proof) = (Status::Online, false);
        let account =
            Account { owner, user, hidden, automatic, take, valid, token: take, needs_proof, places, notices };
        if let Some(notices) = book.insert(connection, account).and_then(|old| old.notices) {
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

    /// Wants a lease without a socket, whose rows were acknowledged already, kept in mind for the case that the store loses them. Where a later
    /// renewal of it is known that counts; where a new epoch has begun since the answer the rows are sent again.
    pub fn remember_lease(
        &self,
        connection: &ConnectionId,
        user: &UserName,
        take: u64,
        rows: [(RosterKey, Content, Beat); 2],
        remaining_ms: u64,
        is_renewal: bool,
    ) {
        let mut book = self.lock();
        if is_renewal && book.accounts.get(connection).is_some_and(|account| account.take > take) {
            return;
        }
        let mut places = BTreeMap::new();
        let mut lost = Vec::new();
        for (roster, content, beat) in rows {
            let partition = self.store.partition_of(&roster);
            let lane = &book.lanes[usize::from(partition)];
            let is_lost = lane.epoch.as_ref().is_some_and(|epoch| *epoch != beat.epoch);
            let place = Place {
                partition,
                wanted: Wanted::Ending { remaining_ms, counted_from: (!is_lost).then_some((beat.epoch, beat.now)) },
                content,
                limit: 0,
                fresh: is_lost,
                revision: 1,
                waiting: is_lost.then(|| Waiting::new(&lane.waiting)),
                sent: true,
                resent: false,
                queued: false,
                waiters: Vec::new(),
                _member: self.member(&roster),
            };
            if is_lost {
                lost.push(roster.clone());
            }
            places.insert(roster, Box::new(place));
        }
        book.owners += 1;
        let (owner, user) = (book.owners, user.clone());
        let hidden = places.keys().any(RosterKey::is_hidden);
        let (automatic, token, needs_proof, notices) = (Status::Online, take, false, None);
        let account = Account { owner, user, hidden, automatic, take, valid: 0, token, needs_proof, places, notices };
        book.insert(connection, account);
        for roster in lost {
            self.queue(&mut book, connection, &roster);
        }
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
            let account = book.accounts.get(connection);
            let place = account.and_then(|account| account.places.get(&roster.twin(account.hidden)));
            place.map(|place| (place.content.clone(), book.as_shown(connection, roster, payload)))
        };
        match content {
            Some((content, payload)) => {
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
        // Not the take itself: a proof has raised that, and the client's token names the one from before.
        if account.owner != owner || account.valid == account.token {
            return;
        }
        account.valid = account.token;
        let user = account.home();
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
        self.ask_where(entry, |_| true)
    }

    /// Says something once that nobody waits for. Where too much waits already it is not said.
    pub fn tell(&self, entry: Entry) {
        let partition = usize::from(self.store.partition_of(&entry.roster));
        let mut book = self.lock();
        if book.lanes[partition].asks.len() < ASKS {
            book.lanes[partition].asks.push_back((entry, None));
            drop(book);
            self.wake[partition].notify_one();
        }
    }

    /// The same of what was found out about this epoch: in another one it is not asked.
    pub fn ask_in(&self, entry: Entry, epoch: &Epoch) -> Option<oneshot::Receiver<(Outcome, Beat)>> {
        self.ask_where(entry, |lane| lane.epoch.as_ref() == Some(epoch))
    }

    fn ask_where(&self, entry: Entry, may: impl Fn(&Lane) -> bool) -> Option<oneshot::Receiver<(Outcome, Beat)>> {
        let partition = usize::from(self.store.partition_of(&entry.roster));
        let (sender, receiver) = oneshot::channel();
        let mut book = self.lock();
        let lane = &mut book.lanes[partition];
        if lane.asks.len() >= ASKS || !may(lane) {
            return None;
        }
        lane.asks.push_back((entry, Some(sender)));
        drop(book);
        self.wake[partition].notify_one();
        Some(receiver)
    }

    /// The session is over: an account without places is not kept for it.
    pub fn detach(&self, connection: &ConnectionId, owner: u64) {
        let mut book = self.lock();
        if let Some(account) = book.accounts.get_mut(connection)
            && account.owner == owner
        {
            account.notices = None;
            if account.places.is_empty() {
                book.remove(connection);
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
            if let (true, Some(longest)) = (roster.is_user(), longest) {
                place.content.grace_ms = longest;
            }
            if !matches!(place.wanted, Wanted::Gone(_)) {
                place.wanted = wanted(&place.content);
            }
        }
        for roster in rosters {
            self.touch(&mut book, connection, &roster);
        }
        self.close_unsent(&mut book, connection);
    }

    /// What the store has never heard of, and shall not, is gone already. Otherwise an outage would gather all who came and gave up.
    fn close_unsent(&self, book: &mut Book, connection: &ConnectionId) {
        let Some(account) = book.accounts.get(connection) else { return };
        let unsent = account.places.iter().filter(|(_, place)| !place.sent && matches!(place.wanted, Wanted::Gone(_)));
        for roster in unsent.map(|(roster, _)| roster.clone()).collect::<Vec<_>>() {
            self.close_place(book, connection, &roster, &Settlement::Lost);
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
        let content = content.map(|content| {
            let payload = book.as_shown(connection, roster, content.payload);
            Content { payload, ..content }
        });
        let Book { accounts, lanes, .. } = &mut *book;
        let Some(account) = accounts.get_mut(connection) else { return answered(Settlement::Lost) };
        // Sessions name the rosters that others see; whether these are meant is known here.
        let roster = &roster.twin(account.hidden);
        if wanted == Wanted::Held && account.notices.as_ref().is_some_and(|notices| notices.is_over()) {
            // Somebody has put the connection out; its session will hear of it.
            return answered(Settlement::Lost);
        }
        let partition = self.store.partition_of(roster);
        let lane = &mut lanes[usize::from(partition)];
        if wanted == Wanted::Held {
            lane.departed.forget(roster, connection);
        }
        let count = &lane.waiting;
        let revision = match (account.places.get_mut(roster), content) {
            (Some(place), content) => {
                if let Some(content) = content {
                    place.content = content.after(&place.content);
                }
                if wanted == Wanted::Held && matches!(place.wanted, Wanted::Gone(_)) {
                    // The removal may have happened though nobody has heard of it: it begins anew.
                    (place.fresh, place.limit) = (true, limit);
                }
                place.wanted = wanted;
                place.revision += 1;
                place.waiting.get_or_insert_with(|| Waiting::new(count));
                place.waiters.push((place.revision, sender));
                place.revision
            }
            (None, Some(content)) => {
                let place = Place::new(partition, wanted, content, limit, Waiting::new(count), self.member(roster));
                account.places.insert(roster.clone(), Box::new(Place { waiters: vec![(1, sender)], ..place }));
                1
            }
            (None, None) => return answered(Settlement::Lost),
        };
        if !roster.is_user() && revision == 1 {
            // The user's row names the channel before the channel's row is made.
            let user = account.home();
            self.touch(&mut book, connection, &user);
        }
        self.queue(&mut book, connection, roster);
        self.close_unsent(&mut book, connection);
        receiver
    }

    /// Counts a place as changed and queues it.
    fn touch(&self, book: &mut Book, connection: &ConnectionId, roster: &RosterKey) {
        let Book { accounts, lanes, .. } = &mut *book;
        if let Some(place) = accounts.get_mut(connection).and_then(|account| account.places.get_mut(roster)) {
            place.revision += 1;
            place.waiting.get_or_insert_with(|| Waiting::new(&lanes[usize::from(place.partition)].waiting));
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
        let partition = usize::from(place.partition);
        book.lanes[partition].dirty.push_back((connection.clone(), roster.clone()));
        self.wake[partition].notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nothing panics while it holds the ledger")
    }
}

fn answered(settlement: Settlement) -> oneshot::Receiver<Settlement> {
    let (sender, receiver) = oneshot::channel();
    let _ = sender.send(settlement);
    receiver
}
