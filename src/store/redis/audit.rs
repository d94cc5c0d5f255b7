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

/// How many rosters a page has, about.
const PAGE: usize = 100;
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
}

/// The next cursor, and what was found.
type Scanned = (String, Vec<(Vec<u8>, Vec<u8>)>);

/// Where a walk stands.
#[derive(Debug)]
pub struct Cursor {
    phase: Phase,
    at: String,
}

impl Cursor {
    /// Reads back what [`Cursor::text`] gave; anything else is the beginning.
    pub fn from_text(text: Option<&str>) -> Self {
        let (phase, at) = text.and_then(|text| text.split_once(':')).unwrap_or(("v", "0"));
        let phase = match phase {
            "o" => Phase::Online,
            "c" => Phase::Occupied,
            _ => Phase::Versions,
        };
        Self { phase, at: at.to_owned() }
    }

    /// The cursor as text; none at the end.
    pub fn text(&self) -> Option<String> {
        let letter = match self.phase {
            Phase::Versions => 'v',
            Phase::Online => 'o',
            Phase::Occupied => 'c',
        };
        (self.at != "end").then(|| format!("{letter}:{}", self.at))
    }

    fn after(phase: Phase, at: String) -> Self {
        if at != "0" {
            return Self { phase, at };
        }
        match phase {
            Phase::Versions => Self { phase: Phase::Online, at },
            Phase::Online => Self { phase: Phase::Occupied, at },
            Phase::Occupied => Self { phase, at: "end".to_owned() },
        }
    }
}

/// One page of the walk.
pub struct Walk<'a> {
    keys: &'a PartitionKeys,
    connection: MultiplexedConnection,
    epoch: String,
    closed: bool,
    leased: HashSet<String>,
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
        Ok(Self { keys, connection, epoch, closed, leased, suspects: Suspects::default() })
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, StoreError> {
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
        };
        let scan = cmd(command).arg(key).arg(&cursor.at).arg("COUNT").arg(PAGE).to_owned();
        let (next, found): Scanned = self.ask(&scan).await?;
        let names = found.into_iter().filter_map(|(name, _)| String::from_utf8(name).ok());
        let rosters = names.filter_map(|name| RosterKey::from_stored(&format!("{roster}{name}")));
        for roster in rosters.collect::<Vec<_>>() {
            self.inspect_index(&roster).await?;
            if cursor.phase == Phase::Versions {
                self.inspect_rows(&roster).await?;
                if matches!(roster, RosterKey::Channel(_)) {
                    self.inspect_users(&roster).await?;
                }
            }
        }
        Ok(Cursor::after(cursor.phase, next))
    }

    async fn inspect_index(&mut self, roster: &RosterKey) -> Result<(), StoreError> {
        let (index, name) = match roster {
            RosterKey::User(user) => (self.keys.online(), user.as_str()),
            RosterKey::Channel(channel) => (self.keys.occupied(), channel.as_str()),
        };
        let (rows, listed, forget, number): (bool, Option<f64>, Option<f64>, Option<u64>) = redis::pipe()
            .atomic()
            .cmd("EXISTS")
            .arg(self.keys.rows(&roster.to_string()))
            .cmd("ZSCORE")
            .arg(index)
            .arg(name)
            .cmd("ZSCORE")
            .arg(self.keys.ending())
            .arg(format!("{roster} "))
            .cmd("HGET")
            .arg(self.keys.versions())
            .arg(roster.to_string())
            .query_async(&mut self.connection)
            .await
            .map_err(|error| failed(&error))?;
        let right = if rows {
            listed.is_some() && number.is_some()
        } else {
            listed.is_none() && (number.is_none() || forget.is_some())
        };
        if !right {
            self.suspects.rosters.push(roster.clone());
        }
        Ok(())
    }

    async fn inspect_rows(&mut self, roster: &RosterKey) -> Result<(), StoreError> {
        let name = roster.to_string();
        let mut at = "0".to_owned();
        loop {
            let scan = cmd("HSCAN").arg(self.keys.rows(&name)).arg(&at).arg("COUNT").arg(CHUNK).to_owned();
            let (next, found): Scanned = self.ask(&scan).await?;
            let (mut ending, mut here) = (Vec::new(), Vec::new());
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
            if matches!(roster, RosterKey::Channel(_)) && !here.is_empty() {
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
                return Ok(());
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
