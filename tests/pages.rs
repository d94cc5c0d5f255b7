//! A client asks who is in a channel, page by page: the same pages as REST has, on whichever instance.

mod harness;

use std::time::Duration;

use futures_util::future::join_all;
use harness::{Client, Instance, Level, Redis, Rest, eventually, segment, token};
use serde_json::{Value, json};

async fn fill(rest: &Rest, channel: &str, users: impl Iterator<Item = usize>) {
    let users: Vec<usize> = users.collect();
    for some in users.chunks(50) {
        let puts = some.iter().map(async |number| {
            let path = format!("/v1/channels/{}/members/user-{number:04}", segment(channel));
            rest.put(&path, json!({"state": {"number": number}, "ttl_ms": 120_000})).await.status
        });
        assert!(join_all(puts).await.iter().all(|status| *status == 204));
    }
}

fn names(page: &Value) -> Vec<String> {
    let members = page["members"].as_array().expect("a page has members");
    members.iter().map(|member| member["user"].as_str().expect("a user").to_owned()).collect()
}

/// What a refused operation said.
async fn refused(client: &Client, operation: Value) -> (String, String) {
    let error = client.op(operation.clone()).await.expect_err(&operation.to_string());
    (error.code, error.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_the_same_by_either_door_and_stays_at_one_version_over_both_instances() {
    let redis = Redis::start().await;
    let space = redis.space();
    let (one, two) = tokio::join!(Instance::start(&space), Instance::start(&space));
    fill(&one.rest(), "room:1", 0..250).await;
    let (ann, ben) = (Client::hello_as(&one.url(), "ann").await, Client::hello_as(&two.url(), "ben").await);
    let first = ann.op(json!({"op": "get", "channel": "room:1", "members": true})).await.unwrap();
    assert_eq!(first, two.rest().get("/v1/channels/room:1/members").await.ok());
    assert_eq!((names(&first).len(), &first["stale"]), (100, &json!(false)));
    assert_eq!(first["occupancy"], json!({"users": 250, "connections": 250}));
    // Others come meanwhile, on whose list nobody goes on by mistake.
    fill(&two.rest(), "room:1", 250..260).await;
    let mut seen = names(&first);
    let mut page = first.clone();
    let mut asks = [&ben, &ann].into_iter().cycle();
    while let Some(cursor) = page["next"].as_str() {
        let get = json!({"op": "get", "channel": "room:1", "members": true, "limit": 60, "cursor": cursor});
        page = asks.next().unwrap().op(get).await.unwrap();
        assert_eq!((&page["version"], &page["epoch"]), (&first["version"], &first["epoch"]));
        seen.extend(names(&page));
    }
    seen.sort();
    assert_eq!(seen, (0..250).map(|number| format!("user-{number:04}")).collect::<Vec<_>>());
    // A cursor of one door is one of the other.
    let rest = two.rest().get("/v1/channels/room:1/members?limit=200").await.ok();
    let get = json!({"op": "get", "channel": "room:1", "members": true, "cursor": rest["next"]});
    assert_eq!(names(&ann.op(get).await.unwrap()).len(), 60);
    let nobody = ann.op(json!({"op": "get", "channel": "room:empty", "members": true})).await.unwrap();
    assert_eq!((names(&nobody).len(), &nobody["next"]), (0, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_for_those_who_may_watch_and_of_channels_where_clients_are_told_who_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rollcall.toml");
    std::fs::write(&file, "[[namespace]]\nmatch = \"crowd:**\"\nlevel = \"occupancy\"\n").unwrap();
    let at = Instance::start_with(&["--config", file.to_str().unwrap()], &[]).await;
    at.ready().await;
    fill(&at.rest(), "crowd:1", 0..3).await;
    fill(&at.rest(), "room:1", 0..3).await;
    let eve = Client::connect(&at.url()).await;
    eve.hello(&token("eve", json!({"can": {"watch": ["room:1", "crowd:*"]}}))).await.unwrap();
    let list = |channel: &str| json!({"op": "get", "channel": channel, "members": true});
    assert_eq!(names(&eve.op(list("room:1")).await.unwrap()).len(), 3);
    let (code, why) = refused(&eve, list("room:2")).await;
    assert!(code == "forbidden" && why.contains("may not watch"), "{why}");
    let (code, why) = refused(&eve, list("crowd:1")).await;
    assert!(code == "forbidden" && why.contains("not who"), "{why}");
    assert_eq!(eve.get("crowd:1").await.unwrap()["occupancy"]["users"], 3, "how many there are it is told");
    assert_eq!(at.rest().users_in("crowd:1").await.len(), 3, "and the app server who");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_page_is_refused_with_the_reason() {
    let at = Instance::start(&[]).await;
    fill(&at.rest(), "room:1", 0..5).await;
    fill(&at.rest(), "room:2", 0..5).await;
    let eve = Client::hello_as(&at.url(), "eve").await;
    let first = eve.op(json!({"op": "get", "channel": "room:1", "members": true, "limit": 2})).await.unwrap();
    let cursor = first["next"].as_str().unwrap().to_owned();
    let get = |more: Value| {
        let mut get = json!({"op": "get", "channel": "room:1", "members": true});
        get.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        get
    };
    let long = "x".repeat(30_000);
    for (more, part) in [
        (json!({"limit": 0}), "`limit` is from 1 to 1000"),
        (json!({"limit": 1_001}), "`limit` is from 1 to 1000"),
        (json!({"limit": -1}), "integer `-1`"),
        (json!({"limit": "5"}), "string"),
        (json!({"cursor": "nonsense"}), "`cursor`"),
        (json!({"cursor": ""}), "`cursor`"),
        (json!({"cursor": long}), "`cursor`"),
        (json!({"cursor": 7}), "integer `7`"),
        (json!({"members": "yes"}), "string"),
        (json!({"members": false, "limit": 5}), "add \"members\":true"),
        (json!({"members": false, "cursor": cursor}), "add \"members\":true"),
        (json!({"channel": null, "users": ["ann"]}), "those of a `channel`"),
        (json!({"page": 2}), "unknown field `page`"),
        (json!({"channel": "a b"}), "`channel`"),
    ] {
        let (code, why) = refused(&eve, get(more.clone())).await;
        assert!(code == "bad_request" && why.contains(part), "{more}: {code} {why}");
    }
    // A cursor behind the end is an empty page; one of another channel, of which no such list is kept, is told apart from it.
    let (code, why) = refused(&eve, json!({"op": "get", "channel": "room:3", "members": true, "cursor": cursor})).await;
    assert!(code == "conflict" && why.contains("begin anew"), "{code} {why}");
    eve.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_a_list_is_what_is_known_here_and_says_so() {
    let mut redis = Redis::start().await;
    let space = redis.space();
    let at = Instance::start(&space).await;
    fill(&at.rest(), "room:1", 0..3).await;
    fill(&at.rest(), "room:2", 0..3).await;
    let ann = Client::hello_as(&at.url(), "ann").await;
    ann.watch("room:1", Level::Occupancy).await.unwrap();
    ann.until("the counts", |ann| ann.view("room:1").is_some_and(|view| view.is_complete())).await;
    redis.pause();
    let rest = at.rest();
    eventually(Duration::from_secs(15), async || rest.get("/readyz").await.body["status"] == "degraded").await;
    let known = ann.op(json!({"op": "get", "channel": "room:1", "members": true})).await.unwrap();
    assert_eq!((names(&known).len(), &known["stale"]), (3, &json!(true)));
    let error = ann.op(json!({"op": "get", "channel": "room:2", "members": true})).await.unwrap_err();
    assert_eq!(error.code, "unavailable");
    assert!(error.retry_after_ms.is_some());
    redis.resume();
    eventually(Duration::from_secs(15), async || {
        let list = ann.op(json!({"op": "get", "channel": "room:2", "members": true})).await;
        list.is_ok_and(|list| names(&list).len() == 3 && list["stale"] == false)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_asks_for_a_list_at_once_is_answered_by_few_readings() {
    let redis = Redis::start().await;
    let at = Instance::start(&redis.space()).await;
    fill(&at.rest(), "room:1", 0..1_000).await;
    let crowd = join_all((0..200).map(|number| {
        let url = at.url();
        async move { Client::hello_as(&url, &format!("asker-{number}")).await }
    }))
    .await;
    let readings = async || {
        let info = redis.text(&["INFO", "commandstats"]).await;
        let of_hgetall = info.lines().find_map(|line| line.strip_prefix("cmdstat_hgetall:calls="));
        of_hgetall.and_then(|calls| calls.split(',').next()?.parse::<usize>().ok()).unwrap_or_default()
    };
    let before = readings().await;
    let get = json!({"op": "get", "channel": "room:1", "members": true});
    let pages = join_all(crowd.iter().map(|client| client.op(get.clone()))).await;
    let took = readings().await - before;
    for page in pages {
        let page = page.unwrap();
        assert_eq!((names(&page).len(), page["next"].is_string()), (100, true));
    }
    println!("200 asked, {took} readings");
    assert!(took <= 50, "{took} readings");
}
