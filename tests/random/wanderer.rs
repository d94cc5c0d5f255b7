//! One person on one device who does things at random and writes the diary.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rand::{RngExt as _, rngs::StdRng};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    CHANNELS, GRACE, World,
    harness::{Client, Level, Rest, eventually, segment, token},
};

/// Two changes of one user are at least this far apart, so that no tick can net them to nothing.
const APART: Duration = Duration::from_millis(120);

pub struct Wanderer {
    world: Arc<World>,
    user: &'static str,
    client: Client,
    random: StdRng,
    joined: BTreeSet<&'static str>,
    deeds: u64,
}

impl Wanderer {
    pub async fn start(world: Arc<World>, user: &'static str, place: usize, random: StdRng) -> Self {
        let client = Client::hello_as(&world.urls[place], user).await;
        Self { world, user, client, random, joined: BTreeSet::new(), deeds: 0 }
    }

    /// Until the end of the world; the client is left as it is then.
    pub async fn wander(mut self) -> Client {
        while Instant::now() < self.world.end {
            self.deeds += 1;
            match self.random.random_range(0..100) {
                0..30 => self.join().await,
                30..48 => self.leave().await,
                48..62 => self.update().await,
                62..80 => self.break_and_resume().await,
                80..86 => self.break_for_good().await,
                86..91 => self.say_goodbye().await,
                _ => self.watch_anew().await,
            }
            let pause = self.random.random_range(0..250);
            sleep(Duration::from_millis(pause)).await;
        }
        self.assert_snapshots().await;
        self.client
    }

    fn channel(&mut self) -> &'static str {
        CHANNELS[self.random.random_range(0..CHANNELS.len())]
    }

    fn place(&mut self) -> String {
        self.world.urls[self.random.random_range(0..2)].clone()
    }

    fn write(&self, channel: &str, what: &'static str, begun: Instant) {
        self.world.diary.lock().unwrap().write(channel, self.user, &self.client.connection(), what, begun);
    }

    fn count(&self, what: &'static str) {
        self.world.diary.lock().unwrap().count(what);
    }

    async fn join(&mut self) {
        let channel = self.channel();
        let state = json!({"deed": self.deeds, "tags": [], "nothing": null});
        let watching = self.random.random_bool(0.5);
        let world = self.world.clone();
        let _turn = world.turns[self.user].lock().await;
        let begun = Instant::now();
        let joined = if watching {
            self.client.join_watching(channel, state).await
        } else {
            self.client.join(channel, state).await
        };
        joined.unwrap_or_else(|error| panic!("join of {channel}: {error:?}"));
        self.joined.insert(channel);
        self.write(channel, "join", begun);
        sleep(APART).await;
    }

    async fn leave(&mut self) {
        let channel = self.channel();
        let world = self.world.clone();
        let _turn = world.turns[self.user].lock().await;
        let begun = Instant::now();
        let left = self.client.leave(channel).await;
        if !self.joined.remove(channel) {
            left.expect_err("nobody leaves where they are not");
            return;
        }
        left.unwrap_or_else(|error| panic!("leave of {channel}: {error:?}"));
        self.write(channel, "left", begun);
        sleep(APART).await;
    }

    async fn update(&mut self) {
        let channel = self.channel();
        let updated = self.client.update(channel, json!({"deed": self.deeds, "mood": "new"})).await;
        assert_eq!(updated.is_ok(), self.joined.contains(channel), "{updated:?}");
        if updated.is_ok() {
            self.count("update");
        }
    }

    /// Nothing happens by it, to nobody.
    async fn break_and_resume(&mut self) {
        self.assert_snapshots().await;
        let place = self.place();
        let away = self.random.random_range(0..GRACE.as_millis() as u64 / 2);
        let connection = self.client.connection();
        self.client.drop_socket().await;
        sleep(Duration::from_millis(away)).await;
        // The old one has no socket any more; a client in its place takes its views and its token along.
        let stub = Client::connect(&place).await;
        let broken = std::mem::replace(&mut self.client, stub);
        self.client = broken.resume_on(&place, &token(self.user, json!({}))).await;
        let welcome = self.client.welcome();
        assert_eq!(welcome["resumed"], true, "after {away} ms: {welcome}");
        assert_eq!(welcome["connection"], connection);
        let channels: BTreeSet<_> =
            welcome["channels"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(channels, self.joined, "where {} is", self.user);
        self.count("resume");
    }

    /// The end of the grace is the end of the connection.
    async fn break_for_good(&mut self) {
        self.assert_snapshots().await;
        let world = self.world.clone();
        let _ending = world.endings[self.user].lock().await;
        self.client.drop_socket().await;
        let broken = Instant::now();
        // Nobody else of this user comes or goes while the end is near.
        sleep_until(broken + GRACE - Duration::from_millis(600)).await;
        let _turn = world.turns[self.user].lock().await;
        assert!(broken.elapsed() < GRACE - Duration::from_millis(50), "the turn came too late to know what came first");
        self.until_gone(GRACE + Duration::from_secs(1) - broken.elapsed()).await;
        for channel in std::mem::take(&mut self.joined) {
            self.write(channel, "timeout", broken + GRACE - Duration::from_millis(50));
        }
        self.begin_anew().await;
    }

    async fn say_goodbye(&mut self) {
        self.assert_snapshots().await;
        let world = self.world.clone();
        let _turn = world.turns[self.user].lock().await;
        let begun = Instant::now();
        self.client.bye().await.unwrap();
        self.until_gone(Duration::from_secs(1)).await;
        for channel in std::mem::take(&mut self.joined) {
            self.write(channel, "left", begun);
        }
        self.begin_anew().await;
    }

    async fn begin_anew(&mut self) {
        let place = self.place();
        self.client = Client::hello_as(&place, self.user).await;
        sleep(APART).await;
    }

    /// REST lists the connection no more; it goes out of the channels first.
    async fn until_gone(&self, within: Duration) {
        let (connection, path) = (self.client.connection(), format!("/v1/users/{}", segment(self.user)));
        let rest = Rest::new(&self.world.urls[0]);
        eventually(within, async || {
            let user = rest.get(&path).await.ok();
            user["connections"].as_array().unwrap().iter().all(|one| one["connection"] != connection.as_str())
        })
        .await;
    }

    async fn watch_anew(&mut self) {
        let channel = self.channel();
        if self.client.view(channel).is_some() {
            self.assert_snapshots().await;
            self.client.unwatch(channel).await.unwrap();
        } else {
            self.client.watch(channel, Level::Users).await.unwrap();
        }
    }

    /// Each watch has brought one snapshot, but those that said `since`: what they had missed was known and came as a delta, if it was anything.
    async fn assert_snapshots(&self) {
        let has_come = |client: &Client| {
            let mut views = client.views().into_values();
            views.all(|view| view.watches.last().is_some_and(|watch| watch.since || watch.snapshots > 0))
        };
        self.client.until("the snapshot of each watch", has_come).await;
        for (channel, view) in self.client.views() {
            for watch in &view.watches {
                let expected = usize::from(!watch.since);
                assert_eq!(watch.snapshots, expected, "{} in {channel}: {:?}", self.user, view.watches);
                assert!(watch.causes.iter().all(Option::is_none), "{:?}", view.watches);
            }
        }
    }
}
