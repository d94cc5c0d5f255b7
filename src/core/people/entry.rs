//! One watched user: what is believed of them, and how they are shown.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::Instant;

use crate::{
    core::{mirror::Encoded, queries::Devices},
    domain::{
        name::{ConnectionId, UserName},
        person::{Record, View},
        roster::{Change, Row},
        version::Epoch,
    },
    store::{Person, Reading},
};

/// The most connections of which it is remembered that they left on purpose; who has more is read when the epoch has settled.
const REMOVED: usize = 64;

/// A user as somebody is shown them, encoded once for all who are.
#[derive(Debug)]
pub struct Seen {
    /// Who.
    pub user: UserName,
    /// How.
    pub view: View,
    /// As the doors write it.
    pub encoded: Encoded,
}

impl Seen {
    fn of(user: &UserName, view: View) -> Arc<Self> {
        Arc::new(Self { user: user.clone(), view, encoded: Encoded::default() })
    }

    /// About how many bytes it has in a frame.
    pub fn bytes(&self) -> usize {
        let View { text, since, last_active, last_seen, state, .. } = &self.view;
        let times = [since, last_active, last_seen].iter().filter(|time| time.is_some()).count();
        let text = text.as_ref().map_or(0, |text| text.len() + 10);
        let state = state.as_ref().map_or(0, |state| state.get().len() + 10);
        self.user.as_str().len() + 32 + 28 * times + text + state
    }

    /// Whether the user is online.
    pub fn is_online(&self) -> bool {
        self.view.status.is_some()
    }

    fn is_news_after(&self, before: &Self) -> bool {
        is_news(&before.view, &self.view)
    }
}

/// Whether watchers are told. When somebody was active last stands in what they are told and is no reason to tell; and of who stays offline no older time
/// is news, for that is the store that has forgotten something.
fn is_news(before: &View, now: &View) -> bool {
    let state = |view: &View| view.state.as_deref().map(|state| state.get().to_owned());
    let is_other = before.status != now.status || before.text != now.text || state(before) != state(now);
    match now.status {
        Some(_) => is_other || before.since != now.since,
        None => is_other || now.last_seen > before.last_seen,
    }
}

/// What came of a reading.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    /// Others are shown something else.
    pub others: bool,
    /// The user is shown something else.
    pub own: bool,
    /// It is the first that is known.
    pub first: bool,
    /// It is to be read again.
    pub again: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Entry {
    /// Tells it from another entry that was in the same slot before.
    pub id: u64,
    pub user: UserName,
    /// The lists in which the user is.
    pub watchers: BTreeSet<u32>,
    /// Whether it is kept for those who watch everybody.
    pub everybody: bool,
    /// When it goes, if nobody wants it by then.
    pub goes_at: Option<Instant>,
    /// The feed of what others see is heard. Of what they do not see only the user is shown anything, by a device that is there itself: it changes nothing
    /// that is shown without a change of what others see.
    pub is_followed: bool,
    /// Waits to be followed or read.
    pub to_follow: bool,
    pub to_read: bool,
    pub is_being_read: bool,
    /// Whose numbers were read last, and which; none before the first reading.
    pub read_at: Option<(Epoch, Option<u64>)>,
    /// The epoch settled when it was read.
    pub is_withheld: bool,
    /// An older copy of the store shows something else, and the epoch has not confirmed it.
    pub is_doubted: bool,
    /// Connections that left on purpose since it was read.
    pub removed: Vec<ConnectionId>,
    pub person: Option<Person>,
    /// As others are shown the user; none before the first reading in a settled epoch.
    pub others: Option<Arc<Seen>>,
    /// As the user is shown, where that is another.
    pub own: Option<Arc<Seen>>,
    /// The number of the last change, in the order in which those are told who watch everybody; 0 for nothing to tell.
    pub changed: u64,
}

impl Entry {
    pub fn new(id: u64, user: UserName) -> Self {
        Self {
            id,
            user,
            watchers: BTreeSet::new(),
            everybody: false,
            goes_at: None,
            is_followed: false,
            to_follow: false,
            to_read: false,
            is_being_read: false,
            read_at: None,
            is_withheld: false,
            is_doubted: false,
            removed: Vec::new(),
            person: None,
            others: None,
            own: None,
            changed: 0,
        }
    }

    pub fn is_wanted(&self) -> bool {
        self.everybody || !self.watchers.is_empty()
    }

    /// As the user is shown to themselves or to others.
    pub fn seen(&self, is_self: bool) -> Option<&Arc<Seen>> {
        self.own.as_ref().filter(|_| is_self).or(self.others.as_ref())
    }

    /// A feed told of changes.
    pub fn hear(&mut self, changes: &[Change]) {
        let removed = changes.iter().filter_map(|change| match change {
            Change::Remove { connection, .. } => Some(connection.clone()),
            Change::Set { .. } | Change::Person => None,
        });
        let room = REMOVED.saturating_sub(self.removed.len());
        self.removed.extend(removed.take(room));
    }

    /// Whether everything is known that the store had when it was asked.
    pub fn has(&self, epoch: &Epoch, settling: bool, number: Option<u64>) -> bool {
        if (self.is_withheld || self.is_doubted) && !settling {
            return false;
        }
        match (&self.read_at, number) {
            // It waits for its first reading, and will get it.
            (None, _) => true,
            (Some((read, Some(at))), Some(number)) => read == epoch && *at >= number,
            (Some((_, None)), Some(_)) => false,
            // Forgotten while empty: any number of somebody without a connection is right.
            (Some((read, _)), None) => {
                read == epoch && self.person.as_ref().is_none_or(|person| person.reading.rows.is_empty())
            }
        }
    }

    /// The user was read. `removed` are connections that left on purpose before that.
    pub fn install(&mut self, person: Person, removed: &[ConnectionId]) -> News {
        let settling = person.reading.settling;
        let (epoch, number) = (person.reading.epoch.clone(), person.reading.number);
        let rewound =
            matches!((&self.read_at, number), (Some((read, Some(at))), Some(number)) if *read == epoch && *at > number);
        if rewound {
            return News { again: true, ..News::default() };
        }
        self.read_at = Some((epoch, number));
        self.is_withheld = settling;
        if settling && self.person.is_none() {
            // Whoever has no earlier state waits until the epoch has settled: it may be incomplete.
            return News::default();
        }
        let (person, is_doubted) = believe(self.person.as_ref(), person, removed);
        self.is_doubted = is_doubted;
        let devices = Devices::of(&person);
        let known = devices.known(&person);
        let (mut others, own) = (known.to_others(), known.truth());
        // Somebody goes out of sight: to others that is a leave, which is told when the last device has gone there, with its time.
        let is_moving = others.status.is_none() && !known.seen.is_empty();
        if let Some(shown) = self.others.as_ref().filter(|shown| is_moving && shown.is_online()) {
            others = shown.view.clone();
        }
        let own = (own != others).then(|| Seen::of(&self.user, own));
        let others = Seen::of(&self.user, others);
        let news = match (&self.others, self.seen(true)) {
            (Some(before), Some(own_before)) => News {
                others: others.is_news_after(before),
                own: own.as_ref().unwrap_or(&others).is_news_after(own_before),
                ..News::default()
            },
            _ => News { others: true, own: true, first: true, again: false },
        };
        // What looks the same is encoded once.
        if self.others.as_ref().is_none_or(|before| before.view != others.view) {
            self.others = Some(others);
        }
        self.own = own;
        self.person = Some(person);
        news
    }

    /// When the view changes by itself, unix milliseconds: a choice holds until then.
    pub fn changes_at(&self) -> Option<u64> {
        let record = self.person.as_ref()?.record.as_ref()?;
        record.profile().until
    }
}

/// What is believed after a reading, and whether something in it is doubted.
///
/// While the epoch settles the store may not know everybody again: nobody is taken away, and nothing that was kept of the person. Rows that the epoch has
/// not confirmed are those of an older copy, which whoever has earlier state knows better.
fn believe(earlier: Option<&Person>, read: Person, removed: &[ConnectionId]) -> (Person, bool) {
    let Some(earlier) = earlier else { return (read, false) };
    let settling = read.reading.settling;
    let epoch = read.reading.epoch.clone();
    let with = |rows, known| believe_rows(known, rows, &epoch, settling, removed);
    let (rows, doubted) = with(read.reading.rows, &earlier.reading.rows);
    let (hidden, doubted_too) = with(read.hidden, &earlier.hidden);
    let latest = |read: Option<u64>, known: Option<u64>| if settling { read.max(known) } else { read };
    let serial = |record: &Option<Record>| record.as_ref().map(|record| record.serial);
    let is_behind = settling && serial(&read.record) < serial(&earlier.record);
    let person = Person {
        reading: Reading { rows, ..read.reading },
        hidden,
        record: if is_behind { earlier.record.clone() } else { read.record },
        last_seen: latest(read.last_seen, earlier.last_seen),
        last_active: latest(read.last_active, earlier.last_active),
    };
    (person, doubted || doubted_too)
}

type Rows = Vec<(ConnectionId, Row)>;

fn believe_rows(known: &Rows, read: Rows, epoch: &Epoch, settling: bool, removed: &[ConnectionId]) -> (Rows, bool) {
    let mut doubted = false;
    let find = |id: &ConnectionId| known.iter().find(|(known, _)| known == id);
    let gone: Vec<_> = known
        .iter()
        .filter(|(id, _)| settling && !removed.contains(id) && !read.iter().any(|(there, _)| there == id))
        .cloned()
        .collect();
    let mut rows: Rows = Vec::with_capacity(read.len() + gone.len());
    for (id, row) in read {
        let before = find(&id);
        let is_same = before.is_some_and(|(_, before)| shows(before) == shows(&row));
        if is_same || row.epoch == *epoch {
            rows.push((id, row));
        } else {
            doubted = true;
            rows.extend(before.cloned());
        }
    }
    rows.extend(gone);
    (rows, doubted)
}

fn shows(row: &Row) -> (&str, u64, u64) {
    (&row.payload, row.since, row.changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        member::{Shown, Status, empty_state},
        person::{Choice, Profile},
        roster::{Generation, Stay},
    };

    fn user() -> UserName {
        UserName::parse("ann").unwrap()
    }

    fn id(name: &str) -> ConnectionId {
        ConnectionId::from_stored(name)
    }

    fn row(name: &str, epoch: &str, status: Status) -> (ConnectionId, Row) {
        let shown = Shown { status, state: empty_state(), info: None, device: None, on_leave: None, since: 5 };
        let row = Row {
            user: user(),
            take: 1,
            valid: 0,
            stay: Stay::Held(Generation { instance: "i".into(), number: 1 }),
            epoch: Epoch::new(epoch),
            grace_ms: 1,
            since: 5,
            changed: 1,
            private: "".into(),
            payload: serde_json::to_string(&shown).unwrap().into(),
        };
        (id(name), row)
    }

    fn person(epoch: &str, settling: bool, number: u64, rows: Rows) -> Person {
        let reading = Reading { epoch: Epoch::new(epoch), settling, number: Some(number), rows };
        Person { reading, hidden: Vec::new(), record: None, last_seen: None, last_active: None }
    }

    fn online(at: &str) -> Person {
        person(at, false, 7, vec![row("a", at, Status::Online)])
    }

    fn with(first: Person) -> Entry {
        let mut entry = Entry::new(1, user());
        assert!(entry.install(first, &[]).first);
        entry
    }

    fn status(entry: &Entry) -> Option<Choice> {
        entry.others.as_ref().unwrap().view.status
    }

    #[test]
    fn whom_nobody_has_watched_before_is_shown_when_the_epoch_has_settled() {
        let mut entry = Entry::new(1, user());
        assert_eq!(entry.install(person("e", true, 1, vec![]), &[]), News::default());
        assert!(entry.others.is_none() && !entry.has(&Epoch::new("e"), false, Some(1)));
        assert!(entry.has(&Epoch::new("e"), true, Some(1)));
        assert!(entry.install(online("e"), &[]).first);
        assert_eq!(status(&entry), Some(Choice::Online));
    }

    #[test]
    fn while_an_epoch_settles_only_who_left_on_purpose_goes() {
        let mut entry = with(online("e"));
        let emptied = || person("f", true, 0, vec![]);
        assert_eq!(entry.install(emptied(), &[]), News::default());
        assert_eq!(status(&entry), Some(Choice::Online));
        let news = entry.install(emptied(), &[id("a")]);
        assert!(news.others && status(&entry).is_none());

        let mut entry = with(online("e"));
        entry.install(emptied(), &[]);
        let news = entry.install(person("f", false, 0, vec![]), &[]);
        assert!(news.others && status(&entry).is_none(), "settled, what is not there is not there");
        assert!(entry.has(&Epoch::new("f"), false, None), "forgotten while empty");
    }

    #[test]
    fn what_only_an_older_copy_shows_is_not_believed_until_somebody_confirms_it() {
        let mut entry = with(person("e", false, 9, vec![]));
        let older = |of| person("f", false, 3, vec![row("a", of, Status::Online)]);
        assert_eq!(entry.install(older("before"), &[]), News::default());
        assert!(entry.is_doubted && status(&entry).is_none());
        assert!(!entry.has(&Epoch::new("f"), false, Some(3)), "it is read again");
        assert!(entry.install(older("f"), &[]).others);
        assert_eq!((status(&entry), entry.is_doubted), (Some(Choice::Online), false));

        let mut entry = with(person("e", false, 9, vec![row("a", "e", Status::Away)]));
        entry.install(older("before"), &[]);
        assert_eq!(status(&entry), Some(Choice::Away));
    }

    #[test]
    fn what_was_chosen_is_not_forgotten_while_the_epoch_settles() {
        let record = |status| Record::after(None, &Profile { status, ..Profile::default() });
        let busy = Person { record: Some(record(Some(Choice::Busy))), last_seen: Some(3), ..online("e") };
        let mut entry = with(busy);
        let confirmed = |settling| person("f", settling, 1, vec![row("a", "f", Status::Online)]);
        assert_eq!(entry.install(confirmed(true), &[]), News::default());
        assert_eq!(status(&entry), Some(Choice::Busy));
        assert!(entry.install(confirmed(false), &[]).others, "nobody has put it back");
        assert_eq!(status(&entry), Some(Choice::Online));
    }

    #[test]
    fn an_older_number_of_the_same_epoch_is_read_again() {
        let mut entry = with(online("e"));
        assert!(entry.install(person("e", false, 6, vec![]), &[]).again);
        assert_eq!(status(&entry), Some(Choice::Online));
    }

    #[test]
    fn there_is_news_where_somebody_looks_different_and_none_where_the_store_forgets() {
        let there = View { status: Some(Choice::Online), since: Some(5), ..View::default() };
        let active = View { last_active: Some(9), ..there.clone() };
        assert!(!is_news(&there, &active));
        assert!(is_news(&there, &View { since: Some(6), ..there.clone() }));
        assert!(is_news(&there, &View { text: Some("x".into()), ..there.clone() }));
        let gone = View { last_seen: Some(7), ..View::default() };
        assert!(is_news(&there, &gone) && is_news(&View::default(), &gone));
        assert!(!is_news(&gone, &View::default()) && !is_news(&gone, &View { last_seen: Some(6), ..View::default() }));
    }

    #[test]
    fn whoever_goes_out_of_sight_is_shown_until_the_last_device_has_gone() {
        let mut entry = with(online("e"));
        let hidden = Record::after(None, &Profile { status: Some(Choice::Invisible), ..Profile::default() });
        let moving = Person { record: Some(hidden), ..person("e", false, 8, vec![row("a", "e", Status::Online)]) };
        let news = entry.install(moving.clone(), &[]);
        assert!(!news.others && news.own, "{news:?}");
        assert_eq!(status(&entry), Some(Choice::Online));
        assert_eq!(entry.seen(true).unwrap().view.status, Some(Choice::Invisible));
        let reading = Reading { rows: Vec::new(), number: Some(9), ..moving.reading };
        let moved = Person { reading, hidden: vec![row("a", "e", Status::Online)], last_seen: Some(4), ..moving };
        assert!(entry.install(moved, &[]).others);
        assert_eq!((status(&entry), entry.others.unwrap().view.last_seen), (None, Some(4)));
    }
}
