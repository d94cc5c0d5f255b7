//! Server-sent events: `GET /v1/events`, the native events for those who only listen.

mod asked;
mod event;
mod pipe;
mod stream;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, header},
    middleware::from_fn,
    web,
};
use tracing::Instrument as _;

use self::{asked::Parameters, stream::Stream};
use super::{
    Doors, cors, credentials,
    pass::Pass,
    problem::Problem,
    rest::{self, Query},
    tickets,
};
use crate::core::Error;

/// Adds the route.
pub fn routes(cfg: &mut web::ServiceConfig) {
    cfg.service(rest::resource("/v1/events", rest::GET).route(rest::get().to(open)).wrap(from_fn(cors::for_pages)));
}

/// Everything that can be refused with a status is refused before the stream begins.
async fn open(
    req: HttpRequest,
    Query(parameters): Query<Parameters>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    if *doors.draining.borrow() {
        return Err(Error::unavailable("this instance stops").into());
    }
    let asked = parameters.read(req.headers())?;
    let permit = doors.gate.enter(credentials::client_address(&req, &doors.server))?;
    let pass = match &asked.ticket {
        Some(_) if credentials::bearer(req.head()).is_some() => {
            return Err(Problem::bad_request("a ticket and `Authorization` are two credentials: send one"));
        }
        Some(ticket) => tickets::redeem(&doors, ticket).await?,
        None => Pass::of(req.head(), &doors).await?,
    };
    let session = pass.open(&doors).await?;
    let (body, stream) = Stream::begin(doors, session, &asked.wanted).await?;
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        // nginx would keep what is small until there is more of it.
        .insert_header(("x-accel-buffering", "no"));
    if req.method() == Method::HEAD {
        return Ok(response.finish());
    }
    let span = tracing::debug_span!("events");
    actix_web::rt::spawn(
        async move {
            stream.run().await;
            drop(permit);
        }
        .instrument(span),
    );
    Ok(response.streaming(body))
}
