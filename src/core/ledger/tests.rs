//! The ledger against answers given by hand.

use super::*;
use crate::{
    core::{notices::Notice, rigged::Rigged},
    domain::{
        member::Whereabouts,
        name::ChannelName,
        roster::{Ask, Keep, Row, Stay},
        tally::Tally,
    },
};

struct Scene {
    ledger: Ledger,
    connection: ConnectionId,
    owner: u64,
    notices: Arc<Notices>,
    epoch: Epoch,
    now: u64,
}

fn user() -> RosterKey {
    RosterKey::User(UserName::parse("ann").unwrap())
}

fn channel(name: &str) -> RosterKey {
    RosterKey::Channel(ChannelName::parse(name).unwrap())
}

fn content(grace_ms: u64) -> Content {
    Content { grace_ms, since: 1, changed: 0, private: "{}".into(), payload: "shown".into() }
}

fn done(entry: &Entry) -> Outcome {
    let take = match entry.ask {
        Ask::Present { take, .. } => take,
        _ => 1,
    };
    Outcome::Done { take, number: 7, changed: 7, since: 1, record: None }
}

impl Scene {
    fn new() -> Self {
        Self::over(false)
    }

    fn over(apart: bool) -> Self {
        let (mut store, _) = Rigged::open("me");
        store.apart = apart;
        let ledger = Ledger::new(Arc::new(store));
        let connection = ConnectionId::from_bytes([1; 16]);
        let notices = Arc::new(Notices::default());
        let owner = ledger.open(&connection, &UserName::parse("ann").unwrap(), false, 1, 0, Some(notices.clone()));
        Self { ledger, connection, owner, notices, epoch: Epoch::new("e1"), now: 1_000 }
    }

    fn beat(&self) -> Beat {
        Beat { now: self.now, epoch: self.epoch.clone(), settling: false, next_due: None, tally: Tally::default() }
    }

    fn hold(&self, roster: &RosterKey, grace_ms: u64) -> oneshot::Receiver<Settlement> {
        self.ledger.hold(&self.connection, roster, content(grace_ms), 0)
    }

    /// One batch of each partition is sent, and answered as `answer` says; returns what was asked.
    fn round_with(&self, answer: impl Fn(&Entry) -> Outcome) -> Vec<Entry> {
        let mut all = Vec::new();
        for partition in 0..self.ledger.store.partitions() {
            let (entries, sent) = self.ledger.batch(partition, 100);
            let outcomes = entries.iter().map(&answer).collect();
            self.ledger.answered(&self.beat(), sent, outcomes);
            all.extend(entries);
        }
        all
    }

    fn round(&self) -> Vec<Entry> {
        self.round_with(done)
    }

    fn drain(&self) -> Vec<Entry> {
        let mut all = Vec::new();
        for _ in 0..20 {
            all.extend(self.round());
        }
        all
    }

    fn present(&self, rosters: &[RosterKey]) {
        for roster in rosters {
            drop(self.hold(roster, 15_000));
        }
        self.drain();
        assert!(self.is_settled());
    }

    fn is_settled(&self) -> bool {
        (0..self.ledger.store.partitions()).all(|partition| self.ledger.is_settled(partition))
    }

    fn reset(&mut self, reset: Reset, epoch: &str) {
        let last = self.epoch.clone();
        self.epoch = Epoch::new(epoch);
        for partition in 0..self.ledger.store.partitions() {
            self.ledger.registered(partition, &self.epoch);
            self.ledger.reset(partition, reset, Some((&last, self.now)));
        }
    }

    async fn hears(&self) -> Option<Notice> {
        tokio::time::timeout(std::time::Duration::from_millis(1), self.notices.next()).await.ok()
    }
}

const NEW_EPOCH: Reset = Reset { epoch: true, reborn: false };
const NEW_LINK: Reset = Reset { epoch: false, reborn: false };
const REBIRTH: Reset = Reset { epoch: false, reborn: true };

fn rosters(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| entry.roster.to_string()).collect()
}

#[tokio::test]
async fn the_users_row_goes_first_and_names_the_channel() {
    for apart in [false, true] {
        let scene = Scene::over(apart);
        let joined = scene.hold(&channel("a"), 15_000);
        drop(scene.hold(&user(), 15_000));
        let first = scene.round();
        assert_eq!(first[0].roster, user());
        let Ask::Present { body, fresh: true, take: 1, .. } = &first[0].ask else { panic!("{first:?}") };
        assert!(Whereabouts::from_json(&body.private).channels.contains("a"), "{}", body.private);
        scene.round();
        assert!(matches!(joined.await, Ok(Settlement::Done(version)) if version.number == 7));
        assert!(scene.is_settled());
    }
}

#[tokio::test]
async fn the_users_row_is_erased_last_in_whichever_partition_it_is() {
    for apart in [false, true] {
        let scene = Scene::over(apart);
        scene.present(&[user(), channel("a"), channel("b")]);
        scene.ledger.leave_all(&scene.connection, scene.owner, Reason::Left);
        let asked = scene.drain();
        let gone: Vec<_> = asked.iter().filter(|entry| matches!(entry.ask, Ask::Absent { .. })).cloned().collect();
        assert_eq!(rosters(&gone), ["c:a", "c:b", "u:ann"], "apart: {apart}");
        assert!(scene.is_settled());
        assert_eq!(scene.ledger.len(), 0);
    }
}

#[tokio::test]
async fn what_is_wanted_again_while_it_is_being_removed_begins_anew() {
    let scene = Scene::new();
    scene.present(&[user(), channel("a")]);
    let left = scene.ledger.leave(&scene.connection, &channel("a"), Reason::Left);
    let (entries, sent) = scene.ledger.batch(0, 100);
    assert!(entries.iter().any(|entry| matches!(entry.ask, Ask::Absent { .. })));
    let joined = scene.hold(&channel("a"), 15_000);
    let outcomes = entries.iter().map(done).collect();
    scene.ledger.answered(&scene.beat(), sent, outcomes);
    assert!(matches!(left.await, Ok(Settlement::Done(_))));
    let asked = scene.drain();
    let again = asked.iter().find(|entry| entry.roster == channel("a")).expect("it is sent");
    assert!(matches!(again.ask, Ask::Present { fresh: true, .. }), "{again:?}");
    assert!(matches!(joined.await, Ok(Settlement::Done(_))));
}

#[tokio::test]
async fn an_answer_from_before_a_new_epoch_does_not_count_in_it() {
    let mut scene = Scene::new();
    drop(scene.hold(&user(), 15_000));
    let (entries, sent) = scene.ledger.batch(0, 100);
    let (before, outcomes) = (scene.beat(), entries.iter().map(done).collect());
    scene.reset(NEW_EPOCH, "e2");
    scene.ledger.answered(&before, sent, outcomes);
    assert!(!scene.is_settled());
    let again = scene.round();
    assert!(matches!(again[..], [Entry { ask: Ask::Present { fresh: true, .. }, .. }]), "{again:?}");
    assert!(scene.is_settled());
}

#[tokio::test]
async fn a_failed_batch_is_sent_again() {
    let scene = Scene::new();
    drop(scene.hold(&user(), 15_000));
    let (_, sent) = scene.ledger.batch(0, 100);
    assert!(!scene.is_settled());
    scene.ledger.failed(sent);
    assert_eq!(rosters(&scene.round()), ["u:ann"]);
    assert!(scene.is_settled());
}

#[tokio::test]
async fn an_outage_does_not_gather_those_who_came_and_gave_up() {
    let scene = Scene::new();
    drop(scene.hold(&user(), 15_000));
    drop(scene.hold(&channel("a"), 15_000));
    scene.ledger.leave_all(&scene.connection, scene.owner, Reason::Left);
    scene.ledger.detach(&scene.connection, scene.owner);
    assert_eq!(scene.ledger.len(), 0);
    assert!(scene.is_settled());
    assert!(scene.round().is_empty());
}

#[tokio::test]
async fn a_join_that_was_given_up_unsent_never_happens() {
    let scene = Scene::new();
    scene.present(&[user()]);
    let joined = scene.hold(&channel("a"), 15_000);
    drop(scene.ledger.leave(&scene.connection, &channel("a"), Reason::Left));
    assert_eq!(joined.await, Ok(Settlement::Lost));
    assert!(scene.drain().iter().all(|entry| entry.roster == user()));
    assert!(scene.is_settled());
}

#[tokio::test]
async fn a_new_epoch_sends_everything_and_graces_go_on_where_they_were() {
    let mut scene = Scene::new();
    scene.present(&[user(), channel("a")]);
    scene.ledger.broke(&scene.connection, scene.owner);
    scene.drain();
    scene.now += 4_000;
    scene.reset(NEW_EPOCH, "e2");
    let asked = scene.drain();
    assert_eq!(asked.len(), 2, "{asked:?}");
    for entry in asked {
        let Ask::Present { fresh, keep, .. } = entry.ask else { panic!("{entry:?}") };
        assert!(fresh);
        assert_eq!(keep, Keep::Ending { remaining_ms: 11_000 });
    }
}

#[tokio::test]
async fn a_new_link_sends_everything_again_but_makes_no_rows() {
    let mut scene = Scene::new();
    scene.present(&[user(), channel("a")]);
    scene.reset(NEW_LINK, "e1");
    let asked = scene.drain();
    assert_eq!(rosters(&asked), ["u:ann", "c:a"]);
    assert!(asked.iter().all(|entry| matches!(entry.ask, Ask::Present { fresh: false, take: 1, .. })), "{asked:?}");
}

#[tokio::test]
async fn a_reborn_instance_offers_a_connection_with_a_new_take_once_its_socket_has_spoken() {
    let mut scene = Scene::new();
    scene.present(&[user(), channel("a")]);
    scene.reset(REBIRTH, "e1");
    assert_eq!(scene.hears().await, Some(Notice::Prove));
    assert!(scene.drain().is_empty());
    scene.ledger.prove(&scene.connection);
    let asked = scene.drain();
    assert_eq!(rosters(&asked), ["u:ann", "c:a"]);
    assert!(asked.iter().all(|entry| matches!(entry.ask, Ask::Present { fresh: true, take: 2, .. })), "{asked:?}");
    assert!(scene.is_settled());
}

#[tokio::test]
async fn whoever_says_hello_during_a_rebirth_needs_no_proof() {
    let mut scene = Scene::new();
    let hello = scene.hold(&user(), 15_000);
    scene.reset(REBIRTH, "e1");
    scene.drain();
    assert!(matches!(hello.await, Ok(Settlement::Done(_))));
}

#[tokio::test]
async fn a_proof_does_not_end_the_resume_token_that_the_client_has() {
    let mut scene = Scene::new();
    scene.present(&[user()]);
    scene.reset(REBIRTH, "e1");
    scene.ledger.prove(&scene.connection);
    scene.drain();
    scene.ledger.confirm(&scene.connection, scene.owner);
    let asked = scene.drain();
    let Ask::Present { take: 2, body, .. } = &asked[0].ask else { panic!("{asked:?}") };
    assert_eq!(body.valid, 1, "the token names take 1");
}

#[tokio::test]
async fn a_release_is_not_carried_out_when_the_row_has_come_to_be_known() {
    let scene = Scene::new();
    let release = Entry { roster: user(), connection: scene.connection.clone(), ask: Ask::Release };
    let answer = scene.ledger.ask(release).unwrap();
    drop(scene.hold(&user(), 15_000));
    let asked = scene.drain();
    assert!(asked.iter().all(|entry| entry.ask != Ask::Release), "{asked:?}");
    assert!(answer.await.is_err());
}

#[tokio::test]
async fn a_claim_that_nobody_waits_for_any_more_is_released() {
    let scene = Scene::new();
    let claim = Entry { roster: user(), connection: scene.connection.clone(), ask: Ask::Claim { token_take: 1 } };
    let answer = scene.ledger.ask(claim).unwrap();
    let (entries, sent) = scene.ledger.batch(0, 100);
    assert_eq!(entries.len(), 1);
    drop(answer);
    let row = Row {
        user: UserName::parse("ann").unwrap(),
        take: 2,
        valid: 0,
        stay: Stay::Ending { reason: Reason::Timeout, by: "other".into() },
        epoch: scene.epoch.clone(),
        grace_ms: 15_000,
        since: 1,
        changed: 1,
        private: "{}".into(),
        payload: "{}".into(),
    };
    scene.ledger.answered(&scene.beat(), sent, vec![Outcome::Claimed { row: Box::new(row), record: None }]);
    let asked = scene.round();
    assert!(matches!(asked[..], [Entry { ask: Ask::Release, .. }]), "{asked:?}");
}

#[tokio::test]
async fn a_question_whose_asker_gave_up_is_not_asked() {
    let scene = Scene::new();
    let entry = Entry { roster: user(), connection: scene.connection.clone(), ask: Ask::Claim { token_take: 1 } };
    drop(scene.ledger.ask(entry).unwrap());
    assert!(scene.round().is_empty());
}

#[tokio::test]
async fn those_who_wait_for_an_answer_have_their_turn_while_everything_is_sent_again() {
    let scene = Scene::new();
    for number in 0..200 {
        drop(scene.hold(&channel(&format!("a{number}")), 15_000));
    }
    let entry = Entry { roster: user(), connection: scene.connection.clone(), ask: Ask::Claim { token_take: 1 } };
    let _answer = scene.ledger.ask(entry).unwrap();
    let (entries, _) = scene.ledger.batch(0, 100);
    assert!(entries.iter().any(|entry| matches!(entry.ask, Ask::Claim { .. })));
    assert_eq!(entries.len(), 100);
}

#[tokio::test]
async fn a_lost_take_ends_the_session_and_lets_go_of_what_was_written_beside_it() {
    let scene = Scene::new();
    scene.present(&[user()]);
    drop(scene.hold(&channel("a"), 15_000));
    let lost = |entry: &Entry| if entry.roster == user() { Outcome::Lost } else { done(entry) };
    assert_eq!(rosters(&scene.round_with(lost)), ["u:ann", "c:a"]);
    assert_eq!(scene.hears().await, Some(Notice::Ended(Reason::Replaced)));
    assert_eq!(scene.ledger.len(), 0);
    let asked = scene.drain();
    assert!(asked.iter().any(|entry| entry.roster == channel("a") && entry.ask == Ask::Release), "{asked:?}");
    assert!(scene.is_settled());
}

#[tokio::test]
async fn what_somebody_else_ended_is_told_once_and_not_held_again() {
    let scene = Scene::new();
    scene.present(&[user(), channel("a"), channel("b")]);
    let overruled = |roster: &RosterKey, reason| scene.ledger.overruled(&scene.connection, roster, 1, reason);
    // Under a living socket the lease ran out: the rebirth offers it again.
    overruled(&channel("a"), Reason::InstanceLost);
    assert_eq!(scene.hears().await, None);
    assert!(scene.ledger.may_hold(&scene.connection, &channel("a")));

    overruled(&channel("a"), Reason::Kicked);
    assert!(matches!(scene.hears().await, Some(Notice::Left(_, Reason::Kicked))));
    assert!(!scene.ledger.may_hold(&scene.connection, &channel("a")));

    overruled(&user(), Reason::Kicked);
    assert_eq!(scene.hears().await, Some(Notice::Ended(Reason::Kicked)));
    let shown = scene.ledger.show(&scene.connection, &channel("b"), "again".into());
    assert_eq!(shown.await, Ok(Settlement::Lost));
    let asked = scene.drain();
    assert!(asked.iter().any(|entry| entry.roster == channel("b") && matches!(entry.ask, Ask::Absent { .. })));
    assert_eq!(scene.ledger.len(), 0);
}

#[tokio::test]
async fn an_older_take_overrules_nothing() {
    let mut scene = Scene::new();
    scene.present(&[user()]);
    scene.reset(REBIRTH, "e1");
    scene.ledger.prove(&scene.connection);
    scene.drain();
    scene.ledger.overruled(&scene.connection, &user(), 1, Reason::Kicked);
    assert!(scene.ledger.may_hold(&scene.connection, &user()));
}

fn lease(scene: &Scene, take: u64, beat: &Beat, is_renewal: bool) {
    let rows = [user(), channel("a")].map(|roster| (roster, content(60_000), beat.clone()));
    let name = UserName::parse("ann").unwrap();
    scene.ledger.remember_lease(&ConnectionId::from_bytes([9; 16]), &name, take, rows, 60_000, is_renewal);
}

#[tokio::test]
async fn a_lease_that_was_accepted_in_an_epoch_that_is_over_is_sent_in_the_new_one() {
    let mut scene = Scene::new();
    let before = scene.beat();
    scene.reset(NEW_EPOCH, "e2");
    lease(&scene, 3, &before, false);
    assert!(!scene.is_settled());
    let asked = scene.drain();
    assert_eq!(rosters(&asked), ["u:ann", "c:a"]);
    assert!(asked.iter().all(|entry| matches!(entry.ask, Ask::Present { fresh: true, take: 3, .. })), "{asked:?}");
}

#[tokio::test]
async fn the_later_renewal_of_a_lease_counts_and_a_lease_that_ended_is_forgotten() {
    let mut scene = Scene::over(true);
    lease(&scene, 3, &scene.beat(), false);
    lease(&scene, 2, &scene.beat(), true);
    assert_eq!(scene.ledger.lock().accounts[&ConnectionId::from_bytes([9; 16])].take, 3);
    scene.now += 60_000;
    let count = scene.ledger.len();
    for partition in [0, 1] {
        scene.ledger.drop_ended(partition, &scene.beat(), 1_000);
    }
    assert_eq!(scene.ledger.len(), count, "some slack is given");
    scene.now += 1_001;
    for partition in [0, 1] {
        scene.ledger.drop_ended(partition, &scene.beat(), 1_000);
    }
    assert_eq!(scene.ledger.len(), count - 1);
}

#[tokio::test]
async fn what_the_stores_list_lacks_is_sent_again() {
    let scene = Scene::new();
    scene.present(&[user(), channel("a")]);
    let held = [(user(), scene.connection.clone())].into();
    scene.ledger.resend_missing(0, &held);
    assert!(!scene.is_settled());
    assert_eq!(rosters(&scene.drain()), ["c:a"]);
    assert!(scene.is_settled());
}

#[tokio::test]
async fn of_two_resumes_the_higher_take_has_the_connection_whichever_comes_last() {
    let scene = Scene::new();
    let name = UserName::parse("ann").unwrap();
    let open = |take| {
        let notices = Arc::new(Notices::default());
        scene.ledger.open(&scene.connection, &name, false, take, 0, Some(notices.clone()));
        notices
    };
    let later = open(3);
    assert_eq!(scene.hears().await, Some(Notice::Ended(Reason::Replaced)));
    let earlier = open(2);
    assert!(earlier.is_over());
    assert!(!later.is_over());
    assert_eq!(scene.ledger.lock().accounts[&scene.connection].take, 3);
}

#[tokio::test]
async fn an_instance_is_done_when_it_has_said_what_it_answered_for_though_others_come_all_the_time() {
    let mut scene = Scene::new();
    scene.present(&[user(), channel("a")]);
    scene.reset(NEW_EPOCH, "e2");
    assert!(!scene.ledger.is_done(0));
    // While it is on its way it changes, and somebody else comes.
    let (entries, sent) = scene.ledger.batch(0, 100);
    drop(scene.ledger.show(&scene.connection, &channel("a"), "other".into()));
    drop(scene.hold(&channel("b"), 15_000));
    let outcomes = entries.iter().map(done).collect();
    scene.ledger.answered(&scene.beat(), sent, outcomes);
    assert!(!scene.is_settled());
    assert!(scene.ledger.is_done(0));
}

#[tokio::test]
async fn who_has_left_a_moment_ago_is_said_to_have_left_in_a_new_epoch_too() {
    let mut scene = Scene::new();
    scene.present(&[user(), channel("a"), channel("b"), channel("c")]);
    drop(scene.ledger.leave(&scene.connection, &channel("a"), Reason::Left));
    scene.drain();
    for name in ["b", "c"] {
        drop(scene.ledger.leave(&scene.connection, &channel(name), Reason::Kicked));
    }
    scene.now += 1_000;
    scene.drain();
    // One has come back, under the same take: it is not sent away.
    scene.present(&[channel("b")]);
    scene.now += 59_500;
    scene.reset(NEW_EPOCH, "e2");
    let is_early = scene.drain().iter().any(|entry| matches!(entry.ask, Ask::Absent { .. }));
    assert!(!is_early, "whoever has come back elsewhere has not said so yet");
    // Another instance takes the connection over, and has not taken its places yet: who had come back is not sent away all the same.
    scene.ledger.overruled(&scene.connection, &user(), 1, Reason::Replaced);
    scene.ledger.settled(0);
    let again: Vec<Entry> = scene.drain().into_iter().filter(|entry| matches!(entry.ask, Ask::Absent { .. })).collect();
    assert_eq!(rosters(&again), ["c:c"], "the other leave is too long ago");
    assert_eq!(again[0].ask, Ask::Absent { take: Some(1), reason: Reason::Kicked });
    // And in the next one again.
    scene.reset(NEW_EPOCH, "e3");
    scene.ledger.settled(0);
    let again = scene.drain();
    assert!(again.iter().any(|entry| entry.ask == Ask::Absent { take: Some(1), reason: Reason::Kicked }), "{again:?}");
    scene.reset(NEW_LINK, "e3");
    scene.ledger.settled(0);
    assert!(scene.drain().iter().all(|entry| !matches!(entry.ask, Ask::Absent { .. })), "nothing is lost with a link");
}

#[tokio::test]
async fn who_breaks_when_somebody_has_the_connection_already_is_held_in_no_channel() {
    let scene = Scene::new();
    scene.present(&[user(), channel("a")]);
    scene.ledger.broke(&scene.connection, scene.owner);
    // The end of the place in the channel is refused too, and its row may still be held.
    let lost = |entry: &Entry| if entry.ask == Ask::Release { done(entry) } else { Outcome::Lost };
    assert_eq!(rosters(&scene.round_with(lost)), ["u:ann", "c:a"]);
    let asked = scene.drain();
    assert!(asked.iter().any(|entry| entry.roster == channel("a") && entry.ask == Ask::Release), "{asked:?}");
    assert_eq!(scene.ledger.len(), 0);
}

fn ask_of<'a>(entries: &'a [Entry], roster: &RosterKey) -> &'a Ask {
    &entries.iter().find(|entry| entry.roster == *roster).expect("it is asked for").ask
}

#[tokio::test]
async fn who_comes_again_after_a_leave_that_nobody_answered_may_have_left_already() {
    let mut scene = Scene::new();
    scene.present(&[user(), channel("a")]);
    drop(scene.ledger.leave(&scene.connection, &channel("a"), Reason::Left));
    let (_, sent) = scene.ledger.batch(0, 100);
    // Carried out or not: the link is lost before the answer.
    scene.ledger.failed(sent);
    scene.reset(NEW_LINK, "e1");
    let joined = scene.hold(&channel("a"), 15_000);
    let asked = scene.drain();
    assert!(matches!(ask_of(&asked, &channel("a")), Ask::Present { fresh: true, keep: Keep::Held, .. }), "{asked:?}");
    assert!(matches!(joined.await, Ok(Settlement::Done(_))));
}

#[tokio::test]
async fn what_had_ended_when_the_time_was_last_seen_does_not_begin_anew_in_a_new_epoch() {
    let mut scene = Scene::new();
    scene.present(&[user(), channel("a")]);
    scene.ledger.broke(&scene.connection, scene.owner);
    scene.drain();
    scene.now += 14_999;
    scene.reset(NEW_EPOCH, "e2");
    let asked = scene.drain();
    assert!(matches!(ask_of(&asked, &channel("a")), Ask::Present { keep: Keep::Ending { remaining_ms: 1 }, .. }));
    scene.now += 1;
    scene.reset(NEW_EPOCH, "e3");
    assert_eq!(scene.drain(), []);
    assert_eq!(scene.ledger.len(), 0);
}

#[tokio::test]
async fn a_join_that_was_on_its_way_when_its_client_came_back_is_let_go_of() {
    let scene = Scene::over(true);
    scene.present(&[user()]);
    drop(scene.hold(&channel("a"), 15_000));
    let (first, sent) = scene.ledger.batch(0, 100);
    scene.ledger.answered(&scene.beat(), sent, first.iter().map(done).collect());
    let (entries, sent) = scene.ledger.batch(1, 100);
    assert_eq!(rosters(&entries), ["c:a"]);
    // The resume has found no row of the channel yet.
    let notices = Some(Arc::new(Notices::default()));
    scene.ledger.open(&scene.connection, &UserName::parse("ann").unwrap(), false, 2, 0, notices);
    drop(scene.hold(&user(), 15_000));
    scene.ledger.answered(&scene.beat(), sent, entries.iter().map(done).collect());
    let asked = scene.drain();
    assert!(asked.iter().any(|entry| entry.roster == channel("a") && entry.ask == Ask::Release), "{asked:?}");
}

#[tokio::test]
async fn whom_others_took_or_ended_meanwhile_is_not_answered_for_any_more() {
    let scene = Scene::new();
    scene.present(&[user(), channel("a"), channel("b")]);
    assert_eq!(scene.ledger.ending(0, &scene.epoch), [], "a socket is here");
    scene.ledger.broke(&scene.connection, scene.owner);
    scene.drain();
    let mut ending: Vec<String> =
        scene.ledger.ending(0, &scene.epoch).iter().map(|((roster, _), take)| format!("{roster} {take}")).collect();
    ending.sort();
    assert_eq!(ending, ["c:a 1", "c:b 1", "u:ann 1"]);
    let ended = |roster: &RosterKey, take, epoch| {
        scene.ledger.ended_elsewhere(&scene.connection, roster, take, &Epoch::new(epoch));
    };
    ended(&channel("a"), 1, "e0");
    ended(&channel("a"), 0, "e1");
    assert_eq!(scene.ledger.ending(0, &scene.epoch).len(), 3, "another epoch or take is none of this");
    ended(&channel("a"), 1, "e1");
    let asked = scene.drain();
    let Ask::Present { body, .. } = ask_of(&asked, &user()) else { panic!("{asked:?}") };
    assert!(!Whereabouts::from_json(&body.private).channels.contains("a"), "the user's row forgets it");
    ended(&user(), 1, "e1");
    assert_eq!(scene.ledger.len(), 0);
}

#[tokio::test]
async fn who_comes_where_the_take_had_ended_comes_with_a_new_one_but_not_by_a_resend() {
    let gone_at_first = |entry: &Entry| match &entry.ask {
        Ask::Present { take: 1, .. } if entry.roster == channel("a") => Outcome::Gone,
        _ => done(entry),
    };
    let mut scene = Scene::new();
    scene.present(&[user()]);
    let joined = scene.hold(&channel("a"), 15_000);
    (0..5).for_each(|_| drop(scene.round_with(gone_at_first)));
    assert!(matches!(joined.await, Ok(Settlement::Done(_))));
    assert_eq!(scene.hears().await, None);

    let joined = scene.hold(&channel("b"), 15_000);
    let (_, sent) = scene.ledger.batch(0, 100);
    scene.ledger.failed(sent);
    scene.reset(NEW_LINK, "e1");
    let gone = |entry: &Entry| if entry.roster == channel("b") { Outcome::Gone } else { done(entry) };
    (0..5).for_each(|_| drop(scene.round_with(gone)));
    assert_eq!(joined.await, Ok(Settlement::Lost), "it may have been there, and somebody has ended it");
}

#[tokio::test]
async fn a_claim_belongs_to_the_epoch_in_which_it_was_found_that_there_is_something_to_claim() {
    let mut scene = Scene::new();
    scene.ledger.registered(0, &scene.epoch);
    let claim = || Entry { roster: user(), connection: scene.connection.clone(), ask: Ask::Claim { token_take: 1 } };
    let (epoch, claim) = (scene.epoch.clone(), claim());
    let mut waiting = scene.ledger.ask_in(claim.clone(), &epoch).expect("it is the epoch of now");
    // In the next one the row may not have been confirmed yet: what waited is not asked, nor what comes too late.
    scene.reset(NEW_EPOCH, "e2");
    assert!(scene.drain().is_empty());
    assert!(waiting.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
    assert!(scene.ledger.ask_in(claim.clone(), &epoch).is_none());
    assert!(scene.ledger.ask_in(claim, &scene.epoch).is_some());
}
