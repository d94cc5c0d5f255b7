//! Somebody who watches people wherever they are, by name or all there are, wherever it can, and remembers what it was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{
    harness::{
        Client, token,
        truth::{History, Told},
    },
    world::{ONLINE, PLACES, World},
};

/// How long one try to come back may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whom somebody watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    ByName,
    Everybody,
}

pub struct Lookout {
    world: Arc<World>,
    sight: Sight,
    people: BTreeSet<String>,
    place: usize,
    client: Client,
    /// How many of the client's frames are in the history.
    read: usize,
    /// How everybody is, as the last frame said who named them.
    shown: BTreeMap<String, bool>,
    /// Who was shown over this socket already.
    met: BTreeSet<String>,
    /// A list of which there is more.
    pages: Option<BTreeSet<String>>,
    history: History,
}

impl Lookout {
    pub async fn begin(world: &Arc<World>, place: usize, sight: Sight, people: BTreeSet<String>) -> Self {
        let client = Self::try_on(&world.door(Some(place)).1, sight, &people).await.expect("nothing is broken yet");
        let history = History {
            name: format!("lookout-{place}-{sight:?}"),
            by_user: true,
            channels: [ONLINE.to_owned()].into(),
            away: vec![(0, world.now() + 1_000)],
            ..History::default()
        };
        Self {
            world: world.clone(),
            sight,
            people,
            place,
            client,
            read: 0,
            shown: BTreeMap::new(),
            met: BTreeSet::new(),
            pages: None,
            history,
        }
    }

    /// A socket that watches, of somebody who is nowhere.
    async fn try_on(url: &str, sight: Sight, people: &BTreeSet<String>) -> Option<Client> {
        let watch = match sight {
            Sight::ByName => json!({"op": "watch", "users": people}),
            Sight::Everybody => json!({"op": "watch", "all_users": true}),
        };
        let opening = async {
            let client = Client::try_connect(url, "rollcall.v1", &[]).await.ok()?;
            let hello = json!({"op": "hello", "token": token("lookout", json!({})), "present": false});
            client.op(hello).await.ok()?;
            client.op(watch).await.ok()?;
            Some(client)
        };
        timeout(PATIENCE, opening).await.ok().flatten()
    }

    /// Until the end of the world: what it was told, and who is online as it sees it then.
    pub async fn watch(mut self) -> (History, BTreeSet<String>) {
        let mut asked = Instant::now();
        while !self.world.is_over() {
            self.note();
            let mut is_gone = self.client.closed().is_some();
            // A process that stands still says nothing.
            if !is_gone && asked.elapsed() > Duration::from_secs(2) {
                is_gone = timeout(PATIENCE, self.client.ping()).await.is_err();
                asked = Instant::now();
            }
            if is_gone {
                self.come_back().await;
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.note();
        let online = self.shown.into_iter().filter(|(_, is_online)| *is_online).map(|(user, _)| user).collect();
        (self.history, online)
    }

    async fn come_back(&mut self) {
        let away = self.world.now();
        self.client.drop_socket().await;
        self.note();
        loop {
            let (_, url) = self.world.door(Some(self.place));
            if let Some(client) = Self::try_on(&url, self.sight, &self.people).await {
                (self.client, self.read) = (client, 0);
                break;
            }
            self.place = (self.place + 1) % PLACES;
            sleep(Duration::from_millis(200)).await;
        }
        self.met.clear();
        self.pages = None;
        self.history.away.push((away, self.world.now() + 1_000));
    }

    /// Puts what has come into the history.
    fn note(&mut self) {
        let received = self.client.received();
        for one in received[self.read..].iter().filter(|one| one.frame["event"] == "users") {
            let at = self.world.at(one.at);
            let entry = |entry: &Value| {
                let user = entry["user"].as_str().expect("a user").to_owned();
                (user, entry["status"].as_str().expect("a status") != "offline")
            };
            let entries = one.frame["users"].as_array().expect("a list").iter().map(entry);
            let entries: Vec<(String, bool)> = entries.filter(|(user, _)| self.people.contains(user)).collect();
            if one.frame["all_users"] != true {
                for (user, is_online) in entries {
                    let is_first = self.sight == Sight::ByName && self.met.insert(user.clone());
                    self.tell(at, user, is_online, is_first);
                }
                continue;
            }
            // The list as a whole, in which only those are who are online, and who went meanwhile.
            let pages = self.pages.get_or_insert_default();
            for (user, is_online) in entries {
                if is_online {
                    pages.insert(user);
                } else {
                    pages.remove(&user);
                }
            }
            if one.frame["more"] == false {
                let online = self.pages.take().unwrap_or_default();
                for user in self.people.clone() {
                    let is_online = online.contains(&user);
                    self.tell(at, user, is_online, true);
                }
            }
        }
        self.read = received.len();
    }

    fn tell(&mut self, at: u64, user: String, is_online: bool, whole: bool) {
        let before = self.shown.insert(user.clone(), is_online).unwrap_or(false);
        if before != is_online {
            let channel = ONLINE.to_owned();
            self.history.told.push(Told { at, channel, who: user, shown: is_online, whole, reason: None });
        }
    }
}
