//! Many people who do what `docs/protocol.md` asks of a client: they come back with their resume token after a random pause that grows with each
//! failure, wait as long as a stopping instance tells them, join again where their place was not kept, and watch on from where they were.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Client, Level, Told, token};

/// How many come at the same time when a crowd gathers.
const AT_ONCE: usize = 64;
/// The longest that a client waits for a handshake before it tries elsewhere.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The bound of the random pause before coming back: the first, doubled with each failure, up to the last.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Where clients come in: any of these addresses, as a balancer has it that sends them on where one refuses.
#[derive(Clone)]
pub struct Doors(Arc<Mutex<Vec<String>>>);

impl Doors {
    pub fn new(urls: impl IntoIterator<Item = String>) -> Self {
        Self(Arc::new(Mutex::new(urls.into_iter().collect())))
    }

    /// From now on these.
    pub fn are(&self, urls: impl IntoIterator<Item = String>) {
        *self.0.lock().unwrap() = urls.into_iter().collect();
    }

    /// All of them, any first.
    fn shuffled(&self) -> Vec<String> {
        let mut urls = self.0.lock().unwrap().clone();
        let count = urls.len();
        urls.rotate_left(rand::random_range(0..count));
        urls
    }
}

/// Whom somebody is, where, and what they watch.
#[derive(Debug, Clone)]
pub struct Plan {
    pub user: String,
    pub joins: Vec<String>,
    pub watches: Vec<(String, Level)>,
    pub state: Value,
}

impl Plan {
    /// Somebody who is in these channels and watches nothing.
    pub fn present(user: impl Into<String>, joins: &[String]) -> Self {
        Self { user: user.into(), joins: joins.to_vec(), watches: Vec::new(), state: json!({}) }
    }

    /// Somebody who is nowhere and watches these channels.
    pub fn watching(user: impl Into<String>, channels: &[String], level: Level) -> Self {
        let watches = channels.iter().map(|channel| (channel.clone(), level)).collect();
        Self { user: user.into(), joins: Vec::new(), watches, state: json!({}) }
    }
}

/// One return after a socket was gone.
#[derive(Debug, Clone)]
pub struct Visit {
    pub broke_at: Instant,
    pub back_at: Instant,
    /// Whether the connection and all its places were kept.
    pub resumed: bool,
}

/// Somebody has left for good.
#[derive(Debug, Clone)]
pub struct Farewell {
    pub user: String,
    /// Where they were.
    pub channels: Vec<String>,
    pub at: Instant,
    /// Whether the service has heard a goodbye.
    pub said: bool,
}

/// One of a crowd, who comes back until told otherwise.
pub struct Person {
    soul: Arc<Soul>,
    life: JoinHandle<()>,
}

struct Soul {
    plan: Plan,
    token: String,
    doors: Doors,
    client: Mutex<Arc<Client>>,
    visits: Mutex<Vec<Visit>>,
    stays: watch::Sender<bool>,
}

impl Person {
    /// Comes, joins and watches. Fails the test where that is refused: nothing is broken yet.
    pub async fn come(doors: &Doors, plan: Plan) -> Self {
        Self::come_at(&doors.shuffled()[0], doors, plan).await
    }

    /// The same, the first time at this address.
    pub async fn come_at(url: &str, doors: &Doors, plan: Plan) -> Self {
        let token = token(&plan.user, json!({}));
        let client = Client::connect(url).await;
        client.hello(&token).await.unwrap_or_else(|error| panic!("hello of {}: {error:?}", plan.user));
        for channel in &plan.joins {
            patiently(async || client.join(channel, plan.state.clone()).await).await.expect("nothing is broken yet");
        }
        for (channel, level) in &plan.watches {
            patiently(async || client.watch(channel, *level).await).await.expect("nothing is broken yet");
        }
        let soul = Arc::new(Soul {
            plan,
            token,
            doors: doors.clone(),
            client: Mutex::new(Arc::new(client)),
            visits: Mutex::default(),
            stays: watch::Sender::new(true),
        });
        let life = tokio::spawn(soul.clone().live());
        Self { soul, life }
    }

    pub fn user(&self) -> &str {
        &self.soul.plan.user
    }

    pub fn plan(&self) -> &Plan {
        &self.soul.plan
    }

    /// The client of now; it may have been closed, and somebody else be in its place soon.
    pub fn client(&self) -> Arc<Client> {
        self.soul.client()
    }

    /// All returns so far.
    pub fn visits(&self) -> Vec<Visit> {
        self.soul.visits.lock().unwrap().clone()
    }

    /// Whether there is a welcomed client with an open socket that watches all that it should.
    pub fn is_there(&self) -> bool {
        let client = self.client();
        let watches_all = || client.views().len() == self.soul.plan.watches.len();
        client.closed().is_none() && watches_all()
    }

    /// Joins and leaves that this person was told of since then, over all sockets.
    pub fn told_since(&self, since: Instant) -> Vec<Told> {
        self.client().told_since(since)
    }

    /// Will not come back. The socket stays as long as it does.
    pub fn stay_away(&self) {
        self.soul.stays.send_replace(false);
    }

    /// Leaves without a word, and does not come back.
    pub async fn vanish(&self) -> Farewell {
        self.stay_away();
        let at = Instant::now();
        self.client().drop_socket().await;
        self.farewell(at, false)
    }

    /// Says goodbye, and does not come back.
    pub async fn bye(&self) -> Farewell {
        self.stay_away();
        let (at, client) = (Instant::now(), self.client());
        let said = client.op(json!({"op": "bye"})).await.is_ok();
        client.drop_socket().await;
        self.farewell(at, said)
    }

    /// The last that was heard of somebody, at that moment.
    pub fn farewell(&self, at: Instant, said: bool) -> Farewell {
        Farewell { user: self.user().to_owned(), channels: self.plan().joins.clone(), at, said }
    }

    /// Whether nobody has sent this person away.
    pub fn stays(&self) -> bool {
        *self.soul.stays.borrow()
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        self.life.abort();
    }
}

impl Soul {
    fn client(&self) -> Arc<Client> {
        self.client.lock().unwrap().clone()
    }

    async fn live(self: Arc<Self>) {
        let mut stays = self.stays.subscribe();
        loop {
            let client = self.client();
            let closed = client.within(Duration::from_secs(86_400), |client| client.closed().is_some());
            tokio::select! {
                _ = stays.wait_for(|stays| !stays) => return,
                _ = closed => {}
            }
            let broke_at = Instant::now();
            tokio::select! {
                _ = stays.wait_for(|stays| !stays) => return,
                resumed = self.come_back(&client) => {
                    self.visits.lock().unwrap().push(Visit { broke_at, back_at: Instant::now(), resumed });
                }
            }
        }
    }

    /// Comes back in the place of a client whose socket is gone. Returns whether the place was kept.
    async fn come_back(&self, broken: &Arc<Client>) -> bool {
        let closed = broken.closed().expect("its socket is gone");
        assert!(closed.code < 4500 || closed.code == 4502, "{} may not come back: {closed:?}", self.plan.user);
        // Another socket has the connection: that one was meant.
        let resumes = closed.code != 4502;
        let mut bound = PAUSE.0;
        // A stopping instance says how long to wait.
        let asked = broken.events("reconnect").pop().filter(|_| closed.code == 1012);
        match asked {
            Some(asked) => {
                let after = asked.frame["after_ms"].as_u64().expect("`after_ms` is a number");
                sleep_until(asked.at + Duration::from_millis(after)).await;
            }
            None => sleep(bound.mul_f64(rand::random())).await,
        }
        let mut before = broken.clone();
        loop {
            for url in self.doors.shuffled() {
                let connecting = timeout(HANDSHAKE, Client::try_connect(&url, "rollcall.v1", &[])).await;
                let Ok(Ok(client)) = connecting else { continue };
                // What was seen goes from one to the next, also where the next gets no further.
                client.inherit(&before);
                let client = Arc::new(client);
                *self.client.lock().unwrap() = client.clone();
                before = client.clone();
                if let Some(resumed) = self.begin(&client, resumes).await {
                    return resumed;
                }
                client.drop_socket().await;
            }
            bound = (bound * 2).min(PAUSE.1);
            sleep(bound.mul_f64(rand::random())).await;
        }
    }

    /// Hello, the joins if the place was not kept, and the watches. None where the socket ended or all was refused for too long.
    async fn begin(&self, client: &Client, resumes: bool) -> Option<bool> {
        let resume = client.resume_token();
        let hello = async || match resumes {
            true => client.hello_resume(&self.token, &resume).await,
            false => client.hello(&self.token).await,
        };
        let welcome = patiently(hello).await?;
        let channels = welcome["channels"].as_array().expect("a welcome lists channels");
        let lost: Vec<&String> =
            self.plan.joins.iter().filter(|channel| !channels.iter().any(|kept| *kept == channel.as_str())).collect();
        let resumed = welcome["resumed"] == true && lost.is_empty();
        if !resumed {
            for channel in lost {
                patiently(async || client.join(channel, self.plan.state.clone()).await).await?;
            }
        }
        patiently(async || client.watch_again().await).await?;
        Some(resumed)
    }
}

/// Asks again for as long as it is to ask later, after the time that it is told. None where the socket ended.
async fn patiently<T, F: Future<Output = Result<T, super::OpError>>>(ask: impl Fn() -> F) -> Option<T> {
    loop {
        match ask().await {
            Ok(answer) => return Some(answer),
            Err(error) if error.code == "unavailable" || error.code == "rate_limited" => {
                let after = error.retry_after_ms.expect("both say when to try again");
                sleep(Duration::from_millis(after)).await;
            }
            Err(error) if error.code == "closed" || error.code == "unanswered" => return None,
            Err(error) => panic!("a client that keeps to the protocol is refused: {error:?}"),
        }
    }
}

/// People who came together.
pub struct Crowd {
    pub people: Vec<Person>,
}

impl Crowd {
    /// All of them come, some at a time.
    pub async fn gather(doors: &Doors, plans: impl IntoIterator<Item = Plan>) -> Self {
        let coming = plans.into_iter().map(|plan| Person::come(doors, plan));
        Self { people: stream::iter(coming).buffered(AT_ONCE).collect().await }
    }

    /// Whether everybody whom nobody sent away has a socket.
    pub fn is_there(&self) -> bool {
        self.people.iter().filter(|person| person.stays()).all(Person::is_there)
    }

    /// The users who are to be in a channel: those who were not sent away; sorted.
    pub fn living(&self, channel: &str) -> Vec<String> {
        let stay = self.people.iter().filter(|person| person.stays());
        let there = stay.filter(|person| person.plan().joins.iter().any(|joined| joined == channel));
        let mut users: Vec<String> = there.map(|person| person.user().to_owned()).collect();
        users.sort();
        users
    }

    /// All returns of all.
    pub fn visits(&self) -> Vec<Visit> {
        self.people.iter().flat_map(Person::visits).collect()
    }
}
