//! What is measured, one file each.

mod fanout;
mod idle;
mod instances;
mod reconnect;
mod rest;
mod rooms;
mod storm;

use std::path::Path;

use clap::ValueEnum;

use crate::{meter, report::Report, server::Stage};

/// How large scenarios are.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// Seconds: proves that everything runs.
    Tiny,
    /// A minute or two.
    Small,
    /// What the goals are about.
    Full,
}

/// Where a scenario runs, and with what.
pub struct Bench<'a> {
    /// The server.
    pub program: &'a Path,
    /// What carries its WebSockets.
    pub carrier: &'a str,
    /// How large it shall be.
    pub size: Size,
    /// Where it notes what it finds.
    pub report: &'a mut Report,
}

impl Bench<'_> {
    /// A Redis and so many instances.
    pub fn stage(&self, instances: usize) -> Stage {
        let mut settings = vec![("ROLLCALL__SERVER__WEBSOCKET", self.carrier)];
        if self.size == Size::Tiny {
            // A fresh Redis settles, which takes seconds with the defaults: too long for a proof that everything runs.
            settings
                .extend([("ROLLCALL__PRESENCE__INSTANCE_RENEW_MS", "100"), ("ROLLCALL__PRESENCE__SETTLE_MS", "200")]);
        }
        Stage::set(self.program, instances, &settings)
    }

    /// What is right for the size.
    pub fn by_size<T>(&self, tiny: T, small: T, full: T) -> T {
        match self.size {
            Size::Tiny => tiny,
            Size::Small => small,
            Size::Full => full,
        }
    }

    /// As many connections as this, or as files may be open in one process, with some left for others.
    pub fn fitting(count: usize) -> usize {
        let most = meter::open_files().saturating_sub(500);
        if count > most {
            eprintln!("   {count} connections need more than {most} files: raise `ulimit -n`; {most} are taken");
        }
        count.min(most)
    }
}

/// One thing to measure.
pub struct Scenario {
    /// By which it is chosen.
    pub name: &'static str,
    /// What the manual says of it.
    pub about: &'static str,
    /// Does it, and fails where an answer is wrong.
    pub run: fn(&mut Bench<'_>),
}

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    idle::SCENARIO,
    fanout::SCENARIO,
    storm::SCENARIO,
    rooms::SCENARIO,
    reconnect::SCENARIO,
    rest::SCENARIO,
    instances::SCENARIO,
];
