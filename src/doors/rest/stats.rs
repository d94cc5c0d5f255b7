//! Counts over everything.

use actix_web::{HttpResponse, web};
use serde::Serialize;

use super::query::{Nothing, Query};
use crate::{
    domain::principal::Scope,
    doors::{Doors, credentials::Caller, problem::Problem},
};

#[derive(Serialize)]
struct Stats<'a> {
    users: u64,
    connections: u64,
    channels: u64,
    instances: Vec<Instance<'a>>,
}

#[derive(Serialize)]
struct Instance<'a> {
    instance: &'a str,
    connections: u64,
    version: &'a str,
}

pub(super) async fn with_key(
    caller: Caller,
    nothing: Query<Nothing>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    caller.must(Scope::Read)?;
    open(nothing, doors).await
}

pub(in crate::doors) async fn open(_: Query<Nothing>, doors: web::Data<Doors>) -> Result<HttpResponse, Problem> {
    let totals = doors.core.totals().await?;
    let instances = totals.instances.iter().map(|(generation, version, connections)| Instance {
        instance: &generation.instance,
        connections: *connections,
        version,
    });
    Ok(HttpResponse::Ok().json(Stats {
        users: totals.users,
        connections: totals.instances.iter().map(|(_, _, connections)| connections).sum(),
        channels: totals.channels,
        instances: instances.collect(),
    }))
}
