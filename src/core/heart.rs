//! The heart of one partition: it registers this instance, renews its lease, and knows whether the store answers.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    ledger::{Ledger, Reset, Sent},
    mirror::Mirror,
    mirrors::Mirrors,
    pulse::{Pulse, Registration},
    settings::Settings,
};
use crate::{
    domain::{
        partition::{Batch, Beat, Refusal, Renewal},
        roster::{Generation, Outcome},
        rule::Rule,
        version::{Epoch, Version},
    },
    metrics::{Because, Metrics, Of},
    store::{PartitionId, Store, StoreError},
    telemetry::vital,
};

/// Between tries to reach a store that does not answer; doubled up to [`RETRY_MOST`].
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_millis(1_000);

/// Renews until the process ends.
pub(crate) struct Heart {
    pub partition: PartitionId,
    pub store: Arc<dyn Store>,
    pub ledger: Arc<Ledger>,
    pub pulse: Arc<Pulse>,
    pub settings: Arc<Settings>,
    pub metrics: Arc<Metrics>,
}

/// What the heart remembers between beats.
struct Memory {
    generation: Generation,
    link: u64,
    /// The epoch in which it was registered last.
    known: Option<Epoch>,
    /// The lease had ended; the next registration is a rebirth.
    died: bool,
    renewed_at: Instant,
    is_up: bool,
}

impl Heart {
    pub async fn run(self) {
        let mut memory = Memory {
            generation: Generation { instance: self.settings.instance.clone(), number: 1 },
            link: 0,
            known: None,
            died: false,
            renewed_at: Instant::now(),
            is_up: true,
        };
        let mut retry = RETRY_FIRST;
        loop {
            match self.renew(&memory).await {
                Ok(Ok(renewed)) => {
                    retry = RETRY_FIRST;
                    let settling = self.learn(&mut memory, renewed.link, renewed.beat);
                    let pause = match settling {
                        // The close of settling waits for everybody's word.
                        true => (self.settings.presence.instance_renew_ms / 4).max(50),
                        false => self.settings.presence.instance_renew_ms,
                    };
                    tokio::select! {
                        biased;
                        () = self.pulse.poked() => {}
                        () = sleep(Duration::from_millis(pause)) => {}
                    }
                    continue;
                }
                Ok(Err(Refusal::Dead)) => {
                    memory.generation.number += 1;
                    memory.died = true;
                    tracing::warn!(generation = %memory.generation, "the lease had ended; registering anew");
                    continue;
                }
                Ok(Err(Refusal::Terms)) => self.down(&mut memory, "the stored lengths of lease and renewal differ"),
                Ok(Err(refusal)) => self.down(&mut memory, &format!("the renewal was refused: {refusal:?}")),
                Err(error) => self.down(&mut memory, &error.to_string()),
            }
            self.metrics.renewals_failed.inc();
            sleep(retry).await;
            retry = (retry * 2).min(RETRY_MOST);
        }
    }

    /// Takes back the registration of an instance that holds nothing any more.
    pub async fn farewell(store: &dyn Store, partition: PartitionId, registration: &Registration, version: &Arc<str>) {
        let renewal = Renewal {
            generation: registration.generation.clone(),
            link: registration.link,
            version: version.clone(),
            known: Some(registration.beat.epoch.clone()),
            done: true,
            bye: true,
        };
        if let Err(error) = store.renew(partition, renewal).await {
            tracing::info!(%error, "the lease was not given back; it ends by itself");
        }
    }

    async fn renew(&self, memory: &Memory) -> Result<Result<crate::store::Renewed, Refusal>, StoreError> {
        let renewal = Renewal {
            generation: memory.generation.clone(),
            link: memory.link,
            version: self.settings.version.clone(),
            known: memory.known.clone().filter(|_| !memory.died),
            done: self.ledger.is_done(self.partition),
            bye: false,
        };
        self.store.renew(self.partition, renewal).await
    }

    fn learn(&self, memory: &mut Memory, link: u64, beat: Beat) -> bool {
        let settling = beat.settling;
        let epoch_is_new = memory.known.as_ref().is_some_and(|known| *known != beat.epoch);
        let was_away = memory.renewed_at.elapsed() > Duration::from_millis(self.settings.presence.instance_lease_ms);
        let died = std::mem::take(&mut memory.died);
        self.ledger.registered(self.partition, &beat.epoch);
        if epoch_is_new || died || link != memory.link {
            // Whoever was away long must not offer sockets that have died meanwhile.
            let reset = Reset { epoch: epoch_is_new, reborn: died || (epoch_is_new && was_away) };
            let latest = self.pulse.latest();
            self.ledger.reset(self.partition, reset, latest.as_ref().map(|(epoch, now)| (epoch, *now)));
        }
        if epoch_is_new || memory.known.is_none() {
            self.metrics.epochs.inc();
            tracing::info!(epoch = %beat.epoch, partition = self.partition, settling, "registered in an epoch");
        }
        if !settling {
            self.ledger.settled(self.partition);
        }
        memory.link = link;
        memory.known = Some(beat.epoch.clone());
        memory.renewed_at = Instant::now();
        if !std::mem::replace(&mut memory.is_up, true) {
            tracing::info!(partition = self.partition, "the store answers again");
        }
        self.metrics.store_up.get_or_create(&Of { partition: self.partition }).set(1);
        self.metrics.settling.get_or_create(&Of { partition: self.partition }).set(settling.into());
        let generation = memory.generation.clone();
        self.pulse.register(Registration { generation, link, beat });
        settling
    }

    fn down(&self, memory: &mut Memory, why: &str) {
        self.pulse.down();
        self.metrics.store_up.get_or_create(&Of { partition: self.partition }).set(0);
        if std::mem::replace(&mut memory.is_up, false) {
            tracing::warn!(
                partition = self.partition,
                why,
                "not registered with the store; sockets stay open and wait"
            );
        }
    }
}

/// Sends the difference of one partition, one batch in flight, as soon as the last answer is there.
#[derive(Clone)]
pub(crate) struct Writer {
    pub partition: PartitionId,
    pub store: Arc<dyn Store>,
    pub ledger: Arc<Ledger>,
    pub pulse: Arc<Pulse>,
    pub mirrors: Arc<Mirrors>,
    pub metrics: Arc<Metrics>,
}

/// The most entries in a batch: more would make others wait for Redis, and cost no less each.
const BATCH: usize = 100;

impl Writer {
    pub async fn run(self) {
        let mut standing = self.pulse.subscribe();
        let mut failures = 0;
        loop {
            let Registration { generation, link, beat } = standing.registered(|_| true).await;
            let (entries, sent) = self.ledger.batch(self.partition, BATCH);
            if entries.is_empty() {
                tokio::select! {
                    biased;
                    () = self.ledger.changed(self.partition) => {}
                    _ = standing.changed() => {}
                }
                continue;
            }
            let batch = Batch { generation, link, epoch: beat.epoch, entries };
            if !Rule::OneBatch.holds() {
                let another = self.clone();
                vital::spawn("another batch", async move {
                    another.send(batch, sent).await;
                });
                continue;
            }
            if self.send(batch, sent).await {
                failures = 0;
                continue;
            }
            // Once is a new epoch or a new link. What fails again and again though renewals succeed must not spin.
            failures += 1;
            if failures > 1 {
                sleep((RETRY_FIRST * (1 << failures.min(8))).min(RETRY_MOST)).await;
            }
        }
    }

    /// Whether the batch was carried out.
    async fn send(&self, batch: Batch, sent: Vec<Sent>) -> bool {
        self.metrics.batch.observe(batch.entries.len() as f64);
        let timed = self.time(&sent);
        let sent_at = Instant::now();
        let answer = self.store.write(self.partition, &batch).await;
        self.metrics.batch_seconds.observe(sent_at.elapsed().as_secs_f64());
        if let Some((mirror, at)) = timed {
            mirror.timed(version_of(&answer, at));
        }
        let why = match answer {
            Ok(Ok((beat, outcomes))) => {
                self.pulse.note(&beat);
                self.metrics.count(&beat.tally);
                self.ledger.answered(&beat, sent, outcomes);
                return true;
            }
            Ok(Err(refusal)) => {
                tracing::info!(?refusal, "a batch was refused");
                "refused"
            }
            Err(error) => {
                tracing::debug!(%error, "a batch failed");
                "unavailable"
            }
        };
        self.metrics.batches_failed.get_or_create(&Because { reason: why }).inc();
        self.ledger.failed(sent);
        self.pulse.doubt();
        false
    }

    /// Of a batch the first change of a channel that somebody here watches is timed. Returns its mirror, and which it is.
    fn time(&self, sent: &[Sent]) -> Option<(Arc<Mirror>, usize)> {
        sent.iter().enumerate().find_map(|(at, sent)| {
            let Sent::Place { roster, connection, wanted_at, .. } = sent else { return None };
            let mirror = self.mirrors.get(roster)?;
            mirror.time(connection, *wanted_at).then_some((mirror, at))
        })
    }
}

/// The version of the roster after one entry of a batch; none where nothing came of it.
fn version_of(answer: &Answer, at: usize) -> Option<Version> {
    let Ok(Ok((beat, outcomes))) = answer else { return None };
    let Some(Outcome::Done { number, .. }) = outcomes.get(at) else { return None };
    Some(Version { epoch: beat.epoch.clone(), number: *number })
}

type Answer = Result<Result<(Beat, Vec<Outcome>), Refusal>, StoreError>;
