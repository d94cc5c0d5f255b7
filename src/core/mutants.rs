//! Each protecting rule is switched off, and the simulation must notice. What the rule protects from is brought about again and again meanwhile.

use super::simulation::{Fault, Way, run, watched_rooms};
use crate::domain::rule::Rule;

/// What brings a rule into play, and everything that went wrong meanwhile.
fn check(rule: Rule, seed: u64) -> Vec<String> {
    let all = |way, ms| Fault::Line { place: None, way, ms };
    let each = |fault: fn(usize) -> Fault| (0..9).map(|at| fault(at % 3)).collect();
    let faults = match rule {
        // An older take is sent by an instance that has not heard of the newer one.
        Rule::Take => each(|place| Fault::Line { place: Some(place), way: Way::Cut, ms: 13_000 }),
        Rule::DeadGeneration => return super::tests::a_batch_comes_too_late(),
        Rule::PresenceTime => vec![all(Way::Cut, 60_000), Fault::Jump { ms: 3_600_000 }, all(Way::Silent, 30_000)],
        Rule::Settling => vec![Fault::Emptied { ms: 0 }, Fault::Emptied { ms: 8_000 }],
        // A batch arrives over an older link.
        Rule::Link => (0..6).map(|_| Fault::Flaky { per_mille: 200, ms: 25_000 }).collect(),
        // Somebody comes while somebody else begins to watch.
        Rule::FeedFirst => return watched_rooms(seed),
        Rule::Floor => vec![Fault::Hour],
        Rule::Audit => vec![Fault::Damage { kills: Some(0) }, Fault::Damage { kills: None }],
        // Batches take different times.
        Rule::OneBatch => vec![Fault::Nothing { ms: 2_000_000 }],
    };
    run(seed, |_| faults).faults
}

/// So many runs may be needed until what a rule protects from happens.
const TRIES: u64 = 20;

#[test]
fn without_any_of_the_rules_the_simulation_fails_and_with_all_of_them_it_does_not() {
    let mut unnoticed = Vec::new();
    for rule in Rule::ALL {
        let failed = (0..TRIES).find_map(|seed| {
            let _without = rule.without();
            Some((seed, check(rule, seed).into_iter().next()?))
        });
        let Some((seed, fault)) = failed else {
            unnoticed.push(rule);
            continue;
        };
        let fault: String = fault.chars().take(300).collect();
        println!("without {rule:?} seed {seed} fails: {fault}");
        let faults = check(rule, seed);
        assert!(faults.is_empty(), "with {rule:?} seed {seed} fails too: {faults:#?}");
    }
    assert!(unnoticed.is_empty(), "nothing notices that these are missing: {unnoticed:?}");
}
