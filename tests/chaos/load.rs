//! People who change their states all the time, and what of that has to be there in the end.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{
    harness::{Crowd, Person, Rest, holds_within, segment},
    stage::{SECOND, Stage},
};

/// Between two changes of one.
const PAUSE: Duration = Duration::from_millis(100);

/// Some of a crowd, each of whom counts up in their first channel.
pub struct Load {
    end: watch::Sender<bool>,
    counting: Vec<(String, String, JoinHandle<Counted>)>,
}

/// What one has said, and the last of it that was acknowledged.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    said: u64,
    acknowledged: u64,
    times: usize,
}

impl Load {
    /// Every `each`-th of those who stay begins to count.
    pub fn begin(crowd: &Arc<Crowd>, each: usize) -> Self {
        let end = watch::Sender::new(false);
        let counting = crowd.people.iter().enumerate().filter(|(number, person)| number % each == 0 && person.stays());
        let counting = counting.map(|(number, person)| {
            let (crowd, ended) = (crowd.clone(), end.subscribe());
            let count = tokio::spawn(async move { count(&crowd.people[number], &ended).await });
            (person.user().to_owned(), person.plan().joins[0].clone(), count)
        });
        Self { counting: counting.collect(), end }
    }

    /// All stop, and everybody who watches, and REST, sees of each who is still there what was acknowledged last, or what was said after that. Returns how many changes
    /// were acknowledged.
    pub async fn end<R>(self, stage: &Stage<R>, crowd: &Crowd) -> usize {
        self.end.send_replace(true);
        let mut acknowledged = 0;
        for (user, channel, counting) in self.counting {
            let counted = counting.await.expect("nobody falls");
            acknowledged += counted.times;
            if !crowd.living(&channel).contains(&user) {
                continue;
            }
            let is_right = |state: &serde_json::Value| {
                let shown = state["count"].as_u64().unwrap_or(0);
                (counted.acknowledged..=counted.said).contains(&shown)
            };
            let watchers: Vec<&Person> = stage.watching(crowd).collect();
            let seen = holds_within(10 * SECOND, async || {
                watchers.iter().all(|watcher| {
                    let Some(view) = watcher.client().view(&channel) else { return true };
                    let mut of_user = view.members().values().filter(|member| member["user"] == user.as_str());
                    of_user.next().is_some_and(|member| is_right(&member["state"]))
                })
            });
            assert!(seen.await.is_some(), "{user} in {channel}: {counted:?} is not what all see");
            let asked = join_all(stage.instances.iter().map(async |instance| {
                let path = format!("/v1/channels/{}/members?limit=1000", segment(&channel));
                let members = Rest::new(&instance.url()).get(&path).await.ok();
                let of_user = members["members"].as_array().into_iter().flatten().find(|m| m["user"] == user.as_str());
                of_user.is_some_and(|member| is_right(&member["state"]))
            }));
            assert!(
                asked.await.into_iter().all(|right| right),
                "{user} in {channel}: {counted:?} is not what REST says"
            );
        }
        acknowledged
    }
}

async fn count(person: &Person, ended: &watch::Receiver<bool>) -> Counted {
    let channel = &person.plan().joins[0];
    let mut counted = Counted::default();
    while !*ended.borrow() && person.stays() {
        counted.said += 1;
        // Refused or unanswered, it may still come to be.
        if person.client().update(channel, json!({"count": counted.said})).await.is_ok() {
            counted.acknowledged = counted.said;
            counted.times += 1;
        }
        sleep(PAUSE).await;
    }
    counted
}
