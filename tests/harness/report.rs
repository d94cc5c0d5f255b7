//! What a scenario of failure has shown: a row of `docs/failures.md`.
//!
//! Rows are kept as JSON in the directory that `ROLLCALL_FAILURES` names, and nowhere without it. A scenario that ends before [`Row::finish`] leaves a row
//! that says so, and so does one whose process was killed: the table hides nothing.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};

/// A row in the making.
pub struct Row {
    section: &'static str,
    event: String,
    saw: Vec<String>,
    times: Vec<Value>,
    finished: bool,
}

impl Row {
    /// Begins a row: the part of the table, and what happens, in a few words.
    pub fn begin(section: &'static str, event: impl Into<String>) -> Self {
        let row = Self { section, event: event.into(), saw: Vec::new(), times: Vec::new(), finished: false };
        row.write();
        row
    }

    /// What watchers or callers saw: a sentence, of which the scenario has asserted every word.
    pub fn saw(&mut self, what: impl Into<String>) {
        self.saw.push(what.into());
    }

    /// How long something took, each time it was measured, and what was promised.
    pub fn took(&mut self, what: &str, measured: &[Duration], promised: Option<Duration>) {
        let mut measured: Vec<u128> = measured.iter().map(Duration::as_millis).collect();
        measured.sort_unstable();
        let (Some(worst), median) = (measured.last(), measured.get(measured.len() / 2)) else { return };
        self.times.push(json!({
            "what": what,
            "count": measured.len(),
            "median_ms": median,
            "worst_ms": worst,
            "promised_ms": promised.map(|promised| promised.as_millis()),
        }));
    }

    /// Another figure than a time, as text.
    pub fn measured(&mut self, what: &str, figure: impl Into<String>) {
        self.times.push(json!({ "what": what, "figure": figure.into() }));
    }

    /// The scenario came to its end, and all held.
    pub fn finish(mut self) {
        self.finished = true;
    }

    fn write(&self) {
        let Some(directory) = std::env::var_os("ROLLCALL_FAILURES").map(PathBuf::from) else { return };
        let row = json!({
            "section": self.section,
            "event": self.event,
            "saw": self.saw,
            "times": self.times,
            "held": self.finished,
        });
        let name: String =
            self.event.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
        let written = std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(directory.join(format!("{name}.json")), row.to_string()));
        if let Err(error) = written {
            eprintln!("the row of `{}` could not be written: {error}", self.event);
        }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.write();
    }
}
