//! One, two and three instances: how long a change takes from one to another, and what more of something costs.

use std::time::Duration;

use serde_json::json;

use super::{Bench, Scenario};
use crate::{
    crowd::{Crowd, DEADLINE},
    meter::Mark,
    names::hash,
    sample::{micros, percentile},
};

pub const SCENARIO: Scenario = Scenario {
    name: "instances",
    about: "Somebody on the first instance changes their state; the same number of watchers on each instance are told. Then the same with more watchers and with more members in the channel. \
            The time is from when the change is sent until a watcher on the last instance has read it. What instances and Redis do in the 300 ms between two changes, whether there are any or not, is in their CPU.",
    run,
};

const ROOM: &str = "room:far";
/// How long it is quiet after all have a change: longer than a tick of the mirror, so that the next is sent at once.
const QUIET: Duration = Duration::from_millis(300);

fn run(bench: &mut Bench<'_>) {
    let cases: &[(usize, usize, usize)] = bench.by_size(
        &[(2, 5, 3)],
        &[(1, 50, 10), (2, 50, 10), (3, 50, 10)],
        &[(1, 50, 10), (2, 50, 10), (3, 50, 10), (2, 200, 10), (2, 50, 200)],
    );
    for &(instances, watchers, members) in cases {
        measure(bench, instances, watchers, members);
    }
}

fn measure(bench: &mut Bench<'_>, instances: usize, watchers: usize, members: usize) {
    let stage = bench.stage(instances);
    let addresses: Vec<_> = stage.instances.iter().map(|instance| instance.address).collect();
    let mut crowd = Crowd::new();
    crowd.gather(members, "member", true, |_| addresses[0]);
    for number in 0..members {
        crowd.join(number, ROOM);
    }
    crowd.until_answered(DEADLINE);
    for &address in &addresses {
        crowd.gather(watchers, "watcher", false, |_| address);
    }
    for number in members..members + watchers * instances {
        crowd.watch(number, ROOM);
    }
    crowd.aim(move |number, view| number < members || view.is_whole() && view.users == members as u64);
    crowd.until_there(DEADLINE);
    crowd.until_answered(DEADLINE);

    let changes: u64 = bench.by_size(3, 50, 50);
    let (mut far, mark) = (Vec::new(), Mark::of(&stage));
    for change in 1..=changes {
        let (version, state) = (members as u64 + change, hash(&format!("{{\"n\":{change}}}")));
        let seen = move |view: &crate::view::View| view.version == version && view.state == state;
        // First those on the last instance, then all.
        let last = members + watchers * (instances - 1);
        crowd.aim(move |number, view| number < last || seen(view));
        crowd.ask(0, json!({"op": "update", "channel": ROOM, "state": {"n": change}}));
        crowd.until_there(DEADLINE);
        far.extend(&crowd.arrivals);
        crowd.aim(move |number, view| number < members || seen(view));
        crowd.until_there(DEADLINE);
        crowd.until_answered(DEADLINE);
        crowd.live(QUIET);
    }
    let spent = mark.spent(&stage);
    let lists: Vec<_> = stage.instances.iter().map(|instance| instance.rest.members(ROOM)).collect();
    assert!(
        lists.iter().all(|list| *list == lists[0] && list.count == members as u64),
        "every instance has the same list"
    );
    let view = crowd.people.last().expect("somebody watches").view.names;
    assert_eq!(view, Some(lists[0]), "the list over the WebSocket and over REST");

    let report = &mut *bench.report;
    let plural = if instances == 1 { "" } else { "s" };
    let name = format!("{instances} instance{plural}, {watchers} watchers on each, {members} members");
    report.note(
        format!("{name}: time to the last instance"),
        format!("p50 {:.1} ms, p99 {:.1} ms", percentile(&far, 0.5), percentile(&far, 0.99)),
    );
    let one = |time: Duration| format!("{:.0} µs", micros(time) / changes as f64);
    report.note(format!("{name}: CPU of all instances for a change"), one(spent.server()));
    report.note(format!("{name}: CPU of Redis for a change"), one(spent.redis));
}
