//! What should be in the store, against what the store has acknowledged.
//!
//! Writing is reconciling: nobody queues operations. Sessions change what they want here, in absolute values; one writer per partition sends the
//! difference. After an outage, a new link, a new generation or a new epoch everything counts as unacknowledged and is sent again, so that healing
//! is the ordinary path. The size is bounded by the connections that this instance answers for.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
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

/// Counts in its lane for as long as a place waits to be acknowledged, whatever becomes of the place.
#[derive(Debug)]
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Place {
    partition: PartitionId,
    wanted: Wanted,
    content: Content,
    limit: u64,
    fresh: bool,
    revision: u64,
    /// None when the store has acknowledged what is wanted.
    waiting: Option<Waiting>,
    /// It has been on its way to the store, which may therefore know of it.
    sent: bool,
    queued: bool,
    waiters: Vec<(u64, oneshot::Sender<Settlement>)>,
}

impl Place {
    fn is_acknowledged(&self) -> bool {
        self.waiting.is_none()
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
    /// The take that the client's newest resume token names.
    token: u64,
    needs_proof: bool,
    places: BTreeMap<RosterKey, Place>,
    notices: Option<Arc<Notices>>,
}

#[derive(Debug, Default)]
struct Lane {
    dirty: VecDeque<(ConnectionId, RosterKey)>,
    asks: VecDeque<(Entry, Asker)>,
    /// How many places are not acknowledged.
    waiting: Arc<AtomicUsize>,
    /// Counts the resets: an answer to a batch from before one says nothing of what the store holds now.
    era: u64,
    /// The epoch of the last registration.
    epoch: Option<Epoch>,
}

/// Who waits for the answer to a question; none where this instance only puts something right.
type Asker = Option<oneshot::Sender<(Outcome, Beat)>>;

#[derive(Debug)]
struct Book {
    owners: u64,
    accounts: HashMap<ConnectionId, Account>,
    lanes: Vec<Lane>,
}

/// An entry on its way, so that its answer finds what it was for.
pub(crate) enum Sent {
    /// A place as it was wanted.
    Place { connection: ConnectionId, roster: RosterKey, take: u64, revision: u64, removal: bool, era: u64 },
    /// A question asked once, of this row.
    Ask(RosterKey, ConnectionId, Asker),
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
        lane.asks.is_empty() && lane.waiting.load(Ordering::Relaxed) == 0
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
        let user = user.clone();
        let account = Account { owner, user, take, valid, token: take, needs_proof: false, places, notices };
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
                queued: false,
                waiters: Vec::new(),
            };
            if is_lost {
                lost.push(roster.clone());
            }
            places.insert(roster, place);
        }
        book.owners += 1;
        let (owner, user) = (book.owners, user.clone());
        let account = Account { owner, user, take, valid: 0, token: take, needs_proof: false, places, notices: None };
        book.accounts.insert(connection.clone(), account);
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
        // Not the take itself: a proof has raised that, and the client's token names the one from before.
        if account.owner != owner || account.valid == account.token {
            return;
        }
        account.valid = account.token;
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
        lane.asks.push_back((entry, Some(sender)));
        drop(book);
        self.wake[partition].notify_one();
        Some(receiver)
    }

    /// The next question that is still to be asked: not one whose asker gave up, so that it is not carried out after an outage, and not a release of
    /// what has come to be known here since.
    fn live_ask(lane: &mut Lane, accounts: &HashMap<ConnectionId, Account>) -> Option<(Entry, Asker)> {
        while let Some((entry, asker)) = lane.asks.pop_front() {
            let is_known =
                || accounts.get(&entry.connection).is_some_and(|account| account.places.contains_key(&entry.roster));
            let is_void =
                asker.as_ref().is_some_and(oneshot::Sender::is_closed) || (entry.ask == Ask::Release && is_known());
            if !is_void {
                return Some((entry, asker));
            }
        }
        None
    }

    /// Lets a row end that the store may think this instance holds, and for which nobody here answers.
    fn release(&self, book: &mut Book, connection: &ConnectionId, roster: &RosterKey) {
        let partition = usize::from(self.store.partition_of(roster));
        let lane = &mut book.lanes[partition];
        // Where there is no room the comparison finds the row.
        if lane.asks.len() < ASKS {
            let entry = Entry { roster: roster.clone(), connection: connection.clone(), ask: Ask::Release };
            lane.asks.push_back((entry, None));
            self.wake[partition].notify_one();
        }
    }

    /// Another take has the connection: what only this instance may have written goes.
    fn give_up(&self, book: &mut Book, connection: &ConnectionId) {
        let Some(account) = book.accounts.remove(connection) else { return };
        if let Some(notices) = &account.notices {
            notices.end(Reason::Replaced);
        }
        for (roster, _) in account.places.iter().filter(|(_, place)| place.sent && place.wanted == Wanted::Held) {
            self.release(book, connection, roster);
        }
    }

    /// The next batch of a partition, at most `most` entries.
    pub fn batch(&self, partition: PartitionId, most: usize) -> (Vec<Entry>, Vec<Sent>) {
        let mut book = self.lock();
        let Book { accounts, lanes, .. } = &mut *book;
        let lane = &mut lanes[usize::from(partition)];
        let era = lane.era;
        let (mut entries, mut sent) = (Vec::new(), Vec::new());
        let mut included = std::collections::HashSet::new();
        // While much is sent again, those who wait for an answer have their turn too.
        let most_places = most - lane.asks.len().min(most / 4);
        while entries.len() < most_places
            && let Some((connection, roster)) = lane.dirty.pop_front()
        {
            let Some(account) = accounts.get_mut(&connection) else { continue };
            let user = RosterKey::User(account.user.clone());
            let Some(place) = account.places.get_mut(&roster) else { continue };
            place.queued = false;
            // The row of the user first: it decides who has the connection and names the channels. Whoever leaves does not wait for it: it waits.
            if roster != user
                && !matches!(place.wanted, Wanted::Gone(_))
                && let Some(of_user) = account.places.get(&user)
                && !of_user.is_acknowledged()
            {
                if of_user.partition != partition {
                    continue;
                }
                if included.insert((connection.clone(), user.clone()))
                    && let Some(one) = Self::entry(account, &connection, &user, era)
                {
                    entries.push(one.0);
                    sent.push(one.1);
                }
            }
            if included.insert((connection.clone(), roster.clone()))
                && let Some(one) = Self::entry(account, &connection, &roster, era)
            {
                entries.push(one.0);
                sent.push(one.1);
            }
        }
        while entries.len() < most
            && let Some((entry, asker)) = Self::live_ask(lane, accounts)
        {
            sent.push(Sent::Ask(entry.roster.clone(), entry.connection.clone(), asker));
            entries.push(entry);
        }
        (entries, sent)
    }

    fn entry(account: &mut Account, connection: &ConnectionId, roster: &RosterKey, era: u64) -> Option<(Entry, Sent)> {
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
            era,
        };
        account.places.get_mut(roster)?.sent = true;
        Some((entry, sent))
    }

    /// A batch was carried out.
    pub fn answered(&self, beat: &Beat, sent: Vec<Sent>, outcomes: Vec<Outcome>) {
        let mut book = self.lock();
        for (sent, outcome) in sent.into_iter().zip(outcomes) {
            match sent {
                Sent::Ask(roster, connection, asker) => {
                    let unheard = asker.and_then(|asker| asker.send((outcome, beat.clone())).err());
                    if let Some((Outcome::Claimed { .. }, _)) = unheard {
                        // The one who took the connection has given up: it ends like one whose socket broke.
                        self.release(&mut book, &connection, &roster);
                    }
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
        let Sent::Place { connection, roster, take, revision, removal, era } = sent else { return };
        if book.lanes[usize::from(self.store.partition_of(roster))].era != *era {
            self.queue(book, connection, roster);
            return;
        }
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
                    place.waiting = None;
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
            Outcome::Lost => self.give_up(book, connection),
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
                self.give_up(&mut book, connection);
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
        let Book { accounts, lanes, .. } = &mut *book;
        let lane = &mut lanes[usize::from(partition)];
        lane.era += 1;
        for (connection, account) in accounts {
            let mut reborn = false;
            for (roster, place) in &mut account.places {
                if place.partition != partition {
                    continue;
                }
                place.waiting.get_or_insert_with(|| Waiting::new(&lane.waiting));
                place.fresh |= reset.epoch;
                // What was never sent cannot have been lost, and its socket has only just spoken.
                reborn |= reset.reborn && place.sent && place.wanted == Wanted::Held;
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

    /// This instance has registered in an epoch.
    pub fn registered(&self, partition: PartitionId, epoch: &Epoch) {
        self.lock().lanes[usize::from(partition)].epoch = Some(epoch.clone());
    }

    /// What a partition's `held` set should name is sent again where the set does not.
    pub fn resend_missing(&self, partition: PartitionId, held: &std::collections::HashSet<(RosterKey, ConnectionId)>) {
        let mut book = self.lock();
        let mut missing = Vec::new();
        let Book { accounts, lanes, .. } = &mut *book;
        for (connection, account) in accounts {
            for (roster, place) in &mut account.places {
                if place.wanted == Wanted::Held
                    && place.is_acknowledged()
                    && place.partition == partition
                    && !held.contains(&(roster.clone(), connection.clone()))
                {
                    place.waiting = Some(Waiting::new(&lanes[usize::from(partition)].waiting));
                    missing.push((connection.clone(), roster.clone()));
                }
            }
        }
        for (connection, roster) in missing {
            self.queue(&mut book, &connection, &roster);
        }
    }

    /// Drops what has ended long ago by this partition's time, though nobody said so.
    pub fn drop_ended(&self, partition: PartitionId, beat: &Beat, slack_ms: u64) {
        self.lock().accounts.retain(|_, account| {
            let had = account.places.len();
            account.places.retain(|_, place| {
                let Wanted::Ending { remaining_ms, counted_from: Some((epoch, from)) } = &place.wanted else {
                    return true;
                };
                place.partition != partition
                    || !place.is_acknowledged()
                    || *epoch != beat.epoch
                    || beat.now <= from + remaining_ms + slack_ms
            });
            had == account.places.len() || !account.places.is_empty()
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
        let Book { accounts, lanes, .. } = &mut *book;
        let Some(account) = accounts.get_mut(connection) else { return answered(Settlement::Lost) };
        if wanted == Wanted::Held && account.notices.as_ref().is_some_and(|notices| notices.is_over()) {
            // Somebody has put the connection out; its session will hear of it.
            return answered(Settlement::Lost);
        }
        let partition = self.store.partition_of(roster);
        let count = &lanes[usize::from(partition)].waiting;
        let revision = match (account.places.get_mut(roster), content) {
            (Some(place), content) => {
                if let Some(content) = content {
                    place.content = content;
                }
                place.wanted = wanted;
                place.revision += 1;
                place.waiting.get_or_insert_with(|| Waiting::new(count));
                place.waiters.push((place.revision, sender));
                place.revision
            }
            (None, Some(content)) => {
                let waiters = vec![(1, sender)];
                let place = Place {
                    partition,
                    wanted,
                    content,
                    limit,
                    fresh: true,
                    revision: 1,
                    waiting: Some(Waiting::new(count)),
                    sent: false,
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

#[cfg(test)]
mod tests;
