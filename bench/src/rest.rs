//! An app server that asks over REST, one question after another or several at a time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{names::Names, token::API_KEY};

/// A client of one instance.
pub struct Rest {
    base: String,
    http: reqwest::Client,
    runtime: Runtime,
}

/// A question.
#[derive(Clone)]
pub struct Question {
    /// The path, without the host.
    pub path: String,
    /// What is posted; nothing is got.
    pub body: Option<Value>,
}

impl Rest {
    /// A client of this address.
    pub fn new(at: SocketAddr) -> Self {
        // The HTTP client may want a TLS provider even for plain addresses; a second installation is refused, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Shorter than the server keeps a quiet connection: nobody is here between questions who would notice its end.
        let idle = Duration::from_secs(1);
        let http =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).pool_idle_timeout(idle).build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self {
            base: format!("http://{at}"),
            http: http.expect("a client can be built"),
            runtime: runtime.expect("a runtime can be built"),
        }
    }

    /// Waits until the instance is ready.
    pub fn until_ready(&self, within: Duration) {
        let end = Instant::now() + within;
        let ready = async || {
            self.http.get(format!("{}/readyz", self.base)).send().await.is_ok_and(|answer| answer.status() == 200)
        };
        while !self.runtime.block_on(ready()) {
            assert!(Instant::now() < end, "{} is not ready within {within:?}", self.base);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The answer to one question, which must succeed.
    pub fn ask(&self, question: &Question) -> Value {
        let text = self.runtime.block_on(answer(&self.http, &self.base, question));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}: {text:.300}", question.path))
    }

    /// Gets a path.
    pub fn get(&self, path: &str) -> Value {
        self.ask(&Question { path: path.to_owned(), body: None })
    }

    /// Asks the same so often, some at a time: how long each took. `is_right` looks at every answer.
    pub fn ask_often(
        &self,
        question: &Question,
        times: usize,
        at_once: usize,
        is_right: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Vec<Duration> {
        let (left, is_right) = (Arc::new(AtomicUsize::new(times)), Arc::new(is_right));
        self.runtime.block_on(async {
            let mut askers = JoinSet::new();
            for _ in 0..at_once {
                let (http, base, question) = (self.http.clone(), self.base.clone(), question.clone());
                let (left, is_right) = (left.clone(), is_right.clone());
                askers.spawn(async move {
                    let mut took = Vec::new();
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                        let began = Instant::now();
                        let text = answer(&http, &base, &question).await;
                        took.push(began.elapsed());
                        assert!(is_right(&text), "{} is answered wrongly: {text:.300}", question.path);
                    }
                    took
                });
            }
            askers.join_all().await.concat()
        })
    }

    /// Who is in a channel, over all pages, and how many the count says.
    pub fn members(&self, channel: &str) -> Names {
        let (mut names, mut cursor) = (Names::default(), String::new());
        loop {
            let page = self.get(&format!("/v1/channels/{channel}/members?limit=1000{cursor}"));
            for member in page["members"].as_array().expect("a list") {
                names.add(member["user"].as_str().expect("a user"));
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => {
                    assert_eq!(page["occupancy"]["users"], json!(names.count), "the count and the list of {channel}");
                    return names;
                }
            }
        }
    }
}

async fn answer(http: &reqwest::Client, base: &str, question: &Question) -> String {
    let url = format!("{base}{}", question.path);
    let request = match &question.body {
        Some(body) => http.post(url).json(body),
        None => http.get(url),
    };
    let response =
        request.bearer_auth(API_KEY).send().await.unwrap_or_else(|error| panic!("{}: {error}", question.path));
    let (status, text) = (response.status(), response.text().await.unwrap_or_default());
    assert!(status.is_success(), "{}: {status} {text:.300}", question.path);
    text
}
