//! Makes tokens: for the command line and for development mode. In production the application's own server does.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::Settings;
use crate::domain::{name::UserName, principal::Capabilities};

/// Makes HS256 tokens that this service accepts.
pub struct Issuer {
    key: EncodingKey,
    issuer: Option<String>,
    audience: Vec<String>,
}

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whom it names; none for a connection that only watches.
    pub user: Option<UserName>,
    /// What it allows; none leaves that to the namespaces.
    pub can: Option<Capabilities>,
    /// How long it counts, milliseconds; at least a second.
    pub ttl_ms: u64,
}

#[derive(Serialize)]
struct Claims<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a UserName>,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    can: Option<&'a Capabilities>,
}

impl Issuer {
    /// An issuer, where there is a secret to sign with.
    pub fn new(settings: &Settings) -> Option<Self> {
        let secret = settings.hs256_secret.as_ref()?;
        Some(Self {
            key: EncodingKey::from_secret(secret.expose().as_bytes()),
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
        })
    }

    /// Makes a token.
    pub fn mint(&self, request: &Request, now_ms: u64) -> String {
        let iat = now_ms / 1000;
        let claims = Claims {
            sub: request.user.as_ref(),
            iat,
            exp: iat.saturating_add(request.ttl_ms.div_ceil(1000).max(1)),
            iss: self.issuer.as_deref(),
            aud: self.audience.first().map(String::as_str),
            can: request.can.as_ref(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key).expect("a secret signs any claims")
    }
}
