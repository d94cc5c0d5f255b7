//! Who may do what: the outcome of a checked credential.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    name::{ChannelName, UserName},
    pattern::Pattern,
};

/// What a client may do, as patterns over channel and user names. What is not listed is not allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capabilities {
    /// Channels that it may join (and update and leave).
    pub join: Vec<Pattern>,
    /// Channels that it may watch and ask for.
    pub watch: Vec<Pattern>,
    /// Channels in which it may say that it types.
    pub typing: Vec<Pattern>,
    /// Users whom it may watch and ask for.
    pub users: Vec<Pattern>,
    /// Channels to whose watchers it may send signals.
    pub send: Vec<Pattern>,
    /// Whether it may choose a status, and what an app shows of the user.
    pub status: bool,
}

impl Capabilities {
    /// Everything: what development mode gives a token that says nothing.
    pub fn all() -> Self {
        let any = || vec![Pattern::parse("**").expect("`**` is a pattern")];
        Self { join: any(), watch: any(), typing: any(), users: any(), send: any(), status: true }
    }
}

/// Whether one of `patterns` means `name`.
pub fn allows(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

/// A client whose token was checked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Principal {
    /// Who is present; none for a connection that only watches.
    pub user: Option<UserName>,
    /// When the token ends, unix milliseconds of wall time.
    pub expires_at_ms: u64,
    /// When the token was issued, unix milliseconds, if it says so.
    pub issued_at_ms: Option<u64>,
    /// The id of the token, for revocation.
    pub token_id: Option<Arc<str>>,
    /// The object that others see beside the user's name, as compact JSON.
    pub info: Option<Arc<RawValue>>,
    /// The longest grace that this token's connections may have, milliseconds.
    pub grace_ms: Option<u64>,
    /// The token's own capabilities; none where the token says nothing and the namespace's defaults hold.
    pub can: Option<Arc<Capabilities>>,
    /// The channels that the server joins for this connection as soon as it has said `hello`.
    pub channels: Arc<[ChannelName]>,
}

/// What an API key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Ask.
    Read,
    /// Join, renew and leave on somebody's behalf.
    Write,
    /// Disconnect, ban, revoke.
    Admin,
}

/// One scope of an API key, narrowed to channels where a pattern is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What may be done.
    pub scope: Scope,
    /// Where; none means everywhere, and for users too.
    pub channels: Option<Pattern>,
}

/// An app server whose API key was checked, or anybody in development mode.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Server {
    /// The key's name, for logs.
    pub name: Arc<str>,
    /// What it may do.
    pub grants: Arc<[Grant]>,
}

impl Server {
    /// Whether `scope` covers `channel`, or, without a channel, everything.
    pub fn may(&self, scope: Scope, channel: Option<&str>) -> bool {
        self.grants.iter().any(|grant| {
            grant.scope == scope
                && match (&grant.channels, channel) {
                    (None, _) => true,
                    (Some(pattern), Some(channel)) => pattern.matches(channel),
                    (Some(_), None) => false,
                }
        })
    }
}
