//! The events that wait for the reader of a feed.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::FeedEvent;
use crate::domain::roster::Control;

/// A bounded queue of events. When it is full events are dropped; its reader gets what waits, then `Lost`, and `Restored` if the feed itself is whole.
#[derive(Debug)]
pub(super) struct Queue {
    most: usize,
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug)]
struct Waiting {
    events: VecDeque<FeedEvent>,
    overflowed: bool,
    broken: bool,
}

impl Queue {
    /// An empty queue for at most `most` events.
    pub(super) fn new(most: usize) -> Self {
        let waiting = Waiting { events: VecDeque::new(), overflowed: false, broken: false };
        Self { most, waiting: Mutex::new(waiting), news: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event, or drops it and remembers that. What is only said in passing gives way long before: a flood of it takes no change's place.
    pub(super) fn push(&self, event: FeedEvent) {
        let mut waiting = self.lock();
        let is_aside = matches!(event, FeedEvent::Said(..) | FeedEvent::Control(_, Control::Typing(_)));
        if is_aside && (waiting.overflowed || waiting.events.len() >= self.most / 2) {
            return;
        }
        waiting.overflowed |= waiting.events.len() >= self.most;
        if !waiting.overflowed {
            waiting.events.push_back(event);
        }
        drop(waiting);
        self.news.notify_one();
    }

    /// The feed does not hear any more.
    pub(super) fn lose(&self) {
        self.lock().broken = true;
        self.push(FeedEvent::Lost);
    }

    /// The feed hears again what it had lost; `is_whole` when nothing else is lost.
    pub(super) fn restore(&self, is_whole: bool) {
        self.lock().broken = !is_whole;
        self.push(FeedEvent::Restored);
    }

    /// The next event. Nothing is lost when the wait is given up.
    pub(super) async fn next(&self) -> FeedEvent {
        loop {
            if let Some(event) = self.lock().pop() {
                return event;
            }
            self.news.notified().await;
        }
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<FeedEvent> {
        let event = self.events.pop_front();
        if event.is_some() || !self.overflowed {
            return event;
        }
        self.overflowed = false;
        if !self.broken {
            self.events.push_back(FeedEvent::Restored);
        }
        Some(FeedEvent::Lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        aside::Towards,
        name::{ConnectionId, UserName},
        version::Epoch,
    };

    fn said(number: usize) -> FeedEvent {
        FeedEvent::Control(0, Control::Epoch(Epoch::new(&number.to_string())))
    }

    async fn names(queue: &Queue, count: usize) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..count {
            names.push(match queue.next().await {
                FeedEvent::Lost => "lost".to_owned(),
                FeedEvent::Restored => "restored".to_owned(),
                FeedEvent::Control(_, Control::Epoch(epoch)) => epoch.to_string(),
                other => panic!("{other:?}"),
            });
        }
        names
    }

    #[tokio::test]
    async fn a_full_queue_hands_on_what_it_has_and_says_that_it_lost_the_rest() {
        let queue = Queue::new(2);
        (0..5).for_each(|number| queue.push(said(number)));
        assert_eq!(names(&queue, 4).await, ["0", "1", "lost", "restored"]);
        queue.push(said(9));
        assert_eq!(names(&queue, 1).await, ["9"]);
    }

    #[tokio::test]
    async fn what_is_said_in_passing_gives_way_to_changes() {
        let queue = Queue::new(4);
        let towards = Towards {
            to: UserName::parse("ben").unwrap(),
            by: UserName::parse("ann").unwrap(),
            connection: ConnectionId::from_bytes([1; 16]),
            typing: true,
        };
        let aside = || FeedEvent::Control(0, Control::Typing(towards.clone()));
        queue.push(aside());
        queue.push(said(1));
        // Half of it is taken: two more changes have room, and no aside.
        (0..10).for_each(|_| queue.push(aside()));
        queue.push(said(2));
        queue.push(said(3));
        assert!(matches!(queue.next().await, FeedEvent::Control(_, Control::Typing(_))));
        assert_eq!(names(&queue, 3).await, ["1", "2", "3"]);
        queue.push(said(4));
        assert_eq!(names(&queue, 1).await, ["4"], "nothing was lost");
    }

    #[tokio::test]
    async fn a_broken_feed_is_not_called_restored_by_a_queue_that_has_room_again() {
        let queue = Queue::new(2);
        (0..3).for_each(|number| queue.push(said(number)));
        queue.lose();
        assert_eq!(names(&queue, 3).await, ["0", "1", "lost"]);
        queue.restore(true);
        assert_eq!(names(&queue, 1).await, ["restored"]);
    }
}
