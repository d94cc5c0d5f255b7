//! Somebody who is invisible all the time. Nobody may ever be told of them, whatever breaks: the judge finds everybody who is shown and never was there.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rand::{RngExt as _, rngs::StdRng};
use serde_json::Map;
use tokio::time::{sleep, timeout};

use super::world::{CHANNELS, GRACE, Instance, World, channel, hello};
use crate::{
    core::{Command, Notice, ResumeClaim, Session, Wake},
    domain::{
        name::{RosterKey, UserName},
        person::Choice,
    },
};

const PATIENCE: Duration = Duration::from_secs(7);

struct Deaf;

impl Wake for Deaf {
    fn wake(&self, _: u64) {}
}

/// See the module.
pub(crate) struct Ghost {
    world: Arc<World>,
    user: UserName,
    chance: StdRng,
    socket: Option<(Session, Arc<Instance>)>,
    claim: Option<ResumeClaim>,
    /// Where it is, as far as it was told.
    joined: BTreeSet<&'static str>,
}

impl Ghost {
    pub fn new(world: &Arc<World>, user: &str, chance: StdRng) -> Self {
        let user = UserName::parse(user).unwrap();
        Self { world: world.clone(), user, chance, socket: None, claim: None, joined: BTreeSet::new() }
    }

    /// Until the world is calm, and then until it is where it wants to be.
    pub async fn live(mut self) -> Self {
        while !self.world.is_calm() {
            match &self.socket {
                None => self.come().await,
                Some((_, instance)) if instance.is_dead() => self.socket = None,
                Some(_) => self.act().await,
            }
            let pause = self.chance.random_range(50..3_000);
            sleep(Duration::from_millis(pause)).await;
        }
        while !self.is_settled().await {
            sleep(Duration::from_millis(500)).await;
        }
        self
    }

    async fn is_settled(&mut self) -> bool {
        if self.socket.as_ref().is_none_or(|(_, instance)| instance.is_dead()) {
            self.socket = None;
            self.come().await;
        }
        self.socket.is_some() && self.join(CHANNELS[0]).await
    }

    async fn act(&mut self) {
        let name = CHANNELS[self.chance.random_range(0..CHANNELS.len())];
        match self.chance.random_range(0..10) {
            0..4 => {
                self.join(name).await;
            }
            4..6 if self.joined.contains(name) => self.leave(name).await,
            6..9 => {
                self.socket = None;
                let away = self.chance.random_range(500..GRACE * 2);
                sleep(Duration::from_millis(away)).await;
            }
            _ => {}
        }
    }

    async fn come(&mut self) {
        let instance = self.world.any_instance();
        let opening = Session::open(&instance.core, hello(Some(&self.user), self.claim.clone()));
        let opened = tokio::select! {
            biased;
            () = instance.died() => None,
            opened = timeout(PATIENCE, opening) => opened.ok().and_then(Result::ok),
        };
        let Some((mut session, welcome)) = opened else { return };
        session.confirm();
        if !welcome.resumed {
            self.joined.clear();
        }
        let (connection, take) = (welcome.connection, welcome.take);
        let (notices, there, id) = (session.notices(), instance.clone(), connection.clone());
        tokio::spawn(async move {
            while !notices.is_over() {
                if notices.next().await == Notice::Prove {
                    there.core.prove(&id);
                }
            }
        });
        self.claim = Some(ResumeClaim { user: self.user.clone(), connection, take });
        self.socket = Some((session, instance));
        // Nobody is to see them before they are anywhere.
        if !self.execute(Command::Status { status: Some(Choice::Invisible), text: None, until: None }).await {
            self.socket = None;
        }
    }

    async fn join(&mut self, name: &'static str) -> bool {
        let command = Command::Join {
            channel: channel(name),
            state: Map::new(),
            watch: None,
            grace_ms: None,
            on_leave: Default::default(),
        };
        let joined = self.execute(command).await;
        if joined {
            self.joined.insert(name);
        }
        joined
    }

    async fn leave(&mut self, name: &'static str) {
        if self.execute(Command::Leave { channel: channel(name) }).await {
            self.joined.remove(name);
        }
    }

    /// Whether it was acknowledged.
    async fn execute(&mut self, command: Command) -> bool {
        let wake: Arc<dyn Wake> = Arc::new(Deaf);
        let Some((session, instance)) = &mut self.socket else { return false };
        let done = tokio::select! {
            biased;
            () = instance.died() => None,
            result = timeout(PATIENCE, session.execute(command, &wake)) => result.ok(),
        };
        if done.is_none() {
            self.socket = None;
        }
        done.is_some_and(|result| result.is_ok())
    }

    /// What is wrong with it in the end: it is there, and nothing of it where others would see.
    pub fn wrong(&self) -> Option<String> {
        let copy = self.world.memory.copy();
        let id = &self.claim.as_ref()?.connection;
        let has = |roster: &RosterKey| copy.rows(roster).is_some_and(|rows| rows.contains_key(id));
        let home = RosterKey::User(self.user.clone());
        let room = RosterKey::Channel(channel(CHANNELS[0]));
        let stands = [has(&home), has(&home.twin(true)), has(&room), has(&room.twin(true))];
        (stands != [false, true, false, true]).then(|| format!("{} {id} stands {stands:?}", self.user))
    }
}
