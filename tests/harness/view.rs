//! One watcher's view of one channel, built from the frames alone, which are checked as they come.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// How much of a roster a watcher is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Users,
    Connections,
    Occupancy,
}

impl Level {
    pub fn parse(text: &str) -> Self {
        match text {
            "users" => Self::Users,
            "connections" => Self::Connections,
            "occupancy" => Self::Occupancy,
            other => panic!("no level: {other}"),
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Connections => "connections",
            Self::Occupancy => "occupancy",
        }
    }

    /// What tells entries of a list apart.
    fn key(self) -> &'static str {
        if self == Self::Connections { "connection" } else { "user" }
    }
}

/// One `watch` and what it brought.
#[derive(Debug, Clone, Default)]
pub struct WatchRecord {
    /// Whether it named a version that the view already had.
    pub since: bool,
    /// Whole snapshots (all pages of one count once).
    pub snapshots: usize,
    /// The cause that each of them gave.
    pub causes: Vec<Option<String>>,
    /// Deltas.
    pub deltas: usize,
}

/// What may come next.
#[derive(Debug, Clone, PartialEq)]
enum Phase {
    /// A snapshot, and nothing else.
    Fresh,
    /// A delta from our version, or a snapshot: the watch said `since`, or repeats one that is there.
    Again,
    /// Deltas; a snapshot says why.
    Current,
    /// More pages of a snapshot, and nothing else.
    Pages,
}

const REASONS: [&str; 5] = ["left", "timeout", "kicked", "instance_lost", "expired"];
const CAUSES: [&str; 4] = ["gap", "slow", "mode", "settled"];
const MODES: [&str; 3] = ["full", "net", "occupancy"];

/// A roster as its frames describe it.
#[derive(Debug, Clone)]
pub struct View {
    level: Level,
    phase: Phase,
    mode: String,
    epoch: String,
    version: u64,
    members: BTreeMap<String, Value>,
    occupancy: Value,
    /// Members of the pages so far.
    pages: BTreeMap<String, Value>,
    /// What a join was acknowledged with, and by whom: the next snapshot must be at least that and contain them.
    joined: Option<(String, u64, Option<String>)>,
    /// Every watch so far, the present one last.
    pub watches: Vec<WatchRecord>,
    /// Updates that changed nothing we can see. A service that shows net changes only sends none.
    pub idle_updates: usize,
    /// Deltas without any list, at the levels that have lists.
    pub empty_deltas: usize,
}

impl View {
    /// A view that waits for its first snapshot.
    pub fn new(level: Level) -> Self {
        Self {
            level,
            phase: Phase::Fresh,
            mode: String::new(),
            epoch: String::new(),
            version: 0,
            members: BTreeMap::new(),
            occupancy: Value::Null,
            pages: BTreeMap::new(),
            joined: None,
            watches: vec![WatchRecord::default()],
            idle_updates: 0,
            empty_deltas: 0,
        }
    }

    /// A further watch was acknowledged.
    pub fn watched_again(&mut self, level: Level, since: bool) {
        self.phase = if level == self.level && self.is_complete() { Phase::Again } else { Phase::Fresh };
        self.level = level;
        self.pages.clear();
        self.watches.push(WatchRecord { since, ..WatchRecord::default() });
    }

    /// A join was acknowledged at a version, by the user of this socket unless they have left since.
    pub fn joined(&mut self, epoch: &str, version: u64, user: Option<&str>) {
        // A view that has its snapshot already learns of the join by a delta.
        if self.phase == Phase::Fresh {
            self.joined = Some((epoch.to_owned(), version, user.map(str::to_owned)));
        }
    }

    /// Whoever joined is no longer sure to be in the next snapshot.
    pub fn left(&mut self) {
        if let Some((_, _, user)) = &mut self.joined {
            *user = None;
        }
    }

    pub fn level(&self) -> Level {
        self.level
    }

    /// How changes are told, as the last frame said: `full`, `net`, or `occupancy`, in which there is no list.
    pub fn mode(&self) -> &str {
        &self.mode
    }

    /// Whether the view has a list of members.
    pub fn has_list(&self) -> bool {
        self.level != Level::Occupancy && self.mode != "occupancy"
    }

    /// What a watch that goes on from here says.
    pub fn since(&self) -> Option<Value> {
        self.is_complete().then(|| json!({"epoch": self.epoch, "version": self.version, "mode": self.mode}))
    }

    /// `(epoch, number)`
    pub fn version(&self) -> (&str, u64) {
        (&self.epoch, self.version)
    }

    /// Whether there is a whole snapshot behind this view.
    pub fn is_complete(&self) -> bool {
        !self.epoch.is_empty() && self.phase != Phase::Pages
    }

    /// The members by user, or by connection at that level.
    pub fn members(&self) -> &BTreeMap<String, Value> {
        &self.members
    }

    /// The users in it, sorted.
    pub fn users(&self) -> Vec<String> {
        let users: BTreeSet<_> = self.members.values().filter_map(|member| member["user"].as_str()).collect();
        users.into_iter().map(str::to_owned).collect()
    }

    /// `{users, connections}` as the last frame said.
    pub fn occupancy(&self) -> &Value {
        &self.occupancy
    }

    /// Takes one frame. The error says what is wrong with it; the view then goes on as well as it can.
    pub fn take(&mut self, frame: &Value) -> Result<(), String> {
        match frame["event"].as_str() {
            Some("snapshot") => self.snapshot(frame),
            Some("delta") => self.delta(frame),
            other => Err(format!("no frame of a view: {other:?}")),
        }
    }

    fn watch(&mut self) -> &mut WatchRecord {
        self.watches.last_mut().expect("a view begins with a watch")
    }

    fn snapshot(&mut self, frame: &Value) -> Result<(), String> {
        let (epoch, version, mode) = (text(frame, "epoch")?, number(frame, "version")?, mode(frame)?);
        let cause = frame.get("cause").map(|cause| cause.as_str().unwrap_or("not a text").to_owned());
        if let Some(cause) = cause.as_deref().filter(|cause| !CAUSES.contains(cause)) {
            return Err(format!("unknown cause `{cause}`"));
        }
        if frame.get("level").is_some_and(|level| level != self.level.as_str()) {
            return Err(format!("a snapshot at level {} for a watch at {}", frame["level"], self.level.as_str()));
        }
        let mut wrong = Ok(());
        // Who reads a snapshot too slowly, or when the mode changes, is given another one, which begins anew.
        let again = matches!(cause.as_deref(), Some("slow" | "mode"));
        let begins_anew = again && (epoch, version, mode) != (&*self.epoch, self.version, &*self.mode);
        if self.phase == Phase::Pages && !begins_anew {
            if (epoch, version) != (&self.epoch, self.version) {
                wrong = Err(format!("a page at {epoch}:{version} of a snapshot at {}:{}", self.epoch, self.version));
            }
            if frame["occupancy"] != self.occupancy {
                wrong = Err("pages of one snapshot differ in occupancy".to_owned());
            }
            if mode != self.mode {
                wrong = Err("pages of one snapshot differ in mode".to_owned());
            }
        } else {
            if self.phase == Phase::Current && cause.is_none() {
                wrong = Err("a snapshot sent later again has to say its cause".to_owned());
            }
            if let Some((at_epoch, at_version, _)) = &self.joined
                && at_epoch == epoch
                && version < *at_version
            {
                wrong = Err(format!("joined at {at_version}, but the snapshot is at {version}"));
            }
            self.pages.clear();
            self.watch().snapshots += 1;
            self.watch().causes.push(cause);
        }
        (self.epoch, self.version, self.occupancy) = (epoch.to_owned(), version, frame["occupancy"].clone());
        self.mode = mode.to_owned();
        if self.has_list() != frame.get("members").is_some() {
            wrong = Err(format!("members at level {} in mode {mode}", self.level.as_str()));
        }
        if frame.get("level").is_none() {
            wrong = Err("a snapshot without its level".to_owned());
        }
        for member in list(frame, "members")? {
            let key = self.check_member(member)?;
            if self.pages.insert(key.clone(), member.clone()).is_some() {
                wrong = Err(format!("`{key}` is in the snapshot twice"));
            }
        }
        if frame["more"] == true {
            self.phase = Phase::Pages;
            return wrong;
        }
        self.phase = Phase::Current;
        self.members = std::mem::take(&mut self.pages);
        if let Some((_, _, Some(user))) = self.joined.take()
            && self.has_list()
            && !self.users().contains(&user)
        {
            wrong = Err(format!("the snapshot after the join does not contain `{user}`"));
        }
        wrong.and(self.check_occupancy())
    }

    fn delta(&mut self, frame: &Value) -> Result<(), String> {
        let (epoch, from, to) = (text(frame, "epoch")?, number(frame, "from")?, number(frame, "to")?);
        let mode = mode(frame)?;
        match self.phase {
            Phase::Fresh => return Err("a delta before the first snapshot".to_owned()),
            Phase::Pages => return Err("a delta between the pages of a snapshot".to_owned()),
            Phase::Again | Phase::Current => {}
        }
        let from_epoch = frame.get("from_epoch").map_or(epoch, |from| from.as_str().unwrap_or("not a text"));
        let mut wrong = Ok(());
        if (from_epoch, from) != (&*self.epoch, self.version) {
            wrong = Err(format!("a delta from {from_epoch}:{from} for a view at {}:{}", self.epoch, self.version));
        } else if from_epoch == epoch && to <= from {
            wrong = Err(format!("a delta from {from} to {to} leads nowhere"));
        }
        if self.phase == Phase::Current && mode != self.mode {
            wrong = Err(format!("the mode was {} and is {mode}, without a snapshot", self.mode));
        }
        let had_list = self.has_list();
        self.mode = mode.to_owned();
        if self.has_list() != had_list {
            wrong = Err(format!("a list ends or begins with a delta in mode {mode}"));
        }
        self.phase = Phase::Current;
        self.watch().deltas += 1;
        (self.epoch, self.version) = (epoch.to_owned(), to);
        self.occupancy = frame["occupancy"].clone();
        let mut named = BTreeSet::new();
        for kind in ["join", "update", "leave"] {
            let Some(entries) = frame.get(kind) else { continue };
            let entries = entries.as_array().ok_or_else(|| format!("`{kind}` is no list"))?;
            if entries.is_empty() {
                wrong = Err(format!("`{kind}` is empty and should have been left out"));
            }
            if !self.has_list() {
                wrong = Err(format!("`{kind}` at level {} in mode {mode}", self.level.as_str()));
            }
            for entry in entries {
                let key = if kind == "leave" { self.check_leave(entry)? } else { self.check_member(entry)? };
                if !named.insert(key.clone()) {
                    wrong = Err(format!("`{key}` stands in this delta twice"));
                }
                let before = if kind == "leave" {
                    self.members.remove(&key)
                } else {
                    self.members.insert(key.clone(), entry.clone())
                };
                match (kind, before) {
                    ("join", Some(_)) => wrong = Err(format!("`{key}` joins and was there")),
                    ("update" | "leave", None) => wrong = Err(format!("{kind} of `{key}`, who is not there")),
                    ("update", Some(before)) if before == *entry => self.idle_updates += 1,
                    _ => {}
                }
            }
        }
        if named.is_empty() && self.has_list() {
            self.empty_deltas += 1;
        }
        wrong.and(self.check_occupancy())
    }

    fn check_member(&self, member: &Value) -> Result<String, String> {
        if !self.has_list() {
            return Err("a member where there are no lists".to_owned());
        }
        text(member, "user")?;
        text(member, "status")?;
        number(member, "since")?;
        if self.level == Level::Users && number(member, "connections")? == 0 {
            return Err(format!("a member without connections: {member}"));
        }
        Ok(text(member, self.level.key())?.to_owned())
    }

    fn check_leave(&self, leave: &Value) -> Result<String, String> {
        let reason = text(leave, "reason")?;
        if !REASONS.contains(&reason) {
            return Err(format!("`{reason}` is no reason to leave"));
        }
        text(leave, "user")?;
        Ok(text(leave, self.level.key())?.to_owned())
    }

    fn check_occupancy(&self) -> Result<(), String> {
        let said = (number(&self.occupancy, "users")?, number(&self.occupancy, "connections")?);
        if said.0 > said.1 {
            return Err(format!("more users than connections: {}", self.occupancy));
        }
        let seen = match self.level {
            _ if !self.has_list() => return Ok(()),
            Level::Occupancy => return Ok(()),
            Level::Connections => (self.users().len() as u64, self.members.len() as u64),
            Level::Users => (
                self.members.len() as u64,
                self.members.values().filter_map(|member| member["connections"].as_u64()).sum(),
            ),
        };
        if said == seen {
            Ok(())
        } else {
            Err(format!("occupancy says {said:?} and the view has {seen:?} (users, connections)"))
        }
    }
}

fn text<'a>(frame: &'a Value, name: &str) -> Result<&'a str, String> {
    frame[name]
        .as_str()
        .filter(|text| !text.is_empty())
        .ok_or_else(|| format!("`{name}` is missing or no text in {frame}"))
}

fn mode(frame: &Value) -> Result<&str, String> {
    text(frame, "mode").ok().filter(|mode| MODES.contains(mode)).ok_or_else(|| format!("no mode in {frame}"))
}

fn number(frame: &Value, name: &str) -> Result<u64, String> {
    frame[name].as_u64().ok_or_else(|| format!("`{name}` is missing or no number in {frame}"))
}

/// A list that is left out is empty.
fn list<'a>(frame: &'a Value, name: &str) -> Result<&'a [Value], String> {
    match frame.get(name) {
        None => Ok(&[]),
        Some(list) => list.as_array().map(Vec::as_slice).ok_or_else(|| format!("`{name}` is no list in {frame}")),
    }
}
