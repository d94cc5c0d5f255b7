//! The members of a channel in pages, all of one version, as REST and the native door give them out.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::{Doors, cursor::Place, wire::MemberShape};
use crate::{
    core::{Code, Error, Listing},
    domain::{
        member::{Member, Occupancy},
        name::ChannelName,
        version::{Epoch, Version},
    },
};

/// How many entries a page has where nothing is said.
const PAGE: usize = 100;
/// How many it has at most, and how many names a query.
pub const MOST: usize = 1_000;
/// How many members are frozen in one piece: as many as a page has at most, so that a page needs two pieces at most.
const PIECE: usize = MOST;

/// How many entries a page has.
///
/// # Errors
/// [`Code::BadRequest`] when it is asked for less than one or too many.
pub fn limit(asked: Option<usize>) -> Result<usize, Error> {
    match asked {
        None => Ok(PAGE),
        Some(limit) if (1..=MOST).contains(&limit) => Ok(limit),
        Some(_) => Err(Error::new(Code::BadRequest, format!("`limit` is from 1 to {MOST}"))),
    }
}

/// A page of a channel's members.
pub struct Page {
    version: Version,
    offset: usize,
    most: usize,
    piece: Piece,
}

/// The same as it is written.
#[derive(Serialize)]
pub struct PageShape<'a> {
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

impl Page {
    /// The first page, or that of a cursor.
    ///
    /// # Errors
    /// [`Code::BadRequest`] for a limit or a cursor that is none, [`Code::Conflict`] when the list of the cursor is kept no more, and
    /// [`Code::Unavailable`].
    pub async fn of(
        doors: &Doors,
        channel: &ChannelName,
        asked: Option<usize>,
        cursor: Option<&str>,
    ) -> Result<Self, Error> {
        let most = limit(asked)?;
        let Some(Place { version, offset }) = cursor.map(Place::parse).transpose()? else {
            let listing = doors.core.listing(channel).await?;
            if listing.members.len() > most {
                listing.kept.get_or_init(|| freeze(doors, channel, &listing)).await;
            }
            let there = &listing.members[..most.min(listing.members.len())];
            return Ok(Self { version: listing.version.clone(), offset: 0, most, piece: Piece::of(&listing, there) });
        };
        let piece = later(doors, channel, &version, offset, most).await?;
        Ok(Self { version, offset, most, piece })
    }

    /// The version of all pages of the list.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// How many members come before.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// How many there may be on it.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Whether the store was out of reach, or settled.
    pub fn is_stale(&self) -> bool {
        self.piece.stale
    }

    /// As it is written.
    pub fn body(&self) -> PageShape<'_> {
        let end = self.offset + self.piece.members.len();
        let next = Place { version: self.version.clone(), offset: end };
        PageShape {
            members: self.piece.members.iter().map(|member| &**member).collect(),
            occupancy: self.piece.occupancy,
            epoch: &self.version.epoch,
            version: self.version.number,
            next: (end < self.piece.total).then(|| next.to_cursor()),
            stale: self.piece.stale,
        }
    }
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

/// A page behind the first, from what was frozen with the first, or from what is there if that is still the same.
async fn later(
    doors: &Doors,
    channel: &ChannelName,
    version: &Version,
    offset: usize,
    most: usize,
) -> Result<Piece, Error> {
    if let Some(piece) = thaw(doors, channel, version, offset, most).await? {
        return Ok(piece);
    }
    let listing = doors.core.listing(channel).await?;
    if listing.version != *version {
        let message = "the members have changed, and the list that this cursor belongs to is no longer kept: begin anew without a cursor";
        return Err(Error::new(Code::Conflict, message));
    }
    let members = listing.members.iter().skip(offset).take(most).cloned().collect::<Vec<_>>();
    Ok(Piece::of(&listing, &members))
}

/// Keeps the list for its later pages. Where that fails, they can be had as long as nothing changes, which is no worse than none.
async fn freeze(doors: &Doors, channel: &ChannelName, listing: &Listing) {
    for (index, members) in listing.members.chunks(PIECE).enumerate() {
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
) -> Result<Option<Piece>, Error> {
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
