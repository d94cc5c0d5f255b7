//! One person on one device, who does things at random as `docs/protocol.md` says, and writes the diary.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{RngExt as _, rngs::StdRng};
use serde_json::{Map, Value};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    line::Way,
    truth::{Back, Sure},
    world::{CHANNELS, GRACE, Instance, RENEW, World, channel, hello},
};
use crate::{
    core::{Code, Command, Notice, Reply, ResumeClaim, Session, Wake},
    domain::{member::Reason, name::UserName, person::Choice},
};

/// How long a client waits for an answer before it tries elsewhere.
const PATIENCE: Duration = Duration::from_secs(7);
/// How long a socket may be silent before the door gives it up, milliseconds.
const SILENCE: u64 = 35_000;
/// And how long when it was asked whether it lives, milliseconds.
const PROOF: u64 = 10_000;

struct Deaf;

impl Wake for Deaf {
    fn wake(&self, _: u64) {}
}

/// A socket that is open.
struct Socket {
    session: Session,
    instance: Arc<Instance>,
    /// Its end, when it was not this person's doing.
    ended: Arc<Notify>,
    _attendant: Attendant,
}

/// Hears what the session is told, for as long as the socket lives.
struct Attendant(JoinHandle<()>);

impl Drop for Attendant {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// See the module.
pub(crate) struct Person {
    world: Arc<World>,
    user: UserName,
    chance: StdRng,
    socket: Option<Socket>,
    claim: Option<ResumeClaim>,
    joined: BTreeMap<&'static str, Sure>,
    /// What was shown last in each channel; none when nobody knows.
    states: BTreeMap<&'static str, Option<u64>>,
    /// When the socket broke, and when it was last tried to come back.
    broke: u64,
    tried: u64,
    /// How long the server may think that the socket lives, milliseconds.
    unnoticed: u64,
    /// Since when the instance could not say that the socket broke.
    unsaid: Option<u64>,
    /// Since when it has tried in vain to come back.
    failed: Option<u64>,
    /// It was just coming back when the memory forgot what it knew: from then on nobody answers for its places.
    unsure: Option<u64>,
    deeds: u64,
}

impl Person {
    pub fn new(world: &Arc<World>, user: &str, chance: StdRng) -> Self {
        Self {
            world: world.clone(),
            user: UserName::parse(user).unwrap(),
            chance,
            socket: None,
            claim: None,
            joined: BTreeMap::new(),
            states: BTreeMap::new(),
            broke: 0,
            tried: 0,
            unnoticed: 0,
            unsaid: None,
            failed: None,
            unsure: None,
            deeds: 0,
        }
    }

    /// Until the world is calm; then comes back if it has to, shows something new, and stays.
    pub async fn live(mut self) -> Self {
        while !self.world.is_calm() {
            self.deeds += 1;
            if self.world.is_holiday() {
                self.say_goodbye().await;
            } else if self.socket.is_none() {
                self.come().await;
            } else if self.is_cut_off() {
                self.broken();
            } else {
                self.act().await;
            }
            let pause = self.chance.random_range(50..3_000);
            sleep(Duration::from_millis(pause)).await;
        }
        while self.socket.is_none() || self.is_cut_off() {
            if self.socket.is_some() {
                self.broken();
            }
            self.come().await;
            sleep(Duration::from_millis(500)).await;
        }
        for name in self.joined.keys().copied().collect::<Vec<_>>() {
            self.deeds += 1;
            self.update(name).await;
        }
        self
    }

    /// Connection and shown state by channel.
    pub fn shows(&self) -> Vec<(&'static str, String, Option<u64>)> {
        let known = self.joined.iter().filter(|(_, sure)| **sure == Sure::Yes);
        known.map(|(name, _)| (*name, self.id(), self.states.get(name).copied().flatten())).collect()
    }

    fn now(&self) -> u64 {
        self.world.log.now()
    }

    fn id(&self) -> String {
        self.claim.as_ref().map(|claim| claim.connection.to_string()).unwrap_or_default()
    }

    fn is_cut_off(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.instance.is_dead())
    }

    async fn act(&mut self) {
        let name = CHANNELS[self.chance.random_range(0..CHANNELS.len())];
        match (self.chance.random_range(0..100), self.joined.contains_key(name)) {
            (0..45, false) => self.join(name).await,
            (0..30, true) => self.update(name).await,
            (30..45, true) => self.leave(name).await,
            (45..62, _) => self.break_off(1_000..GRACE * 2 / 3, 0).await,
            (62..70, _) => self.break_in_the_middle(name).await,
            (70..76, _) => self.break_off(GRACE + RENEW..3 * GRACE, 0).await,
            (76..79, _) => self.break_off(GRACE / 2..3 * GRACE, SILENCE).await,
            (79..84, _) => self.say_goodbye().await,
            (84..88, _) => self.choose().await,
            _ => {}
        }
    }

    /// Another status, which is no coming or going. Nobody has to answer: in the end all show the same.
    async fn choose(&mut self) {
        let all = [None, Some(Choice::Online), Some(Choice::Idle), Some(Choice::Away), Some(Choice::Busy)];
        let status = all[self.chance.random_range(0..all.len())];
        let wake: Arc<dyn Wake> = Arc::new(Deaf);
        let Some(Socket { session, instance, .. }) = &mut self.socket else { return };
        let command = Command::Status { status, text: None, until: None };
        tokio::select! {
            biased;
            () = instance.died() => {}
            _ = timeout(PATIENCE, session.execute(command, &wake)) => {}
        }
    }

    // A socket

    async fn come(&mut self) {
        let instance = self.world.any_instance();
        let (resume, began) = (self.claim.clone(), self.now());
        let is_open = instance.line.way() == Way::Open;
        let opening = Session::open(&instance.core, hello(Some(&self.user), resume));
        let opened = tokio::select! {
            biased;
            () = instance.died() => None,
            opened = timeout(PATIENCE, opening) => opened.ok().and_then(Result::ok),
        };
        self.tried = self.now();
        if is_open && opened.is_none() {
            self.failed.get_or_insert(began);
        }
        self.unsure = self.failed.or(Some(began)).filter(|began| self.world.forgot_since(*began));
        let Some((mut session, welcome)) = opened else { return };
        if welcome.resumed {
            self.world.truth.lock().unwrap().count("resume");
            let there: Vec<&str> = welcome.channels.iter().map(|name| name.as_str()).collect();
            self.back(&there);
        } else {
            if self.claim.is_some() {
                self.gone();
            }
            self.joined.clear();
            self.states.clear();
        }
        self.claim =
            Some(ResumeClaim { user: self.user.clone(), connection: welcome.connection.clone(), take: welcome.take });
        session.confirm();
        (self.unnoticed, self.failed, self.unsure) = (0, None, None);
        self.socket = Some(self.socket_of(session, instance));
    }

    fn socket_of(&self, session: Session, instance: Arc<Instance>) -> Socket {
        let (notices, connection) = (session.notices(), session.connection().clone());
        let (world, there, ended) = (self.world.clone(), instance.clone(), Arc::new(Notify::new()));
        let (told, user) = (ended.clone(), self.user.clone());
        let attendant = tokio::spawn(async move {
            loop {
                match notices.next().await {
                    Notice::Prove => {
                        sleep(Duration::from_millis(20)).await;
                        there.core.prove(&connection);
                    }
                    Notice::Left(name, reason) => {
                        world.fault(format!("{user} {connection} is put out of {name}: {reason:?}"));
                    }
                    Notice::Join(name, _) => world.fault(format!("{user} {connection} is to join {name}")),
                    ended @ (Notice::Ended(_) | Notice::PutOut(..)) => {
                        world.fault(format!("{user} {connection} is put out: {ended:?}"));
                        told.notify_one();
                        return;
                    }
                }
            }
        });
        Socket { session, instance, ended, _attendant: Attendant(attendant) }
    }

    /// The connection goes on, where the welcome says.
    fn back(&mut self, there: &[&str]) {
        let (connection, at, kept) = (self.id(), self.now(), self.kept());
        let joined = std::mem::take(&mut self.joined);
        let back = Back { connection: &connection, joined: joined.clone(), there, broke: self.broke, kept, at };
        let (here, missing) = self.world.truth.lock().unwrap().came_back(back, &CHANNELS);
        for name in missing {
            self.world.fault(format!("{} {connection} came back and is not in {name}", self.user));
        }
        for name in here {
            self.joined.insert(name, Sure::Yes);
            if !joined.contains_key(name) {
                self.states.insert(name, None);
            }
        }
    }

    /// Until when its places are kept, at least.
    fn kept(&self) -> u64 {
        // A clock that jumps counts for a renewal and a second, so much shorter is a grace then.
        let jumped = if self.world.jumped_since(self.broke) { RENEW + 1_000 } else { 0 };
        // To all others the instance was lost, with everybody on it, some time before the socket broke.
        let kept = self.unsaid.map_or(self.broke, |since| since.min(self.broke)) + GRACE - 100 - jumped;
        self.unsure.map_or(kept, |since| since.min(kept))
    }

    /// The connection is no more.
    fn gone(&mut self) {
        let (id, now) = (self.id(), self.now());
        let kept = self.kept();
        if now < kept {
            self.world.fault(format!(
                "{} {id} came back after {} ms and its place was not kept",
                self.user,
                now - self.broke
            ));
        }
        let kept = kept.min(now);
        let quiet = GRACE + 2 * RENEW + self.unnoticed;
        for name in self.joined.keys() {
            self.world.truth.lock().unwrap().lost(name, &id, self.broke, kept, self.tried, quiet);
        }
    }

    /// The socket is no more, and nobody said so.
    fn broken(&mut self) {
        self.broke = self.now();
        self.tried = self.broke;
        let Some(socket) = self.socket.take() else { return };
        self.unsaid = *socket.instance.alone_since.lock().unwrap();
    }

    async fn break_off(&mut self, away: std::ops::Range<u64>, unnoticed: u64) {
        let away = self.chance.random_range(away);
        if unnoticed == 0 {
            self.broken();
        } else {
            // A host that lost its power: the server keeps the socket until it has been silent for too long.
            let socket = self.socket.take();
            self.broken();
            self.unsaid = socket.as_ref().and_then(|socket| *socket.instance.alone_since.lock().unwrap());
            let session = socket.map(|socket| socket.session);
            self.unnoticed = unnoticed;
            tokio::spawn(async move {
                let Some(session) = session else { return };
                let notices = session.notices();
                let asked = async { while notices.next().await != Notice::Prove && !notices.is_over() {} };
                tokio::select! {
                    biased;
                    () = asked => sleep(Duration::from_millis(PROOF)).await,
                    () = sleep(Duration::from_millis(unnoticed)) => {}
                }
                drop(session);
            });
        }
        sleep(Duration::from_millis(away)).await;
        if away > GRACE + RENEW && self.chance.random_bool(0.4) {
            // It never comes back, but begins anew.
            self.gone();
            self.claim = None;
        }
    }

    /// While something is under way.
    async fn break_in_the_middle(&mut self, name: &'static str) {
        let soon = Duration::from_millis(self.chance.random_range(0..60));
        let joined = self.joined.contains_key(name);
        let ways = if joined { 2 } else { 1 };
        let (id, now) = (self.id(), self.now());
        let way = self.chance.random_range(0..ways);
        let command = match (joined, way) {
            (false, _) => {
                self.world.truth.lock().unwrap().joining(name, &id, self.user.as_str(), now);
                self.joined.insert(name, Sure::Unknown);
                Command::Join {
                    channel: channel(name),
                    state: self.state(),
                    watch: None,
                    grace_ms: None,
                    on_leave: Default::default(),
                }
            }
            (true, 0) => Command::Update { channel: channel(name), patch: self.state() },
            (true, _) => {
                self.world.truth.lock().unwrap().leaving(name, &id, now);
                self.joined.insert(name, Sure::Unknown);
                Command::Leave { channel: channel(name) }
            }
        };
        self.states.insert(name, None);
        let Some(socket) = &mut self.socket else { return };
        let wake: Arc<dyn Wake> = Arc::new(Deaf);
        drop(timeout(soon, socket.session.execute(command, &wake)).await);
        let away = if self.chance.random_bool(0.5) { 500..GRACE / 2 } else { GRACE + RENEW..2 * GRACE };
        self.break_off(away, 0).await;
    }

    async fn say_goodbye(&mut self) {
        if self.is_cut_off() {
            self.broken();
        }
        let (id, now) = (self.id(), self.now());
        if self.socket.is_none() {
            // Nobody hears it.
            if self.claim.is_some() {
                let quiet = GRACE + 2 * RENEW + self.unnoticed;
                for name in self.joined.keys() {
                    self.world.truth.lock().unwrap().lost(
                        name,
                        &id,
                        self.broke,
                        self.kept().max(self.broke),
                        self.tried,
                        quiet,
                    );
                }
            }
            (self.claim, self.unnoticed, self.failed, self.unsure) = (None, 0, None, None);
            self.joined.clear();
            self.states.clear();
            return;
        }
        for name in self.joined.keys() {
            self.world.truth.lock().unwrap().leaving(name, &id, now);
        }
        if let Some(Socket { session, instance, .. }) = self.socket.take() {
            session.end(Some(Reason::Left));
            // An instance that dies with a goodbye was just lost, to all others.
            sleep(Duration::from_millis(100)).await;
            let is_alone = instance.is_dead() || instance.alone_since.lock().unwrap().is_some();
            let (now, unheard) = (self.now(), if is_alone { GRACE + 2 * RENEW } else { 0 });
            for name in self.joined.keys() {
                self.world.truth.lock().unwrap().will_have_left(name, &id, now, unheard);
            }
        }
        self.claim = None;
        self.joined.clear();
        self.states.clear();
    }

    // Operations

    fn state(&self) -> Map<String, Value> {
        Map::from_iter([("n".to_owned(), Value::from(self.deeds))])
    }

    /// The answer; none when the instance died or nobody answered.
    async fn execute(&mut self, command: Command) -> Option<Result<Reply, crate::core::Error>> {
        let socket = self.socket.as_mut()?;
        let wake: Arc<dyn Wake> = Arc::new(Deaf);
        let result = tokio::select! {
            biased;
            () = socket.instance.died() => None,
            () = socket.ended.notified() => None,
            result = timeout(PATIENCE, socket.session.execute(command, &wake)) => result.ok(),
        };
        if result.is_none() {
            self.broken();
        }
        result
    }

    async fn join(&mut self, name: &'static str) {
        let id = self.id();
        self.world.truth.lock().unwrap().joining(name, &id, self.user.as_str(), self.now());
        let command = Command::Join {
            channel: channel(name),
            state: self.state(),
            watch: None,
            grace_ms: None,
            on_leave: Default::default(),
        };
        let result = self.execute(command).await;
        let now = self.now();
        let mut truth = self.world.truth.lock().unwrap();
        match result {
            Some(Ok(_)) => {
                truth.joined(name, &id, now);
                self.joined.insert(name, Sure::Yes);
                self.states.insert(name, Some(self.deeds));
            }
            Some(Err(error)) => {
                truth.not_joined(name, &id, now);
                drop(truth);
                self.expect_unavailable("join", &error);
            }
            None => {
                self.joined.insert(name, Sure::Unknown);
                self.states.insert(name, None);
            }
        }
    }

    async fn leave(&mut self, name: &'static str) {
        let id = self.id();
        self.world.truth.lock().unwrap().leaving(name, &id, self.now());
        let result = self.execute(Command::Leave { channel: channel(name) }).await;
        let now = self.now();
        let mut truth = self.world.truth.lock().unwrap();
        match result {
            Some(Ok(_)) => truth.left(name, &id, now),
            Some(Err(error)) => {
                truth.will_have_left(name, &id, now, 0);
                drop(truth);
                self.expect_unavailable("leave", &error);
            }
            None => {
                self.joined.insert(name, Sure::Unknown);
                return;
            }
        }
        self.joined.remove(name);
        self.states.remove(name);
    }

    async fn update(&mut self, name: &'static str) {
        let command = Command::Update { channel: channel(name), patch: self.state() };
        match self.execute(command).await {
            Some(Ok(_)) => {
                self.world.truth.lock().unwrap().count("update");
                self.states.insert(name, Some(self.deeds));
            }
            Some(Err(error)) => {
                self.states.insert(name, None);
                self.expect_unavailable("update", &error);
            }
            None => {
                self.states.insert(name, None);
            }
        }
    }

    fn expect_unavailable(&self, what: &str, error: &crate::core::Error) {
        self.world.truth.lock().unwrap().count("unavailable");
        if error.code != Code::Unavailable {
            self.world.fault(format!("{what} of {} {} is refused: {error:?}", self.user, self.id()));
        }
    }
}
