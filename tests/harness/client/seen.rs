//! What a client has seen, and waiting until it has.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::{
    super::{DEADLINE, view::View},
    Client, Closed, Received,
};

impl Client {
    /// The `ok` of `hello`.
    pub fn welcome(&self) -> Value {
        self.shared.books.lock().unwrap().welcome.clone()
    }

    pub fn connection(&self) -> String {
        self.welcome()["connection"].as_str().expect("a welcome names the connection").to_owned()
    }

    pub fn resume_token(&self) -> String {
        self.welcome()["resume"].as_str().expect("a welcome brings a resume token").to_owned()
    }

    /// The view of a watched channel.
    pub fn view(&self, channel: &str) -> Option<View> {
        self.shared.books.lock().unwrap().views.get(channel).cloned()
    }

    /// The views of all watched channels.
    pub fn views(&self) -> BTreeMap<String, View> {
        self.shared.books.lock().unwrap().views.clone()
    }

    /// The users whom the view of a channel shows, sorted; none without a view.
    pub fn users(&self, channel: &str) -> Vec<String> {
        self.view(channel).map(|view| view.users()).unwrap_or_default()
    }

    pub fn sees(&self, channel: &str, user: &str) -> bool {
        self.users(channel).iter().any(|seen| seen == user)
    }

    /// The member as this client sees it, or null.
    pub fn member(&self, channel: &str, key: &str) -> Value {
        self.view(channel).and_then(|view| view.members().get(key).cloned()).unwrap_or_default()
    }

    /// How many snapshots each watch of a channel brought, in order.
    pub fn snapshots(&self, channel: &str) -> Vec<usize> {
        self.view(channel).map(|view| view.watches.iter().map(|watch| watch.snapshots).collect()).unwrap_or_default()
    }

    /// All frames that answered no operation, with the time they came.
    pub fn received(&self) -> Vec<Received> {
        self.shared.books.lock().unwrap().received.clone()
    }

    /// Frames of one event.
    pub fn events(&self, event: &str) -> Vec<Received> {
        self.received().into_iter().filter(|received| received.frame["event"] == event).collect()
    }

    /// The entries of one list (`join`, `update`, `leave`) of all deltas of a channel, with the time they came.
    pub fn changes(&self, channel: &str, list: &str) -> Vec<Received> {
        let mut changes = Vec::new();
        for received in self.events("delta").into_iter().filter(|received| received.frame["channel"] == channel) {
            for entry in received.frame[list].as_array().into_iter().flatten() {
                changes.push(Received { at: received.at, frame: entry.clone() });
            }
        }
        changes
    }

    /// How many frames came in all, answers included.
    pub fn frames(&self) -> u64 {
        self.shared.books.lock().unwrap().frames
    }

    /// How the socket ended, if it did.
    pub fn closed(&self) -> Option<Closed> {
        self.shared.books.lock().unwrap().closed.clone()
    }

    /// Waits for the end of the socket.
    #[track_caller]
    pub fn until_closed(&self, deadline: Duration) -> impl Future<Output = Closed> + '_ {
        let place = std::panic::Location::caller();
        async move {
            self.within(deadline, |client| client.closed().is_some()).await;
            self.closed().unwrap_or_else(|| panic!("at {place}: the socket is still open after {deadline:?}"))
        }
    }

    /// Waits until `condition` holds, looking again after every frame. False when the deadline passed first.
    pub async fn within(&self, deadline: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let mut turn = self.shared.turn.subscribe();
        let wait = async {
            while !condition(self) {
                turn.changed().await.expect("we hold the sender");
            }
        };
        tokio::time::timeout(deadline, wait).await.is_ok()
    }

    /// The same, failing the test at [`DEADLINE`].
    #[track_caller]
    pub fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let came = self.within(DEADLINE, condition).await;
            let last: Vec<_> = self.received().into_iter().rev().take(5).map(|received| received.frame).collect();
            assert!(came, "at {place}: {what} did not come true; closed {:?}, last frames {last:#?}", self.closed());
        }
    }

    /// What broke the protocol so far. Taking it keeps the drop quiet: for tests of the harness itself.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.books.lock().unwrap().violations)
    }

    /// Fails the test if any frame broke the protocol.
    pub fn assert_clean(&self) {
        let violations = self.take_violations();
        assert!(violations.is_empty(), "frames that broke the protocol: {violations:#?}");
    }

    /// The address that this client is connected to.
    pub fn base(&self) -> &str {
        &self.base
    }
}
