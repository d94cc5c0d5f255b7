//! Many small channels, in which people come and go.

use std::{cell::RefCell, rc::Rc, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use super::{Bench, Scenario};
use crate::{
    crowd::{Crowd, DEADLINE},
    meter::Mark,
    names::Names,
    sample::micros,
};

pub const SCENARIO: Scenario = Scenario {
    name: "rooms",
    about: "Connections watch channels of ten, each its own, and leave and join it at random, by a seed that is always the same. Sixty-four are under way at a time. At the end \
            every watcher's list is who is there.",
    run,
};

const TOGETHER: usize = 10;

fn run(bench: &mut Bench<'_>) {
    let (count, changes) = bench.by_size((40, 100), (1_000, 5_000), (10_000, 50_000));
    let count = Bench::fitting(count) / TOGETHER * TOGETHER;
    let channel = |number: usize| format!("room:{}", number / TOGETHER);
    let stage = bench.stage(1);
    let address = stage.one().address;
    let mut crowd = Crowd::new();
    crowd.gather(count, "guest", true, |_| address);
    // Who is there, by channel.
    let there = Rc::new(RefCell::new(vec![Names::default(); count / TOGETHER]));
    for number in 0..count {
        crowd.join_watching(number, &channel(number));
        there.borrow_mut()[number / TOGETHER].add(&crowd.people[number].user);
        crowd.pace();
    }
    let right = || {
        let there = there.clone();
        move |number: usize, view: &crate::view::View| view.names == Some(there.borrow()[number / TOGETHER])
    };
    crowd.aim(right());
    crowd.until_there(DEADLINE);
    crowd.until_answered(DEADLINE);

    let (mut present, mut chance) = (vec![true; count], StdRng::seed_from_u64(1));
    let change = |number: usize, by: &dyn Fn(Names) -> Names| {
        let room = &mut there.borrow_mut()[number / TOGETHER];
        *room = by(*room);
    };
    let (mark, frames) = (Mark::of(&stage), crowd.frames);
    for _ in 0..changes {
        let number = chance.random_range(0..count);
        let only = Names::of([crowd.people[number].user.as_str()]);
        present[number] = !present[number];
        if present[number] {
            change(number, &|room| room.with(only));
            crowd.join(number, &channel(number));
        } else {
            change(number, &|room| room.without(only));
            crowd.ask(number, json!({"op": "leave", "channel": channel(number)}));
        }
        crowd.pace();
    }
    crowd.until_answered(DEADLINE);
    crowd.aim(right());
    crowd.until_there(DEADLINE);
    let spent = mark.spent(&stage);
    let frames = (crowd.frames - frames) as f64;
    let changes = f64::from(changes);
    let rooms = there.borrow();
    for number in (0..count).step_by((count / 20).max(TOGETHER)) {
        assert_eq!(
            stage.one().rest.members(&channel(number)),
            rooms[number / TOGETHER],
            "the list of {}",
            channel(number)
        );
    }
    let report = &mut *bench.report;
    let name = format!("{count} connections in {} channels", count / TOGETHER);
    report.note(format!("{name}: joins and leaves"), format!("{:.0}/s", changes / spent.wall.as_secs_f64()));
    report.note(format!("{name}: frames for each"), format!("{:.1}", frames / changes));
    let one = |time: Duration| format!("{:.1} µs", micros(time) / changes);
    report.note(format!("{name}: CPU of the server for each, frames included"), one(spent.server()));
    report.note(format!("{name}: CPU of Redis for each"), one(spent.redis));
}
