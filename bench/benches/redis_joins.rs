//! What a join costs Redis: CPU of the server and time inside scripts, by the size of the batches.
//!
//! `cargo bench -p rollcall-bench --bench redis_joins`. Starts a `redis-server` of its own (or that named by `REDIS_SERVER`) and ends it.
//! A join is two entries, as a client's is: the user's own roster, and the channel. Each user is new. One batch is in flight.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rollcall::{
    domain::{
        name::{ChannelName, ConnectionId, RosterKey, UserName},
        partition::{Batch, Renewal, Terms},
        roster::{Ask, Body, Entry, Generation, Keep},
        version::Epoch,
    },
    store::{Settings, Store, redis::Redis},
};

use tokio::time::Instant;

const JOINS: usize = 20_000;

struct Server(Child, u16);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start() -> Server {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound").port();
    let program = std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
    let child = Command::new(program)
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    Server(child, port)
}

async fn ask<T: redis::FromRedisValue>(connection: &mut redis::aio::MultiplexedConnection, words: &[&str]) -> T {
    redis::cmd(words[0]).arg(&words[1..]).query_async(connection).await.expect("Redis answers")
}

/// CPU of the main thread so far, microseconds; usec and calls of a command.
async fn spent(connection: &mut redis::aio::MultiplexedConnection, command: &str) -> (f64, f64, f64) {
    let cpu: String = ask(connection, &["INFO", "cpu"]).await;
    let field = |text: &str, name: &str| {
        let at = text.find(name).map(|at| &text[at + name.len()..]);
        at.and_then(|rest| rest.split([',', '\r']).next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let cpu = field(&cpu, "used_cpu_sys_main_thread:") + field(&cpu, "used_cpu_user_main_thread:");
    let stats: String = ask(connection, &["INFO", "commandstats"]).await;
    let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:"))).unwrap_or_default();
    (cpu * 1e6, field(line, "usec="), field(line, "calls="))
}

fn entries(index: usize, channels: usize) -> [Entry; 2] {
    let user = UserName::parse(&format!("user-{index:08}")).expect("a name");
    let connection = ConnectionId::from_stored(&format!("{index:022}"));
    let ask = |payload: &str| Ask::Present {
        take: 1,
        fresh: true,
        limit: 100_000,
        keep: Keep::Held,
        body: Body {
            user: user.clone(),
            valid: 1,
            grace_ms: 15_000,
            since: 1_700_000_000_000,
            changed: 0,
            private: "{\"channels\":[\"room:1\"]}".into(),
            payload: payload.into(),
        },
    };
    let channel = ChannelName::parse(&format!("room:{}", index % channels)).expect("a name");
    let state =
        "{\"status\":\"online\",\"state\":{\"name\":\"Somebody\",\"color\":\"#336699\"},\"since\":1700000000000}";
    [
        Entry { roster: RosterKey::User(user.clone()), connection: connection.clone(), ask: ask(state) },
        Entry { roster: RosterKey::Channel(channel), connection, ask: ask(state) },
    ]
}

async fn renew(store: &Redis, known: Option<Epoch>) -> (u64, Epoch) {
    let generation = Generation { instance: "bench".into(), number: 1 };
    let renewal = Renewal { generation, link: 0, version: "0".into(), known, done: true, bye: false };
    let renewed = store.renew(0, renewal).await.expect("in reach").expect("accepted");
    (renewed.link, renewed.beat.epoch)
}

/// What the same structures cost when nothing is decided: one script with constant names and texts, to compare within a run.
const FLOOR: &str = "
local held, online, versions, users, rows = {}, {}, {}, {}, {}
for i = 1, tonumber(ARGV[1]) do
  local id = ARGV[2] + i
  redis.call('HSET', 'floor:u:' .. id .. ':rows', id, ARGV[3])
  held[#held + 1] = 'u:' .. id
  online[#online + 1] = '0'
  online[#online + 1] = id
  versions[#versions + 1] = 'u:' .. id
  versions[#versions + 1] = '1'
  users[#users + 1] = id
  users[#users + 1] = id
  rows[#rows + 1] = id
  rows[#rows + 1] = ARGV[3]
end
redis.call('SADD', 'floor:held:u', unpack(held))
redis.call('SADD', 'floor:held:c', unpack(held))
redis.call('ZADD', 'floor:online', unpack(online))
redis.call('HSET', 'floor:versions', unpack(versions))
redis.call('HSET', 'floor:c:rows', unpack(rows))
redis.call('HSET', 'floor:c:users', unpack(users))
redis.call('PUBLISH', 'floor:f', ARGV[3])
return 1";

async fn floor(raw: &mut redis::aio::MultiplexedConnection, size: usize) -> (f64, f64) {
    let () = ask(raw, &["FLUSHALL"]).await;
    let () = ask(raw, &["CONFIG", "RESETSTAT"]).await;
    let script = redis::Script::new(FLOOR);
    let text = "x".repeat(150);
    let (cpu, _, _) = spent(raw, "evalsha").await;
    for first in (0..JOINS).step_by(size) {
        let mut call = script.prepare_invoke();
        let () = call.arg(size).arg(first).arg(&text).invoke_async(raw).await.expect("Redis answers");
    }
    let (after, usec, _) = spent(raw, "evalsha").await;
    ((after - cpu) / JOINS as f64, usec / JOINS as f64)
}

#[tokio::main]
async fn main() {
    let server = start();
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/", server.1)).expect("an address");
    let mut raw = loop {
        match client.get_multiplexed_async_connection().await {
            Ok(connection) => break connection,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let settings = Settings {
        url: Some(format!("redis://127.0.0.1:{}/", server.1)),
        prefix: "bench".into(),
        ca_file: None,
        partitions: Some(1),
    };
    let terms = Terms { renew_ms: 3_000, lease_ms: 10_000, settle_ms: 7_000 };
    let (store, _feed): (Arc<Redis>, _) = Redis::connect(&settings, terms, "bench", 30).await.expect("connects");
    println!(
        "{:>9} {:>6} | {:>12} {:>14} {:>12} | {:>16} {:>12}",
        "channels", "batch", "joins/s", "Redis CPU us", "in script us", "floor: Redis CPU", "in script"
    );
    for channels in [1, 1_000] {
        for size in [1, 10, 50, 200] {
            let () = ask(&mut raw, &["FLUSHALL"]).await;
            let (mut link, mut epoch) = renew(&store, None).await;
            let () = ask(&mut raw, &["CONFIG", "RESETSTAT"]).await;
            let (cpu, _, _) = spent(&mut raw, "evalsha").await;
            let began = Instant::now();
            let mut renewed = Instant::now();
            let indices: Vec<usize> = (0..JOINS).collect();
            for chunk in indices.chunks(size) {
                if renewed.elapsed() > Duration::from_secs(2) {
                    (link, epoch) = renew(&store, Some(epoch)).await;
                    renewed = Instant::now();
                }
                let batch = Batch {
                    generation: Generation { instance: "bench".into(), number: 1 },
                    link,
                    epoch: epoch.clone(),
                    entries: chunk.iter().flat_map(|index| entries(*index, channels)).collect(),
                };
                store.write(0, &batch).await.expect("in reach").expect("accepted");
            }
            let took = began.elapsed().as_secs_f64();
            let (cpu_after, usec, _) = spent(&mut raw, "evalsha").await;
            let joins = JOINS as f64;
            let cpu = (cpu_after - cpu) / joins;
            let (floor_cpu, floor_usec) = floor(&mut raw, size).await;
            println!(
                "{channels:>9} {size:>6} | {:>12.0} {cpu:>14.2} {:>12.2} | {floor_cpu:>16.2} {floor_usec:>12.2}",
                joins / took,
                usec / joins
            );
            if std::env::var_os("DETAIL").is_some() {
                let stats: String = ask(&mut raw, &["INFO", "commandstats"]).await;
                stats.lines().filter(|line| line.contains("usec=")).for_each(|line| println!("    {line}"));
            }
        }
    }
}
