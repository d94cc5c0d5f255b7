//! How long it takes until the feed hears what is said.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Measured by the questions that the feed asks itself.
#[derive(Debug, Default)]
pub struct Lag(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The question that is not heard yet.
    asked: Option<(String, Instant)>,
    last: Duration,
    lost_at: Option<Instant>,
}

impl Lag {
    /// A question is about to be said. Where the one before was not heard, nothing has been heard since that.
    pub fn asked(&self, question: &str) {
        let mut state = self.lock();
        let since = state.asked.take().map_or_else(Instant::now, |(_, at)| at);
        state.asked = Some((question.to_owned(), since));
    }

    /// It could not be said.
    pub fn unasked(&self) {
        self.lock().asked = None;
    }

    /// A question was heard.
    pub fn heard(&self, question: &str) {
        let mut state = self.lock();
        if let Some((_, at)) = state.asked.take_if(|(asked, _)| asked == question) {
            state.last = at.elapsed();
        }
    }

    /// Nothing is heard from now on.
    pub fn lost(&self) {
        let mut state = self.lock();
        // It has not been heard since the question that remained unanswered.
        let since = state.asked.take().map_or_else(Instant::now, |(_, at)| at);
        state.lost_at.get_or_insert(since);
    }

    /// It hears again.
    pub fn restored(&self) {
        self.lock().lost_at = None;
    }

    /// The last time that was measured, or, where that is more, for how long nothing has been heard that should have been.
    pub fn now(&self) -> Duration {
        let state = self.lock();
        let silent = state.lost_at.or(state.asked.as_ref().map(|(_, at)| *at));
        silent.map_or(state.last, |at| at.elapsed().max(state.last))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_measured_and_a_question_without_one_grows() {
        let lag = Lag::default();
        assert_eq!(lag.now(), Duration::ZERO);
        lag.asked("a");
        advance(SECOND / 10).await;
        lag.heard("of another");
        lag.heard("a");
        advance(SECOND).await;
        assert_eq!(lag.now(), SECOND / 10);
        lag.asked("b");
        advance(SECOND / 100).await;
        assert_eq!(lag.now(), SECOND / 10, "it may still come sooner than the last");
        advance(3 * SECOND).await;
        assert_eq!(lag.now(), SECOND / 100 + 3 * SECOND);
        lag.unasked();
        assert_eq!(lag.now(), SECOND / 10, "what was not said cannot be heard");
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_that_is_lost_lags_from_the_question_on_that_it_did_not_hear() {
        let lag = Lag::default();
        lag.asked("a");
        advance(SECOND).await;
        lag.asked("b");
        advance(3 * SECOND).await;
        assert_eq!(lag.now(), 4 * SECOND);
        lag.lost();
        advance(SECOND).await;
        lag.lost();
        assert_eq!(lag.now(), 5 * SECOND);
        lag.restored();
        assert_eq!(lag.now(), Duration::ZERO);
    }
}
