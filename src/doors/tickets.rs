//! `POST /v1/tickets`: a way in for an EventSource, which cannot send a header. A ticket stands in an address, where logs keep it, so it opens one
//! stream within half a minute and nothing after.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use actix_web::{
    FromRequest as _, HttpRequest, HttpResponse,
    http::header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    middleware::from_fn,
    web,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{
    Doors,
    bucket::Bucket,
    cors, credentials,
    pass::{self, Pass},
    problem::Problem,
    rest::{self, Body, Nothing, Query},
};
use crate::core::{Code, Error};

/// How long a ticket waits for its stream, milliseconds.
const LIFE_MS: u64 = 30_000;
/// The random bytes of a ticket.
const BYTES: usize = 32;
/// Clients of which is known how fast they ask; beyond it those who asked long ago are forgotten.
const CLIENTS: usize = 10_000;

/// Adds the route.
pub fn routes(cfg: &mut web::ServiceConfig) {
    cfg.service(rest::resource("/v1/tickets", rest::POST).route(web::post().to(issue)).wrap(from_fn(cors::for_pages)));
}

/// How fast clients ask for tickets, on this instance. App servers are believed to know what they do.
#[derive(Debug, Default)]
pub struct Desk(Mutex<HashMap<String, Bucket>>);

impl Desk {
    /// Lets a client have one more.
    ///
    /// # Errors
    /// [`Code::RateLimited`].
    fn admit(&self, client: String, per_second: u32, now: Instant) -> Result<(), Error> {
        let mut clients = self.lock();
        if clients.len() >= CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, bucket| !bucket.is_full(now));
            if clients.len() >= CLIENTS {
                clients.clear();
            }
        }
        let wait_ms = clients.entry(client).or_insert_with(|| Bucket::new(per_second, now)).take(now);
        if wait_ms == 0 {
            return Ok(());
        }
        let mut error = Error::new(Code::RateLimited, format!("at most {per_second} tickets a second; slow down"));
        error.retry_after_ms = Some(wait_ms);
        Err(error)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Bucket>> {
        self.0.lock().expect("nothing panics while it counts tickets")
    }
}

#[derive(Serialize)]
struct Issued {
    ticket: String,
    expires_ms: u64,
}

/// A body is optional; one that comes says nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

async fn issue(
    req: HttpRequest,
    payload: web::Payload,
    Query(Nothing {}): Query<Nothing>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    let pass = Pass::of(req.head(), &doors).await?;
    let length = req.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if length.is_some_and(|length| length != "0") || req.headers().contains_key(TRANSFER_ENCODING) {
        let Body(Empty {}) = Body::from_request(&req, &mut payload.into_inner()).await?;
    }
    if let Pass::Client(principal) = &pass {
        doors.core.may_enter(principal).map_err(|barred| pass::turned_away(&doors, &barred))?;
        let address = || credentials::client_address(&req, &doors.server).to_string();
        let client = principal.user.as_ref().map_or_else(address, |user| format!("u:{user}"));
        doors.tickets.admit(client, doors.limits.operations_per_second, Instant::now())?;
    }
    let ticket = URL_SAFE_NO_PAD.encode(rand::random::<[u8; BYTES]>());
    let text = serde_json::to_string(&pass).expect("a pass is JSON");
    doors.core.deposit(&name_of(&ticket), &text, LIFE_MS).await?;
    Ok(HttpResponse::Ok().json(Issued { ticket, expires_ms: LIFE_MS }))
}

/// Takes a ticket: whoever comes with it first, on whichever instance, has what its owner had.
///
/// # Errors
/// [`Code::Unauthorized`] for one that was taken, is too old, or never was; [`Code::Unavailable`].
pub async fn redeem(doors: &Doors, ticket: &str) -> Result<Pass, Problem> {
    let refused =
        || Problem::new(Code::Unauthorized, "this ticket was used, is older than 30 s, or never was; get a new one");
    if !URL_SAFE_NO_PAD.decode(ticket).is_ok_and(|bytes| bytes.len() == BYTES) {
        return Err(refused());
    }
    let kept = doors.core.withdraw(&name_of(ticket)).await?.ok_or_else(refused)?;
    // Another version may have kept what this one cannot read.
    serde_json::from_str(&kept).map_err(|_| refused())
}

/// What is kept in the store does not tell which tickets there are.
fn name_of(ticket: &str) -> String {
    format!("ticket:{}", URL_SAFE_NO_PAD.encode(Sha256::digest(ticket)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_client_gets_so_many_tickets_a_second_and_others_get_theirs() {
        let (desk, now) = (Desk::default(), Instant::now());
        let admitted = |client: &str, now| desk.admit(client.to_owned(), 5, now).is_ok();
        assert_eq!((0..100).filter(|_| admitted("ann", now)).count(), 5);
        assert!(admitted("ben", now));
        let error = desk.admit("ann".to_owned(), 5, now).unwrap_err();
        assert!(error.code == Code::RateLimited && error.retry_after_ms.is_some_and(|ms| (1..=200).contains(&ms)));
        assert!(admitted("ann", now + Duration::from_secs(1)));
    }

    #[test]
    fn however_many_clients_there_are_only_so_many_are_kept() {
        let (desk, now) = (Desk::default(), Instant::now());
        for client in 0..3 * CLIENTS {
            assert!(desk.admit(client.to_string(), 5, now).is_ok());
        }
        assert!(desk.lock().len() <= CLIENTS);
    }
}
