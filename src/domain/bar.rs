//! Who may not come in: bans of users, and tokens that were revoked.

use std::sync::Arc;

use super::{name::UserName, partition::Beat};

/// Whom a bar keeps out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whom {
    /// A user, whatever the token.
    User(UserName),
    /// Whoever comes with a token of this user's that was issued before.
    TokensOf(UserName),
    /// Whoever comes with the token of this id.
    Token(Arc<str>),
}

impl Whom {
    /// The name in the store.
    pub fn to_stored(&self) -> String {
        match self {
            Self::User(user) => format!("b:{user}"),
            Self::TokensOf(user) => format!("u:{user}"),
            Self::Token(id) => format!("t:{id}"),
        }
    }

    /// Reads back [`Whom::to_stored`].
    pub fn from_stored(text: &str) -> Option<Self> {
        let user = |name| UserName::parse(name).ok();
        match text.split_at_checked(2)? {
            ("b:", name) => Some(Self::User(user(name)?)),
            ("u:", name) => Some(Self::TokensOf(user(name)?)),
            ("t:", id) => Some(Self::Token(id.into())),
            _ => None,
        }
    }
}

/// One entry: whom it keeps out, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bar {
    /// Whom.
    pub whom: Whom,
    /// Tokens of a user are kept out when they were issued in this second or before, unix milliseconds of wall time; 0 for the others.
    pub until_ms: u64,
    /// How long it still holds, milliseconds of presence time.
    pub remaining_ms: u64,
}

/// What is added to the bars, and which of them are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Barring {
    /// To be added. Of two with the same name the later counts, in each of its two times: adding one twice changes nothing.
    pub bars: Vec<Bar>,
    /// As many may hold at once; a new one more is refused.
    pub most: u64,
    /// What whoever is put out by them is told.
    pub said: Arc<str>,
    /// How many of the list are passed over, and how many are listed then: those that hold longest stand first.
    pub page: (u64, u64),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BarsThere {
    /// The partition.
    pub beat: Beat,
    /// How many were refused because there are as many as may be.
    pub refused: u64,
    /// How many hold.
    pub count: u64,
    /// The page.
    pub bars: Vec<Bar>,
}

/// A bar that would end later by no more than this is the same bar, milliseconds: whoever brings one back has read what remained a moment ago.
pub const SAME_MS: u64 = 1_000;
/// As many that are over are dropped by one call.
pub const DROPPED: usize = 1_000;
