//! Somebody who watches every channel, checks that each frame follows on the one before, and remembers what it was told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{
    truth::{History, Told},
    world::{CHANNELS, PLACES, World, channel, hello},
};
use crate::{
    core::{Cause, Command, Delivery, Lists, Reply, Session, Snapshot, Wake, Watch, Whole, sleep_until_some},
    domain::{
        chance,
        delta::{ConnectionDelta, UserDelta},
        level::Level,
        member::{Member, Occupancy, Present, Reason},
        mode::Mode,
        name::ConnectionId,
        version::Version,
    },
};

#[derive(Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(&self, _: u64) {
        self.0.notify_one();
    }
}

/// A channel as its frames describe it: who is shown, with how many connections and which state.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub version: Option<Version>,
    /// As it was last, where there is no list any more.
    pub shown: BTreeMap<String, (usize, String)>,
    pub occupancy: Occupancy,
    mode: Mode,
    /// Whether the watch has begun and nothing has come yet: the mode may be another one here, and where nothing is new nobody says so.
    begins: bool,
    /// Since when there is no list.
    unlisted_since: Option<u64>,
}

/// See the module.
pub(crate) struct Watcher {
    world: Arc<World>,
    level: Level,
    /// Comes and goes, by an instance where nobody else watches.
    passes: bool,
    views: BTreeMap<&'static str, View>,
    history: History,
}

/// What watchers have seen when all is over.
pub(crate) type Seen = Arc<Mutex<Vec<(History, BTreeMap<&'static str, View>)>>>;

fn of_member(member: &Member) -> (String, (usize, String)) {
    (member.user.to_string(), (member.connections, member.latest.state.get().to_owned()))
}

fn of_connection((id, present): &(ConnectionId, Present)) -> (String, (usize, String)) {
    (id.to_string(), (1, present.shown.state.get().to_owned()))
}

impl Watcher {
    pub fn new(world: &Arc<World>, name: &str, level: Level, passes: bool) -> Self {
        let history = History { name: name.to_owned(), by_user: level == Level::Users, ..History::default() };
        Self { world: world.clone(), level, passes, views: BTreeMap::new(), history }
    }

    /// Watches, on one instance after the other when they die, until the world ends.
    pub async fn watch(mut self, seen: Seen) {
        let mut away = 0;
        while !self.world.is_over() {
            let instances = self.world.instances();
            let (stay, pass) = instances.split_at(PLACES - 1);
            let instance = self.world.any_of(if self.passes { pass } else { stay });
            let Ok((mut session, _)) = Session::open(&instance.core, hello(None, None)).await else {
                self.world.fault(format!("{} may not even watch", self.history.name));
                return;
            };
            let bell = Arc::new(Bell::default());
            let wake: Arc<dyn Wake> = bell.clone();
            let mut watches = Vec::new();
            for name in CHANNELS {
                // Without a list there is nothing to go on from.
                self.views.entry(name).or_default().begins = true;
                let since = self.views.get(name).filter(|view| view.has_list()).and_then(|view| view.version.clone());
                let command = Command::Watch { channel: channel(name), level: self.level, since };
                match session.execute(command, &wake).await {
                    Ok(Reply::Watching(watch)) => watches.push((name, watch)),
                    other => self.world.fault(format!("{} watches {name}: {other:?}", self.history.name)),
                }
            }
            self.history.away.push((away, self.world.log.now() + 1_000));
            let until = self.passes.then(|| Instant::now() + Duration::from_millis(chance::within(3_000..20_000)));
            let goes = sleep_until_some(until);
            tokio::pin!(goes);
            loop {
                watches.iter_mut().for_each(|(name, watch)| self.read(name, watch));
                tokio::select! {
                    biased;
                    () = instance.died() => break,
                    () = self.world.over() => break,
                    () = &mut goes, if !self.world.is_calm() => break,
                    () = bell.0.notified() => {}
                }
            }
            away = self.world.log.now();
            drop(watches);
            if !self.world.is_over() {
                // Long enough for a copy that nobody watches to be given up.
                sleep(Duration::from_millis(if self.passes { chance::within(1_000..16_000) } else { 700 })).await;
            }
        }
        let now = self.world.log.now();
        self.history.away.extend(self.views.values().filter_map(|view| Some((view.unlisted_since?, now))));
        seen.lock().unwrap().push((self.history, self.views));
    }

    fn read(&mut self, name: &'static str, watch: &mut Watch) {
        while let Some(delivery) = watch.deliver() {
            let told = told(&delivery);
            self.world.log.write(format!("{} is told of {name}: {told}", self.history.name));
            if let Err(wrong) = self.take(name, &delivery) {
                self.world.fault(format!("{} in {name}: {wrong}: {told}", self.history.name));
            }
        }
    }

    fn take(&mut self, name: &'static str, delivery: &Delivery) -> Result<(), String> {
        let view = self.views.entry(name).or_default();
        let before: Vec<String> = view.shown.keys().cloned().collect();
        let mut reasons = BTreeMap::new();
        let listed_before = view.has_list();
        let begins = std::mem::take(&mut view.begins);
        let wrong = match delivery {
            Delivery::Snapshot(snapshot) => {
                view.begin(snapshot);
                Ok(())
            }
            Delivery::Aside { .. } => Err("nobody here says anything in passing".to_owned()),
            Delivery::Copy(copy) => {
                self.world.truth.lock().unwrap().count("mode");
                let mode = std::mem::replace(&mut view.mode, copy.whole().mode);
                let backwards = view.version.as_ref().is_some_and(|stood| stood.number > copy.whole().version.number)
                    && view.version.as_ref().map(|stood| &stood.epoch) == Some(&copy.whole().version.epoch);
                view.begin(copy.whole());
                match copy.cause() {
                    Cause::Slow => Err("a copy for the slow, and nobody here is slow".to_owned()),
                    Cause::Mode if mode == view.mode && !begins => {
                        Err(format!("a change of mode from {mode:?} to itself"))
                    }
                    Cause::Mode if backwards => Err("a change of mode that leads back".to_owned()),
                    Cause::Mode => Ok(()),
                }
            }
            Delivery::Frame(frame) if frame.mode.has_lists() != listed_before => {
                Err(format!("a list ends or begins with a delta in mode {:?}", frame.mode))
            }
            Delivery::Frame(frame) if frame.mode != view.mode && !begins => {
                Err(format!("a mode begins with a delta: {:?}", frame.mode))
            }
            Delivery::Frame(frame) => {
                view.mode = frame.mode;
                let follows = view.version.as_ref() == Some(&frame.from);
                let grows = frame.from.epoch != frame.to.epoch || frame.from.number < frame.to.number;
                let stood = view.version.replace(frame.to.clone());
                view.occupancy = frame.occupancy;
                let applied = match &frame.lists {
                    Lists::Users(delta) => view.users(delta, &mut reasons),
                    Lists::Connections(delta) => view.connections(delta, &mut reasons),
                    Lists::Occupancy => Ok(()),
                };
                match (follows, grows) {
                    (true, true) => applied,
                    (true, false) => Err("a delta that leads nowhere".to_owned()),
                    (false, _) => Err(format!("a delta for a view at {stood:?}")),
                }
            }
        };
        let counted = view.counts();
        let at = self.world.log.now();
        if view.has_list() {
            // What happened meanwhile is not told, and neither must it be.
            self.history.away.extend(view.unlisted_since.take().map(|since| (since, at + 1_000)));
        } else {
            view.unlisted_since.get_or_insert(at);
        }
        let whole = !matches!(delivery, Delivery::Frame(..));
        let mut tell = |who: &String, shown: bool| {
            let reason = reasons.get(who).map(|reason: &Reason| reason.as_str().to_owned());
            self.history.told.push(Told { at, channel: name.to_owned(), who: who.clone(), shown, whole, reason });
        };
        before.iter().filter(|who| !view.shown.contains_key(*who)).for_each(|who| tell(who, false));
        view.shown.keys().filter(|who| !before.contains(who)).for_each(|who| tell(who, true));
        wrong.and(counted)
    }
}

impl View {
    pub fn has_list(&self) -> bool {
        self.mode.has_lists()
    }

    fn begin(&mut self, snapshot: &Snapshot) {
        (self.version, self.mode, self.occupancy) = (Some(snapshot.version.clone()), snapshot.mode, snapshot.occupancy);
        match &snapshot.whole {
            Whole::Users(members) => self.shown = members.iter().map(of_member).collect(),
            Whole::Connections(all) => self.shown = all.iter().map(of_connection).collect(),
            Whole::Occupancy => {}
        }
    }

    fn users(&mut self, delta: &UserDelta, reasons: &mut BTreeMap<String, Reason>) -> Result<(), String> {
        let leave = delta.leave.iter().map(|leave| (leave.member.user.to_string(), leave.reason));
        self.apply(delta.join.iter().map(of_member), delta.update.iter().map(of_member), leave, reasons)
    }

    fn connections(&mut self, delta: &ConnectionDelta, reasons: &mut BTreeMap<String, Reason>) -> Result<(), String> {
        let leave = delta.leave.iter().map(|((id, _), reason)| (id.to_string(), *reason));
        self.apply(delta.join.iter().map(of_connection), delta.update.iter().map(of_connection), leave, reasons)
    }

    fn apply(
        &mut self,
        join: impl Iterator<Item = (String, (usize, String))>,
        update: impl Iterator<Item = (String, (usize, String))>,
        leave: impl Iterator<Item = (String, Reason)>,
        reasons: &mut BTreeMap<String, Reason>,
    ) -> Result<(), String> {
        let mut wrong = Ok(());
        for (who, shows) in join {
            if self.shown.insert(who.clone(), shows).is_some() {
                wrong = Err(format!("{who} joins and was there"));
            }
        }
        for (who, shows) in update {
            if self.shown.insert(who.clone(), shows).is_none() {
                wrong = Err(format!("{who} is updated and was not there"));
            }
        }
        for (who, reason) in leave {
            if self.shown.remove(&who).is_none() {
                wrong = Err(format!("{who} leaves and was not there"));
            }
            reasons.insert(who, reason);
        }
        wrong
    }

    fn counts(&self) -> Result<(), String> {
        let connections = self.shown.values().map(|(connections, _)| *connections as u64).sum::<u64>();
        if connections == self.occupancy.connections || !self.has_list() {
            return Ok(());
        }
        Err(format!("{:?} and shown are {:?}", self.occupancy, self.shown))
    }
}

/// What a delivery says, without the real times that are measured with it.
fn told(delivery: &Delivery) -> String {
    match delivery {
        Delivery::Frame(frame) => format!("{:?} to {:?} {:?} {:?}", frame.from, frame.to, frame.lists, frame.occupancy),
        Delivery::Aside { aside, .. } => format!("{aside:?}"),
        Delivery::Snapshot(snapshot) => whole(snapshot),
        Delivery::Copy(copy) => format!("{:?} {} in mode {:?}", copy.cause(), whole(copy.whole()), copy.whole().mode),
    }
}

fn whole(snapshot: &Snapshot) -> String {
    format!("{:?} {:?} {:?}", snapshot.version, snapshot.whole, snapshot.occupancy)
}
