//! What the service says of itself while it runs, to standard error.

pub mod vital;

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Starts the log: readable on a terminal, a JSON object a line otherwise. `RUST_LOG` says what is shown, by default `info`.
///
/// # Errors
/// A sentence, when `RUST_LOG` cannot be understood or a log runs already.
pub fn start() -> Result<(), String> {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env()
        .map_err(|why| format!("RUST_LOG is no use: {why}"))?
        // It calls a stranger's broken frame an error, a line each time; the socket's end is counted in the metrics.
        .add_directive("actix_http::ws=off".parse().expect("a directive"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let started =
        if stderr().is_terminal() { log.compact().try_init() } else { log.json().flatten_event(true).try_init() };
    started.map_err(|why| format!("the log does not start: {why}"))
}
