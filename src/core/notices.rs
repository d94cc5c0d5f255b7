//! What a session must hear though it asked for nothing. A fixed amount of memory: later notices replace earlier ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{
    sync::Notify,
    time::{Duration, Instant},
};

use super::{sleep_until_some, typers::Typers};
use crate::domain::{
    aside::Towards,
    member::Reason,
    name::{ChannelName, UserName},
};

/// As many channels that an app server wants joined wait for the session; one more is dropped, and whoever asked for it finds it missing.
const JOINS: usize = 16;

/// Why a session is put out, whatever becomes of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Out {
    /// Somebody who may put it out.
    Kicked,
    /// The user may not be in for a while.
    Banned,
    /// The token does not hold any more.
    Revoked,
}

/// One notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The connection is no longer this session's: close the socket.
    Ended(Reason),
    /// Close the socket, and leave with [`Reason::Kicked`]. The text is what it is told; it may be empty.
    PutOut(Out, Arc<str>),
    /// Ask the socket whether it lives, and tell the session when it answers.
    Prove,
    /// Somebody took the connection out of a channel.
    Left(ChannelName, Reason),
    /// An app server has the connection join a channel, with this state as JSON; without one that of whoever is there stays.
    Join(ChannelName, Option<Arc<str>>),
}

/// Somebody has begun or ended to type towards the session's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typing {
    /// The session's user.
    pub to: UserName,
    /// Who.
    pub by: UserName,
    /// Whether it has begun.
    pub typing: bool,
}

/// Who types towards the session's user, and of whom the session knows it. What changes back meanwhile is not told.
#[derive(Debug, Default)]
struct Typists {
    to: Option<UserName>,
    typers: Typers,
    told: BTreeSet<UserName>,
}

impl Typists {
    fn take(&mut self) -> Option<Typing> {
        self.typers.end_due(Instant::now());
        let to = self.to.clone()?;
        if let Some(by) = self.told.iter().find(|user| !self.typers.has(user)).cloned() {
            self.told.remove(&by);
            return Some(Typing { to, by, typing: false });
        }
        let by = self.typers.users().find(|user| !self.told.contains(*user)).cloned()?;
        self.told.insert(by.clone());
        Some(Typing { to, by, typing: true })
    }
}

#[derive(Debug, Default)]
struct Board {
    ended: Option<Notice>,
    prove: bool,
    left: BTreeMap<ChannelName, Reason>,
    joins: BTreeMap<ChannelName, Option<Arc<str>>>,
}

/// The notices of one session. At most one of a kind for each channel, and of typing one for each who may type towards one user.
#[derive(Debug, Default)]
pub struct Notices {
    board: Mutex<Board>,
    wake: Notify,
    typists: Mutex<Typists>,
    typing: Notify,
}

impl Notices {
    /// Waits for the next notice. Cancel-safe.
    pub async fn next(&self) -> Notice {
        self.next_where(true).await
    }

    /// The same while the session is busy: what is about its channels stays on the board until it is back. Cancel-safe.
    pub async fn next_urgent(&self) -> Notice {
        self.next_where(false).await
    }

    async fn next_where(&self, is_free: bool) -> Notice {
        loop {
            if let Some(notice) = self.take(is_free) {
                return notice;
            }
            self.wake.notified().await;
        }
    }

    /// Waits until somebody has begun or ended to type towards the user. Apart from the rest: who does not read need not be told. Cancel-safe.
    pub async fn next_typing(&self) -> Typing {
        loop {
            let next_at = {
                let mut typists = self.typists.lock().expect("nothing panics while it holds them");
                match typists.take() {
                    Some(typing) => return typing,
                    None => typists.typers.next_at(),
                }
            };
            tokio::select! {
                biased;
                () = self.typing.notified() => {}
                () = sleep_until_some(next_at) => {}
            }
        }
    }

    /// Somebody types towards the user, for so long if nothing more is heard of it, or does so no more.
    pub(crate) fn typing(&self, towards: &Towards, lasts: Duration) {
        let Towards { to, by, connection, typing } = towards;
        let mut typists = self.typists.lock().expect("nothing panics while it holds them");
        typists.to = Some(to.clone());
        // What is over by time makes room, also where nobody has looked since.
        let now = Instant::now();
        typists.typers.end_due(now);
        if *typing {
            typists.typers.begin(by, connection, now + lasts);
        } else {
            typists.typers.end(by, connection);
        }
        drop(typists);
        self.typing.notify_one();
    }

    fn take(&self, is_free: bool) -> Option<Notice> {
        let mut board = self.lock();
        if let Some(ended) = &board.ended {
            return Some(ended.clone());
        }
        if std::mem::take(&mut board.prove) {
            return Some(Notice::Prove);
        }
        if !is_free {
            return None;
        }
        if let Some((channel, reason)) = board.left.pop_first() {
            return Some(Notice::Left(channel, reason));
        }
        board.joins.pop_first().map(|(channel, state)| Notice::Join(channel, state))
    }

    pub(crate) fn end(&self, reason: Reason) {
        self.lock().ended.get_or_insert(Notice::Ended(reason));
        self.wake.notify_one();
    }

    pub(crate) fn put_out(&self, why: Out, said: Arc<str>) {
        self.lock().ended.get_or_insert(Notice::PutOut(why, said));
        self.wake.notify_one();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.lock().ended.is_some()
    }

    pub(crate) fn ask_for_proof(&self) {
        self.lock().prove = true;
        self.wake.notify_one();
    }

    pub(crate) fn left(&self, channel: ChannelName, reason: Reason) {
        let mut board = self.lock();
        // It was to join before it was taken out.
        board.joins.remove(&channel);
        board.left.insert(channel, reason);
        drop(board);
        self.wake.notify_one();
    }

    pub(crate) fn join(&self, channel: ChannelName, state: Option<Arc<str>>) {
        let mut board = self.lock();
        if board.joins.len() < JOINS || board.joins.contains_key(&channel) {
            board.joins.insert(channel, state);
        }
        drop(board);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().expect("nothing panics while it holds the board")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    #[test]
    fn what_is_about_channels_waits_until_the_session_is_back() {
        let notices = Notices::default();
        notices.left(channel("a"), Reason::Kicked);
        notices.join(channel("b"), None);
        assert_eq!(notices.next_urgent().now_or_never(), None);
        notices.ask_for_proof();
        assert_eq!(notices.next_urgent().now_or_never(), Some(Notice::Prove));
        assert_eq!(notices.next().now_or_never(), Some(Notice::Left(channel("a"), Reason::Kicked)));
        assert_eq!(notices.next().now_or_never(), Some(Notice::Join(channel("b"), None)));
        assert_eq!(notices.next().now_or_never(), None);
    }

    #[test]
    fn who_is_put_out_twice_is_told_the_first_reason() {
        let notices = Notices::default();
        notices.put_out(Out::Banned, "enough".into());
        notices.end(Reason::Kicked);
        assert_eq!(notices.next_urgent().now_or_never(), Some(Notice::PutOut(Out::Banned, "enough".into())));
    }

    #[test]
    fn only_so_many_channels_wait_to_be_joined() {
        let notices = Notices::default();
        for number in 0..100 {
            notices.join(channel(&format!("c{number}")), None);
        }
        notices.left(channel("c0"), Reason::Kicked);
        let waiting: Vec<Notice> = std::iter::from_fn(|| notices.next().now_or_never()).collect();
        assert_eq!(waiting.len(), JOINS, "one has left, the others join");
        assert_eq!(waiting[0], Notice::Left(channel("c0"), Reason::Kicked));
    }
}
