//! What happened in a simulation, line by line: the same seed writes the same lines.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

pub(crate) struct Log {
    began: Instant,
    lines: Mutex<Vec<String>>,
}

impl Log {
    pub fn new() -> Self {
        Self { began: Instant::now(), lines: Mutex::default() }
    }

    /// Milliseconds since the beginning.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).expect("not that long")
    }

    pub fn write(&self, what: String) {
        let line = format!("{:>9} {what}", self.now());
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
