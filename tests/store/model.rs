//! Random sequences, carried out by the rules and by Redis: both must do and say the same.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use redis::aio::MultiplexedConnection;
use rollcall::{
    domain::{
        bar::{Bar, Barring, Whom},
        member::Reason,
        name::{ConnectionId, RosterKey},
        partition::{Batch, Beat, Due, Now, Partition, Refusal, Renewal, Sweep, Swept},
        person::Record,
        roster::{Ask, Body, Control, Entry, Generation, Keep, Published, Row},
        tally::Tally,
        version::Epoch,
    },
    store::{Feed, FeedEvent, Index, Store, redis::Redis},
};

use crate::{
    harness,
    world::{TERMS, channel, id, settings, user},
};

const ROSTERS: usize = 6;
const CONNECTIONS: usize = 4;
const INSTANCES: [&str; 2] = ["ia", "ib"];

#[derive(Debug, Clone)]
enum Op {
    Renew { who: usize, done: bool, bye: bool },
    Write { who: usize, entries: Vec<(usize, usize, Ask)> },
    Pass { ms: u64 },
    Back { ms: u64 },
    Sweep { tops: Vec<u64>, lose: bool, most: usize },
    Audit,
    Bar { barring: Barring },
    NewEpoch { gone: bool },
}

fn roster(index: usize) -> RosterKey {
    match index {
        0 => channel("room:1"),
        1 => channel("{x}"),
        2 => RosterKey::User(user("ann")),
        3 => RosterKey::HiddenUser(user("ann")),
        4 => RosterKey::HiddenChannel(rollcall::domain::name::ChannelName::parse("room:1").unwrap()),
        _ => RosterKey::User(user("日本")),
    }
}

fn asks() -> impl Strategy<Value = Ask> {
    let keep = prop_oneof![
        3 => Just(Keep::Held),
        2 => prop::sample::select(vec![0, 500, 4_000, 15_000]).prop_map(|remaining_ms| Keep::Ending { remaining_ms }),
    ];
    let body = (
        prop_oneof![8 => Just("ann"), 3 => Just("日本")],
        0_u64..4,
        prop::sample::select(vec![0_u64, 2_000, 15_000]),
        100_u64..104,
        prop_oneof![4 => Just(0_u64), 1 => 1_u64..9],
        prop::sample::select(vec!["", "{\"p\":1}"]),
        prop::sample::select(vec!["{}", "{\"s\":[]}", "{\"s\":\"\n é\"}"]),
    );
    let body = body.prop_map(|(name, valid, grace_ms, since, changed, private, payload)| Body {
        user: user(name),
        valid,
        grace_ms,
        since,
        changed,
        private: private.into(),
        payload: payload.into(),
    });
    let limit = prop_oneof![3 => Just(0_u64), 1 => 1_u64..3];
    let present = (0_u64..5, prop::bool::weighted(0.8), limit, keep, body)
        .prop_map(|(take, fresh, limit, keep, body)| Ask::Present { take, fresh, limit, keep, body });
    prop_oneof![
        8 => present,
        2 => (0_u64..5).prop_map(|token_take| Ask::Claim { token_take }),
        1 => Just(Ask::Release),
        2 => (0_u64..5).prop_map(|take| Ask::Absent { take: Some(take), reason: Reason::Left }),
        1 => Just(Ask::Absent { take: None, reason: Reason::Kicked }),
        1 => Just(Ask::Absent { take: None, reason: Reason::Replaced }),
        2 => (1_u64..6, any::<bool>(), any::<bool>()).prop_map(|(serial, hidden, lasting)| Ask::Person {
            record: Record { serial, hidden, lasting, profile: "{}".into() }
        }),
        1 => prop::sample::select(vec![7_000_u64, 50_000, 67_000]).prop_map(|at| Ask::Active { at }),
        1 => Just(Ask::Forget),
    ]
}

fn barring() -> impl Strategy<Value = Barring> {
    let whom = prop_oneof![
        Just(Whom::User(user("ann"))),
        Just(Whom::User(user("日本"))),
        Just(Whom::TokensOf(user("ann"))),
        Just(Whom::Token("a b".into())),
    ];
    let times = (prop::sample::select(vec![0_u64, 1, 900, 5_000, 50_000]), 0_u64..3);
    let bar = (whom, times).prop_map(|(whom, (remaining_ms, until_ms))| {
        let until_ms = if matches!(whom, Whom::TokensOf(_)) { until_ms } else { 0 };
        Bar { whom, until_ms, remaining_ms }
    });
    (prop::collection::vec(bar, 0..4), 1_u64..5, 0_u64..3, 0_u64..5).prop_map(|(bars, most, from, listed)| Barring {
        bars,
        most,
        said: "".into(),
        page: (from, listed),
    })
}

fn ops() -> impl Strategy<Value = Op> {
    let who = 0..INSTANCES.len();
    let entry = (0..ROSTERS, 0..CONNECTIONS, asks());
    prop_oneof![
        8 => (who.clone(), prop::bool::weighted(0.8), prop::bool::weighted(0.1))
            .prop_map(|(who, done, bye)| Op::Renew { who, done, bye }),
        14 => (who, prop::collection::vec(entry, 1..7)).prop_map(|(who, entries)| Op::Write { who, entries }),
        7 => prop::sample::select(vec![1, 400, 2_900, 9_000, 100_000]).prop_map(|ms| Op::Pass { ms }),
        1 => Just(Op::Back { ms: 5_000 }),
        8 => (prop::collection::vec(prop_oneof![4 => Just(99_u64), 1 => 0_u64..4], 20), any::<bool>(), 1_usize..20)
            .prop_map(|(tops, lose, most)| Op::Sweep { tops, lose, most }),
        1 => Just(Op::Audit),
        4 => barring().prop_map(|barring| Op::Bar { barring }),
        1 => any::<bool>().prop_map(|gone| Op::NewEpoch { gone }),
    ]
}

/// Both sides, and what the instances have learned.
struct Pair {
    model: Partition,
    stores: Vec<Arc<Redis>>,
    feeds: Vec<Arc<dyn Feed>>,
    raw: MultiplexedConnection,
    prefix: String,
    host: u64,
    runs: u64,
    generations: Vec<Generation>,
    known: Vec<Option<Epoch>>,
    swept: Swept,
}

impl Pair {
    async fn new(server: &harness::Redis, case: u64) -> Self {
        let prefix = format!("m{case}");
        let client = redis::Client::open(server.url()).unwrap();
        let raw = client.get_multiplexed_async_connection().await.unwrap();
        let (mut stores, mut feeds): (Vec<_>, Vec<Arc<dyn Feed>>) = (Vec::new(), Vec::new());
        for instance in INSTANCES {
            let settings = settings(server, &prefix, 1);
            let (store, feed) = Redis::connect_with_test_clock(&settings, TERMS, instance, 30).await.unwrap();
            for index in 0..ROSTERS {
                feed.follow(&roster(index)).await.unwrap();
            }
            feed.follow_index(0).await.unwrap();
            stores.push(store);
            feeds.push(feed);
        }
        let generations = INSTANCES.map(|instance| Generation { instance: instance.into(), number: 1 }).to_vec();
        let beat = Beat { now: 0, epoch: Epoch::new(""), settling: true, next_due: None, tally: Tally::default() };
        let swept = Swept { beat, due: Vec::new(), dead: Vec::new() };
        let mut pair = Self {
            model: Partition::new(TERMS),
            stores,
            feeds,
            raw,
            prefix,
            host: 1_000_000,
            runs: 0,
            generations,
            known: vec![None; INSTANCES.len()],
            swept,
        };
        pair.set_clock().await;
        pair
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{{0}}:{name}", self.prefix)
    }

    async fn ask<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut self.raw).await.unwrap()
    }

    async fn set_clock(&mut self) {
        let key = self.key("test:time");
        let () = self.ask(&["SET", &key, &self.host.to_string()]).await;
    }

    /// The circumstances for the rules: a new epoch is called as Redis has just called it.
    async fn now(&mut self) -> Now {
        let key = self.key("epoch");
        let epoch: Option<String> = self.ask(&["HGET", &key, "id"]).await;
        Now {
            host_ms: self.host,
            wall_ms: self.host,
            run: format!("run{}", self.runs).into(),
            candidate: Epoch::new(&epoch.unwrap_or_default()),
        }
    }

    async fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match op {
            Op::Renew { who, done, bye } => self.renew(*who, *done, *bye).await?,
            Op::Write { who, entries } => self.write(*who, entries).await?,
            Op::Pass { ms } => {
                self.host += ms;
                self.set_clock().await;
            }
            Op::Back { ms } => {
                self.host -= ms.min(&(self.host - 1));
                self.set_clock().await;
            }
            Op::Sweep { tops, lose, most } => self.sweep(tops, *lose, *most).await?,
            Op::Audit => {
                // An audit that finds nothing calls no script, so that what is pending must be done before.
                self.sweep(&[], false, 20).await?;
                let mut cursor = None;
                loop {
                    cursor = self.stores[0].audit(0, cursor).await.unwrap().next;
                    if cursor.is_none() {
                        break;
                    }
                }
                let rows: Vec<(RosterKey, ConnectionId)> = (0..ROSTERS)
                    .map(roster)
                    .flat_map(|roster| {
                        let rows = self.model.rows(&roster).into_iter().flatten();
                        rows.map(move |(connection, _)| (roster.clone(), connection.clone())).collect::<Vec<_>>()
                    })
                    .collect();
                let now = self.now().await;
                self.model.audit(&now, &rows);
            }
            Op::Bar { barring } => {
                let got = self.stores[1].bar(barring).await.unwrap();
                let now = self.now().await;
                prop_assert_eq!(got, self.model.bar(&now, barring));
            }
            Op::NewEpoch { gone } => {
                self.runs += 1;
                let key = self.key("epoch");
                let () = if *gone {
                    self.ask(&["HDEL", &key, "id"]).await
                } else {
                    self.ask(&["HSET", &key, "run", "another"]).await
                };
                // Found by the next call, as ever; the model learns the name of the epoch by it.
                self.sweep(&[], false, 20).await?;
            }
        }
        self.compare().await
    }

    async fn renew(&mut self, who: usize, done: bool, bye: bool) -> Result<(), TestCaseError> {
        let renewal = Renewal {
            generation: self.generations[who].clone(),
            link: 1,
            version: "0.1".into(),
            known: self.known[who].clone(),
            done,
            bye,
        };
        let got = self.stores[who].renew(0, renewal.clone()).await.unwrap().map(|renewed| renewed.beat);
        let now = self.now().await;
        let expected = self.model.renew(&now, &renewal);
        prop_assert_eq!(&got, &expected);
        match got {
            Ok(beat) => self.known[who] = Some(beat.epoch),
            Err(Refusal::Dead) => {
                self.generations[who].number += 1;
                self.known[who] = None;
            }
            Err(other) => prop_assert!(false, "{:?}", other),
        }
        Ok(())
    }

    async fn write(&mut self, who: usize, entries: &[(usize, usize, Ask)]) -> Result<(), TestCaseError> {
        let Some(epoch) = self.known[who].clone() else { return Ok(()) };
        let entry = |(at, connection, ask): &(usize, usize, Ask)| {
            let (roster, mut ask) = (roster(*at), ask.clone());
            // Nobody else is in a user's roster.
            if let (RosterKey::User(user) | RosterKey::HiddenUser(user), Ask::Present { body, .. }) =
                (&roster, &mut ask)
            {
                body.user = user.clone();
            }
            if matches!(ask, Ask::Person { .. } | Ask::Active { .. } | Ask::Forget) {
                let user = if *at % 2 == 0 { "ann" } else { "日本" };
                return Entry { roster: RosterKey::User(self::user(user)), connection: id(""), ask };
            }
            Entry { roster, connection: id(&format!("c{connection}")), ask }
        };
        let entries = entries.iter().map(entry).collect();
        let batch = Batch { generation: self.generations[who].clone(), link: 1, epoch, entries };
        let got = self.stores[who].write(0, &batch).await.unwrap();
        let now = self.now().await;
        prop_assert_eq!(got, self.model.write(&now, &batch));
        Ok(())
    }

    async fn sweep(&mut self, tops: &[u64], lose: bool, most: usize) -> Result<(), TestCaseError> {
        let due: Vec<(Due, u64)> = self.swept.due.iter().cloned().zip(tops.iter().copied()).collect();
        let lost = self.swept.dead.first().filter(|_| lose).map(|dead| {
            let rows = self.model.held_by(dead).map(|(roster, connection)| (roster.clone(), connection.clone()));
            (dead.clone(), rows.collect())
        });
        let sweep = Sweep { due, lost };
        let got = self.stores[0].sweep(0, &sweep, most).await.unwrap();
        let now = self.now().await;
        let expected = self.model.sweep(&now, &sweep, most);
        prop_assert_eq!(&got, &expected);
        self.swept = got;
        Ok(())
    }

    async fn compare(&mut self) -> Result<(), TestCaseError> {
        let told = self.model.told();
        for (index, instance) in INSTANCES.into_iter().enumerate() {
            let mut expected: Vec<Published> = told.published.clone();
            let controls: Vec<Control> = told
                .control
                .iter()
                .filter(|(to, _)| to.as_deref().is_none_or(|to| to == instance))
                .map(|(_, control)| control.clone())
                .collect();
            let (mut heard, mut heard_controls, mut heard_index) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..expected.len() + controls.len() + told.index.len() {
                match tokio::time::timeout(std::time::Duration::from_secs(5), self.feeds[index].next()).await {
                    Ok(FeedEvent::Published(published)) => heard.push(published),
                    Ok(FeedEvent::Index(_, change)) => heard_index.push(change),
                    Ok(FeedEvent::Control(_, control)) => heard_controls.push(control),
                    other => prop_assert!(false, "{:?} instead of {:?} {:?}", other, expected, controls),
                }
            }
            heard.sort_by_key(|published| published.roster.to_string());
            expected.sort_by_key(|published| published.roster.to_string());
            prop_assert_eq!(heard, expected);
            prop_assert_eq!(&heard_index, &told.index);
            // Of several that one call tells the order means nothing.
            let in_order = |mut list: Vec<Control>| {
                list.sort_by_key(|control| format!("{control:?}"));
                list
            };
            prop_assert_eq!(in_order(heard_controls), in_order(controls));
        }
        if self.model.epoch().is_none() {
            return Ok(());
        }
        let ending = self.key("ending");
        let deadlines: BTreeMap<String, u64> = self.ask(&["ZRANGE", &ending, "0", "-1", "WITHSCORES"]).await;
        for index in 0..ROSTERS {
            let roster = roster(index);
            let reading = self.stores[0].read(&roster).await.unwrap();
            prop_assert_eq!(Some((&reading.epoch, reading.settling)), self.model.epoch());
            prop_assert_eq!(reading.number, self.model.number(&roster));
            let rows: BTreeMap<ConnectionId, Row> = reading.rows.into_iter().collect();
            prop_assert_eq!(Some(&rows).filter(|rows| !rows.is_empty()), self.model.rows(&roster));
            for index in 0..CONNECTIONS {
                let connection = id(&format!("c{index}"));
                let member = format!("{roster} {connection}");
                prop_assert_eq!(
                    deadlines.get(&member).copied(),
                    self.model.deadline(&roster, &connection),
                    "{} {}",
                    roster,
                    connection
                );
            }
            match &roster {
                RosterKey::Channel(name) => {
                    let counted = self.stores[0].counts(std::slice::from_ref(name)).await.unwrap().remove(0);
                    prop_assert_eq!(counted.occupancy, self.model.occupancy(&roster));
                }
                RosterKey::User(name) => {
                    let person = self.stores[0].people(std::slice::from_ref(name)).await.unwrap().remove(0);
                    let kept = self.model.kept(name).cloned().unwrap_or_default();
                    prop_assert_eq!(person.record, kept.record);
                    // The clock of this test stands long ago, so that the store takes these for forgotten.
                    let key = self.key(&format!("u:{name}:person"));
                    let times: (Option<u64>, Option<u64>) =
                        self.ask(&["HMGET", &key, "last_seen", "last_active"]).await;
                    prop_assert_eq!(times, (kept.last_seen, kept.last_active));
                }
                RosterKey::HiddenChannel(_) | RosterKey::HiddenUser(_) => {}
            }
        }
        let numbers = self.stores[0].numbers(0, &[]).await.unwrap();
        prop_assert_eq!(numbers.index, self.model.index());
        let totals = self.stores[0].totals().await.unwrap();
        prop_assert_eq!((totals.joins, totals.leaves), (self.model.joins(), self.model.leaves()));
        let leases = totals.instances.iter().map(|one| (&one.generation, &one.version, one.lease_ms));
        prop_assert_eq!(leases.collect::<Vec<_>>(), self.model.instances(self.host).collect::<Vec<_>>());
        let known = self.stores[0].names(Index::Known, "", None, 9).await.unwrap();
        prop_assert_eq!(known, self.model.known().map(ToString::to_string).collect::<Vec<_>>());
        for generation in self.generations.clone() {
            let mut held = Vec::new();
            let mut cursor = None;
            loop {
                let (rows, next) = self.stores[0].held(0, &generation, cursor, 100).await.unwrap();
                held.extend(rows);
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            held.sort();
            let expected: Vec<(RosterKey, ConnectionId)> =
                self.model.held_by(&generation).map(|(roster, id)| (roster.clone(), id.clone())).collect();
            prop_assert_eq!(held, expected);
        }
        Ok(())
    }
}

#[test]
fn random_sequences_lead_to_the_same_in_redis_as_by_the_rules() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(harness::Redis::start());
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let case = std::cell::Cell::new(0);
    let done = std::cell::Cell::new([0_u64; 3]);
    TestRunner::new(config)
        .run(&prop::collection::vec(ops(), 1..=100), |ops| {
            case.set(case.get() + 1);
            runtime.block_on(async {
                let mut pair = Pair::new(&server, case.get()).await;
                for op in &ops {
                    pair.step(op).await.map_err(|error| TestCaseError::fail(format!("{op:?}: {error}")))?;
                }
                let [rows, due, dead] = done.get();
                let here =
                    (0..ROSTERS).filter_map(|index| pair.model.rows(&roster(index))).map(BTreeMap::len).sum::<usize>();
                done.set([
                    rows + here as u64,
                    due + pair.swept.due.len() as u64,
                    dead + u64::from(pair.generations.iter().any(|generation| generation.number > 1)),
                ]);
                Ok(())
            })
        })
        .unwrap();
    // Sequences in which nothing happens would compare nothing.
    assert!(done.get().iter().all(|count| *count > 0), "{done:?}");
}
