//! Credentials become principals: tokens of clients, keys of app servers, resume tokens.

mod api_key;
mod issuer;
mod key;
mod key_ring;
mod resume;
mod settings;
mod verifier;

pub use api_key::ApiKey;
pub use issuer::{Issuer, Request};
pub use resume::{Resume, ResumeKey};
pub use settings::Settings;
pub use verifier::Verifier;

/// Why a token does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is genuine, and its time is over.
    #[error("the token has expired")]
    Expired,
    /// It is genuine, and its time has not begun.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// No key known here has its algorithm and key id.
    #[error("no key known here could have signed the token")]
    UnknownKey,
    /// It is not genuine, not for this service, or malformed.
    #[error("{why}")]
    Unauthorized {
        /// A sentence for our log. It holds nothing of the token.
        why: String,
    },
}

impl Error {
    fn refused(why: &str) -> Self {
        Self::Unauthorized { why: why.to_owned() }
    }
}
