//! What an app server asks.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Bench, Scenario};
use crate::{
    meter::Mark,
    rest::Question,
    sample::{micros, percentile},
    server::Stage,
};

pub const SCENARIO: Scenario = Scenario {
    name: "rest",
    about: "An app server puts people into channels by heartbeats and asks, four questions at a time, over connections that stay open. Every answer is looked at. A second of CPU is one of the \
            instance; what Redis needs stands beside it.",
    run,
};

fn user(number: usize) -> String {
    format!("asked-{number:05}")
}

fn run(bench: &mut Bench<'_>) {
    let stage = bench.stage(1);
    let times = bench.by_size(10, 500, 2_000);
    let sizes = bench.by_size(vec![10, 100], vec![10, 1_000], vec![10, 1_000, 10_000]);
    let most = *sizes.last().expect("there are sizes");
    for count in sizes {
        let channel = format!("room:{count}");
        for first in (0..count).step_by(500) {
            let beats = beats(&channel, first..(first + 500).min(count));
            let answer = stage.one().rest.ask(&beats);
            assert!(all_ok(&answer), "heartbeats are taken: {answer:.300}");
        }
        assert_eq!(stage.one().rest.members(&channel).count, count as u64, "all are there");
        let page = count.min(1_000);
        let question = Question { path: format!("/v1/channels/{channel}/members?limit={page}"), body: None };
        let what = format!("{page} members of a channel of {count}");
        let fewer = if page > 100 { times / 10 } else { times };
        measure(bench, &stage, &what, &question, fewer.max(2), move |text| text.matches("\"user\":").count() == page);
        if count == 1_000 {
            bench.report.goal(&format!("{what}: CPU of the server for a question"), "1 ms");
        }
        let question = Question { path: format!("/v1/channels/{channel}"), body: None };
        let counts = format!("\"occupancy\":{{\"users\":{count},\"connections\":{count}}}");
        measure(bench, &stage, &format!("the counts of a channel of {count}"), &question, times, move |text| {
            text.contains(&counts)
        });
    }
    // As many online as not.
    let asked = bench.by_size(100, 1_000, 1_000);
    let users: Vec<String> = (most - asked / 2..most + asked / 2).map(user).collect();
    let question = Question { path: "/v1/users/query".to_owned(), body: Some(json!({ "users": users })) };
    measure(bench, &stage, &format!("{asked} users in a query"), &question, (times / 10).max(2), move |text| {
        text.matches("\"status\":\"online\"").count() == asked / 2
            && text.matches("\"status\":\"offline\"").count() == asked / 2
    });
    let size = bench.by_size(10, 100, 500);
    let question = beats("room:beating", 0..size);
    measure(bench, &stage, &format!("{size} heartbeats in a call"), &question, (times / 10).max(2), |text| {
        serde_json::from_str(text).is_ok_and(|answer| all_ok(&answer))
    });
}

fn beats(channel: &str, numbers: std::ops::Range<usize>) -> Question {
    let beat = |number| json!({"user": user(number), "channel": channel, "ttl_ms": 300_000});
    let beats: Vec<Value> = numbers.map(beat).collect();
    Question { path: "/v1/heartbeats".to_owned(), body: Some(json!({ "heartbeats": beats })) }
}

fn all_ok(answer: &Value) -> bool {
    answer["results"].as_array().is_some_and(|results| results.iter().all(|result| result["ok"].is_object()))
}

fn measure(
    bench: &mut Bench<'_>,
    stage: &Stage,
    what: &str,
    question: &Question,
    times: usize,
    is_right: impl Fn(&str) -> bool + Send + Sync + 'static,
) {
    let rest = &stage.one().rest;
    let first = Instant::now();
    rest.ask(question);
    // Nothing takes longer than some seconds, whatever an answer costs.
    let bound = (Duration::from_secs(5).as_secs_f64() / first.elapsed().as_secs_f64()) as usize;
    let times = times.min(bound.max(2));
    let mark = Mark::of(stage);
    let took = rest.ask_often(question, times, 4, is_right);
    let spent = mark.spent(stage);
    assert_eq!(took.len(), times, "every question is answered once");
    let one = |time: Duration| micros(time) / times as f64;
    let (server, redis) = (one(spent.server()), one(spent.redis));
    let report = &mut *bench.report;
    report.note(
        format!("{what}: CPU of the server for a question"),
        format!("{:.2} ms, {:.0} in a second of CPU", server / 1e3, 1e6 / server),
    );
    report.note(format!("{what}: CPU of Redis"), format!("{:.2} ms", redis / 1e3));
    report.note(
        format!("{what}: time"),
        format!("p50 {:.1} ms, p99 {:.1} ms", percentile(&took, 0.5), percentile(&took, 0.99)),
    );
}
