//! What is measured: a Redis and instances of Rollcall in front of it, each a process of its own.

use std::{
    cell::RefCell,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{child::Owned, rest::Rest, token};

/// How long a process may take to come up.
const START: Duration = Duration::from_secs(30);

/// A Redis without persistence on a port of its own.
pub struct Redis {
    child: Owned,
    url: String,
    /// For what it is asked; one for all of it, for connecting costs commands that would be counted.
    connection: RefCell<redis::Connection>,
    _directory: TempDir,
}

impl Redis {
    /// Starts it: `redis-server`, or what `REDIS_SERVER` names.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("loopback").port();
        let program = std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"]);
        let child = Owned::spawn(command.arg(directory.path()).stderr(Stdio::null()));
        let url = format!("redis://127.0.0.1:{port}/");
        let client = redis::Client::open(url.as_str()).expect("an address");
        let end = Instant::now() + START;
        let connection = loop {
            if let Ok(connection) = client.get_connection() {
                break RefCell::new(connection);
            }
            assert!(Instant::now() < end, "redis-server does not answer on port {port}");
            std::thread::sleep(Duration::from_millis(10));
        };
        Self { child, url, connection, _directory: directory }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A section of what it says of itself.
    pub fn info(&self, section: &str) -> String {
        redis::cmd("INFO").arg(section).query(&mut *self.connection.borrow_mut()).expect("it answers")
    }
}

/// One instance of Rollcall.
pub struct Instance {
    child: Owned,
    /// Where it listens.
    pub address: SocketAddr,
    /// How an app server asks it.
    pub rest: Rest,
    _directory: TempDir,
}

impl Instance {
    /// Starts one in front of this Redis and waits until it is ready.
    pub fn start(program: &Path, redis: &Redis, settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut command = Command::new(program);
        command.arg("serve").current_dir(directory.path());
        // What somebody has exported for a server of theirs must not change what is measured.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ROLLCALL__")) {
            command.env_remove(name);
        }
        // The defaults, but for the limits that a crowd from one machine would meet.
        command
            .env("ROLLCALL__SERVER__LISTEN", "127.0.0.1:0")
            .env("ROLLCALL__REDIS__URL", redis.url())
            .env("ROLLCALL__AUTH__HS256_SECRET", token::SECRET)
            .env("ROLLCALL__AUTH__API_KEYS", token::api_key_setting())
            .env("ROLLCALL__LIMITS__CONNECTIONS_PER_ADDRESS", "1000000")
            .env("ROLLCALL__LIMITS__OPERATIONS_PER_SECOND", "100000")
            .envs(settings.iter().copied());
        let log = std::fs::File::create(directory.path().join("log")).expect("a file can be made");
        let child = Owned::spawn(command.stderr(log));
        let url = child.hear("listening on http://", START);
        let address: SocketAddr = url.trim_end_matches('/').parse().expect("an address and a port");
        let rest = Rest::new(address);
        rest.until_ready(START);
        Self { child, address, rest, _directory: directory }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }
}

/// A Redis, and so many instances.
pub struct Stage {
    /// All instances share it.
    pub redis: Redis,
    /// In the order in which they started.
    pub instances: Vec<Instance>,
}

impl Stage {
    /// Starts all of it, with these settings.
    pub fn set(program: &Path, instances: usize, settings: &[(&str, &str)]) -> Self {
        let redis = Redis::start();
        let instances = (0..instances).map(|_| Instance::start(program, &redis, settings)).collect();
        Self { redis, instances }
    }

    /// The first instance.
    pub fn one(&self) -> &Instance {
        &self.instances[0]
    }
}
