//! Which sockets of this worker watch which mirrors. A mirror tells each worker once; the worker tells its own sockets, so that delivery crosses no
//! thread per watcher.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::{Arc, Mutex},
};

use tokio::sync::Notify;

use crate::core::Wake;

/// What a mirror sees of a worker: at most one mark for each mirror waits here.
#[derive(Debug, Default)]
struct Marks {
    marked: Mutex<HashSet<u64>>,
    notify: Notify,
}

impl Wake for Marks {
    fn wake(&self, mirror: u64) {
        self.marked.lock().expect("nothing panics while it holds the marks").insert(mirror);
        self.notify.notify_one();
    }
}

/// One socket's ear: at most one mark for each mirror that it watches waits here.
#[derive(Debug, Default)]
pub struct Ear {
    marked: RefCell<HashSet<u64>>,
    notify: Notify,
}

impl Ear {
    /// Waits until a mirror that is watched has something new. Cancel-safe.
    pub async fn heard(&self) -> HashSet<u64> {
        loop {
            let marked = self.marked.take();
            if !marked.is_empty() {
                return marked;
            }
            self.notify.notified().await;
        }
    }

    fn mark(&self, mirror: u64) {
        self.marked.borrow_mut().insert(mirror);
        self.notify.notify_one();
    }
}

/// The hub of one worker thread.
pub struct Hub {
    marks: Arc<Marks>,
    wake: Arc<dyn Wake>,
    ears: RefCell<HashMap<u64, HashMap<u64, Rc<Ear>>>>,
    last_seat: Cell<u64>,
}

thread_local! {
    static HUB: OnceCell<Rc<Hub>> = const { OnceCell::new() };
}

impl Hub {
    /// The hub of this worker; the first call starts its task.
    pub fn of_this_worker() -> Rc<Self> {
        HUB.with(|hub| {
            hub.get_or_init(|| {
                let marks = Arc::new(Marks::default());
                let hub =
                    Rc::new(Self { wake: marks.clone(), marks, ears: RefCell::default(), last_seat: Cell::new(0) });
                actix_web::rt::spawn(hub.clone().run());
                hub
            })
            .clone()
        })
    }

    /// What mirrors are to wake for this worker's sockets.
    pub fn wake(&self) -> &Arc<dyn Wake> {
        &self.wake
    }

    /// A number for a socket, by which it takes seats.
    pub fn seat(&self) -> u64 {
        self.last_seat.set(self.last_seat.get() + 1);
        self.last_seat.get()
    }

    /// From here on `ear` is told of a mirror.
    pub fn listen(&self, mirror: u64, seat: u64, ear: &Rc<Ear>) {
        self.ears.borrow_mut().entry(mirror).or_default().insert(seat, ear.clone());
        // What came between the watch's begin and this is looked at once.
        ear.mark(mirror);
    }

    /// `ear` is told no more.
    pub fn unlisten(&self, mirror: u64, seat: u64) {
        let mut ears = self.ears.borrow_mut();
        if let Some(seats) = ears.get_mut(&mirror) {
            seats.remove(&seat);
            if seats.is_empty() {
                ears.remove(&mirror);
            }
        }
    }

    async fn run(self: Rc<Self>) {
        loop {
            self.marks.notify.notified().await;
            let marked =
                std::mem::take(&mut *self.marks.marked.lock().expect("nothing panics while it holds the marks"));
            let ears = self.ears.borrow();
            for mirror in marked {
                for ear in ears.get(&mirror).into_iter().flat_map(HashMap::values) {
                    ear.mark(mirror);
                }
            }
        }
    }
}
