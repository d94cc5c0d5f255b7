//! All sockets of an instance break, and come back to another.

use std::time::{Duration, Instant};

use super::{Bench, Scenario};
use crate::{
    crowd::{Crowd, DEADLINE},
    meter::Mark,
    names::Names,
    sample::micros,
    view::View,
};

pub const SCENARIO: Scenario = Scenario {
    name: "reconnect",
    about: "Connections in channels of ten on one instance break all at once, resume on a second one as fast as they can, and watch again. Onlookers on the second watch some of \
            the channels all the time: they may see nobody leave or join. At the end every list is what it was.",
    run,
};

const TOGETHER: usize = 10;

fn run(bench: &mut Bench<'_>) {
    for count in bench.by_size(vec![40], vec![1_000], vec![1_000, 9_000]) {
        measure(bench, Bench::fitting(count) / TOGETHER * TOGETHER);
    }
}

fn measure(bench: &mut Bench<'_>, count: usize) {
    let channel = |number: usize| format!("room:{}", number / TOGETHER);
    let stage = bench.stage(2);
    let (one, two) = (stage.instances[0].address, stage.instances[1].address);
    let mut crowd = Crowd::new();
    crowd.gather(count, "mover", true, |_| one);
    let onlookers = (count / TOGETHER).min(100);
    crowd.gather(onlookers, "onlooker", false, |_| two);
    let list = |room: usize| {
        Names::of(
            (room * TOGETHER..(room + 1) * TOGETHER)
                .map(|number| format!("mover-{number:05}"))
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        )
    };
    let lists: Vec<Names> = (0..count / TOGETHER).map(list).collect();
    let right = || {
        let lists = lists.clone();
        move |number: usize, view: &View| {
            let room = if number < count { number / TOGETHER } else { number - count };
            view.is_whole() && view.names == Some(lists[room])
        }
    };
    for number in 0..count {
        crowd.join_watching(number, &channel(number));
        crowd.pace();
    }
    for onlooker in 0..onlookers {
        crowd.watch(count + onlooker, &channel(onlooker * TOGETHER));
    }
    crowd.aim(right());
    crowd.until_there(DEADLINE);
    crowd.until_answered(DEADLINE);
    let moves: Vec<u64> = crowd.people[count..].iter().map(|person| person.view.moves).collect();

    let mark = Mark::of(&stage);
    let began = Instant::now();
    crowd.vanish(0..count);
    crowd.come(0..count, |_| two);
    let resumed = began.elapsed();
    assert!(crowd.people[..count].iter().all(|person| person.resumed), "every connection is the one that it was");
    crowd.forget(0..count);
    crowd.aim(right());
    for number in 0..count {
        crowd.watch(number, &channel(number));
        crowd.pace();
    }
    crowd.until_there(DEADLINE);
    crowd.until_answered(DEADLINE);
    let watching = began.elapsed();
    let spent = mark.spent(&stage);
    // Longer than the grace: who was taken for gone would have left by now.
    let grace = bench.by_size(Duration::from_secs(1), Duration::from_secs(18), Duration::from_secs(18));
    crowd.live(grace);
    crowd.aim(right());
    crowd.until_there(Duration::ZERO);
    let seen: Vec<u64> = crowd.people[count..].iter().map(|person| person.view.moves).collect();
    assert_eq!(seen, moves, "onlookers see nobody leave or join");
    for number in (0..count).step_by((count / 20).max(TOGETHER)) {
        assert_eq!(
            stage.one().rest.members(&channel(number)),
            lists[number / TOGETHER],
            "the list of {}",
            channel(number)
        );
    }

    let report = &mut *bench.report;
    let one = |time: Duration| format!("{:.0} µs", micros(time) / count as f64);
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    report.note(format!("{count}: all resumed after"), seconds(resumed));
    report.note(format!("{count}: all watch again after"), seconds(watching));
    report.note(format!("{count}: CPU of the instance that they left, for each"), one(spent.servers[0]));
    report.note(format!("{count}: CPU of the other for connect, resume, watch and first frame"), one(spent.servers[1]));
    report.note(format!("{count}: CPU of Redis for each"), one(spent.redis));
}
