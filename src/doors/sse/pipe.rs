//! Between a stream and the response that carries it: a few kilobytes, which the connection takes when it has room.
//!
//! The framework asks a body for more as long as its own buffer is not full, and not at all while it is. So the stream, which has timers to look at,
//! is a task of its own, and this is its only queue: what does not fit waits in the mirrors, once for all.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::Stream;
use tokio::{sync::Notify, time::Instant};

/// As many bytes may wait here: enough to fill a write, little for one who does not read.
const UNDER_WAY: usize = 8 * 1024;
/// The framework copies each piece into its buffer, which grows by it.
const PIECE: usize = 8 * 1024;

#[derive(Debug)]
struct Shared {
    waiting: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    /// Nothing more will come.
    is_over: Cell<bool>,
    /// Nobody takes anything more.
    is_gone: Cell<bool>,
    progressed_at: Cell<Instant>,
    reader: RefCell<Option<Waker>>,
    taken: Notify,
}

/// The end into which the stream writes.
#[derive(Debug)]
pub struct Inlet(Rc<Shared>);

/// The body of the response.
#[derive(Debug)]
pub struct Outlet(Rc<Shared>);

/// A pipe with nothing in it.
pub fn pipe() -> (Inlet, Outlet) {
    let shared = Rc::new(Shared {
        waiting: RefCell::default(),
        bytes: Cell::new(0),
        is_over: Cell::new(false),
        is_gone: Cell::new(false),
        progressed_at: Cell::new(Instant::now()),
        reader: RefCell::default(),
        taken: Notify::new(),
    });
    (Inlet(shared.clone()), Outlet(shared))
}

impl Inlet {
    /// Whether another event fits.
    pub fn has_room(&self) -> bool {
        self.0.bytes.get() < UNDER_WAY
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.bytes.get() == 0
    }

    /// When something was taken last, or came while nothing waited.
    pub fn progressed_at(&self) -> Instant {
        self.0.progressed_at.get()
    }

    /// Writes. Call it when there is room.
    pub fn write(&self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        if self.is_empty() {
            self.0.progressed_at.set(Instant::now());
        }
        self.0.bytes.set(self.0.bytes.get() + bytes.len());
        self.0.waiting.borrow_mut().push_back(bytes);
        self.0.wake_reader();
    }

    /// What waits is not kept for somebody who does not take it.
    pub fn give_up(&self) {
        self.0.waiting.borrow_mut().clear();
        self.0.bytes.set(0);
    }

    /// Waits until something was taken; false when nobody will take anything more. Cancel-safe.
    pub async fn taken(&self) -> bool {
        if !self.0.is_gone.get() {
            self.0.taken.notified().await;
        }
        !self.0.is_gone.get()
    }
}

impl Drop for Inlet {
    /// What waits is still taken, then the response ends.
    fn drop(&mut self) {
        self.0.is_over.set(true);
        self.0.wake_reader();
    }
}

impl Shared {
    fn wake_reader(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Stream for Outlet {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let shared = &self.0;
        let mut waiting = shared.waiting.borrow_mut();
        let Some(front) = waiting.front_mut() else {
            if shared.is_over.get() {
                return Poll::Ready(None);
            }
            shared.reader.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        };
        let piece = front.split_to(front.len().min(PIECE));
        if front.is_empty() {
            waiting.pop_front();
        }
        shared.bytes.set(shared.bytes.get() - piece.len());
        shared.progressed_at.set(Instant::now());
        shared.taken.notify_one();
        Poll::Ready(Some(Ok(piece)))
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.0.is_gone.set(true);
        self.0.taken.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_long_is_taken_in_pieces_and_only_so_much_waits() {
        let (inlet, mut outlet) = pipe();
        assert!(outlet.next().now_or_never().is_none(), "nothing is there yet");
        inlet.write(Bytes::from(vec![b'x'; 20_000]));
        assert!(!inlet.has_room());
        let mut taken = Vec::new();
        while let Some(Some(Ok(piece))) = outlet.next().now_or_never() {
            assert!(piece.len() <= PIECE);
            taken.extend_from_slice(&piece);
        }
        assert_eq!(taken.len(), 20_000);
        assert!(inlet.is_empty() && inlet.has_room());
        assert_eq!(inlet.taken().now_or_never(), Some(true));
    }

    #[tokio::test]
    async fn each_end_notices_the_end_of_the_other() {
        let (inlet, mut outlet) = pipe();
        inlet.write(Bytes::from_static(b"last"));
        drop(inlet);
        assert_eq!(outlet.next().await.unwrap().unwrap(), "last");
        assert!(outlet.next().await.is_none());
        let (inlet, outlet) = pipe();
        let gone = async { inlet.taken().await };
        let (still_there, ()) = tokio::join!(gone, async { drop(outlet) });
        assert!(!still_there);
        assert!(!inlet.taken().await, "and it stays so");
    }
}
