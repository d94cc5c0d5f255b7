//! Strong entity tags: a reader that has what is there need not get it again.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CacheControl, CacheDirective, ETAG, IF_NONE_MATCH},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::domain::version::Version;

/// `"epoch:version"`, with a hash of what else the answer depends on.
pub struct Tag(String);

impl Tag {
    /// The tag of an answer that a version decides alone.
    pub fn of(version: &Version) -> Self {
        Self(format!("\"{}:{}\"", version.epoch, version.number))
    }

    /// The tag of an answer that depends on `beside` too.
    pub fn with(version: &Version, beside: &[u8]) -> Self {
        let digest = Sha256::digest(beside);
        Self(format!("\"{}:{}:{}\"", version.epoch, version.number, URL_SAFE_NO_PAD.encode(&digest[..9])))
    }

    /// The tag as it stands in a header.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the reader has this already.
    fn is_known_to(&self, req: &HttpRequest) -> bool {
        let lines = req.headers().get_all(IF_NONE_MATCH).filter_map(|line| line.to_str().ok());
        let mut tags = lines.flat_map(|line| line.split(',')).map(str::trim);
        // If-None-Match compares weakly, as the RFC has it.
        tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.0)
    }

    /// 304 to a reader that has it.
    pub fn unless_known(&self, req: &HttpRequest) -> Option<HttpResponse> {
        self.is_known_to(req).then(|| {
            HttpResponse::NotModified().insert_header((ETAG, self.as_str())).insert_header(revalidate()).finish()
        })
    }

    /// The answer with its tag.
    pub fn answer(&self, body: &impl Serialize) -> HttpResponse {
        HttpResponse::Ok().insert_header((ETAG, self.as_str())).insert_header(revalidate()).json(body)
    }
}

/// The reader may keep the answer, and asks each time whether it still holds.
fn revalidate() -> CacheControl {
    CacheControl(vec![CacheDirective::Private, CacheDirective::NoCache])
}
