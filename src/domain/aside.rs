//! Asides: what is said in passing, to those who listen just then. Nothing of it is stored, and each is heard once at most.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::name::{ConnectionId, UserName};

/// What a connection says in a channel.
#[derive(Debug, Clone)]
pub struct Said {
    /// Who.
    pub user: UserName,
    /// By which connection, which is not told what it has said itself. Nobody else learns of it.
    pub connection: ConnectionId,
    /// What.
    pub what: What,
}

/// What is said.
#[derive(Debug, Clone)]
pub enum What {
    /// That the user types, or does so no more.
    Typing(bool),
    /// Anything at all.
    Signal {
        /// JSON.
        data: Arc<RawValue>,
        /// When, unix milliseconds.
        time: u64,
        /// Whether the connection wants to hear itself.
        echo: bool,
    },
}

/// That somebody types towards one user, or does so no more. The user's connections are told, wherever they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Towards {
    /// To whom.
    pub to: UserName,
    /// Who.
    pub by: UserName,
    /// By which connection.
    pub connection: ConnectionId,
    /// Whether it goes on.
    pub typing: bool,
}
