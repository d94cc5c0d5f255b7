//! App servers put the connections of a user into a channel, and take them out.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    body::Body,
    path::Place,
    query::{Nothing, Query},
    revocations::{Connections, came_to},
};
use crate::{
    domain::principal::Scope,
    doors::{Doors, credentials::Caller, problem::Problem},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Joining {
    state: Option<Map<String, Value>>,
}

pub(super) async fn join(
    caller: Caller,
    Place(user, channel): Place,
    Query(Nothing {}): Query<Nothing>,
    Body(Joining { state }): Body<Joining>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    caller.must_in(Scope::Write, &channel)?;
    let connections = doors.core.place(&user, &channel, state).await?;
    Ok(HttpResponse::Ok().json(Connections { connections }))
}

pub(super) async fn leave(
    caller: Caller,
    Place(user, channel): Place,
    Query(Nothing {}): Query<Nothing>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    caller.must_in(Scope::Write, &channel)?;
    let displaced = doors.core.displace(&user, &channel).await;
    doors.audit.displaced(caller.name(), &user, &channel, came_to(&displaced));
    Ok(HttpResponse::Ok().json(Connections { connections: displaced? }))
}
