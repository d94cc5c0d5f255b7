//! What every store does.

use rollcall::{
    domain::{
        aside::{Said, What},
        member::{Occupancy, Reason},
        name::{ChannelName, RosterKey, UserName},
        partition::{Refusal, Sweep},
        person::Record,
        roster::{Ask, Change, Control, Entry, Keep, Outcome, Published, Stay},
        tally::Tally,
        version::Epoch,
    },
    store::{FeedEvent, Index, Registered},
};

use crate::{bars::*, indexes::*, world::*};

macro_rules! suite {
    ($($test:ident)*) => {
        mod memory {
            $(#[tokio::test(start_paused = true)] async fn $test() { super::$test(crate::world::World::memory().await).await; })*
        }
        mod redis {
            $(#[tokio::test] async fn $test() { super::$test(crate::world::World::redis(1).await).await; })*
        }
        mod redis_in_four_partitions {
            $(#[tokio::test] async fn $test() { super::$test(crate::world::World::redis(4).await).await; })*
        }
    };
}

suite! {
    coming_changing_and_leaving_are_numbered
    who_comes_into_an_index_and_goes_out_of_it_is_told_by_name_with_a_number
    nothing_is_told_of_the_indexes_about_those_whom_nobody_sees
    many_that_come_in_one_call_are_one_change
    a_change_that_changes_nothing_has_no_number
    the_states_of_one_user_have_an_order
    a_deadline_is_set_once_for_a_take
    a_connection_that_breaks_and_comes_back_changes_nothing_that_others_see
    who_does_not_come_back_leaves_once_after_the_grace
    the_higher_take_wins
    a_take_of_zero_takes_from_whoever_has_it
    a_claim_takes_over_and_the_other_is_told
    an_old_token_claims_nothing
    a_full_roster_takes_nobody_new
    nobody_comes_back_by_a_resend_whom_somebody_else_removed
    a_missing_row_is_made_by_a_fresh_take_alone
    a_row_that_its_holder_does_not_know_ends_after_its_grace
    two_users_never_share_a_connection
    the_rows_of_a_dead_instance_end_and_its_writes_are_refused
    who_broke_while_the_instance_was_out_of_reach_has_the_whole_grace_when_it_says_so
    an_instance_that_says_goodbye_is_forgotten
    a_batch_of_another_epoch_is_refused
    a_batch_over_another_link_is_refused
    an_empty_roster_is_forgotten_after_an_hour_and_goes_on_above_the_floor
    names_come_in_pages
    counts_and_totals_are_exact
    what_remains_of_a_lease_is_told_in_presence_time
    people_are_known_with_their_connections_and_when_they_were_last_seen
    of_two_records_of_a_person_the_later_counts
    no_row_is_made_where_others_would_see_whom_nobody_is_to_see
    whoever_holds_one_of_several_devices_is_told_of_the_others
    it_is_noted_once_a_minute_that_somebody_is_active
    what_is_frozen_can_be_thawed
    what_is_deposited_is_withdrawn_once_and_in_time
    who_is_inside_of_channels_is_told_once_for_each
    a_feed_tells_of_what_is_followed_and_of_nothing_else
    what_is_said_is_heard_by_those_who_follow_just_then_and_after_the_changes_before_it
    the_held_set_is_read_in_pages
    an_audit_finds_nothing_wrong
    a_batch_tells_each_roster_once
    who_came_and_who_left_is_counted_by_the_call_that_decided_it
    who_has_lost_the_connection_takes_no_channel_with_it
    an_outage_and_a_clock_that_jumps_count_for_four_seconds
    nobody_removes_what_another_instance_has_at_the_same_take
    who_may_not_come_in_is_kept_until_the_time_is_over_and_told_to_every_instance
    of_two_with_one_name_the_later_counts_and_what_changes_nothing_is_not_told
    one_bar_more_than_may_be_is_refused_until_another_is_over
    bars_are_listed_in_pages_whatever_ends_meanwhile
    an_hour_that_the_clock_of_the_host_jumps_ends_no_ban_early
    what_one_instance_is_told_no_other_hears
}

fn number(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Done { number, .. } => *number,
        other => panic!("{other:?}"),
    }
}

fn place(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Done { changed, .. } => *changed,
        other => panic!("{other:?}"),
    }
}

fn as_kept(mut ask: Ask, new: Keep) -> Ask {
    if let Ask::Present { keep, .. } = &mut ask {
        *keep = new;
    }
    ask
}

async fn coming_changing_and_leaving_are_numbered(w: World) {
    let room = channel("room:1");
    assert_eq!(w.store.read(&room).await.unwrap().number, None);
    assert_eq!(number(&w.ask(&room, &id("a"), enter(1, "ann", "{}")).await), 1);
    assert_eq!(number(&w.ask(&room, &id("b"), enter(1, "ben", "{}")).await), 2);
    assert_eq!(number(&w.ask(&room, &id("a"), enter(1, "ann", "{\"s\":1}")).await), 3);
    assert_eq!(number(&w.ask(&room, &id("b"), leave(1)).await), 4);
    assert_eq!(w.ask(&room, &id("b"), leave(1)).await, Outcome::Gone);
    let reading = w.store.read(&room).await.unwrap();
    assert_eq!((reading.number, reading.rows.len()), (Some(4), 1));
    let (connection, row) = &reading.rows[0];
    assert_eq!((connection, &*row.payload, &*row.private), (&id("a"), "{\"s\":1}", "{\"p\":1}"));
    assert_eq!((row.take, row.valid, row.grace_ms, row.since), (1, 1, 15_000, 1_700_000_000_000));
    assert_eq!(row.stay, Stay::Held(w.me.clone()));
    let numbers = w.store.numbers(w.store.partition_of(&room), std::slice::from_ref(&room)).await.unwrap();
    assert_eq!(numbers.numbers, [Some(4)]);
    assert_eq!(numbers.epoch, reading.epoch);
}

async fn a_change_that_changes_nothing_has_no_number(w: World) {
    let room = channel("room:1");
    let first = w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    assert_eq!(w.ask(&room, &id("a"), enter(1, "ann", "{}")).await, first);
    assert_eq!(w.store.read(&room).await.unwrap().number, Some(1));
}

async fn the_states_of_one_user_have_an_order(w: World) {
    let room = channel("room:1");
    let first = w.ask(&room, &id("a"), enter(1, "ann", "1")).await;
    let second = w.ask(&room, &id("b"), enter(1, "ann", "2")).await;
    let third = w.ask(&room, &id("a"), enter(1, "ann", "3")).await;
    assert!(place(&first) < place(&second) && place(&second) < place(&third));
    // A holder that puts back what Redis lost says which place the state had.
    let mut ask = enter(1, "ann", "4");
    if let Ask::Present { body, .. } = &mut ask {
        body.changed = 77;
        body.since = 5;
    }
    let Outcome::Done { changed, since, .. } = w.ask(&room, &id("c"), ask).await else { panic!() };
    assert_eq!((changed, since), (77, 5));
    let Outcome::Done { changed, since, .. } = w.ask(&room, &id("d"), enter(1, "ann", "5")).await else { panic!() };
    assert_eq!((changed, since), (78, 5), "the next one stands above, and ann has been here since then");
}

async fn a_deadline_is_set_once_for_a_take(mut w: World) {
    let room = channel("room:1");
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    w.ask(&room, &id("a"), ending(1, "ann", "{}", 10_000)).await;
    w.pass(6_000).await;
    w.ask(&room, &id("a"), ending(1, "ann", "{}", 10_000)).await;
    w.pass(5_000).await;
    w.sweep().await;
    assert_eq!(w.row(&room, &id("a")).await, None);

    w.ask(&room, &id("l"), ending(0, "dev", "{}", 10_000)).await;
    w.pass(6_000).await;
    w.ask(&room, &id("l"), ending(0, "dev", "{}", 10_000)).await;
    w.pass(5_000).await;
    w.sweep().await;
    assert_eq!(w.row(&room, &id("l")).await.unwrap().take, 2, "a lease that is taken anew is renewed");
    w.pass(6_000).await;
    w.sweep().await;
    assert_eq!(w.row(&room, &id("l")).await, None);
}

async fn a_connection_that_breaks_and_comes_back_changes_nothing_that_others_see(mut w: World) {
    let room = channel("room:1");
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    w.ask(&room, &id("a"), ending(1, "ann", "{}", 15_000)).await;
    w.pass(14_000).await;
    w.sweep().await;
    let other = w.another("ib").await;
    let Outcome::Claimed { row, .. } = other.ask(&room, &id("a"), Ask::Claim { token_take: 1 }).await else { panic!() };
    assert_eq!((row.take, &row.stay), (2, &Stay::Held(other.me.clone())));
    w.pass(5_000).await;
    w.sweep().await;
    assert_eq!(w.store.read(&room).await.unwrap().number, Some(1));
}

async fn who_does_not_come_back_leaves_once_after_the_grace(mut w: World) {
    let room = channel("room:1");
    w.feed.follow(&room).await.unwrap();
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    w.ask(&room, &id("a"), ending(1, "ann", "{}", 15_000)).await;
    w.pass(14_900).await;
    w.sweep().await;
    assert!(w.row(&room, &id("a")).await.is_some());
    w.pass(200).await;
    w.sweep().await;
    w.sweep().await;
    assert_eq!(w.row(&room, &id("a")).await, None);
    assert_eq!(w.store.read(&room).await.unwrap().number, Some(2));
    let mut changes = Vec::new();
    while changes.len() < 2 {
        if let FeedEvent::Published(published) = w.event().await {
            changes.extend(published.changes);
        }
    }
    assert_eq!(changes[1], Change::Remove { connection: id("a"), reason: Reason::Timeout });
}

pub async fn the_higher_take_wins(w: World) {
    let room = channel("room:1");
    let other = w.another("ib").await;
    w.ask(&room, &id("a"), enter(3, "ann", "{}")).await;
    assert_eq!(other.ask(&room, &id("a"), enter(2, "ann", "x")).await, Outcome::Lost);
    assert_eq!(other.ask(&room, &id("a"), enter(3, "ann", "x")).await, Outcome::Lost, "the same take is the first's");
    assert!(matches!(other.ask(&room, &id("a"), enter(4, "ann", "x")).await, Outcome::Done { take: 4, .. }));
    assert_eq!(w.ask(&room, &id("a"), enter(3, "ann", "y")).await, Outcome::Lost);
    assert_eq!(w.ask(&room, &id("a"), leave(3)).await, Outcome::Lost);
    assert!(matches!(w.ask(&room, &id("a"), kick()).await, Outcome::Done { take: 4, .. }));
}

async fn a_take_of_zero_takes_from_whoever_has_it(w: World) {
    let room = channel("room:1");
    let other = w.another("ib").await;
    assert!(matches!(w.ask(&room, &id("a"), ending(0, "dev", "{}", 60_000)).await, Outcome::Done { take: 1, .. }));
    assert!(matches!(other.ask(&room, &id("a"), ending(0, "dev", "{}", 60_000)).await, Outcome::Done { take: 2, .. }));
    let told = overruled(&w).await;
    assert_eq!(
        told,
        Control::Overruled { roster: room.clone(), connection: id("a"), take: 1, reason: Reason::Replaced }
    );
    assert_eq!(w.store.read(&room).await.unwrap().number, Some(1), "the same state is no change");
}

async fn overruled(w: &World) -> Control {
    loop {
        if let FeedEvent::Control(_, control @ Control::Overruled { .. }) = w.event().await {
            return control;
        }
    }
}

async fn a_claim_takes_over_and_the_other_is_told(w: World) {
    let me = RosterKey::User(user("ann"));
    let other = w.another("ib").await;
    assert_eq!(other.ask(&me, &id("a"), Ask::Claim { token_take: 1 }).await, Outcome::Gone);
    w.ask(&me, &id("a"), enter(1, "ann", "{}")).await;
    let Outcome::Claimed { row, .. } = other.ask(&me, &id("a"), Ask::Claim { token_take: 1 }).await else { panic!() };
    assert_eq!((row.take, row.valid, &*row.private), (2, 1, "{\"p\":1}"));
    let told = overruled(&w).await;
    assert_eq!(told, Control::Overruled { roster: me.clone(), connection: id("a"), take: 1, reason: Reason::Replaced });
    // The token of a welcome that got lost is older than the take, and still good.
    let Outcome::Claimed { row, .. } = w.ask(&me, &id("a"), Ask::Claim { token_take: 1 }).await else { panic!() };
    assert_eq!((row.take, &row.stay), (3, &Stay::Held(w.me.clone())));
}

async fn an_old_token_claims_nothing(w: World) {
    let me = RosterKey::User(user("ann"));
    let mut ask = enter(5, "ann", "{}");
    if let Ask::Present { body, .. } = &mut ask {
        body.valid = 5;
    }
    w.ask(&me, &id("a"), ask).await;
    assert_eq!(w.ask(&me, &id("a"), Ask::Claim { token_take: 4 }).await, Outcome::Lost);
    let Outcome::Claimed { row, .. } = w.ask(&me, &id("a"), Ask::Claim { token_take: 9 }).await else { panic!() };
    assert_eq!(row.take, 10);
}

async fn a_full_roster_takes_nobody_new(w: World) {
    let limited = |take, name: &str, most| {
        let Ask::Present { take, fresh, keep, body, .. } = enter(take, name, "{}") else { unreachable!() };
        Ask::Present { take, fresh, limit: most, keep, body }
    };
    let room = channel("room:1");
    assert!(matches!(w.ask(&room, &id("a"), limited(1, "ann", 2)).await, Outcome::Done { .. }));
    assert!(matches!(w.ask(&room, &id("b"), limited(1, "ben", 2)).await, Outcome::Done { .. }));
    assert_eq!(w.ask(&room, &id("c"), limited(1, "cat", 2)).await, Outcome::Full);
    assert!(matches!(w.ask(&room, &id("d"), limited(1, "ann", 2)).await, Outcome::Done { .. }), "users are counted");
    assert!(matches!(w.ask(&room, &id("a"), limited(1, "ann", 1)).await, Outcome::Done { .. }), "who is in stays in");
    let me = RosterKey::User(user("ann"));
    assert!(matches!(w.ask(&me, &id("a"), limited(1, "ann", 1)).await, Outcome::Done { .. }));
    assert_eq!(w.ask(&me, &id("d"), limited(1, "ann", 1)).await, Outcome::Full, "connections are counted");
}

async fn nobody_comes_back_by_a_resend_whom_somebody_else_removed(mut w: World) {
    let room = channel("room:1");
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    w.ask(&room, &id("a"), kick()).await;
    assert_eq!(w.ask(&room, &id("a"), enter(1, "ann", "{}")).await, Outcome::Gone);
    let other = channel("room:2");
    w.ask(&other, &id("b"), enter(1, "ben", "{}")).await;
    let entry = |ask| Entry { roster: other.clone(), connection: id("b"), ask };
    let (_, outcomes) = w.batch(vec![entry(kick()), entry(enter(1, "ben", "{}"))]).await.unwrap();
    assert_eq!(outcomes[1], Outcome::Gone, "not in the same batch either");
    assert!(matches!(w.ask(&room, &id("a"), enter(2, "ann", "{}")).await, Outcome::Done { take: 2, .. }));
    w.ask(&room, &id("a"), leave(2)).await;
    assert!(matches!(w.ask(&room, &id("a"), enter(2, "ann", "{}")).await, Outcome::Done { .. }), "it left by itself");
    w.ask(&room, &id("a"), kick()).await;
    w.pass(61_000).await;
    w.sweep().await;
    assert!(matches!(w.ask(&room, &id("a"), enter(2, "ann", "{}")).await, Outcome::Done { .. }), "a minute later");
}

async fn a_missing_row_is_made_by_a_fresh_take_alone(w: World) {
    let room = channel("room:1");
    let ask = Ask::Present { take: 1, fresh: false, limit: 0, keep: Keep::Held, body: body("ann", "{}") };
    assert_eq!(w.ask(&room, &id("a"), ask.clone()).await, Outcome::Gone);
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    assert!(matches!(w.ask(&room, &id("a"), ask).await, Outcome::Done { .. }));
    assert_eq!(w.ask(&room, &id("b"), Ask::Release).await, Outcome::Gone);
}

async fn a_row_that_its_holder_does_not_know_ends_after_its_grace(mut w: World) {
    let room = channel("room:1");
    let other = w.another("ib").await;
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    assert_eq!(other.ask(&room, &id("a"), Ask::Release).await, Outcome::Lost);
    assert!(matches!(w.ask(&room, &id("a"), Ask::Release).await, Outcome::Done { .. }));
    assert!(matches!(w.row(&room, &id("a")).await.unwrap().stay, Stay::Ending { reason: Reason::Timeout, .. }));
    w.pass(15_100).await;
    w.sweep().await;
    assert_eq!(w.row(&room, &id("a")).await, None);
}

async fn two_users_never_share_a_connection(w: World) {
    let room = channel("room:1");
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    assert_eq!(w.ask(&room, &id("a"), enter(2, "ben", "{}")).await, Outcome::Lost);
    assert_eq!(w.ask(&room, &id("a"), enter(0, "ben", "{}")).await, Outcome::Lost);
}

pub async fn the_rows_of_a_dead_instance_end_and_its_writes_are_refused(mut w: World) {
    let room = channel("room:1");
    let mut other = w.another("ib").await;
    let began = w.try_renew(0, true, false).await.unwrap().now;
    other.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    other.ask(&room, &id("b"), enter(1, "ben", "{}")).await;
    w.ask(&room, &id("b"), Ask::Claim { token_take: 1 }).await;
    w.pass(9_900).await;
    w.sweep().await;
    assert_eq!(w.row(&room, &id("a")).await.unwrap().stay, Stay::Held(other.me.clone()));
    w.pass(200).await;
    w.sweep().await;
    assert!(matches!(w.row(&room, &id("a")).await.unwrap().stay, Stay::Ending { reason: Reason::InstanceLost, .. }));
    assert_eq!(w.row(&room, &id("b")).await.unwrap().stay, Stay::Held(w.me.clone()), "somebody else took it");
    let late = Entry { roster: room.clone(), connection: id("a"), ask: enter(1, "ann", "{}") };
    assert_eq!(other.batch(vec![late]).await, Err(Refusal::Dead));
    for partition in 0..w.store.partitions() {
        assert_eq!(other.try_renew(partition, true, false).await, Err(Refusal::Dead));
    }
    // Last renewal, two renewals, the grace.
    w.pass(10_800).await;
    w.sweep().await;
    assert!(w.row(&room, &id("a")).await.is_some());
    w.pass(300).await;
    w.sweep().await;
    assert_eq!(w.row(&room, &id("a")).await, None, "{began}");
    other.me.number += 1;
    other.epochs.clear();
    other.register().await;
    assert!(matches!(other.ask(&room, &id("a"), enter(2, "ann", "{}")).await, Outcome::Done { .. }));
}

async fn who_broke_while_the_instance_was_out_of_reach_has_the_whole_grace_when_it_says_so(mut w: World) {
    let room = channel("room:1");
    let mut other = w.another("ib").await;
    other.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    w.pass(10_100).await;
    w.sweep().await;
    assert!(matches!(w.row(&room, &id("a")).await.unwrap().stay, Stay::Ending { reason: Reason::InstanceLost, .. }));
    w.pass(2_900).await;
    // It could not say so before: the socket broke a moment ago.
    other.me.number += 1;
    other.epochs.clear();
    other.register().await;
    let broken = as_kept(enter(1, "ann", "{}"), Keep::Ending { remaining_ms: 15_000 });
    assert!(matches!(other.ask(&room, &id("a"), broken.clone()).await, Outcome::Done { .. }));
    // By the end of the lease it would have ended after 21 s.
    w.pass(8_100).await;
    w.sweep().await;
    assert!(w.row(&room, &id("a")).await.is_some(), "the grace began when it broke");
    w.pass(6_800).await;
    w.sweep().await;
    let row = w.row(&room, &id("a")).await.expect("the grace is not over");
    assert!(matches!(row.stay, Stay::Ending { reason: Reason::Timeout, .. }), "{row:?}");
    w.pass(200).await;
    w.sweep().await;
    assert_eq!(w.row(&room, &id("a")).await, None);
}

async fn an_instance_that_says_goodbye_is_forgotten(w: World) {
    let room = channel("room:1");
    let mut other = w.another("ib").await;
    other.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    let home = w.store.partition_of(&room);
    other.try_renew(home, true, true).await.unwrap();
    assert_eq!(w.store.totals().await.unwrap().instances.len(), 2, "it still holds something");
    other.ask(&room, &id("a"), ending(1, "ann", "{}", 15_000)).await;
    for partition in 0..w.store.partitions() {
        other.try_renew(partition, true, true).await.unwrap();
    }
    assert_eq!(w.store.totals().await.unwrap().instances.len(), 1);
}

async fn a_batch_of_another_epoch_is_refused(mut w: World) {
    let room = channel("room:1");
    let home = w.store.partition_of(&room);
    w.epochs.insert(home, Epoch::new("other"));
    let entry = Entry { roster: room.clone(), connection: id("a"), ask: enter(1, "ann", "{}") };
    assert_eq!(w.batch(vec![entry]).await, Err(Refusal::Epoch));
    assert_eq!(w.row(&room, &id("a")).await, None);
}

async fn a_batch_over_another_link_is_refused(mut w: World) {
    let room = channel("room:1");
    let home = w.store.partition_of(&room);
    w.links.insert(home, 99);
    let entry = Entry { roster: room.clone(), connection: id("a"), ask: enter(1, "ann", "{}") };
    assert_eq!(w.batch(vec![entry]).await, Err(Refusal::Link));
}

pub async fn an_empty_roster_is_forgotten_after_an_hour_and_goes_on_above_the_floor(mut w: World) {
    let room = channel("room:1");
    for take in 1..4 {
        w.ask(&room, &id("a"), enter(take, "ann", "{}")).await;
        w.ask(&room, &id("a"), leave(take)).await;
    }
    let home = w.store.partition_of(&room);
    let number = async |w: &World| w.store.numbers(home, std::slice::from_ref(&room)).await.unwrap().numbers[0];
    w.pass(3_599_000).await;
    w.sweep().await;
    assert_eq!(number(&w).await, Some(6));
    w.pass(2_000).await;
    w.sweep().await;
    assert_eq!(number(&w).await, None);
    w.feed.follow(&room).await.unwrap();
    w.ask(&room, &id("a"), enter(4, "ann", "{}")).await;
    assert_eq!(number(&w).await, Some(7));
    let published = published(&w).await;
    assert_eq!((published.from, published.to, published.starts), (6, 7, true));
}

async fn published(w: &World) -> Published {
    loop {
        if let FeedEvent::Published(published) = w.event().await {
            return published;
        }
    }
}

async fn names_come_in_pages(w: World) {
    for (index, name) in ["room:1", "room:10", "room:2", "zoo", "room/1", "{x}", "日本"].iter().enumerate() {
        let connection = id(&format!("c{index}"));
        w.ask(&channel(name), &connection, enter(1, "ann", "{}")).await;
        w.ask(&RosterKey::User(user("ann")), &connection, enter(1, "ann", "{}")).await;
    }
    w.ask(&channel("zoo"), &id("c3"), leave(1)).await;
    let all = w.store.names(Index::Occupied, "", None, 100).await.unwrap();
    assert_eq!(all, ["room/1", "room:1", "room:10", "room:2", "{x}", "日本"]);
    let names = w.store.names(Index::Occupied, "room:", None, 2).await.unwrap();
    assert_eq!(names, ["room:1", "room:10"]);
    let names = w.store.names(Index::Occupied, "room:", Some("room:10"), 2).await.unwrap();
    assert_eq!(names, ["room:2"]);
    assert_eq!(w.store.names(Index::Online, "", None, 100).await.unwrap(), ["ann"]);
    assert!(w.store.names(Index::Online, "b", None, 100).await.unwrap().is_empty());
}

async fn what_remains_of_a_lease_is_told_in_presence_time(mut w: World) {
    let remains = async |w: &World| -> Vec<(String, u64)> {
        let instances = w.store.totals().await.unwrap().instances;
        instances.into_iter().map(|one| (one.generation.to_string(), one.lease_ms)).collect()
    };
    let mut other = w.another("ib").await;
    assert_eq!(remains(&w).await, [("ia:1".to_owned(), 10_000), ("ib:1".to_owned(), 10_000)]);
    w.clock.pass(w.store.partitions(), 2_500).await;
    w.renew().await;
    assert_eq!(remains(&w).await, [("ia:1".to_owned(), 10_000), ("ib:1".to_owned(), 7_500)]);
    // An hour in which nobody renews counts for four seconds.
    w.clock.pass(w.store.partitions(), 3_600_000).await;
    assert_eq!(remains(&w).await, [("ia:1".to_owned(), 6_000), ("ib:1".to_owned(), 3_500)]);
    // One of several partitions that is renewed alone helps nothing: the lease that ends first is told.
    if w.store.partitions() > 1 {
        other.try_renew(0, true, false).await.unwrap();
        assert_eq!(remains(&w).await[1].1, 3_500);
    }
    w.pass(10_000).await;
    assert_eq!(remains(&w).await[1], ("ib:1".to_owned(), 0), "it holds nothing, and nobody has swept it away yet");
}

async fn counts_and_totals_are_exact(w: World) {
    for (room, connection, name) in
        [("r1", "a", "ann"), ("r1", "b", "ann"), ("r1", "c", "ben"), ("r2", "a", "ann"), ("r2", "c", "ben")]
    {
        w.ask(&channel(room), &id(connection), enter(1, name, "{}")).await;
        w.ask(&RosterKey::User(user(name)), &id(connection), enter(1, name, "{}")).await;
    }
    w.ask(&channel("r2"), &id("a"), leave(1)).await;
    let names = ["r1", "none", "r2"].map(|name| ChannelName::parse(name).unwrap());
    let counts = w.store.counts(&names).await.unwrap();
    let occupancies: Vec<(u64, u64, u64)> =
        counts.iter().map(|c| (c.version.number, c.occupancy.users, c.occupancy.connections)).collect();
    assert_eq!(occupancies, [(3, 2, 3), (0, 0, 0), (3, 1, 1)]);
    let totals = w.store.totals().await.unwrap();
    assert_eq!((totals.users, totals.channels), (2, 2));
    assert_eq!((totals.joins, totals.leaves), (4, 1), "ann is in the first with two devices, and came there once");
    let me = Registered { generation: w.me.clone(), version: "0.1".into(), connections: 3, lease_ms: 10_000 };
    assert_eq!(totals.instances, [me]);
}

async fn people_are_known_with_their_connections_and_when_they_were_last_seen(w: World) {
    let ann = RosterKey::User(user("ann"));
    w.ask(&ann, &id("a"), enter(1, "ann", "{}")).await;
    w.ask(&ann, &id("b"), enter(1, "ann", "{}")).await;
    let people = w.store.people(&[user("zoe"), user("ann")]).await.unwrap();
    assert_eq!((people[0].reading.rows.len(), people[0].last_seen), (0, None));
    assert_eq!((people[1].reading.rows.len(), people[1].last_seen), (2, None));
    w.ask(&ann, &id("a"), leave(1)).await;
    w.ask(&ann, &id("b"), leave(1)).await;
    let people = w.store.people(&[user("ann")]).await.unwrap();
    assert!(people[0].last_seen.is_some());
    w.ask(&ann, &id(""), Ask::Forget).await;
    assert_eq!(w.store.people(&[user("ann")]).await.unwrap()[0].last_seen, None);
}

fn keep(serial: u64, hidden: bool) -> Ask {
    let profile = format!("{{\"serial\":{serial}}}").into();
    Ask::Person { record: Record { serial, hidden, lasting: true, profile } }
}

async fn of_two_records_of_a_person_the_later_counts(w: World) {
    let ann = RosterKey::User(user("ann"));
    let first = w.ask(&ann, &id(""), keep(3, false)).await;
    assert_eq!(number(&first), 1, "whoever watches is told");
    let Outcome::Later { record } = w.ask(&ann, &id(""), keep(3, true)).await else { panic!() };
    assert_eq!((record.serial, record.hidden), (3, false));
    w.ask(&ann, &id(""), keep(4, false)).await;
    let kept = w.store.people(&[user("ann")]).await.unwrap().remove(0).record.unwrap();
    assert_eq!((kept.serial, &*kept.profile), (4, "{\"serial\":4}"));
    assert_eq!(w.store.names(Index::Known, "", None, 9).await.unwrap(), ["ann"]);
    assert!(w.store.names(Index::Online, "", None, 9).await.unwrap().is_empty());
    w.ask(&ann, &id(""), Ask::Forget).await;
    assert_eq!(w.store.people(&[user("ann")]).await.unwrap()[0].record, None);
    assert!(w.store.names(Index::Known, "", None, 9).await.unwrap().is_empty());
}

async fn no_row_is_made_where_others_would_see_whom_nobody_is_to_see(w: World) {
    let (ann, room) = (RosterKey::User(user("ann")), channel("room:1"));
    w.ask(&ann, &id(""), keep(1, true)).await;
    let before = w.store.read(&ann).await.unwrap().number;
    let Outcome::Hidden { record } = w.ask(&ann, &id("a"), enter(1, "ann", "{}")).await else { panic!() };
    assert!(record.hidden);
    let Outcome::Done { record, .. } = w.ask(&ann.twin(true), &id("a"), enter(1, "ann", "{}")).await else { panic!() };
    assert_eq!(record.unwrap().serial, 1);
    w.ask(&room.twin(true), &id("a"), enter(1, "ann", "{}")).await;
    // Nothing of it shows.
    assert_eq!(w.store.read(&ann).await.unwrap().number, before);
    let there = w.store.read(&room).await.unwrap();
    assert_eq!((there.number, there.rows.len()), (None, 0));
    let totals = w.store.totals().await.unwrap();
    assert_eq!((totals.users, totals.channels), (0, 0));
    assert!(w.store.names(Index::Online, "", None, 9).await.unwrap().is_empty());
    assert_eq!(w.store.names(Index::Unseen, "", None, 9).await.unwrap(), ["ann"]);
    let person = w.store.people(&[user("ann")]).await.unwrap().remove(0);
    assert_eq!((person.reading.rows.len(), person.hidden.len()), (0, 1));
    w.ask(&ann.twin(true), &id("a"), leave(1)).await;
    assert_eq!(w.store.people(&[user("ann")]).await.unwrap()[0].last_seen, None, "nobody has seen them");
    // In a batch the user's row decides.
    if w.store.partition_of(&ann) == w.store.partition_of(&room) {
        let entry =
            |roster: &RosterKey| Entry { roster: roster.clone(), connection: id("b"), ask: enter(1, "ann", "{}") };
        let outcomes = w.batch(vec![entry(&ann), entry(&room)]).await.unwrap().1;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Hidden { .. })), "{outcomes:?}");
    }
}

async fn whoever_holds_one_of_several_devices_is_told_of_the_others(w: World) {
    let ann = RosterKey::User(user("ann"));
    let other = w.another("other").await;
    w.ask(&ann, &id("a"), enter(1, "ann", "1")).await;
    other.ask(&ann, &id("b"), enter(1, "ann", "2")).await;
    let is_person =
        |event: &FeedEvent| matches!(event, FeedEvent::Control(_, Control::Person(name)) if *name == user("ann"));
    // What else is heard is of other things; where nothing comes, waiting for it fails.
    let hears = async |world: &World| while !is_person(&world.event().await) {};
    hears(&w).await;
    hears(&other).await;
    other.ask(&ann, &id("b"), leave(1)).await;
    hears(&w).await;
    w.ask(&ann, &id(""), keep(1, false)).await;
    hears(&other).await;
}

async fn it_is_noted_once_a_minute_that_somebody_is_active(w: World) {
    let ann = RosterKey::User(user("ann"));
    let now = rollcall::domain::time::wall_now_ms();
    let when = async || w.store.people(&[user("ann")]).await.unwrap()[0].last_active;
    for (at, noted) in [(now, now), (now + 59_999, now), (now - 1, now), (now + 60_000, now + 60_000)] {
        w.ask(&ann, &id(""), Ask::Active { at }).await;
        assert_eq!(when().await, Some(noted));
    }
    assert_eq!(w.store.read(&ann).await.unwrap().number, None, "that is no change");
}

async fn what_is_frozen_can_be_thawed(w: World) {
    assert_eq!(w.store.thaw("x").await.unwrap(), None);
    w.store.freeze("x", "page").await.unwrap();
    assert_eq!(w.store.thaw("x").await.unwrap().as_deref(), Some("page"));
}

async fn what_is_deposited_is_withdrawn_once_and_in_time(w: World) {
    assert_eq!(w.store.withdraw("x").await.unwrap(), None);
    w.store.deposit("x", "first", 60_000).await.unwrap();
    w.store.deposit("x", "second", 60_000).await.unwrap();
    // Both ask at the same moment, and one gets it.
    let (one, two) = tokio::join!(w.store.withdraw("x"), w.store.withdraw("x"));
    let found: Vec<String> = [one.unwrap(), two.unwrap()].into_iter().flatten().collect();
    assert_eq!(found, ["second"]);
    w.store.deposit("y", "brief", 1).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    assert_eq!(w.store.withdraw("y").await.unwrap(), None);
    // A frozen text is another thing than a deposit of another name.
    w.store.freeze("z", "page").await.unwrap();
    assert_eq!(w.store.thaw("z").await.unwrap().as_deref(), Some("page"));
}

async fn who_is_inside_of_channels_is_told_once_for_each(w: World) {
    let (one, two) = (channel("one"), channel("two"));
    w.ask(&one, &id("a"), enter(1, "ann", "{}")).await;
    w.ask(&one, &id("b"), enter(1, "ann", "{}")).await;
    w.ask(&one, &id("c"), enter(1, "ben", "{}")).await;
    w.ask(&two, &id("d"), enter(1, "zoe", "{}")).await;
    let names = ["two", "nobody", "one"].map(|name| ChannelName::parse(name).unwrap());
    let inside = w.store.inside(&names).await.unwrap();
    let users = |at: usize| {
        let mut users: Vec<&str> = inside[at].users.iter().map(UserName::as_str).collect();
        users.sort_unstable();
        users
    };
    assert_eq!((users(0), users(1), users(2)), (vec!["zoe"], vec![], vec!["ann", "ben"]));
    let counted = w.store.counts(&names).await.unwrap();
    assert!(inside.iter().zip(&counted).all(|(inside, counted)| inside.settling == counted.settling));
    assert_eq!(w.store.inside(&[]).await.unwrap(), []);
}

async fn a_feed_tells_of_what_is_followed_and_of_nothing_else(w: World) {
    let (one, two) = (channel("one"), channel("two"));
    w.feed.follow(&one).await.unwrap();
    w.feed.follow(&one).await.unwrap();
    w.feed.unfollow(&one);
    w.ask(&two, &id("a"), enter(1, "ann", "{}")).await;
    w.ask(&one, &id("a"), enter(1, "ann", "{\"s\":\"é\"}")).await;
    let heard = published(&w).await;
    let home = w.store.partition_of(&one);
    let change = Change::Set {
        connection: id("a"),
        user: user("ann"),
        since: 1_700_000_000_000,
        changed: 1,
        payload: "{\"s\":\"é\"}".into(),
    };
    let expected = Published {
        roster: one.clone(),
        epoch: w.epochs[&home].clone(),
        from: 0,
        to: 1,
        starts: true,
        occupancy: Occupancy { users: 1, connections: 1 },
        changes: vec![change],
    };
    assert_eq!(heard, expected);
    w.feed.unfollow(&one);
    w.feed.follow(&two).await.unwrap();
    w.feed.follow(&two).await.unwrap();
    w.ask(&one, &id("b"), enter(1, "ben", "{}")).await;
    w.ask(&two, &id("a"), kick()).await;
    let heard = published(&w).await;
    assert_eq!((heard.roster, heard.from, heard.to, heard.starts), (two, 1, 2, false));
    assert_eq!(heard.changes, [Change::Remove { connection: id("a"), reason: Reason::Kicked }]);
    assert_eq!(heard.occupancy, Occupancy::default());
}

async fn what_is_said_is_heard_by_those_who_follow_just_then_and_after_the_changes_before_it(w: World) {
    let (one, two) = (channel("one"), channel("two"));
    let said = |what| Said { user: user("ann"), connection: id("a"), what };
    // Nobody follows: it is said to nobody, and is no error.
    w.store.say(&one, &said(What::Typing(true))).await.unwrap();
    let other = w.another("ib").await;
    w.feed.follow(&one).await.unwrap();
    other.feed.follow(&two).await.unwrap();
    w.ask(&one, &id("a"), enter(1, "ann", "{}")).await;
    w.store.say(&two, &said(What::Typing(true))).await.unwrap();
    let data = std::sync::Arc::from(serde_json::value::to_raw_value(&serde_json::json!({"é": [1.5, null]})).unwrap());
    w.store.say(&one, &said(What::Signal { data, time: 1_700_000_000_000, echo: true })).await.unwrap();
    assert_eq!(published(&w).await.to, 1);
    let (roster, heard) = heard(&w).await;
    assert_eq!((&roster, heard.user.as_str(), &heard.connection), (&one, "ann", &id("a")));
    match heard.what {
        What::Signal { data, time, echo } => {
            assert_eq!((data.get(), time, echo), (r#"{"é":[1.5,null]}"#, 1_700_000_000_000, true));
        }
        What::Typing(_) => panic!("{heard:?}"),
    }
    let (roster, heard) = self::heard(&other).await;
    assert!(roster == two && matches!(heard.what, What::Typing(true)), "{roster} {heard:?}");
    assert_eq!(w.store.read(&one).await.unwrap().number, Some(1), "it has no number");
}

/// The next that is said, where nothing else is told but to instances.
async fn heard(w: &World) -> (RosterKey, Said) {
    loop {
        match w.event().await {
            FeedEvent::Said(roster, said) => return (roster, said),
            FeedEvent::Control(..) => {}
            event => panic!("{event:?}"),
        }
    }
}

async fn the_held_set_is_read_in_pages(w: World) {
    let mut expected = std::collections::BTreeSet::new();
    for index in 0..250 {
        let (room, connection) = (channel(&format!("r{index}")), id(&format!("c{index}")));
        w.ask(&room, &connection, enter(1, "ann", "{}")).await;
        expected.insert((room, connection));
    }
    w.ask(&channel("r7"), &id("c7"), ending(1, "ann", "{}", 1_000)).await;
    expected.remove(&(channel("r7"), id("c7")));
    let mut found = std::collections::BTreeSet::new();
    for partition in 0..w.store.partitions() {
        let mut cursor = None;
        loop {
            let (rows, next) = w.store.held(partition, &w.me, cursor, 50).await.unwrap();
            found.extend(rows);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
    }
    assert_eq!(found, expected);
}

async fn an_audit_finds_nothing_wrong(mut w: World) {
    for index in 0..150 {
        let connection = id(&format!("c{index}"));
        w.ask(&channel(&format!("r{index}")), &connection, enter(1, "ann", "{}")).await;
        w.ask(&channel("all"), &connection, enter(1, &format!("u{index}"), "{}")).await;
    }
    w.ask(&channel("r1"), &id("c1"), leave(1)).await;
    w.ask(&channel("r2"), &id("c2"), as_kept(enter(1, "ann", "{}"), Keep::Ending { remaining_ms: 9 })).await;
    let before = w.store.read(&channel("all")).await.unwrap();
    for partition in 0..w.store.partitions() {
        let mut cursor = None;
        let mut pages = 0;
        loop {
            cursor = w.store.audit(partition, cursor).await.unwrap().next;
            pages += 1;
            assert!(pages < 100, "a walk ends");
            if cursor.is_none() {
                break;
            }
        }
    }
    w.renew().await;
    w.sweep().await;
    let after = w.store.read(&channel("all")).await.unwrap();
    assert_eq!((after.number, after.rows.len()), (before.number, 150));
    assert_eq!(w.row(&channel("r3"), &id("c3")).await.unwrap().stay, Stay::Held(w.me.clone()));
}

async fn a_batch_tells_each_roster_once(w: World) {
    let room = channel("room:1");
    w.feed.follow(&room).await.unwrap();
    let entry = |connection: &str, ask| Entry { roster: room.clone(), connection: id(connection), ask };
    let (_, outcomes) = w
        .batch(vec![
            entry("a", enter(1, "ann", "1")),
            entry("b", enter(1, "ann", "2")),
            entry("a", enter(1, "ann", "3")),
            entry("b", leave(1)),
            entry("c", Ask::Claim { token_take: 1 }),
            entry("d", enter(1, "ben", "4")),
        ])
        .await
        .unwrap();
    assert_eq!(outcomes[4], Outcome::Gone);
    let told = published(&w).await;
    assert_eq!((told.from, told.to, told.changes.len()), (0, 5, 5));
    assert_eq!(told.occupancy, Occupancy { users: 2, connections: 2 });
}

async fn who_came_and_who_left_is_counted_by_the_call_that_decided_it(mut w: World) {
    let (room, ann) = (channel("room:1"), RosterKey::User(user("ann")));
    let tally = async |w: &World, entries: Vec<(&RosterKey, &str, Ask)>| -> Tally {
        let entry = |(roster, connection, ask): (&RosterKey, &str, Ask)| Entry {
            roster: roster.clone(),
            connection: id(connection),
            ask,
        };
        w.batch(entries.into_iter().map(entry).collect()).await.unwrap().0.tally
    };
    let joins = |joins| {
        let mut tally = Tally::default();
        tally.joins = joins;
        tally
    };
    let left = |reason| {
        let mut tally = Tally::default();
        tally.add_leaves(reason, 1);
        tally
    };
    // Two devices of one, and another one: two have come. Who only looks different has not.
    let come = vec![(&room, "a", enter(1, "ann", "{}")), (&room, "a2", enter(1, "ann", "{}"))];
    assert_eq!(tally(&w, [come, vec![(&room, "b", enter(1, "ben", "{}"))]].concat()).await, joins(2));
    assert_eq!(tally(&w, vec![(&room, "a", enter(1, "ann", "{\"s\":1}"))]).await, Tally::default());
    // Users' own rosters are not counted: everybody is in one.
    assert_eq!(tally(&w, vec![(&ann, "a", enter(1, "ann", "{}"))]).await, Tally::default());

    assert_eq!(tally(&w, vec![(&room, "a2", leave(1))]).await, Tally::default(), "another device is still there");
    assert_eq!(tally(&w, vec![(&room, "b", kick())]).await, left(Reason::Kicked));
    assert_eq!(tally(&w, vec![(&room, "b", kick())]).await, Tally::default());

    // Whom nobody sees has neither come nor left.
    let unseen = RosterKey::from_stored("x:room:1").unwrap();
    assert_eq!(tally(&w, vec![(&unseen, "z", enter(1, "zoe", "{}"))]).await, Tally::default());
    assert_eq!(tally(&w, vec![(&unseen, "z", leave(1))]).await, Tally::default());

    // A grace that saves a leave is counted in the user's roster, once for the connection.
    let broken = [&ann, &room].map(|roster| (roster, "a", ending(1, "ann", "{}", 15_000)));
    for one in broken.clone() {
        assert_eq!(tally(&w, vec![one]).await, Tally::default());
    }
    assert_eq!(tally(&w, vec![(&ann, "a", Ask::Claim { token_take: 1 })]).await.saved, 1);
    assert_eq!(tally(&w, vec![(&ann, "a", Ask::Claim { token_take: 2 })]).await.saved, 0, "it was held");
    assert_eq!(tally(&w, vec![(&room, "a", enter(2, "ann", "{}"))]).await, Tally::default());

    tally(&w, vec![(&room, "a", ending(2, "ann", "{}", 15_000))]).await;
    w.pass(15_100).await;
    let home = w.store.partition_of(&room);
    let mut sum = Tally::default();
    let due = w.store.sweep(home, &Sweep::default(), 100).await.unwrap().due;
    let sweep = Sweep { due: due.into_iter().map(|due| (due, u64::MAX >> 1)).collect(), lost: None };
    for _ in 0..2 {
        let swept = w.store.sweep(home, &sweep, 100).await.unwrap().beat.tally;
        sum.add_leaves(Reason::Timeout, swept.leaves(Reason::Timeout));
        assert_eq!(swept.joins, 0);
    }
    assert_eq!(sum, left(Reason::Timeout), "of two sweepers one carries it out");
    let totals = w.store.totals().await.unwrap();
    assert_eq!((totals.joins, totals.leaves), (2, 2), "what the calls came to stands in the store");
}

async fn who_has_lost_the_connection_takes_no_channel_with_it(w: World) {
    // In a Cluster the channel waits until the user's row is acknowledged; here they come in one batch.
    let name = (0..).map(|n| format!("user{n}"));
    let room = channel("room:1");
    let (name, home) = name
        .map(|name| (name.clone(), RosterKey::User(user(&name))))
        .find(|(_, home)| w.store.partition_of(home) == w.store.partition_of(&room))
        .unwrap();
    for roster in [&home, &room] {
        w.ask(roster, &id("a"), enter(1, &name, "{}")).await;
    }
    let other = w.another("ib").await;
    assert!(matches!(other.ask(&home, &id("a"), Ask::Claim { token_take: 1 }).await, Outcome::Claimed { .. }));
    // Its lease had ended, say, and its socket lives: it offers the connection with the take that the claim has given to the other.
    let offer =
        [&home, &room].map(|roster| Entry { roster: roster.clone(), connection: id("a"), ask: enter(2, &name, "{}") });
    assert_eq!(w.batch(offer.into()).await.unwrap().1, [Outcome::Lost, Outcome::Lost]);
    assert!(matches!(other.ask(&room, &id("a"), enter(2, &name, "{}")).await, Outcome::Done { take: 2, .. }));
    // Nor does one whose row was taken away leave one behind.
    w.ask(&home, &id("a"), kick()).await;
    let late = [&home, &channel("room:1")].map(|roster| Entry {
        roster: roster.clone(),
        connection: id("a"),
        ask: enter(2, &name, "{}"),
    });
    other.ask(&room, &id("a"), leave(2)).await;
    assert_eq!(other.batch(late.into()).await.unwrap().1, [Outcome::Gone, Outcome::Gone]);
    assert_eq!(w.row(&room, &id("a")).await, None);
}

pub async fn an_outage_and_a_clock_that_jumps_count_for_four_seconds(mut w: World) {
    let room = channel("room:1");
    w.ask(&room, &id("a"), enter(1, "ann", "{}")).await;
    w.ask(&room, &id("b"), ending(1, "ben", "{}", 15_000)).await;
    let before = w.try_renew(w.store.partition_of(&room), true, false).await.unwrap().now;
    w.clock.pass(w.store.partitions(), 3_600_000).await;
    w.sweep().await;
    assert_eq!(w.row(&room, &id("a")).await.unwrap().stay, Stay::Held(w.me.clone()), "its lease goes on");
    let after = w.try_renew(w.store.partition_of(&room), true, false).await.unwrap().now;
    assert_eq!(after - before, 4_000);
    w.pass(10_900).await;
    w.sweep().await;
    assert!(w.row(&room, &id("b")).await.is_some(), "its grace goes on");
    w.pass(200).await;
    w.sweep().await;
    assert_eq!(w.row(&room, &id("b")).await, None);
}

async fn nobody_removes_what_another_instance_has_at_the_same_take(w: World) {
    let room = channel("room:1");
    let other = w.another("ib").await;
    other.ask(&room, &id("a"), enter(2, "ann", "{}")).await;
    assert_eq!(w.ask(&room, &id("a"), leave(2)).await, Outcome::Lost);
    assert!(matches!(other.ask(&room, &id("a"), leave(2)).await, Outcome::Done { .. }));
}
