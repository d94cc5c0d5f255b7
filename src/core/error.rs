//! What a caller is told when something cannot be done.

use serde::{Deserialize, Serialize};

use crate::{domain::state::StateError, store::StoreError};

/// The contract: doors render it, clients act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// What was sent cannot be understood; sending it again changes nothing.
    BadRequest,
    /// There is no such operation.
    UnknownOp,
    /// No credential, or one that does not hold.
    Unauthorized,
    /// The token has ended: get a fresh one.
    TokenExpired,
    /// The credential does not allow this.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// It does not fit what is there.
    Conflict,
    /// More bytes than are taken.
    TooLarge,
    /// As many as there may be.
    Limit,
    /// Too fast: wait.
    RateLimited,
    /// Not now: Redis is away or settles.
    Unavailable,
    /// A fault of the server.
    Internal,
}

impl Code {
    /// All there are.
    pub const ALL: [Self; 12] = [
        Self::BadRequest,
        Self::UnknownOp,
        Self::Unauthorized,
        Self::TokenExpired,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::TooLarge,
        Self::Limit,
        Self::RateLimited,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::UnknownOp => "unknown_op",
            Self::Unauthorized => "unauthorized",
            Self::TokenExpired => "token_expired",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::Limit => "limit",
            Self::RateLimited => "rate_limited",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

/// A code with a sentence that says what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What a program acts on.
    pub code: Code,
    /// What a person reads.
    pub message: String,
    /// After how many milliseconds it may be tried again.
    pub retry_after_ms: Option<u64>,
}

impl Error {
    /// An error with nothing to wait for.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None }
    }

    /// Not now, but soon.
    pub fn unavailable(why: &str) -> Self {
        Self { code: Code::Unavailable, message: format!("{why}; try again in a moment"), retry_after_ms: Some(1_000) }
    }
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        let code = match error {
            StateError::TooLong { .. } => Code::TooLarge,
            StateError::TooDeep => Code::BadRequest,
        };
        Self::new(code, error.to_string())
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::unavailable("the store of presence is out of reach"),
            StoreError::Unusable(_) => Self::new(Code::Internal, "the store of presence is not usable; see the log"),
        }
    }
}
