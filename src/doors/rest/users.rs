//! Users: who is online, how, on what and where; when last.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Deserializer, Serialize, de::IntoDeserializer as _};
use serde_json::{Map, Number, Value};

use super::{
    MOST,
    body::Body,
    cursor,
    etag::Tag,
    members::integer,
    path::User,
    query::{Nothing, Page, Query},
};
use crate::{
    core::Sought,
    domain::{
        name::{ChannelName, UserName},
        pattern::Pattern,
        person::{Choice, View},
        principal::Scope,
    },
    doors::{
        Doors,
        credentials::Caller,
        problem::Problem,
        wire::{UserShape, UserStatusShape, check_text},
    },
};

/// 2^53 - 1 milliseconds.
const MAX_MOMENT: u64 = (1 << 53) - 1;

#[derive(Serialize)]
struct Listed<'a> {
    user: &'a UserName,
    #[serde(flatten)]
    status: UserStatusShape<'a>,
}

#[derive(Serialize)]
struct List<'a> {
    users: Vec<Listed<'a>>,
    next: Option<String>,
    stale: bool,
}

/// Which users are listed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    prefix: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
    /// Those too who are not there, as far as something is kept of them.
    offline: Option<bool>,
    /// Those in channels of this pattern.
    pattern: Option<Pattern>,
    /// Those with one of these, separated by commas.
    status: Option<String>,
}

pub(super) async fn list(
    caller: Caller,
    Query(which): Query<Which>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    caller.must(Scope::Read)?;
    let Which { prefix, limit, cursor, offline, pattern, status } = which;
    let page = Page::new(prefix, limit, cursor);
    let with_offline = offline.unwrap_or_default();
    let statuses = status.as_deref().map(parse_statuses).transpose()?;
    if let Some(pattern) = pattern {
        return in_channels(&doors, &pattern, statuses, &page).await;
    }
    let (names, next) = names(&doors, with_offline, &page).await?;
    let people = if names.is_empty() { Vec::new() } else { doors.core.users(&names).await? };
    let stale = people.iter().any(|info| info.stale);
    // Who left between the two questions is not online, and of whom all that was kept is too old nothing is known.
    let listed = people.iter().filter(|info| {
        let View { status, last_seen, last_active, state, .. } = &info.view;
        let is_known = last_seen.is_some() || last_active.is_some() || state.is_some();
        match (status, &statuses) {
            (None, _) => with_offline && is_known && statuses.is_none(),
            (Some(status), Some(wanted)) => wanted.contains(status),
            (Some(_), None) => true,
        }
    });
    let users = listed.map(|info| Listed { user: &info.user, status: (&info.view).into() }).collect();
    Ok(HttpResponse::Ok().json(List { users, next, stale }))
}

/// A page of names, and the cursor of the next.
async fn names(doors: &Doors, with_offline: bool, page: &Page) -> Result<(Vec<UserName>, Option<String>), Problem> {
    let (limit, after, prefix) = (page.limit()?, page.after()?, page.prefix()?);
    let mut names = if with_offline {
        doors.core.users_known(prefix, after.as_deref(), limit + 1).await?
    } else {
        // App servers are told of those too whom nobody else is to see.
        doors.core.users_there(prefix, after.as_deref(), limit + 1).await?
    };
    let has_more = names.len() > limit;
    names.truncate(limit);
    let next = names.last().filter(|_| has_more).map(|last| cursor::after_name(last));
    Ok((names.iter().filter_map(|name| UserName::parse(name).ok()).collect(), next))
}

#[derive(Serialize)]
struct Found<'a> {
    #[serde(flatten)]
    listed: Listed<'a>,
    channels: &'a [ChannelName],
}

#[derive(Serialize)]
struct FoundList<'a> {
    users: Vec<Found<'a>>,
    total: usize,
    next: Option<String>,
    stale: bool,
}

/// Those in the channels of a pattern, each once.
async fn in_channels(
    doors: &Doors,
    pattern: &Pattern,
    statuses: Option<BTreeSet<Choice>>,
    page: &Page,
) -> Result<HttpResponse, Problem> {
    let after = page.after()?;
    let sought = Sought { pattern, statuses, prefix: page.prefix()?, after: after.as_deref(), most: page.limit()? };
    let found = doors.core.users_across(&sought).await?;
    let users = found
        .users
        .iter()
        .map(|(info, channels)| Found { listed: Listed { user: &info.user, status: (&info.view).into() }, channels });
    let next = found.next.as_ref().map(|last| cursor::after_name(last.as_str()));
    Ok(HttpResponse::Ok().json(FoundList { users: users.collect(), total: found.total, next, stale: found.stale }))
}

fn parse_statuses(text: &str) -> Result<BTreeSet<Choice>, Problem> {
    let one = |name: &str| Choice::deserialize(name.into_deserializer());
    let all: Result<_, serde::de::value::Error> = text.split(',').map(one).collect();
    all.map_err(|why| Problem::bad_request(format!("the query: `status`: {why}")))
}

pub(super) async fn one(
    caller: Caller,
    User(user): User,
    Query(Nothing {}): Query<Nothing>,
    doors: web::Data<Doors>,
    req: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.must(Scope::Read)?;
    let people = doors.core.users(std::slice::from_ref(&user)).await?;
    let info = people.first().expect("every user that was asked for is answered");
    let shape = UserShape::from(info);
    // When last seen, and where the connections are, may change without a new version of the roster.
    let tag = Tag::with(&info.version, &serde_json::to_vec(&shape).expect("a user is JSON"));
    if let Some(known) = tag.unless_known(&req) {
        return Ok(known);
    }
    Ok(tag.answer(&shape))
}

pub(super) async fn forget(
    caller: Caller,
    User(user): User,
    Query(Nothing {}): Query<Nothing>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    caller.must(Scope::Write)?;
    doors.core.forget_user(&user).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// What an app server changes of a person. Null takes the chosen status away; a field that is not there changes nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    #[serde(default, deserialize_with = "given")]
    state: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "given")]
    status: Option<Option<Choice>>,
    #[serde(default, deserialize_with = "given")]
    text: Option<String>,
    #[serde(default, deserialize_with = "given")]
    until: Option<Number>,
}

/// A field that is there, null where its type has a null and nowhere else.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

pub(super) async fn change(
    caller: Caller,
    User(user): User,
    Query(Nothing {}): Query<Nothing>,
    Body(Change { state, status, text, until }): Body<Change>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    caller.must(Scope::Write)?;
    check_text(text.as_deref()).map_err(|why| Problem::bad_request(format!("the body: {why}")))?;
    if state.is_none() && status.is_none() {
        return Err(Problem::bad_request("the body: there is neither a `state` nor a `status` to change"));
    }
    if status.is_none() && (text.is_some() || until.is_some()) {
        return Err(Problem::bad_request("the body: `text` and `until` belong to a `status`"));
    }
    let until = until.as_ref().map(moment).transpose()?;
    if let Some(state) = state {
        doors.core.patch_user_state(&user, &state).await?;
    }
    if let Some(status) = status {
        let text = text.filter(|text| !text.is_empty()).map(Into::into);
        doors.core.choose(&user, status, text, until).await?;
    }
    Ok(HttpResponse::NoContent().finish())
}

/// A point in time that every reader of JSON keeps. JSON has one kind of number, in which `7.0` is an integer too.
fn moment(asked: &Number) -> Result<u64, Problem> {
    integer(asked, 0..=MAX_MOMENT)
        .ok_or_else(|| Problem::bad_request(format!("the body: `until` is an integer from 0 to {MAX_MOMENT}")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    users: Vec<UserName>,
}

#[derive(Serialize)]
struct Answered<'a> {
    users: BTreeMap<&'a UserName, UserStatusShape<'a>>,
    stale: bool,
}

pub(super) async fn query(
    caller: Caller,
    Query(Nothing {}): Query<Nothing>,
    Body(Asked { users }): Body<Asked>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    caller.must(Scope::Read)?;
    if users.len() > MOST {
        return Err(Problem::bad_request(format!("the body: `users` has at most {MOST} names")));
    }
    let people = if users.is_empty() { Vec::new() } else { doors.core.users(&users).await? };
    let stale = people.iter().any(|info| info.stale);
    let users = people.iter().map(|info| (&info.user, (&info.view).into())).collect();
    Ok(HttpResponse::Ok().json(Answered { users, stale }))
}
