//! The native door: `GET /v1/ws`, subprotocol `rollcall.v1`.

mod answers;
mod close;
mod hello;
mod socket;
mod transport;
mod wanted;
mod watching;
pub(super) mod wire;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use tracing::Instrument as _;

pub(super) use self::close::Close;
use self::socket::Socket;
pub use self::transport::upgrade;
use super::{Doors, credentials, problem::Problem, rest};
use crate::{
    core::Error,
    metrics::{Metrics, from_zero},
};

/// The subprotocol that a client must offer.
pub const PROTOCOL: &str = "rollcall.v1";

/// Adds the route.
pub fn routes(cfg: &mut web::ServiceConfig) {
    cfg.service(rest::resource("/v1/ws", rest::GET).route(web::get().to(open)));
}

/// Every way in which a socket may end is counted from zero on.
pub fn count_from_zero(metrics: &Metrics) {
    from_zero(&metrics.closes, Close::ALL.map(|close| close.parts().1));
}

/// Everything that can be refused with a status is refused before the upgrade; the token comes in the first frame.
async fn open(request: HttpRequest, body: web::Payload, doors: web::Data<Doors>) -> Result<HttpResponse, Problem> {
    credentials::check_origin(request.head(), &doors)?;
    if *doors.draining.borrow() {
        return Err(Error::unavailable("this instance stops").into());
    }
    if !offers(&request, PROTOCOL) {
        let detail = format!("this is a WebSocket: upgrade, and offer the subprotocol `{PROTOCOL}`");
        return Err(Problem::bad_request(detail));
    }
    // A page's script cannot send the header, so a browser that does was led to.
    let header_token = credentials::bearer(request.head()).map(str::to_owned);
    if header_token.is_some() && request.headers().contains_key(header::ORIGIN) {
        return Err(Problem::bad_request("with an Origin the token comes in the hello, not in a header"));
    }
    let address = credentials::client_address(&request, &doors.server);
    let permit = doors.gate.enter(address)?;
    let frame_bytes = doors.limits.frame_bytes;
    let begin = move |receiver, sender| {
        let socket = Socket::new(doors, receiver, sender, header_token, permit);
        let span = tracing::debug_span!("socket", connection = tracing::field::Empty);
        actix_web::rt::spawn(socket.run().instrument(span));
    };
    let accepted = transport::accept(&request, body, PROTOCOL, frame_bytes, begin);
    accepted.map_err(|refused| Problem::of_http(StatusCode::BAD_REQUEST, refused.to_string()))
}

fn offers(request: &HttpRequest, protocol: &str) -> bool {
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    offered.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).any(|one| one.trim() == protocol)
}
