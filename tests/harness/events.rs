//! A listener to server-sent events that believes nothing it has not checked: what `GET /v1/events` says, read as the HTML standard has it.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{
    Answer, DEADLINE, PatternView,
    view::{Level, View},
};

/// One event, with the id that a browser would send when it comes back.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: Option<String>,
    pub data: Value,
}

/// One stream. What it is told of a channel becomes a view, which panics at the first frame that breaks the protocol.
pub struct Events {
    response: reqwest::Response,
    unread: Vec<u8>,
    pub view: View,
    /// What it is told of the channels of a pattern.
    pub pattern: PatternView,
    /// The id of the last event that had one.
    pub last_id: Option<String>,
    /// After how long a browser would come back.
    pub retry_ms: Option<u64>,
    /// Lines that are no event.
    pub comments: usize,
    /// All events so far.
    pub seen: Vec<Event>,
    pub headers: reqwest::header::HeaderMap,
}

impl Events {
    /// Opens a stream; what is no stream is given back as the answer that it is.
    pub async fn open(base: &str, query: &str, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client can be built");
        let mut request = http.get(format!("{base}/v1/events?{query}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = tokio::time::timeout(DEADLINE, request.send()).await.expect("in time").expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if status != 200 {
            let text = response.text().await.expect("a body");
            let body = serde_json::from_str(&text).unwrap_or(Value::Null);
            return Err(Answer { status, headers, text, body });
        }
        assert_eq!(headers["content-type"], "text/event-stream");
        let level = query.split('&').find_map(|part| part.strip_prefix("level=")).map_or(Level::Users, Level::parse);
        Ok(Self {
            response,
            unread: Vec::new(),
            view: View::new(level),
            pattern: PatternView::default(),
            last_id: None,
            retry_ms: None,
            comments: 0,
            seen: Vec::new(),
            headers,
        })
    }

    /// Opens one that goes on where another has stopped, with its view.
    pub async fn go_on(self, base: &str, query: &str, headers: &[(&str, &str)]) -> Self {
        let id = self.last_id.clone().expect("an event with an id");
        let headers = [headers, &[("last-event-id", &*id)]].concat();
        let mut next = Self::open(base, query, &headers).await.unwrap_or_else(|answer| panic!("{answer:?}"));
        next.view = self.view;
        next.view.watched_again(next.view.level(), true);
        next.last_id = Some(id);
        next
    }

    /// The next event; none when the stream has ended or nothing came in time.
    pub async fn next_within(&mut self, time: Duration) -> Option<Event> {
        let until = Instant::now() + time;
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..end + 2).collect();
                let block = String::from_utf8(block).expect("events are UTF-8");
                if let Some(event) = self.take(&block) {
                    return Some(event);
                }
                continue;
            }
            let chunk = timeout_at(until, self.response.chunk()).await.ok()?;
            self.unread.extend_from_slice(&chunk.ok()??);
        }
    }

    pub async fn next(&mut self) -> Event {
        self.next_within(DEADLINE).await.unwrap_or_else(|| panic!("no event in time; so far {:?}", self.seen))
    }

    fn take(&mut self, block: &str) -> Option<Event> {
        let (mut id, mut data) = (None, None);
        for line in block.lines().filter(|line| !line.is_empty()) {
            match line.split_once(':').expect("each line has a colon") {
                ("", _) => self.comments += 1,
                ("id", value) => id = Some(value.trim_start().to_owned()),
                ("data", value) => assert!(data.replace(value.trim_start().to_owned()).is_none(), "one line of data"),
                ("retry", value) => self.retry_ms = Some(value.trim().parse().expect("milliseconds")),
                (other, _) => panic!("no field of an event: {other}"),
            }
        }
        self.last_id = id.clone().or(self.last_id.take());
        let data: Value = serde_json::from_str(&data?).expect("the data is JSON");
        if data["pattern"].is_string() && data["event"] != "unwatched" {
            self.pattern.take(&data).unwrap_or_else(|why| panic!("{why}: {data}"));
            assert_eq!(id, None, "only one channel can be gone on with");
        } else if matches!(data["event"].as_str(), Some("snapshot" | "delta")) {
            self.view.take(&data).unwrap_or_else(|why| panic!("{why}: {data}"));
            let number = data["to"].as_u64().or(data["version"].as_u64()).expect("a version");
            let expected = format!("{}:{number}", data["epoch"].as_str().expect("an epoch"));
            assert_eq!(id, (data["more"] != true).then_some(expected), "the id says where the reader is");
        }
        let event = Event { id, data };
        self.seen.push(event.clone());
        Some(event)
    }

    /// Reads until something holds of the stream.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !holds(self) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(self.next_within(left).await.is_some(), "not in time: {what}; so far {:#?}", self.seen);
        }
    }

    /// Reads to the end of the stream.
    pub async fn end(&mut self) {
        let end = Instant::now() + DEADLINE;
        while self.next_within(end.saturating_duration_since(Instant::now())).await.is_some() {}
        assert!(Instant::now() < end, "the stream goes on; so far {:?}", self.seen);
    }

    pub fn users(&self) -> Vec<String> {
        self.view.users()
    }
}
