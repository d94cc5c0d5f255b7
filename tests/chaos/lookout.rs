//! Who watches people wherever they are: one by name, one everybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::json;
use tokio::time::Instant;

use super::{
    harness::{Client, Farewell, token},
    stage::{GRACE, SLACK},
};

/// Somebody was shown to come online, or to go offline.
#[derive(Debug, Clone)]
struct Turn {
    at: Instant,
    user: String,
    is_online: bool,
}

/// The two of them.
pub struct Lookouts {
    people: BTreeSet<String>,
    clients: [Client; 2],
}

impl Lookouts {
    /// One at each of two addresses, who look for these people.
    pub async fn post(urls: [&str; 2], people: impl IntoIterator<Item = String>) -> Self {
        let people: BTreeSet<String> = people.into_iter().collect();
        let watches = [json!({"op": "watch", "users": people}), json!({"op": "watch", "all_users": true})];
        let [by_name, everybody] = [0, 1].map(|one| {
            let (url, watch) = (urls[one], watches[one].clone());
            async move {
                let client = Client::connect(url).await;
                let hello = json!({"op": "hello", "token": token("lookout", json!({})), "present": false});
                client.op(hello).await.expect("nothing is broken yet");
                client.op(watch).await.expect("nothing is broken yet");
                client
            }
        });
        let (by_name, everybody) = tokio::join!(by_name, everybody);
        Self { people, clients: [by_name, everybody] }
    }

    /// Waits until both see that these are online, of those whom they look for, and nobody else.
    #[track_caller]
    pub fn until_online(&self, online: &[String]) -> impl Future<Output = ()> {
        let online: BTreeSet<String> = online.iter().cloned().collect();
        async move {
            for client in &self.clients {
                client.until("who is online", |client| self.online(client) == online).await;
            }
        }
    }

    /// Waits until both see that somebody is online.
    pub async fn until_sees(&self, user: &str) {
        for client in &self.clients {
            client.until(user, |client| self.online(client).contains(user)).await;
        }
    }

    /// Both were told since then that these went offline, each once and not before the time, and were told of nobody else. Returns how long after
    /// leaving or `returned`, whichever was later, that was.
    pub fn assert_told(&self, since: Instant, left: &[Farewell], returned: Instant) -> Vec<Duration> {
        let mut late = Vec::new();
        for (client, who) in self.clients.iter().zip(["by name", "everybody"]) {
            let mut expected: BTreeMap<&str, &Farewell> = left.iter().map(|one| (&*one.user, one)).collect();
            for turn in self.turns(client).into_iter().filter(|turn| turn.at >= since) {
                let Some(farewell) = expected.remove(&*turn.user).filter(|_| !turn.is_online) else {
                    panic!("who watches {who} was told of {turn:?}, who has done nothing, or was told of it before");
                };
                let after = turn.at.saturating_duration_since(farewell.at);
                assert!(farewell.said || after + SLACK >= GRACE, "{turn:?} after {after:?}: {farewell:?}");
                let grace = if farewell.said { Duration::ZERO } else { GRACE };
                late.push(turn.at.saturating_duration_since((farewell.at + grace).max(returned)));
            }
            assert!(expected.is_empty(), "who watches {who} was never told of {:?}", expected.keys());
            assert!(client.closed().is_none(), "the socket of who watches {who} has stayed");
        }
        late
    }

    /// Neither was ever told that one of these went offline.
    pub fn assert_none_went_offline(&self, people: &[String]) {
        for client in &self.clients {
            let gone: Vec<_> = self.turns(client).into_iter().filter(|turn| !turn.is_online).collect();
            let wrong: Vec<_> = gone.iter().filter(|turn| people.contains(&turn.user)).collect();
            assert!(wrong.is_empty(), "{wrong:?}");
        }
    }

    fn online(&self, client: &Client) -> BTreeSet<String> {
        let mut online = BTreeSet::new();
        for turn in self.turns(client) {
            if turn.is_online {
                online.insert(turn.user);
            } else {
                online.remove(&turn.user);
            }
        }
        online
    }

    /// Who came online and went offline, as somebody saw it who shows what the frames say.
    fn turns(&self, client: &Client) -> Vec<Turn> {
        let (mut turns, mut shown) = (Vec::new(), BTreeSet::new());
        let mut pages: Option<BTreeSet<String>> = None;
        for received in client.events("users") {
            let mut tell = |user: &str, is_online: bool| {
                let is_news = if is_online { shown.insert(user.to_owned()) } else { shown.remove(user) };
                if is_news {
                    turns.push(Turn { at: received.at, user: user.to_owned(), is_online });
                }
            };
            let is_list = received.frame["all_users"] == true;
            for entry in received.frame["users"].as_array().into_iter().flatten() {
                let (user, is_online) = (entry["user"].as_str().expect("a user"), entry["status"] != "offline");
                match (self.people.contains(user), is_list) {
                    (false, _) => {}
                    (true, false) => tell(user, is_online),
                    (true, true) if is_online => drop(pages.get_or_insert_default().insert(user.to_owned())),
                    (true, true) => drop(pages.get_or_insert_default().remove(user)),
                }
            }
            if is_list && received.frame["more"] == false {
                let online = pages.take().unwrap_or_default();
                self.people.iter().for_each(|user| tell(user, online.contains(user)));
            }
        }
        turns
    }
}
