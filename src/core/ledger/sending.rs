//! The difference on its way: batches out, answers in.

use std::collections::HashSet;

use tokio::{sync::oneshot, time::Instant};

use super::Content;
use super::{
    ASKS, Asker, Book, Lane, Ledger, Settlement,
    account::{Account, Place, Wanted, longest_grace, whereabouts},
    persons::put,
};
use crate::{
    domain::{
        chance::Map,
        member::Reason,
        name::{ConnectionId, RosterKey},
        partition::Beat,
        person::Record,
        roster::{Ask, Body, Entry, Keep, Outcome},
        version::Version,
    },
    store::PartitionId,
};

/// An entry on its way, so that its answer finds what it was for.
pub(crate) enum Sent {
    /// A place as it was wanted, since then.
    Place {
        connection: ConnectionId,
        roster: RosterKey,
        take: u64,
        revision: u64,
        removal: Option<Reason>,
        era: u64,
        wanted_at: Instant,
    },
    /// A question asked once, of this row. What it may make this instance hold without knowing is let go of where the answer is lost.
    Ask {
        roster: RosterKey,
        connection: ConnectionId,
        asker: Asker,
        removal: Option<Reason>,
        may_hold: bool,
        /// What is kept of a person, put back for whom nobody waits: it is asked again until it is answered.
        again: Option<Record>,
    },
}

impl Sent {
    /// The row that is to go, and why.
    fn removal(&self) -> Option<(&RosterKey, &ConnectionId, Reason)> {
        let (Self::Place { roster, connection, removal, .. } | Self::Ask { roster, connection, removal, .. }) = self;
        removal.map(|reason| (roster, connection, reason))
    }
}

impl Ledger {
    /// The next question that is still to be asked: not one whose asker gave up, so that it is not carried out after an outage, not a release of
    /// what has come to be held here since, and not a leave, said again, of who has come back.
    pub(in crate::core::ledger) fn live_ask(
        lane: &mut Lane,
        accounts: &Map<ConnectionId, Account>,
    ) -> Option<(Entry, Asker)> {
        while let Some((entry, asker)) = lane.asks.pop_front() {
            let is_held = || accounts.get(&entry.connection).is_some_and(|account| account.holds(&entry.roster));
            let is_back =
                || accounts.get(&entry.connection).is_some_and(|account| account.places.contains_key(&entry.roster));
            let is_void = match &entry.ask {
                Ask::Release => is_held(),
                Ask::Absent { .. } if asker.is_none() => is_back(),
                _ => false,
            };
            let is_void = is_void || asker.as_ref().is_some_and(oneshot::Sender::is_closed);
            if !is_void {
                return Some((entry, asker));
            }
        }
        None
    }

    /// Lets a row end that the store may think this instance holds, and for which nobody here answers.
    pub(in crate::core::ledger) fn release(&self, book: &mut Book, connection: &ConnectionId, roster: &RosterKey) {
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
    pub(in crate::core::ledger) fn give_up(&self, book: &mut Book, connection: &ConnectionId) {
        let Some(account) = book.remove(connection) else { return };
        if let Some(notices) = &account.notices {
            notices.end(Reason::Replaced);
        }
        // What was to end or to go may still be held, where the store has not acknowledged that.
        let may_be_held = |place: &Place| place.sent && (place.wanted == Wanted::Held || !place.is_acknowledged());
        for (roster, _) in account.places.iter().filter(|(_, place)| may_be_held(place)) {
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
        let mut included = HashSet::new();
        // While much is sent again, those who wait for an answer have their turn too.
        let most_places = most - lane.asks.len().min(most / 4);
        while entries.len() < most_places
            && let Some((connection, roster)) = lane.dirty.pop_front()
        {
            let Some(account) = accounts.get_mut(&connection) else { continue };
            let user = RosterKey::User(account.user.clone()).twin(roster.is_hidden());
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
            let may_hold = matches!(entry.ask, Ask::Claim { .. } | Ask::Release);
            let removal = if let Ask::Absent { reason, .. } = entry.ask { Some(reason) } else { None };
            let again = match &entry.ask {
                Ask::Person { record } if asker.is_none() => Some(record.clone()),
                _ => None,
            };
            sent.push(Sent::Ask {
                roster: entry.roster.clone(),
                connection: entry.connection.clone(),
                asker,
                removal,
                may_hold,
                again,
            });
            entries.push(entry);
        }
        (entries, sent)
    }

    pub(in crate::core::ledger) fn entry(
        account: &mut Account,
        connection: &ConnectionId,
        roster: &RosterKey,
        era: u64,
    ) -> Option<(Entry, Sent)> {
        let place = account.places.get(roster)?;
        let wanted_at = place.waiting.as_ref()?.since;
        let is_user = roster.is_user();
        if matches!(place.wanted, Wanted::Gone(_)) && is_user {
            // Erased after the channels that it names, and where it only moves after the new one is there.
            let is_before = |other: &RosterKey, place: &Place| {
                let is_named = !other.is_user() && other.is_hidden() == roster.is_hidden();
                let is_next = other.is_user() && other != roster && !matches!(place.wanted, Wanted::Gone(_));
                is_named || (is_next && place.fresh)
            };
            if account.places.iter().any(|(other, place)| is_before(other, place)) {
                return None;
            }
        }
        if account.needs_proof && place.wanted == Wanted::Held {
            return None;
        }
        let Content { grace_ms, since, changed, private, payload } = place.content.clone();
        let private = if is_user { whereabouts(account, roster.is_hidden()).to_json() } else { private };
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
            removal: if let Wanted::Gone(reason) = place.wanted { Some(reason) } else { None },
            era,
            wanted_at,
        };
        account.places.get_mut(roster)?.sent = true;
        Some((entry, sent))
    }

    /// A batch was carried out.
    pub fn answered(&self, beat: &Beat, sent: Vec<Sent>, outcomes: Vec<Outcome>) {
        let mut book = self.lock();
        for (sent, outcome) in sent.into_iter().zip(outcomes) {
            if let Some((roster, connection, reason)) = sent.removal()
                && let Outcome::Done { take, .. } = outcome
            {
                let lane = &mut book.lanes[usize::from(self.store.partition_of(roster))];
                lane.departed.note(beat, roster.clone(), connection.clone(), take, reason);
            }
            match sent {
                Sent::Ask { roster, again: Some(_), .. } => {
                    if let (RosterKey::User(user), Outcome::Later { record }) = (&roster, outcome) {
                        self.adopt(&mut book, user, *record);
                    }
                }
                Sent::Ask { roster, connection, asker, .. } => {
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

    /// A batch failed or was refused: its places are sent again, its questions are lost. A claim may have been carried out all the same, for one who may
    /// not come again: the connection ends like one whose socket broke.
    pub fn failed(&self, sent: Vec<Sent>) {
        let mut book = self.lock();
        for sent in sent {
            match sent {
                Sent::Place { connection, roster, .. } => {
                    let account = book.accounts.get_mut(&connection);
                    if let Some(place) = account.and_then(|account| account.places.get_mut(&roster)) {
                        place.resent = true;
                    }
                    self.queue(&mut book, &connection, &roster);
                }
                Sent::Ask { roster, connection, may_hold: true, .. } => self.release(&mut book, &connection, &roster),
                Sent::Ask { roster, again: Some(record), .. } => {
                    let lane = &mut book.lanes[usize::from(self.store.partition_of(&roster))];
                    lane.asks.push_back((put(&roster, record), None));
                }
                Sent::Ask { .. } => {}
            }
        }
    }

    pub(in crate::core::ledger) fn conclude(&self, book: &mut Book, beat: &Beat, sent: &Sent, outcome: Outcome) {
        let Sent::Place { connection, roster, take, revision, removal, era, .. } = sent else { return };
        if book.lanes[usize::from(self.store.partition_of(roster))].era != *era {
            self.queue(book, connection, roster);
            return;
        }
        let is_same = |account: &&mut Account| account.take == *take && account.places.contains_key(roster);
        let Some(account) = book.accounts.get_mut(connection).filter(is_same) else {
            if matches!(outcome, Outcome::Done { .. }) && removal.is_none() {
                // Whoever wanted it has gone, or has come back and found no such row yet: where nobody holds it now, it ends.
                self.release(book, connection, roster);
            }
            return;
        };
        let Some(place) = account.places.get_mut(roster) else { return };
        let is_user = roster.is_user();
        if removal.is_some() && !matches!(outcome, Outcome::Lost) {
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
            Outcome::Done { number, changed, since, record, .. } => {
                place.fresh = false;
                place.limit = 0;
                place.content.since = since;
                if let Some(waiting) = &mut place.waiting {
                    waiting.owe_no_more();
                }
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
                    // The channels have waited for this, and where it has moved the row from before.
                    self.queue_all(book, connection);
                }
                if let Some(record) = record {
                    let user = book.accounts.get(connection).map(|account| account.user.clone());
                    self.adopt(book, &user.expect("it has just been looked at"), *record);
                }
            }
            Outcome::Gone if place.is_new() && !is_user => {
                // It was removed under this take before this was asked for. Who comes again comes with a new one.
                account.take += 1;
                let rosters: Vec<RosterKey> = account.places.keys().cloned().collect();
                for roster in rosters {
                    self.touch(book, connection, &roster);
                }
            }
            Outcome::Gone => {
                // Nobody has said why: whoever it was may come back. A kick says so by itself.
                if let Some(notices) = &account.notices {
                    match roster.channel() {
                        Some(channel) => notices.left(channel.clone(), Reason::InstanceLost),
                        None => notices.end(Reason::InstanceLost),
                    }
                }
                self.close_place(book, connection, roster, &Settlement::Lost);
                if is_user {
                    self.wipe(book, connection, Reason::InstanceLost);
                }
            }
            Outcome::Lost => self.give_up(book, connection),
            Outcome::Full => self.close_place(book, connection, roster, &Settlement::Full),
            Outcome::Hidden { record } => {
                let user = account.user.clone();
                self.refused_as_hidden(book, &user, *record, connection, roster);
            }
            Outcome::Claimed { .. } | Outcome::Later { .. } => {
                tracing::error!("a place was answered with what is none");
            }
        }
    }

    /// A place is no more: the user's row forgets it, and the account ends with its last place.
    pub(in crate::core::ledger) fn close_place(
        &self,
        book: &mut Book,
        connection: &ConnectionId,
        roster: &RosterKey,
        settlement: &Settlement,
    ) {
        let Some(account) = book.accounts.get_mut(connection) else { return };
        let user = RosterKey::User(account.user.clone()).twin(roster.is_hidden());
        if let Some(mut place) = account.places.remove(roster) {
            place.settle(u64::MAX, settlement);
        }
        if account.places.is_empty() && account.notices.as_ref().is_none_or(|notices| notices.is_over()) {
            book.remove(connection);
        } else if *roster != user {
            self.touch(book, connection, &user);
        }
    }

    /// The user's row was taken away by somebody: its places in channels go too.
    pub(in crate::core::ledger) fn wipe(&self, book: &mut Book, connection: &ConnectionId, reason: Reason) {
        let Some(account) = book.accounts.get_mut(connection) else { return };
        let rosters: Vec<RosterKey> = account.places.keys().cloned().collect();
        for place in account.places.values_mut() {
            place.wanted = Wanted::Gone(reason);
        }
        for roster in rosters {
            self.touch(book, connection, &roster);
        }
    }
}
