//! Who may not come in: bans and revocations. Every instance keeps all of them in its memory, so that no hello waits for the store and nobody comes in
//! while it is away; and it knows who is in, so that a new entry puts them out at once.
//!
//! The store decides how long an entry holds; an instance counts down, by its own clock, from what remained when it learnt of it. It reads all of them
//! when it begins, when its feed was lost, and when an epoch is new; then it brings back what the store has lost.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    Core,
    error::{Code, Error},
    notices::{Notices, Out},
    pulse::Pulse,
    session::WAIT,
};
use crate::{
    domain::{
        bar::{Bar, Barring, SAME_MS, Whom},
        chance,
        name::UserName,
        principal::Principal,
        version::Epoch,
    },
    store::{Feed, SCHEMA, Store, StoreError},
};

/// As many are read at once, and as many brought back.
const PAGE: u64 = 500;
const OFFERED: usize = 100;
/// Before the store is asked again that did not answer.
const RETRY: Duration = Duration::from_millis(200);

/// Why somebody may not come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Barred {
    /// The user is banned, for so long still.
    Banned {
        /// Milliseconds.
        remaining_ms: u64,
    },
    /// The token was revoked.
    Revoked,
    /// This instance has not learnt yet who may not: not now.
    Unknown,
}

impl From<&Barred> for Error {
    fn from(barred: &Barred) -> Self {
        match barred {
            Barred::Banned { remaining_ms } => Self {
                retry_after_ms: Some(*remaining_ms),
                ..Self::new(Code::Forbidden, "you are banned, for as long as `retry_after_ms` says")
            },
            Barred::Revoked => Self::new(Code::Unauthorized, "the token was revoked; get a new one"),
            Barred::Unknown => Self::unavailable("it is not known yet who may not come in"),
        }
    }
}

/// What is known here of one entry.
#[derive(Debug, Clone, Copy)]
struct Known {
    ends_at: Instant,
    until_ms: u64,
}

/// Who is in, as far as a bar asks.
#[derive(Debug)]
struct Caller {
    user: Option<UserName>,
    token: Option<Arc<str>>,
    issued_at_ms: Option<u64>,
}

impl From<&Principal> for Caller {
    fn from(principal: &Principal) -> Self {
        Self { user: principal.user.clone(), token: principal.token_id.clone(), issued_at_ms: principal.issued_at_ms }
    }
}

#[derive(Debug, Default)]
struct Board {
    known: chance::Map<Whom, Known>,
    callers: BTreeMap<u64, (Caller, Arc<Notices>)>,
    seats: u64,
}

/// See the module.
pub(crate) struct Bars {
    store: Arc<dyn Store>,
    feed: Arc<dyn Feed>,
    most: usize,
    board: Mutex<Board>,
    is_loaded: AtomicBool,
    loaded: Notify,
    doubt: Notify,
}

/// A caller who is in. Dropping it is going.
pub(crate) struct Seat {
    bars: Arc<Bars>,
    number: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.bars.lock().callers.remove(&self.number);
    }
}

impl Seat {
    /// The caller goes on with another token, unless that was revoked.
    pub fn change(&self, principal: &Principal) -> Result<(), Barred> {
        let mut board = self.bars.lock();
        let caller = Caller::from(principal);
        self.bars.look(&board, &caller)?;
        if let Some((there, _)) = board.callers.get_mut(&self.number) {
            *there = caller;
        }
        Ok(())
    }
}

impl Bars {
    pub fn new(store: Arc<dyn Store>, feed: Arc<dyn Feed>, most: usize) -> Arc<Self> {
        Arc::new(Self {
            store,
            feed,
            most,
            board: Mutex::default(),
            is_loaded: false.into(),
            loaded: Notify::new(),
            doubt: Notify::new(),
        })
    }

    /// Whether it is known here who may not come in.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded.load(Ordering::Relaxed)
    }

    /// Waits until it is known, as long as an operation may wait.
    pub async fn known(&self) -> Result<(), Error> {
        let known = async {
            loop {
                let loaded = self.loaded.notified();
                if self.is_loaded() {
                    return;
                }
                loaded.await;
            }
        };
        let not_yet = |_| Error::unavailable("it is not known yet who may not come in");
        timeout(WAIT, known).await.map_err(not_yet)
    }

    /// Whether somebody may come in with this token now.
    pub fn may_enter(&self, principal: &Principal) -> Result<(), Barred> {
        self.look(&self.lock(), &Caller::from(principal))
    }

    /// Somebody comes in. Looking and sitting down are one step: whoever is barred afterwards is found.
    pub fn sit(self: &Arc<Self>, principal: &Principal, notices: &Arc<Notices>) -> Result<Seat, Barred> {
        let mut board = self.lock();
        let caller = Caller::from(principal);
        self.look(&board, &caller)?;
        board.seats += 1;
        let number = board.seats;
        board.callers.insert(number, (caller, notices.clone()));
        Ok(Seat { bars: self.clone(), number })
    }

    fn look(&self, board: &Board, caller: &Caller) -> Result<(), Barred> {
        if self.is_loaded() { board.look(caller, Instant::now()) } else { Err(Barred::Unknown) }
    }

    /// Entries that hold; whoever is in and may not be is put out, and told `said`.
    pub fn learn(&self, bars: &[Bar], said: &Arc<str>) {
        if bars.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut board = self.lock();
        for bar in bars {
            let ends_at = now + Duration::from_millis(bar.remaining_ms);
            if let Some(known) = board.known.get_mut(&bar.whom) {
                known.ends_at = known.ends_at.max(ends_at);
                known.until_ms = known.until_ms.max(bar.until_ms);
                continue;
            }
            if board.known.len() >= self.most {
                board.known.retain(|_, known| known.ends_at > now);
            }
            if board.known.len() >= self.most {
                tracing::error!("there are more bans and revocations than `limits.revocations`; one is not kept here");
                continue;
            }
            board.known.insert(bar.whom.clone(), Known { ends_at, until_ms: bar.until_ms });
        }
        for (caller, notices) in board.callers.values() {
            match board.look(caller, now) {
                Err(Barred::Banned { .. }) => notices.put_out(Out::Banned, said.clone()),
                Err(_) => notices.put_out(Out::Revoked, said.clone()),
                Ok(()) => {}
            }
        }
    }

    /// Everybody who is in with a token of this user's is put out, present or not.
    pub fn put_out(&self, user: &UserName, said: &Arc<str>) {
        for (caller, notices) in self.lock().callers.values() {
            if caller.user.as_ref() == Some(user) {
                notices.put_out(Out::Kicked, said.clone());
            }
        }
    }

    /// How many entries hold.
    pub fn len(&self) -> usize {
        let now = Instant::now();
        let mut board = self.lock();
        board.known.retain(|_, known| known.ends_at > now);
        board.known.len()
    }

    /// Some may have been told of that were not heard.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// Reads when it must, until the process ends.
    pub async fn run(self: Arc<Self>, pulse: Arc<Pulse>) {
        let mut standing = pulse.subscribe();
        // What is told from here on is heard, so that nothing falls between reading and hearing.
        self.feed.heard(SCHEMA).await;
        let mut read_in: Option<Epoch> = None;
        loop {
            let epoch = standing.registered(|_| true).await.beat.epoch;
            if read_in.as_ref() != Some(&epoch) {
                match self.read().await {
                    Ok(read) => {
                        read_in = Some(read);
                        self.is_loaded.store(true, Ordering::Relaxed);
                        self.loaded.notify_waiters();
                    }
                    Err(error) => {
                        tracing::debug!(%error, "who may not come in could not be read");
                        sleep(RETRY).await;
                        continue;
                    }
                }
                if read_in.as_ref() != Some(&epoch) {
                    // Another epoch has begun, and the heart will hear of it.
                    sleep(RETRY).await;
                    continue;
                }
            }
            tokio::select! {
                biased;
                _ = standing.changed() => {}
                () = self.doubt.notified() => read_in = None,
            }
        }
    }

    /// Learns what the store has, and brings back what it has not. Returns the epoch of which that is true.
    async fn read(&self) -> Result<Epoch, StoreError> {
        let most = self.most as u64;
        let mut there = chance::Map::default();
        let mut epoch = None;
        loop {
            let page = (there.len() as u64, PAGE);
            let page = self.store.bar(&Barring { most, page, ..Barring::default() }).await?;
            epoch.get_or_insert(page.beat.epoch);
            self.learn(&page.bars, &"".into());
            let (before, is_last) = (there.len(), (page.bars.len() as u64) < PAGE);
            there.extend(page.bars.into_iter().map(|bar| (bar.whom, (bar.remaining_ms, bar.until_ms))));
            // New ones at its beginning move the list on: what was read twice is not counted twice, and a page of nothing else is the last.
            if is_last || there.len() == before {
                break;
            }
        }
        let lost = self.lost(&there);
        for bars in lost.chunks(OFFERED) {
            let offered = Barring { bars: bars.to_vec(), most, ..Barring::default() };
            let refused = self.store.bar(&offered).await?.refused;
            if refused > 0 {
                tracing::error!(refused, "bans or revocations that the store had lost do not fit `limits.revocations`");
            }
        }
        if !lost.is_empty() {
            tracing::info!(count = lost.len(), "bans and revocations that the store had lost were brought back");
        }
        Ok(epoch.expect("one page was read"))
    }

    /// What is known here and not there, or not as long.
    fn lost(&self, there: &chance::Map<Whom, (u64, u64)>) -> Vec<Bar> {
        let now = Instant::now();
        let board = self.lock();
        let holding = board.known.iter().filter(|(_, known)| known.ends_at > now);
        let bars = holding.map(|(whom, known)| {
            let remaining_ms = known.ends_at.saturating_duration_since(now).as_millis();
            let remaining_ms = u64::try_from(remaining_ms).unwrap_or(u64::MAX >> 12);
            Bar { whom: whom.clone(), until_ms: known.until_ms, remaining_ms }
        });
        let is_lost = |bar: &Bar| {
            let known = there.get(&bar.whom);
            known.is_none_or(|(remaining, until)| bar.remaining_ms > remaining + SAME_MS || bar.until_ms > *until)
        };
        bars.filter(is_lost).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().expect("nothing panics while it holds the bars")
    }
}

impl Board {
    fn look(&self, caller: &Caller, now: Instant) -> Result<(), Barred> {
        let known = |whom: &Whom| self.known.get(whom).filter(|known| known.ends_at > now);
        if let Some(id) = &caller.token
            && known(&Whom::Token(id.clone())).is_some()
        {
            return Err(Barred::Revoked);
        }
        let Some(user) = &caller.user else { return Ok(()) };
        if let Some(ban) = known(&Whom::User(user.clone())) {
            let remaining = ban.ends_at.saturating_duration_since(now).as_millis();
            return Err(Barred::Banned { remaining_ms: u64::try_from(remaining).unwrap_or(u64::MAX) });
        }
        // Tokens are dated in whole seconds: one of that very second may have been issued before.
        let is_older = |known: &Known| caller.issued_at_ms.is_none_or(|at| at / 1_000 <= known.until_ms / 1_000);
        match known(&Whom::TokensOf(user.clone())) {
            Some(revoked) if is_older(revoked) => Err(Barred::Revoked),
            _ => Ok(()),
        }
    }
}

impl Core {
    /// Whether somebody may come in with this token now. A session that is open is put out by itself.
    ///
    /// # Errors
    /// [`Barred`] says why not.
    pub fn may_enter(&self, principal: &Principal) -> Result<(), Barred> {
        self.bars.may_enter(principal)
    }

    /// Keeps somebody out from now on. Whoever is in by it is put out and told `said`, here at once and elsewhere within a moment.
    ///
    /// # Errors
    /// [`Code::Limit`] where as many are kept out as may be, [`Code::Unavailable`].
    pub(crate) async fn bar(&self, bar: Bar, said: &Arc<str>) -> Result<(), Error> {
        let most = self.settings.limits.revocations as u64;
        let barring = Barring { bars: vec![bar], most, said: said.clone(), page: (0, 0) };
        let there = self.store.bar(&barring).await.map_err(|error| self.refuse(error))?;
        if there.refused > 0 {
            let message = format!(
                "as many bans and revocations hold as may be ({most}); `limits.revocations` allows more, or some end by themselves"
            );
            return Err(Error::new(Code::Limit, message));
        }
        self.bars.learn(&barring.bars, said);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
