//! The life of one stream: events as the connection takes them, signs of life in between, and the end.

use std::{sync::Arc, time::Duration};

use actix_web::web::Data;
use tokio::time::{Instant, sleep_until};

use super::{
    event,
    pipe::{Inlet, Outlet, pipe},
};
use crate::{
    core::{Command, Error, Notice, Reply, Session},
    domain::member::Reason,
    doors::{
        Doors,
        outbox::Outbox,
        watching::{self, Wanted},
        ws::Close,
    },
    metrics::Because,
};

/// After how long a browser comes back when its stream broke, milliseconds. Drawn for each, or all whose instance died would come back at once.
const RETRY_MS: std::ops::RangeInclusive<u64> = 1_000..=5_000;
/// A timer is looked at again after this at the latest.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// One stream.
pub struct Stream {
    doors: Data<Doors>,
    session: Session,
    outbox: Outbox,
    inlet: Inlet,
    /// Whether events have ids by which the stream can be gone on with.
    has_ids: bool,
    /// Whether it listens to a pattern, which may come to mean more than anybody is told.
    has_pattern: bool,
    /// When something was written last.
    written_at: Instant,
    reconnect_at: Option<Instant>,
    /// What somebody who put the client out has for it.
    said: Arc<str>,
}

impl Stream {
    /// Begins to watch what is wanted. The outlet is the body of the response.
    ///
    /// # Errors
    /// What the caller is told: it may not, or there is no such thing.
    pub async fn begin(doors: Data<Doors>, mut session: Session, wanted: &Wanted) -> Result<(Outlet, Self), Error> {
        let mut outbox = Outbox::on_this_worker();
        let (has_ids, has_pattern) =
            (matches!(wanted, Wanted::Channel { .. }), matches!(wanted, Wanted::Pattern { .. }));
        let command = match wanted {
            Wanted::Channel { channel, level, since } => {
                Some(Command::Watch { channel: channel.clone(), level: *level, since: since.clone() })
            }
            Wanted::Pattern { pattern, level } => {
                watching::may_watch_pattern(&outbox, &doors.limits, pattern)?;
                Some(Command::WatchPattern { pattern: pattern.clone(), level: *level })
            }
            Wanted::Users(users) => {
                watching::users(&session, &mut outbox, &doors.limits, users)?;
                None
            }
            Wanted::Everybody => {
                watching::everybody(&session, &mut outbox)?;
                None
            }
        };
        let wake = outbox.hub().wake().clone();
        if let Some(command) = command {
            match session.execute(command, &wake).await? {
                Reply::Watching(watch) => outbox.watch(watch),
                Reply::WatchingPattern(watch) => outbox.watch_pattern(watch),
                Reply::Changed { .. } | Reply::Done => unreachable!("a watch is answered by a watch"),
            }
        }
        let (inlet, outlet) = pipe();
        let written_at = Instant::now();
        Ok((
            outlet,
            Self {
                doors,
                session,
                outbox,
                inlet,
                has_ids,
                has_pattern,
                written_at,
                reconnect_at: None,
                said: Arc::default(),
            },
        ))
    }

    /// Runs until the stream ends, whatever ends it.
    pub async fn run(mut self) {
        let metrics = self.doors.core.metrics().clone();
        metrics.sockets.inc();
        self.inlet.write(event::retry(rand::random_range(RETRY_MS)));
        let close = self.serve().await;
        let (code, name, description) = close.parts();
        match close {
            // The connection itself may stay for as long as its kernel believes in the other side; nothing of ours waits for that.
            Close::TooSlow | Close::Closed => self.inlet.give_up(),
            // It has been said when to come back.
            Close::Restart => {}
            _ => {
                let said = if self.said.is_empty() { description } else { Close::said(&self.said) };
                self.inlet.write(event::closed(code, said));
            }
        }
        self.session.end(close.reason());
        metrics.sockets.dec();
        metrics.closes.get_or_create(&Because { reason: name }).inc();
    }

    async fn serve(&mut self) -> Close {
        let metrics = self.doors.core.metrics().clone();
        let ear = self.outbox.ear().clone();
        let notices: Arc<_> = self.session.notices();
        let mut draining = self.doors.draining.clone();
        loop {
            while self.inlet.has_room()
                && let Some(frame) = self.outbox.next(&metrics)
            {
                metrics.frames.inc();
                event::event(frame, self.has_ids).into_iter().for_each(|part| self.inlet.write(part));
                self.written_at = Instant::now();
            }
            if self.has_pattern && self.outbox.patterns_watched() == 0 {
                // It was told that it watches no more, and nothing would follow.
                return Close::Bye;
            }
            let timer = match self.look_at_clock() {
                Ok(at) => at,
                Err(close) => return close,
            };
            tokio::select! {
                biased;
                is_there = self.inlet.taken() => {
                    if !is_there {
                        return Close::Closed;
                    }
                }
                notice = notices.next() => {
                    if let Some(close) = self.obey(notice) {
                        return close;
                    }
                }
                marked = ear.heard() => self.outbox.mark(marked),
                stopping = draining.wait_for(|draining| *draining), if self.reconnect_at.is_none() => {
                    // An error means that the whole service is gone.
                    drop(stopping);
                    self.reconnect_at = Some(self.doors.server.goodbye_at());
                }
                () = sleep_until(timer) => {}
            }
        }
    }

    /// Does what is due by time alone. Returns when to look again, or what ends the stream.
    fn look_at_clock(&mut self) -> Result<Instant, Close> {
        let now = Instant::now();
        let mut next = now + LONGEST_SLEEP;
        if let Some(at) = self.reconnect_at {
            if at <= now {
                let spread_ms = self.session.shortest_grace_ms() / 3;
                self.inlet.write(event::reconnect(rand::random_range(0..=spread_ms)));
                return Err(Close::Restart);
            }
            next = next.min(at);
        }
        if self.session.ends_at() <= now {
            return Err(Close::TokenExpired);
        }
        next = next.min(self.session.ends_at());
        if !self.inlet.is_empty() {
            let slow_at = self.inlet.progressed_at() + Duration::from_millis(self.doors.server.slow_close_ms);
            return if slow_at <= now { Err(Close::TooSlow) } else { Ok(next.min(slow_at)) };
        }
        let silence = Duration::from_millis(self.doors.core.settings().presence.ping_ms);
        if self.written_at + silence <= now {
            self.inlet.write(event::ALIVE);
            self.written_at = now;
        }
        Ok(next.min(self.written_at + silence))
    }

    fn obey(&mut self, notice: Notice) -> Option<Close> {
        match notice {
            Notice::Ended(Reason::Kicked) => Some(Close::Kicked),
            Notice::Ended(_) => Some(Close::Restart),
            Notice::PutOut(why, said) => {
                self.said = said;
                Some(why.into())
            }
            // It holds nothing that could be asked for, and is nowhere.
            Notice::Prove | Notice::Left(..) | Notice::Join(..) => None,
        }
    }
}
