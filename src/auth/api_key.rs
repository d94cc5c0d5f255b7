//! The keys of app servers, of which only hashes are kept.

use std::{fmt, fmt::Write as _, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::domain::{
    pattern::Pattern,
    principal::{Grant, Scope, Server},
};

/// What every key begins with, so that a leaked one is found by those who look for leaks.
const PREFIX: &str = "rck_";

/// An API key as it is configured: `name:scope+scope:sha256hex`, where a scope may be narrowed as in `write(room:**)`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ApiKey {
    /// Its name, for logs.
    pub name: Arc<str>,
    /// What it may do.
    pub grants: Arc<[Grant]>,
    digest: [u8; 32],
}

impl ApiKey {
    /// Draws a new key. Gives the key, which is not kept anywhere, and what is to be configured.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the name or the scopes.
    pub fn generate(name: &str, scopes: &str) -> Result<(String, Self), String> {
        let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        let configured = Self {
            name: parse_name(name)?,
            grants: parse_scopes(scopes).map_err(|why| format!("in the API key `{name}`, {why}"))?,
            digest: Sha256::digest(key.as_bytes()).into(),
        };
        Ok((key, configured))
    }

    /// Parses the configured form.
    ///
    /// # Errors
    /// A sentence that says what is wrong, without repeating what may be a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = "an API key is set as name:scope+scope:sha256hex";
        let (name, rest) = text.trim().split_once(':').ok_or(form)?;
        let (scopes, digest) = rest.rsplit_once(':').ok_or(form)?;
        let name = parse_name(name)?;
        let grants = parse_scopes(scopes).map_err(|why| format!("in the API key `{name}`, {why}"))?;
        let digest = parse_hex(digest).ok_or_else(|| {
            format!("the API key `{name}` must end in the SHA-256 of the key, as 64 hexadecimal digits; `rollcall key --name {name}` makes one")
        })?;
        Ok(Self { name, grants, digest })
    }

    /// The server that holds `key`, if one of `keys` is its hash. Looks at all of them, and takes equally long for each.
    pub fn find(keys: &[Self], key: &str) -> Option<Server> {
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let (mut found, mut at) = (Choice::from(0), 0_u32);
        for (index, candidate) in (0_u32..).zip(keys) {
            let equal = candidate.digest.ct_eq(&digest);
            at.conditional_assign(&index, equal);
            found |= equal;
        }
        let key = keys.get(at as usize).filter(|_| bool::from(found))?;
        Some(Server { name: key.name.clone(), grants: key.grants.clone() })
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.name, ShownGrants(&self.grants))?;
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, ShownGrants(&self.grants))
    }
}

impl TryFrom<String> for ApiKey {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

struct ShownGrants<'a>(&'a [Grant]);

impl fmt::Display for ShownGrants<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, grant) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_char('+')?;
            }
            f.write_str(match grant.scope {
                Scope::Read => "read",
                Scope::Write => "write",
                Scope::Admin => "admin",
            })?;
            if let Some(pattern) = &grant.channels {
                write!(f, "({})", pattern.as_str())?;
            }
        }
        Ok(())
    }
}

fn parse_name(name: &str) -> Result<Arc<str>, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err("the name of an API key has 1 to 64 letters, digits, `-`, `_` or `.`".to_owned());
    }
    Ok(name.into())
}

/// Parses `read+write(room:**)`. A pattern that holds `+` or `)` cannot be written here.
fn parse_scopes(text: &str) -> Result<Arc<[Grant]>, String> {
    text.split('+').map(parse_grant).collect()
}

fn parse_grant(text: &str) -> Result<Grant, String> {
    let (scope, channels) = match text.split_once('(') {
        None => (text, None),
        Some((scope, rest)) => {
            let pattern = rest.strip_suffix(')').ok_or_else(|| format!("the scope `{text}` lacks its `)`"))?;
            let pattern = Pattern::parse(pattern).map_err(|why| format!("the scope `{text}` is no use: {why}"))?;
            (scope, Some(pattern))
        }
    };
    let scope = match scope {
        "read" => Scope::Read,
        "write" => Scope::Write,
        "admin" => Scope::Admin,
        _ => return Err(format!("`{scope}` is not one of the scopes read, write and admin")),
    };
    Ok(Grant { scope, channels })
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_found_by_its_configured_form_and_no_other_is() {
        let (ann, ann_set) = ApiKey::generate("ann", "read+write(room:**)").unwrap();
        let (ben, ben_set) = ApiKey::generate("ben", "admin").unwrap();
        let keys: Vec<ApiKey> = [ann_set, ben_set].iter().map(|key| ApiKey::parse(&key.to_string()).unwrap()).collect();
        assert_eq!(&*ApiKey::find(&keys, &ann).unwrap().name, "ann");
        assert_eq!(&*ApiKey::find(&keys, &ben).unwrap().name, "ben");
        assert!(ApiKey::find(&keys, "rck_other").is_none());
        assert!(ApiKey::find(&keys, "").is_none());
        assert!(ApiKey::find(&[], &ann).is_none());
        let server = ApiKey::find(&keys, &ann).unwrap();
        assert!(server.may(Scope::Read, None));
        assert!(server.may(Scope::Write, Some("room:1")));
        assert!(!server.may(Scope::Write, Some("lobby")));
        assert!(!server.may(Scope::Admin, None));
    }

    #[test]
    fn what_is_no_api_key_is_refused_with_a_sentence_that_does_not_repeat_it() {
        let digest = "a".repeat(64);
        for (text, part) in [
            ("hunter2".to_owned(), "name:scope+scope:sha256hex"),
            (format!("app:read:{digest}0"), "64 hexadecimal digits"),
            ("app:read:hunter2".to_owned(), "64 hexadecimal digits"),
            (format!("app:reed:{digest}"), "`reed` is not one of the scopes"),
            (format!("app::{digest}"), "`` is not one of the scopes"),
            (format!("app:read(room*):{digest}"), "whole segment"),
            (format!("app:read(room:{digest}"), "lacks its `)`"),
            (format!("my app:read:{digest}"), "1 to 64 letters"),
        ] {
            let why = ApiKey::parse(&text).unwrap_err();
            assert!(why.contains(part), "{why}");
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
