//! REST: the facts asked, and presence on somebody's behalf, for app servers.

mod body;
mod channels;
mod development;
mod etag;
mod heartbeats;
mod members;
mod path;
mod placing;
mod query;
mod revocations;
pub(super) mod stats;
mod users;

pub(super) use self::{
    body::Body,
    query::{Nothing, Query},
};
use actix_web::{HttpResponse, Resource, Route, guard, http::Method, web};

use super::{cursor, listing, listing::MOST, problem::Problem};
use crate::core::Code;

pub(super) const GET: &[Method] = &[Method::GET, Method::HEAD];
pub(super) const POST: &[Method] = &[Method::POST];
const GET_POST: &[Method] = &[Method::GET, Method::HEAD, Method::POST];
const GET_POST_PATCH_DELETE: &[Method] = &[Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::DELETE];
const PUT_DELETE: &[Method] = &[Method::PUT, Method::DELETE];
const GET_PATCH_DELETE: &[Method] = &[Method::GET, Method::HEAD, Method::PATCH, Method::DELETE];
const POST_DELETE: &[Method] = &[Method::POST, Method::DELETE];

/// Every route of REST, and the answer where there is none.
pub fn routes(cfg: &mut web::ServiceConfig) {
    // `query` is a fine name for a channel or a user too: only POST means something else.
    cfg.service(
        resource("/v1/channels/query", GET_POST).route(web::post().to(channels::query)).route(get().to(channels::one)),
    )
    .service(
        resource("/v1/users/query", GET_POST_PATCH_DELETE)
            .route(web::post().to(users::query))
            .route(web::patch().to(users::change))
            .route(get().to(users::one))
            .route(web::delete().to(users::forget)),
    )
    .service(resource("/v1/channels", GET).route(get().to(channels::list)))
    .service(resource("/v1/channels/{channel}", GET).route(get().to(channels::one)))
    .service(resource("/v1/channels/{channel}/members", GET).route(get().to(members::list)))
    .service(
        resource("/v1/channels/{channel}/members/{user}", PUT_DELETE)
            .route(web::put().to(members::put))
            .route(web::delete().to(members::delete)),
    )
    .service(resource("/v1/users", GET).route(get().to(users::list)))
    .service(
        resource("/v1/users/{user}", GET_PATCH_DELETE)
            .route(get().to(users::one))
            .route(web::patch().to(users::change))
            .route(web::delete().to(users::forget)),
    )
    .service(resource("/v1/heartbeats", POST).route(web::post().to(heartbeats::beat)))
    .service(resource("/v1/users/{user}/disconnect", POST).route(web::post().to(revocations::disconnect)))
    .service(
        resource("/v1/users/{user}/channels/{channel}", POST_DELETE)
            .route(web::post().to(placing::join))
            .route(web::delete().to(placing::leave)),
    )
    .service(resource("/v1/revocations", POST).route(web::post().to(revocations::revoke)))
    .service(resource("/v1/stats", GET).route(get().to(stats::with_key)))
    .service(resource("/dev/token", GET).route(get().to(development::token)))
    .default_service(web::to(no_such_route));
}

/// A resource that tells other methods which are right.
pub(super) fn resource(path: &str, allow: &'static [Method]) -> Resource {
    web::resource(path).default_service(web::to(move || async move { Err::<HttpResponse, _>(Problem::method(allow)) }))
}

/// A route for GET, and for HEAD as HTTP has it: the same without the body.
pub(super) fn get() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

pub(super) async fn no_such_route() -> Result<HttpResponse, Problem> {
    Err(Problem::new(Code::NotFound, "there is no such route; /openapi.yaml lists them all"))
}
