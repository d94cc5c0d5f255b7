//! What hostile input gets: the table at the end of `docs/protocol.md`, row by row, over real processes.

mod harness;

#[path = "hostile/floods.rs"]
mod floods;
#[path = "hostile/frames.rs"]
mod frames;
#[path = "hostile/http.rs"]
mod http;
#[path = "hostile/raw.rs"]
mod raw;
#[path = "hostile/tokens.rs"]
mod tokens;

use harness::{Instance, KeyPair, Redis};

/// Short times, so that what ends by time ends soon; the limits are the defaults, but for the sockets of one address.
fn settings() -> Vec<(&'static str, String)> {
    [
        ("ROLLCALL__SERVER__HELLO_TIMEOUT_MS", "1500"),
        ("ROLLCALL__SERVER__SLOW_CLOSE_MS", "2000"),
        ("ROLLCALL__LIMITS__CONNECTIONS_PER_ADDRESS", "2000"),
        ("ROLLCALL__PRESENCE__GRACE_MS", "500"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

async fn instance() -> Instance {
    Instance::start(&settings()).await
}

fn strict(known: &KeyPair) -> Vec<(&'static str, String)> {
    let keys = [
        ("ROLLCALL__AUTH__AUDIENCE", "rollcall".to_owned()),
        ("ROLLCALL__AUTH__PUBLIC_KEYS", known.public_pem.clone()),
    ];
    [settings(), keys.to_vec()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_do_not_hold_are_answered_and_end_the_socket() {
    let known = KeyPair::es256();
    let at = Instance::start(&strict(&known)).await;
    tokens::tokens_that_do_not_hold(&at, &known).await;
    tokens::resume_tokens_that_do_not_hold(&at).await;
    tokens::a_flood_of_bad_tokens(&at).await;
    tokens::handshakes(&at).await;
    at.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_none_end_the_socket_with_the_code_that_says_why() {
    let at = instance().await;
    frames::broken_frames(&at).await;
    frames::fragments_without_end(&at).await;
    frames::half_a_frame(&at).await;
    at.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_promises_too_much_is_refused_by_its_header() {
    let at = instance().await;
    frames::long_frames(&at).await;
    at.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_that_are_wrong_are_errors_and_the_socket_stays() {
    let at = instance().await;
    frames::wrong_operations(&at).await;
    frames::sizes_and_names(&at).await;
    frames::without_hello(&at).await;
    at.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hundred_and_twenty_ninth_channel_is_refused() {
    let at = instance().await;
    frames::too_many_channels(&at).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_are_slowed_down_and_others_are_served() {
    let at = instance().await;
    floods::operations(&at).await;
    floods::pings(&at).await;
    at.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_never_reads_is_closed_and_delays_nobody() {
    let at = instance().await;
    floods::one_who_never_reads(&at).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_address_there_are_only_so_many() {
    let mut settings = settings();
    settings.push(("ROLLCALL__LIMITS__CONNECTIONS_PER_ADDRESS", "20".to_owned()));
    let at = Instance::start(&settings).await;
    floods::too_many_from_one_address(&at, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_bodies_and_heads_that_are_wrong_are_refused() {
    let at = instance().await;
    http::paths(&at).await;
    http::bodies(&at).await;
    http::putting_out(&at).await;
    http::heads(&at).await;
    at.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_look_like_something_else_are_only_names() {
    let redis = Redis::start().await;
    let at = Instance::start(&[settings(), redis.space()].concat()).await;
    http::names(&at, &redis).await;
    at.assert_no_panic();
}

/// Everything once, for the buffers that sockets leave behind, and once more: that must cost next to nothing.
#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_together_costs_little_memory_and_few_lines() {
    let known = KeyPair::es256();
    let mut strict = Instance::start(&strict(&known)).await;
    let mut open = instance().await;
    println!("at first: {} KB and {} KB", strict.rss_kb(), open.rss_kb());
    let mut before = Vec::new();
    for round in 0..2 {
        tokens::tokens_that_do_not_hold(&strict, &known).await;
        tokens::resume_tokens_that_do_not_hold(&strict).await;
        tokens::a_flood_of_bad_tokens(&strict).await;
        tokens::handshakes(&strict).await;
        frames::broken_frames(&open).await;
        frames::long_frames(&open).await;
        frames::fragments_without_end(&open).await;
        frames::half_a_frame(&open).await;
        frames::wrong_operations(&open).await;
        frames::sizes_and_names(&open).await;
        frames::too_many_channels(&open).await;
        frames::without_hello(&open).await;
        floods::operations(&open).await;
        floods::pings(&open).await;
        floods::one_who_never_reads(&open).await;
        floods::a_thousand_without_hello(&open).await;
        http::paths(&open).await;
        http::bodies(&open).await;
        http::putting_out(&open).await;
        http::heads(&open).await;
        for (n, at) in [&mut strict, &mut open].into_iter().enumerate() {
            at.assert_no_panic();
            assert!(at.runs());
            let now = (at.rss_kb(), at.log_lines());
            println!("round {round}, instance {n}: {} KB, {} lines", now.0, now.1);
            if round == 0 {
                before.push(now);
                continue;
            }
            let grown = now.0.saturating_sub(before[n].0);
            assert!(grown < 20 * 1024, "{grown} KB more");
            let lines = now.1 - before[n].1;
            assert!(lines < 100, "{lines} lines: {:#?}", at.log());
        }
    }
}
