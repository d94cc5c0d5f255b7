//! Connections to Redis: how they are made, and what is asked of a server before it is used.

use std::{fmt, sync::Arc, time::Duration};

use deadpool_redis::{Manager, Pool, Runtime};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    PushInfo, RedisError, ServerErrorKind, TlsCertificates, aio::MultiplexedConnection, io::tcp::TcpSettings,
};

use crate::store::{
    Settings, StoreError,
    address::{Address, Kind},
};

/// How long Redis may take to answer. Longer than any call of ours takes, shorter than a lease.
pub const ANSWER: Duration = Duration::from_secs(3);
/// How long a connection may take to come about.
pub const CONNECT: Duration = Duration::from_secs(2);
/// How long somebody may take to say where the data is: others are asked at the same time.
const WHERE: Duration = Duration::from_secs(1);
/// The oldest Redis whose scripts and commands do what is needed.
const OLDEST: u32 = 7;
/// How many connections to one server plain reads share.
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

/// Whether the server itself has answered that it did nothing: then nothing is under way, and the connection is sound.
pub fn is_refusal(error: &RedisError) -> bool {
    // A connection to a server that has become a replica is of no more use.
    matches!(error.kind(), ErrorKind::Server(kind) if kind != ServerErrorKind::ReadOnly)
}

pub fn unusable(text: impl Into<String>) -> StoreError {
    StoreError::Unusable(text.into())
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Home {
    /// Where the settings say.
    Fixed,
    /// Where somebody said.
    At(Arc<str>, u16),
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed => f.write_str("the configured server"),
            Self::At(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// How connections are made to the Redis of the settings.
#[derive(Clone)]
pub struct Connector {
    kind: Kind,
    master: Option<Arc<str>>,
    seeds: Arc<[ConnectionInfo]>,
    template: ConnectionInfo,
}

impl Connector {
    /// Checks the settings; connects to nothing.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] with what is wrong with the settings.
    pub async fn new(settings: &Settings) -> Result<Self, StoreError> {
        let url = settings.url.as_deref().ok_or_else(|| unusable("`redis.url` is not set"))?;
        let address = Address::parse(url).map_err(unusable)?;
        let authorities = match &settings.ca_file {
            None => None,
            Some(_) if !address.is_tls => {
                return Err(unusable("`redis.ca_file` is set, but `redis.url` does not begin with `rediss`"));
            }
            Some(file) => {
                let pem = tokio::fs::read(file).await;
                Some(pem.map_err(|error| unusable(format!("`redis.ca_file` {}: {error}", file.display())))?)
            }
        };
        if address.is_tls {
            // Whoever was first has installed one; any will do.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let info = |url: &String| info(url, authorities.as_deref());
        Ok(Self {
            kind: address.kind,
            master: address.master.as_deref().map(Into::into),
            seeds: address.seeds.iter().map(info).collect::<Result<_, _>>()?,
            template: info(&address.template)?,
        })
    }

    /// What stands behind the settings.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// By which name Sentinels know the master.
    pub fn master(&self) -> &str {
        self.master.as_deref().unwrap_or_default()
    }

    /// Those that are asked first where the data is.
    pub fn seeds(&self) -> &[ConnectionInfo] {
        &self.seeds
    }

    /// How a server of the data is connected to.
    pub fn info(&self, home: &Home) -> ConnectionInfo {
        let Home::At(host, port) = home else { return self.template.clone() };
        let (host, port) = (host.to_string(), *port);
        let address = match self.template.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        self.template.clone().set_addr(address)
    }

    fn config() -> AsyncConnectionConfig {
        AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER)).set_connection_timeout(Some(CONNECT))
    }

    /// A connection for asking where the data is, to whatever is there.
    ///
    /// # Errors
    /// Where nobody answers.
    pub async fn ask_at(&self, info: ConnectionInfo) -> Result<MultiplexedConnection, StoreError> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(WHERE)).set_connection_timeout(Some(WHERE));
        connected(info, &config).await
    }

    /// A new connection to a server that has been found fit.
    ///
    /// # Errors
    /// Where it cannot be reached, is too old, or is something else than the settings say.
    pub async fn connect(&self, home: &Home) -> Result<MultiplexedConnection, StoreError> {
        let mut connection = connected(self.info(home), &Self::config()).await?;
        let info: String =
            redis::cmd("INFO").arg("server").query_async(&mut connection).await.map_err(|e| failed(&e))?;
        let find = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown").trim();
        let version = find("redis_version:");
        if version.split('.').next().and_then(|major| major.parse().ok()).is_none_or(|major: u32| major < OLDEST) {
            return Err(unusable(format!("this is Redis {version}; Rollcall needs {OLDEST}.0 or later")));
        }
        match (find("redis_mode:"), self.kind) {
            ("sentinel", _) => {
                Err(unusable("this is a Sentinel: `redis.url` is to be redis+sentinel://host/name-of-the-master then"))
            }
            ("cluster", Kind::Server | Kind::Sentinel) => {
                Err(unusable("this is a node of a Cluster: `redis.url` is to be redis+cluster://host then"))
            }
            ("standalone", Kind::Cluster) => {
                Err(unusable("this Redis is no Cluster: `redis.url` is to be redis://host then"))
            }
            _ => Ok(connection),
        }
    }

    /// A new connection that hears, and hands on what it hears as it comes.
    ///
    /// # Errors
    /// Where the server cannot be reached.
    pub async fn connect_ear(
        &self,
        home: &Home,
        hear: impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static,
    ) -> Result<MultiplexedConnection, StoreError> {
        let info = self.info(home);
        // The third protocol tells messages from answers, sharded subscriptions included.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        connected(info.set_redis_settings(settings), &Self::config().set_push_sender(hear)).await
    }

    /// Connections for plain reads, made when they are needed.
    ///
    /// # Errors
    /// Where the settings are wrong.
    pub fn pool(&self, home: &Home) -> Result<Pool, StoreError> {
        let manager = Manager::new_with_config(self.info(home), Self::config());
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

fn info(url: &str, authorities: Option<&[u8]>) -> Result<ConnectionInfo, StoreError> {
    let info = url.into_connection_info().map_err(|error| unusable(format!("`redis.url` is no address: {error}")))?;
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let Some(authorities) = authorities else { return Ok(info) };
    let certificates = TlsCertificates { client_tls: None, root_cert: Some(authorities.to_owned()) };
    let client = Client::build_with_tls(info, certificates);
    let client = client.map_err(|error| unusable(format!("`redis.ca_file`: {error}")))?;
    Ok(client.get_connection_info().clone())
}

async fn connected(info: ConnectionInfo, config: &AsyncConnectionConfig) -> Result<MultiplexedConnection, StoreError> {
    let client = Client::open(info).map_err(|error| unusable(format!("`redis.url`: {error}")))?;
    client.get_multiplexed_async_connection_with_config(config).await.map_err(|error| failed(&error))
}
