//! The credentials that servers and crowd share.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// What tokens are signed with.
pub const SECRET: &str = "a-secret-of-the-benchmark-of-32-bytes-and-more";
/// The key of the app server.
pub const API_KEY: &str = "key-of-the-benchmark";

/// The setting that lets the app server in.
pub fn api_key_setting() -> String {
    let digest: String = Sha256::digest(API_KEY.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("bench:read+write+admin:{digest}")
}

/// A token for an hour that may do everything.
pub fn client(user: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    let can =
        json!({"join": ["**"], "watch": ["**"], "typing": ["**"], "send": ["**"], "users": ["**"], "status": true});
    let claims = json!({"sub": user, "exp": now + 3_600, "can": can});
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).expect("claims can be signed")
}
