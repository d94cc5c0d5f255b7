//! Members of a channel: who is there, page by page, and presence on somebody's behalf.

use actix_web::{HttpRequest, HttpResponse, http::header::ETAG, web};
use serde::Deserialize;
use serde_json::{Map, Number, Value};

use super::{
    body::Body,
    etag::Tag,
    listing::Page,
    path::{Channel, Seat},
    query::{Nothing, Query},
};
use crate::{
    domain::principal::Scope,
    doors::{Doors, credentials::Caller, problem::Problem},
};

/// How long a lease lasts where nothing is said, milliseconds.
const TTL_MS: u64 = 60_000;
/// The shortest and the longest lease, milliseconds: below a second nobody can renew in time, and after a day nobody remembers it.
const TTLS_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pages {
    limit: Option<usize>,
    cursor: Option<String>,
}

pub(super) async fn list(
    caller: Caller,
    Channel(channel): Channel,
    Query(pages): Query<Pages>,
    doors: web::Data<Doors>,
    req: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.must_in(Scope::Read, &channel)?;
    let page = Page::of(&doors, &channel, pages.limit, pages.cursor.as_deref()).await?;
    let tag = if pages.limit.is_none() && pages.cursor.is_none() && !page.is_stale() {
        Tag::of(page.version())
    } else {
        Tag::with(page.version(), format!("{} {} {}", page.most(), page.offset(), page.is_stale()).as_bytes())
    };
    if let Some(known) = tag.unless_known(&req) {
        return Ok(known);
    }
    Ok(tag.answer(&page.body()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lease {
    #[serde(default)]
    state: Map<String, Value>,
    #[serde(default = "default_ttl")]
    ttl_ms: Number,
}

pub(super) fn default_ttl() -> Number {
    TTL_MS.into()
}

/// An integer within bounds. JSON has one kind of number, in which `60000.0` is an integer too.
pub(super) fn integer(asked: &Number, bounds: std::ops::RangeInclusive<u64>) -> Option<u64> {
    let integral = asked.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0);
    // A cast of what is out of range gives the nearest, which is out of bounds as well.
    asked.as_u64().or(integral.map(|number| number as u64)).filter(|number| bounds.contains(number))
}

/// How long a lease lasts.
pub(super) fn ttl_ms(asked: &Number) -> Result<u64, String> {
    integer(asked, TTLS_MS).ok_or_else(|| {
        let (least, most) = (TTLS_MS.start(), TTLS_MS.end());
        format!("`ttl_ms` is an integer from {least} to {most}")
    })
}

pub(super) async fn put(
    caller: Caller,
    Seat(channel, user): Seat,
    Query(Nothing {}): Query<Nothing>,
    Body(lease): Body<Lease>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    caller.must_in(Scope::Write, &channel)?;
    let ttl_ms = ttl_ms(&lease.ttl_ms).map_err(|why| Problem::bad_request(format!("the body: {why}")))?;
    let version = doors.core.lease(&channel, &user, lease.state, ttl_ms).await?;
    Ok(HttpResponse::NoContent().insert_header((ETAG, Tag::of(&version).as_str())).finish())
}

pub(super) async fn delete(
    caller: Caller,
    Seat(channel, user): Seat,
    Query(Nothing {}): Query<Nothing>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    caller.must_in(Scope::Write, &channel)?;
    doors.core.end_lease(&channel, &user).await?;
    Ok(HttpResponse::NoContent().finish())
}
