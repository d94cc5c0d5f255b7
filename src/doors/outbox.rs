//! What one socket is still to be sent. Not a queue of copies: a position in each watched mirror, so that a slow reader costs the same as a quick one
//! and gets the latest state when it can read again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    rc::Rc,
};

use bytes::Bytes;

use super::{
    hub::{Ear, Hub},
    ws::wire,
};
use crate::{
    core::{Delivery, Watch},
    domain::{level::Level, name::ChannelName},
    metrics::{Because, Metrics},
};

/// The outbox of one socket. Replies come first, then the pages of a snapshot that has begun, then what mirrors have.
pub struct Outbox {
    hub: Rc<Hub>,
    seat: u64,
    ear: Rc<Ear>,
    /// Answers to operations; bounded, for the socket asks for no further operation while one waits here.
    replies: VecDeque<Bytes>,
    /// The pages of one snapshot that are still to come, shared with everybody who gets the same.
    pages: VecDeque<Bytes>,
    paging: Option<ChannelName>,
    watches: BTreeMap<ChannelName, Watch>,
    channels: HashMap<u64, ChannelName>,
    dirty: BTreeSet<ChannelName>,
    /// Whose frame was the last: the next one's turn follows, so that a busy channel does not starve others on a slow socket.
    last: Option<ChannelName>,
}

impl Outbox {
    /// An empty outbox on this worker's hub.
    pub fn on_this_worker() -> Self {
        let hub = Hub::of_this_worker();
        Self {
            seat: hub.seat(),
            hub,
            ear: Rc::default(),
            replies: VecDeque::new(),
            pages: VecDeque::new(),
            paging: None,
            watches: BTreeMap::new(),
            channels: HashMap::new(),
            dirty: BTreeSet::new(),
            last: None,
        }
    }

    /// The hub, for new watches.
    pub fn hub(&self) -> &Rc<Hub> {
        &self.hub
    }

    /// The ear, to wait on.
    pub fn ear(&self) -> &Rc<Ear> {
        &self.ear
    }

    /// Mirrors have something new.
    pub fn mark(&mut self, mirrors: HashSet<u64>) {
        self.dirty.extend(mirrors.iter().filter_map(|mirror| self.channels.get(mirror)).cloned());
    }

    /// An answer to an operation, or an event for this socket alone.
    pub fn reply(&mut self, frame: Bytes) {
        self.replies.push_back(frame);
    }

    /// Whether answers wait.
    pub fn has_replies(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Whether anything waits, as far as is known.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty() && self.pages.is_empty() && self.dirty.is_empty()
    }

    /// The level at which a channel is watched.
    pub fn level(&self, channel: &ChannelName) -> Option<Level> {
        self.watches.get(channel).map(Watch::level)
    }

    /// How many channels are watched.
    pub fn watched(&self) -> usize {
        self.watches.len()
    }

    /// A watch begins; one of the same channel ends.
    pub fn watch(&mut self, watch: Watch) {
        let channel = watch.channel().clone();
        self.unwatch(&channel);
        self.hub.listen(watch.mirror_id(), self.seat, &self.ear);
        self.channels.insert(watch.mirror_id(), channel.clone());
        self.dirty.insert(channel.clone());
        self.watches.insert(channel, watch);
    }

    /// A watch ends, at once: what was still to be sent of it is not. Returns whether there was one.
    pub fn unwatch(&mut self, channel: &ChannelName) -> bool {
        let Some(watch) = self.watches.remove(channel) else { return false };
        self.hub.unlisten(watch.mirror_id(), self.seat);
        self.channels.remove(&watch.mirror_id());
        self.dirty.remove(channel);
        if self.paging.as_ref() == Some(channel) {
            self.paging = None;
            self.pages.clear();
        }
        true
    }

    /// The next frame to send, if there is one now.
    pub fn next(&mut self, metrics: &Metrics) -> Option<Bytes> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        if let Some(page) = self.pages.pop_front() {
            return Some(page);
        }
        self.paging = None;
        while let Some(channel) = self.next_in_turn() {
            match self.watches.get_mut(&channel).and_then(Watch::deliver) {
                None => {
                    self.dirty.remove(&channel);
                }
                Some(Delivery::Frame(frame)) => {
                    self.last = Some(channel.clone());
                    let encoded = frame.encoded.get(|| {
                        // The first socket that is told of it, and no other, is here.
                        if let Some(wanted_at) = frame.wanted_at {
                            metrics.write_to_socket.observe(wanted_at.elapsed().as_secs_f64());
                        }
                        vec![wire::delta(&channel, &frame)]
                    });
                    return encoded.first().cloned();
                }
                Some(Delivery::Snapshot(snapshot, cause)) => {
                    let because = Because { reason: cause.map_or("first", |cause| cause.as_str()) };
                    metrics.snapshots.get_or_create(&because).inc();
                    let encoded = match cause {
                        None => &snapshot.encoded,
                        Some(_) => &snapshot.encoded_again,
                    };
                    let pages = encoded.get(|| wire::snapshot(&channel, &snapshot, cause));
                    self.pages.extend(pages.iter().cloned());
                    self.last = Some(channel.clone());
                    self.paging = Some(channel);
                    return self.pages.pop_front();
                }
            }
        }
        None
    }
}

impl Outbox {
    fn next_in_turn(&self) -> Option<ChannelName> {
        use std::ops::Bound::{Excluded, Unbounded};
        let after =
            self.last.as_ref().and_then(|last| self.dirty.range::<ChannelName, _>((Excluded(last), Unbounded)).next());
        after.or_else(|| self.dirty.first()).cloned()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        for watch in self.watches.values() {
            self.hub.unlisten(watch.mirror_id(), self.seat);
        }
    }
}
