//! What is said in passing: to whoever watches a channel, and towards one user. Nothing of it is kept anywhere.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{Core, error::Error};
use crate::{
    domain::{
        aside::{Said, Towards, What},
        name::{ChannelName, ConnectionId, RosterKey, UserName},
        roster::{Control, Stay},
    },
    metrics::Because,
    store::StoreError,
};

/// To whom somebody types.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Addressee {
    /// To whoever watches a channel.
    Channel(ChannelName),
    /// To one user, on all connections.
    User(UserName),
}

impl Core {
    /// How long somebody types of whom nothing more is heard.
    pub(crate) fn typing_lasts(&self) -> Duration {
        Duration::from_millis(self.settings.presence.typing_ms)
    }

    /// Tells whoever watches the channel just now.
    pub(crate) async fn say(&self, channel: &ChannelName, said: &Said) -> Result<(), Error> {
        let roster = RosterKey::Channel(channel.clone());
        let reason = match said.what {
            What::Typing(_) => "typing",
            What::Signal { .. } => "signal",
        };
        self.metrics.asides.get_or_create(&Because { reason }).inc();
        let told = self.reach_of([roster.clone()], self.store.say(&roster, said)).await;
        told.map_err(|error| self.refuse(error))
    }

    /// Tells all connections of a user that somebody types towards them. Whether there are any shows in nothing, not even in how long it takes.
    pub(crate) async fn tell(&self, towards: &Towards) -> Result<(), Error> {
        self.metrics.asides.get_or_create(&Because { reason: "typing" }).inc();
        let roster = RosterKey::User(towards.to.clone());
        let partition = self.store.partition_of(&roster);
        let told = async {
            let mut instances = self.instances_of(&towards.to).await?;
            if instances.is_empty() {
                // Nobody is there: it is told where nobody hears it, which takes as long.
                instances.insert(self.settings.instance.clone());
            }
            let told = Control::Typing(towards.clone());
            for instance in &instances {
                self.store.tell(partition, Some(instance), &told).await?;
            }
            Ok(())
        };
        self.reach_of([roster], told).await.map_err(|error| self.refuse(error))
    }

    /// The instances that have sockets of a user, whether others see the user or not.
    async fn instances_of(&self, user: &UserName) -> Result<BTreeSet<Arc<str>>, StoreError> {
        let people = self.store.people(std::slice::from_ref(user)).await?;
        let rows = people.iter().flat_map(|person| person.reading.rows.iter().chain(&person.hidden));
        let holders = rows.filter_map(|(_, row)| match &row.stay {
            Stay::Held(generation) => Some(generation.instance.clone()),
            Stay::Ending { .. } => None,
        });
        Ok(holders.collect())
    }

    /// Hands on to the sessions here that somebody types towards their user.
    pub(crate) fn hear_typing(&self, towards: &Towards) {
        let lasts = self.typing_lasts();
        for (connection, notices) in self.ledger.sessions_of(&towards.to) {
            if connection != towards.connection {
                notices.typing(towards, lasts);
            }
        }
    }

    /// A session is over that was typing: it says so at once, as far as it can be said. Otherwise it ends by time.
    pub(crate) fn end_typing(
        self: &Arc<Self>,
        user: UserName,
        connection: ConnectionId,
        addressees: impl Iterator<Item = Addressee> + Send + 'static,
    ) {
        let core = self.clone();
        tokio::spawn(async move {
            for addressee in addressees {
                if let Err(error) = core.say_typing(&user, &connection, addressee, false).await {
                    tracing::debug!(%error, "that somebody types no more was not told");
                }
            }
        });
    }

    /// Says that a connection types, or types no more.
    pub(crate) async fn say_typing(
        &self,
        user: &UserName,
        connection: &ConnectionId,
        addressee: Addressee,
        typing: bool,
    ) -> Result<(), Error> {
        let (user, connection) = (user.clone(), connection.clone());
        match addressee {
            Addressee::Channel(channel) => {
                self.say(&channel, &Said { user, connection, what: What::Typing(typing) }).await
            }
            Addressee::User(to) => self.tell(&Towards { to, by: user, connection, typing }).await,
        }
    }
}
