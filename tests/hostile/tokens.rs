//! Credentials that do not hold.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::json;
use tokio::time::Instant;

use super::raw::{Raw, upgrade};
use crate::harness::{Client, HS256_SECRET, Instance, KeyPair, mint, token, unsigned};

const SECOND: Duration = Duration::from_secs(1);

/// A token that does not hold is answered and ends the socket: an expired one so that the client comes back, the others so that it does not.
pub async fn tokens_that_do_not_hold(at: &Instance, known: &KeyPair) {
    let now = crate::harness::token::now_s();
    let secret = |text: &[u8]| EncodingKey::from_secret(text);
    let aud = json!({"aud": "rollcall"});
    let good = token("eve", aud.clone());
    let mut parts: Vec<&str> = good.split('.').collect();
    parts[2] = "AAAA";
    let with = |more: serde_json::Value| {
        let mut claims = aud.clone();
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        token("eve", claims)
    };
    let cases: Vec<(&str, String, &str, u16)> = vec![
        ("no token at all", "hello".into(), "unauthorized", 4501),
        ("an empty one", String::new(), "unauthorized", 4501),
        ("dots", "..".into(), "unauthorized", 4501),
        ("expired", with(json!({"exp": now - 60})), "token_expired", 4003),
        ("not yet valid", with(json!({"nbf": now + 600})), "unauthorized", 4501),
        ("without an end", with(json!({"exp": null})), "unauthorized", 4501),
        ("for another audience", with(json!({"aud": "billing"})), "unauthorized", 4501),
        ("for no audience", token("eve", json!({})), "unauthorized", 4501),
        (
            "by another secret",
            mint(Algorithm::HS256, &secret(b"another secret of more than 32 bytes"), "eve", aud.clone()),
            "unauthorized",
            4501,
        ),
        (
            "HS512 by the right secret",
            mint(Algorithm::HS512, &secret(HS256_SECRET.as_bytes()), "eve", aud.clone()),
            "unauthorized",
            4501,
        ),
        (
            "HS256 by the text of a public key",
            mint(Algorithm::HS256, &secret(known.public_pem.as_bytes()), "eve", aud.clone()),
            "unauthorized",
            4501,
        ),
        ("by a stranger's key", KeyPair::es256().token("eve", aud.clone()), "unauthorized", 4501),
        ("by a key of another kind", KeyPair::ed25519().token("eve", aud.clone()), "unauthorized", 4501),
        ("alg none", unsigned("eve", aud.clone()), "unauthorized", 4501),
        ("a signature cut off", parts.join("."), "unauthorized", 4501),
        ("17 KB", with(json!({"padding": "x".repeat(17_000)})), "unauthorized", 4501),
        ("a user that is no name", with(json!({"sub": "a b"})), "unauthorized", 4501),
        ("a user that is a number", with(json!({"sub": 7})), "unauthorized", 4501),
        ("capabilities that are none", with(json!({"can": ["join"]})), "unauthorized", 4501),
    ];
    for (what, bad, code, close) in cases {
        let eve = Client::connect(&at.url()).await;
        let error = eve.hello(&bad).await.expect_err(what);
        assert_eq!(error.code, code, "{what}");
        assert!(!error.message.contains("eyJ"), "{what}: {}", error.message);
        assert_eq!(eve.until_closed(5 * SECOND).await.code, close, "{what}");
    }
    let eve = Client::connect(&at.url()).await;
    eve.hello(&good).await.unwrap();
    let eve = Client::connect(&at.url()).await;
    eve.hello(&known.token("eve", aud)).await.unwrap();
}

/// Whoever sends bad tokens decides how many there are, not how long the log gets.
pub async fn a_flood_of_bad_tokens(at: &Instance) {
    let before = at.log_lines();
    // Long enough that a line is due, however quickly they are refused.
    let began = Instant::now();
    for count in 1.. {
        let mut socket = Raw::open(at).await;
        socket.text(r#"{"id":1,"op":"hello","token":"x.y.z"}"#).await;
        assert_eq!(socket.end().await.code, Some(4501));
        if count >= 200 && began.elapsed() > SECOND / 2 {
            break;
        }
    }
    let lines = at.log_lines() - before;
    assert!((1..60).contains(&lines), "{lines} lines");
}

/// Resume tokens that somebody made up, cut or took from another bring a new connection and nothing else.
pub async fn resume_tokens_that_do_not_hold(at: &Instance) {
    let claims = || json!({"aud": "rollcall"});
    let ann = Client::connect(&at.url()).await;
    ann.hello(&token("ann", claims())).await.unwrap();
    let real = ann.resume_token();
    for (user, bad) in [
        ("ann", "AAAA".to_owned()),
        ("ann", "not base64 at all!".to_owned()),
        ("ann", String::new()),
        ("ann", real[..real.len() - 4].to_owned()),
        ("ann", format!("{real}AAAA")),
        ("ann", "A".repeat(30_000)),
        ("eve", real.clone()),
    ] {
        let eve = Client::connect(&at.url()).await;
        let welcome = eve.hello_resume(&token(user, claims()), &bad).await.unwrap();
        assert_eq!((&welcome["resumed"], &welcome["channels"]), (&json!(false), &json!([])), "{bad:.40}");
        assert_ne!(welcome["connection"], ann.welcome()["connection"]);
        eve.bye().await.unwrap();
    }
    ann.ping().await.unwrap();
    ann.bye().await.unwrap();
}

/// What can be refused before the upgrade is refused with a status.
pub async fn handshakes(at: &Instance) {
    let bearer = format!("Bearer {}", token("eve", json!({"aud": "rollcall"})));
    let own = at.url();
    type Headers<'a> = Vec<(&'a str, &'a str)>;
    let cases: Vec<(&str, Headers, u16)> = vec![
        ("another subprotocol", vec![("Sec-WebSocket-Protocol", "graphql-ws")], 400),
        ("none", vec![("Sec-WebSocket-Protocol", "")], 400),
        ("a foreign origin", vec![("Origin", "https://evil.example")], 403),
        ("the origin null", vec![("Origin", "null")], 403),
        ("the own origin", vec![("Origin", &own)], 101),
        ("a token in the header, from a page", vec![("Origin", &own), ("Authorization", &bearer)], 400),
        ("a token in the header, from a program", vec![("Authorization", &bearer)], 101),
        ("no upgrade", vec![("Upgrade", ""), ("Connection", "")], 400),
        ("another version", vec![("Sec-WebSocket-Version", "8")], 400),
        ("no key", vec![("Sec-WebSocket-Key", "")], 400),
        ("one of several subprotocols", vec![("Sec-WebSocket-Protocol", "soap, rollcall.v1")], 101),
    ];
    for (what, headers, status) in cases {
        let mut socket = Raw(tokio::net::TcpStream::connect(("127.0.0.1", at.port())).await.unwrap());
        let answer = socket.ask(&upgrade(at, &headers)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
        if status == 101 {
            assert!(answer.to_ascii_lowercase().contains("sec-websocket-protocol: rollcall.v1"), "{what}: {answer}");
        }
        if what.ends_with("from a program") {
            socket.text(r#"{"id":1,"op":"hello"}"#).await;
            assert_eq!(socket.next_text().await["ok"]["user"], "eve");
        }
    }
}
