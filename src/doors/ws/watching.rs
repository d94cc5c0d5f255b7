//! Watches of a socket beside those of single channels.

use super::{socket::Socket, sought::Sought};
use crate::{
    core::{Code, Error},
    domain::name::UserName,
};

impl Socket {
    /// A watch over something else than a channel begins or grows.
    pub(super) fn watch_more(&mut self, id: Option<u64>, sought: Sought) {
        let done = match sought {
            Sought::Users(users) => self.watch_users(&users),
            Sought::Channel { .. } => unreachable!("a channel is watched by the session"),
        };
        match done {
            Ok(body) => self.answer(id, &body),
            Err(error) => self.refuse(id, &error),
        }
    }

    /// One ends or gets smaller.
    pub(super) fn watch_less(&mut self, id: Option<u64>, sought: Sought) {
        let done = match sought {
            Sought::Channel { channel, .. } => match self.outbox.unwatch(&channel) {
                true => Ok(serde_json::json!({ "channel": channel })),
                false => Err(not_watched(channel.as_str())),
            },
            Sought::Users(users) => {
                Ok(serde_json::json!({ "watching": self.outbox.users().map_or(0, |watch| watch.remove(&users)) }))
            }
        };
        match done {
            Ok(body) => self.answer(id, &body),
            Err(error) => self.refuse(id, &error),
        }
    }

    fn watch_users(&mut self, users: &[UserName]) -> Result<serde_json::Value, Error> {
        let session = self.session.as_ref().expect("nothing is watched before the hello");
        for user in users {
            session.may_see(user)?;
        }
        let watch = self.outbox.begin_users(|wake| session.user_watch(wake));
        let watching = watch.add(users, self.doors.limits.watched_users)?;
        Ok(serde_json::json!({ "watching": watching }))
    }
}

fn not_watched(what: &str) -> Error {
    Error::new(Code::Conflict, format!("`{what}` is not watched"))
}
