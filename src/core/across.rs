//! Users over many channels at once: who is in any of those that a pattern means.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Core,
    error::{Code, Error},
    queries::UserInfo,
};
use crate::{
    domain::{
        name::{ChannelName, UserName},
        pattern::Pattern,
        person::Choice,
    },
    store::Index,
};

/// As many names, channels or users are asked for in one call.
const PAGE: usize = 1_000;
/// For each channel that a pattern may mean, as many occupied ones are looked at: a pattern that begins with a star is looked for among all of them.
const LOOKED_AT: usize = 10;
/// As many users are looked at to find those with a status.
const MOST_USERS: usize = 50_000;
/// A page closes early when its users are in so many channels together: a few of them may be in thousands each.
const PAGE_CHANNELS: usize = 50_000;

/// Which users are asked for.
#[derive(Debug)]
pub struct Sought<'a> {
    /// In channels of this pattern.
    pub pattern: &'a Pattern,
    /// With one of these; none is any.
    pub statuses: Option<BTreeSet<Choice>>,
    /// Whose names begin so.
    pub prefix: &'a str,
    /// Whose names come after.
    pub after: Option<&'a str>,
    /// At most so many.
    pub most: usize,
}

/// A page of users over several channels.
#[derive(Debug)]
pub struct Across {
    /// The users in the order of their names, each with the channels of the pattern.
    pub users: Vec<(UserInfo, Vec<ChannelName>)>,
    /// Behind whom the next page begins; none after the last.
    pub next: Option<UserName>,
    /// How many users there are on all pages.
    pub total: usize,
    /// Whether part of the store settles, and somebody may be missing.
    pub stale: bool,
}

/// Where each user is, as numbers of channels.
type Places = BTreeMap<UserName, Vec<u32>>;

impl Core {
    /// Who is in the channels of a pattern, each user once, whether others see it or not. The pages of a list do not show one moment: each asks anew.
    ///
    /// # Errors
    /// [`Code::TooLarge`] where the pattern means more than is looked at for one question, [`Code::Forbidden`] where it is the name of a channel
    /// without presence, [`Code::Unavailable`].
    pub async fn users_across(&self, sought: &Sought<'_>) -> Result<Across, Error> {
        let mut channels = self.channels_of(sought.pattern).await?;
        let mut places = Places::new();
        let mut stale = self.add_seen(&channels, &mut places).await?;
        self.add_unseen(sought.pattern, &mut channels, &mut places).await?;
        places.retain(|user, _| user.as_str().starts_with(sought.prefix));
        if let Some(statuses) = &sought.statuses {
            stale |= self.keep_those_with(statuses, &mut places).await?;
        }
        let total = places.len();
        let rest = places.iter().filter(|(user, _)| sought.after.is_none_or(|after| user.as_str() > after));
        let mut in_page = 0;
        let page = rest.clone().take(sought.most).enumerate().take_while(|(at, (_, places))| {
            in_page += places.len();
            *at == 0 || in_page <= PAGE_CHANNELS
        });
        let names: Vec<UserName> = page.map(|(_, (user, _))| user.clone()).collect();
        let has_more = rest.count() > names.len();
        let infos = if names.is_empty() { Vec::new() } else { self.users(&names).await? };
        let named = |at: &u32| channels[*at as usize].clone();
        // Whoever has left between the two questions is nowhere.
        let there = infos.into_iter().filter(|info| info.view.status.is_some());
        let users: Vec<_> = there
            .map(|info| {
                let channels: BTreeSet<ChannelName> = places[&info.user].iter().map(named).collect();
                (info, channels.into_iter().collect())
            })
            .collect();
        stale |= users.iter().any(|(info, _): &(UserInfo, Vec<_>)| info.stale);
        Ok(Across { users, next: names.last().filter(|_| has_more).cloned(), total, stale })
    }

    /// The occupied channels that a pattern means, in their order.
    async fn channels_of(&self, pattern: &Pattern) -> Result<Vec<ChannelName>, Error> {
        if let Ok(channel) = ChannelName::parse(pattern.as_str()) {
            self.settings.check_presence(&channel)?;
            return Ok(vec![channel]);
        }
        let most = self.settings.limits.pattern_channels;
        let too_many = |what: &str| {
            let message = format!("`{}` {what}; ask with narrower patterns, one after the other", pattern.as_str());
            Error::new(Code::TooLarge, message)
        };
        let (mut found, mut looked_at) = (Vec::new(), 0);
        let mut after: Option<String> = None;
        loop {
            let names = self.names(Index::Occupied, pattern.beginning(), after.as_deref(), PAGE).await?;
            looked_at += names.len();
            let meant = names.iter().filter(|name| pattern.matches(name));
            let channels = meant.filter_map(|name| ChannelName::parse(name).ok());
            found.extend(channels.filter(|channel| self.settings.has_presence(channel)));
            if found.len() > most {
                return Err(too_many(&format!("means more than {most} occupied channels")));
            }
            if names.len() < PAGE {
                return Ok(found);
            }
            if looked_at >= most * LOOKED_AT {
                return Err(too_many(&format!("is looked for among more than {looked_at} occupied channels")));
            }
            after = names.last().cloned();
        }
    }

    /// Those whom others see. Returns whether a part of the store settles.
    async fn add_seen(&self, channels: &[ChannelName], places: &mut Places) -> Result<bool, Error> {
        let mut stale = false;
        for (chunk, first) in channels.chunks(PAGE).zip((0_u32..).step_by(PAGE)) {
            let inside = self.inside(chunk).await?;
            for (inside, at) in inside.into_iter().zip(first..) {
                stale |= inside.settling;
                for user in inside.users {
                    places.entry(user).or_default().push(at);
                }
            }
        }
        Ok(stale)
    }

    /// Those whom others do not see. There are few of them, and they are found by their own connections: no list of a channel has them.
    async fn add_unseen(
        &self,
        pattern: &Pattern,
        channels: &mut Vec<ChannelName>,
        places: &mut Places,
    ) -> Result<(), Error> {
        let mut numbers: BTreeMap<ChannelName, u32> = channels.iter().cloned().zip(0..).collect();
        let mut after: Option<String> = None;
        let mut looked_at = 0;
        loop {
            let names = self.names(Index::Unseen, "", after.as_deref(), PAGE).await?;
            looked_at += names.len();
            if looked_at > MOST_USERS {
                let message = format!("there are more than {MOST_USERS} invisible users; ask about single channels");
                return Err(Error::new(Code::TooLarge, message));
            }
            let users: Vec<UserName> = names.iter().filter_map(|name| UserName::parse(name).ok()).collect();
            let infos = if users.is_empty() { Vec::new() } else { self.users(&users).await? };
            for info in infos {
                for channel in info.devices.iter().flat_map(|device| &device.channels) {
                    if !pattern.matches(channel.as_str()) || !self.settings.has_presence(channel) {
                        continue;
                    }
                    let at = *numbers.entry(channel.clone()).or_insert_with(|| {
                        channels.push(channel.clone());
                        u32::try_from(channels.len() - 1).expect("channels are counted in thousands")
                    });
                    places.entry(info.user.clone()).or_default().push(at);
                }
            }
            if names.len() < PAGE {
                return Ok(());
            }
            after = names.last().cloned();
        }
    }

    /// Returns whether a part of the store settles.
    async fn keep_those_with(&self, statuses: &BTreeSet<Choice>, places: &mut Places) -> Result<bool, Error> {
        if places.len() > MOST_USERS {
            let message = format!(
                "more than {MOST_USERS} users are in these channels, and each would be asked for the status; ask with narrower patterns or without `status`"
            );
            return Err(Error::new(Code::TooLarge, message));
        }
        let names: Vec<UserName> = places.keys().cloned().collect();
        let mut stale = false;
        for chunk in names.chunks(PAGE) {
            for info in self.users(chunk).await? {
                stale |= info.stale;
                if !info.view.status.is_some_and(|status| statuses.contains(&status)) {
                    places.remove(&info.user);
                }
            }
        }
        Ok(stale)
    }
}
