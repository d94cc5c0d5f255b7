//! The difference on its way: batches out, answers in.

use std::collections::HashSet;

use tokio::sync::oneshot;

use super::Content;
use super::{
    ASKS, Asker, Book, Lane, Ledger, Settlement,
    account::{Account, Wanted, longest_grace, whereabouts},
};
use crate::{
    domain::{
        chance::Map,
        member::Reason,
        name::{ConnectionId, RosterKey},
        partition::Beat,
        roster::{Ask, Body, Entry, Keep, Outcome},
        version::Version,
    },
    store::PartitionId,
};

/// An entry on its way, so that its answer finds what it was for.
pub(crate) enum Sent {
    /// A place as it was wanted.
    Place { connection: ConnectionId, roster: RosterKey, take: u64, revision: u64, removal: bool, era: u64 },
    /// A question asked once, of this row.
    Ask(RosterKey, ConnectionId, Asker),
}

impl Ledger {
    /// The next question that is still to be asked: not one whose asker gave up, so that it is not carried out after an outage, and not a release of
    /// what has come to be held here since.
    pub(in crate::core::ledger) fn live_ask(
        lane: &mut Lane,
        accounts: &Map<ConnectionId, Account>,
    ) -> Option<(Entry, Asker)> {
        while let Some((entry, asker)) = lane.asks.pop_front() {
            let is_held = || accounts.get(&entry.connection).is_some_and(|account| account.holds(&entry.roster));
            let is_void =
                asker.as_ref().is_some_and(oneshot::Sender::is_closed) || (entry.ask == Ask::Release && is_held());
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
        let mut included = HashSet::new();
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

    pub(in crate::core::ledger) fn entry(
        account: &mut Account,
        connection: &ConnectionId,
        roster: &RosterKey,
        era: u64,
    ) -> Option<(Entry, Sent)> {
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
                let account = book.accounts.get_mut(&connection);
                if let Some(place) = account.and_then(|account| account.places.get_mut(&roster)) {
                    place.resent = true;
                }
                self.queue(&mut book, &connection, &roster);
            }
        }
    }

    pub(in crate::core::ledger) fn conclude(&self, book: &mut Book, beat: &Beat, sent: &Sent, outcome: Outcome) {
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
                    match roster {
                        RosterKey::Channel(channel) => notices.left(channel.clone(), Reason::InstanceLost),
                        RosterKey::User(_) => notices.end(Reason::InstanceLost),
                    }
                }
                self.close_place(book, connection, roster, &Settlement::Lost);
                if is_user {
                    self.wipe(book, connection, Reason::InstanceLost);
                }
            }
            Outcome::Lost => self.give_up(book, connection),
            Outcome::Full => self.close_place(book, connection, roster, &Settlement::Full),
            Outcome::Claimed { .. } => tracing::error!("a place was answered with a claim"),
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
