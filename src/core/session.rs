//! One caller: commands in, replies out, and what it must hear unasked.

mod asides;
mod opening;
mod placed;
mod standing;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Map, Value, value::RawValue};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use self::standing::Standing;
use super::{
    Addressee, Core,
    bars::{Barred, Seat},
    error::{Code, Error},
    ledger::{Content, Settlement},
    mirror::{Cursor, Delivery, Listening, Mirror, Wake},
    notices::Notices,
    patterns::PatternWatch,
    people::UserWatch,
};
use crate::domain::{
    chance,
    level::Level,
    member::{Reason, Shown, Status},
    name::{ChannelName, ConnectionId, RosterKey, UserName},
    pattern::Pattern,
    person::Choice,
    principal::{Capabilities, Principal, allows},
    settings::MAX_GRACE_MS,
    state,
    time::wall_now_ms,
    version::Version,
};

/// How long an operation waits for the store before it is refused as unavailable.
pub(crate) const WAIT: Duration = Duration::from_secs(5);
/// What a resume token says, once its signature was checked.
#[derive(Debug, Clone)]
pub struct ResumeClaim {
    /// Whose connection.
    pub user: UserName,
    /// Which.
    pub connection: ConnectionId,
    /// The take that was current when the token was made.
    pub take: u64,
}

/// A caller introduces itself.
#[derive(Debug)]
pub struct Hello {
    /// Who, as the token says.
    pub principal: Principal,
    /// The connection that it had before.
    pub resume: Option<ResumeClaim>,
    /// What it runs on.
    pub device: Option<Arc<str>>,
    /// Whether it counts as present; false only watches and asks.
    pub present: bool,
}

/// The answer to a hello.
#[derive(Debug, Clone)]
pub struct Welcome {
    /// The connection.
    pub connection: ConnectionId,
    /// Who is present; none for one who only watches.
    pub user: Option<UserName>,
    /// Whether the connection from before goes on.
    pub resumed: bool,
    /// Where it is.
    pub channels: Vec<ChannelName>,
    /// The take that the next resume token names.
    pub take: u64,
    /// How long the connection keeps its place after its socket broke, milliseconds.
    pub grace_ms: u64,
}

/// Why a hello failed.
#[derive(Debug)]
pub enum HelloError {
    /// The user has as many connections as there may be.
    TooMany,
    /// The user or the token may not come in.
    Barred(Barred),
    /// Anything else; it may be tried again.
    Other(Error),
}

/// What a caller may ask for.
#[derive(Debug, Clone)]
pub enum Command {
    /// Be present in a channel.
    Join {
        /// Where.
        channel: ChannelName,
        /// Replaces the state; none is empty.
        state: Map<String, Value>,
        /// Watch it too, at this level.
        watch: Option<Level>,
        /// A grace of its own, milliseconds.
        grace_ms: Option<u64>,
        /// Last words: a merge patch for the state that is shown when the connection goes without having said so.
        on_leave: Map<String, Value>,
    },
    /// Not be present there any more.
    Leave {
        /// Where.
        channel: ChannelName,
    },
    /// Change the state by a merge patch (RFC 7396).
    Update {
        /// Where.
        channel: ChannelName,
        /// The patch.
        patch: Map<String, Value>,
    },
    /// Be told about changes.
    Watch {
        /// Of what.
        channel: ChannelName,
        /// How much.
        level: Level,
        /// Only what came after this, if that is known.
        since: Option<Version>,
    },
    /// Be told about changes in the occupied channels that a pattern means.
    WatchPattern {
        /// Which.
        pattern: Pattern,
        /// How much of each.
        level: Level,
    },
    /// Be shown like this, or as the devices say.
    Status {
        /// None is as the devices say.
        status: Option<Choice>,
        /// Beside it.
        text: Option<Arc<str>>,
        /// Until when, unix milliseconds; none is for good.
        until: Option<u64>,
    },
    /// Change what is shown of the user, online or not, by a merge patch (RFC 7396).
    UserState {
        /// The patch.
        patch: Map<String, Value>,
    },
    /// The person is active.
    Active,
    /// The user types, or does so no more.
    Typing {
        /// To whom.
        addressee: Addressee,
        /// Whether it goes on.
        typing: bool,
    },
    /// Tell whoever watches a channel just now.
    Send {
        /// Where.
        channel: ChannelName,
        /// Anything, as compact JSON.
        data: Arc<RawValue>,
        /// Tell this connection too, if it watches.
        echo: bool,
    },
}

/// What came of a command.
#[derive(Debug)]
pub enum Reply {
    /// The roster is at this version or later, and the change is part of it.
    Changed {
        /// Where.
        channel: ChannelName,
        /// The version.
        version: Version,
        /// The watch that was asked for with it.
        watch: Option<Watch>,
    },
    /// The watch has begun.
    Watching(Watch),
    /// The watch over a pattern has begun.
    WatchingPattern(PatternWatch),
    /// Done, with nothing to tell.
    Done,
}

/// A watch: dropping it ends it.
pub struct Watch {
    channel: ChannelName,
    mirror: Arc<Mirror>,
    cursor: Cursor,
    listening: Listening,
    wake: Arc<dyn Wake>,
}

impl Watch {
    /// Of which channel.
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// How much it tells.
    pub fn level(&self) -> Level {
        self.cursor.level()
    }

    /// The mirror by whose id the wake is called.
    pub fn mirror_id(&self) -> u64 {
        self.mirror.id()
    }

    /// What the watcher gets next, if there is anything now.
    pub fn deliver(&mut self) -> Option<Delivery> {
        self.mirror.next(&mut self.cursor).or_else(|| self.mirror.next_aside(&self.cursor, &mut self.listening))
    }

    /// Gives up the snapshot with which the watch began, if its reader is too slow for it: what follows on it will not be kept until it is read. Then the
    /// whole is delivered again. Returns whether it did.
    pub fn gives_up(&mut self) -> bool {
        let late = self.mirror.is_late(&self.cursor);
        if late {
            self.mirror.give_up(&mut self.cursor);
        }
        late
    }

    /// Gives up a list of which a part has been read, if there are no lists any more. Returns whether it did.
    pub fn gives_up_list(&mut self) -> bool {
        let in_vain = self.mirror.has_no_list_for(&self.cursor);
        if in_vain {
            self.mirror.give_up(&mut self.cursor);
        }
        in_vain
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("channel", &self.channel).field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.mirror.detach(self.cursor.level(), &self.wake);
    }
}

/// Where the session is present.
#[derive(Debug, Clone)]
struct Joined {
    state: Map<String, Value>,
    on_leave: Option<Arc<RawValue>>,
    since: u64,
    grace_ms: u64,
}

/// See the module. Dropping a session without [`Session::end`] is a socket that broke.
pub struct Session {
    core: Arc<Core>,
    connection: ConnectionId,
    user: Option<UserName>,
    owner: u64,
    principal: Principal,
    ends_at: Instant,
    device: Option<Arc<str>>,
    channels: BTreeMap<ChannelName, Joined>,
    notices: Arc<Notices>,
    /// By which it is found when it may not be in any more.
    seat: Seat,
    unconfirmed: bool,
    is_over: bool,
    standing: Standing,
    /// An app server's, who sees what it asks for: the levels of namespaces are for clients.
    is_of_server: bool,
    /// To whom the user types, until when.
    typing: BTreeMap<Addressee, Instant>,
}

impl Session {
    /// Opens a session: a new connection, or the one from before.
    ///
    /// # Errors
    /// [`HelloError`]; nothing is left behind then.
    pub async fn open(core: &Arc<Core>, hello: Hello) -> Result<(Self, Welcome), HelloError> {
        let principal = hello.principal.clone();
        let opened = Self::come_in(core, hello).await;
        // Whoever was put out while coming in finds their place gone, and is told why.
        match (opened, core.bars.may_enter(&principal)) {
            (Err(HelloError::Other(_)), Err(barred @ (Barred::Banned { .. } | Barred::Revoked))) => {
                Err(HelloError::Barred(barred))
            }
            (opened, _) => opened,
        }
    }

    async fn come_in(core: &Arc<Core>, hello: Hello) -> Result<(Self, Welcome), HelloError> {
        let Hello { principal, resume, device, present } = hello;
        core.bars.known().await.map_err(HelloError::Other)?;
        let notices = Arc::default();
        let seat = core.bars.sit(&principal, &notices).map_err(HelloError::Barred)?;
        let mut session = Self {
            core: core.clone(),
            connection: ConnectionId::from_bytes(chance::random()),
            user: principal.user.clone().filter(|_| present),
            owner: 0,
            ends_at: end_of(&principal),
            principal,
            device,
            channels: BTreeMap::new(),
            notices,
            seat,
            unconfirmed: false,
            is_over: false,
            standing: Standing::new(),
            is_of_server: false,
            typing: BTreeMap::new(),
        };
        let mut take = 1;
        let mut resumed = false;
        if let Some(user) = session.user.clone() {
            if let Some(claim) = resume.filter(|claim| claim.user == user)
                && let Some(taken) = session.resume(&user, claim).await.map_err(HelloError::Other)?
            {
                (take, resumed) = (taken, true);
            } else {
                session.enter(&user).await?;
            }
            if let Err(error) = session.join_by_token().await {
                // Whoever came back keeps the places that it had.
                session.finish(if resumed { None } else { Some(Reason::Left) });
                return Err(HelloError::Other(error));
            }
        }
        let welcome = Welcome {
            connection: session.connection.clone(),
            user: session.user.clone(),
            resumed,
            channels: session.channels.keys().cloned().collect(),
            take,
            grace_ms: session.grace_ms(None, None),
        };
        Ok((session, welcome))
    }

    /// The same for an app server, to whom the levels of namespaces do not apply.
    pub fn of_server(mut self) -> Self {
        self.is_of_server = true;
        self
    }

    /// The connection.
    pub fn connection(&self) -> &ConnectionId {
        &self.connection
    }

    /// Who is present; none for one who only watches.
    pub fn user(&self) -> Option<&UserName> {
        self.user.as_ref()
    }

    /// When the token ends. Counted from the moment at which it was shown: no clock that jumps later ends a session.
    pub fn ends_at(&self) -> Instant {
        self.ends_at
    }

    /// The shortest grace of the channels it is in, or that of the connection, milliseconds.
    pub fn shortest_grace_ms(&self) -> u64 {
        let shortest = self.channels.values().map(|joined| joined.grace_ms).min();
        shortest.unwrap_or_else(|| self.grace_ms(None, None))
    }

    /// What the session must hear.
    pub fn notices(&self) -> Arc<Notices> {
        self.notices.clone()
    }

    /// The client has sent a frame after its welcome: the resume token that it used before ends.
    pub fn confirm(&mut self) {
        if std::mem::take(&mut self.unconfirmed) {
            self.core.ledger.confirm(&self.connection, self.owner);
        }
    }

    /// Somebody took the connection out of a channel. False where it has joined again since: then there is nothing to tell.
    pub fn forget(&mut self, channel: &ChannelName) -> bool {
        let is_out = !self.core.ledger.holds(&self.connection, &RosterKey::Channel(channel.clone()));
        if is_out {
            self.channels.remove(channel);
        }
        is_out
    }

    /// The end, with a goodbye ([`Reason::Left`]), by the token's end ([`Reason::Expired`]), by somebody who may put it out ([`Reason::Kicked`]), or, without a reason, because the socket broke or the
    /// instance stops: then the connection keeps its place for its grace.
    pub fn end(mut self, reason: Option<Reason>) {
        self.finish(reason);
    }

    fn finish(&mut self, reason: Option<Reason>) {
        if std::mem::replace(&mut self.is_over, true) || self.user.is_none() {
            return;
        }
        self.stop_typing();
        match reason {
            Some(reason) => self.core.ledger.leave_all(&self.connection, self.owner, reason),
            None => self.core.ledger.broke(&self.connection, self.owner),
        }
        self.core.ledger.detach(&self.connection, self.owner);
    }

    /// Carries out a command. `wake` is told of news for watches that it begins.
    ///
    /// # Errors
    /// What the caller is told; the session goes on.
    pub async fn execute(&mut self, command: Command, wake: &Arc<dyn Wake>) -> Result<Reply, Error> {
        match command {
            Command::Join { channel, state, watch, grace_ms, on_leave } => {
                let on_leave = self.last_words(&channel, on_leave)?;
                self.join(channel, state, on_leave, watch, grace_ms, wake).await
            }
            Command::Leave { channel } => self.leave(channel).await,
            Command::Update { channel, patch } => self.update(channel, patch).await,
            Command::Watch { channel, level, since } => {
                self.may_watch(&channel)?;
                Ok(Reply::Watching(self.watch(channel, level, None, since, wake)))
            }
            Command::WatchPattern { pattern, level } => {
                self.may_watch_pattern(&pattern)?;
                if let Ok(channel) = ChannelName::parse(pattern.as_str()) {
                    self.core.settings.check_presence(&channel)?;
                }
                let watch = self.core.patterns.watch(&pattern, level, !self.is_of_server, wake).await?;
                Ok(Reply::WatchingPattern(watch))
            }
            Command::Status { status, text, until } => self.choose(status, text, until).await,
            Command::UserState { patch } => self.patch_user_state(&patch).await,
            Command::Active => {
                self.present()?;
                self.note_active();
                Ok(Reply::Done)
            }
            Command::Typing { addressee, typing } => self.types(addressee, typing).await,
            Command::Send { channel, data, echo } => self.send(channel, data, echo).await,
        }
    }

    /// Whether the caller may ask for a channel.
    ///
    /// # Errors
    /// [`Code::Forbidden`].
    pub fn may_watch(&self, channel: &ChannelName) -> Result<(), Error> {
        let can = self.can(channel);
        if allows(&can.watch, channel.as_str()) {
            return self.core.settings.check_presence(channel);
        }
        Err(forbidden(format!("this token may not watch `{channel}`; `can.watch` names what it may")))
    }

    /// Whether the caller may ask who is in a channel.
    ///
    /// # Errors
    /// [`Code::Forbidden`].
    pub fn may_list(&self, channel: &ChannelName) -> Result<(), Error> {
        self.may_watch(channel)?;
        let most = self.core.settings.namespace(channel).and_then(|namespace| namespace.level);
        if most == Some(Level::Occupancy) {
            return Err(forbidden(format!("clients are told how many are in `{channel}`, and not who")));
        }
        Ok(())
    }

    /// Whether the caller may ask for a user.
    ///
    /// # Errors
    /// [`Code::Forbidden`].
    pub fn may_see(&self, user: &UserName) -> Result<(), Error> {
        let can = self.principal.can.as_ref().unwrap_or(&self.core.settings.default_can);
        if allows(&can.users, user.as_str()) || self.principal.user.as_ref() == Some(user) {
            return Ok(());
        }
        Err(forbidden(format!("this token may not ask for `{user}`; `can.users` names whom it may")))
    }

    /// Whether the caller may ask for each channel that a pattern means. Where the token says nothing, all namespaces must allow it that the pattern meets.
    ///
    /// # Errors
    /// [`Code::Forbidden`].
    pub fn may_watch_pattern(&self, pattern: &Pattern) -> Result<(), Error> {
        let covers = |can: &Capabilities, wanted: &Pattern| can.watch.iter().any(|mine| mine.covers(wanted));
        let settings = &self.core.settings;
        let mut may = true;
        if let Some(can) = &self.principal.can {
            may = covers(can, pattern);
        } else {
            let mut is_rest = true;
            for namespace in settings.namespaces.iter().filter(|namespace| namespace.pattern.meets(pattern)) {
                let can = namespace.can.as_ref().unwrap_or(&settings.default_can);
                may &= covers(can, pattern) || covers(can, &namespace.pattern);
                if namespace.pattern.covers(pattern) {
                    // No later one counts.
                    is_rest = false;
                    break;
                }
            }
            may &= !is_rest || covers(&settings.default_can, pattern);
        }
        if may {
            return Ok(());
        }
        let pattern = pattern.as_str();
        Err(forbidden(format!("this token may not watch all that `{pattern}` means; `can.watch` names what it may")))
    }

    /// Whether the caller may ask for everybody.
    ///
    /// # Errors
    /// [`Code::Forbidden`].
    pub fn may_see_all(&self) -> Result<(), Error> {
        let can = self.principal.can.as_ref().unwrap_or(&self.core.settings.default_can);
        if can.users.iter().any(|pattern| pattern.covers(&Pattern::any())) {
            return Ok(());
        }
        Err(forbidden("this token may not watch everybody; `**` in `can.users` allows it"))
    }

    /// A watch over users, which begins with nobody. Whoever is present is told the truth about themselves.
    pub fn user_watch(&self, wake: &Arc<dyn Wake>) -> UserWatch {
        UserWatch::new(&self.core.people, self.user.clone(), wake)
    }

    fn can(&self, channel: &ChannelName) -> &Capabilities {
        if let Some(can) = &self.principal.can {
            return can;
        }
        let namespace = self.core.settings.namespace(channel).and_then(|namespace| namespace.can.as_ref());
        namespace.unwrap_or(&self.core.settings.default_can)
    }

    async fn join(
        &mut self,
        channel: ChannelName,
        state: Map<String, Value>,
        on_leave: Option<Arc<RawValue>>,
        watch: Option<Level>,
        grace_ms: Option<u64>,
        wake: &Arc<dyn Wake>,
    ) -> Result<Reply, Error> {
        self.present()?;
        if !allows(&self.can(&channel).join, channel.as_str()) {
            return Err(forbidden(format!("this token may not join `{channel}`; `can.join` names what it may")));
        }
        if watch.is_some() {
            self.may_watch(&channel)?;
        }
        self.core.settings.check_presence(&channel)?;
        let namespace = self.core.settings.namespace(&channel);
        if !state.is_empty() && namespace.is_some_and(|namespace| !namespace.client_state) {
            return Err(forbidden(format!("clients give no state in `{channel}`; the app server does")));
        }
        self.check_state(&state)?;
        let limit = self.core.settings.limits.channels_per_connection;
        let is_new = !self.channels.contains_key(&channel);
        if is_new && self.channels.len() >= limit {
            return Err(Error::new(
                Code::Limit,
                format!("a connection joins at most {limit} channels; leave one first"),
            ));
        }
        let since = self.channels.get(&channel).map_or_else(wall_now_ms, |joined| joined.since);
        let grace_ms = self.grace_ms(grace_ms, Some(&channel));
        let payload = to_json(&self.shown(&state, on_leave.as_ref(), since));
        let content = Content { grace_ms, since, changed: 0, private: "{}".into(), payload };
        let most = namespace.and_then(|namespace| namespace.max_members);
        let most = most.unwrap_or(self.core.settings.limits.members_per_channel);
        let key = RosterKey::Channel(channel.clone());
        let wait = self.core.ledger.hold(&self.connection, &key, content, most as u64);
        match settled(wait).await {
            Some(Settlement::Done(version)) => {
                let version = self.seen_version(&channel, version).await;
                self.channels.insert(channel.clone(), Joined { state, on_leave, since, grace_ms });
                let watch = watch.map(|level| self.watch(channel.clone(), level, Some(version.clone()), None, wake));
                Ok(Reply::Changed { channel, version, watch })
            }
            Some(Settlement::Full) => {
                Err(Error::new(Code::Limit, format!("`{channel}` has as many members as it may have ({most})")))
            }
            Some(Settlement::Lost) => Err(self.lost()),
            None => {
                if is_new {
                    // Not acknowledged, so it shall not happen later.
                    drop(self.core.ledger.leave(&self.connection, &key, Reason::Left));
                }
                Err(Error::unavailable("the store of presence did not answer in time"))
            }
        }
    }

    async fn leave(&mut self, channel: ChannelName) -> Result<Reply, Error> {
        self.present()?;
        if self.channels.remove(&channel).is_none() {
            return Err(not_joined(&channel));
        }
        let key = RosterKey::Channel(channel.clone());
        match settled(self.core.ledger.leave(&self.connection, &key, Reason::Left)).await {
            Some(Settlement::Done(version)) => {
                let version = self.seen_version(&channel, version).await;
                Ok(Reply::Changed { channel, version, watch: None })
            }
            // It is out all the same, or will be as soon as the store answers.
            Some(_) => Ok(Reply::Done),
            None => {
                Err(Error::unavailable("the store of presence did not answer in time; you will have left when it does"))
            }
        }
    }

    async fn update(&mut self, channel: ChannelName, patch: Map<String, Value>) -> Result<Reply, Error> {
        self.present()?;
        if self.core.settings.namespace(&channel).is_some_and(|namespace| !namespace.client_state) {
            return Err(forbidden(format!("clients give no state in `{channel}`; the app server does")));
        }
        let Some(joined) = self.channels.get(&channel) else { return Err(not_joined(&channel)) };
        let mut state = Value::Object(joined.state.clone());
        json_patch::merge(&mut state, &Value::Object(patch));
        let Value::Object(state) = state else { unreachable!("an object patched by an object is one") };
        self.check_state(&state)?;
        let payload = to_json(&self.shown(&state, joined.on_leave.as_ref(), joined.since));
        let wait = self.core.ledger.show(&self.connection, &RosterKey::Channel(channel.clone()), payload);
        self.channels.entry(channel.clone()).and_modify(|joined| joined.state = state);
        match settled(wait).await {
            Some(Settlement::Done(version)) => {
                let version = self.seen_version(&channel, version).await;
                Ok(Reply::Changed { channel, version, watch: None })
            }
            Some(_) => Err(self.lost()),
            None => {
                Err(Error::unavailable("the store of presence did not answer in time; it will be told when it does"))
            }
        }
    }

    fn watch(
        &self,
        channel: ChannelName,
        level: Level,
        least: Option<Version>,
        since: Option<Version>,
        wake: &Arc<dyn Wake>,
    ) -> Watch {
        let level = if self.is_of_server { level } else { self.core.settings.level_in(&channel, level) };
        let mirror = self.core.mirrors.watch(&RosterKey::Channel(channel.clone()), level, wake);
        let listening = mirror.listen(self.connection.clone());
        Watch { channel, mirror, cursor: Cursor::new(level, least, since), listening, wake: wake.clone() }
    }

    /// A fresh token for the same user: what it says holds from here on.
    ///
    /// # Errors
    /// [`Code::Conflict`] when it names another user, [`Code::Unauthorized`] when it was revoked.
    pub fn refresh(&mut self, principal: Principal) -> Result<(), Error> {
        if principal.user != self.principal.user {
            return Err(Error::new(Code::Conflict, "the fresh token names another user; say hello on a new socket"));
        }
        self.seat.change(&principal).map_err(|barred| Error::from(&barred))?;
        self.ends_at = end_of(&principal);
        self.principal = principal;
        self.show_info();
        Ok(())
    }

    /// Shows the token's `info` where something else stands.
    fn show_info(&self) {
        for (channel, joined) in &self.channels {
            let payload = to_json(&self.shown(&joined.state, joined.on_leave.as_ref(), joined.since));
            drop(self.core.ledger.show(&self.connection, &RosterKey::Channel(channel.clone()), payload));
        }
    }

    fn present(&self) -> Result<(), Error> {
        if self.notices.is_over() {
            // The ledger may know the connection all the same, as another session's.
            return Err(self.lost());
        }
        if self.user.is_some() {
            return Ok(());
        }
        Err(forbidden(
            "this connection only watches: its token names no user, or its hello said that it is not present",
        ))
    }

    /// What a join wants to be shown at the end; a patch that changes nothing is none.
    fn last_words(&self, channel: &ChannelName, on_leave: Map<String, Value>) -> Result<Option<Arc<RawValue>>, Error> {
        if on_leave.is_empty() {
            return Ok(None);
        }
        if self.core.settings.namespace(channel).is_some_and(|namespace| !namespace.client_state) {
            return Err(forbidden(format!("clients give no state in `{channel}`; the app server does")));
        }
        self.check_state(&on_leave)?;
        let words = serde_json::value::to_raw_value(&on_leave).expect("a map of JSON values is JSON");
        Ok(Some(Arc::from(words)))
    }

    fn shown(&self, state: &Map<String, Value>, on_leave: Option<&Arc<RawValue>>, since: u64) -> Shown {
        let state = serde_json::value::to_raw_value(state).expect("a map of JSON values is JSON");
        Shown {
            status: Status::Online,
            state: Arc::<RawValue>::from(state),
            info: self.principal.info.clone(),
            device: self.device.clone(),
            since,
            on_leave: on_leave.cloned(),
        }
    }

    /// That of the join, else of the token, else of the namespace, else the setting; never more than the token's.
    fn grace_ms(&self, join: Option<u64>, channel: Option<&ChannelName>) -> u64 {
        let token = self.principal.grace_ms;
        let namespace = channel.and_then(|channel| self.core.settings.namespace(channel)?.grace_ms);
        let grace = join.or(token).or(namespace).unwrap_or(self.core.settings.presence.grace_ms);
        grace.min(token.unwrap_or(MAX_GRACE_MS)).min(MAX_GRACE_MS)
    }

    fn check_state(&self, state: &Map<String, Value>) -> Result<(), Error> {
        Ok(state::check(state, self.core.settings.limits.state_bytes)?)
    }

    fn lost(&self) -> Error {
        Error::new(Code::Conflict, "the connection is no longer this socket's")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.finish(None);
    }
}

/// When the life that a token has left will be over. Others have dated it by wall time, so that is asked, this once.
fn end_of(principal: &Principal) -> Instant {
    Instant::now() + Duration::from_millis(principal.expires_at_ms.saturating_sub(wall_now_ms()))
}

/// Waits for the store's word; none when it takes too long.
async fn settled(wait: oneshot::Receiver<Settlement>) -> Option<Settlement> {
    // An account that was dropped with its waiters was lost to another.
    timeout(WAIT, wait).await.ok().map(|answer| answer.unwrap_or(Settlement::Lost))
}

fn to_json(shown: &Shown) -> Arc<str> {
    serde_json::to_string(shown).expect("what is shown is JSON").into()
}

fn forbidden(message: impl Into<String>) -> Error {
    Error::new(Code::Forbidden, message)
}

fn not_joined(channel: &ChannelName) -> Error {
    Error::new(Code::Conflict, format!("`{channel}` is not joined; join it first"))
}
