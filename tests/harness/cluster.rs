//! A Redis Cluster of real processes: masters with a third of the slots each, and a replica for every master.

use std::time::Duration;

use super::{DEADLINE, Launch, Redis, Space, eventually, free_port, fresh};

/// How many masters there are; as many replicas.
const MASTERS: usize = 3;
const SLOTS: usize = 16_384;
/// How long a node may be silent before the others call it dead, milliseconds.
const NODE_TIMEOUT: &str = "2000";

/// Six nodes. The first three begin as masters; the replica of node `n` begins as node `n + 3`.
pub struct Cluster {
    nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts the nodes, joins them and waits until all agree.
    pub async fn start(launch: &Launch) -> Self {
        let starting = (0..2 * MASTERS).map(|_| async {
            let mut launch = launch.clone();
            // The usual bus port would be ten thousand above the other, which free ports have no room for.
            let bus = free_port().to_string();
            launch.arguments.extend(
                ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", &bus]
                    .map(str::to_owned),
            );
            launch.arguments.extend(
                ["--cluster-node-timeout", NODE_TIMEOUT, "--cluster-replica-validity-factor", "0"].map(str::to_owned),
            );
            // A replica comes up to date within a moment, without a file in between.
            launch.arguments.extend(["--repl-diskless-sync-delay", "0"].map(str::to_owned));
            Redis::launch(launch).await
        });
        let cluster = Self { nodes: futures_util::future::join_all(starting).await };
        for (place, node) in cluster.nodes.iter().enumerate() {
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]).await;
            if place < MASTERS {
                let (from, to) = (place * SLOTS / MASTERS, (place + 1) * SLOTS / MASTERS - 1);
                node.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]).await;
            }
            for other in &cluster.nodes[..place] {
                let bus: String = other.bus().await;
                node.command(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string(), &bus]).await;
            }
        }
        eventually(DEADLINE, async || cluster.all_know_all().await).await;
        for place in 0..MASTERS {
            let master = cluster.id(place).await;
            let replica = &cluster.nodes[MASTERS + place];
            eventually(DEADLINE, async || replica.try_command(&["CLUSTER", "REPLICATE", &master]).await.is_ok()).await;
        }
        eventually(DEADLINE, async || cluster.is_whole().await).await;
        cluster
    }

    /// Settings for instances that shall share one view.
    pub fn space(&self) -> Space {
        let ports = self.nodes.iter().take(2).map(|node| format!("127.0.0.1:{}", node.port()));
        let url = format!("redis+cluster://{}", ports.collect::<Vec<_>>().join(","));
        vec![("ROLLCALL__REDIS__URL", url), ("ROLLCALL__REDIS__PREFIX", fresh("test"))]
    }

    /// The node at a place.
    pub fn node(&self, place: usize) -> &Redis {
        &self.nodes[place]
    }

    /// The node at a place, to be stopped or frozen.
    pub fn node_mut(&mut self, place: usize) -> &mut Redis {
        &mut self.nodes[place]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    async fn id(&self, place: usize) -> String {
        self.nodes[place].text(&["CLUSTER", "MYID"]).await
    }

    /// The slot of a key.
    pub async fn slot(&self, key: &str) -> u16 {
        let slot = self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]).await;
        redis::from_redis_value(slot).expect("a slot is a number")
    }

    /// The place of the master that has a slot, as the node at `asked` sees it.
    pub async fn master_of(&self, slot: u16, asked: usize) -> Option<usize> {
        let ranges: Vec<Vec<redis::Value>> =
            redis::from_redis_value(self.nodes[asked].try_command(&["CLUSTER", "SLOTS"]).await.ok()?).ok()?;
        let port = ranges.into_iter().find_map(|range| {
            let number = |at: usize| redis::from_redis_value::<u16>(range[at].clone()).ok();
            let master: Vec<redis::Value> = redis::from_redis_value(range[2].clone()).ok()?;
            let port = redis::from_redis_value::<u16>(master[1].clone()).ok()?;
            (number(0)?..=number(1)?).contains(&slot).then_some(port)
        })?;
        self.nodes.iter().position(|node| node.port() == port)
    }

    /// Moves a slot with all that is in it, as the tools for that do: its keys go one batch after the other while clients go on.
    pub async fn move_slot(&self, slot: u16, from: usize, to: usize, pause: Duration) {
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let (from_id, to_id, number) = (self.id(from).await, self.id(to).await, slot.to_string());
        target.command(&["CLUSTER", "SETSLOT", &number, "IMPORTING", &from_id]).await;
        source.command(&["CLUSTER", "SETSLOT", &number, "MIGRATING", &to_id]).await;
        let port = target.port().to_string();
        loop {
            let keys = source.command(&["CLUSTER", "GETKEYSINSLOT", &number, "10"]).await;
            let keys: Vec<String> = redis::from_redis_value(keys).expect("keys are texts");
            if keys.is_empty() {
                break;
            }
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            source.command(&words).await;
            tokio::time::sleep(pause).await;
        }
        for node in [target, source] {
            node.command(&["CLUSTER", "SETSLOT", &number, "NODE", &to_id]).await;
        }
    }

    async fn all_know_all(&self) -> bool {
        for node in &self.nodes {
            if node.info_of_cluster("cluster_known_nodes").await != self.nodes.len().to_string() {
                return false;
            }
        }
        true
    }

    async fn is_whole(&self) -> bool {
        for (place, node) in self.nodes.iter().enumerate() {
            if node.info_of_cluster("cluster_state").await != "ok" {
                return false;
            }
            if place >= MASTERS && node.info("replication", "master_link_status").await != "up" {
                return false;
            }
        }
        true
    }

    /// Waits until a replica has been promoted in the place of a master that died, and everybody left knows.
    pub async fn promoted(&self, slot: u16, dead: usize) -> usize {
        let asked = (dead + 1) % MASTERS;
        let other = async || self.master_of(slot, asked).await.filter(|place| *place != dead);
        eventually(DEADLINE, async || other().await.is_some()).await;
        other().await.expect("a place is kept")
    }
}

impl Redis {
    async fn info_of_cluster(&self, name: &str) -> String {
        let info = self.text(&["CLUSTER", "INFO"]).await;
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {info}")).trim().to_owned()
    }

    async fn bus(&self) -> String {
        let config = self.command(&["CONFIG", "GET", "cluster-port"]).await;
        let pair: Vec<String> = redis::from_redis_value(config).expect("a setting and its value");
        pair[1].clone()
    }
}
