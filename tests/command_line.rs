//! The binary, called as people call it.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::Digest as _;

const SECRET: &str = "hunter2-hunter2-hunter2-hunter2-hunter2";

/// Calls the binary with nothing in its environment but what is given, and a home that is its own.
fn rollcall(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let home = tempfile::tempdir().expect("a folder");
    Command::new(env!("CARGO_BIN_EXE_rollcall"))
        .args(arguments)
        .env_clear()
        .env("HOME", home.path())
        .envs(environment.iter().copied())
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What it says when it refuses: on standard error alone, for what it is, and not as a panic.
fn refused(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty());
    assert!(!text.contains("panicked") && !text.contains("backtrace"), "{text}");
    text
}

#[test]
fn without_keys_serve_and_check_say_which_two_lines_are_missing() {
    for command in ["serve", "check"] {
        let text = refused(&rollcall(&[command], &[]), 2);
        assert!(text.contains("\nROLLCALL__AUTH__HS256_SECRET="), "{text}");
        assert!(text.contains("\nROLLCALL__AUTH__API_KEYS=app:read+write:"), "{text}");
        assert!(text.contains("rollcall serve --dev"), "{text}");
    }
}

#[test]
fn the_lines_that_were_missing_can_be_pasted() {
    let text = refused(&rollcall(&["serve"], &[]), 2);
    let pasted: Vec<(&str, &str)> =
        text.lines().filter(|line| line.starts_with("ROLLCALL__")).filter_map(|line| line.split_once('=')).collect();
    let shown = stdout(&rollcall(&["check"], &pasted));
    assert!(shown.contains("auth.hs256_secret = (secret)\n"), "{shown}");
    assert!(shown.contains("auth.api_keys = [app:read+write]\n"), "{shown}");
}

#[test]
fn bad_settings_are_one_sentence_and_exit_code_2() {
    let key = ("ROLLCALL__AUTH__HS256_SECRET", SECRET);
    for (variable, value, part) in [
        ("ROLLCALL__SERVER__LISTN", "x", "there is no setting `server.listn`"),
        ("ROLLCALL__PRESENCE__INSTANCE_LEASE_MS", "5000", "`presence.instance_lease_ms` is 5000"),
        ("ROLLCALL__REDIS__URL", "redis+cluster://a,b/1", "a Cluster has one database"),
        ("ROLLCALL__AUTH__PUBLIC_KEYS", "/nowhere.pem", "the key file /nowhere.pem cannot be read"),
    ] {
        let text = refused(&rollcall(&["check"], &[key, (variable, value)]), 2);
        assert!(text.starts_with("rollcall: ") && text.contains(part), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let text = refused(&rollcall(&["check", "--config", "/nowhere.toml"], &[key]), 2);
    assert!(text.contains("/nowhere.toml cannot be read"), "{text}");
    refused(&rollcall(&["serve", "--unheard-of"], &[]), 2);
}

#[test]
fn check_shows_what_is_effective_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rollcall.toml");
    std::fs::write(&file, "[presence]\ngrace_ms = 7000\nping_ms = 9000\n[[namespace]]\nmatch = 'room:**'\n").unwrap();
    let shown = stdout(&rollcall(
        &["check", "--config", file.to_str().unwrap()],
        &[
            ("ROLLCALL__AUTH__HS256_SECRET", SECRET),
            ("ROLLCALL__AUTH__RESUME_SECRET", SECRET),
            ("ROLLCALL__REDIS__URL", "redis://ann:hunter2@db:6379/1"),
            ("ROLLCALL__PRESENCE__PING_MS", "8000"),
        ],
    ));
    for line in [
        "presence.grace_ms = 7000",
        "presence.ping_ms = 8000",
        "redis.url = \"redis://db:6379/1\"",
        "redis.ca_file = none",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} in {shown}");
    }
    assert!(shown.contains("room:**"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn check_shows_every_setting_of_the_manual() {
    let shown = stdout(&rollcall(&["check", "--dev"], &[]));
    let mut section = "";
    let mut count = 0;
    for line in rollcall::config::MANUAL.lines().take_while(|line| !line.contains("[[namespace]]")) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((name, _)) = line.trim_start_matches('#').split_once(" = ")
            && !name.contains(' ')
        {
            count += 1;
            let start = format!("{section}.{name} = ");
            assert!(shown.lines().any(|line| line.starts_with(&start)), "{start} in {shown}");
        }
    }
    assert_eq!(shown.lines().count(), count);
}

#[test]
fn development_mode_takes_no_address_that_others_reach() {
    let text = refused(&rollcall(&["serve", "--dev"], &[("ROLLCALL__SERVER__LISTEN", "0.0.0.0:0")]), 2);
    assert!(text.contains("`server.listen` is 0.0.0.0:0"), "{text}");
}

#[test]
fn the_secret_of_development_mode_is_kept_for_its_owner_alone() {
    let state = tempfile::tempdir().unwrap();
    let environment = [("XDG_STATE_HOME", state.path().to_str().unwrap())];
    stdout(&rollcall(&["check", "--dev"], &environment));
    let path = state.path().join("rollcall/development.secret");
    let made = std::fs::read(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    stdout(&rollcall(&["token", "--dev", "--user", "ann"], &environment));
    assert_eq!(std::fs::read(&path).unwrap(), made);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let text = refused(&rollcall(&["serve", "--dev"], &environment), 2);
    assert!(text.contains("mode 644"), "{text}");
}

#[test]
fn a_token_says_what_was_asked_for() {
    let can = r#"{"join":["room:*"]}"#;
    let text = stdout(&rollcall(
        &["token", "--user", "ann", "--can", can, "--ttl", "90s"],
        &[("ROLLCALL__AUTH__HS256_SECRET", SECRET), ("ROLLCALL__AUTH__AUDIENCE", "app")],
    ));
    let claims = URL_SAFE_NO_PAD.decode(text.trim().split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["sub"], "ann");
    assert_eq!(claims["aud"], "app");
    assert_eq!(claims["can"]["join"], serde_json::json!(["room:*"]));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 90);
}

#[test]
fn tokens_without_a_secret_or_for_no_user_are_refused() {
    let text = refused(&rollcall(&["token", "--user", "ann"], &[]), 2);
    assert!(text.contains("no `auth.hs256_secret`"), "{text}");
    let key = [("ROLLCALL__AUTH__HS256_SECRET", SECRET)];
    for arguments in [
        &["token", "--user", "a b"][..],
        &["token", "--user", "ann", "--can", r#"{"jion":[]}"#],
        &["token", "--user", "ann", "--ttl", "soon"],
    ] {
        refused(&rollcall(arguments, &key), 2);
    }
}

#[test]
fn a_key_is_printed_with_the_setting_that_lets_it_in() {
    let text = stdout(&rollcall(&["key", "--name", "app", "--scopes", "read+write(room:**)"], &[]));
    let (key, setting) = text.trim().split_once('\n').unwrap();
    let digest: String = sha2::Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(setting, format!("ROLLCALL__AUTH__API_KEYS=app:read+write(room:**):{digest}"));
    let shown = stdout(&rollcall(&["check"], &[setting.split_once('=').unwrap()]));
    assert!(shown.contains("auth.api_keys = [app:read+write(room:**)]"), "{shown}");
    let text = refused(&rollcall(&["key", "--name", "app", "--scopes", "reed"], &[]), 2);
    assert!(text.contains("`reed` is not one of the scopes"), "{text}");
}

/// A server that gives one answer to one request.
fn answering(status: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let length = socket.read(&mut request).unwrap();
        write!(socket, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    (address, asked)
}

#[test]
fn health_asks_whether_the_server_is_ready() {
    let (address, asked) = answering("200 OK");
    // A proxy that is set for the world outside has no part in it.
    let environment = [("ROLLCALL__SERVER__LISTEN", &*address), ("http_proxy", "http://127.0.0.1:1")];
    stdout(&rollcall(&["health"], &environment));
    assert!(asked.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));

    let (address, asked) = answering("503 Service Unavailable");
    let text = refused(&rollcall(&["health"], &[("ROLLCALL__SERVER__OPS_LISTEN", &address)]), 1);
    assert!(text.contains("answers 503"), "{text}");
    asked.join().unwrap();

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let text = refused(&rollcall(&["health"], &[("ROLLCALL__SERVER__LISTEN", &free)]), 1);
    assert!(text.contains("does not answer"), "{text}");
    refused(&rollcall(&["health"], &[("ROLLCALL__SERVER__LISTEN", "127.0.0.1:0")]), 2);
}
