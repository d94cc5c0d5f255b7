//! A child process that cannot outlive the test that started it.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{DEADLINE, holds_within};

/// The newest lines kept of what a child prints.
const LINES: usize = 5_000;

/// What a child has printed: the newest lines, and how many there were in all.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<(VecDeque<String>, usize)>>);

impl Lines {
    /// Reads `from` to its end on a thread of its own, so that the child never blocks on a full pipe.
    fn read(from: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let kept = lines.clone();
        std::thread::spawn(move || {
            // Bytes that are no UTF-8 are shown, not dropped: a log line is evidence.
            let mut reader = BufReader::new(from);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                let mut kept = kept.0.lock().unwrap();
                kept.1 += 1;
                kept.0.push_back(text);
                if kept.0.len() > LINES {
                    kept.0.pop_front();
                }
            }
        });
        lines
    }

    /// The newest lines.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().0.iter().cloned().collect()
    }

    /// How many lines there were, those forgotten included.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

/// What a process can be told.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    /// End in order.
    Term,
    /// The same, as from a keyboard.
    Int,
    /// Freeze.
    Stop,
    /// Go on.
    Cont,
}

/// A running child; killed and reaped when dropped.
pub struct Owned {
    child: Child,
    /// What it prints to its standard output.
    pub stdout: Lines,
    /// What it prints to its standard error.
    pub stderr: Lines,
}

impl Owned {
    /// Starts `command` with its output captured and nothing to read. `missing` is what to tell when there is no such program.
    pub fn spawn(command: &mut Command, missing: &str) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}. {missing}", command.get_program()));
        let stdout = Lines::read(child.stdout.take().expect("stdout is piped"));
        let stderr = Lines::read(child.stderr.take().expect("stderr is piped"));
        Self { child, stdout, stderr }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Signals the child itself, and nobody once it has been reaped: its number may be somebody else's then.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_some() {
            return;
        }
        let name = match signal {
            Signal::Term => "TERM",
            Signal::Int => "INT",
            Signal::Stop => "STOP",
            Signal::Cont => "CONT",
        };
        // The shell's own `kill`, so that no package has to be there for it.
        let done = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{name} {}", self.pid()))
            .status()
            .expect("there is a shell");
        assert!(done.success(), "kill -{name} {} failed", self.pid());
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked for its end")
    }

    /// Waits until `probe` finds that it serves. False when it ended first or did not come up in time.
    pub async fn comes_up<F: Future<Output = bool>>(&mut self, probe: impl Fn() -> F) -> bool {
        let end = tokio::time::Instant::now() + DEADLINE;
        while self.exited().is_none() && tokio::time::Instant::now() < end {
            // Whoever answers may be somebody else who has the port, and then our child ends.
            if probe().await && self.exited().is_none() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    /// Waits for its end.
    pub async fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        holds_within(deadline, || std::future::ready(self.exited().is_some())).await?;
        self.exited()
    }

    /// Ends it at once and for good.
    pub fn kill(&mut self) {
        // It may have ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.kill();
    }
}
