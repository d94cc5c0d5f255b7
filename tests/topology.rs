//! The topology of `docker-compose.yml` with real processes: Redis, two instances, nginx in front, and people who come through it.

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use harness::{Client, Instance, Level, Nginx, Redis, Rest, Space, eventually, free_port, segment, token};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
/// The defaults, as in the compose file: nothing here is set otherwise.
const GRACE: Duration = Duration::from_secs(15);
const DRAIN: Duration = Duration::from_secs(30);

struct Topology {
    // Dropped from top to bottom: nginx before what it stands in front of.
    nginx: Nginx,
    instances: [Instance; 2],
    settings: [Space; 2],
    _redis: Redis,
}

impl Topology {
    async fn start() -> Self {
        let redis = Redis::start().await;
        let space = redis.space();
        // nginx knows fixed addresses, as the compose file gives them.
        let ports = [free_port(), free_port()];
        let settings = ports.map(|port| {
            let mut settings = space.clone();
            settings.push(("ROLLCALL__SERVER__LISTEN", format!("127.0.0.1:{port}")));
            settings.push(("ROLLCALL__SERVER__TRUSTED_PROXIES", "127.0.0.1".to_owned()));
            settings
        });
        let (one, two) = tokio::join!(Instance::start(&settings[0]), Instance::start(&settings[1]));
        let nginx = Nginx::start(&ports).await;
        Self { nginx, instances: [one, two], settings, _redis: redis }
    }

    /// Stops an instance in order, starts it again on its port, and waits until it is ready.
    async fn restart(&mut self, place: usize) {
        self.instances[place].terminate();
        let status = self.instances[place].ended(DRAIN).await;
        assert!(status.success(), "{status}");
        self.instances[place] = Instance::start(&self.settings[place]).await;
    }

    async fn connections_of(&self) -> [u64; 2] {
        let counts = self.instances.each_ref().map(|instance| async {
            let metrics = instance.rest().get("/metrics").await.text;
            let line = metrics.lines().find(|line| line.starts_with("rollcall_sockets ")).expect("sockets are counted");
            line.rsplit(' ').next().unwrap().parse().unwrap()
        });
        let [one, two] = counts;
        [one.await, two.await]
    }
}

fn room(number: usize) -> String {
    // Both separators, and one that has to be encoded.
    format!("room/{}", number % 10)
}

/// Somebody who joined a room through nginx, watches it, and does what the documents ask of a client.
struct Person {
    user: String,
    room: String,
    client: Option<Client>,
    /// Joins and leaves that earlier sockets told of, after the room was complete.
    told: Vec<Value>,
    returns: usize,
}

impl Person {
    async fn come(base: &str, number: usize) -> Self {
        let (user, room) = (format!("person/{number:03}"), room(number));
        let client = Client::hello_as(base, &user).await;
        client.join_watching(&room, json!({"number": number})).await.unwrap();
        Self { user, room, client: Some(client), told: Vec::new(), returns: 0 }
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("there is always a client between two calls")
    }

    /// Joins and leaves that this socket told of.
    fn heard(&self) -> Vec<Value> {
        let (client, mut heard) = (self.client(), Vec::new());
        for kind in ["join", "leave"] {
            heard.extend(client.changes(&self.room, kind).into_iter().map(|change| change.frame));
        }
        heard
    }

    /// What has been told from the beginning.
    fn all(&self) -> Vec<Value> {
        [self.told.clone(), self.heard()].concat()
    }

    /// Was asked to come back: waits as it was told and comes back through nginx.
    async fn come_back(&mut self, base: &str) {
        let closed = self.client().closed().expect("the socket was closed");
        assert_eq!(closed.code, 1012, "{closed:?}");
        let asked = self.client().events("reconnect");
        assert_eq!(asked.len(), 1, "one `reconnect` before the close");
        let after = asked[0].frame["after_ms"].as_u64().expect("`after_ms` is a number");
        assert!(u128::from(after) <= GRACE.as_millis() / 3, "{after}");
        tokio::time::sleep_until(asked[0].at + Duration::from_millis(after)).await;
        self.told.extend(self.heard());
        let connection = self.client().connection();
        let client = self.client.take().expect("there is always a client between two calls");
        let client = client.resume_on(base, &token(&self.user, json!({}))).await;
        let welcome = client.welcome();
        assert_eq!((&welcome["resumed"], &welcome["connection"]), (&json!(true), &json!(connection)), "{welcome}");
        self.client = Some(client);
        self.returns += 1;
    }

    /// Comes back until told to stop, as a client in a browser would.
    async fn stay(mut self, base: String, mut end: tokio::sync::watch::Receiver<bool>) -> Self {
        loop {
            tokio::select! {
                _ = end.wait_for(|end| *end) => return self,
                _ = self.client().within(Duration::MAX, |client| client.closed().is_some()) => {}
            }
            self.come_back(&base).await;
        }
    }

    async fn until_room_has(&self, count: usize) {
        let what = format!("{count} in {}", self.room);
        self.client().until(&what, |client| client.users(&self.room).len() == count).await;
    }
}

async fn versions(rest: &Rest) -> Vec<Value> {
    let paths = (0..10).map(|number| format!("/v1/channels/{}", segment(&room(number))));
    join_all(paths.map(async |path| {
        let channel = rest.get(&path).await.ok();
        json!([channel["epoch"], channel["version"], channel["occupancy"]])
    }))
    .await
}

/// Asks through nginx again and again until told to stop; every question must be answered. Returns how many there were.
async fn keep_asking(rest: Rest, end: tokio::sync::watch::Receiver<bool>) -> usize {
    let mut asked = 0;
    while !*end.borrow() {
        let members = rest.get(&format!("/v1/channels/{}/members?limit=1000", segment(&room(asked)))).await;
        assert_eq!(members.status, 200, "{}", members.text);
        asked += 1;
        sleep(Duration::from_millis(50)).await;
    }
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn when_one_instance_stops_who_comes_back_through_nginx_is_no_event_and_who_does_not_leaves_once() {
    let mut topology = Topology::start().await;
    let base = topology.nginx.url();
    let rest = Rest::new(&base);

    let people: Vec<Person> = join_all((0..200).map(|number| Person::come(&base, number))).await;
    join_all(people.iter().map(|person| person.until_room_has(20))).await;
    let spread = topology.connections_of().await;
    assert!(spread.iter().all(|count| *count >= 60), "nginx spreads people over both: {spread:?}");

    // A watcher that stays where it is, so that all it hears is what others hear.
    let watcher = Client::hello_as(&topology.instances[1].url(), "watcher").await;
    for number in 0..10 {
        watcher.watch(&room(number), Level::Users).await.unwrap();
        watcher.until("everybody", |watcher| watcher.users(&room(number)).len() == 20).await;
    }
    let before = versions(&rest).await;

    let (end, ended) = tokio::sync::watch::channel(false);
    let asking = tokio::spawn(keep_asking(rest.clone(), ended));
    let stopped = Instant::now();
    topology.instances[0].terminate();
    let turn = Arc::new(AtomicUsize::new(0));
    let moves = people.into_iter().map(|mut person| {
        let (base, turn) = (base.clone(), turn.clone());
        tokio::spawn(async move {
            // The goodbyes come within a few seconds; who hears none is on the other instance.
            if !person.client().within(5 * SECOND, |client| client.closed().is_some()).await {
                return (person, None);
            }
            // One of twenty has closed the laptop. Its grace runs from the goodbye on.
            if turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(20) {
                let goodbye_at = person.client().events("reconnect")[0].at;
                return (person, Some(goodbye_at));
            }
            person.come_back(&base).await;
            (person, None)
        })
    });
    let moved: Vec<_> = join_all(moves).await.into_iter().map(|moved| moved.expect("nobody falls")).collect();
    let status = topology.instances[0].ended(DRAIN.saturating_sub(stopped.elapsed())).await;
    assert!(status.success(), "{status}");
    topology.instances[0].assert_no_panic();

    let (lost, here): (Vec<_>, Vec<_>) = moved.into_iter().partition(|(_, lost)| lost.is_some());
    let back = here.iter().filter(|(person, _)| person.returns == 1).count();
    assert_eq!((back + lost.len()) as u64, spread[0], "everybody of the stopped instance was asked to come back");
    assert_eq!(lost.len(), (spread[0] as usize).div_ceil(20));
    assert!(stopped.elapsed() < GRACE, "too slow to tell those who came back from those who did not");
    assert_eq!(versions(&rest).await, before, "until the first grace ends nothing has changed");

    // Who stays away leaves in time, and nobody else does.
    for (person, goodbye_at) in &lost {
        let is_gone = watcher.within(GRACE + 5 * SECOND, |watcher| !watcher.sees(&person.room, &person.user)).await;
        assert!(is_gone, "{} is still there", person.user);
        let leaves = watcher.changes(&person.room, "leave");
        let of_person: Vec<_> = leaves.iter().filter(|leave| leave.frame["user"] == person.user.as_str()).collect();
        assert_eq!(of_person.len(), 1);
        assert_eq!(of_person[0].frame["reason"], "timeout");
        let after = of_person[0].at.saturating_duration_since(goodbye_at.expect("lost"));
        assert!(after >= GRACE - SECOND / 10 && after <= GRACE + 2 * SECOND, "left {after:?} after the goodbye");
    }
    // A second in which anything else that was on its way would have come.
    sleep(SECOND).await;
    let mut expected: Vec<_> = lost.iter().map(|(person, _)| (person.room.clone(), person.user.clone())).collect();
    let mut left = Vec::new();
    for number in 0..10 {
        let room = room(number);
        let leaves = watcher.changes(&room, "leave");
        left.extend(leaves.iter().map(|leave| (room.clone(), leave.frame["user"].as_str().unwrap().to_owned())));
        assert!(watcher.changes(&room, "join").is_empty());
        assert_eq!(watcher.snapshots(&room), [1]);
    }
    expected.sort();
    left.sort();
    assert_eq!(left, expected, "exactly those who stayed away");

    for (person, _) in &here {
        let gone: Vec<_> = lost.iter().filter(|(other, _)| other.room == person.room).collect();
        person.until_room_has(20 - gone.len()).await;
        let leaves: Vec<_> = person.all().into_iter().filter(|change| change.get("reason").is_some()).collect();
        assert_eq!(leaves.len(), gone.len(), "{} was told {leaves:?}", person.user);
        assert_eq!(person.client().users(&person.room), rest.users_in(&person.room).await);
    }
    end.send_replace(true);
    assert!(asking.await.expect("every question was answered") > 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_both_instances_is_no_event_and_no_version() {
    let mut topology = Topology::start().await;
    let base = topology.nginx.url();
    let rest = Rest::new(&base);
    // One of each room is put there by an app server, with a lease that outlives the restart.
    for number in 0..10 {
        let path = format!("/v1/channels/{}/members/{}", segment(&room(number)), segment("device/1"));
        assert_eq!(rest.put(&path, json!({"state": {"is": "leased"}, "ttl_ms": 120_000})).await.status, 204);
    }
    let people: Vec<Person> = join_all((0..60).map(|number| Person::come(&base, number))).await;
    join_all(people.iter().map(|person| person.until_room_has(7))).await;
    let before = versions(&rest).await;
    // Who came early has heard the others come.
    let told: Vec<_> = people.iter().map(|person| person.all().len()).collect();

    let (end, ended) = tokio::sync::watch::channel(false);
    let asking = tokio::spawn(keep_asking(rest.clone(), ended.clone()));
    let staying: Vec<_> =
        people.into_iter().map(|person| tokio::spawn(person.stay(base.clone(), ended.clone()))).collect();
    for place in [0, 1] {
        topology.restart(place).await;
        // Everybody is on the other one before that is stopped too.
        eventually(10 * SECOND, async || {
            let [one, two] = topology.connections_of().await;
            one + two == 60
        })
        .await;
    }
    let user = rest.get(&format!("/v1/users/{}", segment("person/000"))).await.ok();
    assert_eq!(user["channels"], json!(["room/0"]));
    // Longer than the grace of those who were on the instance that stopped last.
    sleep(GRACE + SECOND).await;
    assert_eq!(versions(&rest).await, before);
    end.send_replace(true);
    let people: Vec<_> = join_all(staying).await.into_iter().map(|person| person.expect("nobody falls")).collect();
    for (person, told) in people.iter().zip(told) {
        assert!(person.returns >= 1, "{} was on one of the two", person.user);
        assert_eq!(person.all().len(), told, "{} was told of {:?}", person.user, person.all());
        person.client().update(&person.room, json!({"back": true})).await.unwrap();
        assert_eq!(person.client().users(&person.room).len(), 7);
    }
    assert!(asking.await.expect("every question was answered") > 50);
}
