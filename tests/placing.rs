//! Channels that are joined by the server: those of the token, and those that app servers ask for. On two instances.

mod harness;

use std::time::Duration;

use harness::{Client, DEADLINE, Level, Pair, eventually, token};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

async fn welcome(client: &Client, token: &str) -> Value {
    client.hello(token).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_channels_of_a_token_are_joined_with_the_hello_and_need_no_capability() {
    let pair = Pair::start(&[("ROLLCALL__LIMITS__MEMBERS_PER_CHANNEL", "1")]).await;
    let (one, two) = (&pair.one, &pair.two);
    let watcher = Client::hello_as(&two.url(), "watcher").await;
    watcher.watch("team:7", Level::Users).await.unwrap();
    Client::hello_as(&two.url(), "full").await;
    let put = two.rest().put("/v1/channels/full/members/somebody", json!({"ttl_ms": 600_000})).await;
    assert_eq!(put.status, 204);
    let claims =
        json!({"can": {"join": ["room:*"]}, "channels": ["team:7", "team:7", "full", "lobby"], "info": {"n": 1}});
    let ann = Client::connect(&one.url()).await;
    let said = welcome(&ann, &token("ann", claims.clone())).await;
    assert_eq!(said["channels"], json!(["lobby", "team:7"]), "all but the one that is full");
    watcher.until("ann is there", |watcher| watcher.users("team:7") == ["ann"]).await;
    let member = watcher.member("team:7", "ann");
    assert_eq!((&member["state"], &member["info"]), (&json!({}), &json!({"n": 1})));
    // It is a channel like any other.
    ann.update("team:7", json!({"mood": "well"})).await.unwrap();
    ann.leave("lobby").await.unwrap();
    assert_eq!(ann.join("lobby", json!({})).await.unwrap_err().code, "forbidden");
    ann.drop_socket().await;
    // Whoever comes back is where it was, as it was, and where the token wants it.
    let again = Client::connect(&two.url()).await;
    let said = again.hello_resume(&token("ann", claims.clone()), &ann.resume_token()).await.unwrap();
    assert_eq!((&said["resumed"], &said["channels"]), (&json!(true), &json!(["lobby", "team:7"])));
    watcher
        .until("the state is kept", |watcher| watcher.member("team:7", "ann")["state"] == json!({"mood": "well"}))
        .await;
    assert!(watcher.changes("team:7", "leave").is_empty());
    let only_watches = Client::connect(&two.url()).await;
    let hello = json!({"op": "hello", "token": token("zoe", claims), "present": false});
    assert_eq!(only_watches.op(hello).await.unwrap()["channels"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_server_has_all_connections_of_a_user_join_and_takes_them_out_again() {
    let pair = Pair::start(&[]).await;
    let (one, two) = (&pair.one, &pair.two);
    let watcher = Client::hello_as(&two.url(), "watcher").await;
    watcher.watch("team:7", Level::Users).await.unwrap();
    let strict = token("ann", json!({"can": {}}));
    let devices = [Client::connect(&one.url()).await, Client::connect(&two.url()).await];
    for device in &devices {
        device.hello(&strict).await.unwrap();
    }
    let reader = Client::connect(&one.url()).await;
    reader.op(json!({"op": "hello", "token": strict, "present": false})).await.unwrap();
    let path = "/v1/users/ann/channels/team:7";
    let (first, second) = (one.rest(), two.rest());
    assert_eq!(first.post(path, json!({"state": {"role": "host", "tags": []}})).await.ok(), json!({"connections": 2}));
    // The store shows it, to every instance.
    let channel = second.get("/v1/channels/team:7").await.ok();
    assert_eq!(channel["occupancy"], json!({"users": 1, "connections": 2}));
    for device in &devices {
        device.until("it is told", |device| device.events("joined").len() == 1).await;
        let told = &device.events("joined")[0].frame;
        assert_eq!((&told["channel"], &told["epoch"]), (&json!("team:7"), &channel["epoch"]));
        assert!(told["version"].as_u64().is_some_and(|version| (1..=2).contains(&version)), "{told}");
    }
    watcher.until("both", |watcher| watcher.member("team:7", "ann")["connections"] == 2).await;
    assert_eq!(watcher.member("team:7", "ann")["state"], json!({"role": "host", "tags": []}));

    // Asked again it changes nothing; but a state replaces theirs.
    let version = channel["version"].clone();
    assert_eq!(second.post(path, json!({})).await.ok(), json!({"connections": 2}));
    assert_eq!(second.post(path, json!({"state": {"role": "host", "tags": []}})).await.ok(), json!({"connections": 2}));
    assert_eq!(first.get("/v1/channels/team:7").await.ok()["version"], version);
    assert_eq!(second.post(path, json!({"state": {"role": "guest"}})).await.ok(), json!({"connections": 2}));
    watcher
        .until("the new state", |watcher| watcher.member("team:7", "ann")["state"] == json!({"role": "guest"}))
        .await;
    devices[0].update("team:7", json!({"mine": true})).await.expect("what is joined may be updated");

    // Presence on her behalf is another matter, and stays.
    assert_eq!(first.put("/v1/channels/team:7/members/ann", json!({"ttl_ms": 600_000})).await.status, 204);
    let out = async || second.request("DELETE", path, &[], None).await.unwrap().ok();
    assert_eq!(out().await, json!({"connections": 2}));
    for device in &devices {
        device.until("it is told", |device| device.events("left").len() == 1).await;
        let left = json!({"event": "left", "channel": "team:7", "reason": "kicked"});
        assert_eq!(device.events("left")[0].frame, left);
        assert_eq!(device.update("team:7", json!({})).await.unwrap_err().code, "conflict");
    }
    assert_eq!(out().await, json!({"connections": 0}));
    watcher.until("the lease is left", |watcher| watcher.member("team:7", "ann")["connections"] == 1).await;
    assert!(watcher.changes("team:7", "leave").is_empty());
    assert!(devices.iter().all(|device| device.closed().is_none()));
    assert!(reader.events("joined").is_empty() && reader.closed().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_offline_or_may_not_be_there_is_not_placed() {
    let limits = [("ROLLCALL__LIMITS__MEMBERS_PER_CHANNEL", "1"), ("ROLLCALL__LIMITS__CHANNELS_PER_CONNECTION", "2")];
    let pair = Pair::start(&limits).await;
    let (one, two) = (&pair.one, &pair.two);
    let rest = two.rest();
    assert_eq!(rest.post("/v1/users/ann/channels/room:1", json!({})).await.ok(), json!({"connections": 0}));
    assert_eq!(rest.delete("/v1/users/ann/channels/room:1").await.ok(), json!({"connections": 0}));
    let ann = Client::hello_as(&one.url(), "ann").await;
    ann.join("a", json!({})).await.unwrap();
    Client::hello_as(&one.url(), "ben").await;
    assert_eq!(rest.put("/v1/channels/full/members/ben", json!({"ttl_ms": 600_000})).await.status, 204);
    let refused = async |path: &str, body: Value| {
        let answer = rest.post(path, body).await;
        (answer.status, answer.body["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(refused("/v1/users/ann/channels/full", json!({})).await, (409, "limit".to_owned()));
    ann.join("b", json!({})).await.unwrap();
    assert_eq!(refused("/v1/users/ann/channels/c", json!({})).await, (409, "limit".to_owned()));
    // Where she is already there is room.
    assert_eq!(rest.post("/v1/users/ann/channels/a", json!({"state": {"n": 1}})).await.ok(), json!({"connections": 1}));
    let large = json!({"state": {"a": "x".repeat(5_000)}});
    assert_eq!(refused("/v1/users/ann/channels/a", large).await, (413, "too_large".to_owned()));
    for (path, body) in [
        ("/v1/users/ann/channels/a", json!({"state": 1})),
        ("/v1/users/ann/channels/a", json!({"state": []})),
        ("/v1/users/ann/channels/a", json!({"colour": "red"})),
        ("/v1/users/ann/channels/a", json!([])),
        ("/v1/users/ann/channels/a?now=1", json!({})),
        ("/v1/users/a%20b/channels/a", json!({})),
        ("/v1/users/ann/channels/%2A", json!({})),
        ("/v1/users/ann/channels/%ff", json!({})),
    ] {
        assert_eq!(refused(path, body).await.0, 400, "{path}");
    }
    assert_eq!(rest.get("/v1/users/ann/channels/a").await.status, 405);
    assert_eq!(rest.delete("/v1/users/a%20b/channels/a").await.status, 400);
    one.assert_no_panic();
    two.assert_no_panic();
}

/// A client that does not read is heard of by others all the same, and reads it when it reads again.
#[tokio::test(flavor = "multi_thread")]
async fn many_channels_at_once_are_joined_one_after_the_other() {
    let pair = Pair::start(&[]).await;
    let (one, two) = (&pair.one, &pair.two);
    let ann = Client::hello_as(&one.url(), "ann").await;
    let rest = two.rest();
    let paths: Vec<String> = (0..12).map(|n| format!("/v1/users/ann/channels/room:{n}")).collect();
    let answers = futures_util::future::join_all(paths.iter().map(async |path| rest.post(path, json!({})).await.ok()));
    assert!(answers.await.iter().all(|answer| *answer == json!({"connections": 1})));
    ann.until("all are told", |ann| ann.events("joined").len() == 12).await;
    assert_eq!(rest.get("/v1/users/ann").await.ok()["channels"].as_array().unwrap().len(), 12);
    let answers = futures_util::future::join_all(paths.iter().map(async |path| rest.delete(path).await.ok()));
    assert!(answers.await.iter().all(|answer| *answer == json!({"connections": 1})));
    ann.until("all are told", |ann| ann.events("left").len() == 12).await;
    eventually(DEADLINE, async || rest.get("/v1/users/ann").await.ok()["channels"] == json!([])).await;
    assert!(!ann.within(SECOND / 10, |ann| ann.closed().is_some()).await);
}
