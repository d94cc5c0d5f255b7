//! What the scenarios share: instances over one Redis with the times of the defaults, witnesses on each, and a crowd of whom some leave for good.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use super::harness::{
    Crowd, Doors, Farewell, Instance, Level, Person, Plan, Proxy, Redis, Space, Told, eventually, free_port,
};

pub const SECOND: Duration = Duration::from_secs(1);
/// The defaults.
pub const RENEW: Duration = Duration::from_secs(3);
pub const LEASE: Duration = Duration::from_secs(10);
pub const GRACE: Duration = Duration::from_secs(15);
/// Within this after the kill of an instance who does not come back has left.
pub const LOST_WITHIN: Duration = Duration::from_secs(25);
/// Within this after the return of Redis the living are shown.
pub const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// By so much a moment that a test took may be off, on a machine that has other things to do.
pub const SLACK: Duration = Duration::from_millis(500);

/// Somebody was told of a leave.
#[derive(Debug, Clone)]
pub struct Heard {
    pub left: Instant,
    /// Whether the service had heard a goodbye.
    pub said: bool,
    pub told: Instant,
    pub reason: String,
}

impl Heard {
    /// From leaving to being told.
    pub fn after(&self) -> Duration {
        self.told.saturating_duration_since(self.left)
    }
}

/// From leaving to being told, of each.
pub fn times(heard: &[Heard]) -> Vec<Duration> {
    heard.iter().map(Heard::after).collect()
}

/// Instances of one cluster, each of which can be killed and started again at its address.
pub struct Stage<R = Redis> {
    pub witnesses: Vec<Person>,
    pub instances: Vec<Instance>,
    settings: Vec<Space>,
    /// Between each instance and Redis, where the stage was set with links.
    pub links: Vec<Proxy>,
    pub redis: R,
    pub doors: Doors,
}

impl Stage {
    /// So many instances, directly at Redis.
    pub async fn set(count: usize) -> Self {
        let redis = Redis::start().await;
        let url = redis.url();
        Self::set_over(redis, vec![url; count], Vec::new(), &[]).await
    }

    /// The same with further settings.
    pub async fn set_with(count: usize, settings: &[(&'static str, String)]) -> Self {
        let redis = Redis::start().await;
        let url = redis.url();
        Self::set_over(redis, vec![url; count], Vec::new(), settings).await
    }

    /// So many instances at this Redis, each over a link of its own.
    pub async fn set_with_links(count: usize, redis: Redis) -> Self {
        let links = join_all((0..count).map(|_| Proxy::start(redis.port()))).await;
        let urls = links.iter().map(Proxy::redis_url).collect();
        Self::set_over(redis, urls, links, &[]).await
    }

    async fn set_over(redis: Redis, urls: Vec<String>, links: Vec<Proxy>, more: &[(&'static str, String)]) -> Self {
        let prefix = redis.space().pop().expect("a space has a prefix");
        let spaces = urls.into_iter().map(|url| vec![("ROLLCALL__REDIS__URL", url), prefix.clone()]).collect();
        Self::set_in(redis, spaces, links, more).await
    }
}

impl<R> Stage<R> {
    /// An instance in each of these spaces, over whatever stands behind them.
    pub async fn set_in(redis: R, spaces: Vec<Space>, links: Vec<Proxy>, more: &[(&'static str, String)]) -> Self {
        let settings: Vec<Space> = spaces
            .into_iter()
            .map(|mut settings| {
                settings.extend([
                    ("ROLLCALL__SERVER__LISTEN", format!("127.0.0.1:{}", free_port())),
                    // Everybody comes from this machine.
                    ("ROLLCALL__LIMITS__CONNECTIONS_PER_ADDRESS", "100000".to_owned()),
                ]);
                settings.extend_from_slice(more);
                settings
            })
            .collect();
        let instances = join_all(settings.iter().map(|settings| Instance::start(settings))).await;
        let doors = Doors::new(instances.iter().map(Instance::url));
        Self { witnesses: Vec::new(), instances, settings, links, redis, doors }
    }

    /// Two witnesses of these channels on each of these instances: one sees users, one connections.
    pub async fn witness(&mut self, places: &[usize], channels: &[String]) {
        for place in places {
            for level in [Level::Users, Level::Connections] {
                let plan = Plan::watching(format!("witness/{place}/{}", level.as_str()), channels, level);
                let url = self.instances[*place].url();
                self.witnesses.push(Person::come_at(&url, &self.doors, plan).await);
            }
        }
    }

    /// The name of a key in Redis, of the only partition there is.
    pub fn key(&self, name: &str) -> String {
        format!("{}:{{0}}:{name}", self.settings[0][1].1)
    }

    /// Starts the instance of a place again, at its address, and waits until it is ready.
    pub async fn start_again(&mut self, place: usize) {
        self.instances[place] = Instance::start(&self.settings[place]).await;
    }

    /// Everybody has come, and every witness has seen it. From here on what they are told counts.
    pub async fn curtain(&self, crowd: &Crowd, channels: &[String]) -> Instant {
        self.until_all_is_equal(crowd, channels, 30 * SECOND).await;
        Instant::now()
    }

    /// Waits until every view, and REST of every instance, shows exactly the living in every channel, by users and by connections.
    pub async fn until_all_is_equal(&self, crowd: &Crowd, channels: &[String], within: Duration) {
        for channel in channels {
            let living = crowd.living(channel);
            let counts = json!({"users": living.len(), "connections": living.len()});
            let watches = |person: &&Person| person.plan().watches.iter().any(|(watched, _)| watched == channel);
            for person in self.watching(crowd).filter(watches) {
                let is_equal = |person: &Person| {
                    let view = person.client().view(channel);
                    view.is_some_and(|view| view.users() == living && *view.occupancy() == counts)
                };
                let came = super::harness::holds_within(within, async || is_equal(person)).await;
                let seen = person.client().users(channel);
                assert!(came.is_some(), "{} sees {seen:?} in {channel}, where {living:?} live", person.user());
            }
            for instance in &self.instances {
                let rest = instance.rest();
                eventually(within, async || {
                    rest.users_in(channel).await == living && rest.occupancy(channel).await == counts
                })
                .await;
            }
        }
    }

    /// Those who watch: the witnesses, and of the crowd who stays and watches.
    pub fn watching<'a>(&'a self, crowd: &'a Crowd) -> impl Iterator<Item = &'a Person> {
        let of_crowd = crowd.people.iter().filter(|person| person.stays() && !person.plan().watches.is_empty());
        self.witnesses.iter().chain(of_crowd)
    }

    /// Waits until every witness was told of all who left, at most until `end`.
    pub async fn until_told(&self, since: Instant, left: &[Farewell], end: Instant) {
        let expected: usize = left.iter().map(|farewell| farewell.channels.len()).sum();
        for witness in &self.witnesses {
            let rest = end.saturating_duration_since(Instant::now());
            // What is wrong with it says `assert_told`.
            let _ = super::harness::holds_within(rest, async || {
                witness.told_since(since).iter().filter(|told| told.is_leave()).count() >= expected
            })
            .await;
        }
    }

    /// Whoever watches was told of these leaves and of nothing else: each once, for one of these reasons, not before its time. Returns what was
    /// heard, in each channel, by each of them who had a socket then.
    ///
    /// `snapshot` is a reason for those who were between two sockets meanwhile and had to be given the whole channel again.
    pub fn assert_told(&self, crowd: &Crowd, since: Instant, left: &[Farewell], reasons: &[&str]) -> Vec<Heard> {
        self.watching(crowd).flat_map(|person| assert_told(person, since, left, reasons)).collect()
    }

    pub fn assert_no_panic(&self) {
        self.instances.iter().for_each(Instance::assert_no_panic);
    }
}

fn assert_told(person: &Person, since: Instant, left: &[Farewell], reasons: &[&str]) -> Vec<Heard> {
    let (who, client) = (person.user(), person.client());
    let mut expected: BTreeMap<(String, String), &Farewell> = BTreeMap::new();
    for farewell in left {
        for channel in farewell.channels.iter().filter(|channel| client.view(channel).is_some()) {
            expected.insert((channel.clone(), farewell.user.clone()), farewell);
        }
    }
    let mut all = Vec::new();
    for Told { at, channel, user, what } in person.told_since(since) {
        let Some(farewell) = expected.remove(&(channel.clone(), user.clone())) else {
            panic!("{who} was told `{what}` of {user} in {channel}, who has done nothing, or was told of it before");
        };
        assert!(reasons.contains(&&*what), "{who} was told `{what}` of {user} in {channel}: {farewell:?}");
        let heard = Heard { left: farewell.at, said: farewell.said, told: at, reason: what };
        let after = heard.after();
        if !farewell.said {
            assert!(after + SLACK >= GRACE, "{who} was told after {after:?} that {user} had left {channel}");
        }
        // Who was between two sockets heard of it as soon as there was one again.
        let visits = person.visits();
        let was_there = visits.iter().all(|visit| at < visit.broke_at || at > visit.back_at + SECOND);
        if was_there {
            all.push(heard);
        }
    }
    let untold: Vec<_> = expected.keys().collect();
    assert!(untold.is_empty(), "{who} was never told of {untold:?}");
    all
}

/// Names of some channels with both separators.
pub fn rooms(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{}{number}", if number % 2 == 0 { "room:" } else { "hall/" })).collect()
}

/// So many people, spread evenly over the channels; every `watching`-th of them watches too.
pub fn people(count: usize, channels: &[String], watching: usize) -> Vec<Plan> {
    (0..count)
        .map(|number| {
            let channel = &channels[number % channels.len()];
            let mut plan = Plan::present(format!("person/{number:04}"), std::slice::from_ref(channel));
            if number % watching == 0 {
                plan.watches.push((channel.clone(), Level::Users));
            }
            plan
        })
        .collect()
}
