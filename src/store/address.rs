//! Where Redis is: one server, a Sentinel that knows the master, or a Cluster.

/// What stands behind `redis.url`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One server, always at the same place.
    Server,
    /// A master and its replicas, which Sentinels watch.
    Sentinel,
    /// Several masters, each with a part of the slots.
    Cluster,
}

/// A `redis.url` that has been read. It may hold passwords, so that it shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// What stands there.
    pub kind: Kind,
    /// Whether the way there is encrypted.
    pub is_tls: bool,
    /// The servers to begin with, each as an address of its own: the server, the Sentinels or some nodes of the Cluster.
    pub seeds: Vec<String>,
    /// The same as an address of the data's servers: to connect to one its host and port are put in place of those that stand here.
    pub template: String,
    /// By which name the Sentinels know the master.
    pub master: Option<String>,
}

impl Address {
    /// Reads an address: `redis://`, `rediss://`, `unix:`, `redis+sentinel://h1,h2/master` or `redis+cluster://h1,h2`, the latter two with `rediss+` too.
    ///
    /// A Sentinel's own password comes as `?sentinel_password=`, with `sentinel_username=` where it has users; a database of the master behind its name.
    ///
    /// # Errors
    /// What is wrong, without repeating any of the address.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once(':').ok_or(SCHEMES)?;
        let (is_tls, kind) = match scheme {
            "redis" | "unix" | "redis+unix" => (false, Kind::Server),
            "rediss" => (true, Kind::Server),
            "redis+sentinel" => (false, Kind::Sentinel),
            "rediss+sentinel" => (true, Kind::Sentinel),
            "redis+cluster" => (false, Kind::Cluster),
            "rediss+cluster" => (true, Kind::Cluster),
            _ => return Err(SCHEMES.to_owned()),
        };
        if kind == Kind::Server {
            return Ok(Self { kind, is_tls, seeds: vec![url.to_owned()], template: url.to_owned(), master: None });
        }
        let rest = rest.strip_prefix("//").ok_or(SCHEMES)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // A password may hold a slash that was not escaped.
        let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(user, rest)| (user, rest));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let hosts: Vec<&str> = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
        if hosts.is_empty() {
            return Err("`redis.url` names no host".to_owned());
        }
        let secure = if is_tls { "rediss" } else { "redis" };
        let at = |user: &str, host: &str, path: &str| match user {
            "" => format!("{secure}://{host}{path}"),
            user => format!("{secure}://{user}@{host}{path}"),
        };
        if kind == Kind::Cluster {
            if !path.is_empty() || !query.is_empty() {
                return Err("`redis.url` of a Cluster ends with its hosts: a Cluster has one database".to_owned());
            }
            let seeds: Vec<String> = hosts.iter().map(|host| at(user, &with_port(host, 6379), "")).collect();
            return Ok(Self { kind, is_tls, template: seeds[0].clone(), seeds, master: None });
        }
        let (master, database) = path.split_once('/').unwrap_or((path, "0"));
        if master.is_empty() {
            return Err("`redis.url` of a Sentinel ends with the name of the master, as in \
                        redis+sentinel://h1,h2/mymaster"
                .to_owned());
        }
        if database.parse::<u16>().is_err() {
            return Err("`redis.url`: what follows the name of the master is the number of a database".to_owned());
        }
        let (mut name, mut password) = ("", "");
        for (key, value) in query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| pair.split_once('=')) {
            match key {
                "sentinel_username" => name = value,
                "sentinel_password" => password = value,
                _ => {
                    return Err("`redis.url` of a Sentinel knows `sentinel_username` and `sentinel_password` behind \
                                its `?`, and nothing else"
                        .to_owned());
                }
            }
        }
        let sentinel = if password.is_empty() { String::new() } else { format!("{name}:{password}") };
        let seeds = hosts.iter().map(|host| at(&sentinel, &with_port(host, 26379), "")).collect();
        let template = at(user, "localhost:6379", &format!("/{database}"));
        Ok(Self { kind, is_tls, seeds, template, master: Some(master.to_owned()) })
    }
}

const SCHEMES: &str = "`redis.url` must begin with redis://, rediss:// (TLS), unix:, redis+sentinel:// or redis+cluster:// \
                       (rediss+sentinel:// and rediss+cluster:// with TLS)";

fn with_port(host: &str, port: u16) -> String {
    // The colons of an IPv6 address stand in brackets.
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    if has_port { host.to_owned() } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Address {
        Address::parse(url).unwrap_or_else(|why| panic!("{url}: {why}"))
    }

    #[test]
    fn a_single_server_is_left_to_the_driver() {
        for url in ["redis://db", "rediss://ann:pw@db:7000/2", "unix:/run/redis.sock?db=1"] {
            let address = parsed(url);
            assert_eq!((address.kind, &*address.template, &address.seeds), (Kind::Server, url, &vec![url.to_owned()]));
        }
        assert!(parsed("rediss://db").is_tls && !parsed("redis://db").is_tls);
    }

    #[test]
    fn sentinels_have_a_port_and_a_password_of_their_own() {
        let address = parsed("redis+sentinel://ann:p%40w@h1,h2:26380,[::1]/mymaster/3?sentinel_password=s3");
        assert_eq!((address.kind, address.master.as_deref()), (Kind::Sentinel, Some("mymaster")));
        assert_eq!(address.seeds, ["redis://:s3@h1:26379", "redis://:s3@h2:26380", "redis://:s3@[::1]:26379"]);
        assert_eq!(address.template, "redis://ann:p%40w@localhost:6379/3");
        let address = parsed("rediss+sentinel://h1/m");
        assert_eq!(
            (address.seeds, &*address.template),
            (vec!["rediss://h1:26379".to_owned()], "rediss://localhost:6379/0")
        );
    }

    #[test]
    fn a_cluster_has_nodes_to_begin_with() {
        let address = parsed("redis+cluster://:pw@n1,n2:7001");
        assert_eq!((address.kind, address.is_tls), (Kind::Cluster, false));
        assert_eq!(address.seeds, ["redis://:pw@n1:6379", "redis://:pw@n2:7001"]);
        assert_eq!(parsed("rediss+cluster://n1/").seeds, ["rediss://n1:6379"]);
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_repeated() {
        for (url, why) in [
            ("hunter2", "must begin with"),
            ("http://hunter2", "must begin with"),
            ("redis+sentinel:hunter2", "must begin with"),
            ("redis+sentinel://:hunter2@h1", "the name of the master"),
            ("redis+sentinel://:hunter2@/m", "no host"),
            ("redis+sentinel://h1/m/hunter2", "number of a database"),
            ("redis+sentinel://h1/m?hunter2=1", "nothing else"),
            ("redis+cluster://h1/hunter2", "one database"),
        ] {
            let said = Address::parse(url).err().unwrap_or_else(|| panic!("{url} was taken"));
            assert!(said.contains(why) && !said.contains("hunter2"), "{url}: {said}");
        }
    }
}
