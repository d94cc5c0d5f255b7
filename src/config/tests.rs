use std::{ffi::OsString, fs, path::PathBuf};

use super::*;
use crate::domain::level::Level;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn load(pairs: &[(&str, &str)]) -> Result<Settings, String> {
    Settings::load(&Sources { file: None, environment: environment(pairs) }, Mode::Normal).map_err(|why| why.0)
}

/// A settings file that lasts as long as the folder.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rollcall.toml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn load_file(text: &str, pairs: &[(&str, &str)]) -> Result<Settings, String> {
    let (_folder, path) = file(text);
    Settings::load(&Sources { file: Some(path), environment: environment(pairs) }, Mode::Normal).map_err(|why| why.0)
}

#[test]
fn the_defaults_are_those_of_the_protocol() {
    let settings = load(&[]).unwrap();
    assert_eq!(settings.server.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(settings.server.max_connections, 100_000);
    let presence = &settings.presence;
    assert_eq!((presence.ping_ms, presence.pong_timeout_ms, presence.grace_ms), (25_000, 10_000, 15_000));
    assert_eq!((presence.instance_lease_ms, presence.instance_renew_ms, presence.settle_ms), (10_000, 3_000, 7_000));
    let limits = &settings.limits;
    assert_eq!((limits.frame_bytes, limits.state_bytes, limits.channels_per_connection), (65_536, 4_096, 128));
    assert_eq!((settings.redis.url, &*settings.redis.prefix), (None, "rollcall"));
    assert!(settings.namespace.is_empty());
}

#[test]
fn the_manual_names_every_setting_and_no_other() {
    // With the marks before names without a default taken away, every line is read by the types, which know no others.
    let given: String = MANUAL
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let settings: Settings = Config::builder()
        .add_source(config::File::from_str(&given, FileFormat::Toml))
        .build()
        .and_then(Config::try_deserialize)
        .unwrap();
    // And what may be absent is all there, so that nothing is missing from the manual.
    assert!(settings.server.ops_listen.is_some() && settings.server.tls_cert.is_some());
    assert!(settings.server.tls_key.is_some());
    assert!(settings.redis.url.is_some() && settings.redis.ca_file.is_some() && settings.redis.partitions.is_some());
    assert!(settings.auth.hs256_secret.is_some() && settings.auth.jwks.is_some() && settings.auth.issuer.is_some());
    assert!(settings.auth.resume_secret.is_some());
    let namespace = &settings.namespace[0];
    assert!(namespace.grace_ms.is_some() && namespace.max_members.is_some());
    assert!(namespace.level.is_some() && namespace.can.is_some());
    let names = manual_names();
    assert!(LISTS.iter().all(|list| names.iter().any(|name| name == list)));
    let found = config::File::from_str(&given, FileFormat::Toml).collect().unwrap();
    let settings_of = |value: &Value| value.clone().into_table().map(|table| table.len()).unwrap_or_default();
    assert_eq!(names.len(), found.values().map(settings_of).sum::<usize>(), "{names:?}");
    check_names(&found, &names, Path::new("manual")).unwrap();
}

#[test]
fn the_environment_counts_more_than_the_file_and_the_file_more_than_the_defaults() {
    let text = "[presence]\ngrace_ms = 1000\nping_ms = 2000\n[auth]\naudience = ['file']";
    let settings = load_file(text, &[("ROLLCALL__PRESENCE__PING_MS", "3000"), ("OTHER", "x")]).unwrap();
    assert_eq!(settings.presence.grace_ms, 1_000);
    assert_eq!(settings.presence.ping_ms, 3_000);
    assert_eq!(settings.presence.pong_timeout_ms, 10_000);
    assert_eq!(settings.auth.audience, ["file"]);
    let settings = load_file(text, &[("ROLLCALL__AUTH__AUDIENCE", "one, two")]).unwrap();
    assert_eq!(settings.auth.audience, ["one", "two"]);
    // As compose files write what is not set.
    let settings = load_file(text, &[("ROLLCALL__AUTH__AUDIENCE", ""), ("ROLLCALL__REDIS__URL", "")]).unwrap();
    assert_eq!(settings.auth.audience, ["file"]);
    assert_eq!(settings.redis.url, None);
}

#[test]
fn lists_come_by_comma_and_a_comma_in_a_pattern_separates_nothing() {
    let digest = "0f".repeat(32);
    let keys = format!("app:read+write(a,b:**):{digest},other:admin:{digest}");
    let settings = load(&[
        ("ROLLCALL__AUTH__API_KEYS", &keys),
        ("ROLLCALL__SERVER__TRUSTED_PROXIES", "10.0.0.0/8,::1,192.168.1.7"),
        ("ROLLCALL__SERVER__ALLOWED_ORIGINS", "https://app.example,http://localhost:3000"),
    ])
    .unwrap();
    let shown: Vec<String> = settings.auth.api_keys.iter().map(ToString::to_string).collect();
    assert_eq!(shown, [format!("app:read+write(a,b:**):{digest}"), format!("other:admin:{digest}")]);
    let proxies: Vec<String> = settings.server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.0.0.0/8", "::1/128", "192.168.1.7/32"]);
    assert_eq!(settings.server.allowed_origins, ["https://app.example", "http://localhost:3000"]);
}

#[test]
fn a_secret_may_stand_in_a_file() {
    let (_folder, path) = file(&format!("{SECRET}\n"));
    let path = path.to_str().unwrap();
    let settings = load(&[("ROLLCALL__AUTH__HS256_SECRET_FILE", path)]).unwrap();
    assert_eq!(settings.auth.hs256_secret.unwrap().expose(), SECRET);
    let why =
        load(&[("ROLLCALL__AUTH__HS256_SECRET_FILE", path), ("ROLLCALL__AUTH__HS256_SECRET", SECRET)]).unwrap_err();
    assert!(why.contains("`auth.hs256_secret` is given a value twice"), "{why}");
    let why = load(&[("ROLLCALL__AUTH__HS256_SECRET_FILE", "/nowhere")]).unwrap_err();
    assert!(why.contains("/nowhere, named by ROLLCALL__AUTH__HS256_SECRET_FILE, cannot be read"), "{why}");
    // A setting whose own name ends so is not mistaken for one.
    let settings = load(&[("ROLLCALL__REDIS__CA_FILE", "/ca"), ("ROLLCALL__REDIS__URL", "rediss://db")]).unwrap();
    assert_eq!(settings.redis.ca_file, Some("/ca".into()));
}

#[test]
fn unknown_settings_are_named() {
    for (variable, name) in [
        ("ROLLCALL__SERVER__LISTN", "`server.listn`"),
        ("ROLLCALL__LISTEN", "`listen`"),
        ("ROLLCALL__SERVER", "`server`"),
        ("ROLLCALL__SERVER__LISTN_FILE", "`server.listn`"),
        ("ROLLCALL__NAMESPACE__GRACE_MS", "namespaces are set in a file"),
    ] {
        let why = load(&[(variable, "x")]).unwrap_err();
        assert!(why.contains(name) && why.contains(variable), "{why}");
    }
    for (text, name) in [
        ("[server]\nlistn = 1", "`server.listn`"),
        ("[sever]\nlisten = 1", "`sever.listen`"),
        ("[sever]", "`sever`"),
        ("listen = 1", "`listen`"),
        ("[[namespace]]\nmatch = 'a'\ngrace = 1", "`grace`"),
        ("[[namespace]]\nmatch = 'a'\ncan = { jion = [] }", "`jion`"),
    ] {
        let why = load_file(text, &[]).unwrap_err();
        assert!(why.contains(name), "{why}");
    }
}

#[test]
fn values_of_the_wrong_form_are_named_with_their_source() {
    let why = load(&[("ROLLCALL__LIMITS__STATE_BYTES", "many")]).unwrap_err();
    assert!(why.contains("limits.state_bytes") && why.contains("ROLLCALL__LIMITS__STATE_BYTES"), "{why}");
    let why = load(&[("ROLLCALL__SERVER__LISTEN", "localhost")]).unwrap_err();
    assert!(why.contains("server.listen"), "{why}");
    let why = load(&[("ROLLCALL__SERVER__TRUSTED_PROXIES", "proxy")]).unwrap_err();
    assert!(why.contains("`proxy` is neither an address nor a network"), "{why}");
    let why = load(&[("ROLLCALL__AUTH__API_KEYS", "app:read:hunter2")]).unwrap_err();
    assert!(why.contains("64 hexadecimal digits") && !why.contains("hunter2"), "{why}");
    let why = load_file("[auth]\napi_keys = 'hunter2'", &[]).unwrap_err();
    assert!(why.contains("`auth.api_keys` must be a list") && !why.contains("hunter2"), "{why}");
    let why = load_file("[presence]\ngrace_ms = -1", &[]).unwrap_err();
    assert!(why.contains("presence.grace_ms"), "{why}");
    let why = load_file("[presence", &[]).unwrap_err();
    assert!(why.contains("is no TOML"), "{why}");
    let missing = Sources { file: Some("/nowhere.toml".into()), environment: Vec::new() };
    assert!(Settings::load(&missing, Mode::Normal).unwrap_err().0.contains("/nowhere.toml cannot be read"));
}

#[test]
fn settings_that_cannot_work_together_are_refused_with_a_sentence() {
    let digest = "0f".repeat(32);
    let twice = format!("app:read:{digest},app:write:{digest}");
    let short = "0123456789abcdef0123456789abcde";
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("SERVER__TLS_CERT", "/c")], "`server.tls_cert` is set without `server.tls_key`"),
        (&[("SERVER__TLS_KEY", "/k")], "`server.tls_key` is set without `server.tls_cert`"),
        (&[("SERVER__OPS_LISTEN", "127.0.0.1:8080")], "`server.ops_listen` and `server.listen` are both"),
        (&[("SERVER__ALLOWED_ORIGINS", "app.example")], "`app.example` in `server.allowed_origins` is no origin"),
        (&[("SERVER__ALLOWED_ORIGINS", "https://app.example/")], "is no origin"),
        (&[("SERVER__ALLOWED_ORIGINS", "*")], "is no origin"),
        (&[("REDIS__URL", "redis+sentinel://a:hunter2@b")], "the name of the master"),
        (&[("REDIS__URL", "redis+cluster://a,b/1")], "a Cluster has one database"),
        (&[("REDIS__URL", "http://hunter2")], "`redis.url` must begin with"),
        (&[("REDIS__URL", "hunter2")], "`redis.url` must begin with"),
        (&[("REDIS__URL", "redis://db"), ("REDIS__CA_FILE", "/ca")], "`redis.ca_file` is set, but"),
        (&[("REDIS__CA_FILE", "/ca")], "`redis.ca_file` is set, but"),
        (&[("REDIS__PREFIX", "a{b}")], "`redis.prefix` must have"),
        (&[("REDIS__PARTITIONS", "0")], "`redis.partitions` is 0, but must be from 1 to 1024"),
        (&[("AUTH__HS256_SECRET", short)], "`auth.hs256_secret` has 31 bytes, but must have 32"),
        (&[("AUTH__RESUME_SECRET", short)], "`auth.resume_secret` has 31 bytes, but must have 32"),
        (&[("AUTH__API_KEYS", &twice)], "two of `auth.api_keys` have the name `app`"),
        (&[("REDIS__URL", "redis://db"), ("AUTH__JWKS", "/keys")], "`auth.resume_secret` is missing"),
        (&[("REDIS__URL", "redis://db"), ("AUTH__PUBLIC_KEYS", "/key")], "`auth.resume_secret` is missing"),
        (&[("PRESENCE__INSTANCE_LEASE_MS", "6999")], "must be two renewals and a second or more, which is 7000"),
        (&[("PRESENCE__SETTLE_MS", "5999")], "must be two renewals or more, which is 6000"),
        (&[("PRESENCE__AWAY_AFTER_MS", "60000")], "must be more than `presence.idle_after_ms`, which is 60000"),
        (&[("PRESENCE__GRACE_MS", "300001")], "`presence.grace_ms` is 300001, but must be from 0 to 300000"),
        (&[("PRESENCE__PING_MS", "0")], "`presence.ping_ms` is 0, but must be from 100"),
        (&[("LIMITS__FRAME_BYTES", "5119")], "`limits.state_bytes` at least, which is 5120"),
        (&[("LIMITS__OPERATIONS_PER_SECOND", "0")], "`limits.operations_per_second` is 0"),
    ];
    for (pairs, part) in cases {
        let names: Vec<String> = pairs.iter().map(|(name, _)| format!("ROLLCALL__{name}")).collect();
        let pairs: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(pairs.iter().map(|pair| pair.1)).collect();
        let why = load(&pairs).expect_err(part);
        assert!(why.contains(part), "{why}");
        assert!(!why.contains("hunter2") && !why.contains(short), "{why}");
    }
}

#[test]
fn what_lies_just_within_the_bounds_is_taken() {
    let cases: &[&[(&str, &str)]] = &[
        &[("ROLLCALL__PRESENCE__INSTANCE_LEASE_MS", "7000"), ("ROLLCALL__PRESENCE__SETTLE_MS", "6000")],
        &[("ROLLCALL__PRESENCE__GRACE_MS", "0"), ("ROLLCALL__LIMITS__FRAME_BYTES", "5120")],
        &[("ROLLCALL__AUTH__HS256_SECRET", SECRET), ("ROLLCALL__REDIS__URL", "redis://db")],
        &[
            ("ROLLCALL__AUTH__JWKS", "/keys"),
            ("ROLLCALL__REDIS__URL", "unix:/run/redis.sock"),
            ("ROLLCALL__AUTH__RESUME_SECRET", SECRET),
        ],
        &[("ROLLCALL__AUTH__JWKS", "/keys")],
        &[("ROLLCALL__SERVER__OPS_LISTEN", "127.0.0.1:0"), ("ROLLCALL__SERVER__LISTEN", "127.0.0.1:0")],
        &[("ROLLCALL__SERVER__TLS_CERT", "/c"), ("ROLLCALL__SERVER__TLS_KEY", "/k")],
    ];
    for pairs in cases {
        load(pairs).unwrap();
    }
}

#[test]
fn namespaces_are_read_in_order_and_one_that_never_counts_is_refused() {
    let settings = load_file(
        "[[namespace]]\nmatch = 'room:vip'\ngrace_ms = 0\nmax_members = 5\nlevel = 'occupancy'\npresence = false\n\
         client_state = false\ncan = { join = ['room:*'], status = true }\n[[namespace]]\nmatch = 'room:**'",
        &[],
    )
    .unwrap();
    let [vip, rooms] = &settings.namespace[..] else { panic!("{:?}", settings.namespace) };
    assert_eq!((vip.grace_ms, vip.max_members, vip.level), (Some(0), Some(5), Some(Level::Occupancy)));
    assert!(!vip.presence && !vip.client_state);
    let can = vip.can.as_ref().unwrap();
    assert!(can.status && can.join[0].matches("room:1") && can.watch.is_empty());
    assert_eq!((rooms.grace_ms, rooms.level, rooms.can.as_ref()), (None, None, None));
    assert!(rooms.presence && rooms.client_state);
    for (text, part) in [
        ("[[namespace]]\nmatch='**'\n[[namespace]]\nmatch='a'", "the namespace a never counts, because **"),
        ("[[namespace]]\nmatch='a'\n[[namespace]]\nmatch='a'", "the namespace a never counts, because a"),
        ("[[namespace]]\nmatch='a'\ngrace_ms=300001", "`grace_ms of the namespace a` is 300001"),
        ("[[namespace]]\nmatch='a'\nmax_members=0", "`max_members of the namespace a` is 0"),
        ("[[namespace]]\nmatch='a**'", "whole segment"),
        ("[[namespace]]\ngrace_ms=1", "match"),
    ] {
        let why = load_file(text, &[]).expect_err(text);
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn development_mode_makes_up_a_secret_and_stays_on_this_machine() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().to_str().unwrap();
    let load = |pairs: &[(&str, &str)]| {
        let mut environment = environment(pairs);
        environment.push(("XDG_STATE_HOME".into(), home.into()));
        Settings::load(&Sources { file: None, environment }, Mode::Development).map_err(|why| why.0)
    };
    let made = load(&[]).unwrap().auth.hs256_secret.unwrap();
    assert_eq!(load(&[]).unwrap().auth.hs256_secret, Some(made));
    let given = load(&[("ROLLCALL__AUTH__HS256_SECRET", SECRET)]).unwrap().auth.hs256_secret.unwrap();
    assert_eq!(given.expose(), SECRET);
    assert!(load(&[("ROLLCALL__SERVER__LISTEN", "[::1]:0")]).is_ok());
    for (variable, address) in [
        ("ROLLCALL__SERVER__LISTEN", "0.0.0.0:8080"),
        ("ROLLCALL__SERVER__LISTEN", "[::]:8080"),
        ("ROLLCALL__SERVER__OPS_LISTEN", "192.168.1.7:9090"),
    ] {
        let why = load(&[(variable, address)]).unwrap_err();
        assert!(why.contains(address) && why.contains("only addresses of this machine"), "{why}");
    }
}

#[test]
fn without_any_key_the_two_missing_lines_can_be_pasted() {
    let why = load(&[]).unwrap().require_keys().unwrap_err().0;
    let pasted: Vec<(&str, &str)> =
        why.lines().filter(|line| line.starts_with("ROLLCALL__")).filter_map(|line| line.split_once('=')).collect();
    assert_eq!(pasted.len(), 2, "{why}");
    load(&pasted).unwrap().require_keys().unwrap();
    load(&pasted[..1]).unwrap().require_keys().unwrap();
    load(&pasted[1..]).unwrap().require_keys().unwrap();
    load(&[("ROLLCALL__AUTH__JWKS", "/keys")]).unwrap().require_keys().unwrap();
}

#[test]
fn secrets_are_not_shown_by_debugging() {
    let settings = load(&[
        ("ROLLCALL__AUTH__HS256_SECRET", "hunter2-hunter2-hunter2-hunter2-hunter2"),
        ("ROLLCALL__AUTH__RESUME_SECRET", "hunter2-hunter2-hunter2-hunter2-hunter2"),
        ("ROLLCALL__REDIS__URL", "redis://:hunter2@db"),
    ])
    .unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
}
