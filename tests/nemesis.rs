//! A model check over real processes: people do things at random on three instances while a nemesis kills, stops, cuts, freezes and empties, and
//! afterwards what every watcher was told is compared with what truly happened: of channels that are large and small in turn, of people wherever they
//! are, and of who types.
//!
//! What happens is drawn from a seed, which is printed: `ROLLCALL_SEED=… cargo test --features test-hooks --test nemesis` draws the same again. When each
//! thing happens is up to the machine. `ROLLCALL_NEMESIS_S` makes a run longer or shorter.

mod harness;
#[path = "nemesis/lookout.rs"]
mod lookout;
#[path = "nemesis/person.rs"]
mod person;
#[path = "nemesis/plague.rs"]
mod plague;
#[path = "nemesis/typing.rs"]
mod typing;
#[path = "nemesis/watcher.rs"]
mod watcher;
#[path = "nemesis/world.rs"]
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use harness::{Level, Row, holds_within};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use lookout::{Lookout, Sight};
use person::Person;
use plague::Plague;
use watcher::{Testimony, Watcher};
use world::{CHANNELS, LAG, ONLINE, PLACES, World};

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
    let mut looking = Vec::new();
    for (place, sight) in [(0, Sight::ByName), (1, Sight::Everybody), (2, Sight::ByName), (2, Sight::Everybody)] {
        let people = PEOPLE.iter().map(|user| (*user).to_owned()).collect();
        let lookout = Lookout::begin(&world, place, sight, people).await;
        looking.push(tokio::spawn(lookout.watch()));
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
    let said = world.said.lock().unwrap().clone();
    let (mut judged, mut typists, mut turns) = (0, 0, BTreeMap::<String, usize>::new());
    for watcher in watching {
        let Testimony { history, views, typists: typing, turns: turned } = watcher.await.expect("no watcher falls");
        for channel in CHANNELS {
            let view = &views[channel];
            let (users, connections) = (truth.living(channel, true), truth.living(channel, false));
            let counts = json!({"users": users.len(), "connections": connections.len()});
            let living = if history.by_user { users } else { connections };
            // Of a large channel there are the counts only.
            let shown: BTreeSet<String> = view.members().keys().cloned().collect();
            if *view.occupancy() != counts || (view.has_list() && shown != living) {
                let occupancy = view.occupancy();
                wrong.push(format!(
                    "{} sees in {channel} {shown:?} {occupancy}, and there are {living:?}",
                    history.name
                ));
            }
        }
        let faults = [truth.judge(&history, LAG, end), typing.judge(&said, &truth.quiet(&history.away), end)];
        wrong.extend(faults.iter().flatten().map(|fault| format!("{}: {fault}", history.name)));
        judged += history.told.len();
        typists += typing.count();
        turned.into_iter().for_each(|mode| *turns.entry(mode).or_default() += 1);
    }
    let mut seen = 0;
    for lookout in looking {
        let (history, online) = lookout.await.expect("no lookout falls");
        let living = truth.living(ONLINE, true);
        if online != living {
            wrong.push(format!("{} sees {online:?} online, and there are {living:?}", history.name));
        }
        seen += history.told.len();
        wrong.extend(truth.judge(&history, LAG, end).into_iter().map(|fault| format!("{}: {fault}", history.name)));
    }
    wrong.append(&mut world.faults.lock().unwrap());
    let counts = format!("{:?}", truth.counts());
    println!("{counts}; watchers were told of {judged} joins and leaves, of {seen} who came online and went offline");
    println!("and of {typists} who typed; channels went into modes {turns:?}");
    world.assert_no_panic().await;
    drop(stay);
    let first: Vec<_> = wrong.iter().take(12).collect();
    assert!(wrong.is_empty(), "ROLLCALL_SEED={seed}: {} faults, {first:#?}", wrong.len());
    let mut happened: BTreeMap<&str, usize> = truth.counts().clone();
    happened.insert("shown to type", typists);
    happened.insert("change of mode", turns.values().sum());
    let per_minute =
        [("join", 60), ("left", 30), ("timeout", 8), ("resume", 40), ("shown to type", 12), ("change of mode", 24)];
    for (what, per_minute) in per_minute {
        let (count, least) = (happened.get(what).copied().unwrap_or(0), per_minute * seconds as usize / 60);
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
    let (mut plagues, mut judged) = (BTreeMap::<_, usize>::new(), 0);
    for seed in first..first + 10 {
        let summary = run(seed, 40).await;
        summary.plagues.into_iter().for_each(|plague| *plagues.entry(plague).or_default() += 1);
        judged += summary.judged;
        println!("{}", summary.counts);
    }
    row.saw("every join and leave that they were told of had happened, in its time and with its reason, and every one that had happened they were told of, once");
    row.saw("channels that became large and small again showed their lists or their counts, and those right; nobody was shown to type for longer than it lasts");
    row.saw("who watches people, by name or all of them, was told of everybody who came online and went offline, and of nobody else");
    row.saw("nothing about connections that came back within their grace; versions went on without a gap");
    row.saw("at the end every view and every instance's REST showed the connections that were there");
    row.measured("joins and leaves compared", judged.to_string());
    row.measured(
        "what was broken, and how often",
        plagues.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", "),
    );
    row.finish();
}
