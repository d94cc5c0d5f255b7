//! Resume tokens: by them a client that lost its socket shows which connection was its own.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::Settings;
use crate::domain::name::{ConnectionId, UserName};

/// The longest text that is looked at: a name and an id, with what stands around them, in base64.
const TEXT_BYTES: usize = 1024;
const MAC_BYTES: usize = 32;
/// What the texts begin with. Another form gets another number.
const FORM: u8 = 1;

/// What a resume token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// Whose connection it is.
    pub user: UserName,
    /// Which connection.
    pub connection: ConnectionId,
    /// The take that the token was given out for.
    pub take: u64,
}

/// Signs and checks resume tokens. All instances that share a Redis share this key, so that a client may come back anywhere.
#[derive(Clone)]
pub struct ResumeKey(Hmac<Sha256>);

impl ResumeKey {
    /// The key out of `auth.resume_secret`, else out of `auth.hs256_secret`; with neither, one that lives as long as the process.
    pub fn new(settings: &Settings) -> Self {
        let drawn: [u8; 32];
        let secret = match (&settings.resume_secret, &settings.hs256_secret) {
            (Some(secret), _) | (None, Some(secret)) => secret.expose().as_bytes(),
            (None, None) => {
                drawn = rand::random();
                &drawn
            }
        };
        // Derived, so that what is signed for one purpose is never good for another.
        let derived = keyed(secret).chain_update(b"rollcall resume token").finalize().into_bytes();
        Self(keyed(&derived))
    }

    /// Signs. The text is base64url.
    pub fn sign(&self, resume: &Resume) -> String {
        let mut bytes = vec![FORM];
        bytes.extend_from_slice(&resume.take.to_be_bytes());
        let user = resume.user.as_str().as_bytes();
        bytes.push(u8::try_from(user.len()).expect("a name has at most 255 bytes"));
        bytes.extend_from_slice(user);
        bytes.extend_from_slice(resume.connection.as_str().as_bytes());
        let mac = self.0.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a text says that this key has signed; none for any other. Compares in constant time.
    pub fn verify(&self, text: &str) -> Option<Resume> {
        if text.len() > TEXT_BYTES {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_BYTES)?)?;
        self.0.clone().chain_update(body).verify_slice(mac).ok()?;
        let (&form, body) = body.split_first()?;
        if form != FORM {
            return None;
        }
        let (take, body) = body.split_first_chunk::<8>()?;
        let (&length, body) = body.split_first()?;
        let (user, connection) = body.split_at_checked(usize::from(length))?;
        Some(Resume {
            user: UserName::parse(std::str::from_utf8(user).ok()?).ok()?,
            connection: ConnectionId::from_stored(std::str::from_utf8(connection).ok()?),
            take: u64::from_be_bytes(*take),
        })
    }
}

impl fmt::Debug for ResumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("an HMAC takes a key of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(hs256: Option<&str>, resume: Option<&str>) -> ResumeKey {
        ResumeKey::new(&Settings {
            hs256_secret: hs256.map(Into::into),
            public_keys: Vec::new(),
            jwks: None,
            issuer: None,
            audience: Vec::new(),
            leeway_ms: 0,
            revocation_days: 30,
            resume_secret: resume.map(Into::into),
            api_keys: Vec::new(),
        })
    }

    fn resume() -> Resume {
        Resume {
            user: UserName::parse("日本").unwrap(),
            connection: ConnectionId::from_bytes([7; 16]),
            take: 0x0102_0304_0506_0708,
        }
    }

    #[test]
    fn what_one_instance_signs_another_with_the_same_secret_reads() {
        for (one, other) in [
            (key(Some("s"), None), key(Some("s"), None)),
            (key(Some("s"), Some("r")), key(Some("t"), Some("r"))),
            (key(None, Some("r")), key(None, Some("r"))),
        ] {
            assert_eq!(other.verify(&one.sign(&resume())), Some(resume()));
        }
    }

    #[test]
    fn the_longest_names_fit() {
        let longest = Resume { user: UserName::parse(&"a".repeat(255)).unwrap(), ..resume() };
        let key = key(None, None);
        assert_eq!(key.verify(&key.sign(&longest)), Some(longest));
    }

    #[test]
    fn another_key_and_a_changed_byte_are_refused() {
        let text = key(Some("s"), None).sign(&resume());
        assert_eq!(key(Some("t"), None).verify(&text), None);
        assert_eq!(key(Some("s"), Some("r")).verify(&text), None);
        assert_eq!(key(None, None).verify(&text), None);
        let key = key(Some("s"), None);
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(key.verify(&URL_SAFE_NO_PAD.encode(changed)), None, "byte {at}");
        }
        for text in ["", "AAAA", "no base64!", &"A".repeat(5000)] {
            assert_eq!(key.verify(text), None);
        }
    }

    #[test]
    fn without_any_secret_two_processes_do_not_share_a_key() {
        assert_eq!(key(None, None).verify(&key(None, None).sign(&resume())), None);
    }
}
