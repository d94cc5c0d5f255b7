//! Every instance is replaced, one after the other, as a deployment does it.

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    harness::{Crowd, Farewell, Person, Row, eventually},
    stage::{GRACE, SECOND, SLACK, Stage, people, rooms, times},
};

const SECTION: &str = "Instances are replaced";
/// Who has left without a word is announced within this after the grace.
const TOLD_WITHIN: std::time::Duration = std::time::Duration::from_secs(3);

/// Leaves without a word. On an instance that stops just now that was when it said that it does: the grace runs from there.
async fn walk_away(person: &Person) -> Farewell {
    person.stay_away();
    let client = person.client();
    let is_open = client.ping().await.is_ok();
    let mut farewell = person.vanish().await;
    if !is_open {
        let told = client.events("reconnect").pop();
        farewell.at = told.expect("nothing but the end of an instance ends a socket here").at;
    }
    farewell
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn of_a_rolling_restart_watchers_see_exactly_those_who_really_leave_during_it() {
    let mut row =
        Row::begin(SECTION, "three instances are stopped and started, one after the other, under 1,000 connections");
    let channels = rooms(20);
    let mut stage = Stage::set(3).await;
    stage.witness(&[0, 1, 2], &channels).await;
    let crowd = Crowd::gather(&stage.doors, people(1_000, &channels, 10)).await;
    let since = stage.curtain(&crowd, &channels).await;

    // 50 leave, one after the other, half of them with a goodbye, while everything moves.
    let is_over = tokio::sync::watch::Sender::new(false);
    let leaving = async {
        let mut left: Vec<Farewell> = Vec::new();
        for number in 0..50 {
            // Somebody who has a socket now: of whom is between two, nobody could say when that was.
            let mut there = crowd.people.iter().skip(number * 20).filter(|person| person.is_there());
            let person: &Person = there.next().expect("most have a socket at any time");
            left.push(if number % 2 == 0 { walk_away(person).await } else { person.bye().await });
            sleep(SECOND * 2 / 3).await;
        }
        assert!(!*is_over.borrow(), "they leave during the restart, not after it");
        left
    };
    let mut stops = Vec::new();
    let restart = async {
        for place in 0..3 {
            let told = Instant::now();
            stage.instances[place].terminate();
            let status = stage.instances[place].ended(30 * SECOND).await;
            assert!(status.success(), "{status}");
            stage.instances[place].assert_no_panic();
            stops.push(told.elapsed());
            stage.start_again(place).await;
            // The next one goes when everybody is back.
            eventually(GRACE, async || crowd.is_there() && stage.witnesses.iter().all(Person::is_there)).await;
            sleep_until(told + 12 * SECOND).await;
        }
        is_over.send_replace(true);
    };
    let (left, ()) = tokio::join!(leaving, restart);

    let last = left.last().expect("50 left").at;
    stage.until_told(since, &left, last + GRACE + TOLD_WITHIN + 5 * SECOND).await;
    sleep_until(last + GRACE + TOLD_WITHIN + SECOND).await;
    let took = times(&stage.assert_told(&crowd, since, &left, &["left", "timeout", "snapshot"]));
    assert!(took.iter().all(|took| *took <= GRACE + TOLD_WITHIN), "{:?}", took.iter().max());
    let visits = crowd.visits();
    assert!(visits.iter().all(|visit| visit.resumed), "nobody has lost the place");
    assert!(visits.len() >= 950, "everybody was on one that stopped: {}", visits.len());
    stage.until_all_is_equal(&crowd, &channels, 5 * SECOND).await;
    stage.assert_no_panic();
    let said: Vec<_> = left.iter().filter(|farewell| farewell.said).map(|farewell| farewell.user.clone()).collect();
    assert!(said.len() >= 20, "{} goodbyes were heard", said.len());

    row.saw(format!("The {} returns: nothing.", visits.len()));
    row.saw("The 50 who really left meanwhile: one leave each, with a goodbye at once, without one not before its grace; and nothing else.");
    let without: Vec<_> = took.iter().copied().filter(|took| *took + SLACK >= GRACE).collect();
    let with: Vec<_> = took.iter().copied().filter(|took| *took + SLACK < GRACE).collect();
    row.took("from a goodbye to the leave", &with, None);
    row.took("from a silent end to the leave", &without, Some(GRACE + TOLD_WITHIN));
    row.took("from the signal to the end of an instance", &stops, None);
    row.took(
        "how long somebody was between two sockets",
        &visits.iter().map(|visit| visit.back_at - visit.broke_at).collect::<Vec<_>>(),
        Some(GRACE),
    );
    row.finish();
}
