//! What one socket is still to be sent. Not a queue of copies: a position in each watched mirror, so that a slow reader costs the same as a quick one
//! and gets the latest state when it can read again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;

use super::{
    hub::{Ear, Hub},
    told,
    ws::wire,
};
use crate::{
    core::{Cause, Copy, Delivery, PatternDelivery, PatternWatch, UserWatch, Wake, Watch},
    domain::{level::Level, name::ChannelName, pattern::Pattern},
    metrics::{Because, Metrics},
};

/// The outbox of one socket. Replies come first, then the pages of a snapshot that has begun, then what mirrors have.
pub struct Outbox {
    hub: Rc<Hub>,
    seat: u64,
    ear: Rc<Ear>,
    /// Answers to operations; bounded, for the socket asks for no further operation while one waits here.
    replies: VecDeque<Bytes>,
    /// The snapshot of which pages are still to come.
    paging: Option<(Source, Pages)>,
    // In boxes, for a map's node has room for eleven of what most have one of.
    watches: BTreeMap<ChannelName, Box<Watch>>,
    users: Option<UserWatch>,
    patterns: BTreeMap<Pattern, PatternWatch>,
    sources: HashMap<u64, Source>,
    dirty: BTreeSet<Source>,
    /// Whose frame was the last: the next one's turn follows, so that a busy channel does not starve others on a slow socket.
    last: Option<Source>,
}

/// Where frames come from, in the order of their turns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// Users, whether named or everybody.
    Users,
    /// A watched channel.
    Channel(ChannelName),
    /// The channels of a watched pattern.
    Pattern(Pattern),
}

/// The pages of one snapshot that are still to come.
enum Pages {
    /// That with which a watch begins. Shared with whoever begins at the same moment, and given up when it takes too long: then a copy follows.
    First(VecDeque<Bytes>),
    /// A copy that all who read slowly, or are told of a change of mode, share, and how many pages of it have been sent.
    Copy(Arc<Copy>, usize),
}

impl Pages {
    /// The next page, and whether others follow. A copy's pages were made before its first was sent.
    fn next(&mut self) -> Option<(Bytes, bool)> {
        match self {
            Self::First(pages) => pages.pop_front().map(|page| (page, !pages.is_empty())),
            Self::Copy(copy, sent) => {
                let pages = copy.pages(|_| Vec::new());
                let page = pages.get(*sent)?.clone();
                *sent += 1;
                Some((page, *sent < pages.len()))
            }
        }
    }
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
            paging: None,
            watches: BTreeMap::new(),
            users: None,
            patterns: BTreeMap::new(),
            sources: HashMap::new(),
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
        self.dirty.extend(mirrors.iter().filter_map(|mirror| self.sources.get(mirror)).cloned());
        self.give_up_pages();
    }

    /// What a watch began with is given up while its pages are still being read, when nothing follows on it any more: only copies are kept for so long.
    /// Every list is, when the channel has become too large for one.
    fn give_up_pages(&mut self) {
        if let Some((Source::Channel(channel), pages)) = &self.paging
            && let Some(watch) = self.watches.get_mut(channel)
            && (watch.gives_up_list() || (matches!(pages, Pages::First(_)) && watch.gives_up()))
        {
            self.dirty.insert(Source::Channel(channel.clone()));
            self.paging = None;
        }
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
        self.replies.is_empty() && self.paging.is_none() && self.dirty.is_empty()
    }

    /// The level at which a channel is watched.
    pub fn level(&self, channel: &ChannelName) -> Option<Level> {
        self.watches.get(channel).map(|watch| watch.level())
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
        self.sources.insert(watch.mirror_id(), Source::Channel(channel.clone()));
        self.dirty.insert(Source::Channel(channel.clone()));
        self.watches.insert(channel, Box::new(watch));
    }

    /// A watch ends, at once: what was still to be sent of it is not. Returns whether there was one.
    pub fn unwatch(&mut self, channel: &ChannelName) -> bool {
        let Some(watch) = self.watches.remove(channel) else { return false };
        self.hub.unlisten(watch.mirror_id(), self.seat);
        self.sources.remove(&watch.mirror_id());
        self.dirty.remove(&Source::Channel(channel.clone()));
        self.paging.take_if(|(paging, _)| *paging == Source::Channel(channel.clone()));
        true
    }

    /// How many patterns are watched.
    pub fn patterns_watched(&self) -> usize {
        self.patterns.len()
    }

    /// Whether a pattern is watched.
    pub fn watches_pattern(&self, pattern: &Pattern) -> bool {
        self.patterns.contains_key(pattern)
    }

    /// A watch over a pattern begins; one over the same ends.
    pub fn watch_pattern(&mut self, watch: PatternWatch) {
        let pattern = watch.pattern().clone();
        self.unwatch_pattern(&pattern);
        let source = Source::Pattern(pattern.clone());
        self.hub.listen(watch.id(), self.seat, &self.ear);
        self.sources.insert(watch.id(), source.clone());
        self.dirty.insert(source);
        self.patterns.insert(pattern, watch);
    }

    /// A watch over a pattern ends, at once. Returns whether there was one.
    pub fn unwatch_pattern(&mut self, pattern: &Pattern) -> bool {
        let Some(watch) = self.patterns.remove(pattern) else { return false };
        self.hub.unlisten(watch.id(), self.seat);
        self.sources.remove(&watch.id());
        let source = Source::Pattern(pattern.clone());
        self.dirty.remove(&source);
        self.paging.take_if(|(paging, _)| *paging == source);
        true
    }

    /// The watch over users, if there is one.
    pub fn users(&self) -> Option<&UserWatch> {
        self.users.as_ref()
    }

    /// The watch over users, which begins where there is none.
    pub fn begin_users(&mut self, begin: impl FnOnce(&Arc<dyn Wake>) -> UserWatch) -> &UserWatch {
        self.users.get_or_insert_with(|| {
            let watch = begin(self.hub.wake());
            self.hub.listen(watch.id(), self.seat, &self.ear);
            self.sources.insert(watch.id(), Source::Users);
            watch
        })
    }

    /// The next frame to send, if there is one now.
    pub fn next(&mut self, metrics: &Metrics) -> Option<Bytes> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        self.give_up_pages();
        if let Some((source, pages)) = self.paging.take() {
            return self.page(source, pages);
        }
        while let Some(source) = self.next_in_turn() {
            let channel = match &source {
                Source::Channel(channel) => channel.clone(),
                Source::Users => {
                    if let Some(frame) = self.users.as_ref().and_then(UserWatch::deliver) {
                        self.last = Some(source);
                        return Some(told::users(&frame));
                    }
                    self.dirty.remove(&source);
                    continue;
                }
                Source::Pattern(pattern) => {
                    let pattern = pattern.clone();
                    if let Some(frame) = self.next_of_pattern(source, &pattern, metrics) {
                        return Some(frame);
                    }
                    continue;
                }
            };
            match self.watches.get_mut(&channel).and_then(|watch| watch.deliver()) {
                None => {
                    self.dirty.remove(&source);
                }
                Some(Delivery::Frame(frame)) => {
                    self.last = Some(source);
                    let encoded = frame.encoded.get(|| {
                        // The first socket that is told of it, and no other, is here.
                        if let Some(wanted_at) = frame.wanted_at {
                            metrics.write_to_socket.observe(wanted_at.elapsed().as_secs_f64());
                        }
                        vec![wire::delta(&channel, &frame)]
                    });
                    return encoded.first().cloned();
                }
                Some(Delivery::Aside { aside, lost }) => {
                    metrics.asides_lost.inc_by(lost);
                    self.last = Some(source);
                    return aside.encoded.get(|| vec![wire::aside(&channel, &aside)]).first().cloned();
                }
                Some(Delivery::Snapshot(snapshot)) => {
                    let pages = snapshot.encoded.get(|| wire::snapshot(&channel, &snapshot, None));
                    let pages = Pages::First(pages.iter().cloned().collect());
                    return self.begin(source, pages, "first", metrics);
                }
                Some(Delivery::Copy(copy)) => {
                    let cause = copy.cause();
                    copy.pages(|snapshot| wire::snapshot(&channel, snapshot, Some(cause)));
                    return self.begin(source, Pages::Copy(copy, 0), cause.as_str(), metrics);
                }
            }
        }
        None
    }
}

impl Outbox {
    /// Begins a snapshot: its first page.
    fn begin(&mut self, source: Source, pages: Pages, reason: &'static str, metrics: &Metrics) -> Option<Bytes> {
        metrics.snapshots.get_or_create(&Because { reason }).inc();
        self.last = Some(source.clone());
        self.page(source, pages)
    }

    /// The next page. With the last one the snapshot is let go, before that has left.
    fn page(&mut self, source: Source, mut pages: Pages) -> Option<Bytes> {
        let (page, more) = pages.next()?;
        self.paging = more.then_some((source, pages));
        Some(page)
    }

    /// The next frame of a pattern; without one it waits for news.
    fn next_of_pattern(&mut self, source: Source, pattern: &Pattern, metrics: &Metrics) -> Option<Bytes> {
        match self.patterns.get_mut(pattern).and_then(PatternWatch::deliver) {
            None => {
                self.dirty.remove(&source);
                None
            }
            Some(PatternDelivery::Frame(told)) => {
                self.last = Some(source);
                let encode = || vec![wire::pattern_delta(pattern, &told.channel, &told.frame)];
                told.encoded.get(encode).first().cloned()
            }
            Some(PatternDelivery::Channels(channels, cause)) => {
                let encoded = if cause.is_some() { &channels.encoded_again } else { &channels.encoded };
                let pages = encoded.get(|| told::channels(pattern, &channels, cause));
                let pages = Pages::First(pages.iter().cloned().collect());
                self.begin(source, pages, cause.map_or("first", Cause::as_str), metrics)
            }
            Some(PatternDelivery::Over) => {
                self.unwatch_pattern(pattern);
                Some(told::unwatched(pattern))
            }
        }
    }

    fn next_in_turn(&self) -> Option<Source> {
        use std::ops::Bound::{Excluded, Unbounded};
        let after =
            self.last.as_ref().and_then(|last| self.dirty.range::<Source, _>((Excluded(last), Unbounded)).next());
        after.or_else(|| self.dirty.first()).cloned()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        for source in self.sources.keys() {
            self.hub.unlisten(*source, self.seat);
        }
    }
}
