//! What came out: a table on the terminal, and `docs/benchmarks.md` with pictures.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, process::Command};

use crate::{plot::Plot, scenario::SCENARIOS};

/// One thing that was measured, with each carrier.
struct Row {
    scenario: &'static str,
    what: String,
    values: BTreeMap<String, String>,
    floor: Vec<String>,
    goal: String,
}

/// All that a run has found.
pub struct Report {
    carriers: Vec<String>,
    carrier: String,
    scenario: &'static str,
    about: Vec<(&'static str, &'static str)>,
    rows: Vec<Row>,
    plots: Vec<Plot>,
    size: String,
}

impl Report {
    /// Of a run with these carriers.
    pub fn new(carriers: &[String], size: String) -> Self {
        let nothing = Vec::new;
        Self {
            carriers: carriers.to_vec(),
            carrier: String::new(),
            scenario: "",
            about: Vec::new(),
            rows: nothing(),
            plots: Vec::new(),
            size,
        }
    }

    /// What comes now is of this scenario and carrier.
    pub fn begin(&mut self, scenario: &'static str, about: &'static str, carrier: &str) {
        self.scenario = scenario;
        carrier.clone_into(&mut self.carrier);
        if !self.about.iter().any(|(known, _)| *known == scenario) {
            self.about.push((scenario, about));
        }
        eprintln!("== {scenario}, {carrier}");
    }

    /// Notes one measurement.
    pub fn note(&mut self, what: impl Into<String>, value: impl Into<String>) -> &mut Self {
        let (what, value) = (what.into(), value.into());
        eprintln!("   {what}: {value}");
        let place = self.rows.iter().position(|row| row.scenario == self.scenario && row.what == what);
        let place = place.unwrap_or_else(|| {
            let (values, floor, goal) = (BTreeMap::new(), Vec::new(), String::new());
            self.rows.push(Row { scenario: self.scenario, what, values, floor, goal });
            self.rows.len() - 1
        });
        let mut row = self.rows.remove(place);
        row.values.insert(self.carrier.clone(), value);
        self.rows.insert(place, row);
        self
    }

    /// What the floor of the last of these was, in the same run.
    pub fn floor(&mut self, what: &str, floor: String) {
        eprintln!("   {what}: the floor is {floor}");
        let row = self.rows.iter_mut().find(|row| row.scenario == self.scenario && row.what == what);
        row.expect("it was noted before").floor.push(floor);
    }

    /// What it should be.
    pub fn goal(&mut self, what: &str, goal: &str) {
        let row = self.rows.iter_mut().find(|row| row.scenario == self.scenario && row.what == what);
        goal.clone_into(&mut row.expect("it was noted before").goal);
    }

    /// Points of one line of a picture; the carrier stands in the legend as well.
    pub fn plot(&mut self, name: &str, title: &str, axes: [&'static str; 2], line: &str, points: Vec<(f64, f64)>) {
        let line = format!("{line}, {}", self.carrier);
        let place = self.plots.iter().position(|plot| plot.name == name).unwrap_or_else(|| {
            self.plots.push(Plot { name: name.to_owned(), title: title.to_owned(), axes, lines: Vec::new() });
            self.plots.len() - 1
        });
        let lines = &mut self.plots[place].lines;
        match lines.iter_mut().find(|(known, _)| *known == line) {
            Some((_, known)) => known.extend(points),
            None => lines.push((line, points)),
        }
    }

    /// All of it as tables.
    fn tables(&self, mut head: impl FnMut(&mut String, &str, &str)) -> String {
        let mut text = String::new();
        for (scenario, about) in &self.about {
            head(&mut text, scenario, about);
            let rows = self.rows.iter().filter(|row| row.scenario == *scenario);
            let mut cells: Vec<Vec<String>> = rows
                .map(|row| {
                    let value = |carrier: &String| row.values.get(carrier).cloned().unwrap_or_default();
                    let values = self.carriers.iter().map(value);
                    [row.what.clone()]
                        .into_iter()
                        .chain(values)
                        .chain([row.floor.join(", "), row.goal.clone()])
                        .collect()
                })
                .collect();
            let title = [""].into_iter().chain(self.carriers.iter().map(String::as_str)).chain([FLOOR, "goal"]);
            cells.insert(0, title.map(str::to_owned).collect());
            // A column in which nothing stands says nothing.
            for column in (1..cells[0].len()).rev() {
                if cells[1..].iter().all(|row| row[column].is_empty()) {
                    cells.iter_mut().for_each(|row| drop(row.remove(column)));
                }
            }
            let widths: Vec<usize> = (0..cells[0].len())
                .map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
                .collect();
            for (number, row) in cells.iter().enumerate() {
                let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
                let _ = writeln!(text, "| {} |", line.join(" | "));
                if number == 0 {
                    let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                    let _ = writeln!(text, "|-{}-|", dashes.join("-|-"));
                }
            }
        }
        text
    }

    /// Prints the tables.
    pub fn print(&self) {
        println!("{}", self.tables(|text, scenario, _| text.push_str(&format!("\n{scenario}\n"))));
    }

    /// Writes the manual's page and its pictures, into the `docs` of this folder.
    pub fn write(&self, root: &Path, machine: &Machine) {
        let images = root.join("docs/images");
        fs::create_dir_all(&images).expect("a folder can be made");
        let mut text = format!("{HEAD}{}\n", machine.describe());
        let _ = writeln!(text, "Sizes were `{}`.", self.size);
        let was_run = |name: &str| self.about.iter().any(|(known, _)| *known == name);
        let skipped: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).filter(|name| !was_run(name)).collect();
        if !skipped.is_empty() {
            let _ = writeln!(text, "\n**Not run:** {}.", skipped.join(", "));
        }
        let _ = write!(
            text,
            "{}",
            self.tables(|text, scenario, about| {
                let _ = write!(text, "\n## {}{}\n\n{about}\n\n", scenario[..1].to_uppercase(), &scenario[1..]);
            })
        );
        if !self.plots.is_empty() {
            let _ = writeln!(text, "\n## Pictures");
        }
        for plot in &self.plots {
            plot.write(&images);
            let _ = writeln!(text, "\n![{}](images/{}.svg)", plot.title, plot.name);
        }
        let page = root.join("docs/benchmarks.md");
        fs::write(&page, text).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        eprintln!("== {} is written", page.display());
    }
}

/// What stands beside a measurement of the floor.
pub const FLOOR: &str = "floor";

const HEAD: &str = "# Benchmarks

Written by `make bench`. Every scenario compares at its end what watchers and REST say with what must be so, and the run fails where they differ.

Clients, servers and Redis share the cores of one machine, over loopback. So what happens *per second* says little, and **CPU per unit** is what to
read: the time of all threads of a process, as the scheduler counts it. A sender on loopback does the receiver's work in the kernel as well; over a
network a part of that is elsewhere. The *floor* is a bare loop of `send(2)` with the same bytes to as many sockets, measured in turns with the
service, and the numbers are medians of the turns. Memory is what is resident (RSS), without the kernel's 4.5 KB for each socket. Settings are
the defaults, but for the limits of sockets per address and operations per second. Each scenario starts its own servers, from a release build.

";

/// On what it ran.
pub struct Machine {
    lines: Vec<(&'static str, String)>,
}

impl Machine {
    /// This one, this source, and a Redis of this version.
    pub fn look(root: &Path) -> Self {
        let said = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).current_dir(root).output().ok();
            output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
        };
        let line = |path: &str, name: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let found = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
            found.trim_start_matches([':', ' ', '\t']).trim().to_owned()
        };
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let redis = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        let dirty = if said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty() {
            ""
        } else {
            ", with changes"
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            lines: vec![
                (
                    "machine",
                    format!(
                        "{cores} cores of {}, {} memory",
                        line("/proc/cpuinfo", "model name"),
                        line("/proc/meminfo", "MemTotal")
                    ),
                ),
                ("system", format!("Linux {}", kernel.trim())),
                ("built with", said("rustc", &["--version"])),
                ("Redis", said(&redis, &["--version"]).split(" sha").next().unwrap_or_default().to_owned()),
                ("source", format!("{}{dirty}", said("git", &["rev-parse", "--short", "HEAD"]))),
                ("day", said("date", &["-u", "+%Y-%m-%d"])),
            ],
        }
    }

    fn describe(&self) -> String {
        let rows: String = self.lines.iter().fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(text, "| {name} | {value} |");
            text
        });
        format!("| | |\n|---|---|\n{rows}")
    }
}
