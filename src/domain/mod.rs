//! The rules of presence, as pure code: no clock, no task, no Redis, no socket. Time is a parameter.

pub mod aside;
pub mod bar;
pub mod chance;
pub mod clock;
pub mod delta;
pub mod level;
pub mod member;
pub mod mode;
pub mod name;
pub mod partition;
pub mod pattern;
pub mod person;
pub mod principal;
pub mod roster;
pub mod rule;
pub mod secret;
pub mod settings;
pub mod state;
pub mod tally;
pub mod time;
pub mod version;
