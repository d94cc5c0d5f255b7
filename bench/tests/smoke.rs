//! The benchmark itself runs: every scenario, in the smallest size.

use std::process::Command;

#[test]
fn every_scenario_runs_in_the_smallest_size_and_says_what_it_found() {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_rollcall-bench"));
    let output = bench.args(["--size", "tiny", "--carrier", "actix-ws"]).output().expect("it runs");
    let (found, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}");
    for what in [
        "memory of a connection",
        "CPU of the server for a frame",
        "frames for a watcher",
        "joins and leaves",
        "all resumed after",
        "users in a query",
        "time to the last instance",
    ] {
        let row = found.lines().find(|line| line.contains(what));
        let row = row.unwrap_or_else(|| panic!("nothing of {what}: {found}"));
        assert!(row.split('|').nth(2).is_some_and(|value| !value.trim().is_empty()), "a value: {row}");
    }
}
