//! Indexes in Redis are damaged by hand: whom nothing alive answers for is gone all the same, and who lives is listed again.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{
    harness::{Client, Crowd, Farewell, Person, Plan, Row, eventually},
    stage::{GRACE, LEASE, RENEW, SECOND, Stage, rooms, times},
};

const SECTION: &str = "Redis is damaged by hand";
/// Instead of five minutes. With so few people a pass takes less than that.
const PERIOD: Duration = Duration::from_secs(10);
/// What was damaged behind the back of a pass is found by the next, and ends then like the rows of a lost instance.
const GONE_WITHIN: Duration = Duration::from_secs(2 * PERIOD.as_secs() + 2 * RENEW.as_secs() + GRACE.as_secs() + 2);

/// So many people on the instance of a place, spread over the channels.
async fn people(stage: &Stage, place: usize, what: &str, count: usize, channels: &[String]) -> Crowd {
    stage.doors.are([stage.instances[place].url()]);
    let plans = (0..count).map(|number| {
        let channel = channels[number % channels.len()].clone();
        Plan::present(format!("{what}/{number}"), &[channel])
    });
    Crowd::gather(&stage.doors, plans).await
}

async fn strings(stage: &Stage, words: &[&str]) -> Vec<String> {
    redis::from_redis_value(stage.redis.command(words).await).expect("a list of texts")
}

/// The generation that holds a user's connection.
async fn generation_of(stage: &Stage, user: &str) -> String {
    for generation in strings(stage, &["ZRANGE", &stage.key("instances"), "0", "-1"]).await {
        let held = strings(stage, &["SMEMBERS", &stage.key(&format!("held:{generation}:u"))]).await;
        if held.iter().any(|entry| entry.starts_with(&format!("u:{user} "))) {
            return generation;
        }
    }
    panic!("nobody holds {user}")
}

/// Deletes something that must have been there.
async fn delete(stage: &Stage, words: &[&str]) {
    let deleted: u64 = redis::from_redis_value(stage.redis.command(words).await).expect("a count");
    assert!(deleted > 0, "{words:?}");
}

fn kill(stage: &mut Stage, place: usize, crowd: &Crowd) -> Vec<Farewell> {
    crowd.people.iter().for_each(Person::stay_away);
    let killed = Instant::now();
    stage.instances[place].kill();
    crowd.people.iter().map(|person| person.farewell(killed, false)).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn whom_only_damaged_indexes_keep_is_gone_within_the_period_of_the_audit() {
    let mut row = Row::begin(
        SECTION,
        "entries of `held`, `instances`, `ending`, `online` and `occupied` are deleted; `presence.audit_ms` is 10 s instead of five minutes",
    );
    let channels = rooms(3);
    let mut stage = Stage::set_with(3, &[("ROLLCALL__PRESENCE__AUDIT_MS", PERIOD.as_millis().to_string())]).await;
    stage.witness(&[2], &channels).await;
    let unheld = people(&stage, 0, "unheld", 6, &channels).await;
    let unlisted = people(&stage, 1, "unlisted", 6, &channels).await;
    let timeless = people(&stage, 2, "timeless", 3, &channels).await;
    let living = people(&stage, 2, "living", 3, &channels).await;
    let all = 18 / channels.len();
    for witness in &stage.witnesses {
        let sees_all = |client: &Client| channels.iter().all(|channel| client.users(channel).len() == all);
        witness.client().until("everybody", sees_all).await;
    }
    let since = Instant::now();
    let mut left = Vec::new();

    // What a dead instance held is nowhere named any more.
    let generation = generation_of(&stage, "unheld/0").await;
    left.extend(kill(&mut stage, 0, &unheld));
    for set in ["u", "c"] {
        delete(&stage, &["DEL", &stage.key(&format!("held:{generation}:{set}"))]).await;
    }
    // Nobody remembers that there was such an instance.
    let generation = generation_of(&stage, "unlisted/0").await;
    left.extend(kill(&mut stage, 1, &unlisted));
    delete(&stage, &["ZREM", &stage.key("instances"), &generation]).await;
    delete(&stage, &["HDEL", &stage.key("instances:info"), &generation]).await;
    // Graces that have begun end never.
    for person in &timeless.people {
        left.push(person.vanish().await);
    }
    let entries = async || {
        let mut entries = strings(&stage, &["ZRANGE", &stage.key("ending"), "0", "-1"]).await;
        // Of each, the row of the user and that in the channel.
        entries.retain(|entry| entry.starts_with("u:timeless/") || entry.starts_with("c:"));
        entries
    };
    eventually(5 * SECOND, async || entries().await.len() == 2 * timeless.people.len()).await;
    let entries = entries().await;
    for entry in &entries {
        delete(&stage, &["ZREM", &stage.key("ending"), entry]).await;
    }
    // The living and their channels are listed nowhere.
    delete(&stage, &["DEL", &stage.key("online"), &stage.key("occupied")]).await;
    let damaged = Instant::now();

    stage.until_told(since, &left, damaged + GONE_WITHIN + 5 * SECOND).await;
    let took = times(&stage.assert_told(&living, since, &left, &["instance_lost", "timeout"]));
    row.took("from the kill, or from closing, to the leave", &took, Some(GONE_WITHIN));
    assert!(took.iter().all(|took| *took <= GONE_WITHIN), "{:?}", took.iter().max());
    let rest = stage.instances[2].rest();
    let listed = async |path: &str, list: &str, name: &str| -> Vec<String> {
        let answer = rest.get(path).await.ok();
        let names =
            answer[list].as_array().expect("a list").iter().map(|one| one[name].as_str().expect("a name").to_owned());
        names.collect()
    };
    assert_eq!(listed("/v1/channels?limit=1000", "channels", "channel").await.len(), channels.len());
    let online = listed("/v1/users?limit=1000", "users", "user").await;
    assert!(living.people.iter().all(|person| online.iter().any(|user| user == person.user())), "{online:?}");
    assert_eq!(online.len(), living.people.len() + stage.witnesses.len());
    stage.instances.drain(..2);
    stage.until_all_is_equal(&living, &channels, 5 * SECOND).await;
    stage.assert_no_panic();
    row.saw("15 people whom only damaged indexes kept: one leave each, none before its grace.");
    row.saw("The living: nothing. They and their channels are listed again.");
    row.finish();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn an_instance_whose_lease_is_deleted_by_hand_registers_anew_and_nobody_notices() {
    let mut row = Row::begin(SECTION, "the lease of a living instance is deleted");
    let channels = rooms(3);
    let mut stage = Stage::set(2).await;
    stage.witness(&[0, 1], &channels).await;
    let living = people(&stage, 0, "living", 30, &channels).await;
    let since = stage.curtain(&living, &channels).await;
    let generation = generation_of(&stage, "living/0").await;
    delete(&stage, &["ZREM", &stage.key("instances"), &generation]).await;
    delete(&stage, &["HDEL", &stage.key("instances:info"), &generation]).await;
    // Longer than whoever was thought to be lost would stay.
    sleep_until(since + LEASE + 2 * RENEW + GRACE + 3 * SECOND).await;
    stage.assert_told(&living, since, &[], &[]);
    assert!(living.is_there() && living.visits().is_empty(), "all sockets have stayed");
    assert_ne!(generation_of(&stage, "living/0").await, generation, "it has registered anew");
    stage.until_all_is_equal(&living, &channels, 5 * SECOND).await;
    stage.assert_no_panic();
    row.saw("Nothing.");
    row.finish();
}
