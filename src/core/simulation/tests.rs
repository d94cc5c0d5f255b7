use super::*;

/// Fails with all that somebody needs to know who replays it.
fn assert_flawless(seed: u64, outcome: &Outcome) {
    if outcome.faults.is_empty() {
        return;
    }
    let nemesis: Vec<&String> = outcome.log.iter().filter(|line| line.contains(" nemesis: ")).collect();
    if let Some(path) = std::env::var_os("ROLLCALL_LOG") {
        std::fs::write(path, outcome.log.join("\n")).unwrap();
    }
    let faults: Vec<&String> = outcome.faults.iter().take(12).collect();
    panic!("ROLLCALL_SEED={seed}: {} faults, {faults:#?}\n{nemesis:#?}", outcome.faults.len());
}

fn seeds() -> Vec<u64> {
    match std::env::var("ROLLCALL_SEED") {
        Ok(seed) => vec![seed.parse().expect("ROLLCALL_SEED is a number")],
        Err(_) => (0..std::env::var("ROLLCALL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(8)).collect(),
    }
}

#[test]
fn whatever_breaks_watchers_are_told_what_truly_happened_and_nothing_else() {
    for seed in seeds() {
        let outcome = run(seed, some(40));
        println!("seed {seed}: {} s, {:?}", outcome.seconds, outcome.counts);
        assert_flawless(seed, &outcome);
    }
}

#[test]
fn whatever_breaks_channels_that_go_from_mode_to_mode_are_told_as_truly() {
    let mut turns = 0;
    for seed in seeds() {
        let outcome = run_within(seed, NEAR, some(40));
        println!("seed {seed}: {} s, {:?}", outcome.seconds, outcome.counts);
        assert_flawless(seed, &outcome);
        turns += outcome.counts.get("mode").copied().unwrap_or_default();
    }
    assert!(turns > 500, "modes did change: {turns} times");
}

#[test]
fn the_same_seed_is_the_same_history() {
    let (one, two) = (run(7, some(12)), run(7, some(12)));
    let differ = one.log.iter().zip(&two.log).position(|(one, two)| one != two);
    if let Some(at) = differ {
        panic!("line {at} of {}:\n{}\n{}", one.log.len(), one.log[at], two.log[at]);
    }
    assert_eq!(one.log.len(), two.log.len());
    assert!(one.log.len() > 5_000, "something has happened: {}", one.log.len());
    let other = run(8, some(12));
    assert_ne!(one.log, other.log, "another seed is another history");
}
