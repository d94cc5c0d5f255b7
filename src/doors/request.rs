//! What every request has in common, whichever door it takes: an id, a line in the log, and headers that keep browsers careful.

use std::sync::Arc;

use actix_web::{
    HttpMessage as _,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    middleware::Next,
};
use tokio::time::Instant;
use tracing::{Instrument as _, debug, field::Empty, info_span, warn};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken over from a caller, characters.
const ID_CHARS: usize = 64;

/// By what a request is found in the logs of everybody who passed it on. Stands in the request's extensions.
#[derive(Debug, Clone)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// The caller's id, where it is one that may stand in a log; else a random one.
    fn of(req: &ServiceRequest) -> Self {
        let is_sane = |id: &&str| {
            (1..=ID_CHARS).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let given = req.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(is_sane);
        Self(given.map_or_else(|| format!("{:016x}", rand::random::<u64>()).into(), Arc::from))
    }
}

/// Gives the request an id and a span, and the answer its headers. Logs the route and not the path, in which names stand.
///
/// # Errors
/// What the rest of the application fails with.
pub async fn observe(
    req: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let began = Instant::now();
    let id = RequestId::of(&req);
    let method = req.method().clone();
    req.extensions_mut().insert(id.clone());
    let span = info_span!("request", id = &*id.0, method = method.as_str(), route = Empty);
    let mut answered = next.call(req).instrument(span.clone()).await?;
    let route = answered.request().match_pattern();
    span.record("route", route.as_deref().unwrap_or("none"));
    let status = answered.status();
    let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    // 503 is how a known outage shows, once for every caller: the outage itself is logged where it is noticed.
    if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        span.in_scope(|| warn!(status = status.as_u16(), us, "a request failed"));
    } else {
        span.in_scope(|| debug!(status = status.as_u16(), us, "answered"));
    }
    let headers = answered.headers_mut();
    let id = HeaderValue::from_str(&id.0).expect("an id has letters and digits");
    headers.insert(REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    Ok(answered)
}
