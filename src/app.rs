//! The roof: builds the service, binds it, runs it, and stops it in order.

mod serving;

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use actix_web::{App, HttpServer, dev::ServerHandle, middleware::from_fn, web};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use self::serving::{direct, library, listen, tls_config};
use crate::{
    auth::{Issuer, ResumeKey, Verifier},
    config::Settings,
    core::{self, Core},
    domain::{partition::Terms, principal::Capabilities},
    doors::{
        Doors, audit::Audit, credentials, gate::Gate, ops, page, request, rest, settings::Carrier, sse, tickets, ws,
    },
    metrics::Metrics,
    store::{Feed, Store, memory::Memory, redis::Redis},
};

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");
type Failure = Box<dyn Error + Send + Sync>;

/// A service that is bound and answers. Dropping it leaves it running until the process ends; call [`Application::stop`].
pub struct Application {
    address: SocketAddr,
    scheme: &'static str,
    core: Arc<Core>,
    servers: Vec<(ServerHandle, JoinHandle<std::io::Result<()>>)>,
    drain: watch::Sender<bool>,
    drain_most: Duration,
    keys: JoinHandle<()>,
}

impl Application {
    /// Builds the service on the sockets that the settings name, and starts it.
    ///
    /// # Errors
    /// What kept it from starting: an address that is taken, a certificate or key that cannot be read, a Redis address that is none.
    pub async fn start(settings: Settings, is_development: bool) -> Result<Self, Failure> {
        let metrics = Metrics::new();
        ws::count_from_zero(&metrics);
        let instance: Arc<str> = format!("{:016x}", rand::random::<u64>()).into();
        let (store, feed) = store(&settings, &instance).await?;
        let core_settings = core::Settings {
            instance: instance.clone(),
            version: VERSION.into(),
            presence: settings.presence.clone(),
            limits: settings.limits.clone(),
            namespaces: settings.namespace.clone(),
            revocation_ms: u64::from(settings.auth.revocation_days) * 86_400_000,
            default_can: Arc::new(if is_development { Capabilities::all() } else { Capabilities::default() }),
        };
        let core = Core::start(store, feed, core_settings, metrics);
        let verifier = Arc::new(Verifier::new(&settings.auth, &settings.limits)?);
        let keys = tokio::spawn(verifier.keep_fresh());
        let (drain, draining) = watch::channel(false);
        let doors = web::Data::new(Doors {
            core: core.clone(),
            verifier,
            resume: ResumeKey::new(&settings.auth),
            issuer: is_development.then(|| Issuer::new(&settings.auth)).flatten(),
            server: settings.server.clone(),
            limits: settings.limits.clone(),
            audit: Audit::default(),
            tickets: tickets::Desk::default(),
            gate: Gate::new(settings.server.max_connections, settings.limits.connections_per_address),
            is_development,
            draining,
        });

        let listener = listen(settings.server.listen)?;
        let address = listener.local_addr()?;
        let tls = settings.server.tls_cert.as_deref().zip(settings.server.tls_key.as_deref());
        let tls = tls.map(|(certificates, key)| tls_config(certificates, key)).transpose()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let app = {
            let doors = doors.clone();
            move || {
                App::new()
                    .app_data(doors.clone())
                    .wrap(from_fn(credentials::only_this_machine))
                    .wrap(from_fn(request::observe))
                    .configure(ops::routes)
                    .configure(ws::routes)
                    .configure(sse::routes)
                    .configure(tickets::routes)
                    .configure(page::routes)
                    .configure(rest::routes)
            }
        };
        let main = match settings.server.websocket {
            Carrier::Library => library(app, listener, tls, settings.server.max_connections)?,
            Carrier::Direct => direct(app, listener, tls, settings.server.max_connections)?,
        };
        let mut servers = vec![spawn(main)];
        if let Some(ops_listen) = settings.server.ops_listen {
            let listener = listen(ops_listen)?;
            tracing::info!(address = %listener.local_addr()?, "operations are answered here");
            let ops = HttpServer::new(move || {
                App::new().app_data(doors.clone()).wrap(from_fn(request::observe)).configure(ops::open_routes)
            });
            servers.push(spawn(ops.workers(1).disable_signals().listen(listener)?.run()));
        }
        let drain_most = Duration::from_millis(settings.server.drain_ms);
        tracing::info!(%address, %instance, version = VERSION, "started");
        Ok(Self { address, scheme, core, servers, drain, drain_most, keys })
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Stops in order: not ready, every socket told to come back elsewhere and closed by us, what is still to be written written, the lease given
    /// back, the last requests answered.
    pub async fn stop(self) {
        let until = Instant::now() + self.drain_most;
        tracing::info!("stopping: telling the clients to come back elsewhere");
        self.drain.send_replace(true);
        while self.core.metrics().sockets.get() > 0 && Instant::now() < until {
            sleep(Duration::from_millis(10)).await;
        }
        self.core.stop(until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1))).await;
        self.keys.abort();
        for (handle, running) in self.servers {
            handle.stop(true).await;
            if let Ok(Err(error)) = running.await {
                tracing::warn!(%error, "a listener ended with an error");
            }
        }
        tracing::info!("stopped");
    }
}

/// Serves until the process is told to stop.
///
/// # Errors
/// What kept the service from starting.
pub async fn serve(settings: Settings, is_development: bool) -> Result<(), Failure> {
    let in_memory = settings.redis.url.is_none();
    let application = Application::start(settings, is_development).await?;
    let url = application.url();
    // The one line that programs read; people see the others.
    println!("listening on {url}");
    if in_memory {
        println!("presence is kept in the memory of this process: one instance; set ROLLCALL__REDIS__URL for several");
    }
    if is_development {
        println!("development mode: open {url}/ in a browser, in several tabs");
    }
    told_to_stop().await;
    application.stop().await;
    Ok(())
}

/// Brings what is stored in Redis to the form that this version reads.
///
/// # Errors
/// What kept it from being brought there.
pub async fn migrate(settings: Settings) -> Result<(), Failure> {
    if settings.redis.url.is_none() {
        println!("presence is kept in memory: there is nothing to migrate");
        return Ok(());
    }
    Redis::connect(&settings.redis, terms(&settings), "migrate", settings.presence.last_seen_days).await?;
    println!("the stored form is the one that this version reads");
    Ok(())
}

fn terms(settings: &Settings) -> Terms {
    let presence = &settings.presence;
    Terms { renew_ms: presence.instance_renew_ms, lease_ms: presence.instance_lease_ms, settle_ms: presence.settle_ms }
}

async fn store(settings: &Settings, instance: &str) -> Result<(Arc<dyn Store>, Arc<dyn Feed>), Failure> {
    let (terms, last_seen_days) = (terms(settings), settings.presence.last_seen_days);
    if settings.redis.url.is_none() {
        tracing::warn!("no Redis is configured: presence is kept in memory, for this one instance");
        let (memory, feed) = Memory::open(terms, instance, last_seen_days);
        return Ok((memory, feed));
    }
    let (redis, feed) = Redis::open(&settings.redis, terms, instance, last_seen_days).await?;
    Ok((redis, feed))
}

fn spawn(server: actix_web::dev::Server) -> (ServerHandle, JoinHandle<std::io::Result<()>>) {
    (server.handle(), tokio::spawn(server))
}

/// Waits for SIGTERM or SIGINT.
async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("the process may hear of signals");
    let mut interrupt = signal(SignalKind::interrupt()).expect("the process may hear of signals");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
