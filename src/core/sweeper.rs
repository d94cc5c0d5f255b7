//! The sweeper of one partition: it ends what is due when the next deadline says so, compares what the store thinks this instance holds with what
//! it knows, and audits slowly. Every instance sweeps; the scripts see to it that each end happens once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::{ledger::Ledger, pulse::Pulse};
use crate::{
    domain::{
        chance,
        member::Whereabouts,
        name::{ConnectionId, RosterKey},
        partition::{Due, Sweep, Swept},
        roster::{Ask, Entry, Generation},
        version::Epoch,
    },
    metrics::Metrics,
    store::{PartitionId, Store, StoreError},
};

/// The most rows that one call ends.
const ROWS: usize = 100;
/// As many rows are compared at once.
const ENDING: usize = 500;
/// How often this instance compares its `held` set with what it knows.
const COMPARE: Duration = Duration::from_secs(60);
/// Between two passes of the audit, and between its pages.
const AUDIT: Duration = Duration::from_secs(300);
const AUDIT_PAGE: Duration = Duration::from_millis(200);
/// While an epoch settles, how often its close is tried.
const SETTLING: Duration = Duration::from_millis(500);
/// What is forgotten later than its deadline though nobody said that it ended, milliseconds.
const SLACK_MS: u64 = 60_000;

pub(crate) struct Sweeper {
    pub partition: PartitionId,
    pub store: Arc<dyn Store>,
    pub ledger: Arc<Ledger>,
    pub pulse: Arc<Pulse>,
    pub metrics: Arc<Metrics>,
}

impl Sweeper {
    pub async fn run(self) {
        let mut standing = self.pulse.subscribe();
        // Spread over the instances.
        let spread = chance::within(0.5..1.0);
        let mut compare_at = Instant::now() + COMPARE.mul_f64(spread);
        let mut audit_at = Instant::now() + AUDIT.mul_f64(spread);
        let mut audit_cursor = None;
        let mut was_settling = false;
        loop {
            let beat = standing.registered(|_| true).await.beat;
            if was_settling && !beat.settling {
                // What nobody confirmed is found at once.
                (compare_at, audit_at) = (Instant::now(), Instant::now());
            }
            was_settling = beat.settling;
            let due_in = beat.next_due.map_or(COMPARE, |due| Duration::from_millis(due.saturating_sub(beat.now)));
            let due_in = due_in.max(Duration::from_millis(20));
            let due_in = if beat.settling { due_in.min(SETTLING) } else { due_in };
            let until = (Instant::now() + due_in).min(compare_at).min(audit_at);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => {}
                () = self.pulse.suspected() => compare_at = Instant::now(),
                _ = standing.changed() => continue,
            }
            // Instances wake for the same deadline: the first does the work.
            let jitter = chance::within(0..40);
            sleep(Duration::from_millis(jitter)).await;
            let result = self.sweep().await;
            let now = Instant::now();
            let result = match result {
                Ok(()) if now >= compare_at => {
                    compare_at = now + COMPARE;
                    self.compare().await
                }
                Ok(()) if now >= audit_at => match self.store.audit(self.partition, audit_cursor.take()).await {
                    Ok(next) => {
                        audit_at = now + if next.is_some() { AUDIT_PAGE } else { AUDIT };
                        audit_cursor = next;
                        Ok(())
                    }
                    Err(error) => {
                        audit_at = now + AUDIT_PAGE * 50;
                        Err(error)
                    }
                },
                other => other,
            };
            if let Err(error) = result {
                tracing::debug!(%error, "sweeping failed");
                sleep(Duration::from_secs(1)).await;
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
            .map(|((roster, connection), row)| match (roster, row) {
                (RosterKey::Channel(_), Some(row)) => Some((RosterKey::User(row.user.clone()), connection.clone())),
                _ => None,
            })
            .collect();
        let asked: Vec<_> = users.iter().flatten().cloned().collect();
        // A user's partition that cannot be asked means: later.
        let answer = if asked.is_empty() { Ok(Vec::new()) } else { self.store.rows(&asked).await };
        let unreachable = answer.is_err();
        let mut found = answer.unwrap_or_default().into_iter();
        let mut top = std::collections::HashMap::new();
        for ((key, row), user) in channels.into_iter().zip(rows).zip(users) {
            let Some(row) = row else { continue };
            let user_row = user.and_then(|_| found.next()).flatten();
            let taken_over = user_row.is_some_and(|user_row| match &key.0 {
                RosterKey::Channel(channel) => {
                    user_row.take > row.take && Whereabouts::from_json(&user_row.private).channels.contains(channel)
                }
                RosterKey::User(_) => false,
            });
            let may_go =
                if taken_over || (unreachable && matches!(key.0, RosterKey::Channel(_))) { 0 } else { row.take };
            top.insert(key, may_go);
        }
        let with_top = due.into_iter().map(|due| {
            let key = due.connection.clone().map(|connection| (due.roster.clone(), connection));
            let may_go = key.and_then(|key| top.get(&key).copied()).unwrap_or(u64::MAX >> 12);
            (due, may_go)
        });
        Ok(with_top.collect())
    }

    /// Lets go of what the store thinks this instance holds and it does not know; sends again what the store should know and does not.
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
            if !self.ledger.holds(connection, roster) {
                let entry = Entry { roster: roster.clone(), connection: connection.clone(), ask: Ask::Release };
                let Some(answer) = self.ledger.ask(entry) else { break };
                match timeout(Duration::from_secs(5), answer).await {
                    Ok(Ok((outcome, _))) => {
                        tracing::info!(?outcome, "let go of a row that this instance does not hold")
                    }
                    // It has come to be known meanwhile, or the batch failed: the next comparison sees.
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
