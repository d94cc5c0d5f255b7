//! Which server has which partition: always the same one, the master that Sentinels name, or the masters of a Cluster by slot.
//!
//! The driver's own clients for Sentinel and Cluster connect and repeat by themselves. Here neither may happen unseen: a batch that is repeated over
//! another connection could be carried out after a later one, which the number of the link forbids.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_redis::Pool;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redis::{ConnectionInfo, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, OnceCell, watch},
    time::{Instant, timeout},
};

use super::{
    client::{Connector, Home, failed, unusable},
    keys::Keys,
};
use crate::domain::name::RosterKey;
use crate::store::{PartitionId, StoreError, address::Kind};

/// How often it is looked whether the data has moved, though nothing has failed.
const LOOK: Duration = Duration::from_secs(4);
/// Between two looks because of failures.
const PAUSE: Duration = Duration::from_millis(200);
/// As many nodes of a Cluster are asked at a time.
const ASKED: usize = 8;
/// Another moment for those who have not answered when somebody has.
const OTHERS: Duration = Duration::from_millis(100);

/// Where everything is.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    homes: Vec<Home>,
}

impl Table {
    /// The server of a partition.
    pub fn home(&self, partition: PartitionId) -> &Home {
        &self.homes[usize::from(partition)]
    }

    /// All servers.
    pub fn homes(&self) -> BTreeSet<&Home> {
        self.homes.iter().collect()
    }

    /// The partitions of a server.
    pub fn partitions_of(&self, home: &Home) -> Vec<PartitionId> {
        (0..).zip(&self.homes).filter(|(_, at)| *at == home).map(|(partition, _)| partition).collect()
    }
}

/// A connection that scripts go over, shared by the partitions of a server.
#[derive(Clone)]
pub struct Line {
    /// Tells it from all others of this process.
    pub id: u64,
    /// The connection.
    pub connection: MultiplexedConnection,
}

/// One server.
pub struct Node {
    home: Home,
    pool: Pool,
    line: Mutex<Option<Line>>,
    connecting: Turn<Line>,
}

impl Node {
    /// The line there is.
    pub fn line(&self) -> Option<Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The line is given up: nobody knows what is still under way on it.
    pub fn drop_line(&self, id: u64) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.as_ref().is_some_and(|line| line.id == id) {
            *line = None;
        }
    }

    /// Connections for plain reads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

/// Something that one does for all: whoever wanted it before it was done takes what came of it, good or bad.
pub struct Turn<T>(tokio::sync::Mutex<Option<(Instant, Result<T, StoreError>)>>);

impl<T> Default for Turn<T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::default())
    }
}

impl<T: Clone> Turn<T> {
    /// Does it, or takes what another has done meanwhile.
    ///
    /// # Errors
    /// What it came to.
    pub async fn take(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let wanted_at = Instant::now();
        let mut last = self.0.lock().await;
        if let Some((at, result)) = &*last
            && *at > wanted_at
        {
            return result.clone();
        }
        let result = work.await;
        *last = Some((Instant::now(), result.clone()));
        result
    }
}

/// What a Sentinel knows of its masters, each as names and values.
type Masters = Vec<HashMap<String, String>>;

/// See the module.
pub struct Topology {
    connector: Connector,
    partitions: u16,
    /// A key of each partition.
    samples: Vec<String>,
    /// Their slots, in a Cluster.
    slots: OnceCell<Vec<u16>>,
    table: watch::Sender<Option<Arc<Table>>>,
    nodes: Mutex<HashMap<Home, Arc<Node>>>,
    lines: AtomicU64,
    is_doubted: AtomicBool,
    doubts: Notify,
    finding: Turn<()>,
}

impl Topology {
    /// Knows nothing yet, but for a single server where it is.
    pub fn new(connector: Connector, keys: &Keys, partitions: u16) -> Arc<Self> {
        let samples = (0..partitions).map(|partition| keys.partition(partition).epoch());
        let table = match connector.kind() {
            Kind::Server => {
                let homes = vec![Home::Fixed; usize::from(partitions)];
                Some(Arc::new(Table { homes }))
            }
            Kind::Sentinel | Kind::Cluster => None,
        };
        Arc::new(Self {
            connector,
            partitions,
            samples: samples.collect(),
            slots: OnceCell::new(),
            is_doubted: table.is_none().into(),
            table: watch::Sender::new(table),
            nodes: Mutex::default(),
            lines: AtomicU64::new(0),
            doubts: Notify::new(),
            finding: Turn::default(),
        })
    }

    /// The partition of a roster.
    pub fn partition_of(&self, roster: &RosterKey) -> PartitionId {
        Keys::partition_of_roster(roster, self.partitions)
    }

    /// Whether feeds are sharded.
    pub fn is_cluster(&self) -> bool {
        self.connector.kind() == Kind::Cluster
    }

    /// How connections are made.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Where everything is, as far as is known, and every later finding.
    pub fn table(&self) -> watch::Receiver<Option<Arc<Table>>> {
        self.table.subscribe()
    }

    /// Something failed as it does where the data has moved.
    pub fn doubt(&self) {
        if self.connector.kind() != Kind::Server {
            self.is_doubted.store(true, Ordering::Relaxed);
            self.doubts.notify_one();
        }
    }

    /// Finds out where everything is, if that is in doubt. Where nobody answers, what was known holds.
    ///
    /// # Errors
    /// Where nothing was known.
    pub async fn resolve(&self) -> Result<(), StoreError> {
        if !self.is_doubted.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.find().await {
            Err(error) if self.table.borrow().is_none() => Err(error),
            Err(error) => {
                tracing::debug!(%error, "nobody says where the data is; it may be where it was");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Looks again and again, for as long as the topology lives.
    pub async fn watch(self: Arc<Self>) {
        if self.connector.kind() == Kind::Server {
            return;
        }
        loop {
            if timeout(LOOK, self.doubts.notified()).await.is_ok() {
                tokio::time::sleep(PAUSE).await;
            }
            if let Err(error) = self.find().await {
                tracing::debug!(%error, "nobody says where the data is");
            }
        }
    }

    /// The server of a partition.
    ///
    /// # Errors
    /// Where it is not known.
    pub fn node_of(&self, partition: PartitionId) -> Result<Arc<Node>, StoreError> {
        let table = self.known()?;
        self.node(table.home(partition))
    }

    /// The line to a server, or a new one.
    ///
    /// # Errors
    /// Where the server cannot be reached or is not fit.
    pub async fn connected(&self, node: &Node) -> Result<Line, StoreError> {
        if let Some(line) = node.line() {
            return Ok(line);
        }
        let connecting = async {
            let connection = self.connector.connect(&node.home).await.inspect_err(|_| self.doubt())?;
            let line = Line { id: self.lines.fetch_add(1, Ordering::Relaxed) + 1, connection };
            *node.line.lock().unwrap_or_else(PoisonError::into_inner) = Some(line.clone());
            Ok(line)
        };
        node.connecting.take(connecting).await
    }

    fn known(&self) -> Result<Arc<Table>, StoreError> {
        let table = self.table.borrow().clone();
        table.ok_or_else(|| StoreError::Unavailable("it is not known yet where the data is".into()))
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<Home, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self, home: &Home) -> Result<Arc<Node>, StoreError> {
        let mut nodes = self.nodes();
        if let Some(node) = nodes.get(home) {
            return Ok(node.clone());
        }
        let pool = self.connector.pool(home)?;
        let node = Node { home: home.clone(), pool, line: Mutex::default(), connecting: Turn::default() };
        let node = Arc::new(node);
        nodes.insert(home.clone(), node.clone());
        Ok(node)
    }

    /// Asks where everything is.
    async fn find(&self) -> Result<(), StoreError> {
        self.finding.take(self.find_now()).await
    }

    async fn find_now(&self) -> Result<(), StoreError> {
        // What fails from here on is a new doubt.
        self.is_doubted.store(false, Ordering::Relaxed);
        let found = match self.connector.kind() {
            Kind::Server => return Ok(()),
            Kind::Sentinel => self.ask_sentinels().await,
            Kind::Cluster => self.ask_cluster().await,
        };
        let table = found.inspect_err(|_| self.is_doubted.store(true, Ordering::Relaxed))?;
        let is_news = self.table.borrow().as_deref() != Some(&table);
        if is_news {
            let homes: Vec<String> = table.homes().into_iter().map(ToString::to_string).collect();
            tracing::info!(servers = homes.join(" "), "this is where the data is");
            self.nodes().retain(|home, _| table.homes.contains(home));
            self.table.send_replace(Some(Arc::new(table)));
        }
        Ok(())
    }

    /// The master that the Sentinel with the latest configuration names.
    async fn ask_sentinels(&self) -> Result<Table, StoreError> {
        let master = self.connector.master();
        let asked = self.connector.seeds().iter().map(|seed| async {
            let mut connection = self.connector.ask_at(seed.clone()).await?;
            let mut pipe = redis::pipe();
            pipe.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master);
            pipe.cmd("SENTINEL").arg("MASTERS");
            let (address, masters): (Option<(String, u16)>, Masters) =
                pipe.query_async(&mut connection).await.map_err(|error| failed(&error))?;
            let epoch = masters.iter().find(|known| known.get("name").is_some_and(|name| name == master));
            let epoch: u64 = epoch.and_then(|known| known.get("config-epoch")?.parse().ok()).unwrap_or(0);
            Ok(address.map(|(host, port)| (epoch, Home::At(host.into(), port))))
        });
        let answers = most_of(asked).await?;
        let best = answers.into_iter().flatten().max_by_key(|(epoch, _)| *epoch);
        let (_, home) = best.ok_or_else(|| unusable(format!("no Sentinel knows a master by the name `{master}`")))?;
        Ok(Table { homes: vec![home; usize::from(self.partitions)] })
    }

    /// The slots as the node with the latest configuration sees them.
    async fn ask_cluster(&self) -> Result<Table, StoreError> {
        let mut asked: Vec<(Option<Home>, ConnectionInfo)> =
            self.connector.seeds().iter().map(|seed| (None, seed.clone())).collect();
        if let Some(table) = &*self.table.borrow() {
            asked.extend(table.homes().into_iter().map(|home| (Some(home.clone()), self.connector.info(home))));
        }
        // Not always the same ones first, where there are many.
        let turn = rand::random_range(0..asked.len());
        asked.rotate_left(turn);
        let asked = asked.into_iter().take(ASKED).map(|(_, info)| async move {
            let host = match info.addr() {
                redis::ConnectionAddr::Tcp(host, _) | redis::ConnectionAddr::TcpTls { host, .. } => host.clone(),
                _ => String::new(),
            };
            let mut connection = self.connector.ask_at(info).await?;
            let slots = self.slots.get_or_try_init(|| self.slots_of_samples(connection.clone())).await?;
            let mut pipe = redis::pipe();
            pipe.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
            let (info, ranges): (String, Value) =
                pipe.query_async(&mut connection).await.map_err(|error| failed(&error))?;
            let find = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
            let epoch: u64 = find("cluster_current_epoch:").parse().unwrap_or(0);
            let is_whole = find("cluster_state:") == "ok";
            Ok(homes_of(slots, ranges, &host).map(|homes| ((is_whole, epoch), homes)))
        });
        let answers = most_of(asked).await?;
        let best = answers.into_iter().flatten().max_by_key(|(rank, _)| *rank);
        let (_, homes) =
            best.ok_or_else(|| StoreError::Unavailable("some slots of the Cluster are with nobody".into()))?;
        Ok(Table { homes })
    }

    /// The slots of the samples, as the Cluster itself computes them.
    async fn slots_of_samples(&self, mut connection: MultiplexedConnection) -> Result<Vec<u16>, StoreError> {
        let mut pipe = redis::pipe();
        for sample in &self.samples {
            pipe.cmd("CLUSTER").arg("KEYSLOT").arg(sample);
        }
        let slots: Result<Vec<u16>, _> = pipe.query_async(&mut connection).await;
        slots.map_err(|error| match error.code() {
            Some("ERR") => unusable("this Redis is no Cluster: `redis.url` is to be redis://host then"),
            _ => failed(&error),
        })
    }
}

/// The answers of all who answer, without waiting for the last of them once somebody has.
async fn most_of<T>(
    asked: impl Iterator<Item = impl Future<Output = Result<T, StoreError>>>,
) -> Result<Vec<T>, StoreError> {
    let mut asked: FuturesUnordered<_> = asked.collect();
    let (mut answers, mut problem) = (Vec::new(), None);
    let mut until = None;
    loop {
        let next = match until {
            None => asked.next().await,
            Some(until) => tokio::time::timeout_at(until, asked.next()).await.unwrap_or(None),
        };
        match next {
            None => break,
            Some(Ok(answer)) => {
                answers.push(answer);
                until.get_or_insert_with(|| Instant::now() + OTHERS);
            }
            Some(Err(error)) => problem = Some(error),
        }
    }
    if answers.is_empty() {
        return Err(problem.unwrap_or_else(|| StoreError::Unavailable("nobody was asked".into())));
    }
    Ok(answers)
}

/// The masters of slots out of an answer to CLUSTER SLOTS; none while some slot is with nobody. `host` stands for a node that does not know its own.
fn homes_of(slots: &[u16], ranges: Value, host: &str) -> Option<Vec<Home>> {
    let text = |value: &Value| redis::from_redis_value::<Option<String>>(value.clone()).ok().flatten();
    let number = |value: &Value| redis::from_redis_value::<u16>(value.clone()).ok();
    let Value::Array(ranges) = ranges else { return None };
    let ranges: Vec<(u16, u16, Home)> = ranges
        .iter()
        .filter_map(|range| {
            let Value::Array(range) = range else { return None };
            let Value::Array(master) = range.get(2)? else { return None };
            let named = text(master.first()?).filter(|named| !named.is_empty() && named != "?");
            let home = Home::At(named.as_deref().unwrap_or(host).into(), number(master.get(1)?)?);
            Some((number(range.first()?)?, number(range.get(1)?)?, home))
        })
        .collect();
    let home_of =
        |slot: &u16| ranges.iter().find(|(from, to, _)| (*from..=*to).contains(slot)).map(|(_, _, home)| home.clone());
    slots.iter().map(home_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: i64, to: i64, host: Value, port: i64) -> Value {
        let master = Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())]);
        Value::Array(vec![Value::Int(from), Value::Int(to), master])
    }

    #[test]
    fn slots_are_with_the_masters_that_the_cluster_names() {
        let named = |host: &str| Value::BulkString(host.as_bytes().to_vec());
        let ranges = Value::Array(vec![
            range(0, 99, named("a"), 1),
            range(100, 199, Value::Nil, 2),
            range(200, 16383, named(""), 3),
        ]);
        let homes = homes_of(&[0, 150, 99, 16383], ranges.clone(), "me").unwrap();
        let at = |host: &str, port| Home::At(host.into(), port);
        assert_eq!(homes, [at("a", 1), at("me", 2), at("a", 1), at("me", 3)]);
        let Value::Array(mut ranges) = ranges else { panic!() };
        ranges.remove(1);
        assert_eq!(homes_of(&[0, 150], Value::Array(ranges), "me"), None, "nobody has slot 150");
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_waited_for_once_however_many_want_it() {
        let (turn, began) = (Turn::default(), Instant::now());
        let hanging = || async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Err::<(), _>(StoreError::Unavailable("hangs".into()))
        };
        let results = futures_util::future::join_all((0..20).map(|_| turn.take(hanging()))).await;
        assert!(results.iter().all(Result::is_err));
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        assert!(turn.take(async { Ok(()) }).await.is_ok(), "who comes later tries anew");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_hangs_is_not_waited_for_when_others_have_answered() {
        let asked = [0_u64, 50, 5_000].map(|after| async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            Ok(after)
        });
        let began = Instant::now();
        assert_eq!(most_of(asked.into_iter()).await.unwrap(), [0, 50]);
        assert_eq!(began.elapsed(), OTHERS);
        let failing = [1_u64, 2].map(|after| async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            Err::<(), _>(StoreError::Unavailable(after.to_string()))
        });
        assert!(matches!(most_of(failing.into_iter()).await, Err(StoreError::Unavailable(why)) if why == "2"));
    }
}
