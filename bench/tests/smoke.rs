//! The benchmark itself runs: every scenario, in the smallest size, over both carriers.

use std::process::Command;

#[test]
fn every_scenario_runs_in_the_smallest_size_and_says_what_it_found() {
    let output = Command::new(env!("CARGO_BIN_EXE_rollcall-bench")).args(["--size", "tiny"]).output().expect("it runs");
    let (found, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}");
    for what in ["memory of a connection", "CPU of the server for a frame", "frames for a watcher", "all resumed after"]
    {
        let row = found.lines().find(|line| line.contains(what));
        let row = row.unwrap_or_else(|| panic!("nothing of {what}: {found}"));
        let values = row.split('|').skip(2).take(2).filter(|value| !value.trim().is_empty());
        assert_eq!(values.count(), 2, "one for each carrier: {row}");
    }
}
