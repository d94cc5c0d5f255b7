//! The REST door as an app server sees it.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::API_KEY;

/// Everything but what RFC 3986 calls unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A name as a path segment.
pub fn segment(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    /// The body if it is JSON, else null.
    pub body: Value,
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text);
        self.body
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A client of one base address.
#[derive(Clone)]
pub struct Rest {
    base: String,
    key: Option<String>,
    http: reqwest::Client,
}

impl Rest {
    /// A client with the harness's API key.
    pub fn new(base: &str) -> Self {
        // The HTTP client wants a TLS provider even for plain addresses; a second installation is refused, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
            .build()
            .expect("a client can be built");
        Self { base: base.trim_end_matches('/').to_owned(), key: Some(API_KEY.to_owned()), http }
    }

    /// The same client with another key, or with none.
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    /// Any request.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, reqwest::Error> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Answer { status, headers, text, body })
    }

    pub async fn try_get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        self.request("GET", path, &[], None).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.request("PUT", path, &[], Some(&body)).await.unwrap_or_else(|error| panic!("PUT {path}: {error}"))
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.request("POST", path, &[], Some(&body)).await.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.request("PATCH", path, &[], Some(&body)).await.unwrap_or_else(|error| panic!("PATCH {path}: {error}"))
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, &[], None).await.unwrap_or_else(|error| panic!("DELETE {path}: {error}"))
    }

    /// All members of a channel, over all pages.
    pub async fn members(&self, channel: &str) -> Vec<Value> {
        let mut members = Vec::new();
        let mut query = "?limit=1000".to_owned();
        loop {
            let page = self.get(&format!("/v1/channels/{}/members{query}", segment(channel))).await.ok();
            members.extend(page["members"].as_array().expect("members are a list").iter().cloned());
            match page["next"].as_str() {
                Some(next) => query = format!("?limit=1000&cursor={}", segment(next)),
                None => return members,
            }
        }
    }

    /// The users in a channel, sorted.
    pub async fn users_in(&self, channel: &str) -> Vec<String> {
        let members = self.members(channel).await;
        let mut users: Vec<_> =
            members.iter().map(|member| member["user"].as_str().expect("a user").to_owned()).collect();
        users.sort();
        users
    }

    /// `{users, connections}` of a channel.
    pub async fn occupancy(&self, channel: &str) -> Value {
        self.get(&format!("/v1/channels/{}", segment(channel))).await.ok()["occupancy"].clone()
    }
}

/// Sends bytes as they are and reads to the end: for paths and headers that no honest client would write.
///
/// The request should say `Connection: close`. Returns the status (0 if there was none) and everything that came.
pub async fn raw_http(port: u16, request: &[u8]) -> (u16, String) {
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("the port is open");
    // A server that has read enough may close before it has read all.
    let _ = socket.write_all(request).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer)
}
