//! What stands behind the instances of a test that must hold over any of it.

use super::{Cluster, Launch, Redis, Space};

/// The Redis of a test: by default one server, else what `ROLLCALL_TEST_REDIS` names: `cluster`, `valkey`, or `valkey-cluster`.
pub enum Backend {
    One(Redis),
    Cluster(Cluster),
}

impl Backend {
    pub async fn start() -> Self {
        match std::env::var("ROLLCALL_TEST_REDIS").as_deref() {
            Err(_) => Self::One(Redis::start().await),
            Ok("cluster") => Self::Cluster(Cluster::start(&Launch::default()).await),
            Ok("valkey") => Self::One(Redis::launch(Launch::valkey()).await),
            Ok("valkey-cluster") => Self::Cluster(Cluster::start(&Launch::valkey()).await),
            Ok(other) => panic!("ROLLCALL_TEST_REDIS is `{other}`, and no such thing is known"),
        }
    }

    /// Settings for instances that shall share one view.
    pub fn space(&self) -> Space {
        match self {
            Self::One(redis) => redis.space(),
            Self::Cluster(cluster) => cluster.space(),
        }
    }

    /// Everything that is stored is gone.
    pub async fn flush(&self) {
        let servers = match self {
            Self::One(redis) => std::slice::from_ref(redis),
            Self::Cluster(cluster) => cluster.nodes(),
        };
        for server in servers {
            // Replicas refuse, and follow their masters.
            let _ = server.try_command(&["FLUSHALL"]).await;
        }
    }

    /// How many connections follow the feeds of this form (a glob), over all servers.
    pub async fn followers(&self, feeds: &str) -> usize {
        let (servers, command) = match self {
            Self::One(redis) => (std::slice::from_ref(redis), "CHANNELS"),
            Self::Cluster(cluster) => (cluster.nodes(), "SHARDCHANNELS"),
        };
        let mut count = 0;
        for server in servers {
            let channels: Vec<String> =
                redis::from_redis_value(server.command(&["PUBSUB", command, feeds]).await).expect("names of feeds");
            count += channels.len();
        }
        count
    }
}
