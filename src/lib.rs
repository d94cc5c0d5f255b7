//! Rollcall tells an application who is here.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod domain;
pub mod store;
