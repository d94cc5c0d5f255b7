//! What an instance counts of itself, in the Prometheus text format.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// A label `reason`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Because {
    /// Why.
    pub reason: &'static str,
}

/// A label `partition`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Of {
    /// Which.
    pub partition: u16,
}

/// Everything that is counted. Cheap to count on from any thread.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Sockets that are open.
    pub sockets: Gauge,
    /// Connections that this instance answers for, those in their grace included.
    pub accounts: Gauge,
    /// Operations of clients by outcome: `ok` or the error code.
    pub operations: Family<Because, Counter>,
    /// Sockets by how they ended: the close code's meaning.
    pub closes: Family<Because, Counter>,
    /// Connections that came back within their grace.
    pub resumes: Counter,
    /// Resume tokens that named nothing that is still there.
    pub resumes_missed: Counter,
    /// Rosters that this instance keeps a copy of.
    pub mirrors: Gauge,
    /// Changes heard on feeds.
    pub published: Counter,
    /// Times a mirror was read anew, by cause.
    pub readings: Family<Because, Counter>,
    /// Snapshots sent, by cause (`first` for a new watch).
    pub snapshots: Family<Because, Counter>,
    /// Frames written to sockets.
    pub frames: Counter,
    /// Entries in a batch of writes.
    pub batch: Histogram,
    /// Batches that were refused or failed, by cause.
    pub batches_failed: Family<Because, Counter>,
    /// Rows whose end this instance carried out.
    pub swept: Counter,
    /// Renewals that failed.
    pub renewals_failed: Counter,
    /// Times a new epoch was learnt.
    pub epochs: Counter,
    /// 1 while the epoch settles.
    pub settling: Family<Of, Gauge>,
    /// 1 while the store answers.
    pub store_up: Family<Of, Gauge>,
    /// Times the feed was lost.
    pub feed_lost: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            registry: Registry::with_prefix("rollcall"),
            sockets: Gauge::default(),
            accounts: Gauge::default(),
            operations: Family::default(),
            closes: Family::default(),
            resumes: Counter::default(),
            resumes_missed: Counter::default(),
            mirrors: Gauge::default(),
            published: Counter::default(),
            readings: Family::default(),
            snapshots: Family::default(),
            frames: Counter::default(),
            batch: Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0]),
            batches_failed: Family::default(),
            swept: Counter::default(),
            renewals_failed: Counter::default(),
            epochs: Counter::default(),
            settling: Family::default(),
            store_up: Family::default(),
            feed_lost: Counter::default(),
        }
    }
}

impl Metrics {
    /// All metrics, registered under their names.
    pub fn new() -> Arc<Self> {
        let mut all = Self::default();
        let mut registry = Registry::with_prefix("rollcall");
        registry.register("sockets", "Sockets that are open", all.sockets.clone());
        registry.register("connections", "Connections this instance answers for", all.accounts.clone());
        registry.register("operations", "Operations of clients by outcome", all.operations.clone());
        registry.register("closes", "Sockets by how they ended", all.closes.clone());
        registry.register("resumes", "Connections that came back within their grace", all.resumes.clone());
        registry.register("resumes_missed", "Resumes that found nothing", all.resumes_missed.clone());
        registry.register("mirrors", "Rosters that this instance keeps a copy of", all.mirrors.clone());
        registry.register("published", "Changes heard on feeds", all.published.clone());
        registry.register("readings", "Rosters read by cause", all.readings.clone());
        registry.register("snapshots", "Snapshots sent by cause", all.snapshots.clone());
        registry.register("frames", "Frames written to sockets", all.frames.clone());
        registry.register("batch_entries", "Entries in a batch of writes", all.batch.clone());
        registry.register("batches_failed", "Batches refused or failed", all.batches_failed.clone());
        registry.register("swept", "Rows whose end this instance carried out", all.swept.clone());
        registry.register("renewals_failed", "Renewals that failed", all.renewals_failed.clone());
        registry.register("epochs", "Times a new epoch was learnt", all.epochs.clone());
        registry.register("settling", "1 while the epoch settles", all.settling.clone());
        registry.register("store_up", "1 while the store answers", all.store_up.clone());
        registry.register("feed_lost", "Times the feed was lost", all.feed_lost.clone());
        all.registry = registry;
        Arc::new(all)
    }

    /// The text that a Prometheus server reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}
