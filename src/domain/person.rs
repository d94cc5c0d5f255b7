//! A user as a person: what is kept whether anybody of theirs is connected or not, and how several devices are one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::member::{Present, Status};

/// The longest text beside a chosen status, bytes.
pub const TEXT_BYTES: usize = 256;

/// How somebody wants to be shown, whatever the devices say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// There.
    Online,
    /// There, not seen for a moment.
    Idle,
    /// Not at the device.
    Away,
    /// Not to be disturbed.
    Busy,
    /// To others as if not there.
    Invisible,
}

impl Choice {
    /// What others are shown; none where they are shown nobody.
    pub fn shown(self) -> Option<Status> {
        match self {
            Self::Online => Some(Status::Online),
            Self::Idle => Some(Status::Idle),
            Self::Away => Some(Status::Away),
            Self::Busy => Some(Status::Busy),
            Self::Invisible => None,
        }
    }
}

impl From<Status> for Choice {
    fn from(status: Status) -> Self {
        match status {
            Status::Online => Self::Online,
            Status::Idle => Self::Idle,
            Status::Away => Self::Away,
            Status::Busy => Self::Busy,
        }
    }
}

/// What a person has chosen and an app says of them. Stored as JSON, which scripts do not look into.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Profile {
    /// The chosen status; none is that of the devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Choice>,
    /// A text beside the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Arc<str>>,
    /// Until when status and text hold, unix milliseconds; none is for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// What an app wants to show of the person, an object as compact JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Arc<RawValue>>,
}

impl PartialEq for Profile {
    fn eq(&self, other: &Self) -> bool {
        let state = |profile: &Self| profile.state.as_deref().map(|state| state.get().to_owned());
        self.status == other.status
            && self.text == other.text
            && self.until == other.until
            && state(self) == state(other)
    }
}

impl Profile {
    /// As it is at `wall_ms`: a status whose time is over is none.
    pub fn at(mut self, wall_ms: u64) -> Self {
        if self.until.is_some_and(|until| until <= wall_ms) {
            (self.status, self.text, self.until) = (None, None, None);
        }
        self
    }

    /// Whether others are to be shown nobody.
    pub fn is_hidden(&self) -> bool {
        self.status == Some(Choice::Invisible)
    }
}

/// What the store keeps of a person. Of two records the one with the higher serial counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Grows with every change of the record.
    pub serial: u64,
    /// Connections stand in rosters that others do not see.
    pub hidden: bool,
    /// Kept until it is erased, and not only for some days after the person was last seen.
    pub lasting: bool,
    /// The [`Profile`] as JSON.
    pub profile: Arc<str>,
}

impl Record {
    /// The record after another one, with this profile.
    pub fn after(before: Option<&Self>, profile: &Profile) -> Self {
        Self {
            serial: before.map_or(0, |before| before.serial) + 1,
            hidden: profile.is_hidden(),
            lasting: profile.state.is_some(),
            profile: serde_json::to_string(profile).expect("a profile is JSON").into(),
        }
    }

    /// What it says. What cannot be read says nothing.
    pub fn profile(&self) -> Profile {
        serde_json::from_str(&self.profile).unwrap_or_default()
    }
}

/// How a person is shown: as chosen, else as the greatest of what the devices say; none without a device, or where nobody is to be shown.
pub fn shown(chosen: Option<Choice>, devices: impl IntoIterator<Item = Status>) -> Option<Status> {
    let automatic = devices.into_iter().max()?;
    chosen.map_or(Some(automatic), Choice::shown)
}

/// What is known of a person: the devices, and what is kept.
#[derive(Debug, Clone, Default)]
pub struct Known<'a> {
    /// Since when the user is there and how, for each device that others see.
    pub seen: Vec<&'a Present>,
    /// The same for those that others do not see.
    pub hidden: Vec<&'a Present>,
    /// What the person has chosen, as long as it holds, and an app says.
    pub profile: Profile,
    /// When the last device that others saw left, unix milliseconds.
    pub last_seen: Option<u64>,
    /// When the person was active last, unix milliseconds.
    pub last_active: Option<u64>,
}

/// A person as somebody is shown them.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// How the person is there; none when offline. Invisible is shown to oneself and to app servers.
    pub status: Option<Choice>,
    /// The text beside it.
    pub text: Option<Arc<str>>,
    /// Since when online, unix milliseconds.
    pub since: Option<u64>,
    /// When active last, unix milliseconds.
    pub last_active: Option<u64>,
    /// When the last connection left, unix milliseconds; none when online.
    pub last_seen: Option<u64>,
    /// What an app says.
    pub state: Option<Arc<RawValue>>,
}

impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        let state = |view: &Self| view.state.as_deref().map(|state| state.get().to_owned());
        (self.status, self.since, self.last_active, self.last_seen)
            == (other.status, other.since, other.last_active, other.last_seen)
            && self.text == other.text
            && state(self) == state(other)
    }
}

impl Known<'_> {
    /// What others are shown.
    pub fn to_others(&self) -> View {
        let status = shown(self.profile.status, self.seen.iter().map(|device| device.shown.status));
        let is_hidden = self.profile.is_hidden();
        View {
            status: status.map(Choice::from),
            text: self.profile.text.clone().filter(|_| !is_hidden),
            since: self.seen.iter().map(|device| device.user_since).min().filter(|_| status.is_some()),
            last_active: self.last_active,
            last_seen: self.last_seen.filter(|_| status.is_none()),
            state: self.profile.state.clone(),
        }
    }

    /// The truth: what the person's own devices and app servers are shown.
    pub fn truth(&self) -> View {
        let view = self.to_others();
        if view.status.is_some() || (self.seen.is_empty() && self.hidden.is_empty()) {
            return View { text: self.profile.text.clone(), ..view };
        }
        let devices = self.seen.iter().chain(&self.hidden);
        View {
            status: Some(Choice::Invisible),
            text: self.profile.text.clone(),
            since: devices.map(|device| device.user_since).min(),
            last_seen: None,
            ..view
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::member::Shown;

    fn statuses() -> impl Strategy<Value = Vec<Status>> {
        prop::collection::vec(
            prop::sample::select(vec![Status::Away, Status::Idle, Status::Online, Status::Busy]),
            0..6,
        )
    }

    fn choices() -> impl Strategy<Value = Option<Choice>> {
        prop::option::of(prop::sample::select(vec![
            Choice::Online,
            Choice::Idle,
            Choice::Away,
            Choice::Busy,
            Choice::Invisible,
        ]))
    }

    proptest! {
        #[test]
        fn the_order_of_the_devices_does_not_matter_and_one_more_never_lessens(mut devices in statuses(), more in statuses()) {
            let before = shown(None, devices.clone());
            devices.reverse();
            prop_assert_eq!(shown(None, devices.clone()), before);
            devices.extend(more);
            prop_assert!(shown(None, devices) >= before);
        }

        #[test]
        fn who_has_chosen_is_shown_so_whatever_the_devices_say(devices in statuses(), chosen in choices()) {
            let expected = match chosen {
                _ if devices.is_empty() => None,
                Some(chosen) => chosen.shown(),
                None => devices.iter().copied().max(),
            };
            prop_assert_eq!(shown(chosen, devices), expected);
        }

        #[test]
        fn a_choice_ends_with_its_time_and_the_state_stays(until in prop::option::of(1_u64..100), now in 0_u64..100) {
            let state = Arc::from(RawValue::from_string("{\"a\":1}".into()).unwrap());
            let text = Some("x".into());
            let profile = Profile { status: Some(Choice::Busy), text, until, state: Some(state) };
            let after = profile.clone().at(now);
            let is_over = until.is_some_and(|until| until <= now);
            prop_assert_eq!(after.status.is_none(), is_over);
            prop_assert_eq!(after.text.is_none(), is_over);
            prop_assert!(after.state.is_some());
        }
    }

    #[test]
    fn whoever_is_invisible_is_offline_to_others_and_the_truth_is_told_to_oneself() {
        let empty = crate::domain::member::empty_state();
        let shown = Shown { status: Status::Idle, state: empty, info: None, device: None, since: 5, on_leave: None };
        let user = crate::domain::name::UserName::parse("ann").unwrap();
        let device = Present { user, user_since: 5, changed: 1, shown: Arc::new(shown) };
        let profile = Profile { status: Some(Choice::Invisible), text: Some("shh".into()), ..Profile::default() };
        let gone = Known { last_seen: Some(3), profile: profile.clone(), ..Known::default() };
        let there = Known { hidden: vec![&device], ..gone.clone() };
        assert_eq!(there.to_others(), gone.to_others());
        assert_eq!((there.to_others().status, there.to_others().last_seen), (None, Some(3)));
        assert_eq!((there.truth().status, there.truth().since), (Some(Choice::Invisible), Some(5)));
        assert_eq!(there.truth().text.as_deref(), Some("shh"));
        // For the moment in which a device still stands where it was.
        let moving = Known { seen: vec![&device], ..gone.clone() };
        assert_eq!(moving.to_others(), gone.to_others());
        let seen = Known { seen: vec![&device], last_seen: Some(3), ..Known::default() };
        assert_eq!((seen.to_others().status, seen.to_others().last_seen), (Some(Choice::Idle), None));
    }

    #[test]
    fn a_record_reads_back_and_the_next_has_a_higher_serial() {
        let profile = Profile { status: Some(Choice::Invisible), ..Profile::default() };
        let first = Record::after(None, &profile);
        assert_eq!((first.serial, first.hidden, first.lasting), (1, true, false));
        assert_eq!(first.profile(), profile);
        assert_eq!(Record::after(Some(&first), &Profile::default()).serial, 2);
        assert_eq!(Record { profile: "not JSON".into(), ..first }.profile(), Profile::default());
    }
}
