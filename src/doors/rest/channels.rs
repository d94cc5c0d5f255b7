//! Channels: which are occupied, and how many are in them.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::{
    MOST,
    body::Body,
    cursor,
    etag::Tag,
    path::Channel,
    query::{Nothing, Page, Query},
};
use crate::{
    core::{Index, MOST_RANKED},
    domain::{member::Occupancy, name::ChannelName, principal::Scope},
    doors::{
        Doors,
        credentials::Caller,
        problem::Problem,
        wire::{ChannelShape, CountShape},
    },
};

#[derive(Serialize)]
struct Listed<'a> {
    channel: &'a ChannelName,
    occupancy: Occupancy,
}

#[derive(Serialize)]
struct List<'a> {
    channels: Vec<Listed<'a>>,
    next: Option<String>,
    stale: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    complete: Option<bool>,
}

/// Which channels are listed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    prefix: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
    order: Option<String>,
}

pub(super) async fn list(
    caller: Caller,
    Query(Which { prefix, limit, cursor, order }): Query<Which>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    caller.must(Scope::Read)?;
    let has_cursor = cursor.is_some();
    let page = Page::new(prefix, limit, cursor);
    match order.as_deref() {
        None | Some("name") => by_name(&doors, &page).await,
        Some("users") if has_cursor => Err(Problem::bad_request(format!(
            "the query: with `order=users` there is one page and no `cursor`; `limit` is up to {MOST}, and `prefix` narrows it"
        ))),
        Some("users") => by_users(&doors, &page).await,
        Some(_) => Err(Problem::bad_request("the query: `order` is `name` or `users`")),
    }
}

/// The largest, of one page.
async fn by_users(doors: &Doors, page: &Page) -> Result<HttpResponse, Problem> {
    const { assert!(MOST_RANKED >= MOST, "as many are ranked as a page may have") };
    let (limit, prefix) = (page.limit()?, page.prefix()?);
    let largest = doors.core.largest(prefix).await?;
    let first = largest.channels.iter().take(limit);
    let channels = first.map(|(channel, occupancy)| Listed { channel, occupancy: *occupancy }).collect();
    let (stale, complete) = (largest.stale, Some(largest.complete));
    Ok(HttpResponse::Ok().json(List { channels, next: None, stale, complete }))
}

async fn by_name(doors: &Doors, page: &Page) -> Result<HttpResponse, Problem> {
    let (limit, after, prefix) = (page.limit()?, page.after()?, page.prefix()?);
    let mut names = doors.core.names(Index::Occupied, prefix, after.as_deref(), limit + 1).await?;
    let has_more = names.len() > limit;
    names.truncate(limit);
    let next = names.last().filter(|_| has_more).map(|last| cursor::after_name(last));
    // Where presence was switched off somebody may still be in the store for a while.
    let settings = doors.core.settings();
    let names = names.iter().filter_map(|name| ChannelName::parse(name).ok());
    let names: Vec<ChannelName> = names.filter(|name| settings.has_presence(name)).collect();
    let counts = if names.is_empty() { Vec::new() } else { doors.core.counts(&names).await? };
    let stale = counts.iter().any(|count| count.stale);
    // Whoever left between the two questions makes no channel of nobody.
    let there = names.iter().zip(&counts).filter(|(_, count)| count.occupancy.connections > 0);
    let channels = there.map(|(channel, count)| Listed { channel, occupancy: count.occupancy }).collect();
    Ok(HttpResponse::Ok().json(List { channels, next, stale, complete: None }))
}

pub(super) async fn one(
    caller: Caller,
    Channel(channel): Channel,
    Query(Nothing {}): Query<Nothing>,
    doors: web::Data<Doors>,
    req: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.must_in(Scope::Read, &channel)?;
    let counts = doors.core.counts(std::slice::from_ref(&channel)).await?;
    let count = counts.first().expect("every channel that was asked for is answered");
    let tag = if count.stale { Tag::with(&count.version, b"stale") } else { Tag::of(&count.version) };
    if let Some(known) = tag.unless_known(&req) {
        return Ok(known);
    }
    Ok(tag.answer(&ChannelShape::new(&channel, count)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    channels: Vec<ChannelName>,
}

#[derive(Serialize)]
struct Answered<'a> {
    channels: BTreeMap<&'a ChannelName, CountShape<'a>>,
}

pub(super) async fn query(
    caller: Caller,
    Query(Nothing {}): Query<Nothing>,
    Body(Asked { channels }): Body<Asked>,
    doors: web::Data<Doors>,
) -> Result<HttpResponse, Problem> {
    if channels.len() > MOST {
        return Err(Problem::bad_request(format!("the body: `channels` has at most {MOST} names")));
    }
    for channel in &channels {
        caller.must_in(Scope::Read, channel)?;
    }
    let counts = if channels.is_empty() { Vec::new() } else { doors.core.counts(&channels).await? };
    let channels = channels.iter().zip(counts.iter().map(CountShape::from)).collect();
    Ok(HttpResponse::Ok().json(Answered { channels }))
}
