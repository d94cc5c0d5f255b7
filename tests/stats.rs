//! What a dashboard asks: how many are where on which instance, who came and who left, and the largest channels.

mod harness;

use harness::{DEADLINE, Pair, Rest, Signal, eventually, fresh};
use serde_json::{Value, json};

/// Users who came into channels and who left them, as an instance counts them over all.
async fn movements(rest: &Rest) -> (u64, u64) {
    let stats = rest.get("/v1/stats").await.ok();
    let number = |name: &str| stats[name].as_u64().unwrap_or_else(|| panic!("`{name}` in {stats}"));
    (number("joins"), number("leaves"))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_into_channels_and_who_leaves_is_counted_once_over_all_instances() {
    let pair = Pair::start(&[]).await;
    let rests = [pair.one.rest(), pair.two.rest()];
    assert_eq!(movements(&rests[0]).await, (0, 0));
    // One with two devices, on two instances.
    let (ann, anns) = (pair.one("ann").await, pair.two("ann").await);
    ann.join("room:1", json!({})).await.unwrap();
    anns.join("room:1", json!({})).await.unwrap();
    let ben = pair.two("ben").await;
    ben.join("room:1", json!({})).await.unwrap();
    ben.join("room:2", json!({})).await.unwrap();
    // One whom nobody sees.
    let ghost = pair.one("ghost").await;
    ghost.op(json!({"op": "status", "status": "invisible"})).await.unwrap();
    ghost.join("room:1", json!({})).await.unwrap();
    for rest in &rests {
        assert_eq!(movements(rest).await, (3, 0), "ann once, ben in two channels, and nobody else");
    }
    ann.leave("room:1").await.unwrap();
    assert_eq!(movements(&rests[1]).await, (3, 0), "another device is still there");
    anns.leave("room:1").await.unwrap();
    ben.bye().await.unwrap();
    eventually(DEADLINE, async || movements(&rests[0]).await == (3, 3)).await;
    // Who is seen from now on has come, and who goes out of sight has left.
    ghost.op(json!({"op": "status", "status": null})).await.unwrap();
    eventually(DEADLINE, async || movements(&rests[0]).await == (4, 3)).await;

    // Redis loses its memory, and the sums with it. Who is put back has not come.
    pair.redis.flush().await;
    eventually(DEADLINE, async || {
        let answer = rests[1].get("/v1/stats").await;
        answer.status == 200 && answer.body["users"] == 2 && answer.body["joins"] == 0
    })
    .await;
    eventually(DEADLINE, async || rests[1].get("/readyz").await.body["status"] == "ready").await;
    assert_eq!(movements(&rests[1]).await, (0, 0));
    ann.join("room:1", json!({})).await.unwrap();
    assert_eq!(movements(&rests[0]).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_instance_is_told_with_its_generation_and_what_remains_of_its_lease() {
    let mut pair = Pair::start(&[]).await;
    let _ann = pair.one("ann").await;
    let rest = pair.two.rest();
    let instances =
        async || -> Vec<Value> { rest.get("/v1/stats").await.ok()["instances"].as_array().expect("a list").clone() };
    let here = instances().await;
    let hers: Vec<&Value> = here.iter().filter(|instance| instance["connections"] == 1).collect();
    assert_eq!((here.len(), hers.len()), (2, 1), "{here:?}");
    let one = hers[0]["instance"].clone();
    for instance in &here {
        assert_eq!(instance["generation"], 1);
        let lease_ms = instance["lease_ms"].as_u64().expect("a number");
        assert!((1..=2_000).contains(&lease_ms), "{instance}");
    }
    // It stands still for longer than its lease, and has to register anew when it goes on.
    pair.one.signal(Signal::Stop);
    eventually(DEADLINE, async || instances().await.iter().all(|instance| instance["instance"] != one)).await;
    pair.one.signal(Signal::Cont);
    eventually(DEADLINE, async || {
        let all = instances().await;
        all.len() == 2 && all.iter().any(|it| it["instance"] == one && it["generation"] == 2)
    })
    .await;
}

/// As many users in each of these channels.
async fn fill(rest: &Rest, channels: &[(String, usize)]) {
    let seats = channels.iter().flat_map(|(channel, users)| {
        (0..*users).map(move |number| json!({"channel": channel, "user": format!("user{number}"), "ttl_ms": 600_000}))
    });
    for some in seats.collect::<Vec<_>>().chunks(1_000) {
        let answer = rest.post("/v1/heartbeats", json!({"heartbeats": some})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

fn sizes(list: &Value) -> Vec<(&str, u64)> {
    let channels = list["channels"].as_array().expect("a list");
    let size = |one: &'_ Value| one["occupancy"]["users"].as_u64().expect("a number");
    channels.iter().map(|one| (one["channel"].as_str().expect("a name"), size(one))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_channels_come_first_whatever_their_names() {
    let pair = Pair::start(&[]).await;
    let (say, rest) = (pair.one.rest(), pair.two.rest());
    let mut channels: Vec<(String, usize)> = (0..2_300).map(|number| (format!("many:{number:04}"), 1)).collect();
    channels
        .extend([("many:1500:x", 4), ("a", 2), ("many:9", 5), ("b", 3)].map(|(name, users)| (name.to_owned(), users)));
    fill(&say, &channels).await;
    // Who is invisible makes no channel larger.
    let ghost = pair.one("ghost").await;
    ghost.op(json!({"op": "status", "status": "invisible"})).await.unwrap();
    ghost.join("a", json!({})).await.unwrap();

    let first = rest.get("/v1/channels?order=users&limit=6").await.ok();
    let expected = [("many:9", 5), ("many:1500:x", 4), ("b", 3), ("a", 2), ("many:0000", 1), ("many:0001", 1)];
    assert_eq!(sizes(&first), expected);
    assert_eq!(first["channels"][3]["occupancy"], json!({"users": 2, "connections": 2}));
    assert_eq!((&first["next"], &first["complete"], &first["stale"]), (&Value::Null, &json!(true), &json!(false)));
    let most = rest.get("/v1/channels?order=users&limit=1000").await.ok();
    assert_eq!((sizes(&most).len(), &sizes(&most)[..6]), (1_000, &expected[..]));
    let some = rest.get("/v1/channels?order=users&prefix=many:1500").await.ok();
    assert_eq!(sizes(&some), [("many:1500:x", 4), ("many:1500", 1)]);
    assert_eq!(sizes(&rest.get(&format!("/v1/channels?order=users&prefix={}", fresh("no"))).await.ok()), []);

    // As it was before there was a choice.
    let by_name = rest.get("/v1/channels?order=name&limit=2").await.ok();
    assert_eq!(sizes(&by_name), [("a", 2), ("b", 3)]);
    assert_eq!((by_name["next"].is_string(), by_name.get("complete")), (true, None));
    let cursor = by_name["next"].as_str().unwrap();
    for (query, part) in [
        ("order=size".to_owned(), "`order` is `name` or `users`"),
        ("order=".to_owned(), "`order` is `name` or `users`"),
        (format!("order=users&cursor={cursor}"), "no `cursor`"),
        ("order=users&limit=0".to_owned(), "`limit`"),
        ("order=users&limit=1001".to_owned(), "`limit`"),
        ("order=users&prefix=a*".to_owned(), "`prefix`"),
    ] {
        let answer = rest.get(&format!("/v1/channels?{query}")).await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &json!("bad_request")), "{query}: {}", answer.text);
        assert!(answer.body["detail"].as_str().unwrap().contains(part), "{query}: {}", answer.text);
    }
    // Within a few seconds it is seen who has come.
    fill(&say, &[("a".to_owned(), 9)]).await;
    eventually(DEADLINE, async || sizes(&rest.get("/v1/channels?order=users&limit=1").await.ok()) == [("a", 9)]).await;
}
