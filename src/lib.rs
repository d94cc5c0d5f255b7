//! Rollcall tells an application who is here.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod app;
pub mod command_line;
pub mod config;

pub mod doors;

pub mod core;

pub mod auth;
pub mod store;

pub mod domain;
pub mod metrics;
pub mod telemetry;
