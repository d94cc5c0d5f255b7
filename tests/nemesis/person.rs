//! One person on one device, who does things at random as `docs/protocol.md` says, and writes the diary.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use rand::{RngExt as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{
    harness::{
        Client, OpError, token,
        truth::{Back, Sure},
    },
    world::{CHANNELS, GRACE, ONLINE, PLACES, RENEW, World},
};

/// How long a client waits for an answer before it tries elsewhere.
const PATIENCE: Duration = Duration::from_millis(6_500);
/// And for a place that it has had before: its grace runs.
const COMING: Duration = Duration::from_millis(2_500);
/// What two clocks in two processes may be apart, milliseconds.
const NEAR: u64 = 300;

/// See the module.
pub struct Person {
    world: Arc<World>,
    user: &'static str,
    chance: StdRng,
    client: Option<Client>,
    place: usize,
    /// The connection and its newest resume token.
    mine: Option<(String, String)>,
    joined: BTreeMap<&'static str, Sure>,
    /// When the socket broke, and when it was last tried to come back.
    broke: u64,
    tried: u64,
    /// Since when the instance could not say that the socket broke.
    unsaid: Option<u64>,
    /// Since when it has tried in vain.
    failed: Option<u64>,
    unsure: Option<u64>,
    deeds: u64,
}

impl Person {
    pub fn new(world: &Arc<World>, user: &'static str, chance: StdRng) -> Self {
        Self {
            world: world.clone(),
            user,
            chance,
            client: None,
            place: 0,
            mine: None,
            joined: BTreeMap::new(),
            broke: 0,
            tried: 0,
            unsaid: None,
            failed: None,
            unsure: None,
            deeds: 0,
        }
    }

    /// Until the world is calm; then comes back if it has to, and stays.
    pub async fn live(mut self) -> Self {
        while !self.world.is_calm() {
            self.deeds += 1;
            if self.client.is_none() {
                self.come().await;
            } else if self.is_cut_off() {
                self.broken().await;
            } else {
                self.act().await;
            }
            let pause = self.chance.random_range(20..700);
            sleep(Duration::from_millis(pause)).await;
        }
        loop {
            if self.is_cut_off() {
                self.broken().await;
            }
            match &self.client {
                None => self.come().await,
                Some(client) if timeout(PATIENCE, client.ping()).await.is_ok_and(|answer| answer.is_ok()) => {
                    // That it is over nobody says any more.
                    let there = CHANNELS.iter().find(|name| self.joined.get(*name) == Some(&Sure::Yes));
                    if let Some(name) = there {
                        self.say_typing("channel", name, true).await;
                    }
                    if self.client.is_some() {
                        return self;
                    }
                }
                Some(_) => self.broken().await,
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn now(&self) -> u64 {
        self.world.now()
    }

    fn id(&self) -> String {
        self.mine.as_ref().map(|(connection, _)| connection.clone()).unwrap_or_default()
    }

    /// Whether the socket has ended; not by this person's doing.
    fn is_cut_off(&self) -> bool {
        let Some(client) = &self.client else { return false };
        for left in client.events("left") {
            self.world.fault(format!("{} {} is put out: {}", self.user, self.id(), left.frame));
        }
        let Some(closed) = client.closed() else { return false };
        if closed.code >= 4_500 {
            self.world.fault(format!("{} {} is put out: {closed:?}", self.user, self.id()));
        }
        true
    }

    async fn act(&mut self) {
        let name = CHANNELS[self.chance.random_range(0..CHANNELS.len())];
        match (self.chance.random_range(0..100), self.joined.contains_key(name)) {
            (0..45, false) => self.join(name).await,
            (0..30, true) => self.update(name).await,
            (30..45, true) => self.leave(name).await,
            (45..63, _) => self.break_off(0..GRACE / 2).await,
            (63..69, _) => self.break_in_the_middle(name).await,
            (69..76, _) => self.break_off(GRACE + 4 * RENEW..2 * GRACE).await,
            (76..82, _) => self.say_goodbye().await,
            (82..96, true) => self.type_something(name).await,
            _ => {}
        }
    }

    // A socket

    async fn come(&mut self) {
        let (place, url) = self.world.door(None);
        let began = self.now();
        let (is_alone, resume) =
            (self.world.alone_since.lock().unwrap()[place], self.mine.clone().map(|(_, resume)| resume));
        let patience = if self.mine.is_some() { COMING } else { PATIENCE };
        let token = token(self.user, json!({}));
        let opening = async {
            let client = Client::try_connect(&url, "rollcall.v1", &[]).await.ok()?;
            let hello = match &resume {
                Some(resume) => client.hello_resume(&token, resume).await,
                None => client.hello(&token).await,
            };
            let welcome = hello.ok()?;
            // Whatever comes first from here ends the token that was used.
            client.ping().await.ok()?;
            Some((client, welcome))
        };
        let opened = timeout(patience, opening).await.ok().flatten();
        self.tried = self.now();
        if is_alone.is_none() && opened.is_none() {
            self.failed.get_or_insert(began);
        }
        self.unsure = self.failed.or(Some(began)).filter(|began| self.world.forgot_since(began.saturating_sub(NEAR)));
        let Some((client, welcome)) = opened else {
            self.world.perhaps_came(self.user, began);
            return;
        };
        let connection = welcome["connection"].as_str().expect("a connection").to_owned();
        if welcome["resumed"] == true {
            self.world.truth.lock().unwrap().count("resume");
            self.back(&welcome);
        } else {
            if self.mine.is_some() {
                self.gone();
            }
            self.joined.clear();
            let mut truth = self.world.truth.lock().unwrap();
            truth.joining(ONLINE, &connection, self.user, began);
            truth.joined(ONLINE, &connection, self.world.now());
            self.joined.insert(ONLINE, Sure::Yes);
        }
        self.mine = Some((connection, welcome["resume"].as_str().expect("a token").to_owned()));
        (self.failed, self.unsure) = (None, None);
        (self.client, self.place) = (Some(client), place);
    }

    /// The connection goes on, where the welcome says.
    fn back(&mut self, welcome: &Value) {
        let channels = welcome["channels"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let there: Vec<&str> = channels.chain([ONLINE]).collect();
        let (connection, at, kept) = (self.id(), self.now(), self.kept());
        let joined = std::mem::take(&mut self.joined);
        let back = Back { connection: &connection, joined, there: &there, broke: self.broke, kept, at };
        let (here, missing) =
            self.world.truth.lock().unwrap().came_back(back, &[CHANNELS[0], CHANNELS[1], CHANNELS[2], ONLINE]);
        for name in missing {
            self.world.fault(format!("{} {connection} came back and is not in {name}", self.user));
        }
        self.joined = here.into_iter().map(|name| (name, Sure::Yes)).collect();
    }

    /// Until when its places are kept, at least.
    fn kept(&self) -> u64 {
        // To all others the instance was lost, with everybody on it, some time before the socket broke.
        let kept = self.unsaid.map_or(self.broke, |since| since.min(self.broke)) + GRACE - NEAR;
        self.unsure.map_or(kept, |since| since.min(kept))
    }

    /// The connection is no more.
    fn gone(&mut self) {
        let (id, now, kept) = (self.id(), self.now(), self.kept());
        if now < kept {
            let away = now - self.broke;
            self.world.fault(format!("{} {id} came back after {away} ms and its place was not kept", self.user));
        }
        let kept = kept.min(now).max(self.broke);
        for name in self.joined.keys() {
            self.world.truth.lock().unwrap().lost(name, &id, self.broke, kept, self.tried, GRACE + 2 * RENEW);
        }
    }

    /// The socket is no more, and nobody said so.
    async fn broken(&mut self) {
        let Some(client) = self.client.take() else { return };
        self.unsaid = self.world.alone_since.lock().unwrap()[self.place];
        // Not before this: what comes of it may come at once.
        self.broke = self.now();
        self.tried = self.broke;
        client.drop_socket().await;
        for wrong in client.take_violations() {
            self.world.fault(format!("{}: {wrong}", self.user));
        }
    }

    async fn break_off(&mut self, away: Range<u64>) {
        let away = self.chance.random_range(away);
        self.broken().await;
        sleep(Duration::from_millis(away)).await;
        if away > GRACE && self.chance.random_bool(0.5) {
            // It never comes back, but begins anew.
            self.gone();
            (self.mine, self.failed, self.unsure) = (None, None, None);
            self.joined.clear();
        }
    }

    /// While something is under way.
    async fn break_in_the_middle(&mut self, name: &'static str) {
        let soon = Duration::from_millis(self.chance.random_range(0..10));
        let leaves = self.joined.contains_key(name);
        let (id, now) = (self.id(), self.now());
        let operation = if leaves {
            self.world.truth.lock().unwrap().leaving(name, &id, now);
            json!({"op": "leave", "channel": name})
        } else {
            self.world.truth.lock().unwrap().joining(name, &id, self.user, now);
            json!({"op": "join", "channel": name, "state": {"deed": self.deeds}})
        };
        self.joined.insert(name, Sure::Unknown);
        if let Some(client) = &self.client {
            drop(timeout(soon, client.op(operation)).await);
        }
        let away = if self.chance.random_bool(0.5) { 0..GRACE / 2 } else { GRACE + 4 * RENEW..2 * GRACE };
        self.break_off(away).await;
    }

    async fn say_goodbye(&mut self) {
        let (id, now) = (self.id(), self.now());
        let alone = self.world.alone_since.lock().unwrap()[self.place];
        for name in self.joined.keys() {
            self.world.truth.lock().unwrap().leaving(name, &id, now);
        }
        let Some(client) = self.client.take() else { return };
        let heard = timeout(COMING, client.bye()).await.is_ok_and(|answer| answer.is_ok()) && alone.is_none();
        // A goodbye that dies with its instance is one that nobody heard.
        let quiet = if heard { 0 } else { GRACE + 2 * RENEW };
        let now = self.now();
        for name in self.joined.keys() {
            self.world.truth.lock().unwrap().will_have_left(name, &id, now, quiet);
        }
        client.drop_socket().await;
        self.mine = None;
        self.joined.clear();
    }

    // Operations

    /// The answer; none when the socket ended or nobody answered.
    async fn op(&mut self, operation: Value) -> Option<Result<Value, OpError>> {
        let answer = timeout(PATIENCE, self.client.as_ref()?.op(operation)).await.ok();
        let answer = answer.filter(|answer| !answer.as_ref().is_err_and(|error| error.code == "closed"));
        if answer.is_none() {
            self.is_cut_off();
            self.broken().await;
        }
        answer
    }

    async fn join(&mut self, name: &'static str) {
        let id = self.id();
        self.world.truth.lock().unwrap().joining(name, &id, self.user, self.now());
        let answer = self.op(json!({"op": "join", "channel": name, "state": {"deed": self.deeds}})).await;
        let now = self.now();
        match answer {
            Some(Ok(_)) => {
                self.world.truth.lock().unwrap().joined(name, &id, now);
                self.joined.insert(name, Sure::Yes);
            }
            Some(Err(error)) => {
                self.world.truth.lock().unwrap().not_joined(name, &id, now);
                self.expect_unavailable("join", &error);
            }
            None => {
                self.joined.insert(name, Sure::Unknown);
            }
        }
    }

    async fn leave(&mut self, name: &'static str) {
        let id = self.id();
        self.world.truth.lock().unwrap().leaving(name, &id, self.now());
        let answer = self.op(json!({"op": "leave", "channel": name})).await;
        let now = self.now();
        match answer {
            Some(Ok(_)) => self.world.truth.lock().unwrap().left(name, &id, now),
            Some(Err(error)) => {
                self.world.truth.lock().unwrap().will_have_left(name, &id, now, 0);
                self.expect_unavailable("leave", &error);
            }
            None => {
                self.joined.insert(name, Sure::Unknown);
                return;
            }
        }
        self.joined.remove(name);
    }

    async fn update(&mut self, name: &'static str) {
        let answer = self.op(json!({"op": "update", "channel": name, "state": {"deed": self.deeds}})).await;
        match answer {
            Some(Ok(_)) => self.world.truth.lock().unwrap().count("update"),
            Some(Err(error)) => self.expect_unavailable("update", &error),
            None => {}
        }
    }

    /// To all who watch the channel, or to one user; and now and then that it is over.
    async fn type_something(&mut self, name: &'static str) {
        let to = format!("watcher-{}-users", self.chance.random_range(0..PLACES));
        let (key, place) = if self.chance.random_bool(0.8) { ("channel", name) } else { ("to", to.as_str()) };
        let is_typing = self.chance.random_bool(0.8);
        self.say_typing(key, place, is_typing).await;
    }

    async fn say_typing(&mut self, key: &str, place: &str, is_typing: bool) {
        let (world, user) = (self.world.clone(), self.user);
        let say = || {
            if is_typing {
                world.said.lock().unwrap().say(place, user, world.now());
            }
        };
        say();
        let answer = self.op(json!({"op": "typing", (key): place, "typing": is_typing})).await;
        // It may have been heard at any time until now.
        say();
        match answer {
            Some(Ok(_)) => world.truth.lock().unwrap().count("typing"),
            // Whether it has joined is not sure.
            Some(Err(error)) if error.code == "conflict" && self.joined.get(place) == Some(&Sure::Unknown) => {}
            Some(Err(error)) => self.expect_unavailable("typing", &error),
            None => {}
        }
    }

    fn expect_unavailable(&self, what: &str, error: &OpError) {
        self.world.truth.lock().unwrap().count("unavailable");
        if error.code != "unavailable" {
            self.world.fault(format!("{what} of {} {} is refused: {error:?}", self.user, self.id()));
        }
    }
}
