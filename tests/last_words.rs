//! Last words: what a connection wants to be shown of it when it goes without a goodbye. On two instances.

mod harness;

use harness::{Client, DEADLINE, Instance, Level, Pair, Redis, token};
use serde_json::{Value, json};

const GRACE: (&str, &str) = ("ROLLCALL__PRESENCE__GRACE_MS", "800");
const ROOM: &str = "room:1";

async fn join(client: &Client, state: Value, on_leave: Value) -> Value {
    client.op(json!({"op": "join", "channel": ROOM, "state": state, "on_leave": on_leave})).await.unwrap()
}

async fn watching(at: &Instance, user: &str, level: Level) -> Client {
    let client = Client::hello_as(&at.url(), user).await;
    client.watch(ROOM, level).await.unwrap();
    client.until("the snapshot", |client| client.snapshots(ROOM) == [1]).await;
    client
}

/// Reason and state of each leave that a watcher was told.
fn leaves(watcher: &Client) -> Vec<(String, Value)> {
    let leave = |change: harness::Received| {
        (change.frame["reason"].as_str().unwrap().to_owned(), change.frame["state"].clone())
    };
    watcher.changes(ROOM, "leave").into_iter().map(leave).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_without_a_goodbye_is_shown_with_the_last_words_and_who_says_goodbye_is_not() {
    let pair = Pair::start(&[GRACE]).await;
    let by_user = watching(&pair.two, "by-user", Level::Users).await;
    let by_connection = watching(&pair.one, "by-connection", Level::Connections).await;
    let ann = Client::hello_as(&pair.one.url(), "ann").await;
    let words = json!({"mood": null, "gone": {"why": "lost"}});
    join(&ann, json!({"mood": "well", "n": 1}), words).await;
    by_user.until("ann is there", |watcher| watcher.sees(ROOM, "ann")).await;
    let member = by_user.member(ROOM, "ann");
    assert_eq!((&member["state"], member.get("on_leave")), (&json!({"mood": "well", "n": 1}), None));
    // What changes the state leaves them as they are.
    ann.update(ROOM, json!({"n": 2})).await.unwrap();
    ann.drop_socket().await;
    for watcher in [&by_user, &by_connection] {
        watcher.until("ann has gone", |watcher| leaves(watcher).len() == 1).await;
        assert_eq!(leaves(watcher), [("timeout".to_owned(), json!({"n": 2, "gone": {"why": "lost"}}))]);
    }

    // Whoever comes and goes between two ticks is told of to nobody.
    let both_see = async |user: &'static str| {
        for watcher in [&by_user, &by_connection] {
            watcher
                .until("somebody is there", |watcher| {
                    watcher.changes(ROOM, "join").iter().any(|change| change.frame["user"] == user)
                })
                .await;
        }
    };
    let ben = Client::hello_as(&pair.one.url(), "ben").await;
    join(&ben, json!({"n": 1}), json!({"gone": true})).await;
    both_see("ben").await;
    ben.leave(ROOM).await.unwrap();
    let zoe = Client::hello_as(&pair.two.url(), "zoe").await;
    join(&zoe, json!({"n": 1}), json!({"gone": true})).await;
    both_see("zoe").await;
    zoe.bye().await.unwrap();
    for watcher in [&by_user, &by_connection] {
        watcher.until("both have gone", |watcher| leaves(watcher).len() == 3).await;
        for (reason, state) in leaves(watcher).into_iter().skip(1) {
            assert_eq!((reason.as_str(), state), ("left", json!({"n": 1})));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn last_words_survive_a_resume_and_the_death_of_the_instance() {
    let mut pair = Pair::start(&[GRACE]).await;
    let far = watching(&pair.two, "far", Level::Users).await;
    let ann = Client::hello_as(&pair.two.url(), "ann").await;
    join(&ann, json!({"n": 1}), json!({"gone": "lost"})).await;
    let ann = ann.resume_on(&pair.one.url(), &token("ann", json!({}))).await;
    assert_eq!(ann.welcome()["resumed"], true);
    // A state that is changed on the other instance has to bring them along.
    ann.update(ROOM, json!({"n": 2})).await.unwrap();
    far.until("the change", |far| far.member(ROOM, "ann")["state"]["n"] == 2).await;
    pair.one.kill();
    far.until("ann has gone", |far| leaves(far).len() == 1).await;
    assert_eq!(leaves(&far), [("instance_lost".to_owned(), json!({"n": 2, "gone": "lost"}))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_join_replaces_them_and_nobody_sees_that_it_does() {
    let pair = Pair::start(&[GRACE]).await;
    let far = watching(&pair.two, "far", Level::Connections).await;
    let users = watching(&pair.one, "users", Level::Users).await;
    let laptop = Client::hello_as(&pair.one.url(), "ann").await;
    join(&laptop, json!({"on": "laptop"}), json!({"gone": "first"})).await;
    let phone = Client::hello_as(&pair.two.url(), "ann").await;
    join(&phone, json!({"on": "phone"}), json!({})).await;
    users.until("the phone", |users| users.member(ROOM, "ann")["state"]["on"] == "phone").await;
    far.until("both devices", |far| far.view(ROOM).unwrap().members().len() == 2).await;
    let seen = |watcher: &Client| ["join", "update", "leave"].map(|list| watcher.changes(ROOM, list).len());
    let before = (seen(&far), seen(&users));
    join(&laptop, json!({"on": "laptop"}), json!({"gone": "second"})).await;
    // Whatever the join has changed has come before this.
    let mark = Client::hello_as(&pair.one.url(), "mark").await;
    mark.join(ROOM, json!({})).await.unwrap();
    for watcher in [&far, &users] {
        watcher
            .until("the mark", |watcher| {
                watcher.changes(ROOM, "join").iter().any(|change| change.frame["user"] == "mark")
            })
            .await;
    }
    let one_more = |[join, update, leave]: [usize; 3]| [join + 1, update, leave];
    assert_eq!((seen(&far), seen(&users)), (one_more(before.0), one_more(before.1)));
    assert_eq!(users.member(ROOM, "ann")["state"]["on"], "phone", "the latest state is still the phone's");

    phone.leave(ROOM).await.unwrap();
    laptop.drop_socket().await;
    users.until("ann has gone", |users| leaves(users).len() == 1).await;
    assert_eq!(leaves(&users), [("timeout".to_owned(), json!({"on": "laptop", "gone": "second"}))]);

    // Without any the second join takes them back.
    let ben = Client::hello_as(&pair.one.url(), "ben").await;
    join(&ben, json!({"n": 1}), json!({"gone": true})).await;
    ben.join(ROOM, json!({"n": 1})).await.unwrap();
    ben.drop_socket().await;
    users.until("ben has gone", |users| leaves(users).len() == 2).await;
    assert_eq!(leaves(&users)[1], ("timeout".to_owned(), json!({"n": 1})));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_devices_the_one_that_leaves_last_has_the_last_word() {
    let pair = Pair::start(&[GRACE]).await;
    let far = watching(&pair.two, "far", Level::Users).await;
    let laptop = Client::hello_as(&pair.one.url(), "ann").await;
    join(&laptop, json!({"on": "laptop"}), json!({"gone": "laptop"})).await;
    let phone = Client::hello_as(&pair.two.url(), "ann").await;
    join(&phone, json!({"on": "phone"}), json!({"gone": "phone"})).await;
    far.until("both", |far| far.member(ROOM, "ann")["connections"] == 2).await;
    phone.drop_socket().await;
    far.until("the laptop alone", |far| far.member(ROOM, "ann")["connections"] == 1).await;
    assert_eq!(far.member(ROOM, "ann")["state"], json!({"on": "laptop"}), "one device that goes is no leave");
    laptop.drop_socket().await;
    far.until("ann has gone", |far| leaves(far).len() == 1).await;
    assert_eq!(leaves(&far), [("timeout".to_owned(), json!({"on": "laptop", "gone": "laptop"}))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_is_no_goodbye() {
    let pair = Pair::start(&[GRACE]).await;
    let far = watching(&pair.two, "far", Level::Users).await;
    let ann = Client::connect(&pair.one.url()).await;
    // Tokens may be off by five seconds.
    ann.hello(&token("ann", json!({"exp": harness::token::now_s() - 3}))).await.unwrap();
    join(&ann, json!({"n": 1}), json!({"gone": true})).await;
    assert_eq!(ann.until_closed(DEADLINE).await.code, 4003);
    far.until("ann has gone", |far| leaves(far).len() == 1).await;
    assert_eq!(leaves(&far), [("expired".to_owned(), json!({"n": 1, "gone": true}))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn last_words_are_bounded_as_states_are_and_refused_where_clients_give_none() {
    let redis = Redis::start().await;
    let config = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(config.path(), "[[namespace]]\nmatch = 'mute:**'\nclient_state = false\n").unwrap();
    let at = Instance::start_with(&["--config", config.path().to_str().unwrap()], &redis.space()).await;
    at.ready().await;
    let ann = Client::hello_as(&at.url(), "ann").await;
    let join = |channel: &str, on_leave: Value| {
        let operation = json!({"op": "join", "channel": channel, "on_leave": on_leave});
        let ann = &ann;
        async move { ann.op(operation).await.map_err(|error| error.code) }
    };
    assert_eq!(join("a", json!({"blob": "x".repeat(5_000)})).await.unwrap_err(), "too_large");
    let deep = (0..70).fold(json!(1), |inner, _| json!({ "a": inner }));
    assert_eq!(join("a", deep).await.unwrap_err(), "bad_request");
    for wrong in [json!([]), json!("gone"), json!(1), json!(null)] {
        assert_eq!(join("a", wrong).await.unwrap_err(), "bad_request");
    }
    assert_eq!(at.rest().users_in("a").await, Vec::<String>::new(), "nothing of it has happened");
    assert_eq!(join("mute:1", json!({"gone": true})).await.unwrap_err(), "forbidden");
    assert!(join("mute:1", json!({})).await.is_ok(), "an empty patch is none");
    assert!(join("a", json!({"blob": "x".repeat(4_000)})).await.is_ok());
}
