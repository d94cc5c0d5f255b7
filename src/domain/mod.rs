//! The rules of presence, as pure code: no clock, no task, no Redis, no socket. Time is a parameter.

pub mod level;
pub mod name;
pub mod pattern;
pub mod principal;
pub mod secret;
pub mod settings;
pub mod time;
pub mod version;
