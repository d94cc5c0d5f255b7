//! What a client wants to be told about, or no more: a channel, users, everybody, the channels of a pattern.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::wire::{Channel, MOST_USERS, SinceShape, shape};
use crate::{
    core::{Code, Error},
    domain::{
        level::Level,
        name::UserName,
        pattern::Pattern,
        version::{Epoch, Version},
    },
    doors::watching::Wanted,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WatchShape {
    channel: Option<Channel>,
    users: Option<Vec<UserName>>,
    all_users: Option<bool>,
    pattern: Option<String>,
    level: Option<Level>,
    since: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnwatchShape {
    channel: Option<Channel>,
    users: Option<Vec<UserName>>,
    all_users: Option<bool>,
    pattern: Option<String>,
}

/// Reads the fields of `watch`.
///
/// # Errors
/// [`Code::BadRequest`] and [`Code::TooLarge`].
pub fn watch(object: Map<String, Value>) -> Result<Wanted, Error> {
    let WatchShape { channel, users, all_users, pattern, level, since } = shape(object).map_err(bad)?;
    if since.is_some() && channel.is_none() {
        return Err(bad("`since` belongs to a `channel`"));
    }
    if level.is_some() && channel.is_none() && pattern.is_none() {
        return Err(bad("`level` belongs to a `channel` or a `pattern`"));
    }
    let level = level.unwrap_or_default();
    let wanted = wanted(channel, users, all_users, pattern, level)?;
    let since = since.map(shape::<SinceShape>).transpose().map_err(|why| bad(format!("`since`: {why}")))?;
    Ok(match wanted {
        Wanted::Channel { channel, .. } => {
            // Without a list there is nothing to go on from where lists are told.
            let since = since.filter(|since| since.mode.has_lists() || level == Level::Occupancy);
            let since = since.map(|since| Version { epoch: Epoch::new(&since.epoch), number: since.version });
            Wanted::Channel { channel, level, since }
        }
        other => other,
    })
}

/// Reads the fields of `unwatch`.
///
/// # Errors
/// As those of [`watch`].
pub fn unwatch(object: Map<String, Value>) -> Result<Wanted, Error> {
    let UnwatchShape { channel, users, all_users, pattern } = shape(object).map_err(bad)?;
    wanted(channel, users, all_users, pattern, Level::default())
}

fn wanted(
    channel: Option<Channel>,
    users: Option<Vec<UserName>>,
    all_users: Option<bool>,
    pattern: Option<String>,
    level: Level,
) -> Result<Wanted, Error> {
    match (channel, users, all_users, pattern) {
        (Some(channel), None, None, None) => Ok(Wanted::Channel { channel: channel.0, level, since: None }),
        (None, Some(users), None, None) if users.len() > MOST_USERS => {
            Err(Error::new(Code::TooLarge, format!("`users` has at most {MOST_USERS} names")))
        }
        (None, Some(users), None, None) => Ok(Wanted::Users(users)),
        (None, None, Some(true), None) => Ok(Wanted::Everybody),
        (None, None, Some(false), None) => Err(bad("`all_users` is true; `unwatch` takes it back")),
        (None, None, None, Some(pattern)) => {
            let pattern = Pattern::parse(&pattern).map_err(|why| bad(format!("`pattern`: {why}")))?;
            Ok(Wanted::Pattern { pattern, level })
        }
        _ => Err(bad("one of `channel`, `users`, `all_users` and `pattern` says what")),
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadRequest, message)
}
