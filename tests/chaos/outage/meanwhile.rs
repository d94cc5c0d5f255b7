//! What people do while Redis is away: leave, join, break and come back.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    super::{
        harness::{Client, Farewell, Person, token},
        stage::SECOND,
    },
    ASLEEP, LATE,
};

/// As it begins the sockets of some break, who come back as the manual asks. Their graces run while nobody can be asked.
pub async fn break_sockets(returning: &[&Person]) {
    sleep(SECOND * 9 / 10).await;
    for person in returning {
        person.client().drop_socket().await;
    }
}

/// Five whose sockets break as it begins, and who come back late: Redis being away must not have used up their grace.
pub struct Sleepers(Vec<Client>);

impl Sleepers {
    pub async fn come(url: &str) -> Self {
        let coming = (0..5).map(async |number| {
            let client = Client::hello_as(url, &format!("sleeper/{number}")).await;
            client.join(ASLEEP, json!({})).await.unwrap();
            client
        });
        Self(join_all(coming).await)
    }

    pub async fn fall_asleep(&self) {
        sleep(SECOND * 9 / 10).await;
        join_all(self.0.iter().map(Client::drop_socket)).await;
    }

    /// All of them come back, here, and nothing has happened to their places.
    pub async fn wake(&self, url: &str) {
        let waking = self.0.iter().enumerate().map(async |(number, asleep)| {
            let client = Client::connect(url).await;
            client.inherit(asleep);
            let (token, resume) = (token(&format!("sleeper/{number}"), json!({})), asleep.resume_token());
            let end = Instant::now() + 5 * SECOND;
            let welcome = loop {
                match client.hello_resume(&token, &resume).await {
                    Ok(welcome) => break welcome,
                    Err(error) => assert!(error.code == "unavailable" && Instant::now() < end, "{error:?}"),
                }
                sleep(SECOND / 2).await;
            };
            assert_eq!((&welcome["resumed"], &welcome["channels"]), (&json!(true), &json!([ASLEEP])), "{welcome}");
        });
        join_all(waking).await;
    }
}

/// So many leave during that time, one after the other, in turn with a goodbye and without.
pub async fn leave(leaving: &[&Person], during: Duration) -> Vec<Farewell> {
    let pause = during / leaving.len() as u32;
    let mut left = Vec::new();
    for (number, person) in leaving.iter().enumerate() {
        left.push(if number % 2 == 0 { person.bye().await } else { person.vanish().await });
        sleep(pause).await;
    }
    left
}

/// Some try to join, one after the other. Half of them give up when they are refused, half try until they are in. Returns those whose join was
/// acknowledged, and how often one was refused.
pub async fn join_late(joining: &[&Person], during: Duration) -> (Vec<String>, usize) {
    let pause = during / joining.len() as u32;
    let joins = joining.iter().enumerate().map(async |(number, person)| {
        sleep(pause * number as u32).await;
        let mut refused = 0;
        loop {
            match person.client().join(LATE, json!({})).await {
                Ok(_) => return (Some(person.user().to_owned()), refused),
                Err(error) => {
                    assert_eq!(error.code, "unavailable", "{error:?}");
                    refused += 1;
                    let after = error.retry_after_ms.expect("it says when to try again");
                    if number % 2 == 0 {
                        return (None, refused);
                    }
                    sleep(Duration::from_millis(after)).await;
                }
            }
        }
    });
    let joined = join_all(joins).await;
    let refused = joined.iter().map(|(_, refused)| refused).sum();
    let mut users: Vec<String> = joined.into_iter().filter_map(|(user, _)| user).collect();
    users.sort();
    (users, refused)
}
