//! Connections to Redis: how they are made, and what is asked of a server before it is used.

use std::time::Duration;

use deadpool_redis::{Manager, Pool, Runtime};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, RedisError, ServerErrorKind, TlsCertificates,
    aio::MultiplexedConnection, io::tcp::TcpSettings,
};

use crate::store::{Settings, StoreError};

/// How long Redis may take to answer. Longer than any call of ours takes, shorter than a lease.
pub const ANSWER: Duration = Duration::from_secs(3);
/// How long a connection may take to come about.
pub const CONNECT: Duration = Duration::from_secs(2);
/// The oldest Redis whose scripts and commands do what is needed.
const OLDEST: u32 = 7;
/// How many connections plain reads share.
const READERS: usize = 4;

/// Errors of the driver end here. Addresses and passwords do not stand in them.
pub fn failed(error: &RedisError) -> StoreError {
    match error.kind() {
        // A script that failed, or a key of another type: it will fail again.
        ErrorKind::Server(ServerErrorKind::ResponseError | ServerErrorKind::NoPerm)
        | ErrorKind::UnexpectedReturnType
        | ErrorKind::Parse
        | ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig => StoreError::Unusable(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

fn unusable(text: impl Into<String>) -> StoreError {
    StoreError::Unusable(text.into())
}

/// How connections are made to the Redis of the settings.
#[derive(Clone)]
pub struct Connector {
    client: Client,
}

impl Connector {
    /// Checks the settings; connects to nothing.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] with what is wrong with the settings.
    pub async fn new(settings: &Settings) -> Result<Self, StoreError> {
        let url = settings.url.as_deref().ok_or_else(|| unusable("`redis.url` is not set"))?;
        let scheme = url.split(':').next().unwrap_or_default();
        if !["redis", "rediss", "unix", "redis+unix"].contains(&scheme) {
            return Err(unusable("`redis.url` must begin with `redis://`, `rediss://` or `unix:`"));
        }
        let info =
            url.into_connection_info().map_err(|error| unusable(format!("`redis.url` is no address: {error}")))?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        if scheme == "rediss" {
            // Whoever was first has installed one; any will do.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = match &settings.ca_file {
            None => Client::open(info),
            Some(_) if scheme != "rediss" => {
                return Err(unusable("`redis.ca_file` is set, but `redis.url` does not begin with `rediss://`"));
            }
            Some(file) => {
                let pem = tokio::fs::read(file).await;
                let pem = pem.map_err(|error| unusable(format!("`redis.ca_file` {}: {error}", file.display())))?;
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(pem) })
            }
        };
        Ok(Self { client: client.map_err(|error| unusable(format!("`redis.url`: {error}")))? })
    }

    fn config() -> AsyncConnectionConfig {
        AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER)).set_connection_timeout(Some(CONNECT))
    }

    /// A new connection to a server that has been found fit.
    ///
    /// # Errors
    /// Where it cannot be reached, or is too old.
    pub async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&Self::config())
            .await
            .map_err(|error| failed(&error))?;
        let info: String =
            redis::cmd("INFO").arg("server").query_async(&mut connection).await.map_err(|e| failed(&e))?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("unknown").trim();
        if version.split('.').next().and_then(|major| major.parse().ok()).is_none_or(|major: u32| major < OLDEST) {
            return Err(unusable(format!("this is Redis {version}; Rollcall needs {OLDEST}.0 or later")));
        }
        Ok(connection)
    }

    /// A new connection that does nothing but hear.
    ///
    /// # Errors
    /// Where the server cannot be reached.
    pub async fn connect_pubsub(&self) -> Result<redis::aio::PubSub, StoreError> {
        let connection = tokio::time::timeout(CONNECT, self.client.get_async_pubsub()).await;
        let connection = connection.map_err(|_| StoreError::Unavailable("connecting took too long".into()))?;
        connection.map_err(|error| failed(&error))
    }

    /// Connections for plain reads, made when they are needed.
    ///
    /// # Errors
    /// Where the settings are wrong.
    pub fn pool(&self) -> Result<Pool, StoreError> {
        let manager = Manager::new_with_config(self.client.get_connection_info().clone(), Self::config());
        Pool::builder(manager.map_err(|error| failed(&error))?)
            .max_size(READERS)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(ANSWER))
            .create_timeout(Some(CONNECT))
            .recycle_timeout(Some(ANSWER))
            .build()
            .map_err(|error| unusable(error.to_string()))
    }
}
