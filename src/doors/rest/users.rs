//! Users: who is online, how, on what and where; when last.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{
    MOST,
    body::Body,
    channels,
    etag::Tag,
    path::User,
    query::{Nothing, Page, Query},
};
use crate::{
    core::Index,
    domain::{name::UserName, person::Choice, principal::Scope},
    doors::{
        Doors,
        credentials::Caller,
        problem::Problem,
        wire::{UserShape, UserStatusShape, check_text},
    },
};

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

pub(super) async fn list(
    caller: Caller,
    Query(page): Query<Page>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    caller.must(Scope::Read)?;
    let (names, next) = channels::names(&doors, Index::Online, &page).await?;
    let names: Vec<UserName> = names.iter().filter_map(|name| UserName::parse(name).ok()).collect();
    let people = if names.is_empty() { Vec::new() } else { doors.core.users(&names).await? };
    let stale = people.iter().any(|info| info.stale);
    // Who left between the two questions is not online.
    let online = people.iter().filter(|info| info.view.status.is_some());
    let users = online.map(|info| Listed { user: &info.user, status: (&info.view).into() }).collect();
    Ok(HttpResponse::Ok().json(List { users, next, stale }))
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
    state: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "given")]
    status: Option<Option<Choice>>,
    text: Option<String>,
    until: Option<u64>,
}

fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Choice>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
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
    if let Some(state) = state {
        doors.core.patch_user_state(&user, &state).await?;
    }
    if let Some(status) = status {
        let text = text.filter(|text| !text.is_empty()).map(Into::into);
        doors.core.choose(&user, status, text, until).await?;
    }
    Ok(HttpResponse::NoContent().finish())
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
