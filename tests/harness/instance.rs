//! The real binary, as its own process.

use std::{
    process::{Command, ExitStatus},
    time::Duration,
};

use super::{
    API_KEY, DEADLINE, HS256_SECRET, Rest, Signal, api_key_setting,
    child::{Lines, Owned},
    holds_within,
};

/// One running `rollcall serve` on a free port. It ends with this value.
pub struct Instance {
    child: Owned,
    url: String,
    // Its working directory: what it writes by accident or on purpose goes away with it.
    directory: tempfile::TempDir,
}

impl Instance {
    /// Starts an instance with `settings` over the harness's own (an HS256 secret, one API key, port 0) and waits until it is ready.
    pub async fn start(settings: &[(&str, String)]) -> Self {
        let instance = Self::start_unready(settings).await;
        instance.ready().await;
        instance
    }

    /// The same without waiting for `/readyz`: for tests in which Redis is not there yet.
    pub async fn start_unready(settings: &[(&str, String)]) -> Self {
        Self::start_with(&[], settings).await
    }

    /// The same with more arguments after `serve`, such as `--dev`.
    pub async fn start_with(arguments: &[&str], settings: &[(&str, String)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut child = Self::spawn(arguments, settings, directory.path());
        let mut url = None;
        holds_within(DEADLINE, || {
            url = child.stdout.all().iter().find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
            std::future::ready(url.is_some() || child.exited().is_some())
        })
        .await;
        let Some(url) = url else {
            panic!("no `listening on` line; stdout {:#?}, stderr {:#?}", child.stdout.all(), child.stderr.all());
        };
        Self { child, url: url.trim_end_matches('/').to_owned(), directory }
    }

    /// Runs the binary to its end, for settings that it must refuse: how it ended, and what it said.
    pub async fn refused(arguments: &[&str], settings: &[(&str, String)]) -> (ExitStatus, String) {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut child = Self::spawn(arguments, settings, directory.path());
        let status = child.wait(DEADLINE).await.expect("it ends by itself");
        let said = [child.stdout.all(), child.stderr.all()].concat().join("\n");
        (status, said)
    }

    fn spawn(arguments: &[&str], settings: &[(&str, String)], directory: &std::path::Path) -> Owned {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
        command.arg("serve").args(arguments).current_dir(directory);
        // What a developer has exported for a server of theirs must not change a test.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ROLLCALL__")) {
            command.env_remove(name);
        }
        command.env("ROLLCALL__SERVER__LISTEN", "127.0.0.1:0");
        // `ROLLCALL_TEST_WEBSOCKET` runs any test over the other carrier of WebSockets.
        if let Ok(carrier) = std::env::var("ROLLCALL_TEST_WEBSOCKET") {
            command.env("ROLLCALL__SERVER__WEBSOCKET", carrier);
        }
        if !arguments.contains(&"--dev") {
            command
                .env("ROLLCALL__AUTH__HS256_SECRET", HS256_SECRET)
                .env("ROLLCALL__AUTH__API_KEYS", api_key_setting("tests", "read+write+admin", API_KEY));
        }
        for (name, value) in settings {
            if value.is_empty() {
                command.env_remove(name);
            } else {
                command.env(name, value);
            }
        }
        Owned::spawn(&mut command, "Build it with cargo build.")
    }

    /// Waits for 200 from `/readyz`.
    pub async fn ready(&self) {
        let rest = Rest::new(&self.url);
        let ready =
            holds_within(DEADLINE, async || rest.try_get("/readyz").await.is_ok_and(|answer| answer.status == 200))
                .await;
        assert!(ready.is_some(), "not ready; stderr {:#?}", self.log());
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("the address ends in a port")
    }

    /// A REST client with the API key.
    pub fn rest(&self) -> Rest {
        Rest::new(&self.url)
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The memory that it has in use now, kilobytes.
    pub fn rss_kb(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a living process has a status");
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
            .expect("the status says VmRSS")
    }

    /// The newest lines of its log.
    pub fn log(&self) -> Vec<String> {
        self.child.stderr.all()
    }

    /// How many lines it has logged in all.
    pub fn log_lines(&self) -> usize {
        Lines::count(&self.child.stderr)
    }

    /// Fails the test if the log speaks of a panic.
    pub fn assert_no_panic(&self) {
        let lines: Vec<_> = self.log().into_iter().filter(|line| line.contains("panicked")).collect();
        assert!(lines.is_empty(), "{lines:#?}");
    }

    /// Asks it to stop in order; does not wait.
    pub fn terminate(&mut self) {
        self.child.signal(Signal::Term);
    }

    pub fn signal(&mut self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Its end without notice.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    /// Waits for its end.
    pub async fn ended(&mut self, deadline: Duration) -> ExitStatus {
        let status = self.child.wait(deadline).await;
        status.unwrap_or_else(|| panic!("it still runs after {deadline:?}; stderr {:#?}", self.log()))
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.exited().is_none()
    }
}
