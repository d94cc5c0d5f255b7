//! Keys that check signatures. A key knows the one algorithm it is for; what a token says about that is only compared with it.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};

/// RSA keys below this many bytes of modulus (2,048 bits) are refused.
const RSA_MODULUS_BYTES: usize = 256;

/// The most keys that are taken from one key set, so that a wrong address costs no memory.
const SET_KEYS: usize = 100;

/// A key with its one algorithm.
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    decoding: DecodingKey,
}

impl Key {
    /// A key for HS256.
    pub(super) fn hs256(secret: &str) -> Self {
        Self { id: None, algorithm: Algorithm::HS256, decoding: DecodingKey::from_secret(secret.as_bytes()) }
    }

    /// Reads a public key in PEM: RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA).
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub(super) fn from_pem(text: &str) -> Result<Self, String> {
        // Certificates and private keys are told apart here, because the decoder takes some of them for something else.
        let label = text.split("-----BEGIN ").nth(1).and_then(|rest| rest.split("-----").next()).unwrap_or_default();
        match label {
            "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
            "" => return Err("it is no PEM text".to_owned()),
            "CERTIFICATE" => return Err("it is a certificate; extract the public key from it".to_owned()),
            _ if label.ends_with("PRIVATE KEY") => {
                return Err("it is a private key, which belongs to the issuer alone; give the public one".to_owned());
            }
            _ => return Err("it is no public key".to_owned()),
        }
        let bytes = text.as_bytes();
        let (algorithm, decoding) = if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
            (Algorithm::RS256, key)
        } else if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
            (Algorithm::ES256, key)
        } else if let Ok(key) = DecodingKey::from_ed_pem(bytes) {
            (Algorithm::EdDSA, key)
        } else {
            return Err("it is neither an RSA, nor a P-256, nor an Ed25519 public key".to_owned());
        };
        let raw = decoding.try_get_as_bytes().map_err(|_| "it cannot be read")?;
        match algorithm {
            // The modulus stands in an encoding that adds a few bytes: what is shorter than it holds less.
            Algorithm::RS256 if raw.len() < RSA_MODULUS_BYTES => Err("its RSA key has fewer than 2048 bits".to_owned()),
            Algorithm::ES256 if raw.len() != 65 => Err("its curve is not P-256".to_owned()),
            Algorithm::EdDSA if raw.len() != 32 => Err("its Ed25519 key has not 32 bytes".to_owned()),
            _ => Ok(Self { id: None, algorithm, decoding }),
        }
    }

    /// Reads a key set (JWKS). Keys for something else, as key sets have them, are passed over.
    ///
    /// # Errors
    /// A sentence, when nothing in it can be used.
    pub(super) fn from_set(text: &str) -> Result<Vec<Self>, String> {
        #[derive(serde::Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set =
            serde_json::from_str(text).map_err(|_| "it is no key set: JSON with a list `keys` is expected")?;
        let usable = |key| serde_json::from_value::<Jwk>(key).ok().and_then(|jwk| Self::from_jwk(&jwk));
        let keys: Vec<Self> = set.keys.into_iter().take(SET_KEYS).filter_map(usable).collect();
        if keys.is_empty() {
            return Err("there is no key in it for RS256, ES256 or EdDSA".to_owned());
        }
        Ok(keys)
    }

    fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        if common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
            return None;
        }
        if common.key_operations.as_ref().is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
            return None;
        }
        // A secret has no place in a set that is published: keys of the kind `oct` are not taken.
        let (algorithm, named) = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
            }
            _ => return None,
        };
        if common.key_algorithm.is_some_and(|algorithm| algorithm != named) {
            return None;
        }
        let decoding = DecodingKey::from_jwk(jwk).ok()?;
        let sound = match decoding.kind() {
            jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } => n.len() >= RSA_MODULUS_BYTES,
            // The verifier of Ed25519 relies on the length.
            jsonwebtoken::DecodingKeyKind::SecretOrDer(raw) if algorithm == Algorithm::EdDSA => raw.len() == 32,
            jsonwebtoken::DecodingKeyKind::SecretOrDer(raw) => raw.len() == 65,
        };
        sound.then(|| Self { id: common.key_id.clone(), algorithm, decoding })
    }

    /// Whether `signature` (base64url) is this key's over `message`.
    pub(super) fn signed(&self, message: &str, signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.decoding, self.algorithm).unwrap_or(false)
    }
}
