//! Members of a channel: who is there, page by page at one version, and presence on somebody's behalf.

use actix_web::{HttpRequest, HttpResponse, http::header::ETAG, web};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value, value::RawValue};
use sha2::{Digest as _, Sha256};

use super::{
    MOST,
    body::Body,
    cursor::Place,
    etag::Tag,
    path::{Channel, Seat},
    query::{Nothing, Query, limit},
};
use crate::{
    core::{Code, Listing},
    domain::{
        member::{Member, Occupancy},
        name::ChannelName,
        principal::Scope,
        version::{Epoch, Version},
    },
    doors::{Doors, credentials::Caller, problem::Problem, wire::MemberShape},
};

/// How long a lease lasts where nothing is said, milliseconds.
const TTL_MS: u64 = 60_000;
/// The shortest and the longest lease, milliseconds: below a second nobody can renew in time, and after a day nobody remembers it.
const TTLS_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
/// How many members are frozen in one piece: as many as a page has at most, so that a page needs two pieces at most.
const PIECE: usize = MOST;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pages {
    limit: Option<usize>,
    cursor: Option<String>,
}

/// A page of a channel's members.
#[derive(Serialize)]
struct Page<'a> {
    members: Vec<&'a RawValue>,
    occupancy: Occupancy,
    epoch: &'a Epoch,
    version: u64,
    next: Option<String>,
    stale: bool,
}

/// A part of a list that is kept for its later pages.
#[derive(Serialize, Deserialize)]
struct Piece {
    members: Vec<Box<RawValue>>,
    occupancy: Occupancy,
    stale: bool,
    /// How many members the whole list has.
    total: usize,
}

impl Piece {
    fn of(listing: &Listing, members: &[Member]) -> Self {
        let members = members
            .iter()
            .map(|member| serde_json::value::to_raw_value(&MemberShape::from(member)).expect("a member is JSON"));
        Self {
            members: members.collect(),
            occupancy: listing.occupancy,
            stale: listing.stale,
            total: listing.members.len(),
        }
    }
}

pub(super) async fn list(
    caller: Caller,
    Channel(channel): Channel,
    Query(pages): Query<Pages>,
    doors: web::Data<Doors>,
    req: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.must_in(Scope::Read, &channel)?;
    let most = limit(pages.limit)?;
    let place = pages.cursor.as_deref().map(Place::parse).transpose()?;
    let (version, offset, piece) = match place {
        None => {
            let listing = doors.core.listing(&channel).await?;
            if listing.members.len() > most {
                freeze(&doors, &channel, &listing, most).await;
            }
            let there = &listing.members[..most.min(listing.members.len())];
            (listing.version.clone(), 0, Piece::of(&listing, there))
        }
        Some(Place { version, offset }) => {
            let piece = later(&doors, &channel, &version, offset, most).await?;
            (version, offset, piece)
        }
    };
    let tag = if pages.limit.is_none() && pages.cursor.is_none() && !piece.stale {
        Tag::of(&version)
    } else {
        Tag::with(&version, format!("{most} {offset} {}", piece.stale).as_bytes())
    };
    if let Some(known) = tag.unless_known(&req) {
        return Ok(known);
    }
    let end = offset + piece.members.len();
    let next = (end < piece.total).then(|| Place { version: version.clone(), offset: end }.to_cursor());
    Ok(tag.answer(&Page {
        members: piece.members.iter().map(|member| &**member).collect(),
        occupancy: piece.occupancy,
        epoch: &version.epoch,
        version: version.number,
        next,
        stale: piece.stale,
    }))
}

/// A page behind the first, from what was frozen with the first, or from what is there if that is still the same.
async fn later(
    doors: &Doors,
    channel: &ChannelName,
    version: &Version,
    offset: usize,
    most: usize,
) -> Result<Piece, Problem> {
    if let Some(piece) = thaw(doors, channel, version, offset, most).await? {
        return Ok(piece);
    }
    let listing = doors.core.listing(channel).await?;
    if listing.version != *version {
        let detail = "the members have changed, and the list that this cursor belongs to is no longer kept: begin anew without a cursor";
        return Err(Problem::new(Code::Conflict, detail));
    }
    let members = listing.members.iter().skip(offset).take(most).cloned().collect::<Vec<_>>();
    Ok(Piece::of(&listing, &members))
}

/// Keeps what comes behind the first page. Where that fails, later pages can be had as long as nothing changes, which is no worse than none.
async fn freeze(doors: &Doors, channel: &ChannelName, listing: &Listing, first_page: usize) {
    for (index, members) in listing.members.chunks(PIECE).enumerate().skip(first_page / PIECE) {
        let text = serde_json::to_string(&Piece::of(listing, members)).expect("a piece of a list is JSON");
        if doors.core.freeze(&piece_name(channel, &listing.version, index), &text).await.is_err() {
            tracing::debug!("the later pages of a list could not be kept");
            return;
        }
    }
}

async fn thaw(
    doors: &Doors,
    channel: &ChannelName,
    version: &Version,
    offset: usize,
    most: usize,
) -> Result<Option<Piece>, Problem> {
    let mut page: Option<Piece> = None;
    let mut at = offset;
    loop {
        // While the store is away, what is there may still be known here.
        let name = piece_name(channel, version, at / PIECE);
        let Some(text) = doors.core.thaw(&name).await.unwrap_or_default() else { return Ok(None) };
        let Ok(piece) = serde_json::from_str::<Piece>(&text) else { return Ok(None) };
        let whole = page.get_or_insert_with(|| Piece {
            members: Vec::new(),
            occupancy: piece.occupancy,
            stale: piece.stale,
            total: piece.total,
        });
        let left = most - whole.members.len();
        whole.members.extend(piece.members.into_iter().skip(at % PIECE).take(left));
        at = offset + whole.members.len();
        if whole.members.len() == most || at >= whole.total || !at.is_multiple_of(PIECE) {
            return Ok(page);
        }
    }
}

fn piece_name(channel: &ChannelName, version: &Version, index: usize) -> String {
    let mut hash = Sha256::new();
    for part in [channel.as_str(), "\0", version.epoch.as_str(), "\0"] {
        hash.update(part);
    }
    hash.update(version.number.to_be_bytes());
    format!("members:{}:{index}", URL_SAFE_NO_PAD.encode(&hash.finalize()[..16]))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lease {
    #[serde(default)]
    state: Map<String, Value>,
    #[serde(default = "default_ttl")]
    ttl_ms: Number,
}

fn default_ttl() -> Number {
    TTL_MS.into()
}

/// The length as an integer within the bounds. JSON has one kind of number, in which `60000.0` is an integer too.
fn ttl_ms(asked: &Number) -> Result<u64, Problem> {
    let integral = asked.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0);
    // A cast of what is out of range gives the nearest, which is out of bounds as well.
    let ttl_ms = asked.as_u64().or(integral.map(|number| number as u64)).filter(|ttl_ms| TTLS_MS.contains(ttl_ms));
    ttl_ms.ok_or_else(|| {
        let (least, most) = (TTLS_MS.start(), TTLS_MS.end());
        Problem::bad_request(format!("the body: `ttl_ms` is an integer from {least} to {most}"))
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
    let version = doors.core.lease(&channel, &user, lease.state, ttl_ms(&lease.ttl_ms)?).await?;
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
