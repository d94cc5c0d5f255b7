//! A model check over real processes: people do things at random on three instances while a nemesis kills, stops, cuts, freezes and empties, and
//! afterwards what every watcher was told is compared with what truly happened.
//!
//! What happens is drawn from a seed, which is printed: `ROLLCALL_SEED=… cargo test --features test-hooks --test nemesis` draws the same again. When each
//! thing happens is up to the machine. `ROLLCALL_NEMESIS_S` makes a run longer or shorter.

mod harness;
#[path = "nemesis/person.rs"]
mod person;
#[path = "nemesis/plague.rs"]
mod plague;
#[path = "nemesis/watcher.rs"]
mod watcher;
#[path = "nemesis/world.rs"]
mod world;

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use harness::{Level, Row, holds_within};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use person::Person;
use plague::Plague;
use watcher::Watcher;
use world::{CHANNELS, LAG, PLACES, World};

/// Who is there: some with several devices.
const PEOPLE: [&str; 8] = ["ann", "ben", "ann", "cat", "dan", "ben", "eve", "ann"];

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")))
}

/// What a run was.
struct Summary {
    plagues: Vec<&'static str>,
    counts: String,
    judged: usize,
}

async fn run(seed: u64, seconds: u64) -> Summary {
    println!("ROLLCALL_SEED={seed}, for {seconds} s");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut own = || StdRng::seed_from_u64(chance.random());
    let world = World::begin(own()).await;
    let mut watching = Vec::new();
    for place in 0..PLACES {
        for level in [Level::Users, Level::Connections] {
            let watcher = Watcher::begin(&world, place, level).await;
            watching.push(tokio::spawn(watcher.watch()));
        }
    }
    let people: Vec<_> = PEOPLE.iter().map(|user| tokio::spawn(Person::new(&world, user, own()).live())).collect();
    tokio::time::sleep(Duration::from_secs(4)).await;

    let mut nemesis = own();
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let mut plagues = Vec::new();
    while tokio::time::Instant::now() < end {
        let plague = Plague::any(&mut nemesis, plagues.last().copied(), world.may_forget());
        println!("{:>7} {plague:?}", world.now());
        plague.strike(&world, &mut nemesis).await;
        plagues.push(plague);
    }
    world.calm();
    // Held to the end: a client that is dropped has no socket any more.
    let stay: Vec<Person> = join_all(people).await.into_iter().map(|person| person.expect("nobody falls")).collect();
    world.recovered().await;

    let truth = world.truth.lock().unwrap().clone();
    let mut wrong = Vec::new();
    for channel in CHANNELS {
        let living: Vec<String> = truth.living(channel, true).into_iter().collect();
        let connections = truth.living(channel, false).len();
        for (url, rest) in world.doors().await {
            let shows = async || {
                let path = format!("/v1/channels/{}/members?limit=1000", harness::segment(channel));
                let answer = rest.get(&path).await;
                let members = answer.body["members"].as_array().cloned().unwrap_or_default();
                let users: BTreeSet<_> =
                    members.iter().filter_map(|one| one["user"].as_str()).map(str::to_owned).collect();
                let all_told = answer.body["occupancy"]["connections"] == connections;
                answer.status == 200 && answer.body["stale"] == false && all_told && users.iter().eq(&living)
            };
            if holds_within(Duration::from_secs(5), shows).await.is_none() {
                let shown = rest.users_in(channel).await;
                let occupancy = rest.occupancy(channel).await;
                wrong.push(format!(
                    "{url} has in {channel} {shown:?} {occupancy}, and there are {living:?}, {connections} in all"
                ));
            }
        }
    }
    world.finish();
    let end = world.now();
    let mut judged = 0;
    for watcher in watching {
        let (history, views) = watcher.await.expect("no watcher falls");
        for channel in CHANNELS {
            let living: Vec<String> = truth.living(channel, history.by_user).into_iter().collect();
            let shown: Vec<String> = views[channel].members().keys().cloned().collect();
            if shown != living {
                wrong.push(format!("{} sees in {channel} {shown:?}, and there are {living:?}", history.name));
            }
        }
        judged += history.told.len();
        wrong.extend(truth.judge(&history, LAG, end).into_iter().map(|fault| format!("{}: {fault}", history.name)));
    }
    wrong.append(&mut world.faults.lock().unwrap());
    let counts = format!("{:?}", truth.counts());
    println!("{counts}; {judged} joins and leaves that watchers were told of");
    world.assert_no_panic().await;
    drop(stay);
    let first: Vec<_> = wrong.iter().take(12).collect();
    assert!(wrong.is_empty(), "ROLLCALL_SEED={seed}: {} faults, {first:#?}", wrong.len());
    for (what, per_minute) in [("join", 60), ("left", 30), ("timeout", 8), ("resume", 40)] {
        let (count, least) = (truth.counts().get(what).copied().unwrap_or(0), per_minute * seconds as usize / 60);
        assert!(count >= least, "a run in which hardly anything happens proves nothing: {what} {count} times");
    }
    let plagues = plagues.into_iter().map(Plague::name).collect();
    Summary { plagues, counts, judged }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_nemesis_does_watchers_are_told_what_truly_happened_and_nothing_else() {
    let seed = setting("ROLLCALL_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    run(seed, setting("ROLLCALL_NEMESIS_S").unwrap_or(55)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make chaos"]
async fn for_ten_minutes_and_ten_seeds_watchers_are_told_what_truly_happened_and_nothing_else() {
    let mut row = Row::begin(
        "All of it at random",
        "a nemesis for ten minutes: instances killed and stopped, links cut and silent, Redis frozen, emptied, restarted",
    );
    let first = setting("ROLLCALL_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let (mut plagues, mut judged) = (std::collections::BTreeMap::<_, usize>::new(), 0);
    for seed in first..first + 10 {
        let summary = run(seed, 40).await;
        summary.plagues.into_iter().for_each(|plague| *plagues.entry(plague).or_default() += 1);
        judged += summary.judged;
        println!("{}", summary.counts);
    }
    row.saw("every join and leave that they were told of had happened, in its time and with its reason, and every one that had happened they were told of, once");
    row.saw("nothing about connections that came back within their grace; versions went on without a gap");
    row.saw("at the end every view and every instance's REST showed the connections that were there");
    row.measured("joins and leaves compared", judged.to_string());
    row.measured(
        "what was broken, and how often",
        plagues.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", "),
    );
    row.finish();
}
