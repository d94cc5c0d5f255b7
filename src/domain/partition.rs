//! The rules of one partition: leases, epochs, numbers, deadlines. The memory store runs them as they stand here; the scripts of the Redis store
//! say the same in Lua, and a test compares the two over random sequences.

mod bars;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    bar::Whom,
    clock::PresenceClock,
    member::{Occupancy, Reason},
    name::{ConnectionId, RosterKey, UserName},
    person::Record,
    roster::{Ask, Body, Change, Control, Entry, Generation, IndexChange, Keep, Outcome, Published, Row, Stay},
    rule::Rule,
    tally::Tally,
    version::Epoch,
};

/// For how long an empty roster keeps its number, milliseconds of presence time.
pub const FORGET_MS: u64 = 3_600_000;
/// For how long a removal by somebody else is remembered, milliseconds of presence time.
pub const ENDED_MS: u64 = 60_000;
/// After how long settling closes though some instance is not done, milliseconds of presence time.
pub const SETTLE_MOST_MS: u64 = 60_000;
/// How often it is noted that a person is active, milliseconds of wall time.
pub const ACTIVE_MS: u64 = 60_000;
/// A row that was due but may not go yet is looked at again after this, milliseconds of presence time.
pub const POSTPONE_MS: u64 = 1_000;

/// The lengths that all instances of a partition have in common, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How often an instance renews.
    pub renew_ms: u64,
    /// How long its lease lives.
    pub lease_ms: u64,
    /// How long instances have to confirm what they hold after a new epoch.
    pub settle_ms: u64,
}

/// The circumstances of a call.
#[derive(Debug, Clone)]
pub struct Now {
    /// The host clock, milliseconds from anywhere.
    pub host_ms: u64,
    /// Wall time for people, unix milliseconds.
    pub wall_ms: u64,
    /// The process that issues the numbers.
    pub run: Arc<str>,
    /// The token of a new epoch, should one begin.
    pub candidate: Epoch,
}

/// An instance says that it lives.
#[derive(Debug, Clone)]
pub struct Renewal {
    /// Who.
    pub generation: Generation,
    /// Over which link.
    pub link: u64,
    /// The program's version.
    pub version: Arc<str>,
    /// The epoch in which it registered; none when it has not yet.
    pub known: Option<Epoch>,
    /// Everything that it answers for was acknowledged in `known`.
    pub done: bool,
    /// It stops, and holds nothing any more.
    pub bye: bool,
}

/// What a partition says of itself with every answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Presence time, milliseconds.
    pub now: u64,
    /// The epoch.
    pub epoch: Epoch,
    /// Whether instances still confirm what they hold.
    pub settling: bool,
    /// When something is due next, in presence time.
    pub next_due: Option<u64>,
    /// What the call came to.
    pub tally: Tally,
}

/// Why a call was refused whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It named another epoch: learn it, register, send again.
    Epoch,
    /// The generation's lease ended: it is dead for good.
    Dead,
    /// It came over an older link than the lease knows.
    Link,
    /// The lengths differ from those of the partition.
    Terms,
}

/// A batch of one instance.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Who writes.
    pub generation: Generation,
    /// Over which link.
    pub link: u64,
    /// In which epoch.
    pub epoch: Epoch,
    /// What is asked.
    pub entries: Vec<Entry>,
}

/// A row whose deadline has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Where.
    pub roster: RosterKey,
    /// Which; none for an empty roster to be forgotten.
    pub connection: Option<ConnectionId>,
}

/// What a sweeper found and checked.
#[derive(Debug, Clone, Default)]
pub struct Sweep {
    /// Rows past their deadline, each with the greatest take that may go: that of the user's row, where it is higher and names the channel, may not.
    pub due: Vec<(Due, u64)>,
    /// A generation whose lease ended, with rows that its `held` set names.
    pub lost: Option<(Generation, Vec<(RosterKey, ConnectionId)>)>,
}

/// What is due now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// The partition.
    pub beat: Beat,
    /// Rows past their deadline, at most as many as asked for.
    pub due: Vec<Due>,
    /// Generations whose lease ended.
    pub dead: Vec<Generation>,
}

#[derive(Debug, Clone)]
struct EpochState {
    id: Epoch,
    run: Arc<str>,
    opened: u64,
    closed: bool,
}

#[derive(Debug, Clone)]
struct Lease {
    deadline: u64,
    link: u64,
    done: Option<Epoch>,
    version: Arc<str>,
}

/// What is kept of a person, online or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// What the person has chosen, and an app says of them.
    pub record: Option<Record>,
    /// When the last connection that others saw left, unix milliseconds.
    pub last_seen: Option<u64>,
    /// When the person was active last, unix milliseconds.
    pub last_active: Option<u64>,
    /// When something of this was written last, unix milliseconds.
    written: u64,
}

/// What a call told the feeds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// To the feeds of rosters.
    pub published: Vec<Published>,
    /// To the feed of the indexes.
    pub index: Vec<IndexChange>,
    /// To everybody, or to one instance.
    pub control: Vec<(Option<Arc<str>>, Control)>,
}

/// One partition.
#[derive(Debug, Clone)]
pub struct Partition {
    terms: Terms,
    clock: PresenceClock,
    epoch: Option<EpochState>,
    instances: BTreeMap<Generation, Lease>,
    rosters: BTreeMap<RosterKey, BTreeMap<ConnectionId, Row>>,
    /// What each generation held when it last wrote. Whoever takes a connection leaves the entry of the other standing, which the other or the
    /// sweep removes: an entry says where to look, the row says who holds it.
    held: BTreeMap<Generation, BTreeSet<(RosterKey, ConnectionId)>>,
    numbers: BTreeMap<RosterKey, u64>,
    floor: u64,
    /// The number of the last change of the indexes.
    index: u64,
    joins: u64,
    leaves: u64,
    ending: BTreeMap<(RosterKey, Option<ConnectionId>), u64>,
    ended: BTreeMap<(RosterKey, ConnectionId, u64), u64>,
    people: BTreeMap<UserName, Kept>,
    /// Who may not come in: until when in presence time, and the latest issue of tokens that are kept out.
    bars: BTreeMap<Whom, (u64, u64)>,
    told: Told,
    tally: Tally,
}

impl Partition {
    /// An empty partition.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            clock: PresenceClock::default(),
            epoch: None,
            instances: BTreeMap::new(),
            rosters: BTreeMap::new(),
            held: BTreeMap::new(),
            numbers: BTreeMap::new(),
            floor: 0,
            index: 0,
            joins: 0,
            leaves: 0,
            ending: BTreeMap::new(),
            ended: BTreeMap::new(),
            people: BTreeMap::new(),
            bars: BTreeMap::new(),
            told: Told::default(),
            tally: Tally::default(),
        }
    }

    /// An instance registers or lives on.
    ///
    /// # Errors
    /// [`Refusal::Dead`] when its lease ended in the epoch it knows, [`Refusal::Link`] over an older link.
    pub fn renew(&mut self, at: &Now, renewal: &Renewal) -> Result<Beat, Refusal> {
        let now = self.open(at);
        let epoch = self.epoch.as_ref().expect("opened").id.clone();
        let registering = renewal.known.as_ref() != Some(&epoch);
        let known = self.instances.get(&renewal.generation);
        let lives = known.is_some_and(|lease| lease.deadline > now);
        if !registering && !lives && Rule::DeadGeneration.holds() {
            return Err(Refusal::Dead);
        }
        if known.is_some_and(|lease| lease.link > renewal.link) && Rule::Link.holds() {
            return Err(Refusal::Link);
        }
        self.clock.renew(at.host_ms, self.terms.renew_ms);
        if renewal.bye {
            if !self.holds_anything(&renewal.generation) {
                self.instances.remove(&renewal.generation);
            }
        } else {
            let lease = Lease {
                deadline: now + self.terms.lease_ms,
                link: renewal.link,
                done: (renewal.done && !registering).then(|| epoch.clone()),
                version: renewal.version.clone(),
            };
            self.instances.insert(renewal.generation.clone(), lease);
        }
        self.settle(now);
        Ok(self.beat(now))
    }

    /// A batch is carried out, each entry on its own.
    ///
    /// # Errors
    /// Refused whole where epoch, generation or link are not those of the lease.
    pub fn write(&mut self, at: &Now, batch: &Batch) -> Result<(Beat, Vec<Outcome>), Refusal> {
        let now = self.open(at);
        let epoch = self.epoch.as_ref().expect("opened").id.clone();
        if epoch != batch.epoch {
            return Err(Refusal::Epoch);
        }
        let known = self.instances.get(&batch.generation);
        if known.is_none_or(|lease| lease.deadline <= now) && Rule::DeadGeneration.holds() {
            return Err(Refusal::Dead);
        }
        if known.is_some_and(|lease| lease.link != batch.link) && Rule::Link.holds() {
            return Err(Refusal::Link);
        }
        let mut changes = Changes::default();
        let mut outcomes = Vec::with_capacity(batch.entries.len());
        // The user's row decides who has the connection: where that was found lost or gone in this batch, the channels are so too.
        let mut decided: BTreeMap<&ConnectionId, Outcome> = BTreeMap::new();
        for entry in &batch.entries {
            if let Some(outcome) = self.keep_person(at, now, entry, &mut changes) {
                outcomes.push(outcome);
                continue;
            }
            let is_present = matches!(entry.ask, Ask::Present { .. });
            let outcome = match decided.get(&entry.connection) {
                Some(outcome) if is_present && !entry.roster.is_user() => outcome.clone(),
                _ => self.carry_out(at, now, &batch.generation, entry, &mut changes),
            };
            let is_refused = matches!(outcome, Outcome::Lost | Outcome::Gone | Outcome::Hidden { .. });
            if is_present && entry.roster.is_user() && is_refused {
                decided.insert(&entry.connection, outcome.clone());
            }
            outcomes.push(outcome);
            self.note_held(&batch.generation, &entry.roster, &entry.connection);
        }
        self.publish(changes);
        Ok((self.beat(now), outcomes))
    }

    /// What is due ends, and what is due next is listed.
    pub fn sweep(&mut self, at: &Now, sweep: &Sweep, most: usize) -> Swept {
        let now = self.open(at);
        let mut changes = Changes::default();
        if let Some((generation, rows)) = &sweep.lost {
            self.lose(now, generation, rows);
        }
        for (due, top_take) in &sweep.due {
            self.end(at, now, due, *top_take, &mut changes);
        }
        self.ended.retain(|_, deadline| *deadline > now);
        self.settle(now);
        self.publish(changes);
        let mut due: Vec<(u64, Due)> = self
            .ending
            .iter()
            .filter(|(_, deadline)| **deadline <= now)
            .map(|((roster, connection), deadline)| {
                (*deadline, Due { roster: roster.clone(), connection: connection.clone() })
            })
            .collect();
        due.sort_by_key(|(deadline, _)| *deadline);
        due.truncate(most);
        let dead = self.instances.iter().filter(|(_, lease)| lease.deadline <= now);
        let dead = dead.map(|(generation, _)| generation.clone()).collect();
        Swept { beat: self.beat(now), due: due.into_iter().map(|(_, due)| due).collect(), dead }
    }

    /// Rows that nothing alive answers for begin to end.
    pub fn audit(&mut self, at: &Now, rows: &[(RosterKey, ConnectionId)]) -> Beat {
        let now = self.open(at);
        let state = self.epoch.clone().expect("opened");
        for (roster, connection) in rows.iter().filter(|_| Rule::Audit.holds()) {
            let Some(row) = self.rosters.get_mut(roster).and_then(|rows| rows.get_mut(connection)) else {
                continue;
            };
            let key = (roster.clone(), Some(connection.clone()));
            match &row.stay {
                Stay::Ending { .. } => {
                    self.ending.entry(key).or_insert(now + row.grace_ms);
                }
                Stay::Held(generation) => {
                    // A lease that ended but is still listed is the sweeper's, who knows when it ended.
                    let known = self.instances.get(generation);
                    let answers = known.is_some() && (row.epoch == state.id || !state.closed);
                    if !answers {
                        let by = generation.instance.clone();
                        row.stay = Stay::Ending { reason: Reason::InstanceLost, by };
                        self.ending.insert(key, now + 2 * self.terms.renew_ms + row.grace_ms);
                    }
                }
            }
        }
        self.beat(now)
    }

    /// What the calls since the last one told the feeds.
    pub fn told(&mut self) -> Told {
        std::mem::take(&mut self.told)
    }

    /// The indexes forget a row, as if somebody had damaged them.
    #[cfg(test)]
    pub(crate) fn forget_index(&mut self, roster: &RosterKey, connection: &ConnectionId) {
        self.ending.remove(&(roster.clone(), Some(connection.clone())));
        self.held.retain(|_, held| {
            held.remove(&(roster.clone(), connection.clone()));
            !held.is_empty()
        });
    }

    /// The rows of a roster.
    pub fn rows(&self, roster: &RosterKey) -> Option<&BTreeMap<ConnectionId, Row>> {
        self.rosters.get(roster)
    }

    /// The rosters that have rows, in the order of their names.
    pub fn rosters(&self) -> impl Iterator<Item = &RosterKey> {
        self.rosters.keys()
    }

    /// The number of a roster; none when it was never touched or was forgotten.
    pub fn number(&self, roster: &RosterKey) -> Option<u64> {
        self.numbers.get(roster).copied()
    }

    /// The number of the last change of the indexes.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many users have come into channels, counted once for each.
    pub fn joins(&self) -> u64 {
        self.joins
    }

    /// How many users have left channels, counted once for each.
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// The epoch and whether it settles; none before the first call.
    pub fn epoch(&self) -> Option<(&Epoch, bool)> {
        self.epoch.as_ref().map(|state| (&state.id, !state.closed))
    }

    /// The deadline of a row that ends.
    pub fn deadline(&self, roster: &RosterKey, connection: &ConnectionId) -> Option<u64> {
        self.ending.get(&(roster.clone(), Some(connection.clone()))).copied()
    }

    /// What is kept of a person.
    pub fn kept(&self, user: &UserName) -> Option<&Kept> {
        self.people.get(user)
    }

    /// The people of whom something is kept, in the order of their names.
    pub fn known(&self) -> impl Iterator<Item = &UserName> {
        self.people.keys()
    }

    /// Forgets of whom nothing was written since then, unix milliseconds, and who is not kept for good.
    pub fn forget_people_before(&mut self, wall_ms: u64) {
        self.people
            .retain(|_, kept| kept.written >= wall_ms || kept.record.as_ref().is_some_and(|record| record.lasting));
    }

    /// The instances with a lease at `host_ms` of the host clock: generation, program version, and what remains of the lease, milliseconds.
    pub fn instances(&self, host_ms: u64) -> impl Iterator<Item = (&Generation, &Arc<str>, u64)> {
        let now = self.clock.now(host_ms, self.terms.renew_ms);
        let of = self.instances.iter();
        of.map(move |(generation, lease)| (generation, &lease.version, lease.deadline.saturating_sub(now)))
    }

    /// Where a generation held rows when it last wrote them; somebody else may have taken some since.
    pub fn held_by(&self, generation: &Generation) -> impl Iterator<Item = (&RosterKey, &ConnectionId)> {
        self.held.get(generation).into_iter().flatten().map(|(roster, connection)| (roster, connection))
    }

    /// How many a roster has: users and connections.
    pub fn occupancy(&self, roster: &RosterKey) -> Occupancy {
        let Some(rows) = self.rosters.get(roster) else { return Occupancy::default() };
        let users: BTreeSet<&UserName> = rows.values().map(|row| &row.user).collect();
        Occupancy { users: users.len() as u64, connections: rows.len() as u64 }
    }

    fn holds_anything(&self, generation: &Generation) -> bool {
        self.held.contains_key(generation)
    }

    /// Presence time; begins a new epoch where the numbers are not those of this process.
    fn open(&mut self, at: &Now) -> u64 {
        let now = self.clock.now(at.host_ms, self.terms.renew_ms);
        if self.epoch.as_ref().is_none_or(|state| state.run != at.run) {
            let id = at.candidate.clone();
            self.told.control.push((None, Control::Epoch(id.clone())));
            self.epoch = Some(EpochState { id, run: at.run.clone(), opened: now, closed: !Rule::Settling.holds() });
        }
        now
    }

    fn settle(&mut self, now: u64) {
        let state = self.epoch.as_mut().expect("opened");
        let age = now.saturating_sub(state.opened);
        if state.closed || age < self.terms.settle_ms {
            return;
        }
        let mut alive = self.instances.values().filter(|lease| lease.deadline > now);
        if age >= SETTLE_MOST_MS || alive.all(|lease| lease.done.as_ref() == Some(&state.id)) {
            state.closed = true;
            self.told.control.push((None, Control::Settled(state.id.clone())));
        }
    }

    fn beat(&mut self, now: u64) -> Beat {
        let tally = std::mem::take(&mut self.tally);
        self.joins += tally.joins;
        self.leaves += Reason::ALL.into_iter().map(|reason| tally.leaves(reason)).sum::<u64>();
        let state = self.epoch.as_ref().expect("opened");
        let ending = self.ending.values().copied().min();
        let leases = self.instances.values().map(|lease| lease.deadline).min();
        let next_due = ending.into_iter().chain(leases).min();
        Beat { now, epoch: state.id.clone(), settling: !state.closed, next_due, tally }
    }

    fn carry_out(&mut self, at: &Now, now: u64, me: &Generation, entry: &Entry, changes: &mut Changes) -> Outcome {
        let Entry { roster, connection, ask } = entry;
        match ask {
            Ask::Present { take, fresh, limit, keep, body } => {
                let wish = Wish { take: *take, fresh: *fresh, limit: *limit, keep: *keep, body };
                self.present(now, me, roster, connection, &wish, changes)
            }
            Ask::Claim { token_take } => self.claim(me, roster, connection, *token_take),
            Ask::Person { .. } | Ask::Active { .. } | Ask::Forget => unreachable!("carried out before"),
            Ask::Release => {
                let Some(row) = self.row_mut(roster, connection) else { return Outcome::Gone };
                if row.stay != Stay::Held(me.clone()) {
                    return Outcome::Lost;
                }
                row.stay = Stay::Ending { reason: Reason::Timeout, by: me.instance.clone() };
                let (take, changed, since, deadline) = (row.take, row.changed, row.since, now + row.grace_ms);
                self.ending.insert((roster.clone(), Some(connection.clone())), deadline);
                Outcome::Done { take, number: self.number(roster).unwrap_or(0), changed, since, record: None }
            }
            Ask::Absent { take, reason } => {
                let Some(row) = self.row_mut(roster, connection) else { return Outcome::Gone };
                let (had, changed, since) = (row.take, row.changed, row.since);
                let others = *row.stay.instance() != me.instance;
                // A take that was raised here without an answer may be one that somebody else has got.
                let overtaken = take.is_some_and(|take| had > take || (had == take && others));
                if overtaken && Rule::Take.holds() {
                    return Outcome::Lost;
                }
                if take.is_none() {
                    self.overrule(now, Some(me), roster, connection, *reason);
                }
                self.remove(at, now, roster, connection, *reason, changes);
                Outcome::Done { take: had, number: self.number(roster).unwrap_or(0), changed, since, record: None }
            }
        }
    }

    /// Carries out what is about the person and not about a row; none for everything else.
    fn keep_person(&mut self, at: &Now, now: u64, entry: &Entry, changes: &mut Changes) -> Option<Outcome> {
        let RosterKey::User(user) = &entry.roster else { return None };
        let is_another = match &entry.ask {
            Ask::Person { record } => {
                let kept = self.people.entry(user.clone()).or_default();
                if let Some(known) = kept.record.clone().filter(|known| known.serial >= record.serial) {
                    return Some(Outcome::Later { record: Box::new(known) });
                }
                (kept.record, kept.written) = (Some(record.clone()), at.wall_ms);
                true
            }
            Ask::Active { at: active } => {
                let kept = self.people.get(user).and_then(|kept| kept.last_active);
                if kept.is_none_or(|before| *active >= before + ACTIVE_MS) {
                    let kept = self.people.entry(user.clone()).or_default();
                    (kept.last_active, kept.written) = (Some(*active), at.wall_ms);
                }
                false
            }
            Ask::Forget => self.people.remove(user).is_some(),
            Ask::Present { .. } | Ask::Claim { .. } | Ask::Release | Ask::Absent { .. } => return None,
        };
        if is_another {
            changes.bump(self, &entry.roster);
            changes.push(&entry.roster, Change::Person);
            if !self.rosters.contains_key(&entry.roster) {
                self.ending.insert((entry.roster.clone(), None), now + FORGET_MS);
            }
        }
        let number = self.number(&entry.roster).unwrap_or(0);
        Some(Outcome::Done { take: 0, number, changed: 0, since: 0, record: None })
    }

    fn record_of(&self, roster: &RosterKey) -> Option<Box<Record>> {
        let (RosterKey::User(user) | RosterKey::HiddenUser(user)) = roster else { return None };
        self.people.get(user)?.record.clone().map(Box::new)
    }

    fn present(
        &mut self,
        now: u64,
        me: &Generation,
        roster: &RosterKey,
        connection: &ConnectionId,
        wish: &Wish<'_>,
        changes: &mut Changes,
    ) -> Outcome {
        let epoch = self.epoch.as_ref().expect("opened").id.clone();
        let before = self.rosters.get(roster).and_then(|rows| rows.get(connection)).cloned();
        let take = match &before {
            None if wish.take == 0 => 1,
            None => {
                let ended = self.ended.contains_key(&(roster.clone(), connection.clone(), wish.take));
                if !wish.fresh || ended {
                    return Outcome::Gone;
                }
                wish.take
            }
            // Ids are the server's: two users never share one.
            Some(row) if row.user != wish.body.user => return Outcome::Lost,
            Some(row) if wish.take == 0 => row.take + 1,
            Some(row) => {
                let others = *row.stay.instance() != me.instance;
                let overtaken = row.take > wish.take || (row.take == wish.take && others && row.epoch == epoch);
                if overtaken && Rule::Take.holds() {
                    return Outcome::Lost;
                }
                wish.take
            }
        };
        let record = if before.is_none() && roster.is_user() { self.record_of(roster) } else { None };
        if let Some(record) = record.as_ref().filter(|record| record.hidden && !roster.is_hidden()) {
            return Outcome::Hidden { record: record.clone() };
        }
        if before.is_none() && wish.limit > 0 && self.is_full(roster, &wish.body.user, wish.limit) {
            return Outcome::Full;
        }
        if before.as_ref().is_some_and(|row| row.take < take) {
            self.overrule(now, Some(me), roster, connection, Reason::Replaced);
        }

        let others = self.rosters.get(roster).into_iter().flatten();
        let others = others.filter(|(id, row)| *id != connection && row.user == wish.body.user);
        let (others_since, others_changed) =
            others.fold((u64::MAX, 0), |(since, changed), (_, row)| (since.min(row.since), changed.max(row.changed)));
        let since = wish.body.since.min(others_since).min(before.as_ref().map_or(u64::MAX, |row| row.since));

        let shows_new = before.as_ref().is_none_or(|row| row.payload != wish.body.payload);
        let mut changed = before.as_ref().map_or(0, |row| row.changed).max(wish.body.changed);
        let mut number = self.number(roster).unwrap_or(0);
        if shows_new {
            number = changes.bump(self, roster);
            if wish.body.changed == 0 {
                changed = number.max(others_changed + 1).max(changed + 1);
            }
            changes.push(
                roster,
                Change::Set {
                    connection: connection.clone(),
                    user: wish.body.user.clone(),
                    since,
                    changed,
                    payload: wish.body.payload.clone(),
                },
            );
        }

        let closed = self.epoch.as_ref().expect("opened").closed;
        if before.is_none()
            && others_since == u64::MAX
            && matches!(roster, RosterKey::Channel(_))
            && (closed || wish.body.changed == 0)
        {
            self.tally.joins += 1;
        }
        let key = (roster.clone(), Some(connection.clone()));
        let stay = match wish.keep {
            Keep::Held => {
                let was_ending =
                    before.as_ref().is_some_and(|row| matches!(row.stay, Stay::Ending { .. }) && row.epoch == epoch);
                self.tally.saved += u64::from(was_ending && roster.is_user());
                self.ending.remove(&key);
                Stay::Held(me.clone())
            }
            Keep::Ending { remaining_ms } => {
                // The end that a lost lease brought is not what the holder means: it may know of a break that came later.
                let set = before.as_ref().is_some_and(|row| {
                    let is_meant = |reason| reason != Reason::InstanceLost;
                    let ends = matches!(row.stay, Stay::Ending { reason, .. } if is_meant(reason));
                    row.take == take && row.epoch == epoch && ends
                });
                if !set || !self.ending.contains_key(&key) {
                    self.ending.insert(key, now + remaining_ms);
                }
                Stay::Ending { reason: Reason::Timeout, by: me.instance.clone() }
            }
        };
        let Body { user, valid, grace_ms, private, payload, .. } = wish.body.clone();
        let row = Row { user, take, valid, stay, epoch, grace_ms, since, changed, private, payload };
        self.rosters.entry(roster.clone()).or_default().insert(connection.clone(), row);
        self.ending.remove(&(roster.clone(), None));
        Outcome::Done { take, number, changed, since, record }
    }

    fn claim(&mut self, me: &Generation, roster: &RosterKey, connection: &ConnectionId, token_take: u64) -> Outcome {
        let epoch = self.epoch.as_ref().expect("opened").id.clone();
        let Some(row) = self.row_mut(roster, connection) else { return Outcome::Gone };
        if token_take < row.valid {
            return Outcome::Lost;
        }
        let (old, holder) = (row.take, row.stay.instance().clone());
        let was_ending = matches!(row.stay, Stay::Ending { .. });
        row.take = row.take.max(token_take) + 1;
        row.stay = Stay::Held(me.clone());
        row.epoch = epoch;
        let row = Box::new(row.clone());
        self.tally.saved += u64::from(was_ending && roster.is_user());
        self.ending.remove(&(roster.clone(), Some(connection.clone())));
        self.tell_overruled(Some(me), holder, roster, connection, old, Reason::Replaced);
        let record = if roster.is_user() { self.record_of(roster) } else { None };
        Outcome::Claimed { row, record }
    }

    fn end(&mut self, at: &Now, now: u64, due: &Due, top_take: u64, changes: &mut Changes) {
        let key = (due.roster.clone(), due.connection.clone());
        if self.ending.get(&key).is_none_or(|deadline| *deadline > now) {
            return;
        }
        let Some(connection) = &due.connection else {
            self.ending.remove(&key);
            if !self.rosters.contains_key(&due.roster)
                && let Some(number) = self.numbers.remove(&due.roster)
                && Rule::Floor.holds()
            {
                self.floor = self.floor.max(number);
            }
            return;
        };
        let state = self.epoch.clone().expect("opened");
        let Some(row) = self.row_mut(&due.roster, connection) else {
            self.ending.remove(&key);
            return;
        };
        let Stay::Ending { reason, .. } = row.stay else {
            self.ending.remove(&key);
            return;
        };
        if row.take > top_take || (!state.closed && row.epoch != state.id) {
            self.ending.insert(key, now + POSTPONE_MS);
            return;
        }
        self.overrule(now, None, &due.roster, connection, reason);
        self.remove(at, now, &due.roster, connection, reason, changes);
    }

    fn lose(&mut self, now: u64, generation: &Generation, rows: &[(RosterKey, ConnectionId)]) {
        let Some(lease) = self.instances.get(generation).cloned() else { return };
        if lease.deadline > now {
            return;
        }
        let ends = (lease.deadline + 2 * self.terms.renew_ms).saturating_sub(self.terms.lease_ms);
        for (roster, connection) in rows {
            self.let_go(generation, roster, connection);
            let Some(row) = self.row_mut(roster, connection) else { continue };
            if row.stay == Stay::Held(generation.clone()) {
                row.stay = Stay::Ending { reason: Reason::InstanceLost, by: generation.instance.clone() };
                let deadline = ends + row.grace_ms;
                self.ending.insert((roster.clone(), Some(connection.clone())), deadline);
            }
        }
        if !self.holds_anything(generation) {
            self.instances.remove(generation);
        }
    }

    /// Keeps the entry in the `held` set of whoever has just written a row, or let go of it.
    fn note_held(&mut self, me: &Generation, roster: &RosterKey, connection: &ConnectionId) {
        let row = self.rosters.get(roster).and_then(|rows| rows.get(connection));
        if row.is_some_and(|row| row.stay == Stay::Held(me.clone())) {
            self.held.entry(me.clone()).or_default().insert((roster.clone(), connection.clone()));
        } else {
            self.let_go(me, roster, connection);
        }
    }

    fn let_go(&mut self, generation: &Generation, roster: &RosterKey, connection: &ConnectionId) {
        if let Some(held) = self.held.get_mut(generation) {
            held.remove(&(roster.clone(), connection.clone()));
            if held.is_empty() {
                self.held.remove(generation);
            }
        }
    }

    fn is_full(&self, roster: &RosterKey, user: &UserName, limit: u64) -> bool {
        let Some(rows) = self.rosters.get(roster) else { return false };
        match roster {
            RosterKey::User(_) | RosterKey::HiddenUser(_) => rows.len() as u64 >= limit,
            RosterKey::Channel(_) | RosterKey::HiddenChannel(_) => {
                self.occupancy(roster).users >= limit && rows.values().all(|row| row.user != *user)
            }
        }
    }

    /// Somebody else than the holder ends a take: no resend of it may bring the row back, and who answers for it is told.
    fn overrule(
        &mut self,
        now: u64,
        by: Option<&Generation>,
        roster: &RosterKey,
        connection: &ConnectionId,
        reason: Reason,
    ) {
        let row = self.row_mut(roster, connection).expect("the caller read it");
        let (take, holder) = (row.take, row.stay.instance().clone());
        if reason != Reason::Replaced {
            self.ended.insert((roster.clone(), connection.clone(), take), now + ENDED_MS);
        }
        self.tell_overruled(by, holder, roster, connection, take, reason);
    }

    fn tell_overruled(
        &mut self,
        by: Option<&Generation>,
        holder: Arc<str>,
        roster: &RosterKey,
        connection: &ConnectionId,
        take: u64,
        reason: Reason,
    ) {
        // Whoever overrules itself knows.
        if by.is_some_and(|by| by.instance == holder) {
            return;
        }
        let control = Control::Overruled { roster: roster.clone(), connection: connection.clone(), take, reason };
        self.told.control.push((Some(holder), control));
    }

    fn remove(
        &mut self,
        at: &Now,
        now: u64,
        roster: &RosterKey,
        connection: &ConnectionId,
        reason: Reason,
        changes: &mut Changes,
    ) {
        changes.bump(self, roster);
        changes.push(roster, Change::Remove { connection: connection.clone(), reason });
        self.ending.remove(&(roster.clone(), Some(connection.clone())));
        let rows = self.rosters.get_mut(roster).expect("the caller read a row");
        let user = rows.remove(connection).map(|row| row.user);
        if matches!(roster, RosterKey::Channel(_)) && rows.values().all(|row| Some(&row.user) != user.as_ref()) {
            self.tally.add_leaves(reason, 1);
        }
        if rows.is_empty() {
            self.rosters.remove(roster);
            self.ending.insert((roster.clone(), None), now + FORGET_MS);
            if let RosterKey::User(user) = roster {
                let kept = self.people.entry(user.clone()).or_default();
                (kept.last_seen, kept.written) = (Some(at.wall_ms), at.wall_ms);
            }
        }
    }

    /// Where the devices of a user are several, or one of several has gone, whoever holds some of them sees to it that all show the same.
    fn tell_holders(&mut self, roster: &RosterKey, changes: &[Change]) {
        let (RosterKey::User(user) | RosterKey::HiddenUser(user)) = roster else { return };
        let control = Control::Person(user.clone());
        if changes.contains(&Change::Person) {
            self.told.control.push((None, control));
            return;
        }
        let rows = self.rosters.get(roster);
        let has_removal = changes.iter().any(|change| matches!(change, Change::Remove { .. }));
        if !has_removal && rows.is_none_or(|rows| rows.len() < 2) {
            return;
        }
        let holders: BTreeSet<Arc<str>> =
            rows.into_iter().flatten().map(|(_, row)| row.stay.instance().clone()).collect();
        self.told.control.extend(holders.into_iter().map(|holder| (Some(holder), control.clone())));
    }

    fn row_mut(&mut self, roster: &RosterKey, connection: &ConnectionId) -> Option<&mut Row> {
        self.rosters.get_mut(roster)?.get_mut(connection)
    }

    fn publish(&mut self, changes: Changes) {
        let epoch = self.epoch.as_ref().expect("opened").id.clone();
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for (roster, collected) in changes.0 {
            match (collected.was, self.rosters.contains_key(&roster)) {
                _ if roster.is_hidden() => {}
                (false, true) => come.push(roster.clone()),
                (true, false) => gone.push(roster.clone()),
                _ => {}
            }
            self.tell_holders(&roster, &collected.changes);
            let to = self.numbers.get(&roster).copied().expect("a change has a number");
            self.told.published.push(Published {
                epoch: epoch.clone(),
                from: collected.from,
                to,
                starts: collected.starts,
                occupancy: self.occupancy(&roster),
                changes: collected.changes,
                roster,
            });
        }
        if !come.is_empty() || !gone.is_empty() {
            self.index += 1;
            self.told.index.push(IndexChange { epoch, from: self.index - 1, to: self.index, come, gone });
        }
    }
}

struct Wish<'a> {
    take: u64,
    fresh: bool,
    limit: u64,
    keep: Keep,
    body: &'a Body,
}

/// The changes of one call by roster: each roster is published once.
#[derive(Default)]
struct Changes(BTreeMap<RosterKey, Collected>);

struct Collected {
    /// Whether somebody was there before.
    was: bool,
    from: u64,
    starts: bool,
    changes: Vec<Change>,
}

impl Changes {
    fn bump(&mut self, partition: &mut Partition, roster: &RosterKey) -> u64 {
        let known = partition.numbers.get(roster).copied();
        let from = known.unwrap_or(partition.floor);
        let was = partition.rosters.contains_key(roster);
        self.0.entry(roster.clone()).or_insert(Collected { was, from, starts: known.is_none(), changes: Vec::new() });
        partition.numbers.insert(roster.clone(), from + 1);
        from + 1
    }

    fn push(&mut self, roster: &RosterKey, change: Change) {
        self.0.get_mut(roster).expect("bumped before").changes.push(change);
    }
}
