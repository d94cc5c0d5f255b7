//! Questions that many ask at the same time, answered together.
//!
//! When a channel has become too large for a list, everybody who watched it may ask for the first page of one, and each answer is a reading of the whole
//! roster. So there is one reading at a time for each channel, and whoever asks is answered by the first that begins afterwards: never with what was
//! true before, and however many ask, with two readings at most.

use std::{
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use super::error::Error;
use crate::domain::chance::Map;

/// See the module. There is as much in it as is being asked.
pub(crate) struct Shared<K, T>(Mutex<Map<K, Arc<Question<T>>>>);

/// The number of a reading, and what came of it.
type Answered<T> = (u64, Result<Arc<T>, Error>);

struct Question<T> {
    /// How many readings have begun.
    begun: AtomicU64,
    /// The last that has ended; held by whoever reads.
    last: tokio::sync::Mutex<Option<Answered<T>>>,
}

/// Somebody who asks: the last one takes the question away.
struct Asker<'a, K: Eq + Hash, T> {
    shared: &'a Shared<K, T>,
    key: &'a K,
    question: Arc<Question<T>>,
}

impl<K: Eq + Hash, T> Drop for Asker<'_, K, T> {
    fn drop(&mut self) {
        let mut all = self.shared.lock();
        // The map's and this one.
        if Arc::strong_count(&self.question) == 2 {
            all.remove(self.key);
        }
    }
}

impl<K: Eq + Hash, T> Default for Shared<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, T> Shared<K, T> {
    /// What `read` answers, or what it answered to somebody else, if that began after this was asked.
    pub async fn ask(&self, key: &K, read: impl Future<Output = Result<T, Error>>) -> Result<Arc<T>, Error> {
        let question = self.lock().entry(key.clone()).or_insert_with(|| Arc::new(Question::new())).clone();
        let asker = Asker { shared: self, key, question };
        let question = &asker.question;
        let before = question.begun.load(Ordering::Relaxed);
        let mut last = question.last.lock().await;
        if let Some((number, answer)) = &*last
            && *number > before
        {
            return answer.clone();
        }
        let number = question.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = read.await.map(Arc::new);
        *last = Some((number, answer.clone()));
        answer
    }
}

impl<K: Eq + Hash, T> Shared<K, T> {
    fn lock(&self) -> MutexGuard<'_, Map<K, Arc<Question<T>>>> {
        self.0.lock().expect("nothing panics while it holds the map")
    }
}

impl<T> Question<T> {
    fn new() -> Self {
        Self { begun: 0.into(), last: tokio::sync::Mutex::new(None) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    /// A reading takes a second and answers when it began.
    async fn reading(begun: &AtomicU64) -> Result<Instant, Error> {
        begun.fetch_add(1, Ordering::Relaxed);
        let at = Instant::now();
        sleep(Duration::from_secs(1)).await;
        Ok(at)
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_who_ask_at_once_are_two_readings_and_nobody_is_told_what_was_before() {
        let (shared, begun) = (Shared::default(), AtomicU64::new(0));
        let answers = join_all((0..1_000).map(async |number| {
            sleep(Duration::from_millis(number % 10)).await;
            let asked = Instant::now();
            let read = shared.ask(&"a", reading(&begun)).await.unwrap();
            (asked, *read)
        }))
        .await;
        assert!(answers.iter().all(|(asked, read)| read >= asked));
        assert_eq!(begun.load(Ordering::Relaxed), 2, "that of the first, and one for all others");
        assert!(shared.lock().is_empty(), "nothing is kept");
        // Others do not wait for it.
        let others = join_all(["b", "c"].iter().map(|key| shared.ask(key, reading(&begun))));
        assert!(timeout(Duration::from_millis(1_500), others).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_that_is_given_up_or_fails_leaves_the_others_to_read_and_nothing_behind() {
        let (shared, begun) = (Shared::default(), AtomicU64::new(0));
        let (given_up, answered) =
            tokio::join!(timeout(Duration::from_millis(300), shared.ask(&"a", reading(&begun))), async {
                sleep(Duration::from_millis(100)).await;
                shared.ask(&"a", reading(&begun)).await
            });
        assert!(given_up.is_err() && answered.is_ok());
        assert_eq!(begun.load(Ordering::Relaxed), 2);
        let failed = shared.ask(&"a", async { Err(Error::unavailable("away")) }).await;
        assert!(failed.is_err() && shared.ask(&"a", reading(&begun)).await.is_ok());
        assert!(shared.lock().is_empty());
    }
}
