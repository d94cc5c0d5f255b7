//! The keys that tokens are checked with, and where they come from. Files and addresses are read again while the service runs.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{Settings, key::Key};

/// How often files are looked at.
const FILE_EVERY: Duration = Duration::from_secs(5);
/// How often an address is asked again.
const FETCH_EVERY: Duration = Duration::from_secs(300);
/// How long an address is left alone after it was asked, whoever wants it asked again.
const FETCH_PAUSE: Duration = Duration::from_secs(30);
/// How long an answer may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest key file or key set that is read, bytes.
const SET_BYTES: usize = 1 << 20;

enum Origin {
    Given,
    PemFile(PathBuf),
    SetFile(PathBuf),
    SetAddress(reqwest::Url, reqwest::Client),
}

/// By what a changed file is told.
type Stamp = (Option<SystemTime>, u64, u64);

struct Source {
    origin: Origin,
    keys: RwLock<Arc<[Key]>>,
    seen: Mutex<Option<Stamp>>,
}

impl Source {
    fn new(origin: Origin, keys: Vec<Key>) -> Self {
        Self { origin, keys: RwLock::new(keys.into()), seen: Mutex::new(None) }
    }

    fn keys(&self) -> Arc<[Key]> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, keys: Vec<Key>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
    }

    /// Reads the file if it is another than last time; says whether it did. What cannot be read leaves the old keys in force.
    fn read_if_changed(&self) -> Result<bool, String> {
        let path = match &self.origin {
            Origin::PemFile(path) | Origin::SetFile(path) => path,
            Origin::Given | Origin::SetAddress(..) => return Ok(false),
        };
        let stamp = stamp(path).map_err(|why| format!("the key file {} cannot be read: {why}", path.display()))?;
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == Some(stamp) {
                return Ok(false);
            }
            // Kept before reading: a file that is no use is complained about once, and read again when it changes again.
            *seen = Some(stamp);
        }
        let refuse = |why: String| format!("the key file {} is no use: {why}", path.display());
        if stamp.1 > SET_BYTES as u64 {
            return Err(refuse("it is longer than a megabyte".to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(|why| refuse(why.to_string()))?;
        let keys = match &self.origin {
            Origin::SetFile(_) => Key::from_set(&text),
            _ => Key::from_pem(&text).map(|key| vec![key]),
        };
        self.replace(keys.map_err(refuse)?);
        Ok(true)
    }
}

fn stamp(path: &std::path::Path) -> std::io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(path)?;
    Ok((found.modified().ok(), found.len(), found.ino()))
}

/// All keys for tokens.
pub(super) struct KeyRing {
    sources: Vec<Source>,
    /// When addresses were last asked. Held while they are asked, so that a hundred callers cost one request.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl KeyRing {
    /// Gathers the keys that are given or stand in files; addresses are asked later.
    ///
    /// # Errors
    /// A sentence about a key that cannot be read.
    pub(super) fn new(settings: &Settings) -> Result<Self, String> {
        let mut sources = Vec::new();
        if let Some(secret) = &settings.hs256_secret {
            sources.push(Source::new(Origin::Given, vec![Key::hs256(secret.expose())]));
        }
        for key in &settings.public_keys {
            if key.contains("-----BEGIN ") {
                let key = Key::from_pem(key).map_err(|why| format!("a key of `auth.public_keys` is no use: {why}"))?;
                sources.push(Source::new(Origin::Given, vec![key]));
            } else {
                sources.push(Source::new(Origin::PemFile(key.into()), Vec::new()));
            }
        }
        match settings.jwks.as_deref() {
            None => {}
            Some(address) if address.starts_with("https://") || address.starts_with("http://") => {
                let address = reqwest::Url::parse(address)
                    .map_err(|why| format!("`auth.jwks` is not an address that can be asked: {why}"))?;
                let client = reqwest::Client::builder()
                    .timeout(FETCH_TIMEOUT)
                    .build()
                    .map_err(|why| format!("`auth.jwks` cannot be asked from here: {why}"))?;
                sources.push(Source::new(Origin::SetAddress(address, client), Vec::new()));
            }
            Some(path) => sources.push(Source::new(Origin::SetFile(path.into()), Vec::new())),
        }
        for source in &sources {
            source.read_if_changed()?;
        }
        Ok(Self { sources, asked: tokio::sync::Mutex::new(None) })
    }

    /// The keys of each source, as they are now.
    pub(super) fn keys(&self) -> impl Iterator<Item = Arc<[Key]>> {
        self.sources.iter().map(Source::keys)
    }

    /// Whether there is an address that might know more.
    pub(super) fn has_address(&self) -> bool {
        self.sources.iter().any(|source| matches!(source.origin, Origin::SetAddress(..)))
    }

    /// Asks the addresses again, unless that was done within [`FETCH_PAUSE`]. Waits for the answer of whoever asks already.
    pub(super) async fn fetch(self: &Arc<Self>) {
        let ring = self.clone();
        // A task of its own: a caller that goes away must not leave the question marked as asked and unanswered.
        if tokio::spawn(async move { ring.ask().await }).await.is_err() {
            warn!("fetching the key set of `auth.jwks` has failed");
        }
    }

    async fn ask(&self) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < FETCH_PAUSE) {
            return;
        }
        *asked = Some(Instant::now());
        for source in &self.sources {
            let Origin::SetAddress(address, client) = &source.origin else { continue };
            match fetch(client, address).await {
                Ok(keys) => source.replace(keys),
                Err(why) => warn!(%why, "the key set of `auth.jwks` could not be fetched; the keys known so far stay"),
            }
        }
    }

    /// Looks at the files once.
    pub(super) fn read_files(&self) {
        for source in &self.sources {
            match source.read_if_changed() {
                Ok(false) => {}
                Ok(true) => info!("a key file has changed and was read again"),
                Err(why) => warn!(%why, "the keys known so far stay"),
            }
        }
    }

    /// Keeps the keys fresh until it is dropped.
    pub(super) async fn keep_fresh(self: Arc<Self>) {
        let mut fetched = None::<Instant>;
        loop {
            // After a failure there are no keys yet, and the pause is all that is waited.
            let every =
                if self.sources.iter().all(|source| !source.keys().is_empty()) { FETCH_EVERY } else { FETCH_PAUSE };
            if self.has_address() && fetched.is_none_or(|at| at.elapsed() >= every) {
                self.fetch().await;
                fetched = Some(Instant::now());
            }
            tokio::time::sleep(FILE_EVERY).await;
            let ring = self.clone();
            // Files may lie on something slow.
            if tokio::task::spawn_blocking(move || ring.read_files()).await.is_err() {
                warn!("looking at the key files has failed");
            }
        }
    }
}

async fn fetch(client: &reqwest::Client, address: &reqwest::Url) -> Result<Vec<Key>, String> {
    // The address may hold a password: what is logged of an error leaves it out.
    let reason = |why: reqwest::Error| why.without_url().to_string();
    let mut response =
        client.get(address.clone()).send().await.and_then(reqwest::Response::error_for_status).map_err(reason)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reason)? {
        if body.len() + chunk.len() > SET_BYTES {
            return Err("it is longer than a megabyte".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Key::from_set(std::str::from_utf8(&body).map_err(|_| "it is no UTF-8")?)
}
