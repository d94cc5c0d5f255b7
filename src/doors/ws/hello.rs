//! Tokens at the native door: the hello, and a fresh token.

use std::sync::Arc;

use actix_web::web::Data;

use super::{
    close::Close,
    socket::{Answer, Finished},
};
use crate::{
    auth,
    core::{Barred, Code, Error, Hello, HelloError, Reply, ResumeClaim, Session},
    domain::time::wall_now_ms,
    doors::{Doors, pass},
};

/// Checks the token and opens the session.
pub(super) async fn greet(
    doors: Data<Doors>,
    id: u64,
    token: String,
    resume: Option<String>,
    device: Option<Arc<str>>,
    present: bool,
) -> Finished {
    let failed = |error, close| Finished { session: None, answer: Answer::Failed { id: Some(id), error, close } };
    let principal = match doors.verifier.verify_token_fetching(&token, wall_now_ms()).await {
        Ok(principal) => principal,
        Err(error) => {
            let (error, close) = token_error(&doors, &error);
            return failed(error, Some(close));
        }
    };
    let resume = resume.and_then(|text| doors.resume.verify(&text));
    let resume = resume.map(|said| ResumeClaim { user: said.user, connection: said.connection, take: said.take });
    match Session::open(&doors.core, Hello { principal, resume, device, present }).await {
        Ok((session, welcome)) => {
            Finished { session: Some(session), answer: Answer::Welcome { id, welcome: Box::new(welcome) } }
        }
        Err(HelloError::TooMany) => {
            let most = doors.limits.connections_per_user;
            let message = format!("a user has at most {most} connections; close another first");
            failed(Error::new(Code::Limit, message), Some(Close::TooMany))
        }
        Err(HelloError::Barred(barred)) => {
            let (error, close) = barred_error(&doors, &barred);
            failed(error, close)
        }
        Err(HelloError::Other(error)) => failed(error, None),
    }
}

pub(super) async fn refresh(doors: Data<Doors>, mut session: Session, id: Option<u64>, token: String) -> Finished {
    let answer = match doors.verifier.verify_token_fetching(&token, wall_now_ms()).await {
        Ok(principal) => match session.refresh(principal) {
            Ok(()) => Answer::Reply { id, reply: Box::new(Reply::Done) },
            Err(error) => Answer::Failed { id, error, close: None },
        },
        // The token from before still holds: the socket stays until that ends.
        Err(error) => Answer::Failed { id, error: token_error(&doors, &error).0, close: None },
    };
    Finished { session: Some(session), answer }
}

/// What a client is told of a refused token, and how the socket of a hello closes.
fn token_error(doors: &Doors, error: &auth::Error) -> (Error, Close) {
    let close = if matches!(error, auth::Error::Expired) { Close::TokenExpired } else { Close::Unauthorized };
    (pass::refusal(doors, error), close)
}

/// What a client is told that may not come in, and how its socket closes.
fn barred_error(doors: &Doors, barred: &Barred) -> (Error, Option<Close>) {
    let close = match barred {
        Barred::Banned { .. } => Some(Close::Banned),
        Barred::Revoked => Some(Close::Unauthorized),
        Barred::Unknown => None,
    };
    (pass::turned_away(doors, barred), close)
}
