//! Somebody who watches every channel wherever it can, and remembers what it was told. That each frame follows on the one before the client itself checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    harness::{
        Client, Level, View, token,
        truth::{History, Told},
    },
    world::{CHANNELS, World},
};

/// How long one try to come back may take.
const PATIENCE: Duration = Duration::from_secs(3);

pub struct Watcher {
    world: Arc<World>,
    place: usize,
    client: Client,
    /// How many of the client's frames are in the history.
    read: usize,
    shown: BTreeMap<String, BTreeSet<String>>,
    pages: BTreeMap<String, BTreeSet<String>>,
    history: History,
}

impl Watcher {
    pub async fn begin(world: &Arc<World>, place: usize, level: Level) -> Self {
        let name = format!("watcher-{place}-{}", level.as_str());
        let client = Client::hello_as(&world.door(Some(place)).1, &name).await;
        for channel in CHANNELS {
            client.watch(channel, level).await.unwrap_or_else(|error| panic!("watch {channel}: {error:?}"));
        }
        let history = History {
            name,
            by_user: level == Level::Users,
            away: vec![(0, world.now() + 1_000)],
            ..History::default()
        };
        Self { world: world.clone(), place, client, read: 0, shown: BTreeMap::new(), pages: BTreeMap::new(), history }
    }

    /// Until the end of the world: what it was told, and what it sees then.
    pub async fn watch(mut self) -> (History, BTreeMap<String, View>) {
        let mut asked = Instant::now();
        while !self.world.is_over() {
            self.note();
            // A process that stands still says nothing, which somebody who waits for news has to ask for.
            let mut is_gone = self.client.closed().is_some();
            if !is_gone && asked.elapsed() > Duration::from_secs(2) {
                is_gone = tokio::time::timeout(PATIENCE, self.client.ping()).await.is_err();
                asked = Instant::now();
            }
            if is_gone {
                self = self.come_back().await;
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.note();
        let views = self.client.views();
        (self.history, views)
    }

    async fn come_back(mut self) -> Self {
        let away = self.world.now();
        self.client.drop_socket().await;
        self.note();
        let token = token(&self.history.name, json!({}));
        loop {
            let (_, url) = self.world.door(Some(self.place));
            let resume = self.client.resume_token();
            let Self { world, place, client, shown, pages, history, .. } = self;
            match client.try_again_on(&url, &token, Some(&resume), PATIENCE).await {
                Ok(client) => {
                    self = Self { world, place, client, read: 0, shown, pages, history };
                    break;
                }
                Err(client) => self = Self { world, place, client, read: 0, shown, pages, history },
            }
            // What the old one had is in the history already.
            self.read = self.client.received().len();
            self.place = (self.place + 1) % super::world::PLACES;
            sleep(Duration::from_millis(200)).await;
        }
        let back = self.world.now() + 1_000;
        self.history.away.push((away, back));
        self
    }

    /// Puts what has come into the history.
    fn note(&mut self) {
        let received = self.client.received();
        let key = if self.history.by_user { "user" } else { "connection" };
        for one in &received[self.read.min(received.len())..] {
            let Some(channel) = one.frame["channel"].as_str().map(str::to_owned) else { continue };
            let at = self.world.at(one.at);
            let name = |entry: &serde_json::Value| entry[key].as_str().expect("a name").to_owned();
            let list = |kind: &str| one.frame[kind].as_array().cloned().unwrap_or_default();
            let shown = self.shown.entry(channel.clone()).or_default();
            let mut tell = |who: &str, shown: bool, whole: bool, reason: Option<String>| {
                let (channel, who) = (channel.clone(), who.to_owned());
                self.history.told.push(Told { at, channel, who, shown, whole, reason });
            };
            match one.frame["event"].as_str() {
                Some("snapshot") => {
                    let pages = self.pages.entry(channel.clone()).or_default();
                    pages.extend(list("members").iter().map(name));
                    // Where there is no list nothing is told of anybody.
                    if one.frame["more"] == false && one.frame["mode"] != "occupancy" {
                        let now = std::mem::take(pages);
                        shown.difference(&now).for_each(|who| tell(who, false, true, None));
                        now.difference(shown).for_each(|who| tell(who, true, true, None));
                        *shown = now;
                    }
                }
                Some("delta") => {
                    for leave in list("leave") {
                        shown.remove(&name(&leave));
                        tell(&name(&leave), false, false, leave["reason"].as_str().map(str::to_owned));
                    }
                    for join in list("join") {
                        shown.insert(name(&join));
                        tell(&name(&join), true, false, None);
                    }
                }
                _ => {}
            }
        }
        self.read = received.len();
    }
}
