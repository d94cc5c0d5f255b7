//! Credentials become principals.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::{Deserialize, de::DeserializeOwned, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{ApiKey, Error, Settings, key_ring::KeyRing};
use crate::domain::{
    name::{ChannelName, UserName},
    principal::{Capabilities, Principal, Server},
    settings::{Limits, MAX_GRACE_MS},
};

/// The longest token that is looked at, bytes.
const TOKEN_BYTES: usize = 16 * 1024;
/// The longest token id, bytes.
const TOKEN_ID_BYTES: usize = 255;
/// The last second of the year 9999: later expiries are brought here, so that sums with them stay in range.
const LATEST_MS: u64 = 253_402_300_799_000;

/// Checks tokens and API keys.
pub struct Verifier {
    keys: Arc<KeyRing>,
    issuer: Option<String>,
    audience: Vec<String>,
    leeway_ms: u64,
    info_bytes: usize,
    channels: usize,
    api_keys: Vec<ApiKey>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Verifier {
    /// A verifier with the keys that are given or stand in files. A key set with an address is fetched by [`Verifier::keep_fresh`].
    ///
    /// # Errors
    /// A sentence about a key that cannot be read.
    pub fn new(settings: &Settings, limits: &Limits) -> Result<Self, String> {
        Ok(Self {
            keys: Arc::new(KeyRing::new(settings)?),
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            leeway_ms: settings.leeway_ms,
            info_bytes: limits.state_bytes,
            channels: limits.channels_per_connection,
            api_keys: settings.api_keys.clone(),
        })
    }

    /// Reads key files that changed and fetches key sets again, for ever: to be spawned, and aborted at the end.
    pub fn keep_fresh(&self) -> impl Future<Output = ()> + Send + 'static {
        self.keys.clone().keep_fresh()
    }

    /// The server that holds an API key. Takes as long whichever key it is.
    pub fn verify_key(&self, key: &str) -> Option<Server> {
        ApiKey::find(&self.api_keys, key)
    }

    /// Checks a token as [`Verifier::verify_token`] does; where its key is not known, the key set is fetched again first,
    /// at most every half minute for all callers.
    ///
    /// # Errors
    /// [`Error`] says why the token does not count.
    pub async fn verify_token_fetching(&self, token: &str, now_ms: u64) -> Result<Principal, Error> {
        match self.verify_token(token, now_ms) {
            Err(Error::UnknownKey) if self.keys.has_address() => {
                self.keys.fetch().await;
                self.verify_token(token, now_ms)
            }
            checked => checked,
        }
    }

    /// Checks a token with the keys at hand: signature, issuer, audience, times and the form of its claims.
    ///
    /// # Errors
    /// [`Error`] says why the token does not count.
    pub fn verify_token(&self, token: &str, now_ms: u64) -> Result<Principal, Error> {
        if token.len() > TOKEN_BYTES {
            return Err(Error::refused("the token is longer than 16 KiB"));
        }
        let malformed = || Error::refused("the token is no signed JWT");
        let (message, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = message.split_once('.').ok_or_else(malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed());
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed())?;
        if header.crit.is_some() {
            return Err(Error::refused("the token asks for an extension (`crit`) that is not known here"));
        }
        self.check_signature(&header, message, signature)?;
        let claims: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(&decode(payload)?).map_err(|_| malformed())?;
        self.read_claims(&Claims(claims), now_ms)
    }

    fn check_signature(&self, header: &Header, message: &str, signature: &str) -> Result<(), Error> {
        let algorithm = match header.alg.as_str() {
            "HS256" => Algorithm::HS256,
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            "EdDSA" => Algorithm::EdDSA,
            _ => return Err(Error::refused("the token's algorithm is none of HS256, RS256, ES256 and EdDSA")),
        };
        let mut tried = false;
        for keys in self.keys.keys() {
            for key in keys.iter().filter(|key| key.algorithm == algorithm) {
                // An id narrows the choice among keys that have ids; the others are tried in any case.
                if matches!((&header.kid, &key.id), (Some(asked), Some(id)) if asked != id) {
                    continue;
                }
                tried = true;
                if key.signed(message, signature) {
                    return Ok(());
                }
            }
        }
        Err(if tried { Error::refused("the token's signature is not by a key known here") } else { Error::UnknownKey })
    }

    fn read_claims(&self, claims: &Claims, now_ms: u64) -> Result<Principal, Error> {
        if let Some(issuer) = &self.issuer
            && claims.get::<String>("iss")?.as_ref() != Some(issuer)
        {
            return Err(Error::refused("the token is by another issuer"));
        }
        if !self.audience.is_empty() {
            let named = match claims.get("aud")? {
                None => Vec::new(),
                Some(Audience::One(name)) => vec![name],
                Some(Audience::Several(names)) => names,
            };
            if !named.iter().any(|name| self.audience.contains(name)) {
                return Err(Error::refused("the token is for another audience"));
            }
        }
        let expires_at_ms =
            claims.get("exp")?.map(milliseconds).ok_or_else(|| Error::refused("the token lacks `exp`"))?;
        let expires_at_ms = expires_at_ms.saturating_add(self.leeway_ms).min(LATEST_MS);
        if now_ms >= expires_at_ms {
            return Err(Error::Expired);
        }
        let from_ms = claims.get("nbf")?.map_or(0, milliseconds);
        if now_ms.saturating_add(self.leeway_ms) < from_ms {
            return Err(Error::NotYetValid);
        }
        let token_id: Option<Arc<str>> = claims.get::<String>("jti")?.map(Into::into);
        if token_id.as_ref().is_some_and(|id| id.len() > TOKEN_ID_BYTES) {
            return Err(Error::refused("the claim `jti` is longer than 255 bytes"));
        }
        let channels: Vec<ChannelName> = claims.get("channels")?.unwrap_or_default();
        if channels.len() > self.channels {
            return Err(Error::refused("the claim `channels` names more channels than a connection may be in"));
        }
        Ok(Principal {
            user: claims.get::<UserName>("sub")?,
            expires_at_ms,
            issued_at_ms: claims.get("iat")?.map(milliseconds),
            token_id,
            info: self.read_info(claims)?,
            grace_ms: claims.get::<u64>("grace_ms")?.map(|grace| grace.min(MAX_GRACE_MS)),
            can: claims.get::<Capabilities>("can")?.map(Arc::new),
            channels: channels.into(),
        })
    }

    fn read_info(&self, claims: &Claims) -> Result<Option<Arc<RawValue>>, Error> {
        // Read into a map first: that bounds its depth, which a raw value does not.
        if claims.get::<serde_json::Map<String, serde_json::Value>>("info")?.is_none() {
            return Ok(None);
        }
        let Some(raw) = claims.0.get("info") else { return Ok(None) };
        let compact = compact(raw.get());
        if compact.len() > self.info_bytes {
            return Err(Error::refused("the claim `info` is longer than `limits.state_bytes`"));
        }
        let info = RawValue::from_string(compact).expect("JSON without its white space is JSON");
        Ok(Some(info.into()))
    }
}

struct Claims(BTreeMap<String, Box<RawValue>>);

impl Claims {
    /// The claim, or none where it is absent or null.
    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let Some(raw) = self.0.get(name) else { return Ok(None) };
        serde_json::from_str(raw.get())
            .map_err(|_| Error::Unauthorized { why: format!("the claim `{name}` is not of the form it should have") })
    }
}

/// Times in tokens are seconds and may have a fraction. What is before 1970 counts as 1970.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the conversion saturates, as it should")]
fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

/// JSON without the white space between its parts. Numbers stay as they are written, which reading and writing again would not grant.
fn compact(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let keep = |c: &char| {
        if quoted {
            quoted = escaped || *c != '"';
            escaped = !escaped && *c == '\\';
            return true;
        }
        quoted = *c == '"';
        !c.is_ascii_whitespace()
    };
    json.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests;
