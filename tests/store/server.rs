//! A `redis-server` of one test's own.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use redis::aio::MultiplexedConnection;

pub struct Server {
    child: Option<Child>,
    pub port: u16,
    directory: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Self {
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut server = Self { child: None, port, directory: tempfile::tempdir().unwrap() };
            if server.start_again().await {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    pub async fn start_again(&mut self) -> bool {
        let program = std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let child = Command::new(program)
            .args([
                "--bind",
                "127.0.0.1",
                "--port",
                &self.port.to_string(),
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
            ])
            .arg(self.directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("the tests need redis-server");
        self.child = Some(child);
        for _ in 0..200 {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            if let Ok(mut connection) = self.try_connection().await
                && redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    async fn try_connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
        redis::Client::open(self.url())?.get_multiplexed_async_connection_with_config(&config).await
    }

    pub async fn connection(&self) -> MultiplexedConnection {
        self.try_connection().await.unwrap()
    }

    pub async fn command(&self, words: &[&str]) -> redis::Value {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connection().await).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
