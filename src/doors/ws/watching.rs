//! Watches of a socket beside those of single channels.

use serde_json::{Value, json};

use super::socket::Socket;
use crate::{
    core::{Code, Command, Error},
    doors::watching::{self, Wanted},
};

impl Socket {
    /// A watch over something else than a channel begins or grows.
    pub(super) fn watch_more(&mut self, id: Option<u64>, wanted: Wanted) {
        if let Wanted::Pattern { pattern, level } = wanted {
            match watching::may_watch_pattern(&self.outbox, &self.doors.limits, &pattern) {
                Ok(()) => self.start(id, Command::WatchPattern { pattern, level }),
                Err(error) => self.refuse(id, &error),
            }
            return;
        }
        let done = self.begin_watching(wanted);
        self.tell(id, done);
    }

    /// One ends or gets smaller.
    pub(super) fn watch_less(&mut self, id: Option<u64>, wanted: Wanted) {
        let done = match wanted {
            Wanted::Channel { channel, .. } => match self.outbox.unwatch(&channel) {
                true => Ok(json!({ "channel": channel })),
                false => Err(Error::new(Code::Conflict, format!("`{channel}` is not watched"))),
            },
            Wanted::Users(users) => {
                Ok(json!({ "watching": self.outbox.users().map_or(0, |watch| watch.remove(&users)) }))
            }
            Wanted::Pattern { pattern, .. } => match self.outbox.unwatch_pattern(&pattern) {
                true => Ok(json!({ "pattern": pattern })),
                false => Err(Error::new(Code::Conflict, format!("`{}` is not watched", pattern.as_str()))),
            },
            Wanted::Everybody => watching::not_everybody(&self.outbox).map(|()| json!({ "all_users": false })),
        };
        self.tell(id, done);
    }

    fn begin_watching(&mut self, wanted: Wanted) -> Result<Value, Error> {
        let session = self.session.as_ref().expect("nothing is watched before the hello");
        match wanted {
            Wanted::Channel { .. } | Wanted::Pattern { .. } => unreachable!("channels are watched by the session"),
            Wanted::Users(users) => {
                let count = watching::users(session, &mut self.outbox, &self.doors.limits, &users)?;
                Ok(json!({ "watching": count }))
            }
            Wanted::Everybody => {
                watching::everybody(session, &mut self.outbox)?;
                Ok(json!({ "all_users": true }))
            }
        }
    }

    fn tell(&mut self, id: Option<u64>, done: Result<Value, Error>) {
        match done {
            Ok(body) => self.answer(id, &body),
            Err(error) => self.refuse(id, &error),
        }
    }
}
