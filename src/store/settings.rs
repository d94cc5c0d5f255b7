//! Where presence is kept: `redis.*`.

use std::{fmt, path::PathBuf};

use serde::Deserialize;

/// Where presence is kept: `redis.*`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The address of Redis, with its password; without one, presence is kept in the memory of the one instance there is.
    #[serde(default)]
    pub url: Option<String>,
    /// What every key and feed begins with.
    pub prefix: String,
    /// A file of certificates (PEM) that sign for Redis, instead of the usual authorities.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Over how many hash tags presence is spread; fixed at the first start. None: what suits the kind of Redis.
    #[serde(default)]
    pub partitions: Option<u16>,
}

impl Settings {
    /// The address without the user and the password that it may carry, for logs.
    pub fn shown_url(&self) -> Option<String> {
        self.url.as_deref().map(without_credentials)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("url", &self.shown_url())
            .field("prefix", &self.prefix)
            .field("ca_file", &self.ca_file)
            .field("partitions", &self.partitions)
            .finish()
    }
}

/// Cuts what stands between `://` and the last `@` of the authority, and the query, where `unix:` addresses carry `pass=`.
fn without_credentials(url: &str) -> String {
    let url = url.split('?').next().unwrap_or(url);
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    // A password may hold a slash that was not escaped: cutting at the last `@` of all cannot show too much.
    let shown = rest.rsplit_once('@').map_or(rest, |(_, shown)| shown);
    format!("{scheme}://{shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_logs_nor_debugging_show_the_password_of_redis() {
        for (url, shown) in [
            ("redis://ann:hunter2@db:6379/1", "redis://db:6379/1"),
            ("rediss://:hun@ter2@db", "rediss://db"),
            ("redis://:hun/ter2@db/0", "redis://db/0"),
            ("unix:/run/redis.sock?pass=hunter2&db=1", "unix:/run/redis.sock"),
            ("redis://db/?protocol=resp3", "redis://db/"),
        ] {
            let settings =
                Settings { url: Some(url.into()), prefix: "rollcall".into(), ca_file: None, partitions: None };
            assert_eq!(settings.shown_url().as_deref(), Some(shown));
            assert!(!format!("{settings:?}").contains("ter2"), "{settings:?}");
        }
    }
}
