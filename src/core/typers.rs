//! Who types. Whoever hears of it sees to its end: so nobody types for ever whose instance has died or whose last word was lost.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::domain::name::{ConnectionId, UserName};

/// As many connections type at a time, as far as is told; of a further one nothing is.
pub(crate) const TYPERS: usize = 64;

/// Those who type, by user: somebody types until the last of their connections has stopped. There are at most [`TYPERS`] connections.
#[derive(Debug, Default)]
pub(crate) struct Typers {
    users: BTreeMap<UserName, Typer>,
    connections: usize,
}

#[derive(Debug)]
struct Typer {
    /// The connection by which it began.
    by: ConnectionId,
    until: BTreeMap<ConnectionId, Instant>,
}

/// Somebody has begun or ended to type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Who.
    pub user: UserName,
    /// Whether it has begun.
    pub typing: bool,
    /// The connection by which it began: it is told neither of the beginning nor of the end.
    pub by: ConnectionId,
}

impl Typers {
    /// A connection types until then, if nothing more is heard of it.
    pub fn begin(&mut self, user: &UserName, connection: &ConnectionId, until: Instant) -> Option<Turn> {
        if let Some(typer) = self.users.get_mut(user) {
            if let Some(known) = typer.until.get_mut(connection) {
                *known = until;
            } else if self.connections < TYPERS {
                typer.until.insert(connection.clone(), until);
                self.connections += 1;
            }
            return None;
        }
        if self.connections >= TYPERS {
            return None;
        }
        self.connections += 1;
        let by = connection.clone();
        let typer = Typer { by: by.clone(), until: [(connection.clone(), until)].into() };
        self.users.insert(user.clone(), typer);
        Some(Turn { user: user.clone(), typing: true, by })
    }

    /// A connection types no more.
    pub fn end(&mut self, user: &UserName, connection: &ConnectionId) -> Option<Turn> {
        let typer = self.users.get_mut(user)?;
        typer.until.remove(connection)?;
        self.connections -= 1;
        if !typer.until.is_empty() {
            return None;
        }
        let typer = self.users.remove(user)?;
        Some(Turn { user: user.clone(), typing: false, by: typer.by })
    }

    /// Ends what is over by time.
    pub fn end_due(&mut self, now: Instant) -> Vec<Turn> {
        let of_user = |(user, typer): (&UserName, &Typer)| {
            let due = typer.until.iter().filter(|(_, until)| **until <= now);
            due.map(|(connection, _)| (user.clone(), connection.clone())).collect::<Vec<_>>()
        };
        let due: Vec<_> = self.users.iter().flat_map(of_user).collect();
        due.iter().filter_map(|(user, connection)| self.end(user, connection)).collect()
    }

    /// When something is over by time.
    pub fn next_at(&self) -> Option<Instant> {
        self.users.values().flat_map(|typer| typer.until.values()).min().copied()
    }

    /// Whether the user types.
    pub fn has(&self, user: &UserName) -> bool {
        self.users.contains_key(user)
    }

    /// Who types.
    pub fn users(&self) -> impl Iterator<Item = &UserName> {
        self.users.keys()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn user(name: &str) -> UserName {
        UserName::parse(name).unwrap()
    }

    fn id(n: u8) -> ConnectionId {
        ConnectionId::from_bytes([n; 16])
    }

    fn told(turn: Option<Turn>) -> Option<(String, bool, ConnectionId)> {
        turn.map(|turn| (turn.user.to_string(), turn.typing, turn.by))
    }

    #[test]
    fn somebody_types_until_the_last_device_has_stopped() {
        let (mut typers, at) = (Typers::default(), Instant::now());
        let ann = user("ann");
        assert_eq!(told(typers.begin(&ann, &id(1), at)), Some(("ann".into(), true, id(1))));
        assert_eq!(typers.begin(&ann, &id(1), at), None, "a repeat is no news");
        assert_eq!(typers.begin(&ann, &id(2), at), None);
        assert_eq!(typers.end(&ann, &id(1)), None);
        assert_eq!(typers.end(&ann, &id(1)), None);
        assert_eq!(typers.end(&ann, &id(3)), None);
        assert_eq!(told(typers.end(&ann, &id(2))), Some(("ann".into(), false, id(1))), "as it began, so it ends");
        assert_eq!((typers.next_at(), typers.connections), (None, 0));
    }

    #[test]
    fn a_repeat_lasts_longer_and_without_one_it_ends() {
        let (mut typers, start) = (Typers::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        typers.begin(&user("ann"), &id(1), at(3));
        typers.begin(&user("ben"), &id(2), at(4));
        typers.begin(&user("ann"), &id(1), at(5));
        assert_eq!(typers.next_at(), Some(at(4)));
        assert!(typers.end_due(at(3)).is_empty());
        let over: Vec<_> = typers.end_due(at(5)).into_iter().map(|turn| turn.user.to_string()).collect();
        assert_eq!(over, ["ann", "ben"]);
        assert_eq!(typers.next_at(), None);
    }

    #[test]
    fn there_are_only_so_many() {
        let (mut typers, at) = (Typers::default(), Instant::now());
        let many = u8::try_from(TYPERS).unwrap();
        for n in 0..many {
            assert!(typers.begin(&user(&format!("user{n}")), &id(n), at).is_some());
        }
        assert_eq!(typers.begin(&user("late"), &id(many), at), None);
        assert_eq!(typers.begin(&user("user0"), &id(many), at), None, "nor a further device of one who is there");
        assert_eq!(typers.connections, TYPERS);
        assert!(typers.end(&user("user0"), &id(0)).is_some());
        assert!(typers.begin(&user("late"), &id(many), at).is_some());
    }
}
