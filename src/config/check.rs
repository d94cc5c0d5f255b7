//! Settings that cannot work, alone or together, are refused with a sentence that says which and why.

use std::{fmt::Display, ops::RangeInclusive};

use super::{Error, Settings};
use crate::{
    auth::ApiKey,
    domain::{
        secret::Secret,
        settings::{MAX_GRACE_MS, Namespace},
    },
    store::address::Address,
};

/// The shortest secret, bytes: as long as what the hash behind it gives (RFC 7518, 3.2).
const SECRET_BYTES: usize = 32;

pub(super) fn check(settings: &Settings) -> Result<(), Error> {
    server(settings)?;
    redis(settings)?;
    auth(settings)?;
    presence(settings)?;
    limits(settings)?;
    namespaces(settings)
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Error> {
    Err(Error(why.into()))
}

fn within<T: PartialOrd + Display>(name: &str, value: T, range: RangeInclusive<T>) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    refuse(format!("`{name}` is {value}, but must be from {} to {}", range.start(), range.end()))
}

fn server(settings: &Settings) -> Result<(), Error> {
    let server = &settings.server;
    within("server.max_connections", server.max_connections, 1..=1_000_000)?;
    within("server.hello_timeout_ms", server.hello_timeout_ms, 100..=60_000)?;
    within("server.drain_ms", server.drain_ms, 0..=300_000)?;
    within("server.slow_close_ms", server.slow_close_ms, 1_000..=600_000)?;
    match (&server.tls_cert, &server.tls_key) {
        (Some(_), None) => return refuse("`server.tls_cert` is set without `server.tls_key`: TLS needs both"),
        (None, Some(_)) => return refuse("`server.tls_key` is set without `server.tls_cert`: TLS needs both"),
        _ => {}
    }
    if server.ops_listen == Some(server.listen) && server.listen.port() != 0 {
        return refuse(format!(
            "`server.ops_listen` and `server.listen` are both {}: give them different ports, or leave the first out",
            server.listen
        ));
    }
    match server.allowed_origins.iter().find(|origin| !is_origin(origin)) {
        Some(origin) => refuse(format!(
            "`{origin}` in `server.allowed_origins` is no origin: that is a scheme and a host, with a port where it is \
             not the usual one, and nothing behind it, such as https://app.example"
        )),
        None => Ok(()),
    }
}

/// As browsers write them: lower case, no path, no slash at the end.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    !scheme.is_empty()
        && scheme.chars().all(|c| plain(c) || matches!(c, '+' | '-' | '.'))
        && !authority.is_empty()
        && authority.chars().all(|c| plain(c) || matches!(c, '-' | '.' | ':' | '[' | ']' | '_'))
}

fn redis(settings: &Settings) -> Result<(), Error> {
    let redis = &settings.redis;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if redis.prefix.is_empty() || redis.prefix.len() > 64 || !redis.prefix.chars().all(plain) {
        return refuse("`redis.prefix` must have 1 to 64 letters, digits, `-`, `_`, `.` or `:`");
    }
    within("redis.partitions", redis.partitions.unwrap_or(1), 1..=1024)?;
    let address = redis.url.as_deref().map(Address::parse).transpose().map_err(Error)?;
    if redis.ca_file.is_some() && !address.is_some_and(|address| address.is_tls) {
        return refuse(
            "`redis.ca_file` is set, but `redis.url` does not begin with rediss:// (or rediss+sentinel://, \
             rediss+cluster://), so no certificate is ever seen",
        );
    }
    Ok(())
}

fn auth(settings: &Settings) -> Result<(), Error> {
    let auth = &settings.auth;
    within("auth.leeway_ms", auth.leeway_ms, 0..=300_000)?;
    within("auth.revocation_days", auth.revocation_days, 1..=3_650)?;
    long_enough("auth.hs256_secret", auth.hs256_secret.as_ref())?;
    long_enough("auth.resume_secret", auth.resume_secret.as_ref())?;
    let names: Vec<&str> = auth.api_keys.iter().map(|key| &*key.name).collect();
    if let Some((_, name)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        return refuse(format!("two of `auth.api_keys` have the name `{name}`: logs could not tell them apart"));
    }
    let shared = auth.resume_secret.is_some() || auth.hs256_secret.is_some();
    if settings.redis.url.is_some() && auth.has_public_keys() && !shared {
        return refuse(
            "`auth.resume_secret` is missing: with `redis.url` and public keys alone, instances share nothing to sign \
             resume tokens with; set it to 32 random bytes or more, the same on every instance",
        );
    }
    Ok(())
}

fn long_enough(name: &str, secret: Option<&Secret>) -> Result<(), Error> {
    match secret.map(|secret| secret.expose().len()) {
        Some(length) if length < SECRET_BYTES => refuse(format!(
            "`{name}` has {length} bytes, but must have {SECRET_BYTES} or more: shorter ones can be guessed"
        )),
        _ => Ok(()),
    }
}

fn presence(settings: &Settings) -> Result<(), Error> {
    let presence = &settings.presence;
    within("presence.ping_ms", presence.ping_ms, 100..=300_000)?;
    within("presence.pong_timeout_ms", presence.pong_timeout_ms, 100..=300_000)?;
    within("presence.grace_ms", presence.grace_ms, 0..=MAX_GRACE_MS)?;
    within("presence.instance_lease_ms", presence.instance_lease_ms, 300..=300_000)?;
    within("presence.instance_renew_ms", presence.instance_renew_ms, 100..=60_000)?;
    within("presence.settle_ms", presence.settle_ms, 200..=60_000)?;
    within("presence.audit_ms", presence.audit_ms, 1_000..=86_400_000)?;
    within("presence.idle_after_ms", presence.idle_after_ms, 1_000..=86_400_000)?;
    within("presence.away_after_ms", presence.away_after_ms, 1_000..=86_400_000)?;
    within("presence.typing_ms", presence.typing_ms, 500..=60_000)?;
    within("presence.last_seen_days", presence.last_seen_days, 1..=3_650)?;
    within("presence.net_above", presence.net_above, 1..=1_000_000_000_000)?;
    within("presence.occupancy_above", presence.occupancy_above, 1..=1_000_000_000_000)?;
    if presence.occupancy_above <= presence.net_above {
        return refuse(format!(
            "`presence.occupancy_above` is {}, but must be more than `presence.net_above`, which is {}: watchers get \
             fewer changes before they get none",
            presence.occupancy_above, presence.net_above
        ));
    }
    let (lease, renew) = (presence.instance_lease_ms, presence.instance_renew_ms);
    // One step of presence time is a renewal and a second at most; a lease that two of them outrun dies of one lost answer.
    if lease < 2 * renew + 1_000 {
        return refuse(format!(
            "`presence.instance_lease_ms` is {lease}, but must be two renewals and a second or more, which is {} with \
             `presence.instance_renew_ms` = {renew}: else one late renewal ends the lease",
            2 * renew + 1_000
        ));
    }
    if presence.settle_ms < 2 * renew {
        return refuse(format!(
            "`presence.settle_ms` is {}, but must be two renewals or more, which is {} with \
             `presence.instance_renew_ms` = {renew}: instances learn of a new epoch when they renew, and need time to \
             say what they hold",
            presence.settle_ms,
            2 * renew
        ));
    }
    if presence.away_after_ms <= presence.idle_after_ms {
        return refuse(format!(
            "`presence.away_after_ms` is {}, but must be more than `presence.idle_after_ms`, which is {}: one is idle \
             before one is away",
            presence.away_after_ms, presence.idle_after_ms
        ));
    }
    Ok(())
}

fn limits(settings: &Settings) -> Result<(), Error> {
    let limits = &settings.limits;
    within("limits.frame_bytes", limits.frame_bytes, 1_024..=1_048_576)?;
    within("limits.state_bytes", limits.state_bytes, 0..=1_000_000)?;
    within("limits.user_state_bytes", limits.user_state_bytes, 0..=1_000_000)?;
    within("limits.channels_per_connection", limits.channels_per_connection, 1..=10_000)?;
    within("limits.watched_users", limits.watched_users, 0..=100_000)?;
    within("limits.watched_patterns", limits.watched_patterns, 0..=1_000)?;
    within("limits.pattern_channels", limits.pattern_channels, 1..=1_000_000)?;
    within("limits.signal_bytes", limits.signal_bytes, 0..=65_536)?;
    within("limits.signals_per_second", limits.signals_per_second, 1..=100_000)?;
    within("limits.revocations", limits.revocations, 1..=1_000_000)?;
    within("limits.operations_per_second", limits.operations_per_second, 1..=100_000)?;
    within("limits.connections_per_user", limits.connections_per_user, 1..=1_000)?;
    within("limits.connections_per_address", limits.connections_per_address, 1..=1_000_000)?;
    within("limits.members_per_channel", limits.members_per_channel, 1..=1_000_000)?;
    let largest = [
        ("limits.state_bytes", limits.state_bytes, "state"),
        ("limits.user_state_bytes", limits.user_state_bytes, "state of a user"),
        ("limits.signal_bytes", limits.signal_bytes, "signal"),
    ];
    for (name, most, what) in largest {
        let needed = most + 1_024;
        if limits.frame_bytes < needed {
            return refuse(format!(
                "`limits.frame_bytes` is {}, but must be 1024 more than `{name}` at least, which is {needed}: a full \
                 {what} would not fit into a frame",
                limits.frame_bytes
            ));
        }
    }
    Ok(())
}

fn namespaces(settings: &Settings) -> Result<(), Error> {
    for (at, namespace) in settings.namespace.iter().enumerate() {
        let name = namespace.pattern.as_str();
        if let Some(grace) = namespace.grace_ms {
            within(&format!("grace_ms of the namespace {name}"), grace, 0..=MAX_GRACE_MS)?;
        }
        if let Some(members) = namespace.max_members {
            within(&format!("max_members of the namespace {name}"), members, 1..=1_000_000)?;
        }
        let covers = |earlier: &&Namespace| earlier.pattern == namespace.pattern || earlier.pattern.as_str() == "**";
        if let Some(earlier) = settings.namespace[..at].iter().find(covers) {
            return refuse(format!(
                "the namespace {name} never counts, because {} stands before it and matches all of its channels",
                earlier.pattern.as_str()
            ));
        }
    }
    Ok(())
}

pub(super) fn require_keys(settings: &Settings) -> Result<(), Error> {
    use base64::Engine as _;
    if settings.auth.has_token_key() || !settings.auth.api_keys.is_empty() {
        return Ok(());
    }
    let secret = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let (key, setting) = ApiKey::generate("app", "read+write").expect("the name and the scopes are sound");
    refuse(format!(
        "there is no key by which anybody could come in. Two lines are missing; these were made up just now:\n\
         \n\
         ROLLCALL__AUTH__HS256_SECRET={secret}\n\
         ROLLCALL__AUTH__API_KEYS={setting}\n\
         \n\
         With the first your server signs its users' tokens, by the second it comes in itself, with the API key\n\
         {key} (kept nowhere but here).\n\
         To try Rollcall out on this machine, without keys: rollcall serve --dev"
    ))
}
