//! The doors: each translates bytes to commands and events, and decides nothing.

pub mod settings;
