//! What a listener asks for: the parameters of `GET /v1/events`.

use actix_web::http::header::HeaderMap;
use serde::Deserialize;

use super::event;
use crate::{
    domain::{
        level::Level,
        name::{ChannelName, UserName},
        pattern::Pattern,
    },
    doors::{problem::Problem, watching::Wanted},
};

/// The parameters as they come.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    channel: Option<ChannelName>,
    /// Names, separated by commas.
    users: Option<String>,
    /// True: everybody.
    all_users: Option<bool>,
    pattern: Option<Pattern>,
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

impl Parameters {
    /// Reads them, with the id of the last event that a browser sends when it comes back.
    ///
    /// # Errors
    /// A sentence that says which parameters do not go together.
    pub fn read(self, headers: &HeaderMap) -> Result<Asked, Problem> {
        let bad = |why: &str| Problem::bad_request(format!("the query: {why}"));
        if self.level.is_some() && self.channel.is_none() && self.pattern.is_none() {
            return Err(bad("`level` belongs to a `channel` or a `pattern`"));
        }
        if self.last_event_id.is_some() && self.channel.is_none() {
            return Err(bad("`last_event_id` belongs to a `channel`"));
        }
        let level = self.level.unwrap_or_default();
        let wanted = match (self.channel, self.users, self.pattern, self.all_users) {
            (Some(channel), None, None, None) => {
                let by_hand = self.last_event_id.as_deref().map(|id| {
                    event::parse_id(id).ok_or_else(|| bad("`last_event_id` is the id of an event: `epoch:version`"))
                });
                let by_hand = by_hand.transpose()?;
                // What a browser sends is newer than what stands in the address that it uses each time. An id of something else is as good as none.
                let header = headers.get("last-event-id").and_then(|id| event::parse_id(id.to_str().ok()?));
                Wanted::Channel { channel, level, since: header.or(by_hand) }
            }
            (None, Some(users), None, None) => Wanted::Users(names(&users)?),
            (None, None, Some(pattern), None) => Wanted::Pattern { pattern, level },
            (None, None, None, Some(true)) => Wanted::Everybody,
            (None, None, None, Some(false)) => return Err(bad("`all_users` is `true` or left out")),
            _ => return Err(bad("one of `channel`, `users`, `pattern` and `all_users` says what to listen to")),
        };
        Ok(Asked { wanted, ticket: self.ticket })
    }
}

/// Names with commas between them. One that has a comma itself cannot be asked for here.
fn names(text: &str) -> Result<Vec<UserName>, Problem> {
    let name =
        |name: &str| UserName::parse(name).map_err(|why| Problem::bad_request(format!("the query: `users`: {why}")));
    text.split(',').map(name).collect()
}
