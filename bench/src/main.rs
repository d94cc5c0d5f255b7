//! Measures Rollcall: what connections, frames, joins and questions cost, beside the floor of the machine.
//!
//! A [`crowd`] is thousands of [`connection`]s on one thread, each with a [`view`] of a channel that is checked with every frame. A
//! [`server`] is the real binary, with a Redis of its own. A [`scenario`] lets the one loose on the other, takes the [`meter`], compares views, and
//! notes what it found in the [`report`]. A wrong answer anywhere ends the run.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod child;
mod connection;
mod crowd;
mod floor;
mod frame;
mod meter;
mod names;
mod plot;
mod report;
mod rest;
mod sample;
mod scenario;
mod server;
mod token;
mod told;
mod view;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    report::Report,
    scenario::{Bench, SCENARIOS, Size},
};

/// What Rollcall costs on this machine.
#[derive(Parser)]
struct Arguments {
    /// Which scenarios, separated by commas; all of them if none is named
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// How large: `tiny` takes seconds and proves that it runs, `small` a minute or two, `full` some twenty
    #[arg(long, value_enum, default_value_t = Size::Small)]
    size: Size,
    /// What carries WebSockets, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "actix-ws,direct")]
    carrier: Vec<String>,
    /// The `rollcall` to measure: the one beside this program, unless ROLLCALL_BIN names another
    #[arg(long)]
    server: Option<PathBuf>,
    /// Write docs/benchmarks.md and its pictures
    #[arg(long)]
    write: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What this program starts of itself.
#[derive(Subcommand)]
enum Part {
    /// Sends bare frames
    #[command(hide = true)]
    FloorSender { count: usize },
    /// Reads them
    #[command(hide = true)]
    FloorEars { count: usize, at: SocketAddr },
}

fn main() {
    let arguments = Arguments::parse();
    match arguments.part {
        Some(Part::FloorSender { count }) => floor::sender(count),
        Some(Part::FloorEars { count, at }) => floor::ears(count, at),
        None => run(&arguments),
    }
}

fn run(arguments: &Arguments) {
    for name in &arguments.scenarios {
        let known: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert!(known.contains(&name.as_str()), "there is no scenario {name}: there are {}", known.join(", "));
    }
    let program =
        arguments.server.clone().or_else(|| std::env::var_os("ROLLCALL_BIN").map(PathBuf::from)).unwrap_or_else(|| {
            let this = std::env::current_exe().expect("a process knows its program");
            this.with_file_name("rollcall")
        });
    let program = program.canonicalize().unwrap_or_else(|error| {
        panic!("{}: {error}; build it with `cargo build --release`, or name it with --server", program.display())
    });
    let size = arguments.size.to_possible_value().expect("every size has a name");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate stands in the repository");
    // Before the first page is written, which is a change of the sources itself.
    let machine = report::machine(root);
    let mut report = Report::new(&arguments.carrier, size.get_name().to_owned());
    for scenario in SCENARIOS {
        if !arguments.scenarios.is_empty() && !arguments.scenarios.iter().any(|name| name == scenario.name) {
            continue;
        }
        for carrier in &arguments.carrier {
            report.begin(scenario.name, scenario.about, carrier);
            (scenario.run)(&mut Bench { program: &program, carrier, size: arguments.size, report: &mut report });
        }
        if arguments.write {
            // After each, so that a run that is ended keeps what it has found.
            report.write(root, &machine);
        }
    }
    report.print();
}
