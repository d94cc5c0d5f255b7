//! A TCP proxy whose links can be cut, frozen, delayed and mended, and made deaf one by one.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

/// What the proxy does with its links.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Open,
    /// Links are closed and new ones too.
    Cut,
    /// Links stay and nothing passes.
    Blackhole,
    Delay(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct State {
    mode: Mode,
    /// Links of an older round are to be closed.
    round: u64,
    /// How many links there have been.
    links: u64,
    /// On links with a lower number that have subscribed to something, nothing comes back from Redis any more.
    deaf: u64,
}

/// What a client is not to get through once: its link is closed instead.
type Trip = Arc<Mutex<Option<&'static str>>>;

/// One link, as both of its directions see it.
#[derive(Clone)]
struct Link {
    number: u64,
    /// Whether the client has asked for a subscription: this is a feed.
    is_feed: Arc<AtomicBool>,
    trip: Trip,
    state: watch::Receiver<State>,
}

impl Link {
    fn is_deaf(&self, state: &State) -> bool {
        self.number < state.deaf && self.is_feed.load(Ordering::Relaxed)
    }
}

/// A proxy in front of one address; it ends with this value.
pub struct Proxy {
    port: u16,
    state: Arc<watch::Sender<State>>,
    trip: Trip,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy on a free port in front of `port` on loopback.
    pub async fn start(port: u16) -> Self {
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback has free ports");
        let own = listener.local_addr().expect("a bound socket has an address").port();
        let state = Arc::new(watch::Sender::new(State { mode: Mode::Open, round: 0, links: 0, deaf: 0 }));
        let (shared, trip) = (state.clone(), Trip::default());
        let tripping = trip.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                shared.send_modify(|state| state.links += 1);
                let state = shared.subscribe();
                let (mode, number) = (state.borrow().mode, state.borrow().links - 1);
                if mode != Mode::Cut {
                    let link = Link { number, is_feed: Arc::default(), trip: tripping.clone(), state };
                    tokio::spawn(run(socket, target, link));
                }
            }
        });
        Self { port: own, state, trip, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address for a Redis behind it.
    pub fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Closes all links and refuses new ones.
    pub fn cut(&self) {
        self.state.send_modify(|state| *state = State { mode: Mode::Cut, round: state.round + 1, ..*state });
    }

    /// Closes all links once; new ones work.
    pub fn cut_once(&self) {
        self.state.send_modify(|state| state.round += 1);
    }

    /// Closes all links once, and of the new ones that over which these words are sent first, before they pass.
    pub fn cut_once_and_at(&self, words: &'static str) {
        *self.trip.lock().unwrap() = Some(words);
        self.cut_once();
    }

    /// Whether somebody has sent those words.
    pub fn has_tripped(&self) -> bool {
        self.trip.lock().unwrap().is_none()
    }

    /// Keeps links, present and new, and lets nothing pass.
    pub fn blackhole(&self) {
        self.state.send_modify(|state| state.mode = Mode::Blackhole);
    }

    /// The feeds of now stay open and hear nothing more, for good. Other links work, and so do feeds that come later.
    pub fn deafen_feeds(&self) {
        self.state.send_modify(|state| state.deaf = state.links);
    }

    /// Everything arrives that much later, in order.
    pub fn delay(&self, by: Duration) {
        self.state.send_modify(|state| state.mode = Mode::Delay(by));
    }

    /// Everything passes again; what a blackhole held back too.
    pub fn restore(&self) {
        self.state.send_modify(|state| state.mode = Mode::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn run(client: TcpStream, target: SocketAddr, link: Link) {
    let mut end = link.state.clone();
    let round = end.borrow().round;
    let Ok(server) = TcpStream::connect(target).await else { return };
    for socket in [&client, &server] {
        let _ = socket.set_nodelay(true);
    }
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    // Dropping the pumps closes both sockets; so does either side's end.
    tokio::select! {
        () = pump(client_in, server_out, link.clone(), Direction::There) => {}
        () = pump(server_in, client_out, link, Direction::Back) => {}
        _ = end.wait_for(|state| state.round != round) => {}
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    There,
    Back,
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, link: Link, direction: Direction) {
    // A queue between reading and writing, so that a delay costs latency and not throughput.
    let (queue, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(256);
    let (modes, mut state) = (link.state.clone(), link.state.clone());
    let (is_feed, trip) = (link.is_feed.clone(), link.trip.clone());
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            // A command is short and comes in one piece.
            let sends = |words: &str| buffer[..length].windows(words.len()).any(|part| part == words.as_bytes());
            if direction == Direction::There && sends("SUBSCRIBE\r\n") {
                is_feed.store(true, Ordering::Relaxed);
            }
            if direction == Direction::There && trip.lock().unwrap().take_if(|words| sends(words)).is_some() {
                return;
            }
            let mode = modes.borrow().mode;
            let delay = if let Mode::Delay(by) = mode { by } else { Duration::ZERO };
            if queue.send((Instant::now() + delay, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, bytes)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            let passes =
                |state: &State| state.mode != Mode::Blackhole && !(direction == Direction::Back && link.is_deaf(state));
            if state.wait_for(passes).await.is_err() || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    // The reader's end closes the queue, and what is in it is still written.
    tokio::join!(read, write);
}
