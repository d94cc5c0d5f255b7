//! The command line: what it understands, and what it says and returns.

use std::{fmt, fmt::Write as _, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    app,
    auth::{ApiKey, Issuer, Request, Verifier},
    config::{Mode, Settings, Sources},
    domain::{name::UserName, principal::Capabilities, time::wall_now_ms},
    telemetry,
};

/// How long `health` waits for an answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// A presence service: who is here, right, over any number of instances.
#[derive(Debug, Parser)]
#[command(name = "rollcall", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until told to stop.
    Serve {
        /// Development mode, for trying out on this machine: a secret is made up, and nobody is asked for a key.
        #[arg(long)]
        dev: bool,
        #[command(flatten)]
        file: File,
    },
    /// Print a token for a user, signed with auth.hs256_secret.
    Token {
        /// Whom the token names.
        #[arg(long, value_parser = UserName::parse)]
        user: UserName,
        /// What it allows, as JSON: {"join":["room:*"],"watch":["room:**"]}. Without it, what the namespaces allow.
        #[arg(long, value_name = "JSON", value_parser = parse_capabilities)]
        can: Option<Capabilities>,
        /// How long it counts, such as 90s, 1h or 30days.
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
        ttl: Duration,
        /// Sign for a server that runs in development mode on this machine.
        #[arg(long)]
        dev: bool,
        #[command(flatten)]
        file: File,
    },
    /// Make a new API key; print it, this once, and the setting that lets it in.
    Key {
        /// What the key is called in settings and logs.
        #[arg(long)]
        name: String,
        /// What it may do: read, write and admin, joined by +, each for some channels only as in write(room:**).
        #[arg(long)]
        scopes: String,
    },
    /// Check the settings, and show what they come to, without secrets.
    Check {
        /// Check them for development mode.
        #[arg(long)]
        dev: bool,
        #[command(flatten)]
        file: File,
    },
    /// Bring what is stored in Redis to the form that this version reads.
    Migrate {
        #[command(flatten)]
        file: File,
    },
    /// Ask the server that runs with these settings whether it is ready; for containers.
    Health {
        #[command(flatten)]
        file: File,
    },
}

#[derive(Debug, Args)]
struct File {
    /// A file of settings (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why a command has failed.
enum Failure {
    /// The settings do not do; nothing was begun.
    Settings(String),
    /// What was begun has failed.
    Run(String),
}

/// Does what the process was called for, and says how it went: 0, 1 for a failure, 2 for settings or arguments that do not do.
pub async fn run() -> ExitCode {
    let command = CommandLine::parse().command;
    // Refused only when there is a provider already, which then does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (code, why) = match obey(command).await {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Settings(why)) => (2, why),
        Err(Failure::Run(why)) => (1, why),
    };
    eprintln!("rollcall: {why}");
    ExitCode::from(code)
}

async fn obey(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve { dev, file } => {
            let settings = file.load(mode(dev))?;
            settings.require_keys().map_err(unfit)?;
            telemetry::start().map_err(Failure::Settings)?;
            app::serve(settings, dev).await.map_err(|why| Failure::Run(why.to_string()))
        }
        Command::Token { user, can, ttl, dev, file } => {
            let issuer = Issuer::new(&file.load(mode(dev))?.auth).ok_or_else(|| {
                Failure::Settings(
                    "there is no `auth.hs256_secret` to sign a token with; with public keys their owner makes the \
                     tokens, and for a server in development mode add --dev"
                        .to_owned(),
                )
            })?;
            let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            println!("{}", issuer.mint(&Request { user: Some(user), can, ttl_ms }, wall_now_ms()));
            Ok(())
        }
        Command::Key { name, scopes } => {
            let (key, setting) = ApiKey::generate(&name, &scopes).map_err(Failure::Settings)?;
            println!("{key}\nROLLCALL__AUTH__API_KEYS={setting}");
            Ok(())
        }
        Command::Check { dev, file } => {
            let settings = file.load(mode(dev))?;
            settings.require_keys().map_err(unfit)?;
            // Reads the key files, which the settings alone do not.
            Verifier::new(&settings.auth, &settings.limits).map_err(Failure::Settings)?;
            print!("{}", describe(&settings));
            Ok(())
        }
        Command::Migrate { file } => {
            let settings = file.load(Mode::Normal)?;
            telemetry::start().map_err(Failure::Settings)?;
            app::migrate(settings).await.map_err(|why| Failure::Run(why.to_string()))
        }
        Command::Health { file } => health(&file.load(Mode::Normal)?).await,
    }
}

impl File {
    fn load(self, mode: Mode) -> Result<Settings, Failure> {
        Settings::load(&Sources::of_process(self.config), mode).map_err(unfit)
    }
}

fn mode(dev: bool) -> Mode {
    if dev { Mode::Development } else { Mode::Normal }
}

fn unfit(why: crate::config::Error) -> Failure {
    Failure::Settings(why.0)
}

fn parse_capabilities(text: &str) -> Result<Capabilities, serde_json::Error> {
    serde_json::from_str(text)
}

/// Asks `/readyz` where it is answered.
async fn health(settings: &Settings) -> Result<(), Failure> {
    let server = &settings.server;
    let listen = server.ops_listen.unwrap_or(server.listen);
    if listen.port() == 0 {
        return Err(Failure::Settings("the port is 0, so nobody knows which one the server has taken".to_owned()));
    }
    let scheme = if server.tls_cert.is_some() && server.ops_listen.is_none() { "https" } else { "http" };
    let address = format!("{scheme}://{}/readyz", reachable(listen));
    let failed = |why: reqwest::Error| Failure::Run(format!("{address} does not answer: {why}"));
    let client = reqwest::Client::builder()
        .timeout(HEALTH_TIMEOUT)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        // The certificate is for the name that clients use; here only the server's own word is wanted, on this machine.
        .danger_accept_invalid_certs(true)
        .build()
        .map_err(failed)?;
    match client.get(&address).send().await.map_err(failed)?.status() {
        status if status.is_success() => Ok(()),
        status => Err(Failure::Run(format!("{address} answers {status}"))),
    }
}

/// An address that means all of them is reached by that of this machine.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

/// The settings as they are effective, a line each, with secrets only said to be there.
fn describe(settings: &Settings) -> String {
    let Settings { server, redis, auth, presence, limits, namespace } = settings;
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn fmt::Debug| {
        let value = format!("{value:?}");
        // As people write them, who know no options.
        let value = match value.strip_prefix("Some(").and_then(|value| value.strip_suffix(')')) {
            Some(value) => value,
            None if value == "None" => "none",
            None => &value,
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name} = {value}");
    };
    // A key may stand in the text itself, and an address may hold a password.
    let given = |given: bool| given.then_some(format_args!("(given)"));
    line("server.listen", &server.listen);
    line("server.ops_listen", &server.ops_listen);
    line("server.allowed_origins", &server.allowed_origins);
    line("server.trusted_proxies", &server.trusted_proxies);
    line("server.tls_cert", &server.tls_cert);
    line("server.tls_key", &server.tls_key);
    line("server.websocket", &server.websocket);
    line("server.max_connections", &server.max_connections);
    line("server.hello_timeout_ms", &server.hello_timeout_ms);
    line("server.drain_ms", &server.drain_ms);
    line("server.slow_close_ms", &server.slow_close_ms);
    line("redis.url", &redis.shown_url());
    line("redis.prefix", &redis.prefix);
    line("redis.ca_file", &redis.ca_file);
    line("redis.partitions", &redis.partitions);
    line("auth.hs256_secret", &auth.hs256_secret);
    line("auth.public_keys", &given(!auth.public_keys.is_empty()));
    line("auth.jwks", &given(auth.jwks.is_some()));
    line("auth.issuer", &auth.issuer);
    line("auth.audience", &auth.audience);
    line("auth.leeway_ms", &auth.leeway_ms);
    line("auth.revocation_days", &auth.revocation_days);
    line("auth.resume_secret", &auth.resume_secret);
    line("auth.api_keys", &auth.api_keys);
    line("presence.ping_ms", &presence.ping_ms);
    line("presence.pong_timeout_ms", &presence.pong_timeout_ms);
    line("presence.grace_ms", &presence.grace_ms);
    line("presence.instance_lease_ms", &presence.instance_lease_ms);
    line("presence.instance_renew_ms", &presence.instance_renew_ms);
    line("presence.settle_ms", &presence.settle_ms);
    line("presence.audit_ms", &presence.audit_ms);
    line("presence.idle_after_ms", &presence.idle_after_ms);
    line("presence.away_after_ms", &presence.away_after_ms);
    line("presence.typing_ms", &presence.typing_ms);
    line("presence.last_seen_days", &presence.last_seen_days);
    line("presence.net_above", &presence.net_above);
    line("presence.occupancy_above", &presence.occupancy_above);
    line("limits.frame_bytes", &limits.frame_bytes);
    line("limits.state_bytes", &limits.state_bytes);
    line("limits.user_state_bytes", &limits.user_state_bytes);
    line("limits.channels_per_connection", &limits.channels_per_connection);
    line("limits.watched_users", &limits.watched_users);
    line("limits.watched_patterns", &limits.watched_patterns);
    line("limits.pattern_channels", &limits.pattern_channels);
    line("limits.signal_bytes", &limits.signal_bytes);
    line("limits.signals_per_second", &limits.signals_per_second);
    line("limits.operations_per_second", &limits.operations_per_second);
    line("limits.connections_per_user", &limits.connections_per_user);
    line("limits.connections_per_address", &limits.connections_per_address);
    line("limits.members_per_channel", &limits.members_per_channel);
    line("limits.revocations", &limits.revocations);
    for namespace in namespace {
        line("namespace", namespace);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_means_all_is_reached_by_that_of_this_machine() {
        for (listen, reached) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("127.0.0.2:1", "127.0.0.2:1"),
            ("[::1]:1", "[::1]:1"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), reached.parse().unwrap());
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        <CommandLine as clap::CommandFactory>::command().debug_assert();
    }
}
