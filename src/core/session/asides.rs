//! What a session says in passing: that its user types, and signals.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Reply, Session, forbidden, not_joined};
use crate::{
    core::{
        asides::Addressee,
        error::{Code, Error},
    },
    domain::{
        aside::{Said, What},
        name::{ChannelName, UserName},
        principal::allows,
        time::wall_now_ms,
    },
};

/// To so many a session remembers to say that it types no more; to others that ends by time.
const REMEMBERED: usize = 64;

impl Session {
    pub(super) async fn types(&mut self, addressee: Addressee, typing: bool) -> Result<Reply, Error> {
        let user = self.speaker()?;
        match &addressee {
            Addressee::Channel(channel) => {
                self.core.settings.check_presence(channel)?;
                if !allows(&self.can(channel).typing, channel.as_str()) {
                    return Err(forbidden(format!(
                        "this token may not say that its user types in `{channel}`; `can.typing` names where it may"
                    )));
                }
                if !self.channels.contains_key(channel) {
                    return Err(not_joined(channel));
                }
            }
            Addressee::User(to) => self.may_see(to)?,
        }
        let now = Instant::now();
        self.typing.retain(|_, until| *until > now);
        if typing {
            if self.core.ledger.is_hidden(&user) {
                // Nobody is there who could type.
                return Ok(Reply::Done);
            }
            if self.typing.len() < REMEMBERED || self.typing.contains_key(&addressee) {
                self.typing.insert(addressee.clone(), now + self.core.typing_lasts());
            }
        } else if self.typing.remove(&addressee).is_none() {
            return Ok(Reply::Done);
        }
        self.core.say_typing(&user, &self.connection, addressee, typing).await?;
        Ok(Reply::Done)
    }

    pub(super) async fn send(&mut self, channel: ChannelName, data: Arc<RawValue>, echo: bool) -> Result<Reply, Error> {
        let user = self.speaker()?;
        self.core.settings.check_presence(&channel)?;
        if !allows(&self.can(&channel).send, channel.as_str()) {
            return Err(forbidden(format!("this token may not send to `{channel}`; `can.send` names where it may")));
        }
        let (most, size) = (self.core.settings.limits.signal_bytes, data.get().len());
        if size > most {
            let message = format!("a signal has at most {most} bytes of JSON; this one has {size}");
            return Err(Error::new(Code::TooLarge, message));
        }
        if self.core.ledger.is_hidden(&user) {
            return Err(Error::new(
                Code::Conflict,
                "whoever is invisible sends no signal, for it would tell others who it is; choose another status first",
            ));
        }
        let what = What::Signal { data, time: wall_now_ms(), echo };
        self.core.say(&channel, &Said { user, connection: self.connection.clone(), what }).await?;
        Ok(Reply::Done)
    }

    /// That the session is over ends what its user was typing.
    pub(super) fn stop_typing(&mut self) {
        let (typing, now) = (std::mem::take(&mut self.typing), Instant::now());
        if let Some(user) = self.user.clone()
            && typing.values().any(|until| *until > now)
        {
            self.core.end_typing(user, self.connection.clone(), typing.into_keys());
        }
    }

    fn speaker(&self) -> Result<UserName, Error> {
        self.present()?;
        Ok(self.user.clone().expect("whoever is present is a user"))
    }
}
