//! Heartbeats: presence on behalf of many users in one call, for devices that have no socket.

use std::collections::HashMap;

use actix_web::{HttpResponse, web};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use super::{
    MOST,
    body::Body,
    members::{default_ttl, ttl_ms},
    query::{Nothing, Query},
};
use crate::{
    core::{Code, Error},
    domain::{
        name::{ChannelName, UserName},
        principal::Scope,
        version::{Epoch, Version},
    },
    doors::{Doors, credentials::Caller, problem::Problem},
};

/// As many are under way at once: enough to fill the batches of the store, and little for one caller to have waiting there.
const AT_ONCE: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    heartbeats: Vec<Heartbeat>,
}

/// Names are read later, so that a wrong one is an error of its item and the others are carried out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Heartbeat {
    user: String,
    channel: String,
    #[serde(default)]
    state: Map<String, Value>,
    #[serde(default = "default_ttl")]
    ttl_ms: Number,
}

/// A heartbeat that can be carried out.
struct Beat {
    channel: ChannelName,
    user: UserName,
    state: Map<String, Value>,
    ttl_ms: u64,
}

#[derive(Serialize)]
struct Answered<'a> {
    results: Vec<Outcome<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome<'a> {
    Ok { epoch: &'a Epoch, version: u64 },
    Error(Refused<'a>),
}

#[derive(Serialize)]
struct Refused<'a> {
    code: Code,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl<'a> From<&'a Result<Version, Error>> for Outcome<'a> {
    fn from(result: &'a Result<Version, Error>) -> Self {
        match result {
            Ok(Version { epoch, number }) => Self::Ok { epoch, version: *number },
            Err(Error { code, message, retry_after_ms }) => {
                Self::Error(Refused { code: *code, message, retry_after_ms: *retry_after_ms })
            }
        }
    }
}

pub(super) async fn beat(
    caller: Caller,
    Query(Nothing {}): Query<Nothing>,
    Body(Asked { heartbeats }): Body<Asked>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    if heartbeats.len() > MOST {
        return Err(Problem::bad_request(format!("the body: `heartbeats` has at most {MOST} items")));
    }
    // What is not of one channel alone is asked of those keys too that may write somewhere: which items they may write is said item by item.
    caller.must_somewhere(Scope::Write)?;
    let beats: Vec<Result<Beat, Error>> = heartbeats.into_iter().map(|heartbeat| read(&caller, heartbeat)).collect();
    let results = carry_out(&doors, beats).await;
    let is_unavailable = |result: &Result<Version, Error>| matches!(result, Err(Error { code: Code::Unavailable, .. }));
    if let Some(Err(error)) = results.first()
        && results.iter().all(is_unavailable)
    {
        // Nothing was carried out, and whoever looks at the status alone shall see it.
        return Err(error.clone().into());
    }
    Ok(HttpResponse::Ok().json(Answered { results: results.iter().map(Outcome::from).collect() }))
}

fn read(caller: &Caller, heartbeat: Heartbeat) -> Result<Beat, Error> {
    let Heartbeat { user, channel, state, ttl_ms: asked } = heartbeat;
    let bad = |field: &str, why: &dyn std::fmt::Display| Error::new(Code::BadRequest, format!("`{field}`: {why}"));
    let user = UserName::parse(&user).map_err(|why| bad("user", &why))?;
    let channel = ChannelName::parse(&channel).map_err(|why| bad("channel", &why))?;
    let ttl_ms = ttl_ms(&asked).map_err(|why| Error::new(Code::BadRequest, why))?;
    caller.may_in(Scope::Write, &channel)?;
    Ok(Beat { channel, user, state, ttl_ms })
}

/// Some at a time. Of several for the same user and channel the last counts, and all of them get its answer: one behind the other they
/// would renew one lease again and again for a state that nobody is to see.
async fn carry_out(doors: &Doors, beats: Vec<Result<Beat, Error>>) -> Vec<Result<Version, Error>> {
    let mut last: HashMap<(ChannelName, UserName), usize> = HashMap::new();
    let mut answered_by = Vec::with_capacity(beats.len());
    for (at, beat) in beats.iter().enumerate() {
        answered_by.push(beat.as_ref().ok().map(|beat| (beat.channel.clone(), beat.user.clone())));
        if let Some(seat) = answered_by[at].clone() {
            last.insert(seat, at);
        }
    }
    let answered_by: Vec<usize> =
        answered_by.iter().enumerate().map(|(at, seat)| seat.as_ref().map_or(at, |seat| last[seat])).collect();
    let carried_out = beats.into_iter().enumerate().map(|(at, beat)| {
        let counts = answered_by[at] == at;
        async move {
            let Beat { channel, user, state, ttl_ms } = beat?;
            if !counts {
                return Ok(None);
            }
            doors.core.lease(&channel, &user, state, ttl_ms).await.map(Some)
        }
    });
    let results: Vec<Result<Option<Version>, Error>> = stream::iter(carried_out).buffered(AT_ONCE).collect().await;
    let answer = |at: &usize| results[*at].clone().map(|version| version.expect("the last one was carried out"));
    answered_by.iter().map(answer).collect()
}
