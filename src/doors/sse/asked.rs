//! What a listener asks for: the parameters of `GET /v1/events`.

use actix_web::http::header::HeaderMap;
use serde::Deserialize;

use super::event;
use crate::{
    domain::{level::Level, name::ChannelName, version::Version},
    doors::problem::Problem,
};

/// The parameters as they come.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    channel: Option<ChannelName>,
    level: Option<Level>,
    last_event_id: Option<String>,
    ticket: Option<String>,
}

/// What they mean.
#[derive(Debug)]
pub struct Asked {
    /// What is listened to.
    pub wanted: Wanted,
    /// The way in, where it is none of a header.
    pub ticket: Option<String>,
}

/// What is listened to.
#[derive(Debug)]
pub enum Wanted {
    /// One channel, which can be gone on with.
    Channel {
        /// Which.
        channel: ChannelName,
        /// How much of it.
        level: Level,
        /// Only what came after this, if that is known.
        since: Option<Version>,
    },
}

impl Parameters {
    /// Reads them, with the id of the last event that a browser sends when it comes back.
    ///
    /// # Errors
    /// A sentence that says which parameters do not go together.
    pub fn read(self, headers: &HeaderMap) -> Result<Asked, Problem> {
        let bad = |why: &str| Problem::bad_request(format!("the query: {why}"));
        let Some(channel) = self.channel else {
            return Err(bad("one of `channel`, `users`, `pattern` and `all_users` says what to listen to"));
        };
        let by_hand = self
            .last_event_id
            .as_deref()
            .map(|id| event::parse_id(id).ok_or_else(|| bad("`last_event_id` is the id of an event: `epoch:version`")));
        let by_hand = by_hand.transpose()?;
        // What a browser sends is newer than what stands in the address that it uses each time. An id of something else is as good as none.
        let header = headers.get("last-event-id").and_then(|id| event::parse_id(id.to_str().ok()?));
        let level = self.level.unwrap_or_default();
        Ok(Asked { wanted: Wanted::Channel { channel, level, since: header.or(by_hand) }, ticket: self.ticket })
    }
}
