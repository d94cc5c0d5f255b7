//! What can be watched, for every door, and watches beside those of single channels: over users, everybody, and the channels of a pattern.

use super::outbox::Outbox;
use crate::{
    core::{Code, Error, Session},
    domain::{
        level::Level,
        name::{ChannelName, UserName},
        pattern::Pattern,
        settings::Limits,
        version::Version,
    },
};

/// What somebody wants to be told about, or no more.
#[derive(Debug)]
pub enum Wanted {
    /// One channel; to watch it, how much, and only what came after `since`.
    Channel {
        /// Which.
        channel: ChannelName,
        /// How much.
        level: Level,
        /// After what, if that is known.
        since: Option<Version>,
    },
    /// How these users are.
    Users(Vec<UserName>),
    /// How everybody is: who comes and goes.
    Everybody,
    /// The occupied channels that a pattern means.
    Pattern {
        /// Which.
        pattern: Pattern,
        /// How much of each.
        level: Level,
    },
}

/// Watches these users too. Returns how many are watched by name then.
///
/// # Errors
/// Where the caller may not see one of them, or would watch too many; then nobody is added.
pub fn users(session: &Session, outbox: &mut Outbox, limits: &Limits, users: &[UserName]) -> Result<usize, Error> {
    for user in users {
        session.may_see(user)?;
    }
    outbox.begin_users(|wake| session.user_watch(wake)).add(users, limits.watched_users)
}

/// Watches everybody.
///
/// # Errors
/// Where the caller may not.
pub fn everybody(session: &Session, outbox: &mut Outbox) -> Result<(), Error> {
    session.may_see_all()?;
    outbox.begin_users(|wake| session.user_watch(wake)).watch_all();
    Ok(())
}

/// Watches everybody no more.
///
/// # Errors
/// [`Code::Conflict`] where the caller does not.
pub fn not_everybody(outbox: &Outbox) -> Result<(), Error> {
    match outbox.users().is_some_and(|watch| watch.unwatch_all()) {
        true => Ok(()),
        false => Err(Error::new(Code::Conflict, "`all_users` is not watched")),
    }
}

/// Whether another pattern may be watched, or this one again.
///
/// # Errors
/// [`Code::Limit`].
pub fn may_watch_pattern(outbox: &Outbox, limits: &Limits, pattern: &Pattern) -> Result<(), Error> {
    let most = limits.watched_patterns;
    if outbox.patterns_watched() < most || outbox.watches_pattern(pattern) {
        return Ok(());
    }
    Err(Error::new(Code::Limit, format!("a connection watches at most {most} patterns; unwatch one first")))
}
