//! The doors: each translates bytes to commands and events, and decides nothing.

pub mod audit;
pub mod bucket;
pub mod cors;
pub mod credentials;
mod cursor;
pub mod gate;
pub mod hub;
mod listing;
pub mod ops;
pub mod outbox;
pub mod page;
pub mod pass;
pub mod problem;
pub mod request;
pub mod rest;
pub mod settings;
pub mod sse;
pub mod tickets;
pub mod told;
pub mod watching;
pub mod wire;
pub mod ws;

use std::sync::Arc;

use crate::{
    auth::{Issuer, ResumeKey, Verifier},
    core::Core,
    domain::settings::Limits,
};

/// What every door needs. Shared by all workers.
pub struct Doors {
    /// The service.
    pub core: Arc<Core>,
    /// Who may come in.
    pub verifier: Arc<Verifier>,
    /// Signs resume tokens.
    pub resume: ResumeKey,
    /// Makes tokens for the built-in page; in development mode alone.
    pub issuer: Option<Issuer>,
    /// The listeners.
    pub server: settings::Server,
    /// Limits.
    pub limits: Limits,
    /// Notes who was turned away.
    pub audit: audit::Audit,
    /// How fast clients ask for tickets.
    pub tickets: tickets::Desk,
    /// How many sockets may be open.
    pub gate: Arc<gate::Gate>,
    /// Development mode: REST asks for no key, foreign hosts are refused.
    pub is_development: bool,
    /// True from the moment that the instance was told to stop.
    pub draining: tokio::sync::watch::Receiver<bool>,
}

/// As much of a text as fits into so many bytes, in whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}
