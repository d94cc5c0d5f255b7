//! Each protecting rule is switched off in its store, and the check of the suite that it is for must fail.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use rollcall::domain::rule::Rule;

use crate::{redis_only, suite, world::World};

/// The check that a rule is for. Those of the core alone are not the store's.
async fn check(rule: Rule, world: World) {
    match rule {
        Rule::Take => suite::the_higher_take_wins(world).await,
        Rule::DeadGeneration => suite::the_rows_of_a_dead_instance_end_and_its_writes_are_refused(world).await,
        Rule::PresenceTime => suite::an_outage_and_a_clock_that_jumps_count_for_four_seconds(world).await,
        Rule::Settling => redis_only::emptied(world).await,
        Rule::Link => redis_only::overtaken(world).await,
        Rule::Floor => suite::an_empty_roster_is_forgotten_after_an_hour_and_goes_on_above_the_floor(world).await,
        Rule::Audit => redis_only::damaged(world).await,
        Rule::FeedFirst | Rule::OneBatch => unreachable!("rules of the core"),
    }
}

async fn fails(rule: Rule, world: World) -> bool {
    AssertUnwindSafe(check(rule, world)).catch_unwind().await.is_err()
}

#[tokio::test]
async fn without_any_of_the_rules_of_its_scripts_redis_fails_the_check_that_the_rule_is_for() {
    let rules =
        [Rule::Take, Rule::DeadGeneration, Rule::PresenceTime, Rule::Settling, Rule::Link, Rule::Floor, Rule::Audit];
    for rule in rules {
        assert!(!fails(rule, World::redis(1).await).await, "with {rule:?} its check fails");
        let _without = rule.without();
        assert!(fails(rule, World::redis(1).await).await, "without {rule:?} its check does not fail");
    }
}

#[tokio::test(start_paused = true)]
async fn without_any_of_the_rules_the_memory_fails_the_check_that_the_rule_is_for() {
    // There one instance has one link, settles at once, and nobody damages an index: those rules are checked by the simulation.
    for rule in [Rule::Take, Rule::DeadGeneration, Rule::PresenceTime, Rule::Floor] {
        assert!(!fails(rule, World::memory().await).await, "with {rule:?} its check fails");
        let _without = rule.without();
        assert!(fails(rule, World::memory().await).await, "without {rule:?} its check does not fail");
    }
}
