//! What a session must hear though it asked for nothing. A fixed amount of memory: later notices replace earlier ones.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use tokio::sync::Notify;

use crate::domain::{member::Reason, name::ChannelName};

/// One notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The connection is no longer this session's: close the socket.
    Ended(Reason),
    /// Ask the socket whether it lives, and tell the session when it answers.
    Prove,
    /// Somebody took the connection out of a channel.
    Left(ChannelName, Reason),
}

#[derive(Debug, Default)]
struct Board {
    ended: Option<Reason>,
    prove: bool,
    left: BTreeMap<ChannelName, Reason>,
}

/// The notices of one session. At most one of a kind for each channel.
#[derive(Debug, Default)]
pub struct Notices {
    board: Mutex<Board>,
    wake: Notify,
}

impl Notices {
    /// Waits for the next notice. Cancel-safe.
    pub async fn next(&self) -> Notice {
        loop {
            if let Some(notice) = self.take() {
                return notice;
            }
            self.wake.notified().await;
        }
    }

    fn take(&self) -> Option<Notice> {
        let mut board = self.lock();
        if let Some(reason) = board.ended {
            return Some(Notice::Ended(reason));
        }
        if std::mem::take(&mut board.prove) {
            return Some(Notice::Prove);
        }
        board.left.pop_first().map(|(channel, reason)| Notice::Left(channel, reason))
    }

    pub(crate) fn end(&self, reason: Reason) {
        self.lock().ended.get_or_insert(reason);
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
        self.lock().left.insert(channel, reason);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().expect("nothing panics while it holds the board")
    }
}
