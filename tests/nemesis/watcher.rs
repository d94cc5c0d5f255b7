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
    typing::Typists,
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
    /// In which mode each channel was told last, and since when there has been no list.
    modes: BTreeMap<String, String>,
    unlisted: BTreeMap<String, u64>,
    said: Testimony,
}

/// What a watcher can say in the end.
#[derive(Default)]
pub struct Testimony {
    pub history: History,
    pub views: BTreeMap<String, View>,
    pub typists: Typists,
    /// The modes into which channels have gone.
    pub turns: Vec<String>,
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
            channels: CHANNELS.map(str::to_owned).into(),
            away: vec![(0, world.now() + 1_000)],
            ..History::default()
        };
        Self {
            world: world.clone(),
            place,
            client,
            read: 0,
            shown: BTreeMap::new(),
            pages: BTreeMap::new(),
            modes: BTreeMap::new(),
            unlisted: BTreeMap::new(),
            said: Testimony { history, ..Testimony::default() },
        }
    }

    /// Until the end of the world: what it was told, and what it sees then.
    pub async fn watch(mut self) -> Testimony {
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
        let end = self.world.now();
        for (channel, since) in std::mem::take(&mut self.unlisted) {
            self.said.history.unlisted.entry(channel).or_default().push((since, end));
        }
        self.said.views = self.client.views();
        self.said
    }

    async fn come_back(mut self) -> Self {
        let away = self.world.now();
        self.client.drop_socket().await;
        self.note();
        // What others are typing holds as long as the socket.
        self.said.typists.forget();
        let token = token(&self.said.history.name, json!({}));
        loop {
            let (_, url) = self.world.door(Some(self.place));
            let resume = self.client.resume_token();
            match self.client.try_again_on(&url, &token, Some(&resume), PATIENCE).await {
                Ok(client) => {
                    (self.client, self.read) = (client, 0);
                    break;
                }
                Err(client) => self.client = client,
            }
            self.place = (self.place + 1) % super::world::PLACES;
            sleep(Duration::from_millis(200)).await;
        }
        let back = self.world.now() + 1_000;
        self.said.history.away.push((away, back));
        self
    }

    /// Puts what has come into the history.
    fn note(&mut self) {
        let received = self.client.received();
        let history = &mut self.said.history;
        let key = if history.by_user { "user" } else { "connection" };
        for one in &received[self.read.min(received.len())..] {
            let at = self.world.at(one.at);
            if one.frame["event"] == "typing" {
                self.said.typists.hear(&one.frame, at);
                continue;
            }
            let Some(channel) = one.frame["channel"].as_str().map(str::to_owned) else { continue };
            if let Some(mode) = one.frame["mode"].as_str()
                && self.modes.insert(channel.clone(), mode.to_owned()).is_some_and(|before| before != mode)
            {
                self.said.turns.push(mode.to_owned());
            }
            let name = |entry: &serde_json::Value| entry[key].as_str().expect("a name").to_owned();
            let list = |kind: &str| one.frame[kind].as_array().cloned().unwrap_or_default();
            let shown = self.shown.entry(channel.clone()).or_default();
            let mut tell = |who: &str, shown: bool, whole: bool, reason: Option<String>| {
                let (channel, who) = (channel.clone(), who.to_owned());
                history.told.push(Told { at, channel, who, shown, whole, reason });
            };
            match one.frame["event"].as_str() {
                Some("snapshot") => {
                    let pages = self.pages.entry(channel.clone()).or_default();
                    if one.frame["mode"] == "occupancy" {
                        // Where there is no list nothing is told of anybody.
                        pages.clear();
                        self.unlisted.entry(channel).or_insert(at);
                        continue;
                    }
                    pages.extend(list("members").iter().map(name));
                    if one.frame["more"] == false {
                        let now = std::mem::take(pages);
                        shown.difference(&now).for_each(|who| tell(who, false, true, None));
                        now.difference(shown).for_each(|who| tell(who, true, true, None));
                        *shown = now;
                        if let Some(since) = self.unlisted.remove(&channel) {
                            history.unlisted.entry(channel).or_default().push((since, at));
                        }
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
