//! Two instances over one Redis.

use super::{Backend, Client, Instance, Proxy, Redis, Space};

/// Short times of presence, of the same proportions as the defaults.
pub const QUICK: [(&str, &str); 3] = [
    ("ROLLCALL__PRESENCE__SETTLE_MS", "600"),
    ("ROLLCALL__PRESENCE__INSTANCE_RENEW_MS", "300"),
    ("ROLLCALL__PRESENCE__INSTANCE_LEASE_MS", "2000"),
];

/// Two instances that share one view, over whatever `ROLLCALL_TEST_REDIS` names.
pub struct Pair {
    pub redis: Backend,
    /// What another instance needs to share the view.
    pub space: Space,
    pub one: Instance,
    pub two: Instance,
}

impl Pair {
    /// Starts both with [`QUICK`] times and with more settings, and waits until they are ready.
    pub async fn start(more: &[(&'static str, &str)]) -> Self {
        Self::start_with(&[], more).await
    }

    /// The same with more arguments after `serve`.
    pub async fn start_with(arguments: &[&str], more: &[(&'static str, &str)]) -> Self {
        let redis = Backend::start().await;
        let mut space = redis.space();
        space.extend(QUICK.iter().chain(more).map(|(name, value)| (*name, (*value).to_owned())));
        let (one, two) = tokio::join!(Instance::start_with(arguments, &space), Instance::start_with(arguments, &space));
        tokio::join!(one.ready(), two.ready());
        Self { redis, space, one, two }
    }

    /// Somebody on the first instance.
    pub async fn one(&self, user: &str) -> Client {
        Client::hello_as(&self.one.url(), user).await
    }

    /// Somebody on the second instance.
    pub async fn two(&self, user: &str) -> Client {
        Client::hello_as(&self.two.url(), user).await
    }
}

/// Two instances of which the first reaches Redis by a link that a test may break.
pub struct LinkedPair {
    pub one: Instance,
    pub link: Proxy,
    pub two: Instance,
    _redis: Redis,
}

impl LinkedPair {
    /// Starts both with [`QUICK`] times.
    pub async fn start() -> Self {
        let redis = Redis::start().await;
        let mut space = redis.space();
        space.extend(QUICK.map(|(name, value)| (name, value.to_owned())));
        let two = Instance::start(&space).await;
        let link = Proxy::start(redis.port()).await;
        for (name, value) in &mut space {
            if *name == "ROLLCALL__REDIS__URL" {
                *value = link.redis_url();
            }
        }
        let one = Instance::start(&space).await;
        Self { one, link, two, _redis: redis }
    }
}
