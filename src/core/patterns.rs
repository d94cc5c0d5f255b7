//! The occupied channels that a pattern means, for those here who watch it.
//!
//! A group for each pattern and level, shared by all its watchers. It watches each channel like anybody else, with one place in its mirror, and puts what it
//! is told into one ring; a watcher is a position in that. Which channels there are the indexes say, by name.

mod group;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

pub use self::group::{Channels, PatternDelivery, PatternFrame, PatternWatch};
use self::group::{Group, Standing};
use super::{
    Settings,
    error::{Code, Error},
    indexes::Indexes,
    mirror::Wake,
    mirrors::{LINGER, Mirrors, RETRY},
    sleep_until_some,
};
use crate::{
    domain::{level::Level, name::ChannelName, pattern::Pattern, roster::IndexChange},
    store::{Index, Store, StoreError},
    telemetry::vital,
};

/// As many names are listed at a time.
const PAGE: usize = 1_000;
/// How long a watch waits for the list of channels before it is refused as unavailable.
const WAIT: Duration = Duration::from_secs(5);
/// What the ids of groups begin at, for they share a hub with those of mirrors, which count from 1.
const FIRST_ID: u64 = 1 << 61;

/// See the module.
pub(crate) struct Patterns {
    store: Arc<dyn Store>,
    mirrors: Arc<Mirrors>,
    indexes: Arc<Indexes>,
    settings: Arc<Settings>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last_id: u64,
    groups: BTreeMap<(Pattern, u8, bool), Arc<Group>>,
}

impl Patterns {
    pub fn new(
        store: Arc<dyn Store>,
        mirrors: Arc<Mirrors>,
        indexes: Arc<Indexes>,
        settings: Arc<Settings>,
    ) -> Arc<Self> {
        Arc::new(Self { store, mirrors, indexes, settings, open: Mutex::default() })
    }

    /// Watches the channels of a pattern, when it is known which there are. `is_bounded` where namespaces bound what is told.
    ///
    /// # Errors
    /// [`Code::Limit`] where they are more than may be, [`Code::Unavailable`] where the store does not say.
    pub async fn watch(
        self: &Arc<Self>,
        pattern: &Pattern,
        level: Level,
        is_bounded: bool,
        wake: &Arc<dyn Wake>,
    ) -> Result<PatternWatch, Error> {
        let group = self.group(pattern, level, is_bounded);
        let watch = PatternWatch::new(&group, wake);
        match timeout(WAIT, group.listed()).await {
            Ok(Standing::Listed) => Ok(watch),
            Ok(Standing::Over) => {
                let most = self.settings.limits.pattern_channels;
                let message = format!("`{}` means more than {most} occupied channels; watch fewer", pattern.as_str());
                Err(Error::new(Code::Limit, message))
            }
            Err(_) => Err(Error::unavailable("the store of presence did not list the channels in time")),
        }
    }

    fn group(self: &Arc<Self>, pattern: &Pattern, level: Level, is_bounded: bool) -> Arc<Group> {
        let mut open = self.lock();
        let key = (pattern.clone(), level as u8, is_bounded);
        if let Some(group) = open.groups.get(&key) {
            return group.clone();
        }
        open.last_id += 1;
        let group = Group::new(FIRST_ID + open.last_id, pattern.clone(), level, is_bounded);
        open.groups.insert(key, group.clone());
        vital::spawn("pattern", self.clone().keep(group.clone()));
        group
    }

    /// Channels came into the index, or went out of it.
    pub fn hear(&self, change: &IndexChange) {
        let groups: Vec<Arc<Group>> = self.lock().groups.values().cloned().collect();
        for group in groups {
            let means = |channel: &&ChannelName| group.pattern().matches(channel.as_str());
            for channel in change.come.iter().filter_map(|roster| roster.channel()).filter(means) {
                self.take_in(&group, channel, false);
            }
            for channel in change.gone.iter().filter_map(|roster| roster.channel()).filter(means) {
                group.gone(channel);
            }
        }
    }

    /// The index has to be listed: for the first time, or because something was missed.
    pub fn list_again(&self) {
        for group in self.lock().groups.values() {
            group.want_list();
        }
    }

    /// How many patterns are watched, and how many channels they mean.
    pub fn len(&self) -> (usize, usize) {
        let open = self.lock();
        (open.groups.len(), open.groups.values().map(|group| group.len()).sum())
    }

    fn take_in(&self, group: &Arc<Group>, channel: &ChannelName, is_listed: bool) {
        let level = match group.is_bounded() {
            true => self.settings.level_in(channel, group.level()),
            false => group.level(),
        };
        group.take_in(channel, level, is_listed, self.settings.limits.pattern_channels, &self.mirrors);
    }

    /// Keeps one group: lists, hands on what its mirrors tell, until nobody has watched it for a while.
    async fn keep(self: Arc<Self>, group: Arc<Group>) {
        let interest = self.indexes.want();
        if self.indexes.is_whole() {
            group.want_list();
        }
        let mut close_at = None;
        loop {
            group.pull();
            if group.begin_list() {
                if let Err(error) = self.list(&group).await {
                    tracing::debug!(%error, "the channels of a pattern could not be listed yet");
                    sleep(RETRY).await;
                    group.want_list();
                }
                continue;
            }
            if group.is_over() {
                // Whoever asks from here on is counted anew.
                break;
            }
            if group.is_watched() {
                close_at = None;
            } else if *close_at.get_or_insert_with(|| Instant::now() + LINGER) <= Instant::now() {
                let mut open = self.lock();
                if !group.is_watched() {
                    Self::remove(&mut open, &group);
                    break;
                }
            }
            let at = group.wakes_at().into_iter().chain(close_at).min();
            tokio::select! {
                biased;
                () = group.errands() => {}
                () = sleep_until_some(at) => {}
            }
        }
        Self::remove(&mut self.lock(), &group);
        group.close();
        drop(interest);
    }

    fn remove(open: &mut Open, group: &Arc<Group>) {
        let key = (group.pattern().clone(), group.level() as u8, group.is_bounded());
        if open.groups.get(&key).is_some_and(|other| Arc::ptr_eq(other, group)) {
            open.groups.remove(&key);
        }
    }

    async fn list(&self, group: &Arc<Group>) -> Result<(), StoreError> {
        let mut after: Option<String> = None;
        loop {
            let beginning = group.pattern().beginning();
            let names = self.store.names(Index::Occupied, beginning, after.as_deref(), PAGE).await?;
            let channels = names.iter().filter(|name| group.pattern().matches(name));
            for channel in channels.filter_map(|name| ChannelName::parse(name).ok()) {
                self.take_in(group, &channel, true);
            }
            if names.len() < PAGE || group.is_over() {
                group.end_list();
                return Ok(());
            }
            after = names.into_iter().next_back();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nothing panics while it holds the groups")
    }
}
