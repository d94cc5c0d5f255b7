//! The slow walk over everything that Redis holds, which finds what nothing alive answers for and indexes that are wrong.
//! It reads plainly, and whatever looks suspicious is looked at again, and mended, by a script at one moment.

use std::collections::HashSet;

use redis::{FromRedisValue, aio::MultiplexedConnection, cmd};

use super::{
    client::failed,
    codec::{self, Suspects},
    keys::PartitionKeys,
};
use crate::{
    domain::{
        name::{ConnectionId, RosterKey},
        roster::{Row, Stay},
    },
    store::StoreError,
};

/// How many rosters a page has, about: each costs a command or more, and whoever walks slowly pauses after a page.
const PAGE: usize = 20;
/// How many rows or users are read at once.
const CHUNK: usize = 500;
/// How many suspects a call of the script looks at.
pub const SUSPECTS: usize = 100;

/// Where the walk goes: first all rosters that have a number, then the indexes, which may name others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Versions,
    Online,
    Occupied,
    Known,
}

/// The next cursor, and what was found.
type Scanned = (String, Vec<(Vec<u8>, Vec<u8>)>);

/// Where a walk stands.
#[derive(Debug)]
pub struct Cursor {
    phase: Phase,
    at: String,
    /// A small collection comes whole, whatever is asked for: how many of it have been looked at.
    skip: usize,
}

impl Cursor {
    /// Reads back what [`Cursor::text`] gave; anything else is the beginning.
    pub fn from_text(text: Option<&str>) -> Self {
        let mut parts = text.unwrap_or("v:0:0").splitn(3, ':');
        let mut part = || parts.next().unwrap_or("0");
        let (phase, at, skip) = (part(), part(), part().parse().unwrap_or(0));
        let phase = match phase {
            "o" => Phase::Online,
            "c" => Phase::Occupied,
            "k" => Phase::Known,
            _ => Phase::Versions,
        };
        Self { phase, at: at.to_owned(), skip }
    }

    /// The cursor as text; none at the end.
    pub fn text(&self) -> Option<String> {
        let letter = match self.phase {
            Phase::Versions => 'v',
            Phase::Online => 'o',
            Phase::Occupied => 'c',
            Phase::Known => 'k',
        };
        (self.at != "end").then(|| format!("{letter}:{}:{}", self.at, self.skip))
    }

    fn after(phase: Phase, at: String) -> Self {
        let (phase, at) = match phase {
            phase if at != "0" => (phase, at),
            Phase::Versions => (Phase::Online, at),
            Phase::Online => (Phase::Occupied, at),
            Phase::Occupied => (Phase::Known, at),
            Phase::Known => (phase, "end".to_owned()),
        };
        Self { phase, at, skip: 0 }
    }
}

/// One page of the walk.
pub struct Walk<'a> {
    keys: &'a PartitionKeys,
    connection: MultiplexedConnection,
    epoch: String,
    closed: bool,
    leased: HashSet<String>,
    /// How many commands it has cost.
    pub asked: u32,
    /// What was found.
    pub suspects: Suspects,
}

impl<'a> Walk<'a> {
    /// Learns what alive means just now.
    ///
    /// # Errors
    /// Where Redis is out of reach.
    pub async fn begin(keys: &'a PartitionKeys, mut connection: MultiplexedConnection) -> Result<Self, StoreError> {
        let (state, leased): ((Option<String>, Option<u8>), HashSet<String>) = redis::pipe()
            .atomic()
            .cmd("HMGET")
            .arg(keys.epoch())
            .arg(&["id", "closed"])
            .cmd("ZRANGE")
            .arg(keys.instances())
            .arg(&[0, -1])
            .query_async(&mut connection)
            .await
            .map_err(|error| failed(&error))?;
        let (epoch, closed) = (state.0.unwrap_or_default(), state.1 == Some(1));
        Ok(Self { keys, connection, epoch, closed, leased, asked: 2, suspects: Suspects::default() })
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, StoreError> {
        self.asked += 1;
        command.query_async(&mut self.connection).await.map_err(|error| failed(&error))
    }

    /// Inspects a page and returns where the next begins.
    ///
    /// # Errors
    /// Where Redis is out of reach.
    pub async fn page(&mut self, cursor: &Cursor) -> Result<Cursor, StoreError> {
        let (command, key, roster): (_, _, &str) = match cursor.phase {
            Phase::Versions => ("HSCAN", self.keys.versions(), ""),
            Phase::Online => ("ZSCAN", self.keys.online(), "u:"),
            Phase::Occupied => ("ZSCAN", self.keys.occupied(), "c:"),
            Phase::Known => ("ZSCAN", self.keys.known(), "u:"),
        };
        let scan = cmd(command).arg(key).arg(&cursor.at).arg("COUNT").arg(PAGE).to_owned();
        let (next, found): Scanned = self.ask(&scan).await?;
        let after = match found.len() > cursor.skip + 2 * PAGE {
            true => Cursor { phase: cursor.phase, at: cursor.at.clone(), skip: cursor.skip + PAGE },
            false => Cursor::after(cursor.phase, next),
        };
        let here = found.into_iter().skip(cursor.skip).take(if after.skip > 0 { PAGE } else { usize::MAX });
        let names = here.filter_map(|(name, _)| String::from_utf8(name).ok());
        let rosters = names.filter_map(|name| RosterKey::from_stored(&format!("{roster}{name}")));
        let rosters: Vec<RosterKey> = rosters.collect();
        if cursor.phase == Phase::Versions {
            let mut peopled = Vec::with_capacity(rosters.len());
            for roster in &rosters {
                peopled.push(self.inspect_rows(roster).await?);
                if !roster.is_user() {
                    self.inspect_users(roster).await?;
                }
            }
            self.inspect_indexes(&rosters, &peopled).await?;
        } else if cursor.phase == Phase::Known {
            self.inspect_known(rosters).await?;
        } else if !rosters.is_empty() {
            // Those that have a number have been looked at.
            let mut command = cmd("HMGET");
            command.arg(self.keys.versions());
            rosters.iter().for_each(|roster| {
                command.arg(roster.to_string());
            });
            let numbers: Vec<Option<u64>> = self.ask(&command).await?;
            let strays = rosters.into_iter().zip(numbers).filter(|(_, number)| number.is_none());
            self.suspects.rosters.extend(strays.map(|(roster, _)| roster));
        }
        Ok(after)
    }

    /// People of whom nothing is kept any more: that has expired.
    async fn inspect_known(&mut self, rosters: Vec<RosterKey>) -> Result<(), StoreError> {
        for roster in rosters {
            let exists: bool = self.ask(cmd("EXISTS").arg(self.keys.side(&roster))).await?;
            if !exists {
                self.suspects.rosters.push(roster);
            }
        }
        Ok(())
    }

    /// Rosters that have a number: with rows, an index lists them; without, it does not, and it is known when the number is forgotten.
    async fn inspect_indexes(&mut self, rosters: &[RosterKey], peopled: &[bool]) -> Result<(), StoreError> {
        let (users, channels): (Vec<&RosterKey>, Vec<&RosterKey>) = rosters.iter().partition(|roster| roster.is_user());
        let (unseen, users): (Vec<&RosterKey>, Vec<&RosterKey>) = users.into_iter().partition(|user| user.is_hidden());
        let empty = rosters.iter().zip(peopled).filter(|(_, peopled)| !**peopled).map(|(roster, _)| roster);
        let name = |roster: &&RosterKey| roster.to_string()[2..].to_owned();
        let users = self.listed(&self.keys.online(), users.iter().map(name)).await?;
        let unseen = self.listed(&self.keys.unseen(), unseen.iter().map(name)).await?;
        let channels = self.listed(&self.keys.occupied(), channels.iter().map(name)).await?;
        let forgotten = self.listed(&self.keys.ending(), empty.map(|roster| format!("{roster} "))).await?;
        for (roster, peopled) in rosters.iter().zip(peopled) {
            let listed = match roster {
                RosterKey::User(_) => Some(&users),
                RosterKey::HiddenUser(_) => Some(&unseen),
                RosterKey::Channel(_) => Some(&channels),
                RosterKey::HiddenChannel(_) => None,
            };
            let is_wrong = listed.is_some_and(|listed| listed.contains(&roster.to_string()[2..]) != *peopled);
            if is_wrong || (!peopled && !forgotten.contains(&format!("{roster} "))) {
                self.suspects.rosters.push(roster.clone());
            }
        }
        Ok(())
    }

    /// Which of these a sorted set has.
    async fn listed(
        &mut self,
        key: &str,
        members: impl Iterator<Item = String>,
    ) -> Result<HashSet<String>, StoreError> {
        let members: Vec<String> = members.collect();
        if members.is_empty() {
            return Ok(HashSet::new());
        }
        let scores: Vec<Option<f64>> = self.ask(cmd("ZMSCORE").arg(key).arg(&members)).await?;
        Ok(members.into_iter().zip(scores).filter(|(_, score)| score.is_some()).map(|(member, _)| member).collect())
    }

    /// Returns whether there are rows.
    async fn inspect_rows(&mut self, roster: &RosterKey) -> Result<bool, StoreError> {
        let name = roster.to_string();
        let mut at = "0".to_owned();
        let mut is_peopled = false;
        loop {
            let scan = cmd("HSCAN").arg(self.keys.rows(&name)).arg(&at).arg("COUNT").arg(CHUNK).to_owned();
            let (next, found): Scanned = self.ask(&scan).await?;
            let (mut ending, mut here) = (Vec::new(), Vec::new());
            is_peopled |= !found.is_empty();
            for (connection, text) in found {
                let Ok(connection) = String::from_utf8(connection) else { continue };
                let row = String::from_utf8(text).ok().and_then(|text| codec::row(&text).ok());
                match row {
                    Some(row) => {
                        if matches!(row.stay, Stay::Ending { .. }) {
                            ending.push(connection.clone());
                        } else if !self.answered_for(&row) {
                            self.suspects.rows.push((roster.clone(), connection.clone()));
                        }
                        here.push((connection, row));
                    }
                    None => self.suspects.rows.push((roster.clone(), connection)),
                }
            }
            self.inspect_deadlines(roster, ending).await?;
            if !roster.is_user() && !here.is_empty() {
                let mut command = cmd("HMGET");
                command.arg(self.keys.users(&name));
                here.iter().for_each(|(_, row)| {
                    command.arg(row.user.as_str());
                });
                let lists: Vec<Option<String>> = self.ask(&command).await?;
                for ((connection, row), list) in here.into_iter().zip(lists) {
                    if !list.unwrap_or_default().split(' ').any(|id| id == connection) {
                        self.suspects.users.push((roster.clone(), row.user.to_string(), connection));
                    }
                }
            }
            if next == "0" {
                return Ok(is_peopled);
            }
            at = next;
        }
    }

    fn answered_for(&self, row: &Row) -> bool {
        let Stay::Held(generation) = &row.stay else { return true };
        self.leased.contains(&generation.to_string()) && (row.epoch.as_str() == self.epoch || !self.closed)
    }

    async fn inspect_deadlines(&mut self, roster: &RosterKey, ending: Vec<String>) -> Result<(), StoreError> {
        if ending.is_empty() {
            return Ok(());
        }
        let mut command = cmd("ZMSCORE");
        command.arg(self.keys.ending());
        ending.iter().for_each(|connection| {
            command.arg(format!("{roster} {connection}"));
        });
        let deadlines: Vec<Option<f64>> = self.ask(&command).await?;
        let without = ending.into_iter().zip(deadlines).filter(|(_, deadline)| deadline.is_none());
        self.suspects.rows.extend(without.map(|(connection, _)| (roster.clone(), connection)));
        Ok(())
    }

    async fn inspect_users(&mut self, roster: &RosterKey) -> Result<(), StoreError> {
        let name = roster.to_string();
        let mut at = "0".to_owned();
        loop {
            let scan = cmd("HSCAN").arg(self.keys.users(&name)).arg(&at).arg("COUNT").arg(CHUNK).to_owned();
            let (next, found): (String, Vec<(String, String)>) = self.ask(&scan).await?;
            let entries: Vec<(&str, ConnectionId)> = found
                .iter()
                .flat_map(|(user, ids)| ids.split(' ').map(|id| (user.as_str(), ConnectionId::from_stored(id))))
                .collect();
            if !entries.is_empty() {
                let mut command = cmd("HMGET");
                command.arg(self.keys.rows(&name));
                entries.iter().for_each(|(_, id)| {
                    command.arg(id.as_str());
                });
                let rows: Vec<Option<Vec<u8>>> = self.ask(&command).await?;
                for ((user, _), text) in entries.into_iter().zip(rows) {
                    let row =
                        text.and_then(|text| String::from_utf8(text).ok()).and_then(|text| codec::row(&text).ok());
                    if row.is_none_or(|row| row.user.as_str() != user) {
                        self.suspects.users.push((roster.clone(), user.to_owned(), String::new()));
                    }
                }
            }
            if next == "0" {
                return Ok(());
            }
            at = next;
        }
    }
}

impl Suspects {
    /// Cuts off as many as one call of the script looks at.
    pub fn cut(&mut self) -> Self {
        fn some<T>(list: &mut Vec<T>) -> Vec<T> {
            list.split_off(list.len().saturating_sub(SUSPECTS))
        }
        Self { rows: some(&mut self.rows), users: some(&mut self.users), rosters: some(&mut self.rosters) }
    }
}
