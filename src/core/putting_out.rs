//! People are put out: all connections of a user, everybody in a channel, whoever holds a token.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::try_join_all;

use super::{Core, error::Error, leases::lease_connection};
use crate::{
    domain::{
        bar::{Bar, Whom},
        member::{Reason, Whereabouts},
        name::{ChannelName, ConnectionId, RosterKey, UserName},
        roster::{Ask, Control, Entry, Outcome, Row},
        time::wall_now_ms,
    },
    store::Person,
};

/// As many rows are taken away at once: of what waits for the writer others have their part too.
const AT_ONCE: usize = 500;

/// Which tokens do not hold any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// The one of this id (`jti`).
    Token(Arc<str>),
    /// Those of this user that were issued until now.
    TokensOf(UserName),
}

/// One connection of a user.
pub(super) struct Connection {
    /// The roster in which it stands: that of the user, or the one that others do not see.
    pub home: RosterKey,
    /// Which.
    pub id: ConnectionId,
    /// Its row there.
    pub row: Row,
}

impl Connection {
    /// Where it would stand in a channel.
    pub fn place(&self, channel: &ChannelName) -> (RosterKey, ConnectionId) {
        (RosterKey::Channel(channel.clone()).twin(self.home.is_hidden()), self.id.clone())
    }

    /// The channels that it is in.
    pub fn channels(&self) -> BTreeSet<ChannelName> {
        Whereabouts::from_json(&self.row.private).channels
    }
}

/// All connections of a user.
pub(super) struct Connections {
    /// Seen by others or not. One that moves from one to the other just now stands in both.
    pub all: Vec<Connection>,
    /// Instances still confirm what they hold: some may be missing.
    pub settling: bool,
}

impl Core {
    /// Ends every connection of a user: those with a socket, those in their grace, and presence on the user's behalf; for `ban_ms` none comes back.
    /// Whoever has a socket is told `said`. Returns how many were present.
    ///
    /// # Errors
    /// [`Code::Limit`](super::Code::Limit) where as many are kept out as may be, [`Code::Unavailable`](super::Code::Unavailable): then some may have ended, and asking again ends the rest.
    pub async fn disconnect(&self, user: &UserName, said: &str, ban_ms: u64) -> Result<u64, Error> {
        let said: Arc<str> = said.into();
        let Connections { mut all, mut settling } = self.connections_of(user).await?;
        if ban_ms > 0 {
            let bar = Bar { whom: Whom::User(user.clone()), until_ms: 0, remaining_ms: ban_ms };
            self.bar(bar, &said).await?;
            // Those from before may have gone by the ban, and count; others may have come before it held.
            let now = self.connections_of(user).await?;
            settling |= now.settling;
            all.extend(now.all);
        }
        // Before the rows go, and by the same server: so whoever is put out hears why. It reaches those too who only watch.
        let of_user = RosterKey::User(user.clone());
        let control = Control::PutOut { user: user.clone(), said };
        let told = self.store.tell(self.store.partition_of(&of_user), None, &control).await;
        told.map_err(|error| self.refuse(error))?;
        self.take_away(all.iter().map(|one| (one.home.clone(), one.id.clone())).collect()).await?;
        let in_channels = all.iter().flat_map(|one| one.channels().into_iter().map(|channel| one.place(&channel)));
        self.take_away(in_channels.collect()).await?;
        if settling {
            return Err(Error::unavailable("the store of presence settles, and some connections may not be known yet"));
        }
        Ok(all.iter().map(|one| &one.id).collect::<BTreeSet<_>>().len() as u64)
    }

    /// Tokens do not hold any more: whoever is in with one is put out, and nobody comes in with it.
    ///
    /// # Errors
    /// [`Code::Limit`](super::Code::Limit) where as many are kept out as may be, [`Code::Unavailable`](super::Code::Unavailable).
    pub async fn revoke(&self, revocation: Revocation) -> Result<(), Error> {
        let remaining_ms = self.settings.revocation_ms;
        let bar = match revocation {
            Revocation::Token(id) => Bar { whom: Whom::Token(id), until_ms: 0, remaining_ms },
            Revocation::TokensOf(user) => Bar { whom: Whom::TokensOf(user), until_ms: wall_now_ms(), remaining_ms },
        };
        self.bar(bar, &"".into()).await
    }

    /// Takes everybody out of a channel, once: whoever may come in may come back. Returns how many connections there were.
    ///
    /// # Errors
    /// [`Code::Unavailable`](super::Code::Unavailable): then some may be out, and asking again takes the rest.
    pub async fn clear(&self, channel: &ChannelName) -> Result<u64, Error> {
        let seen = RosterKey::Channel(channel.clone());
        let (mut rows, mut ids, mut settling) = (Vec::new(), BTreeSet::new(), false);
        for roster in [seen.clone(), seen.twin(true)] {
            let reading = self.reach_of([roster.clone()], self.store.read(&roster)).await;
            let reading = reading.map_err(|error| self.refuse(error))?;
            settling |= reading.settling;
            for (connection, row) in reading.rows {
                // Presence on somebody's behalf is in this channel and nowhere else.
                if connection == lease_connection(channel, &row.user) {
                    let home = RosterKey::User(row.user).twin(roster.is_hidden());
                    rows.push((home, connection.clone()));
                }
                rows.push((roster.clone(), connection.clone()));
                ids.insert(connection);
            }
        }
        self.take_away(rows).await?;
        if settling {
            return Err(Error::unavailable("the store of presence settles, and some members may not be known yet"));
        }
        Ok(ids.len() as u64)
    }

    /// All connections of a user, wherever they are.
    pub(super) async fn connections_of(&self, user: &UserName) -> Result<Connections, Error> {
        let seen = RosterKey::User(user.clone());
        let people = self.reach_of([seen.clone()], self.store.people(std::slice::from_ref(user))).await;
        let person = people.map_err(|error| self.refuse(error))?.pop().expect("who was asked for is answered");
        let Person { reading, hidden, .. } = person;
        let at = |home: RosterKey| move |(id, row)| Connection { home: home.clone(), id, row };
        let hidden = hidden.into_iter().map(at(seen.twin(true)));
        let all = reading.rows.into_iter().map(at(seen)).chain(hidden).collect();
        Ok(Connections { all, settling: reading.settling })
    }

    /// Takes rows away, whoever holds them; those that are gone already are no fault.
    pub(super) async fn take_away(&self, rows: Vec<(RosterKey, ConnectionId)>) -> Result<(), Error> {
        for some in rows.chunks(AT_ONCE) {
            let asked = some.iter().map(async |(roster, connection)| {
                let ask = Ask::Absent { take: None, reason: Reason::Kicked };
                let entry = Entry { roster: roster.clone(), connection: connection.clone(), ask };
                if let (Outcome::Done { take, .. }, _) = self.ask(entry).await? {
                    // The store tells the instance that answers for the row, but for the one that has asked.
                    self.ledger.overruled(connection, roster, take, Reason::Kicked);
                }
                Ok::<_, Error>(())
            });
            try_join_all(asked).await?;
        }
        Ok(())
    }
}
