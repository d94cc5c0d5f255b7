//! Three Sentinels that watch a master and its replica, all of them real processes.

use std::{process::Command, time::Duration};

use super::{DEADLINE, Launch, Redis, Space, child::Owned, eventually, free_port, fresh, holds_within};

/// By which name they know the master.
const NAME: &str = "presence";
/// Who replicas say they are, so that a master can send them away without sending others away.
const REPLICA: [&str; 2] = ["replica", "replicates"];
/// As many must agree that a master is dead.
const QUORUM: usize = 2;

/// The Sentinels, and two servers, of which the first begins as the master.
pub struct Sentinels {
    sentinels: Vec<(Owned, u16)>,
    servers: [Redis; 2],
    _directory: tempfile::TempDir,
}

impl Sentinels {
    /// Starts everything and waits until the replica is up to date and all know each other. `second` is how the replica is started.
    pub async fn start(second: Launch) -> Self {
        let [name, password] = REPLICA;
        let launch = |mut launch: Launch| async move {
            let more = ["--repl-diskless-sync-delay", "0", "--masteruser", name, "--masterauth", password];
            launch.arguments.extend(more.map(str::to_owned));
            let server = Redis::launch(launch).await;
            admit_replica(&server).await;
            server
        };
        let (first, second) = tokio::join!(launch(Launch::default()), launch(second));
        let port = first.port().to_string();
        second.command(&["REPLICAOF", "127.0.0.1", &port]).await;
        eventually(DEADLINE, async || second.info("replication", "master_link_status").await == "up").await;
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let sentinels = (0..3).map(|number| {
            let own = free_port();
            let file = directory.path().join(format!("sentinel-{number}.conf"));
            let config = format!(
                "port {own}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {port} {QUORUM}\n\
                 sentinel down-after-milliseconds {NAME} 1500\nsentinel failover-timeout {NAME} 6000\n",
                directory.path().display()
            );
            std::fs::write(&file, config).expect("the directory is ours");
            let program = std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
            let mut command = Command::new(program);
            command.arg(&file).arg("--sentinel");
            (Owned::spawn(&mut command, "The tests need redis-server: run `make setup`."), own)
        });
        let sentinels = Self { sentinels: sentinels.collect(), servers: [first, second], _directory: directory };
        eventually(DEADLINE, async || sentinels.all_know_all().await).await;
        sentinels
    }

    /// Settings for instances that shall share one view.
    pub fn space(&self) -> Space {
        let hosts: Vec<String> = self.sentinels.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        let url = format!("redis+sentinel://{}/{NAME}", hosts.join(","));
        vec![("ROLLCALL__REDIS__URL", url), ("ROLLCALL__REDIS__PREFIX", fresh("test"))]
    }

    /// One of the two servers.
    pub fn server(&self, place: usize) -> &Redis {
        &self.servers[place]
    }

    /// One of the two servers, to be stopped or started again.
    pub fn server_mut(&mut self, place: usize) -> &mut Redis {
        &mut self.servers[place]
    }

    /// From now on the replica of this master gets nothing new.
    pub async fn lag(&self, master: usize) {
        self.servers[master].command(&["ACL", "SETUSER", REPLICA[0], "off"]).await;
        self.servers[master].command(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    }

    /// Starts a server that was killed: the Sentinels make it a replica of the other, and it comes up to date.
    pub async fn start_again(&mut self, place: usize) {
        self.servers[place].start_again().await;
        let server = &self.servers[place];
        admit_replica(server).await;
        let is_replica =
            async || server.replicates("role", "slave").await && server.replicates("master_link_status", "up").await;
        eventually(2 * DEADLINE, is_replica).await;
    }

    /// Asks one Sentinel.
    async fn ask(port: u16, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    }

    async fn all_know_all(&self) -> bool {
        for (_, port) in &self.sentinels {
            let Ok(known) = Self::ask(*port, &["SENTINEL", "SENTINELS", NAME]).await else { return false };
            let Ok(replicas) = Self::ask(*port, &["SENTINEL", "REPLICAS", NAME]).await else { return false };
            let count = |value: redis::Value| value.into_sequence().map_or(0, |list| list.len());
            if (count(known), count(replicas)) != (self.sentinels.len() - 1, 1) {
                return false;
            }
        }
        true
    }

    /// The place of the master that all of them name, if they agree.
    pub async fn master(&self) -> Option<usize> {
        let mut named = None;
        for (_, port) in &self.sentinels {
            let answer = Self::ask(*port, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await.ok()?;
            let (_, port): (String, u16) = redis::from_redis_value(answer).ok()?;
            let place = self.servers.iter().position(|server| server.port() == port)?;
            if named.is_some_and(|named| named != place) {
                return None;
            }
            named = Some(place);
        }
        named
    }

    /// Waits until all of them name this master, and it is one.
    pub async fn until_master(&self, place: usize) {
        let promoted = holds_within(DEADLINE, async || {
            self.master().await == Some(place) && self.servers[place].replicates("role", "master").await
        });
        promoted.await.unwrap_or_else(|| panic!("server {place} has not become the master"));
    }

    /// Gives a replica the place of the master, though nobody is dead. A Sentinel may give up on the way and is asked again.
    pub async fn promote(&self, place: usize) {
        let (_, asked) = &self.sentinels[0];
        let named = async || {
            let answer = Self::ask(*asked, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await.ok()?;
            redis::from_redis_value::<(String, u16)>(answer).ok().map(|(_, port)| port)
        };
        eventually(3 * DEADLINE, async || {
            if named().await == Some(self.servers[place].port()) {
                return true;
            }
            // Refused while it is at it, or has been a moment ago.
            let _ = Self::ask(*asked, &["SENTINEL", "FAILOVER", NAME]).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            false
        })
        .await;
        self.until_master(place).await;
    }
}

/// Lets the other server replicate this one, under the name by which that is forbidden later.
async fn admit_replica(server: &Redis) {
    let [name, password] = REPLICA;
    let password = format!(">{password}");
    let user = ["ACL", "SETUSER", name, "on", &password, "+psync", "+replconf", "+ping"];
    // A Sentinel may just be closing the connections of a server that it has found again.
    eventually(DEADLINE, async || server.try_command(&user).await.is_ok()).await;
}
