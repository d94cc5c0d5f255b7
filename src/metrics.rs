//! What an instance counts of itself, in the Prometheus text format.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
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

/// The bounds of the histogram of batches, entries.
const BATCHES: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0];

impl Metrics {
    /// All metrics, registered under their names.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("rollcall");
        let of = &mut registry;
        Arc::new(Self {
            sockets: registered(of, "sockets", "Sockets that are open", Default::default()),
            accounts: registered(of, "connections", "Connections this instance answers for", Default::default()),
            operations: registered(of, "operations", "Operations of clients by outcome", Default::default()),
            closes: registered(of, "closes", "Sockets by how they ended", Default::default()),
            resumes: registered(of, "resumes", "Connections that came back within their grace", Default::default()),
            resumes_missed: registered(of, "resumes_missed", "Resumes that found nothing", Default::default()),
            mirrors: registered(of, "mirrors", "Rosters that this instance keeps a copy of", Default::default()),
            published: registered(of, "published", "Changes heard on feeds", Default::default()),
            readings: registered(of, "readings", "Rosters read by cause", Default::default()),
            snapshots: registered(of, "snapshots", "Snapshots sent by cause", Default::default()),
            frames: registered(of, "frames", "Frames written to sockets", Default::default()),
            batch: registered(of, "batch_entries", "Entries in a batch of writes", Histogram::new(BATCHES)),
            batches_failed: registered(of, "batches_failed", "Batches refused or failed", Default::default()),
            swept: registered(of, "swept", "Rows whose end this instance carried out", Default::default()),
            renewals_failed: registered(of, "renewals_failed", "Renewals that failed", Default::default()),
            epochs: registered(of, "epochs", "Times a new epoch was learnt", Default::default()),
            settling: registered(of, "settling", "1 while the epoch settles", Default::default()),
            store_up: registered(of, "store_up", "1 while the store answers", Default::default()),
            feed_lost: registered(of, "feed_lost", "Times the feed was lost", Default::default()),
            registry,
        })
    }

    /// The text that a Prometheus server reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

fn registered<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}
