//! What only development mode gives: tokens for whoever asks, so that the page works without a server of its own.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::{no_such_route, query::Query};
use crate::{
    auth::Request,
    domain::{name::UserName, time::wall_now_ms},
    doors::{Doors, problem::Problem},
};

/// How long such a token counts, milliseconds: a working day.
const TTL_MS: u64 = 12 * 3_600_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    user: Option<UserName>,
}

#[derive(Serialize)]
struct Answered {
    token: String,
}

pub(super) async fn token(doors: web::Data<Doors>, req: actix_web::HttpRequest) -> Result<HttpResponse, Problem> {
    let Some(issuer) = doors.issuer.as_ref().filter(|_| doors.is_development) else { return no_such_route().await };
    let Asked { user } = Query::of(&req)?;
    let request = Request { user, can: None, ttl_ms: TTL_MS };
    Ok(HttpResponse::Ok().json(Answered { token: issuer.mint(&request, wall_now_ms()) }))
}
