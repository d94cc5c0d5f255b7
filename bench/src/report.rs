//! What came out: a table on the terminal, and `docs/benchmarks.md` with pictures.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, process::Command};

use crate::{
    plot::Plot,
    scenario::{SCENARIOS, Scenario},
};

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
            let (name, title, lines) = (name.to_owned(), title.to_owned(), Vec::new());
            self.plots.push(Plot { scenario: self.scenario, name, title, axes, lines });
            self.plots.len() - 1
        });
        let lines = &mut self.plots[place].lines;
        match lines.iter_mut().find(|(known, _)| *known == line) {
            Some((_, known)) => known.extend(points),
            None => lines.push((line, points)),
        }
    }

    /// What was found in one scenario, as a table.
    fn table(&self, scenario: &str) -> String {
        let rows = self.rows.iter().filter(|row| row.scenario == scenario);
        let mut cells: Vec<Vec<String>> = rows
            .map(|row| {
                let values = self.carriers.iter().map(|carrier| row.values.get(carrier).cloned().unwrap_or_default());
                [row.what.clone()].into_iter().chain(values).chain([row.floor.join(", "), row.goal.clone()]).collect()
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
        let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
        let mut text = String::new();
        for (number, row) in cells.iter().enumerate() {
            let line: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
            let _ = writeln!(text, "| {} |", line.join(" | "));
            if number == 0 {
                let dashes: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
                let _ = writeln!(text, "|-{}-|", dashes.join("-|-"));
            }
        }
        text
    }

    /// Prints the tables.
    pub fn print(&self) {
        for (scenario, _) in &self.about {
            println!("\n{scenario}\n{}", self.table(scenario));
        }
    }

    /// Writes the manual's page and its pictures, into the `docs` of this folder. Sections of scenarios that were not run stay as they are: each
    /// says where it is from.
    pub fn write(&self, root: &Path, machine: &str) {
        let page = root.join("docs/benchmarks.md");
        let before = fs::read_to_string(&page).unwrap_or_default();
        let mut text = HEAD.to_owned();
        for Scenario { name, .. } in SCENARIOS {
            let title = format!("## {}{}\n", name[..1].to_uppercase(), &name[1..]);
            let section = match self.about.iter().find(|(known, _)| known == name) {
                Some((_, about)) => self.section(name, about, root, machine),
                None => section_of(&before, &title).unwrap_or_else(|| "Not measured yet.\n".to_owned()),
            };
            let _ = write!(text, "\n{title}\n{section}");
        }
        fs::write(&page, text).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        eprintln!("== {} is written", page.display());
    }

    fn section(&self, scenario: &str, about: &str, root: &Path, machine: &str) -> String {
        let images = root.join("docs/images");
        fs::create_dir_all(&images).expect("a folder can be made");
        let mut text = format!("{about}\n\n{}", self.table(scenario));
        for plot in self.plots.iter().filter(|plot| plot.scenario == scenario) {
            plot.write(&images);
            let _ = writeln!(text, "\n![{}](images/{}.svg)", plot.title, plot.name);
        }
        let _ = writeln!(text, "\n*Sizes `{}`, {machine}.*", self.size);
        text
    }
}

/// What stands under a title, up to the next.
fn section_of(page: &str, title: &str) -> Option<String> {
    let (_, rest) = page.split_once(&format!("\n{title}\n"))?;
    Some(rest.split("\n## ").next().unwrap_or_default().to_owned())
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

/// On what it runs: the machine, its programs, and the state of the sources.
pub fn machine(root: &Path) -> String {
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
    // The page and its pictures are what a run writes itself.
    let changes = said("git", &["status", "--porcelain", "--untracked-files=no", "--", ":!docs"]);
    [
        format!("{cores} cores of {}", line("/proc/cpuinfo", "model name")),
        format!("{} of memory", line("/proc/meminfo", "MemTotal")),
        format!("Linux {}", line("/proc/sys/kernel/osrelease", "")),
        said("rustc", &["--version"]),
        said(&redis, &["--version"]).split(" sha").next().unwrap_or_default().to_owned(),
        format!(
            "source {}{}",
            said("git", &["rev-parse", "--short", "HEAD"]),
            if changes.is_empty() { "" } else { " with changes" }
        ),
        said("date", &["-u", "+%Y-%m-%d"]),
    ]
    .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_what_stands_under_its_title_and_ends_at_the_next() {
        let page = "# Page\n\nhead\n\n## Idle\n\none\n\ntwo\n\n## Rest\n\nthree\n";
        assert_eq!(section_of(page, "## Idle\n").as_deref(), Some("one\n\ntwo\n"));
        assert_eq!(section_of(page, "## Rest\n").as_deref(), Some("three\n"));
        assert_eq!(section_of(page, "## Storm\n"), None);
    }

    #[test]
    fn a_table_has_a_column_for_each_carrier_and_none_in_which_nothing_stands() {
        let mut report = Report::new(&["a".to_owned(), "b".to_owned()], "tiny".to_owned());
        for carrier in ["a", "b"] {
            report.begin("idle", "about", carrier);
            report.note("memory", format!("1 of {carrier}"));
        }
        report.goal("memory", "less");
        let table = report.table("idle");
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(rows[0], ["", "", "a", "b", "goal", ""]);
        assert_eq!(rows[2], ["", "memory", "1 of a", "1 of b", "less", ""]);
    }
}
