//! The net change between two states of a roster.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::value::RawValue;

use super::{
    member::{Member, Present, Reason, Roll},
    name::{ConnectionId, UserName},
};

/// A member who is no longer there.
#[derive(Debug, Clone, PartialEq)]
pub struct Leave {
    /// The member as last seen, with the last words of the connection that left last.
    pub member: Member,
    /// Why the user's last connection left.
    pub reason: Reason,
}

/// A net change as seen by user. A user stands in at most one of the lists.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UserDelta {
    /// Who came.
    pub join: Vec<Member>,
    /// Who looks different.
    pub update: Vec<Member>,
    /// Who left.
    pub leave: Vec<Leave>,
}

/// One entry of a delta by connection.
pub type Connected = (ConnectionId, Present);

/// A net change as seen by connection.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConnectionDelta {
    /// Which came.
    pub join: Vec<Connected>,
    /// Which look different.
    pub update: Vec<Connected>,
    /// Which left, as last seen, with their last words.
    pub leave: Vec<(Connected, Reason)>,
}

impl UserDelta {
    /// Whether nothing changed that users would see.
    pub fn is_empty(&self) -> bool {
        self.join.is_empty() && self.update.is_empty() && self.leave.is_empty()
    }
}

impl ConnectionDelta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.join.is_empty() && self.update.is_empty() && self.leave.is_empty()
    }
}

#[derive(Debug, Clone)]
struct Touched {
    before: Option<Present>,
    left: Option<Left>,
}

/// How a connection went.
#[derive(Debug, Clone)]
struct Left {
    order: u64,
    reason: Reason,
    words: Option<Arc<RawValue>>,
}

impl Left {
    /// What it wanted to be said, unless it has said goodbye itself.
    fn words(&self) -> Option<&RawValue> {
        self.words.as_deref().filter(|_| self.reason != Reason::Left)
    }
}

/// What stood at the start where something was touched since. Together with the state at the end it gives the net change: join and leave in between
/// are nothing, ten updates are the last.
#[derive(Debug, Clone, Default)]
pub struct Net {
    touched: BTreeMap<ConnectionId, Touched>,
    order: u64,
}

impl Net {
    /// A connection was changed; `before` is what stood there, `left` says why it went, if it did.
    pub fn touch(&mut self, connection: &ConnectionId, before: Option<&Present>, left: Option<Reason>) {
        self.order += 1;
        let words = before.and_then(|present| present.shown.on_leave.clone());
        let left = left.map(|reason| Left { order: self.order, reason, words });
        match self.touched.get_mut(connection) {
            Some(touched) => touched.left = left,
            None => {
                self.touched.insert(connection.clone(), Touched { before: before.cloned(), left });
            }
        }
    }

    /// Whether nothing was touched.
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }

    /// How many connections were touched.
    pub fn len(&self) -> usize {
        self.touched.len()
    }

    /// The net change by connection, `after` being the state at the end.
    pub fn by_connection(&self, after: &Roll) -> ConnectionDelta {
        let mut delta = ConnectionDelta::default();
        for (id, touched) in &self.touched {
            match (&touched.before, after.get(id)) {
                (None, Some(now)) => delta.join.push((id.clone(), now.clone())),
                (Some(before), Some(now)) if !before.shown.looks_like(&now.shown) => {
                    delta.update.push((id.clone(), now.clone()));
                }
                (Some(before), None) => {
                    let reason = touched.left.as_ref().map_or(Reason::Timeout, |left| left.reason);
                    let shown = before.shown.at_last(touched.left.as_ref().and_then(Left::words));
                    delta.leave.push(((id.clone(), Present { shown, ..before.clone() }), reason));
                }
                _ => {}
            }
        }
        delta
    }

    /// The net change by user, `after` being the state at the end.
    pub fn by_user(&self, after: &Roll) -> UserDelta {
        let mut delta = UserDelta::default();
        for (user, stood) in self.stood(after) {
            let untouched = after.of_user(user).filter(|(id, _)| !self.touched.contains_key(*id));
            let before = stood.iter().filter_map(|(id, touched)| Some((*id, touched.before.as_ref()?)));
            match (Member::over(untouched.chain(before)), after.member(user)) {
                (None, Some(now)) => delta.join.push(now),
                (Some(before), Some(now)) if !before.looks_like(&now) => delta.update.push(now),
                (Some(member), None) => {
                    let left = last_to_leave(&stood);
                    let reason = left.map_or(Reason::Timeout, |left| left.reason);
                    let latest = member.latest.at_last(left.and_then(Left::words));
                    delta.leave.push(Leave { member: Member { latest, ..member }, reason });
                }
                _ => {}
            }
        }
        delta
    }

    /// The users who were touched, with those of their touched connections that stood there before.
    fn stood<'a>(&'a self, after: &'a Roll) -> BTreeMap<&'a UserName, Vec<(&'a ConnectionId, &'a Touched)>> {
        let mut users: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, touched) in &self.touched {
            if let Some(before) = &touched.before {
                users.entry(&before.user).or_default().push((id, touched));
            }
            if let Some(now) = after.get(id) {
                users.entry(&now.user).or_default();
            }
        }
        users
    }
}

/// Of several connections the last one decides.
fn last_to_leave<'a>(stood: &[(&ConnectionId, &'a Touched)]) -> Option<&'a Left> {
    stood.iter().filter_map(|(_, touched)| touched.left.as_ref()).max_by_key(|left| left.order)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::value::RawValue;

    use super::*;
    use crate::domain::member::{Shown, Status};

    fn present(user: &str, changed: u64, state: &str) -> Present {
        let state = Arc::from(RawValue::from_string(state.to_owned()).unwrap());
        Present {
            user: UserName::parse(user).unwrap(),
            user_since: 1,
            changed,
            shown: Arc::new(Shown {
                status: Status::Online,
                state,
                info: None,
                device: None,
                since: 1,
                on_leave: None,
            }),
        }
    }

    fn id(n: u8) -> ConnectionId {
        ConnectionId::from_bytes([n; 16])
    }

    #[derive(Default)]
    struct Scene {
        roll: Roll,
        net: Net,
    }

    impl Scene {
        fn set(&mut self, n: u8, now: Present) {
            let before = self.roll.set(id(n), now);
            self.net.touch(&id(n), before.as_ref(), None);
        }
        fn remove(&mut self, n: u8, reason: Reason) {
            let before = self.roll.remove(&id(n));
            self.net.touch(&id(n), before.as_ref(), Some(reason));
        }
    }

    #[test]
    fn join_and_leave_in_between_are_nothing() {
        let mut scene = Scene::default();
        scene.set(1, present("ann", 1, "{}"));
        scene.remove(1, Reason::Left);
        assert!(scene.net.by_user(&scene.roll).is_empty());
        assert!(scene.net.by_connection(&scene.roll).is_empty());
    }

    #[test]
    fn a_second_device_is_an_update_and_the_latest_state_shows() {
        let mut scene = Scene::default();
        scene.set(1, present("ann", 1, r#"{"a":1}"#));
        scene.net = Net::default();
        scene.set(2, present("ann", 2, r#"{"a":2}"#));
        let delta = scene.net.by_user(&scene.roll);
        assert_eq!((delta.join.len(), delta.update.len(), delta.leave.len()), (0, 1, 0));
        assert_eq!((delta.update[0].connections, delta.update[0].latest.state.get()), (2, r#"{"a":2}"#));
        scene.net = Net::default();
        scene.remove(2, Reason::Timeout);
        let delta = scene.net.by_user(&scene.roll);
        assert_eq!((delta.update[0].connections, delta.update[0].latest.state.get()), (1, r#"{"a":1}"#));
    }

    #[test]
    fn the_last_connection_decides_the_reason() {
        let mut scene = Scene::default();
        scene.set(1, present("ann", 1, "{}"));
        scene.set(2, present("ann", 2, r#"{"last":true}"#));
        scene.net = Net::default();
        scene.remove(2, Reason::Timeout);
        scene.remove(1, Reason::Left);
        let delta = scene.net.by_user(&scene.roll);
        assert_eq!(delta.leave.len(), 1);
        assert_eq!(delta.leave[0].reason, Reason::Left);
        assert_eq!(delta.leave[0].member.latest.state.get(), r#"{"last":true}"#);
        assert_eq!(scene.net.by_connection(&scene.roll).leave.len(), 2);
    }

    #[test]
    fn leave_and_return_under_another_connection_is_no_leave() {
        let mut scene = Scene::default();
        scene.set(1, present("ann", 1, "{}"));
        scene.net = Net::default();
        scene.remove(1, Reason::Left);
        scene.set(2, present("ann", 2, "{}"));
        assert!(scene.net.by_user(&scene.roll).is_empty(), "nothing that a user level shows has changed");
        let delta = scene.net.by_connection(&scene.roll);
        assert_eq!((delta.join.len(), delta.leave.len()), (1, 1));
    }

    fn with_words(present: Present, words: &str) -> Present {
        let on_leave = Some(Arc::from(RawValue::from_string(words.to_owned()).unwrap()));
        Present { shown: Arc::new(Shown { on_leave, ..Shown::clone(&present.shown) }), ..present }
    }

    /// What a leave shows at the levels users and connections.
    fn last_states(scene: &Scene) -> (Vec<String>, Vec<String>) {
        let users = scene.net.by_user(&scene.roll).leave;
        let connections = scene.net.by_connection(&scene.roll).leave;
        let state = |shown: &Shown| shown.state.get().to_owned();
        (
            users.iter().map(|leave| state(&leave.member.latest)).collect(),
            connections.iter().map(|((_, present), _)| state(&present.shown)).collect(),
        )
    }

    #[test]
    fn last_words_shape_what_is_shown_of_who_goes_without_a_goodbye() {
        for reason in Reason::ALL {
            let mut scene = Scene::default();
            scene.set(1, with_words(present("ann", 1, r#"{"a":1,"b":2}"#), r#"{"a":null,"gone":true}"#));
            scene.net = Net::default();
            scene.remove(1, reason);
            let expected = if reason == Reason::Left { r#"{"a":1,"b":2}"# } else { r#"{"b":2,"gone":true}"# };
            assert_eq!(last_states(&scene), (vec![expected.to_owned()], vec![expected.to_owned()]), "{reason:?}");
        }
    }

    #[test]
    fn the_connection_that_leaves_last_has_the_last_word_and_each_has_its_own() {
        let mut scene = Scene::default();
        scene.set(1, with_words(present("ann", 1, r#"{"n":1}"#), r#"{"w":1}"#));
        scene.set(2, with_words(present("ann", 2, r#"{"n":2}"#), r#"{"w":2}"#));
        scene.net = Net::default();
        scene.remove(2, Reason::Timeout);
        scene.remove(1, Reason::Expired);
        let (users, connections) = last_states(&scene);
        assert_eq!(users, [r#"{"n":2,"w":1}"#], "the latest state, and the words of the first");
        assert_eq!(connections, [r#"{"n":1,"w":1}"#, r#"{"n":2,"w":2}"#]);
    }

    #[test]
    fn changing_last_words_shows_nothing_and_the_newest_count() {
        let mut scene = Scene::default();
        scene.set(1, with_words(present("ann", 1, "{}"), r#"{"w":1}"#));
        scene.net = Net::default();
        scene.set(1, with_words(present("ann", 1, "{}"), r#"{"w":2}"#));
        assert!(scene.net.by_user(&scene.roll).is_empty());
        assert!(scene.net.by_connection(&scene.roll).is_empty());
        // Both in one tick.
        scene.remove(1, Reason::Timeout);
        assert_eq!(last_states(&scene), (vec![r#"{"w":2}"#.to_owned()], vec![r#"{"w":2}"#.to_owned()]));
    }
}
