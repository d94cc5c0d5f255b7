//! What `get` answers: the bodies of REST.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    core::{Error, Session},
    domain::name::{ChannelName, UserName},
    doors::{
        Doors,
        listing::Page,
        wire::{ChannelShape, UserStatusShape},
    },
};

#[derive(Serialize)]
struct Answered<'a> {
    users: BTreeMap<&'a UserName, UserStatusShape<'a>>,
}

/// The body of `GET /v1/channels/{channel}`.
///
/// # Errors
/// Not allowed, or not available.
pub async fn channel(doors: &Doors, session: &Session, channel: &ChannelName) -> Result<Box<RawValue>, Error> {
    session.may_watch(channel)?;
    let counts = doors.core.counts(std::slice::from_ref(channel)).await?;
    let count = counts.first().expect("every channel that was asked for is answered");
    Ok(to_raw_value(&ChannelShape::new(channel, count)).expect("counts are JSON"))
}

/// The body of `GET /v1/channels/{channel}/members`.
///
/// # Errors
/// Not allowed, no such page, or not available.
pub async fn members(
    doors: &Doors,
    session: &Session,
    channel: &ChannelName,
    limit: Option<usize>,
    cursor: Option<&str>,
) -> Result<Box<RawValue>, Error> {
    session.may_list(channel)?;
    let page = Page::of(doors, channel, limit, cursor).await?;
    Ok(to_raw_value(&page.body()).expect("members are JSON"))
}

/// The body of `POST /v1/users/query`, as others see these users; oneself is told the truth.
///
/// # Errors
/// Not allowed for one of them, or not available.
pub async fn users(doors: &Doors, session: &Session, users: &[UserName]) -> Result<Box<RawValue>, Error> {
    for user in users {
        session.may_see(user)?;
    }
    let views = doors.core.views(users, session.user()).await?;
    let by_name: BTreeMap<&UserName, UserStatusShape<'_>> =
        users.iter().zip(views.iter().map(UserStatusShape::from)).collect();
    Ok(to_raw_value(&Answered { users: by_name }).expect("statuses are JSON"))
}
