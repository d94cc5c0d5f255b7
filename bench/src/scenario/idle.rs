//! Connections that have joined a channel, watch it, and do nothing.

use std::time::Duration;

use serde_json::json;

use super::{Bench, Scenario};
use crate::{
    crowd::{Crowd, DEADLINE},
    meter::{self, Mark},
    names::Names,
    sample::micros,
    view::View,
};

pub const SCENARIO: Scenario = Scenario {
    name: "idle",
    about: "Connections join a channel of ten and watch it. Memory is that of the process beyond what it had before the first, for each connection: when all are \
            there, and after everybody has changed their state once, so that ten frames went to each. Then nobody does anything for a while but answer pings, which \
            come every 25 s.",
    run,
};

/// How many are in a channel.
const TOGETHER: usize = 10;

fn run(bench: &mut Bench<'_>) {
    for count in bench.by_size(vec![40], vec![1_000], vec![10_000, 19_000]) {
        measure(bench, Bench::fitting(count) / TOGETHER * TOGETHER);
    }
}

fn channel(number: usize) -> String {
    format!("room:{}", number / TOGETHER)
}

fn measure(bench: &mut Bench<'_>, count: usize) {
    let stage = bench.stage(1);
    let (address, pid) = (stage.one().address, stage.one().pid());
    let before = meter::rss(pid);
    let start = Mark::of(&stage);
    let mut crowd = Crowd::new();
    crowd.gather(count, "idle", true, |_| address);
    let expected = |number: usize| {
        let first = number / TOGETHER * TOGETHER;
        let names: Vec<String> = (first..first + TOGETHER).map(|number| format!("idle-{number:05}")).collect();
        Names::of(names.iter().map(String::as_str))
    };
    let all: Vec<Names> = (0..count).step_by(TOGETHER).map(expected).collect();
    let right = {
        let all = all.clone();
        move |number: usize, view: &View| view.names == Some(all[number / TOGETHER])
    };
    crowd.aim(right);
    for number in 0..count {
        crowd.join_watching(number, &channel(number));
        // A steady stream, and no storm.
        crowd.pace();
    }
    crowd.until_there(DEADLINE);
    let came = start.spent(&stage);
    let per = |bytes: u64| format!("{:.1} KB", bytes.saturating_sub(before) as f64 / count as f64 / 1_024.0);
    let report = &mut *bench.report;
    let what = format!("{count}: memory of a connection, fresh");
    report.note(&what, per(meter::rss(pid)));
    report.goal(&what, "4 KB");
    let one = |time: Duration| format!("{:.0} µs", micros(time) / count as f64);
    let what = format!("{count}: CPU of the server for connect, hello, join and first frames");
    report.note(&what, one(came.server()));
    report.goal(&what, "150 µs");
    report.note(format!("{count}: CPU of Redis for the same"), one(came.redis));

    for number in 0..count {
        crowd.ask(number, json!({"op": "update", "channel": channel(number), "state": {"n": 1}}));
        crowd.pace();
    }
    crowd.until_answered(DEADLINE);
    // A version for each join and each update.
    crowd.aim(|_, view| view.version == 2 * TOGETHER as u64);
    crowd.until_there(DEADLINE);
    bench.report.note(format!("{count}: memory of a connection, after traffic"), per(meter::rss(pid)));

    let length = bench.by_size(Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(30));
    let idle = Mark::of(&stage);
    crowd.live(length);
    let spent = idle.spent(&stage);
    let seconds = spent.wall.as_secs_f64();
    let report = &mut *bench.report;
    let core = |time: Duration| format!("{:.2} %", time.as_secs_f64() / seconds * 100.0);
    report.note(format!("{count}: CPU of the idle server, of one core"), core(spent.server()));
    report.note(format!("{count}: CPU of the idle Redis, of one core"), core(spent.redis));
    let what = format!("{count}: commands of the idle Redis, those in scripts included");
    report.note(&what, format!("{:.1}/s", spent.calls as f64 / seconds));
    report.goal(&what, "100/s");
    report.note(format!("{count}: bytes from and to the idle Redis"), format!("{:.0}/s", spent.bytes as f64 / seconds));

    for number in (0..count).step_by((count / 20).max(TOGETHER)) {
        let (seen, told) = (crowd.people[number].view.names, stage.one().rest.members(&channel(number)));
        assert_eq!(seen, Some(told), "the list of {} over the WebSocket and over REST", channel(number));
        assert_eq!(told, all[number / TOGETHER], "the list of {}", channel(number));
    }
}
