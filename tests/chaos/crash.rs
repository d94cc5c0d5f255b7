//! An instance dies without notice, sleeps, or dies again and again.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    harness::{Crowd, Farewell, Person, Plan, Row, Signal, eventually},
    stage::{GRACE, LEASE, LOST_WITHIN, RENEW, SECOND, Stage, people, rooms, times},
};

const SECTION: &str = "An instance fails";

/// How long each was away who came back.
fn away(crowd: &Crowd) -> Vec<Duration> {
    crowd.visits().iter().map(|visit| visit.back_at - visit.broke_at).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn of_two_thousand_on_a_killed_instance_who_comes_back_is_no_event_and_the_others_are_lost_once() {
    let mut row =
        Row::begin(SECTION, "an instance with 2,000 connections is killed (kill -9); 100 of them do not come back");
    let channels = rooms(20);
    let mut stage = Stage::set(3).await;
    stage.witness(&[1, 2], &channels).await;
    // All of them are on the first instance.
    stage.doors.are([stage.instances[0].url()]);
    let crowd = Crowd::gather(&stage.doors, people(2_000, &channels, 20)).await;
    let since = stage.curtain(&crowd, &channels).await;
    stage.doors.are([stage.instances[1].url(), stage.instances[2].url()]);

    let lost: Vec<&Person> = crowd.people.iter().skip(7).step_by(20).collect();
    assert_eq!(lost.len(), 100);
    lost.iter().for_each(|person| person.stay_away());
    let killed = Instant::now();
    stage.instances[0].kill();
    let left: Vec<Farewell> = lost.iter().map(|person| person.farewell(killed, false)).collect();
    stage.until_told(since, &left, killed + LOST_WITHIN + 5 * SECOND).await;
    let took = times(&stage.assert_told(&crowd, since, &left, &["instance_lost"]));
    assert!(took.iter().all(|took| *took <= LOST_WITHIN), "{:?}", took.iter().max());
    let visits = crowd.visits();
    assert_eq!(visits.len(), 1_900);
    assert!(visits.iter().all(|visit| visit.resumed), "everybody was back in time");
    // What else might follow has followed.
    sleep(5 * SECOND).await;
    stage.assert_told(&crowd, since, &left, &["instance_lost"]);
    stage.instances.remove(0);
    stage.until_all_is_equal(&crowd, &channels, 5 * SECOND).await;
    stage.assert_no_panic();
    row.saw("The 1,900 who resumed elsewhere: nothing.");
    row.saw("The 100 others: one leave each, `instance_lost`, none before its grace.");
    row.took("from the kill to the leave", &took, Some(LOST_WITHIN));
    row.took("from the kill until somebody was resumed", &away(&crowd), None);
    row.finish();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn twenty_thousand_places_of_a_killed_instance_have_ended_in_time() {
    let mut row = Row::begin(
        SECTION,
        "an instance with 2,000 connections in 10 channels each is killed (kill -9); nobody comes back",
    );
    let channels = rooms(100);
    let mut stage = Stage::set(2).await;
    stage.witness(&[1], &channels).await;
    stage.doors.are([stage.instances[0].url()]);
    let plans = (0..2_000).map(|number| {
        let joins: Vec<String> = (0..10).map(|step| channels[(number * 10 + step) % 100].clone()).collect();
        Plan::present(format!("person/{number:04}"), &joins)
    });
    let crowd = Crowd::gather(&stage.doors, plans).await;
    let since = stage.curtain(&crowd, &channels).await;

    crowd.people.iter().for_each(Person::stay_away);
    let killed = Instant::now();
    stage.instances[0].kill();
    let left: Vec<Farewell> = crowd.people.iter().map(|person| person.farewell(killed, false)).collect();
    stage.until_told(since, &left, killed + LOST_WITHIN + 20 * SECOND).await;
    let took = times(&stage.assert_told(&crowd, since, &left, &["instance_lost"]));
    row.took("from the kill to the leave", &took, Some(LOST_WITHIN));
    assert!(took.iter().all(|took| *took <= LOST_WITHIN), "{:?}", took.iter().max());
    stage.instances.remove(0);
    stage.until_all_is_equal(&crowd, &channels, 5 * SECOND).await;
    let users = stage.instances[0].rest().get("/v1/users?limit=1000").await.ok();
    let online = users["users"].as_array().expect("a list").len();
    // Those who watch.
    assert_eq!(online, 2);
    stage.assert_no_panic();
    row.saw("20,000 leaves, each once, `instance_lost`, none before its grace.");
    row.finish();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn a_suspended_instance_takes_nothing_back_and_offers_again_who_stayed_with_it() {
    let asleep = LEASE + 3 * SECOND;
    let mut row = Row::begin(
        SECTION,
        format!(
            "an instance with 300 connections is suspended for {} s (SIGSTOP); 200 resume elsewhere meanwhile",
            asleep.as_secs()
        ),
    );
    let channels = rooms(6);
    let mut stage = Stage::set(2).await;
    stage.witness(&[0, 1], &channels).await;
    stage.doors.are([stage.instances[0].url()]);
    let crowd = Crowd::gather(&stage.doors, people(300, &channels, 20)).await;
    let since = stage.curtain(&crowd, &channels).await;
    stage.doors.are([stage.instances[1].url()]);

    let stopped = Instant::now();
    stage.instances[0].signal(Signal::Stop);
    // Two of three notice and go elsewhere, a few close for good, the others wait.
    let (moving, staying): (Vec<_>, Vec<_>) = crowd.people.iter().enumerate().partition(|(number, _)| number % 3 != 0);
    for (_, person) in &moving {
        person.client().drop_socket().await;
    }
    let mut left = Vec::new();
    for (_, person) in staying.iter().take(10) {
        left.push(person.vanish().await);
    }
    eventually(GRACE, async || moving.iter().all(|(_, person)| !person.visits().is_empty() && person.is_there())).await;
    sleep_until(stopped + asleep).await;
    stage.instances[0].signal(Signal::Cont);
    let awake = Instant::now();

    let end = awake + GRACE + 2 * RENEW + 5 * SECOND;
    stage.until_told(since, &left, end).await;
    sleep_until(end).await;
    let took = times(&stage.assert_told(&crowd, since, &left, &["timeout", "instance_lost"]));
    assert!(took.iter().all(|took| *took <= asleep + GRACE + 2 * SECOND), "{took:?}");
    for (_, person) in &moving {
        let visits = person.visits();
        assert!(visits.len() == 1 && visits[0].resumed, "{}: {visits:?}", person.user());
        let connection = person.client().connection();
        let user =
            stage.instances[0].rest().get(&format!("/v1/users/{}", super::harness::segment(person.user()))).await.ok();
        let there: Vec<_> =
            user["connections"].as_array().expect("a list").iter().map(|one| &one["connection"]).collect();
        assert_eq!(there, [&connection], "{}", person.user());
    }
    for (_, person) in staying.iter().skip(10) {
        assert!(person.visits().is_empty() && person.is_there(), "{} stays with its socket", person.user());
        person.client().update(&person.plan().joins[0], serde_json::json!({"awake": true})).await.unwrap();
    }
    stage.until_all_is_equal(&crowd, &channels, 5 * SECOND).await;
    stage.assert_no_panic();
    row.saw("The 200 who resumed elsewhere: nothing; their connections stay where they are.");
    row.saw("The 90 whose sockets outlived the sleep: nothing; they go on as before.");
    row.saw("The 10 who closed for good meanwhile: one leave each, none before its grace.");
    row.took("from closing to the leave", &took, Some(asleep + GRACE + 2 * SECOND));
    row.finish();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn an_instance_that_dies_every_four_seconds_keeps_no_ghost_and_loses_nobody() {
    let mut row = Row::begin(SECTION, "one of two instances is killed every 4 s, ten times, under 300 connections");
    let channels = rooms(6);
    let mut stage = Stage::set(2).await;
    stage.witness(&[1], &channels).await;
    let crowd = Crowd::gather(&stage.doors, people(300, &channels, 20)).await;
    let since = stage.curtain(&crowd, &channels).await;

    let mut left = Vec::new();
    for round in 0..10 {
        let next = Instant::now() + 4 * SECOND;
        stage.instances[0].kill();
        // Two leave for good, one of whom may have been on the dead one.
        let mut leaving = crowd.people.iter().skip(30 * round).filter(|person| person.stays() && person.is_there());
        left.push(leaving.next().expect("somebody is there").vanish().await);
        left.push(leaving.next().expect("somebody is there").bye().await);
        stage.start_again(0).await;
        // Who is on the other one would stay there: some change their network, and come in anywhere.
        for person in crowd.people.iter().skip(round).step_by(3).filter(|person| person.stays() && person.is_there()) {
            person.client().drop_socket().await;
        }
        sleep_until(next).await;
    }
    let end = Instant::now() + LOST_WITHIN;
    stage.until_told(since, &left, end + 5 * SECOND).await;
    sleep_until(end).await;
    let took = times(&stage.assert_told(&crowd, since, &left, &["left", "timeout", "instance_lost", "snapshot"]));
    assert!(took.iter().all(|took| *took <= LOST_WITHIN), "{:?}", took.iter().max());
    let visits = crowd.visits();
    assert!(visits.len() >= 800, "{} returns", visits.len());
    assert!(visits.iter().all(|visit| visit.resumed), "nobody has lost the place");
    stage.until_all_is_equal(&crowd, &channels, 5 * SECOND).await;
    stage.assert_no_panic();
    row.saw(format!("Of {} returns, on whichever instance there was: nothing.", visits.len()));
    row.saw(
        "The 20 who left for good meanwhile: one leave each, with a goodbye at once, without one not before its grace.",
    );
    row.took("from leaving to the leave", &took, Some(LOST_WITHIN));
    row.took("from a kill until somebody was resumed", &away(&crowd), None);
    row.finish();
}
