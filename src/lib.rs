//! Rollcall tells an application who is here.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod app;
pub mod auth;
pub mod config;
pub mod doors;
pub mod store;
// Floor 0, below everything.
pub mod domain;
pub mod store;
