//! Everybody comes at once to a channel that all of them watch.

use std::time::{Duration, Instant};

use super::{Bench, Scenario};
use crate::{
    crowd::{Crowd, DEADLINE},
    meter::Mark,
    names::Names,
    sample::micros,
    told::Mode,
};

pub const SCENARIO: Scenario = Scenario {
    name: "storm",
    about: "Sockets are open and welcomed; then all of them join one channel, and watch it, at the same moment. In a channel of that size a watcher is told less: see the \
            modes of the protocol. At the end every watcher has the right count and, where its mode has a list, the right list, and REST has the same.",
    run,
};

const ROOM: &str = "room:storm";

fn run(bench: &mut Bench<'_>) {
    for count in bench.by_size(vec![30], vec![1_000], vec![1_000, 10_000]) {
        measure(bench, Bench::fitting(count));
    }
}

fn measure(bench: &mut Bench<'_>, count: usize) {
    let stage = bench.stage(1);
    let address = stage.one().address;
    let mut crowd = Crowd::new();
    crowd.gather(count, "storm", true, |_| address);
    let all = Names::of(crowd.people.iter().map(|person| person.user.as_str()));
    let users = count as u64;
    crowd.aim(move |_, view| {
        view.users == users && view.is_whole() && (view.mode == Mode::Occupancy || view.names == Some(all))
    });
    let mark = Mark::of(&stage);
    let began = Instant::now();
    for number in 0..count {
        crowd.join_watching(number, ROOM);
        // What has come is read meanwhile, as clients of their own would.
        if number % 64 == 0 {
            crowd.turn(Duration::ZERO);
        }
    }
    crowd.until_answered(DEADLINE);
    let joined = began.elapsed();
    crowd.until_there(DEADLINE);
    let right = began.elapsed();
    let spent = mark.spent(&stage);
    assert_eq!(stage.one().rest.members(ROOM), all, "the list that REST has");

    let frames = crowd.people.iter().map(|person| u64::from(person.view.frames));
    let (most, mean) = (frames.clone().max().unwrap_or_default(), frames.sum::<u64>() as f64 / count as f64);
    let kilobytes = crowd.bytes as f64 / count as f64 / 1_024.0;
    let one = |time: Duration| format!("{:.1} µs", micros(time) / count as f64);
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    let report = &mut *bench.report;
    let what = format!("{count}: frames for a watcher, pages included");
    report.note(&what, format!("{mean:.0} in the mean, {most} at most"));
    report.goal(&what, if count > 1_000 { "200 at most" } else { "" });
    report.note(format!("{count}: bytes for a watcher"), format!("{kilobytes:.0} KB in the mean"));
    report.note(format!("{count}: all joins acknowledged after"), seconds(joined));
    let what = format!("{count}: every view right after the last of these");
    report.note(&what, seconds(right - joined));
    report.goal(&what, "2 s");
    report.note(format!("{count}: CPU of the server for a join, its frames to all included"), one(spent.server()));
    let what = format!("{count}: CPU of Redis for a join");
    report.note(&what, one(spent.redis));
    report.goal(&what, "5 µs");
}
