//! For those who run the service: liveness, readiness, metrics, and the description of REST.

use actix_web::{HttpResponse, http::StatusCode, web};
use serde::Serialize;

use super::{Doors, credentials::Caller, problem::Problem, rest};
use crate::{core::Readiness, domain::principal::Scope};

const SPECIFICATION: &str = include_str!("../../openapi.yaml");
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The routes on the main port: what says more than whether it works wants a key.
pub fn routes(cfg: &mut web::ServiceConfig) {
    both(cfg);
    cfg.service(rest::resource("/metrics", rest::GET).route(rest::get().to(metrics_with_key)))
        .service(rest::resource("/openapi.yaml", rest::GET).route(rest::get().to(specification)));
}

/// The routes on the port of operations, which is for friends: nothing wants a key.
pub fn open_routes(cfg: &mut web::ServiceConfig) {
    both(cfg);
    cfg.service(rest::resource("/metrics", rest::GET).route(rest::get().to(metrics)))
        .service(rest::resource("/v1/stats", rest::GET).route(rest::get().to(rest::stats::open)))
        .default_service(web::to(rest::no_such_route));
}

fn both(cfg: &mut web::ServiceConfig) {
    cfg.service(rest::resource("/livez", rest::GET).route(rest::get().to(live)))
        .service(rest::resource("/readyz", rest::GET).route(rest::get().to(ready)));
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Health { status: "live", reason: None })
}

/// A balancer takes away who is not ready. With the store away none is better than another, so all stay and say why they are degraded.
async fn ready(doors: web::Data<Doors>) -> HttpResponse {
    let is_draining = *doors.draining.borrow();
    let (code, status, reason) = match doors.core.readiness() {
        _ if is_draining => (StatusCode::SERVICE_UNAVAILABLE, "draining", None),
        Readiness::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting", None),
        Readiness::Ready => (StatusCode::OK, "ready", None),
        Readiness::Degraded => (StatusCode::OK, "degraded", Some("the store of presence is out of reach")),
        Readiness::Settling => {
            (StatusCode::OK, "degraded", Some("the store of presence has lost its memory and settles"))
        }
    };
    HttpResponse::build(code).json(Health { status, reason })
}

async fn metrics_with_key(caller: Caller, doors: web::Data<Doors>) -> Result<HttpResponse, Problem> {
    caller.must(Scope::Read)?;
    Ok(metrics(doors).await)
}

async fn metrics(doors: web::Data<Doors>) -> HttpResponse {
    HttpResponse::Ok().content_type(METRICS).body(doors.core.scrape())
}

async fn specification() -> HttpResponse {
    HttpResponse::Ok().content_type("application/yaml").body(SPECIFICATION)
}
