//! One user changes, thousands watch.

use std::time::Duration;

use serde_json::json;

use super::{Bench, Scenario};
use crate::{
    crowd::{Crowd, DEADLINE},
    floor::Floor,
    meter,
    names::hash,
    report::FLOOR,
    sample::{median, micros, percentile},
    server::Stage,
};

pub const SCENARIO: Scenario = Scenario {
    name: "fanout",
    about: "One user changes their state in a channel that all others watch. *One at a time* is a change, and 300 ms without one after the last watcher has it: a frame for each, one socket after \
            another. A *burst* is ten changes at once, of which watchers get the first and then what came of the others. Between the turns of the service come turns of the bare loop. \
            Delivery is the time from when the change is sent until a watcher has read the frame, so the last of ten thousand waits for all others.",
    run,
};

const ROOM: &str = "room:stage";
/// How long it is quiet after all have a change: longer than a tick of the mirror, so that the next is sent at once.
const QUIET: Duration = Duration::from_millis(300);

fn run(bench: &mut Bench<'_>) {
    for count in bench.by_size(vec![20], vec![1_000], vec![1_000, 5_000, 10_000]) {
        measure(bench, Bench::fitting(count));
    }
}

/// The channel, its watchers, and the one who changes.
struct Show {
    stage: Stage,
    crowd: Crowd,
    watchers: usize,
    changes: u64,
}

impl Show {
    /// Sends so many changes at once, and waits until all have the last.
    fn change(&mut self, times: u64) {
        let actor = self.watchers;
        self.changes += times;
        let version = 1 + self.changes;
        let last = hash(&format!("{{\"n\":{}}}", self.changes));
        self.crowd.aim(move |number, view| number == actor || view.version == version && view.state == last);
        for number in self.changes - times + 1..=self.changes {
            self.crowd.ask(actor, json!({"op": "update", "channel": ROOM, "state": {"n": number}}));
        }
        self.crowd.until_there(DEADLINE);
        self.crowd.until_answered(DEADLINE);
    }

    /// So many turns of such changes: CPU of the server for each frame that came, in microseconds, and how many these were.
    fn turn(&mut self, turns: usize, times: u64, arrivals: &mut Vec<Duration>) -> (f64, u64) {
        let (cpu, frames) = (meter::cpu(self.stage.one().pid()), self.crowd.frames);
        for _ in 0..turns {
            self.change(times);
            arrivals.extend(&self.crowd.arrivals);
            self.crowd.live(QUIET);
        }
        let frames = self.crowd.frames - frames;
        let cpu = meter::cpu(self.stage.one().pid()) - cpu;
        (micros(cpu) / frames as f64, frames)
    }
}

fn measure(bench: &mut Bench<'_>, count: usize) {
    let stage = bench.stage(1);
    let address = stage.one().address;
    // Space for the one who changes.
    let watchers = count.min(Bench::fitting(count + 1) - 1);
    let mut crowd = Crowd::new();
    crowd.gather(watchers, "watcher", false, |_| address);
    crowd.gather(1, "actor", true, |_| address);
    let actor = watchers;
    crowd.join(actor, ROOM);
    crowd.until_answered(DEADLINE);
    crowd.aim(move |number, view| number == actor || view.is_whole() && view.users == 1);
    for number in 0..watchers {
        crowd.watch(number, ROOM);
    }
    crowd.until_there(DEADLINE);
    crowd.until_answered(DEADLINE);
    let mut show = Show { stage, crowd, watchers, changes: 0 };
    show.change(1);
    let text = show.crowd.last.clone();
    let mut floor = Floor::start(watchers, &text);
    floor.send();
    show.crowd.live(QUIET);

    let (rounds, turns) = bench.by_size((1, 2), (5, 4), (5, 4));
    let (mut service, mut bursts, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let (mut arrivals, mut late) = (Vec::new(), Vec::new());
    let mut frames_of_bursts = 0;
    for _ in 0..rounds {
        service.push(show.turn(turns, 1, &mut arrivals).0);
        let before = floor.cpu();
        for _ in 0..turns {
            floor.send();
            // The other crowd answers its pings meanwhile.
            show.crowd.live(QUIET);
        }
        bare.push(micros(floor.cpu() - before) / (turns * floor.count()) as f64);
        let (cpu, frames) = show.turn(turns, 10, &mut late);
        bursts.push(cpu * frames as f64 / (watchers * turns * 10) as f64);
        frames_of_bursts += frames;
    }
    assert_eq!(stage_state(&show), json!({"n": show.changes}), "the state that REST has after all changes");

    let (service, bare, bursts) = (median(service), median(bare), median(bursts));
    let report = &mut *bench.report;
    let what = format!("{watchers} watchers: CPU of the server for a frame of {} bytes, one at a time", text.len());
    report.note(&what, format!("{service:.1} µs, {:.2} × the floor", service / bare));
    report.floor(&what, format!("{bare:.1} µs"));
    report.goal(&what, "1.2 × the floor");
    let at =
        |times: &[Duration]| format!("p50 {:.1} ms, p99 {:.1} ms", percentile(times, 0.5), percentile(times, 0.99));
    report.note(format!("{watchers} watchers: delivery"), at(&arrivals));
    let each = frames_of_bursts as f64 / (watchers * turns * rounds) as f64;
    report.note(format!("{watchers} watchers: a burst of ten, frames for each"), format!("{each:.1}"));
    report.note(
        format!("{watchers} watchers: a burst of ten, CPU of the server for a change and watcher"),
        format!("{bursts:.2} µs"),
    );
    report.note(format!("{watchers} watchers: a burst of ten, delivery of the last"), at(&late));

    let axes = ["watchers", "CPU for a frame, µs"];
    let (name, title) = ("benchmark-fanout", "CPU of the server for each delivered frame");
    report.plot(name, title, axes, "one at a time", vec![(watchers as f64, service)]);
    report.plot(name, title, axes, FLOOR, vec![(watchers as f64, bare)]);
    let curve = (1..=99).map(|part| (percentile(&arrivals, f64::from(part) / 100.0), f64::from(part))).collect();
    let axes = ["milliseconds after the change was sent", "% of the watchers"];
    let title = "How many watchers have a change, and when";
    report.plot("benchmark-delivery", title, axes, &format!("{watchers} watchers"), curve);
}

fn stage_state(show: &Show) -> serde_json::Value {
    let page = show.stage.one().rest.get(&format!("/v1/channels/{ROOM}/members"));
    assert_eq!(page["occupancy"], json!({"users": 1, "connections": 1}), "one is there");
    page["members"][0]["state"].clone()
}
