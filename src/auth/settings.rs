//! Which credentials count: `auth.*`.

use serde::Deserialize;

use super::ApiKey;
use crate::domain::secret::Secret;

/// Which credentials count: `auth.*`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The secret that HS256 tokens are signed with.
    #[serde(default)]
    pub hs256_secret: Option<Secret>,
    /// Public keys for RS256, ES256 and EdDSA tokens: files in PEM, or the PEM text itself.
    pub public_keys: Vec<String>,
    /// A key set (JWKS): a file, or an `https://` or `http://` address.
    #[serde(default)]
    pub jwks: Option<String>,
    /// What `iss` must be.
    #[serde(default)]
    pub issuer: Option<String>,
    /// Names of which one must stand in `aud`; empty: not asked for.
    pub audience: Vec<String>,
    /// By how much the clock of the issuer may differ.
    pub leeway_ms: u64,
    /// For how long a revocation is remembered, days: longer than any token lives.
    pub revocation_days: u32,
    /// What resume tokens are signed with, the same on every instance.
    #[serde(default)]
    pub resume_secret: Option<Secret>,
    /// The keys of app servers.
    pub api_keys: Vec<ApiKey>,
}

impl Settings {
    /// Whether tokens may be signed with keys that this service only has the public half of.
    pub fn has_public_keys(&self) -> bool {
        !self.public_keys.is_empty() || self.jwks.is_some()
    }

    /// Whether there is any key by which a token can be checked.
    pub fn has_token_key(&self) -> bool {
        self.hs256_secret.is_some() || self.has_public_keys()
    }
}
