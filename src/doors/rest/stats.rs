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
    joins: u64,
    leaves: u64,
    instances: Vec<Instance<'a>>,
}

#[derive(Serialize)]
struct Instance<'a> {
    instance: &'a str,
    generation: u64,
    connections: u64,
    version: &'a str,
    lease_ms: u64,
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
    let instances = totals.instances.iter().map(|one| Instance {
        instance: &one.generation.instance,
        generation: one.generation.number,
        connections: one.connections,
        version: &one.version,
        lease_ms: one.lease_ms,
    });
    Ok(HttpResponse::Ok().json(Stats {
        users: totals.users,
        connections: totals.instances.iter().map(|one| one.connections).sum(),
        channels: totals.channels,
        joins: totals.joins,
        leaves: totals.leaves,
        instances: instances.collect(),
    }))
}
