//! Keeps what this instance knows of the users whose connections it has: reads again when something was said of them, ends choices whose time is over,
//! and changes what is kept of a person.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::{sync::Notify, time::sleep};

use super::{
    Core,
    error::{Code, Error},
};
use crate::domain::{
    name::{ConnectionId, RosterKey, UserName},
    person::{Choice, Profile, Record},
    roster::{Ask, Entry, Outcome},
    state,
    time::wall_now_ms,
};

/// As many people are read at once.
const READ: usize = 500;
/// Before a reading that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// A choice whose time is over is looked for again after this at the latest.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Several may change what is kept of a person at the same moment; after so many tries the caller is told.
const TRIES: usize = 4;

/// The users of whom something was said, and who are to be read.
#[derive(Debug, Default)]
pub(crate) struct Persons {
    said: Mutex<BTreeSet<UserName>>,
    news: Notify,
}

impl Persons {
    /// Something was said of these. At most each user with a connection here waits, once.
    pub fn hear(&self, users: impl IntoIterator<Item = UserName>) {
        self.lock().extend(users);
        self.news.notify_one();
    }

    fn take(&self) -> Vec<UserName> {
        let mut said = self.lock();
        (0..READ).map_while(|_| said.pop_first()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<UserName>> {
        self.said.lock().expect("nothing panics while it holds the names")
    }
}

impl Core {
    /// Reads and ends for ever.
    pub(super) async fn keep_persons(self: Arc<Self>) {
        loop {
            let users = self.persons.take();
            if !users.is_empty() {
                let rosters = users.iter().cloned().map(RosterKey::User);
                match self.reach_of(rosters, self.store.people(&users)).await {
                    Ok(people) => users.iter().zip(&people).for_each(|(user, person)| self.ledger.learn(user, person)),
                    Err(error) => {
                        tracing::debug!(%error, "people could not be read yet");
                        self.persons.hear(users);
                        sleep(RETRY).await;
                    }
                }
                continue;
            }
            let over = self.ledger.next_choice_over();
            let due = over
                .as_ref()
                .map_or(LONGEST, |(_, until)| Duration::from_millis(until.saturating_sub(wall_now_ms())).min(LONGEST));
            if let Some((user, _)) = over.filter(|_| due.is_zero()) {
                if let Err(error) = self.change_profile(&user, |_| Ok(())).await {
                    tracing::debug!(%error, "a choice whose time is over could not be ended yet");
                    sleep(RETRY).await;
                }
                continue;
            }
            tokio::select! {
                biased;
                () = self.persons.news.notified() => {}
                () = sleep(due) => {}
            }
        }
    }

    /// Changes what is kept of a person. A choice whose time is over is none to begin with.
    ///
    /// # Errors
    /// What `change` refuses, [`Code::Unavailable`], and [`Code::Conflict`] where others change it all the time.
    pub async fn change_profile(
        &self,
        user: &UserName,
        change: impl Fn(&mut Profile) -> Result<(), Error> + Send,
    ) -> Result<Profile, Error> {
        let roster = RosterKey::User(user.clone());
        let mut known = self.ledger.record(user);
        if known.is_none() {
            let people = self.reach_of([roster.clone()], self.store.people(std::slice::from_ref(user))).await;
            known = people.map_err(|error| self.refuse(error))?.pop().and_then(|person| person.record);
        }
        for _ in 0..TRIES {
            let before = known.as_ref().map(Record::profile).unwrap_or_default();
            let mut profile = before.clone().at(wall_now_ms());
            change(&mut profile)?;
            if profile == before {
                return Ok(profile);
            }
            let record = Record::after(known.as_ref(), &profile);
            let ask = Ask::Person { record: record.clone() };
            match self.ask(Entry { roster: roster.clone(), connection: ConnectionId::from_stored(""), ask }).await? {
                (Outcome::Done { .. }, _) => {
                    self.ledger.note_record(user, record);
                    return Ok(profile);
                }
                (Outcome::Later { record }, _) => {
                    self.ledger.note_record(user, (*record).clone());
                    known = Some(*record);
                }
                _ => break,
            }
        }
        Err(Error::new(Code::Conflict, "others change what is kept of this person at the same moment; try again"))
    }

    /// Shows a person like this, or as the devices say.
    ///
    /// # Errors
    /// What [`Core::change_profile`] fails with.
    pub async fn choose(
        &self,
        user: &UserName,
        status: Option<Choice>,
        text: Option<Arc<str>>,
        until: Option<u64>,
    ) -> Result<Profile, Error> {
        self.change_profile(user, |profile| {
            (profile.status, profile.text, profile.until) = (status, text.clone(), until);
            Ok(())
        })
        .await
    }

    /// Changes the state of a person by a merge patch (RFC 7396). Where nothing is left of it, there is none.
    ///
    /// # Errors
    /// [`Code::TooLarge`], and what [`Core::change_profile`] fails with.
    pub async fn patch_user_state(&self, user: &UserName, patch: &Map<String, Value>) -> Result<Profile, Error> {
        let most = self.settings.limits.user_state_bytes;
        self.change_profile(user, |profile| {
            let state = profile.state.as_deref().map(serde_json::value::RawValue::get).unwrap_or("{}");
            let mut state = serde_json::from_str(state).unwrap_or_else(|_| Value::Object(Map::new()));
            json_patch::merge(&mut state, &Value::Object(patch.clone()));
            let Value::Object(state) = state else { unreachable!("an object patched by an object is one") };
            state::check(&state, most)?;
            let raw = || serde_json::value::to_raw_value(&state).expect("a map of JSON values is JSON");
            profile.state = (!state.is_empty()).then(|| Arc::from(raw()));
            Ok(())
        })
        .await
    }

    /// Notes that a person is active; nobody waits for it.
    pub(crate) fn note_active(&self, user: &UserName, at: u64) {
        if self.ledger.may_note_active(user) {
            let (roster, connection) = (RosterKey::User(user.clone()), ConnectionId::from_stored(""));
            self.ledger.tell(Entry { roster, connection, ask: Ask::Active { at } });
        }
    }

    /// Forgets what is kept of a person.
    ///
    /// # Errors
    /// [`Code::Unavailable`].
    pub async fn forget_user(&self, user: &UserName) -> Result<(), Error> {
        let roster = RosterKey::User(user.clone());
        self.reach_of([roster.clone()], std::future::ready(Ok(()))).await.map_err(|error| self.refuse(error))?;
        self.ask(Entry { roster, connection: ConnectionId::from_stored(""), ask: Ask::Forget }).await?;
        Ok(())
    }
}
