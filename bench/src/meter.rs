//! What processes have used: CPU out of the scheduler's own count, memory, and what Redis says of itself.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::server::{Redis, Stage};

/// CPU that a process has used, over all threads that it has, to the nanosecond. Those that have ended are not in it.
pub fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a living process has threads");
    let used = |task: fs::DirEntry| -> u64 {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
    };
    Duration::from_nanos(tasks.flatten().map(used).sum())
}

/// Memory that a process has in use, bytes.
pub fn rss(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a living process has a status");
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kilobytes.expect("the status says VmRSS") * 1_024
}

/// How many files a process may have open.
pub fn open_files() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").expect("a process has limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("files are limited");
    line.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX)
}

/// Where the counters of a stage stand.
pub struct Mark {
    at: Instant,
    servers: Vec<Duration>,
    redis: Duration,
    counters: Counters,
}

/// What was used between two marks.
pub struct Spent {
    /// How long it took.
    pub wall: Duration,
    /// CPU of each instance.
    pub servers: Vec<Duration>,
    /// CPU of Redis.
    pub redis: Duration,
    /// Commands that Redis carried out, those inside of scripts included.
    pub calls: u64,
    /// Bytes that Redis got and sent.
    pub bytes: u64,
}

impl Mark {
    /// Of now.
    pub fn of(stage: &Stage) -> Self {
        let counters = Counters::of(&stage.redis);
        let servers = stage.instances.iter().map(|instance| cpu(instance.pid())).collect();
        Self { at: Instant::now(), servers, redis: cpu(stage.redis.pid()), counters }
    }

    /// What was used since.
    pub fn spent(&self, stage: &Stage) -> Spent {
        let (wall, redis) = (self.at.elapsed(), cpu(stage.redis.pid()) - self.redis);
        let servers = stage.instances.iter().zip(&self.servers).map(|(now, then)| cpu(now.pid()) - *then).collect();
        let (then, now) = (&self.counters, Counters::of(&stage.redis));
        // The two questions of before count, and so do the answers that came since the counters were read.
        let calls = (now.calls - then.calls).saturating_sub(2);
        let bytes = (now.bytes - then.bytes).saturating_sub(then.answers[1] + now.answers[0]);
        Spent { wall, servers, redis, calls, bytes }
    }
}

impl Spent {
    /// CPU of all instances.
    pub fn server(&self) -> Duration {
        self.servers.iter().sum()
    }
}

/// What Redis counts.
struct Counters {
    calls: u64,
    bytes: u64,
    /// How long the two answers were in which it said so.
    answers: [u64; 2],
}

impl Counters {
    fn of(redis: &Redis) -> Self {
        let number = |text: &str| text.trim().parse::<u64>().unwrap_or_default();
        let (commands, stats) = (redis.info("commandstats"), redis.info("stats"));
        let calls =
            commands.lines().filter_map(|line| line.split_once(":calls=")?.1.split(',').next()).map(number).sum();
        let field = |name: &str| stats.lines().find_map(|line| line.strip_prefix(name)).map_or(0, number);
        let bytes = field("total_net_input_bytes:") + field("total_net_output_bytes:");
        Self { calls, bytes, answers: [commands.len() as u64, stats.len() as u64] }
    }
}
