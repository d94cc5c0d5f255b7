//! The schema in Redis, changed in numbered steps. A step that was shipped is never edited.

use std::time::Duration;

use redis::{Script, aio::MultiplexedConnection};

use super::{
    client::failed,
    keys::{Keys, SCHEMA},
    topology::{Line, Topology},
};
use crate::store::StoreError;

/// The steps, in order; the last one's number is the schema's.
const STEPS: &[&str] = &[include_str!("../../../migrations/0001_first.lua")];
/// For how long a lock is held that nobody gives back, milliseconds.
const LOCK_MS: u64 = 30_000;
/// How often, and after how many milliseconds each, somebody else's change is waited for.
const WAITS: (u32, u64) = (50, 200);

/// Gives the lock back, if it is still ours.
const UNLOCK: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// A line `-- name: value` in the comment that a step begins with.
fn header<'a>(step: &'a str, name: &str) -> Option<&'a str> {
    let lines = step.lines().map_while(|line| line.strip_prefix("-- "));
    lines.filter_map(|line| line.split_once(": ")).find(|(found, _)| *found == name).map(|(_, value)| value.trim())
}

fn header_number(step: &str, name: &str) -> u64 {
    header(step, name).and_then(|value| value.parse().ok()).expect("every step names its number and its oldest reader")
}

/// Brings the schema to what this program writes, and checks that all instances spread presence over as many partitions.
///
/// # Errors
/// [`StoreError::Unusable`] where a newer program has written what this one cannot read, or the partitions differ.
pub async fn ensure(topology: &Topology, keys: &Keys, partitions: u16) -> Result<(), StoreError> {
    let mut connection = topology.connected(&*topology.node_of(SCHEMA)?).await?.connection;
    let connection = &mut connection;
    let ours = STEPS.len() as u64;
    for _ in 0..WAITS.0 {
        let (number, min_reader, stored): (Option<u64>, Option<u64>, Option<u16>) = redis::cmd("HMGET")
            .arg(keys.schema())
            .arg(&["number", "min_reader", "partitions"])
            .query_async(connection)
            .await
            .map_err(|error| failed(&error))?;
        let number = number.unwrap_or(0);
        if min_reader.is_some_and(|least| least > ours) {
            return Err(StoreError::Unusable(format!(
                "Redis holds schema {number}, which this program cannot read (it knows schema {ours}); start a newer one"
            )));
        }
        if let Some(stored) = stored.filter(|stored| *stored != partitions) {
            return Err(StoreError::Unusable(format!(
                "presence is spread over {stored} partitions in this Redis, and `redis.partitions` says {partitions}; it is fixed at the \
                 first start"
            )));
        }
        if number >= ours && stored.is_some() {
            return Ok(());
        }
        if climb(topology, connection, keys, partitions, number).await? {
            continue;
        }
        tokio::time::sleep(Duration::from_millis(WAITS.1)).await;
    }
    Err(StoreError::Unavailable("another instance has been changing the schema for too long".into()))
}

/// Carries out the steps after `number`, if nobody else does so just now.
async fn climb(
    topology: &Topology,
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    partitions: u16,
    number: u64,
) -> Result<bool, StoreError> {
    let token = format!("{:032x}", rand::random::<u128>());
    let locked: Option<String> = redis::cmd("SET")
        .arg(keys.schema_lock())
        .arg(&token)
        .arg(&["NX", "PX"])
        .arg(LOCK_MS)
        .query_async(connection)
        .await
        .map_err(|error| failed(&error))?;
    if locked.is_none() {
        return Ok(false);
    }
    let done = climb_locked(topology, connection, keys, partitions, number).await;
    let unlocked: Result<u64, _> =
        Script::new(UNLOCK).key(keys.schema_lock()).arg(&token).invoke_async(connection).await;
    done?;
    unlocked.map_err(|error| failed(&error))?;
    Ok(true)
}

async fn climb_locked(
    topology: &Topology,
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    partitions: u16,
    number: u64,
) -> Result<(), StoreError> {
    for step in STEPS.iter().skip(usize::try_from(number).unwrap_or(usize::MAX)) {
        let script = Script::new(step);
        for partition in 0..partitions {
            let mut cursor = String::new();
            let node = topology.node_of(partition)?;
            let Line { id: line, connection: mut home } = topology.connected(&node).await?;
            loop {
                let versions = keys.partition(partition).versions();
                let call = script.key(versions).arg(&cursor).invoke_async(&mut home).await;
                cursor = call.map_err(|error| failed(&error)).inspect_err(|_| node.drop_line(line))?;
                if cursor.is_empty() {
                    break;
                }
                // Only whoever holds the lock is here: a long step keeps it.
                let keep = redis::cmd("PEXPIRE").arg(keys.schema_lock()).arg(LOCK_MS).exec_async(connection).await;
                keep.map_err(|error| failed(&error))?;
            }
        }
        redis::cmd("HSET")
            .arg(keys.schema())
            .arg("number")
            .arg(header_number(step, "number"))
            .arg("min_reader")
            .arg(header_number(step, "min_reader"))
            .exec_async(connection)
            .await
            .map_err(|error| failed(&error))?;
    }
    let fixed = redis::cmd("HSETNX").arg(keys.schema()).arg("partitions").arg(partitions).exec_async(connection).await;
    fixed.map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::domain::{name::RosterKey, roster::Generation};

    #[test]
    fn steps_are_numbered_without_a_gap() {
        for (index, step) in STEPS.iter().enumerate() {
            assert_eq!(header_number(step, "number"), index as u64 + 1);
            assert!(header_number(step, "min_reader") <= index as u64 + 1);
        }
    }

    /// The name that a text begins with.
    fn word(text: &str) -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    }

    /// Key names as they are made, and the layouts that scripts and codec share, as they stand in the scripts.
    fn schema() -> String {
        let keys = Keys::new("p");
        let partition = keys.partition(7);
        let generation = Generation { instance: "i".into(), number: 2 };
        let (channel, user) = (RosterKey::from_stored("c:C").unwrap(), RosterKey::from_stored("u:U").unwrap());
        let mut lines = vec![keys.schema(), keys.schema_lock()];
        lines.extend(partition.fixed(Some(&generation)));
        lines.extend([partition.bars(), partition.bars_until()]);
        lines.extend([partition.rows("c:C"), partition.side(&channel), partition.side(&user), partition.frozen("N")]);
        lines.push(Keys::partition_of("c:C", 4096).to_string());
        let rows = include_str!("scripts/rows.lua");
        let (from, to) = (rows.find("local function compose").unwrap(), rows.find("local function is_ending").unwrap());
        // The fields of a row in their order; the names of the fields that hashes have.
        lines.extend(rows[from..to].split("row.").skip(1).map(word));
        let scripts = [
            include_str!("scripts/prelude.lua"),
            rows,
            include_str!("scripts/renew.lua"),
            include_str!("scripts/bar.lua"),
        ]
        .concat();
        let written = scripts.lines().filter(|line| line.contains("'HSET'"));
        lines.extend(written.flat_map(|line| line.split('\'').skip(1).step_by(2)).map(str::to_owned));
        lines.join("\n")
    }

    #[test]
    fn the_schema_does_not_change_without_a_step() {
        let digest: String = Sha256::digest(schema()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let last = STEPS.last().unwrap();
        assert_eq!(
            header(last, "digest"),
            Some(&*digest),
            "key names or layouts changed: add a step to migrations/ that carries the new digest"
        );
    }
}
