//! What others did, and what has to be sent again.

use std::collections::BTreeSet;

use super::{
    ASKS, Book, Ledger, Settlement,
    account::{Waiting, Wanted},
    persons::put,
};
use crate::{
    domain::{
        member::Reason,
        name::{ConnectionId, RosterKey},
        partition::Beat,
        roster::Ask,
        version::Epoch,
    },
    store::PartitionId,
};

/// Why everything counts as unacknowledged again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reset {
    /// The numbers are new: rows that were acknowledged may be missing.
    pub epoch: bool,
    /// The lease had ended: others may have taken what this instance held.
    pub reborn: bool,
}

impl Ledger {
    /// The store may think that this instance holds a row of which it wants nothing: it is to end in its time.
    pub fn let_go(&self, connection: &ConnectionId, roster: &RosterKey) {
        self.release(&mut self.lock(), connection, roster);
    }

    /// Somebody else removed or took what this instance answered for.
    pub fn overruled(&self, connection: &ConnectionId, roster: &RosterKey, take: u64, reason: Reason) {
        let mut book = self.lock();
        let Some(account) = book.accounts.get_mut(connection) else { return };
        if account.take > take {
            return;
        }
        let is_user = roster.is_user();
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
            match roster.channel() {
                None => notices.end(reason),
                Some(channel) => notices.left(channel.clone(), reason),
            }
        }
        self.close_place(&mut book, connection, roster, &Settlement::Lost);
        if is_user {
            self.wipe(&mut book, connection, reason);
        }
    }

    /// Everything of a partition counts as unacknowledged. `last` is the latest presence time that was seen, in the epoch before a new one.
    pub fn reset(&self, partition: PartitionId, reset: Reset, last: Option<(&Epoch, u64)>) {
        let mut book = self.lock();
        let (mut touched, mut ended) = (Vec::new(), Vec::new());
        let Book { accounts, lanes, people, .. } = &mut *book;
        let lane = &mut lanes[usize::from(partition)];
        lane.era += 1;
        if let Some((epoch, now)) = last.filter(|_| reset.epoch) {
            lane.departed.remember(epoch, now);
        }
        if reset.epoch {
            // What was chosen is put back where the store has lost it, before the places that depend on it.
            let records = people.iter().filter_map(|(user, person)| {
                let roster = RosterKey::User(user.clone());
                let record = person.record().filter(|_| self.store.partition_of(&roster) == partition)?;
                Some((put(&roster, record.clone()), None))
            });
            lane.asks.extend(records);
        }
        if reset.epoch {
            // Whether somebody may be taken over was found out in the epoch before. In this one nobody may have said yet that they are there.
            lane.asks.retain(|(entry, _)| !matches!(entry.ask, Ask::Claim { .. }));
        }
        for (connection, account) in accounts {
            let mut reborn = false;
            for (roster, place) in &mut account.places {
                if place.partition != partition {
                    continue;
                }
                let waiting = place.waiting.get_or_insert_with(|| Waiting::new(&lane.waiting));
                if place.sent {
                    waiting.owe(&lane.owed);
                }
                place.fresh |= reset.epoch;
                place.resent |= place.sent;
                // What was never sent cannot have been lost, and its socket has only just spoken.
                reborn |= reset.reborn && place.sent && place.wanted == Wanted::Held;
                if reset.epoch
                    && let Wanted::Ending { remaining_ms, counted_from } = &mut place.wanted
                    && let Some((epoch, from)) = counted_from.take()
                    && let Some((last_epoch, last_now)) = last
                    && epoch == *last_epoch
                {
                    *remaining_ms = remaining_ms.saturating_sub(last_now.saturating_sub(from));
                    if *remaining_ms == 0 {
                        // It has ended there, though nobody was left to say so: it must not begin anew only to end.
                        ended.push((connection.clone(), roster.clone()));
                    }
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
        for (connection, roster) in ended {
            self.close_place(&mut book, &connection, &roster, &Settlement::Lost);
        }
        for (connection, roster) in touched {
            self.queue(&mut book, &connection, &roster);
        }
        drop(book);
        self.wake[usize::from(partition)].notify_one();
    }

    /// The epoch has settled: of who left before it began what an older copy of the store still shows is taken away. Not sooner, for until then whoever
    /// has come back elsewhere may be shown by just that copy.
    pub fn settled(&self, partition: PartitionId) {
        let mut book = self.lock();
        let lane = &mut book.lanes[usize::from(partition)];
        let room = ASKS.saturating_sub(lane.asks.len());
        let mut again = lane.departed.again();
        if !again.is_empty() {
            again.truncate(room);
            lane.asks.extend(again.into_iter().map(|entry| (entry, None)));
            self.wake[usize::from(partition)].notify_one();
        }
    }

    /// This instance has registered in an epoch.
    pub fn registered(&self, partition: PartitionId, epoch: &Epoch) {
        self.lock().lanes[usize::from(partition)].epoch = Some(epoch.clone());
    }

    /// What a partition's `held` set should name is sent again where the set does not.
    pub fn resend_missing(&self, partition: PartitionId, held: &BTreeSet<(RosterKey, ConnectionId)>) {
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

    /// What has no socket here and waits for its end, as acknowledged in this epoch: place and take.
    pub fn ending(&self, partition: PartitionId, epoch: &Epoch) -> Vec<((RosterKey, ConnectionId), u64)> {
        let book = self.lock();
        let places = book.accounts.iter().flat_map(|(connection, account)| {
            account.places.iter().map(move |(roster, place)| (roster, connection, account.take, place))
        });
        let ending = places.filter(|(.., place)| place.partition == partition && place.is_ending_in(epoch));
        ending.map(|(roster, connection, take, _)| ((roster.clone(), connection.clone()), take)).collect()
    }

    /// Others have taken or ended what waited here for its end, and this instance was not told.
    pub fn ended_elsewhere(&self, connection: &ConnectionId, roster: &RosterKey, take: u64, epoch: &Epoch) {
        let mut book = self.lock();
        let Some(account) = book.accounts.get(connection).filter(|account| account.take == take) else { return };
        if !account.places.get(roster).is_some_and(|place| place.is_ending_in(epoch)) {
            return;
        }
        if roster.is_user() {
            self.give_up(&mut book, connection);
        } else {
            self.close_place(&mut book, connection, roster, &Settlement::Lost);
        }
    }

    /// Drops what has ended long ago by this partition's time, though nobody said so.
    pub fn drop_ended(&self, partition: PartitionId, beat: &Beat, slack_ms: u64) {
        let mut book = self.lock();
        let mut over = Vec::new();
        for (connection, account) in &mut book.accounts {
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
            if had > 0 && account.places.is_empty() {
                over.push(connection.clone());
            }
        }
        for connection in over {
            book.remove(&connection);
        }
        book.forget_people();
    }

    /// A lease was ended on purpose.
    pub fn drop_lease(&self, connection: &ConnectionId) {
        let mut book = self.lock();
        if book.accounts.get(connection).is_some_and(|account| account.notices.is_none()) {
            book.remove(connection);
        }
    }
}
