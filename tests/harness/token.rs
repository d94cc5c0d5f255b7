//! Credentials of every kind, good and bad.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The secret that every instance of the harness checks tokens with.
pub const HS256_SECRET: &str = "a-secret-of-the-tests-with-more-than-32-bytes";
/// An API key with all scopes that every instance of the harness knows.
pub const API_KEY: &str = "key-of-the-tests";

/// The setting that lets `key` in: `name:scope+scope:sha256hex`.
pub fn api_key_setting(name: &str, scopes: &str, key: &str) -> String {
    let digest: String = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name}:{scopes}:{digest}")
}

/// Wall time in seconds, as tokens count it.
#[allow(clippy::disallowed_methods, reason = "a token's times are wall times, and this is the outside world")]
pub fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970").as_secs()
}

/// A `can` that allows everything.
pub fn everything() -> Value {
    json!({"join": ["**"], "watch": ["**"], "typing": ["**"], "send": ["**"], "users": ["**"], "status": true})
}

fn claims(user: &str, more: Value) -> Value {
    let mut claims = json!({"sub": user, "exp": now_s() + 3600, "can": everything()});
    let fields = claims.as_object_mut().expect("claims are an object");
    let Value::Object(more) = more else { panic!("claims are an object") };
    for (name, value) in more {
        // As in a merge patch, null takes a claim away.
        if value.is_null() {
            fields.remove(&name);
        } else {
            fields.insert(name, value);
        }
    }
    claims
}

/// A good token for `user`, for an hour, that may do everything. `more` replaces claims; null removes one.
///
/// `token("ann", json!({"exp": 1}))` is an expired one, `token("ann", json!({"sub": null}))` one for nobody.
pub fn token(user: &str, more: Value) -> String {
    mint(Algorithm::HS256, &EncodingKey::from_secret(HS256_SECRET.as_bytes()), user, more)
}

/// The same with an algorithm and key of the test's choice, fitting or not.
pub fn mint(algorithm: Algorithm, key: &EncodingKey, user: &str, more: Value) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), &claims(user, more), key).expect("claims can be signed")
}

/// A token with `"alg":"none"` and no signature.
pub fn unsigned(user: &str, more: Value) -> String {
    use base64::Engine as _;
    let part = |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), part(&claims(user, more)))
}

/// A fresh key pair, for tokens signed by somebody who keeps the private half.
pub struct KeyPair {
    /// What signs.
    pub private: EncodingKey,
    /// What the service is configured with, as PEM.
    pub public_pem: String,
    /// The one algorithm that fits.
    pub algorithm: Algorithm,
}

impl KeyPair {
    /// A pair for ES256.
    pub fn es256() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key can be drawn");
        let private = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("it is a key of that kind");
        Self { private, public_pem: pair.public_key_pem(), algorithm: Algorithm::ES256 }
    }

    /// A pair for EdDSA (Ed25519).
    pub fn ed25519() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key can be drawn");
        let private = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).expect("it is a key of that kind");
        Self { private, public_pem: pair.public_key_pem(), algorithm: Algorithm::EdDSA }
    }

    /// A token of this pair.
    pub fn token(&self, user: &str, more: Value) -> String {
        mint(self.algorithm, &self.private, user, more)
    }
}
