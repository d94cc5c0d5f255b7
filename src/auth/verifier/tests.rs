use std::{fs, path::PathBuf, time::Duration};

use jsonwebtoken::{EncodingKey, Header as TokenHeader};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
    time::sleep,
};

use super::*;
use crate::auth::{Issuer, Request};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW_MS: u64 = 1_800_000_000_000;
const NOW: u64 = NOW_MS / 1000;

fn fixture(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fixtures/auth", name].iter().collect()
}

fn settings() -> Settings {
    Settings {
        hs256_secret: None,
        public_keys: Vec::new(),
        jwks: None,
        issuer: None,
        audience: Vec::new(),
        leeway_ms: 5_000,
        revocation_days: 30,
        resume_secret: None,
        api_keys: Vec::new(),
    }
}

fn with_secret() -> Settings {
    Settings { hs256_secret: Some(SECRET.into()), ..settings() }
}

fn with_keys(names: &[&str]) -> Settings {
    Settings { public_keys: names.iter().map(|name| path(name).to_str().unwrap().to_owned()).collect(), ..settings() }
}

fn build(settings: &Settings) -> Result<Verifier, String> {
    // Others may have been first; one provider is as good as another.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let limits = Limits {
        frame_bytes: 65_536,
        state_bytes: 64,
        channels_per_connection: 2,
        user_state_bytes: 64,
        watched_users: 1,
        watched_patterns: 1,
        pattern_channels: 1,
        signal_bytes: 64,
        signals_per_second: 1,
        operations_per_second: 1,
        connections_per_user: 1,
        connections_per_address: 1,
        members_per_channel: 1,
        revocations: 1,
    };
    Verifier::new(settings, &limits)
}

fn verifier(settings: &Settings) -> Verifier {
    build(settings).unwrap()
}

fn sign(algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let pem = |name| fixture(name).into_bytes();
    let key = match algorithm {
        Algorithm::HS256 => EncodingKey::from_secret(SECRET.as_bytes()),
        Algorithm::RS256 | Algorithm::RS512 => EncodingKey::from_rsa_pem(&pem("rs256.private.pem")).unwrap(),
        Algorithm::ES256 => EncodingKey::from_ec_pem(&pem("es256.private.pem")).unwrap(),
        _ => EncodingKey::from_ed_pem(&pem("eddsa.private.pem")).unwrap(),
    };
    let header = TokenHeader { kid: kid.map(str::to_owned), ..TokenHeader::new(algorithm) };
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

fn ann() -> Value {
    json!({"sub": "ann", "exp": NOW + 60})
}

/// The claims of [`ann`], with some more or others.
fn ann_and(more: Value) -> Value {
    let mut claims = ann();
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

fn hs256(claims: &Value) -> String {
    sign(Algorithm::HS256, None, claims)
}

fn check(claims: &Value) -> Result<Principal, Error> {
    verifier(&with_secret()).verify_token(&hs256(claims), NOW_MS)
}

fn why(checked: Result<Principal, Error>) -> String {
    match checked {
        Err(Error::Unauthorized { why }) => why,
        other => panic!("{other:?}"),
    }
}

fn parts(header: &Value, claims: &Value) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

const ASYMMETRIC: [(Algorithm, &str); 3] = [
    (Algorithm::RS256, "rs256.public.pem"),
    (Algorithm::ES256, "es256.public.pem"),
    (Algorithm::EdDSA, "eddsa.public.pem"),
];

#[test]
fn each_algorithm_is_checked_by_its_own_key_and_by_no_other() {
    assert_eq!(check(&ann()).unwrap().user.unwrap().as_str(), "ann");
    for (algorithm, key) in ASYMMETRIC {
        let verifier = verifier(&with_keys(&[key]));
        for signed in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
            let checked = verifier.verify_token(&sign(signed, None, &ann()), NOW_MS);
            assert_eq!(checked.is_ok(), signed == algorithm, "{signed:?} by {key}: {checked:?}");
        }
        let token = sign(algorithm, None, &ann());
        assert_eq!(build(&with_secret()).unwrap().verify_token(&token, NOW_MS).unwrap_err(), Error::UnknownKey);
        // The text of a key does as well as its file.
        let inline = Settings { public_keys: vec![fixture(key)], ..settings() };
        build(&inline).unwrap().verify_token(&token, NOW_MS).unwrap();
    }
    verifier(&with_keys(&["rs256.pkcs1.public.pem"]))
        .verify_token(&sign(Algorithm::RS256, None, &ann()), NOW_MS)
        .unwrap();
}

#[test]
fn several_keys_may_hold_at_once() {
    let all = Settings { hs256_secret: Some(SECRET.into()), ..with_keys(&ASYMMETRIC.map(|(_, key)| key)) };
    let verifier = verifier(&all);
    for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        verifier.verify_token(&sign(algorithm, Some("any"), &ann()), NOW_MS).unwrap();
    }
}

#[test]
fn a_public_key_is_not_taken_for_a_secret() {
    let verifier = verifier(&with_keys(&["rs256.public.pem"]));
    let key = fixture("rs256.public.pem");
    for secret in [key.as_bytes(), key.trim().as_bytes()] {
        let forged =
            jsonwebtoken::encode(&TokenHeader::new(Algorithm::HS256), &ann(), &EncodingKey::from_secret(secret))
                .unwrap();
        assert_eq!(verifier.verify_token(&forged, NOW_MS).unwrap_err(), Error::UnknownKey);
    }
}

#[test]
fn no_signature_and_algorithms_that_no_key_has_are_refused() {
    let verifier = verifier(&with_secret());
    for alg in ["none", "None", "NONE", "nOnE", "", "HS384", "HS512", "RS512", "PS256", "hs256"] {
        let unsigned = parts(&json!({"alg": alg, "typ": "JWT"}), &ann());
        for token in [format!("{unsigned}."), format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode("x"))] {
            assert!(why(verifier.verify_token(&token, NOW_MS)).contains("algorithm is none of"), "{alg}");
        }
    }
    // A genuine signature, by a key that is for another algorithm.
    let token = sign(Algorithm::RS512, None, &ann());
    assert!(
        why(super::tests::verifier(&with_keys(&["rs256.public.pem"])).verify_token(&token, NOW_MS)).contains("none of")
    );
    // A genuine signature under another header.
    let token = hs256(&ann());
    let (_, signature) = token.rsplit_once('.').unwrap();
    for alg in ["RS256", "EdDSA"] {
        let relabelled = format!("{}.{signature}", parts(&json!({"alg": alg}), &ann()));
        assert_eq!(verifier.verify_token(&relabelled, NOW_MS).unwrap_err(), Error::UnknownKey);
    }
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let verifier = verifier(&with_secret());
    let token = hs256(&ann());
    verifier.verify_token(&token, NOW_MS).unwrap();
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        // The next letter but one: the last letter of a part has bits that mean nothing, and decoding is strict about them.
        bytes[at] = if bytes[at] == b'A' { b'Q' } else { b'A' };
        assert!(verifier.verify_token(std::str::from_utf8(&bytes).unwrap(), NOW_MS).is_err(), "byte {at}");
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let verifier = verifier(&with_secret());
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let garbage = URL_SAFE_NO_PAD.encode(deep);
    for token in ["", ".", "..", "...", "a.b.c", "a.b", "\u{0}", "日本.語.x", &format!("{garbage}.{garbage}.x")] {
        assert!(why(verifier.verify_token(token, NOW_MS)).contains("no signed JWT"), "{}", token.len());
    }
    assert!(why(verifier.verify_token(&format!("{}.x", hs256(&ann())), NOW_MS)).len() > 10);
    let long = hs256(&ann_and(json!({"other": "x".repeat(12_300)})));
    assert!(long.len() > TOKEN_BYTES);
    assert!(why(verifier.verify_token(&long, NOW_MS)).contains("longer than 16 KiB"));
    let fits = hs256(&ann_and(json!({"other": "x".repeat(12_000)})));
    verifier.verify_token(&fits, NOW_MS).unwrap();
}

#[test]
fn extensions_that_must_be_understood_are_refused() {
    let message = parts(&json!({"alg": "HS256", "crit": ["b64"], "b64": false}), &ann());
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    let token = format!("{message}.{signature}");
    assert!(why(verifier(&with_secret()).verify_token(&token, NOW_MS)).contains("crit"));
}

#[test]
fn times_are_checked_with_leeway_and_only_on_genuine_tokens() {
    let at = |exp: Value| check(&json!({"sub": "ann", "exp": exp}));
    assert_eq!(at(json!(NOW - 5)).unwrap_err(), Error::Expired);
    assert_eq!(at(json!(NOW - 4)).unwrap().expires_at_ms, NOW_MS + 1_000);
    assert_eq!(at(json!(NOW as f64 + 0.5)).unwrap().expires_at_ms, NOW_MS + 5_500);
    assert_eq!(at(json!(-1)).unwrap_err(), Error::Expired);
    assert_eq!(at(json!(1e300)).unwrap().expires_at_ms, LATEST_MS);
    assert!(why(at(json!("tomorrow"))).contains("`exp`"));
    assert!(why(at(Value::Null)).contains("lacks `exp`"));
    assert!(why(check(&json!({"sub": "ann"}))).contains("lacks `exp`"));
    assert_eq!(check(&ann_and(json!({"nbf": NOW + 6}))).unwrap_err(), Error::NotYetValid);
    check(&ann_and(json!({"nbf": NOW + 5}))).unwrap();
    // What is forged is not told that it is late.
    let token = hs256(&json!({"exp": 1}));
    let other = Settings { hs256_secret: Some("another secret of thirty-two bytes".into()), ..settings() };
    assert!(why(verifier(&other).verify_token(&token, NOW_MS)).contains("signature"));
}

#[test]
fn issuer_and_audience_are_checked_when_set() {
    let strict =
        verifier(&Settings { issuer: Some("me".into()), audience: vec!["app".into(), "web".into()], ..with_secret() });
    let check = |more: Value| strict.verify_token(&hs256(&ann_and(more)), NOW_MS);
    check(json!({"iss": "me", "aud": "web"})).unwrap();
    check(json!({"iss": "me", "aud": ["other", "app"]})).unwrap();
    assert!(why(check(json!({"aud": "app"}))).contains("issuer"));
    assert!(why(check(json!({"iss": "you", "aud": "app"}))).contains("issuer"));
    for aud in [json!("other"), json!([]), json!(["other"]), Value::Null] {
        assert!(why(check(json!({"iss": "me", "aud": aud}))).contains("audience"));
    }
    assert!(why(check(json!({"iss": "me", "aud": 1}))).contains("`aud`"));
    verifier(&with_secret()).verify_token(&hs256(&ann_and(json!({"iss": "you", "aud": "other"}))), NOW_MS).unwrap();
}

#[test]
fn claims_become_a_principal() {
    let principal = check(&json!({
        "sub": "ann", "exp": NOW + 60, "iat": NOW - 1, "jti": "t1", "info": {"name": "Ann \" b", "n": [1, 2.50]}, "grace_ms": 7000,
        "channels": ["room:1", "room:2"], "can": {"join": ["room:*"], "status": true}, "unknown": {"to": "us"},
    }))
    .unwrap();
    assert_eq!(principal.issued_at_ms, Some(NOW_MS - 1_000));
    assert_eq!(principal.token_id.as_deref(), Some("t1"));
    assert_eq!(principal.info.unwrap().get(), r#"{"n":[1,2.5],"name":"Ann \" b"}"#);
    assert_eq!(principal.grace_ms, Some(7_000));
    assert_eq!(principal.channels.iter().map(ChannelName::as_str).collect::<Vec<_>>(), ["room:1", "room:2"]);
    let can = principal.can.unwrap();
    assert!(can.status && can.join[0].matches("room:7") && can.watch.is_empty());

    let plain = check(&json!({"exp": NOW + 60, "can": null, "info": null})).unwrap();
    assert!(plain.user.is_none() && plain.can.is_none() && plain.info.is_none() && plain.channels.is_empty());
    assert_eq!(check(&ann_and(json!({"grace_ms": 9_000_000}))).unwrap().grace_ms, Some(MAX_GRACE_MS));
}

#[test]
fn claims_of_another_form_are_refused_by_name() {
    for (name, value) in [
        ("sub", json!("")),
        ("sub", json!("a b")),
        ("sub", json!("x".repeat(256))),
        ("sub", json!(7)),
        ("jti", json!(7)),
        ("jti", json!("x".repeat(256))),
        ("iat", json!("now")),
        ("info", json!("Ann")),
        ("info", json!([])),
        ("info", json!({"name": "x".repeat(60)})),
        ("grace_ms", json!(-1)),
        ("channels", json!("room:1")),
        ("channels", json!(["a b"])),
        ("channels", json!(["a", "b", "c"])),
        ("can", json!({"jion": []})),
        ("can", json!({"join": ["room*"]})),
    ] {
        let why = why(check(&ann_and(json!({name: value}))));
        assert!(why.contains(&format!("`{name}`")), "{why}");
    }
    let deepest = (0..200).fold(json!(1), |inner, _| json!([inner]));
    assert!(why(check(&ann_and(json!({"info": {"a": deepest}})))).contains("`info`"));
}

#[test]
fn white_space_goes_and_everything_else_stays() {
    for (json, expected) in [
        ("{ \"a\" :\n[ 1.50 , 12345678901234567890 ] }", "{\"a\":[1.50,12345678901234567890]}"),
        (r#"{"a b":" \" \\"  , "c":" \\\" "}"#, r#"{"a b":" \" \\","c":" \\\" "}"#),
    ] {
        assert_eq!(compact(json), expected);
    }
}

#[test]
fn keys_that_are_no_use_are_refused_when_they_are_read() {
    for (name, part) in [
        ("rs256.private.pem", "it is a private key"),
        ("rs256.weak.public.pem", "fewer than 2048 bits"),
        ("es384.public.pem", "not P-256"),
        ("jwks.json", "no PEM text"),
        ("absent.pem", "cannot be read"),
    ] {
        let why = build(&with_keys(&[name])).map(drop).unwrap_err();
        assert!(why.contains(name) && why.contains(part), "{why}");
    }
    let private = Settings { public_keys: vec![fixture("eddsa.private.pem")], ..settings() };
    let why = build(&private).map(drop).unwrap_err();
    assert!(why.contains("`auth.public_keys`") && why.contains("private key") && !why.contains("MC4C"), "{why}");
    let certificate = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----";
    let why = build(&Settings { public_keys: vec![certificate.into()], ..settings() }).map(drop).unwrap_err();
    assert!(why.contains("it is a certificate"), "{why}");
    for name in ["jwks.unusable.json", "rs256.public.pem", "absent.json"] {
        let jwks = Settings { jwks: Some(path(name).to_str().unwrap().into()), ..settings() };
        assert!(build(&jwks).is_err(), "{name}");
    }
}

#[test]
fn in_a_key_set_the_id_selects_the_key() {
    let jwks = Settings { jwks: Some(path("jwks.json").to_str().unwrap().into()), ..settings() };
    let verifier = verifier(&jwks);
    for (algorithm, kid) in [(Algorithm::RS256, "rsa-1"), (Algorithm::ES256, "ec-1"), (Algorithm::EdDSA, "ed-1")] {
        verifier.verify_token(&sign(algorithm, Some(kid), &ann()), NOW_MS).unwrap();
        verifier.verify_token(&sign(algorithm, None, &ann()), NOW_MS).unwrap();
        let other = verifier.verify_token(&sign(algorithm, Some("other"), &ann()), NOW_MS);
        assert_eq!(other.unwrap_err(), Error::UnknownKey);
    }
    // An id of a key that is for something else does not lend its algorithm.
    let checked = verifier.verify_token(&sign(Algorithm::EdDSA, Some("rsa-1"), &ann()), NOW_MS);
    assert_eq!(checked.unwrap_err(), Error::UnknownKey);
}

/// The key set of the fixtures with the ids of its keys behind `generation`.
fn key_set(generation: &str) -> String {
    fixture("jwks.json").replace("-1\"", &format!("-{generation}\""))
}

/// Waits until the verifier takes an EdDSA token by the key `kid`.
async fn until_known(verifier: &Verifier, kid: &str) {
    let token = sign(Algorithm::EdDSA, Some(kid), &ann());
    for _ in 0..600 {
        if verifier.verify_token(&token, NOW_MS).is_ok() {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("{kid} is not known after a minute");
}

#[tokio::test(start_paused = true)]
async fn a_key_file_that_changes_is_read_again_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (set, pem) = (folder.path().join("jwks.json"), folder.path().join("key.pem"));
    fs::write(&set, key_set("1")).unwrap();
    fs::write(&pem, fixture("rs256.public.pem")).unwrap();
    let names = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let verifier = verifier(&Settings { jwks: Some(names(&set)), public_keys: vec![names(&pem)], ..settings() });
    let fresh = tokio::spawn(verifier.keep_fresh());
    until_known(&verifier, "ed-1").await;

    fs::write(&set, "{broken").unwrap();
    sleep(Duration::from_secs(11)).await;
    until_known(&verifier, "ed-1").await;
    fs::remove_file(&set).unwrap();
    sleep(Duration::from_secs(11)).await;
    until_known(&verifier, "ed-1").await;

    fs::write(&set, key_set("23")).unwrap();
    until_known(&verifier, "ed-23").await;
    let old = verifier.verify_token(&sign(Algorithm::EdDSA, Some("ed-1"), &ann()), NOW_MS);
    assert_eq!(old.unwrap_err(), Error::UnknownKey);

    // Replaced as an orchestrator does it: by another file under the name.
    let beside = folder.path().join("beside");
    fs::write(&beside, fixture("eddsa.public.pem")).unwrap();
    fs::rename(&beside, &pem).unwrap();
    until_known(&verifier, "no such id").await;
    fresh.abort();
}

/// A server of key sets on this machine: what it answers can be changed, and it counts how often it was asked.
struct KeyServer {
    address: String,
    answer: watch::Sender<Option<String>>,
    asked: watch::Receiver<u32>,
}

async fn key_server(first: Option<String>) -> KeyServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/keys", listener.local_addr().unwrap());
    let (answer, answers) = watch::channel(first);
    let (count, asked) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 4096]).await;
            count.send_modify(|count| *count += 1);
            let response = match &*answers.borrow() {
                Some(keys) => {
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{keys}", keys.len())
                }
                None => "HTTP/1.1 500 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned(),
            };
            let _ = socket.write_all(response.as_bytes()).await;
        }
    });
    KeyServer { address, answer, asked }
}

fn by_address(server: &KeyServer) -> Verifier {
    verifier(&Settings { jwks: Some(server.address.clone()), ..settings() })
}

/// Lets time pass without waiting for it. While it is stopped nothing is awaited but the step itself.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn an_unknown_key_id_fetches_the_set_at_most_every_half_minute() {
    let server = key_server(Some(key_set("1"))).await;
    let verifier = by_address(&server);
    let check = |kid: &'static str| {
        let token = sign(Algorithm::EdDSA, Some(kid), &ann());
        let verifier = &verifier;
        async move { verifier.verify_token_fetching(&token, NOW_MS).await.map(drop) }
    };
    // Many that come at once cost one question, and all have the answer.
    let all = futures_util::future::join_all((0..20).map(|_| check("ed-1"))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(*server.asked.borrow(), 1);

    server.answer.send_replace(Some(key_set("2")));
    assert_eq!(check("ed-2").await, Err(Error::UnknownKey));
    check("ed-1").await.unwrap();
    assert_eq!(*server.asked.borrow(), 1);
    pass(Duration::from_secs(29)).await;
    assert_eq!(check("ed-2").await, Err(Error::UnknownKey));
    assert_eq!(*server.asked.borrow(), 1);
    pass(Duration::from_secs(1)).await;
    check("ed-2").await.unwrap();
    assert_eq!(check("ed-1").await, Err(Error::UnknownKey));
    assert_eq!(*server.asked.borrow(), 2);
}

#[tokio::test]
async fn while_the_address_fails_the_known_keys_stay() {
    let server = key_server(Some(key_set("1"))).await;
    let verifier = by_address(&server);
    let known = sign(Algorithm::EdDSA, Some("ed-1"), &ann());
    let unknown = sign(Algorithm::EdDSA, Some("ed-2"), &ann());
    verifier.verify_token_fetching(&known, NOW_MS).await.unwrap();
    let too_long = format!("{{\"keys\":[{}]}}", " ".repeat(2 << 20));
    for (count, answer) in
        [(2, None), (3, Some("{broken".to_owned())), (4, Some(fixture("jwks.unusable.json"))), (5, Some(too_long))]
    {
        server.answer.send_replace(answer);
        pass(Duration::from_secs(31)).await;
        assert_eq!(verifier.verify_token_fetching(&unknown, NOW_MS).await.unwrap_err(), Error::UnknownKey);
        assert_eq!(*server.asked.borrow(), count);
        verifier.verify_token(&known, NOW_MS).unwrap();
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_spoil_the_answer_for_the_others() {
    let server = key_server(Some(key_set("1"))).await;
    let verifier = by_address(&server);
    let token = sign(Algorithm::EdDSA, Some("ed-1"), &ann());
    // Begun, and dropped before the answer can be there.
    assert!(futures_util::FutureExt::now_or_never(verifier.verify_token_fetching(&token, NOW_MS)).is_none());
    verifier.verify_token_fetching(&token, NOW_MS).await.unwrap();
    assert_eq!(*server.asked.borrow(), 1);
}

#[tokio::test]
async fn the_set_is_fetched_without_being_asked_for_and_again_after_minutes() {
    let server = key_server(None).await;
    let verifier = by_address(&server);
    let fresh = tokio::spawn(verifier.keep_fresh());
    server.asked.clone().wait_for(|count| *count == 1).await.unwrap();
    // Nothing is known yet, so it does not take five minutes until the next try.
    server.answer.send_replace(Some(key_set("1")));
    assert!(seconds_until_known(&verifier, "ed-1").await < 120);
    server.answer.send_replace(Some(key_set("2")));
    assert!(seconds_until_known(&verifier, "ed-2").await > 280);
    fresh.abort();
}

/// Lets second after second pass, each with a moment for the network, until an EdDSA token by the key `kid` counts.
async fn seconds_until_known(verifier: &Verifier, kid: &str) -> u32 {
    let token = sign(Algorithm::EdDSA, Some(kid), &ann());
    for seconds in 0..1_000 {
        if verifier.verify_token(&token, NOW_MS).is_ok() {
            return seconds;
        }
        pass(Duration::from_secs(1)).await;
        sleep(Duration::from_millis(5)).await;
    }
    panic!("{kid} is not known after many minutes");
}

#[test]
fn minted_tokens_count_here() {
    let settings = Settings { issuer: Some("me".into()), audience: vec!["app".into()], ..with_secret() };
    let request =
        Request { user: Some(UserName::parse("ann").unwrap()), can: Some(Capabilities::all()), ttl_ms: 60_000 };
    let token = Issuer::new(&settings).unwrap().mint(&request, NOW_MS);
    let principal = verifier(&settings).verify_token(&token, NOW_MS).unwrap();
    assert_eq!(principal.user, request.user);
    assert_eq!(principal.can.as_deref(), request.can.as_ref());
    assert_eq!(principal.expires_at_ms, NOW_MS + 65_000);
    let forever = Request { user: None, can: None, ttl_ms: u64::MAX };
    let token = Issuer::new(&settings).unwrap().mint(&forever, NOW_MS);
    assert_eq!(verifier(&settings).verify_token(&token, NOW_MS).unwrap().expires_at_ms, LATEST_MS);
    assert!(Issuer::new(&super::tests::settings()).is_none());
}
