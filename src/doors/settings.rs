//! What the listeners need to know: `server.*`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};
use tokio::time::Instant;

/// The listeners: `server.*`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Where clients and app servers come in; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where readiness and metrics are answered without a key; without one they stand on the main port.
    #[serde(default)]
    pub ops_listen: Option<SocketAddr>,
    /// Origins (`https://app.example`) from which browsers may come; empty: only from the host that was asked.
    pub allowed_origins: Vec<String>,
    /// Networks whose word about a client's address is believed.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// The listener's certificates (PEM), the server's own first.
    #[serde(default)]
    pub tls_cert: Option<PathBuf>,
    /// The private key (PEM) of the listener's certificate.
    #[serde(default)]
    pub tls_key: Option<PathBuf>,
    /// What carries WebSockets.
    pub websocket: Carrier,
    /// How many sockets an instance holds.
    pub max_connections: usize,
    /// How long a fresh socket may take to say `hello`.
    pub hello_timeout_ms: u64,
    /// How long an instance that is told to stop takes for its goodbyes at most.
    pub drain_ms: u64,
    /// After how long without reading anything a watcher is closed.
    pub slow_close_ms: u64,
}

/// What carries WebSockets: `server.websocket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Carrier {
    /// actix-ws.
    #[serde(rename = "actix-ws")]
    Library,
    /// Sockets taken over from the HTTP server.
    #[serde(rename = "direct")]
    Direct,
}

impl Server {
    /// When a connection says goodbye if the instance begins to stop now. Drawn for each: the goodbyes are spread over a part of the
    /// time that there is for them.
    pub fn goodbye_at(&self) -> Instant {
        let spread = (self.drain_ms / 10).min(1_000);
        Instant::now() + Duration::from_millis(rand::random_range(0..=spread))
    }
}

/// A network, or a single address as a network of its own.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let network = |text: &String| {
        let text = text.trim();
        text.parse::<IpNet>()
            .or_else(|_| text.parse().map(|address: std::net::IpAddr| IpNet::from(address)))
            .map_err(|_| D::Error::custom(format!("`{text}` is neither an address nor a network such as 10.0.0.0/8")))
    };
    texts.iter().map(network).collect()
}
