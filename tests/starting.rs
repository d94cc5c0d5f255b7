//! Starting and stopping: readiness, Redis that is not there yet, TLS, the port of operations.

mod harness;

use std::time::Duration;

use harness::{Client, Instance, Redis, eventually};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_waits_for_redis_says_so_and_gets_ready_by_itself() {
    let mut redis = Redis::start().await;
    redis.stop().await;
    let mut instance = Instance::start_unready(&redis.space()).await;
    let rest = instance.rest();
    let answer = rest.get("/readyz").await;
    assert_eq!((answer.status, answer.body["status"].as_str()), (503, Some("starting")));
    assert_eq!(rest.get("/livez").await.status, 200);
    let members = rest.get("/v1/channels/room:1/members").await;
    assert_eq!((members.status, members.body["code"].as_str()), (503, Some("unavailable")));
    redis.start_again().await;
    // A Redis without an epoch settles first: seven seconds of presence time.
    eventually(Duration::from_secs(30), || async { rest.get("/readyz").await.status == 200 }).await;
    let ann = Client::hello_as(&instance.url(), "ann").await;
    ann.join_watching("room:1", json!({})).await.unwrap();
    ann.until("ann is there", |ann| ann.users("room:1") == ["ann"]).await;
    instance.terminate();
    assert!(instance.ended(Duration::from_secs(20)).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_have_a_port_of_their_own_where_one_is_set() {
    let port = harness::free_port();
    let instance = Instance::start(&[("ROLLCALL__SERVER__OPS_LISTEN", format!("127.0.0.1:{port}"))]).await;
    let ops = harness::Rest::new(&format!("http://127.0.0.1:{port}")).with_key(None);
    assert_eq!(ops.get("/readyz").await.status, 200);
    let metrics = ops.get("/metrics").await;
    assert!(metrics.status == 200 && metrics.text.contains("rollcall_sockets"), "{}", metrics.text);
    assert_eq!(ops.get("/v1/stats").await.status, 200);
    assert_eq!(ops.get("/v1/channels").await.status, 404);
    assert_eq!(instance.rest().with_key(None).get("/v1/stats").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_with_a_certificate_speaks_tls() {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let settings = [
        ("ROLLCALL__SERVER__TLS_CERT", cert.display().to_string()),
        ("ROLLCALL__SERVER__TLS_KEY", key.display().to_string()),
    ];
    let instance = Instance::start_unready(&settings).await;
    let url = instance.url();
    assert!(url.starts_with("https://"), "{url}");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root = reqwest::Certificate::from_pem(certified.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    eventually(Duration::from_secs(10), || async {
        matches!(client.get(format!("{url}/readyz")).send().await, Ok(answer) if answer.status() == 200)
    })
    .await;
    assert!(
        reqwest::Client::new().get(format!("{url}/readyz")).send().await.is_err(),
        "a strange certificate is not trusted"
    );
}
