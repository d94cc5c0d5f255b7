//! The sweeper of one partition: it ends what is due when the next deadline says so, compares what the store thinks this instance holds with what
//! it knows, and audits slowly. Every instance sweeps; the scripts see to it that each end happens once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::{ledger::Ledger, pulse::Pulse, settings::Settings};
use crate::{
    domain::{
        chance,
        member::Whereabouts,
        name::{ConnectionId, RosterKey},
        partition::{Due, Sweep, Swept},
        roster::{Ask, Entry, Generation, Outcome},
        version::Epoch,
    },
    metrics::Metrics,
    store::{Audited, PartitionId, Store, StoreError},
};

/// The most rows that one call ends.
const ROWS: usize = 100;
/// As many rows are compared at once.
const ENDING: usize = 500;
/// How often this instance compares its `held` set with what it knows.
const COMPARE: Duration = Duration::from_secs(60);
/// The audit pauses so long for each command that a page has cost, longer with several partitions: ten a second at most in all, however many are here.
const AUDIT_PACE: Duration = Duration::from_millis(100);
/// Before an audit that failed goes on.
const AUDIT_RETRY: Duration = Duration::from_secs(10);
/// While an epoch settles, how often its close is tried.
const SETTLING: Duration = Duration::from_millis(500);
/// What is forgotten later than its deadline though nobody said that it ended, milliseconds.
const SLACK_MS: u64 = 60_000;

pub(crate) struct Sweeper {
    pub partition: PartitionId,
    pub store: Arc<dyn Store>,
    pub ledger: Arc<Ledger>,
    pub pulse: Arc<Pulse>,
    pub settings: Arc<Settings>,
    pub metrics: Arc<Metrics>,
}

/// Where the audit stands.
struct Audit {
    /// When the next page is looked at.
    at: Instant,
    cursor: Option<String>,
    begun: Instant,
    /// What a new epoch has not confirmed is to be found at once.
    hurries: bool,
}

impl Sweeper {
    pub async fn run(self) {
        let mut standing = self.pulse.subscribe();
        // Spread over the instances.
        let spread = chance::within(0.5..1.0);
        let mut compare_at = Instant::now() + COMPARE.mul_f64(spread);
        let first = Instant::now() + self.audit_every().mul_f64(spread);
        let mut audit = Audit { at: first, cursor: None, begun: first, hurries: false };
        let mut was_settling = false;
        // The latest beat, by presence time, and when it was seen.
        let mut seen = (0, Instant::now());
        loop {
            let beat = standing.registered(|_| true).await.beat;
            if was_settling && !beat.settling {
                let now = Instant::now();
                compare_at = now;
                audit = Audit { at: now, cursor: None, begun: now, hurries: true };
            }
            was_settling = beat.settling;
            if seen.0 != beat.now {
                seen = (beat.now, Instant::now());
            }
            let due_in = beat.next_due.map_or(COMPARE, |due| Duration::from_millis(due.saturating_sub(beat.now)));
            let due_in = due_in.max(Duration::from_millis(20));
            let due_in = if beat.settling { due_in.min(SETTLING) } else { due_in };
            let due_at = seen.1 + due_in;
            let until = due_at.min(compare_at).min(audit.at);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => {}
                () = self.pulse.suspected() => compare_at = Instant::now(),
                _ = standing.changed() => continue,
            }
            let now = Instant::now();
            let result = if now >= due_at {
                // Instances wake for the same deadline: the first does the work.
                let jitter = chance::within(0..40);
                sleep(Duration::from_millis(jitter)).await;
                self.sweep().await
            } else if now >= compare_at {
                compare_at = now + COMPARE;
                self.compare().await
            } else {
                self.audit(&mut audit).await
            };
            if let Err(error) = result {
                self.metrics.sweeps_failed.inc();
                tracing::debug!(%error, "sweeping failed");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }

    fn audit_every(&self) -> Duration {
        Duration::from_millis(self.settings.presence.audit_ms)
    }

    /// One page. The next pass begins when this one is over, and no sooner than a period after its beginning.
    async fn audit(&self, audit: &mut Audit) -> Result<(), StoreError> {
        if audit.cursor.is_none() {
            audit.begun = Instant::now();
        }
        match self.store.audit(self.partition, audit.cursor.clone()).await {
            Ok(Audited { next, asked }) => {
                let pause =
                    if audit.hurries { Duration::ZERO } else { AUDIT_PACE * asked * self.store.partitions().into() };
                audit.at = Instant::now() + pause;
                if next.is_none() {
                    audit.at = audit.at.max(audit.begun + self.audit_every());
                    audit.hurries = false;
                }
                audit.cursor = next;
                Ok(())
            }
            Err(error) => {
                audit.at = Instant::now() + AUDIT_RETRY;
                Err(error)
            }
        }
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        let mut swept = self.call(&Sweep::default()).await?;
        // Bounded, so that comparing and auditing have their turn; what remains is due again at once.
        for _ in 0..50 {
            if swept.due.is_empty() && swept.dead.is_empty() {
                break;
            }
            let lost = match swept.dead.first() {
                Some(dead) => Some((dead.clone(), self.held_page(dead).await?)),
                None => None,
            };
            let due = self.check(std::mem::take(&mut swept.due)).await?;
            self.metrics.swept.inc_by(due.len() as u64);
            swept = self.call(&Sweep { due, lost }).await?;
        }
        Ok(())
    }

    async fn call(&self, sweep: &Sweep) -> Result<Swept, StoreError> {
        let swept = self.store.sweep(self.partition, sweep, ROWS).await?;
        self.metrics.sweeps.inc();
        self.metrics.count(&swept.beat.tally);
        self.pulse.note(&swept.beat);
        Ok(swept)
    }

    /// Some rows that a generation holds; none when it holds nothing any more. A page may be empty though others follow.
    async fn held_page(&self, generation: &Generation) -> Result<Vec<(RosterKey, ConnectionId)>, StoreError> {
        let mut cursor = None;
        loop {
            let (mut rows, next) = self.store.held(self.partition, generation, cursor, ROWS).await?;
            if !rows.is_empty() || next.is_none() {
                rows.truncate(2 * ROWS);
                return Ok(rows);
            }
            cursor = next;
        }
    }

    /// For each row the greatest take that may go. A connection that another instance took over, and whose channels it has not taken yet, keeps its
    /// places: the user's row shows the higher take.
    async fn check(&self, due: Vec<Due>) -> Result<Vec<(Due, u64)>, StoreError> {
        let channels: Vec<(RosterKey, ConnectionId)> =
            due.iter().filter_map(|due| Some((due.roster.clone(), due.connection.clone()?))).collect();
        let rows = self.store.rows(&channels).await?;
        let users: Vec<Option<(RosterKey, ConnectionId)>> = channels
            .iter()
            .zip(&rows)
            .map(|((roster, connection), row)| {
                let row = row.as_ref().filter(|_| !roster.is_user())?;
                Some((RosterKey::User(row.user.clone()).twin(roster.is_hidden()), connection.clone()))
            })
            .collect();
        let asked: Vec<_> = users.iter().flatten().cloned().collect();
        let answer = if asked.is_empty() { Ok(Vec::new()) } else { self.store.rows(&asked).await };
        let unreachable = answer.is_err();
        let settling = self.settling(asked.iter().map(|(user, _)| user)).await;
        let mut found = answer.unwrap_or_default().into_iter();
        let mut top = std::collections::HashMap::new();
        for ((key, row), user) in channels.into_iter().zip(rows).zip(users) {
            let Some(row) = row else { continue };
            let is_doubtful = |user: &(RosterKey, _)| settling.contains(&self.store.partition_of(&user.0));
            // A user's partition that cannot be asked, or may say something else in a moment, means: later.
            let later = user.as_ref().is_some_and(|user| unreachable || is_doubtful(user));
            let user_row = user.and_then(|_| found.next()).flatten();
            let taken_over = user_row.zip(key.0.channel()).is_some_and(|(user_row, channel)| {
                user_row.take > row.take && Whereabouts::from_json(&user_row.private).channels.contains(channel)
            });
            let may_go = if taken_over || later { 0 } else { row.take };
            top.insert(key, may_go);
        }
        let with_top = due.into_iter().map(|due| {
            let key = due.connection.clone().map(|connection| (due.roster.clone(), connection));
            let may_go = key.and_then(|key| top.get(&key).copied()).unwrap_or(u64::MAX >> 12);
            (due, may_go)
        });
        Ok(with_top.collect())
    }

    /// Other partitions of these rosters whose rows may be older than what was acknowledged. Asked of a script, for a copy that has just been promoted
    /// calls itself settled until one has looked.
    async fn settling(&self, rosters: impl Iterator<Item = &RosterKey>) -> BTreeSet<PartitionId> {
        let others: BTreeSet<PartitionId> =
            rosters.map(|roster| self.store.partition_of(roster)).filter(|other| *other != self.partition).collect();
        let looked = others.into_iter().map(async |other| {
            let swept = self.store.sweep(other, &Sweep::default(), 0).await;
            (other, swept.is_ok_and(|swept| !swept.beat.settling))
        });
        let looked = join_all(looked).await;
        looked.into_iter().filter(|(_, is_settled)| !is_settled).map(|(other, _)| other).collect()
    }

    /// Lets go of what the store thinks this instance holds and it does not; sends again what the store should know and does not.
    async fn compare(&self) -> Result<(), StoreError> {
        let Some(standing) = self.pulse.standing() else { return Ok(()) };
        self.ledger.drop_ended(self.partition, &standing.beat, SLACK_MS);
        let mut held = BTreeSet::new();
        let mut cursor = None;
        loop {
            let (page, next) = self.store.held(self.partition, &standing.generation, cursor, 1_000).await?;
            held.extend(page);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        for (roster, connection) in &held {
            if !self.ledger.may_hold(connection, roster) {
                let entry = Entry { roster: roster.clone(), connection: connection.clone(), ask: Ask::Release };
                let Some(answer) = self.ledger.ask(entry) else { break };
                match timeout(Duration::from_secs(5), answer).await {
                    Ok(Ok((Outcome::Done { .. }, _))) => {
                        tracing::info!("let go of a row that this instance does not hold")
                    }
                    Ok(Ok(_)) => {}
                    // It has come to be held meanwhile, or the batch failed: the next comparison sees.
                    Ok(Err(_)) => {}
                    // Nobody answers: sweeping must not wait for each of them.
                    Err(_) => break,
                }
            }
        }
        self.ledger.resend_missing(self.partition, &held);
        self.compare_ending(&standing.beat.epoch).await
    }

    /// Forgets whom others have taken or ended while this instance waited for their end: in a new epoch it would bring them back.
    async fn compare_ending(&self, epoch: &Epoch) -> Result<(), StoreError> {
        for page in self.ledger.ending(self.partition, epoch).chunks(ENDING) {
            let keys: Vec<_> =
                page.iter().map(|((roster, connection), _)| (roster.clone(), connection.clone())).collect();
            let rows = self.store.rows(&keys).await?;
            // Only a script knows whose rows these were: what came up empty or older a moment ago shows nobody's end.
            if self.call(&Sweep::default()).await?.beat.epoch != *epoch {
                return Ok(());
            }
            for (((roster, connection), take), row) in page.iter().zip(rows) {
                if row.is_none_or(|row| row.take > *take) {
                    self.ledger.ended_elsewhere(connection, roster, *take, epoch);
                }
            }
        }
        Ok(())
    }
}
