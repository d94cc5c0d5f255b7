//! What an instance counts of itself, in the OpenMetrics text format.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
};

use crate::domain::{member::Reason, tally::Tally};

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

/// A label `mode`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct In {
    /// In which.
    pub mode: &'static str,
}

/// A gauge of seconds.
pub type Seconds = Gauge<f64, AtomicU64>;

/// A metric as the manual lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// As it is exported: counters end in `_total`, histograms have no ending of their own.
    pub name: String,
    /// `gauge`, `counter` or `histogram`.
    pub kind: &'static str,
}

/// Everything that is counted. Cheap to count on from any thread.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    described: Vec<Described>,
    /// Sockets that are open.
    pub sockets: Gauge,
    /// Connections that this instance answers for, those in their grace and leases included.
    pub accounts: Gauge,
    /// The same, counted once for each channel that they are in.
    pub members: Gauge,
    /// Operations of clients by outcome: `ok` or the error code.
    pub operations: Family<Because, Counter>,
    /// Sockets by how they ended: the close code's meaning.
    pub closes: Family<Because, Counter>,
    /// Users who came into a channel, decided by calls of this instance.
    pub joins: Counter,
    /// Users who left a channel, by reason, decided by calls of this instance.
    pub leaves: Family<Because, Counter>,
    /// Connections taken up again by a client with a resume token.
    pub resumes: Counter,
    /// Resume tokens that named nothing that is still there.
    pub resumes_missed: Counter,
    /// Connections whose end was under way and that are held again.
    pub graces_saved: Counter,
    /// Rosters that this instance keeps a copy of.
    pub mirrors: Gauge,
    /// The same by how their watchers are told of changes.
    pub modes: Family<In, Gauge>,
    /// Patterns of channels that somebody here watches.
    pub patterns: Gauge,
    /// Occupied channels that these mean, each counted once for a pattern.
    pub pattern_channels: Gauge,
    /// Users whom somebody here watches.
    pub people: Gauge,
    /// Users read because somebody here watches them.
    pub people_read: Counter,
    /// Changes heard on feeds.
    pub published: Counter,
    /// Signs of typing and signals that clients of this instance have given.
    pub asides: Family<Because, Counter>,
    /// Those that watchers here who were behind have lost.
    pub asides_lost: Counter,
    /// Times a mirror was read anew, by cause.
    pub readings: Family<Because, Counter>,
    /// Snapshots sent, by cause (`first` for a new watch).
    pub snapshots: Family<Because, Counter>,
    /// Frames written to sockets.
    pub frames: Counter,
    /// From the wish to the first socket that is told.
    pub write_to_socket: Histogram,
    /// Entries in a batch of writes.
    pub batch: Histogram,
    /// How long the store took for a batch, whatever it answered.
    pub batch_seconds: Histogram,
    /// Batches that were refused or failed, by cause.
    pub batches_failed: Family<Because, Counter>,
    /// Rows that the store has not acknowledged as they are wanted.
    pub unacknowledged: Family<Of, Gauge>,
    /// Calls that end what is due.
    pub sweeps: Counter,
    /// Rounds of sweeping, comparing or auditing that failed.
    pub sweeps_failed: Counter,
    /// Rows whose end this instance set out to carry out.
    pub swept: Counter,
    /// Since the last renewal.
    pub lease_age: Family<Of, Seconds>,
    /// Renewals that failed.
    pub renewals_failed: Counter,
    /// Times a new epoch was learnt.
    pub epochs: Counter,
    /// 1 while the epoch settles.
    pub settling: Family<Of, Gauge>,
    /// 1 while the store answers.
    pub store_up: Family<Of, Gauge>,
    /// Bans and revocations that hold.
    pub bars: Gauge,
    /// How long what the store publishes takes to be heard.
    pub feed_lag: Seconds,
    /// Times the feed was lost.
    pub feed_lost: Counter,
}

/// The bounds of the histogram of batches, entries.
const BATCHES: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0];
/// The bounds of the histograms of time, seconds.
const TIMES: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

impl Metrics {
    /// All metrics, registered under their names.
    pub fn new() -> Arc<Self> {
        let mut list = List { registry: Registry::with_prefix("rollcall"), described: Vec::new() };
        let of = &mut list;
        let left = Reason::ALL.into_iter().filter(|reason| *reason != Reason::Replaced).map(Reason::as_str);
        let mut metrics = Self {
            sockets: of.add("sockets", "Sockets that are open", Gauge::default()),
            accounts: of.add("connections", "Connections that this instance answers for", Gauge::default()),
            members: of.add("members", "Connections in channels that this instance answers for", Gauge::default()),
            operations: of.add("operations", "Operations of clients by outcome", Family::default()),
            closes: of.add("closes", "Sockets by how they ended", Family::default()),
            joins: of.add("joins", "Users who joined a channel by a call of this instance", Counter::default()),
            leaves: of.add("leaves", "Users who left a channel by a call of this instance", reasons(left)),
            resumes: of.add("resumes", "Connections that a client took up again", Counter::default()),
            resumes_missed: of.add("resumes_missed", "Resumes that found nothing", Counter::default()),
            graces_saved: of.add("graces_saved", "Connections held again within their grace", Counter::default()),
            mirrors: of.add("mirrors", "Rosters that this instance keeps a copy of", Gauge::default()),
            modes: of.add(
                "modes",
                "Rosters that this instance keeps a copy of, by the mode in which their watchers are told of changes",
                Family::default(),
            ),
            patterns: of.add("patterns", "Patterns of channels that somebody here watches", Gauge::default()),
            pattern_channels: of.add("pattern_channels", "Occupied channels that these mean", Gauge::default()),
            people: of.add("people", "Users whom somebody here watches", Gauge::default()),
            people_read: of.add("people_read", "Users read because somebody here watches them", Counter::default()),
            published: of.add("published", "Changes heard on feeds", Counter::default()),
            asides: of.add("asides", "Signs of typing and signals by clients", reasons(["signal", "typing"])),
            asides_lost: of.add("asides_lost", "Those that slow watchers here have lost", Counter::default()),
            readings: of.add("readings", "Rosters read by cause", reasons(["first", "gap"])),
            snapshots: of.add("snapshots", "Snapshots sent by cause", reasons(["first", "slow", "mode"])),
            frames: of.add("frames", "Frames written to sockets", Counter::default()),
            write_to_socket: of.add(
                "write_to_socket_seconds",
                "From a change that a client of this instance wants to the first watcher here who is told; a sample",
                Histogram::new(TIMES),
            ),
            batch: of.add("batch_entries", "Entries in a batch of writes", Histogram::new(BATCHES)),
            batch_seconds: of.add("batch_seconds", "Until a batch was answered or failed", Histogram::new(TIMES)),
            batches_failed: of.add("batches_failed", "Batches that failed", reasons(["refused", "unavailable"])),
            unacknowledged: of.add("unacknowledged", "Rows that the store has yet to acknowledge", Family::default()),
            sweeps: of.add("sweeps", "Calls that end what is due", Counter::default()),
            sweeps_failed: of.add("sweeps_failed", "Rounds of sweeping that failed", Counter::default()),
            swept: of.add("swept", "Rows whose end this instance set out to carry out", Counter::default()),
            lease_age: of.add("lease_age_seconds", "Since the lease was renewed last", Family::default()),
            renewals_failed: of.add("renewals_failed", "Renewals that failed", Counter::default()),
            epochs: of.add("epochs", "Times a new epoch was learnt", Counter::default()),
            settling: of.add("settling", "1 while the epoch settles", Family::default()),
            store_up: of.add("store_up", "1 while the store answers", Family::default()),
            bars: of.add("bars", "Bans and revocations that hold", Gauge::default()),
            feed_lag: of.add("feed_lag_seconds", "Until what the store publishes is heard here", Seconds::default()),
            feed_lost: of.add("feed_lost", "Times the feed was lost", Counter::default()),
            registry: Registry::default(),
            described: Vec::new(),
        };
        (metrics.registry, metrics.described) = (list.registry, list.described);
        Arc::new(metrics)
    }

    /// What a call of the store came to.
    pub fn count(&self, tally: &Tally) {
        self.joins.inc_by(tally.joins);
        self.graces_saved.inc_by(tally.saved);
        for reason in Reason::ALL {
            let left = tally.leaves(reason);
            if left > 0 {
                self.leaves.get_or_create(&Because { reason: reason.as_str() }).inc_by(left);
            }
        }
    }

    /// All there are, in the order of the text.
    pub fn described(&self) -> &[Described] {
        &self.described
    }

    /// The text that a Prometheus server reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

/// Lets a family count from zero for each of these: a counter that appears with its first event hides that event from whoever looks at its growth.
pub fn from_zero(family: &Family<Because, Counter>, reasons: impl IntoIterator<Item = &'static str>) {
    for reason in reasons {
        drop(family.get_or_create(&Because { reason }));
    }
}

fn reasons(all: impl IntoIterator<Item = &'static str>) -> Family<Because, Counter> {
    let family = Family::default();
    from_zero(&family, all);
    family
}

/// The metrics in the making.
struct List {
    registry: Registry,
    described: Vec<Described>,
}

impl List {
    fn add<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.registry.register(name, help, metric.clone());
        let (kind, ending) = match metric.metric_type() {
            MetricType::Counter => ("counter", "_total"),
            MetricType::Histogram => ("histogram", ""),
            _ => ("gauge", ""),
        };
        self.described.push(Described { name: format!("rollcall_{name}{ending}"), kind });
        metric
    }
}
