//! Users are disconnected and banned, tokens revoked, channels cleared.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::Number;

use super::{
    body::Body,
    members::integer,
    path::User,
    query::{Nothing, Query},
};
use crate::{
    core::{Error, Revocation},
    domain::{
        name::{ChannelName, UserName},
        principal::Scope,
    },
    doors::{Doors, credentials::Caller, problem::Problem},
};

/// The longest reason, characters: it is for the log, and a close frame holds less.
const REASON_CHARS: usize = 1_000;
/// The longest ban, milliseconds: ten years.
const BAN_MS: u64 = 315_360_000_000;
/// The longest id of a token, characters: one of more than 255 bytes does not hold in any case.
const TOKEN_ID_CHARS: usize = 255;

/// How many connections something was done to.
#[derive(Serialize)]
pub(super) struct Connections {
    pub connections: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disconnection {
    #[serde(default)]
    reason: String,
    #[serde(default = "no_ban")]
    ban_ms: Number,
}

fn no_ban() -> Number {
    0.into()
}

fn ban_ms(asked: &Number) -> Result<u64, Problem> {
    integer(asked, 0..=BAN_MS)
        .ok_or_else(|| Problem::bad_request(format!("the body: `ban_ms` is an integer from 0 to {BAN_MS}")))
}

/// What a line of the log says of how it ended.
pub(super) fn came_to<T>(result: &Result<T, Error>) -> &'static str {
    result.as_ref().map_or_else(|error| error.code.as_str(), |_| "done")
}

pub(super) async fn disconnect(
    caller: Caller,
    User(user): User,
    Query(Nothing {}): Query<Nothing>,
    Body(Disconnection { reason, ban_ms: asked }): Body<Disconnection>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    caller.must(Scope::Admin)?;
    let ban_ms = ban_ms(&asked)?;
    if reason.chars().count() > REASON_CHARS {
        return Err(Problem::bad_request(format!("the body: `reason` has at most {REASON_CHARS} characters")));
    }
    let ended = doors.core.disconnect(&user, &reason, ban_ms).await;
    doors.audit.disconnected(caller.name(), &user, ban_ms, &reason, came_to(&ended));
    Ok(HttpResponse::Ok().json(Connections { connections: ended? }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoked {
    jti: Option<String>,
    user: Option<UserName>,
    channel: Option<ChannelName>,
}

pub(super) async fn revoke(
    caller: Caller,
    Query(Nothing {}): Query<Nothing>,
    Body(asked): Body<Revoked>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    match asked {
        Revoked { jti: Some(id), user: None, channel: None } => {
            caller.must(Scope::Admin)?;
            if !(1..=TOKEN_ID_CHARS).contains(&id.chars().count()) {
                return Err(Problem::bad_request(format!("the body: `jti` has 1 to {TOKEN_ID_CHARS} characters")));
            }
            let revoked = doors.core.revoke(Revocation::Token(id.as_str().into())).await;
            doors.audit.revoked(caller.name(), "jti", &id, came_to(&revoked));
            revoked?;
        }
        Revoked { jti: None, user: Some(user), channel: None } => {
            caller.must(Scope::Admin)?;
            let revoked = doors.core.revoke(Revocation::TokensOf(user.clone())).await;
            doors.audit.revoked(caller.name(), "user", user.as_str(), came_to(&revoked));
            revoked?;
        }
        Revoked { jti: None, user: None, channel: Some(channel) } => {
            caller.must_in(Scope::Admin, &channel)?;
            let cleared = doors.core.clear(&channel).await;
            doors.audit.cleared(caller.name(), &channel, came_to(&cleared));
            cleared?;
        }
        _ => return Err(Problem::bad_request("the body: it names one of `jti`, `user` and `channel`")),
    }
    Ok(HttpResponse::NoContent().finish())
}
