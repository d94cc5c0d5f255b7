//! Thousands of clients on one thread: each a socket and a view, and no task, timer or buffer of its own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use mio::{Events, Poll, Token};
use serde_json::{Value, json};

use crate::{
    connection::{Connection, Heard},
    names::hash,
    token,
    told::{HELLO, Reader, Told},
    view::View,
};

/// How many handshakes are under way at a time.
const AT_ONCE: usize = 128;
/// How many operations of a steady stream are under way at a time.
const IN_FLIGHT: usize = 64;
/// From how many loopback addresses a crowd comes: one has some 28,000 ports.
const SOURCES: u8 = 8;
/// How long anything may take that has no bound of its own; it only costs time when something is wrong.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// One of a crowd.
pub struct Person {
    /// Who it is.
    pub user: String,
    /// Whether it is present, or only watches.
    pub present: bool,
    /// What it sees.
    pub view: View,
    /// Whether its last hello took up the connection before.
    pub resumed: bool,
    /// The newest resume token.
    resume: String,
    connection: Option<Connection>,
    /// Whether it was welcomed over this socket.
    welcomed: bool,
    /// How many operations are not answered.
    due: u32,
    /// Whether it sees what is aimed at.
    there: bool,
}

/// What everybody shall see: by number and view.
type Goal = Box<dyn Fn(usize, &View) -> bool>;

/// Many clients, driven by whoever waits for something.
pub struct Crowd {
    /// All of them, in the order in which they came.
    pub people: Vec<Person>,
    /// After how long each came to see what was aimed at.
    pub arrivals: Vec<Duration>,
    /// The frames of channels that came in all, and their bytes.
    pub frames: u64,
    /// Payload bytes of these.
    pub bytes: u64,
    /// The bytes of the last such frame.
    pub last: Vec<u8>,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    reader: Reader,
    goal: Option<Goal>,
    aimed: Instant,
    behind: usize,
    due: usize,
    welcomed: usize,
    bare: bool,
}

impl Crowd {
    /// Nobody yet.
    pub fn new() -> Self {
        Self {
            people: Vec::new(),
            arrivals: Vec::new(),
            frames: 0,
            bytes: 0,
            last: Vec::new(),
            poll: Poll::new().expect("the system can poll"),
            events: Events::with_capacity(1_024),
            buffer: vec![0; 256 * 1_024],
            reader: Reader::default(),
            goal: None,
            aimed: Instant::now(),
            behind: 0,
            due: 0,
            welcomed: 0,
            bare: false,
        }
    }

    /// So many sockets to somebody who sends frames without being asked, and to whom nothing is said.
    pub fn bare(count: usize, at: SocketAddr) -> Self {
        let mut crowd = Self { bare: true, ..Self::new() };
        for number in 0..count {
            crowd.add(format!("bare-{number}"), false);
            crowd.connect(number, at);
            if number % AT_ONCE == 0 {
                crowd.turn(Duration::ZERO);
            }
        }
        crowd
    }

    fn add(&mut self, user: String, present: bool) {
        self.people.push(Person {
            user,
            present,
            view: View::default(),
            resumed: false,
            resume: String::new(),
            connection: None,
            welcomed: false,
            due: 0,
            there: true,
        });
    }

    fn connect(&mut self, number: usize, at: SocketAddr) {
        let source = 1 + u8::try_from(number % usize::from(SOURCES)).expect("below the number of sources");
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, source));
        let begun = Connection::begin(self.poll.registry(), Token(number), source, at, self.bare);
        self.people[number].connection = Some(begun.unwrap_or_else(|error| panic!("a socket to {at}: {error}")));
    }

    /// More people come, `at(number)` says where, and are welcomed. Users are named by this and their number.
    pub fn gather(&mut self, count: usize, name: &str, present: bool, at: impl Fn(usize) -> SocketAddr) {
        let first = self.people.len();
        for number in first..first + count {
            self.add(format!("{name}-{number:05}"), present);
        }
        self.come(first..first + count, at);
    }

    /// These, whose sockets are gone, come again with their resume tokens.
    pub fn come(&mut self, numbers: impl ExactSizeIterator<Item = usize>, at: impl Fn(usize) -> SocketAddr) {
        let (before, end) = (self.welcomed, Instant::now() + DEADLINE);
        let wanted = before + numbers.len();
        for (begun, number) in numbers.enumerate() {
            self.connect(number, at(number));
            while before + begun - self.welcomed.min(before + begun) >= AT_ONCE {
                self.turn_until(end, "handshakes");
            }
        }
        while self.welcomed < wanted {
            self.turn_until(end, "welcomes");
        }
    }

    /// Their sockets break without a word.
    pub fn vanish(&mut self, numbers: impl Iterator<Item = usize>) {
        for number in numbers {
            let person = &mut self.people[number];
            drop(person.connection.take());
            self.due -= std::mem::take(&mut person.due) as usize;
            self.welcomed -= usize::from(std::mem::take(&mut person.welcomed));
        }
    }

    /// What they saw counts no more: they watch anew.
    pub fn forget(&mut self, numbers: std::ops::Range<usize>) {
        self.people[numbers].iter_mut().for_each(|person| person.view = View::default());
    }

    /// One of them asks for something.
    pub fn ask(&mut self, number: usize, mut operation: Value) {
        operation["id"] = json!(HELLO + 1);
        let person = &mut self.people[number];
        person.connection.as_mut().expect("who asks has a socket").send(&operation.to_string());
        person.due += 1;
        self.due += 1;
    }

    /// Joins without watching more than before.
    pub fn join(&mut self, number: usize, channel: &str) {
        self.ask(number, json!({"op": "join", "channel": channel}));
    }

    /// Joins and watches.
    pub fn join_watching(&mut self, number: usize, channel: &str) {
        self.people[number].view.begin(hash(channel));
        self.ask(number, json!({"op": "join", "channel": channel, "watch": true}));
    }

    /// Watches.
    pub fn watch(&mut self, number: usize, channel: &str) {
        self.people[number].view.begin(hash(channel));
        self.ask(number, json!({"op": "watch", "channel": channel}));
    }

    /// Waits while many operations are not answered: for a steady stream, and no storm.
    pub fn pace(&mut self) {
        let end = Instant::now() + DEADLINE;
        while self.due >= IN_FLIGHT {
            self.turn_until(end, "answers");
        }
    }

    /// From now on it is waited for this, and [`Crowd::arrivals`] says after how long each saw it.
    pub fn aim(&mut self, goal: impl Fn(usize, &View) -> bool + 'static) {
        self.behind = 0;
        for (number, person) in self.people.iter_mut().enumerate() {
            person.there = goal(number, &person.view);
            self.behind += usize::from(!person.there);
        }
        self.goal = Some(Box::new(goal));
        self.arrivals.clear();
        self.aimed = Instant::now();
    }

    /// Waits until everybody sees what was aimed at.
    pub fn until_there(&mut self, within: Duration) {
        let end = Instant::now() + within;
        while self.behind > 0 {
            if Instant::now() >= end {
                let late = self.people.iter().find(|person| !person.there).expect("somebody is behind");
                panic!("{} do not see what they should, such as {}: {:?}", self.behind, late.user, late.view);
            }
            self.turn(Duration::from_millis(100));
        }
    }

    /// Waits until everything is answered.
    pub fn until_answered(&mut self, within: Duration) {
        let end = Instant::now() + within;
        while self.due > 0 {
            self.turn_until(end, "answers");
        }
    }

    /// Waits until so many frames came in all.
    pub fn until_frames(&mut self, frames: u64, within: Duration) {
        let end = Instant::now() + within;
        while self.frames < frames {
            self.turn_until(end, "frames");
        }
    }

    /// Reads and answers pings for so long.
    pub fn live(&mut self, length: Duration) {
        let end = Instant::now() + length;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.turn(left);
        }
    }

    fn turn_until(&mut self, end: Instant, what: &str) {
        assert!(
            Instant::now() < end,
            "{what} did not come in time: {} of {} welcomed, {} answers due",
            self.welcomed,
            self.people.len(),
            self.due
        );
        self.turn(Duration::from_millis(100));
    }

    /// Reads once what is there, or waits for it so long.
    pub fn turn(&mut self, longest: Duration) {
        match self.poll.poll(&mut self.events, Some(longest)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(error) => panic!("polling: {error}"),
        }
        for event in &self.events {
            let number = event.token().0;
            let person = &mut self.people[number];
            let Some(mut connection) = person.connection.take() else { continue };
            if event.is_writable() {
                connection.flush();
            }
            let (mut opened, mut closed) = (false, None);
            if event.is_readable() || event.is_read_closed() {
                connection.read(&mut self.buffer, event.is_read_closed(), &mut |heard| match heard {
                    Heard::Open => opened = true,
                    Heard::Closed(code) => closed = Some(code),
                    Heard::Text(bytes) if self.bare => {
                        self.frames += 1;
                        self.bytes += bytes.len() as u64;
                    }
                    Heard::Text(bytes) => match self.reader.read(bytes) {
                        Told::Welcome(welcome) => {
                            person.resume.clone_from(&welcome.resume);
                            person.resumed = welcome.resumed;
                            person.welcomed = true;
                            self.welcomed += 1;
                        }
                        Told::Done => {
                            person.due -= 1;
                            self.due -= 1;
                        }
                        Told::Wrong(why) => panic!("{}: {why}", person.user),
                        Told::Change(change) => {
                            self.frames += 1;
                            self.bytes += bytes.len() as u64;
                            bytes.clone_into(&mut self.last);
                            person
                                .view
                                .take(&change, bytes.len())
                                .unwrap_or_else(|why| panic!("{}: {why}", person.user));
                            let there = self.goal.as_ref().is_none_or(|goal| goal(number, &person.view));
                            match (person.there, there) {
                                (false, true) => {
                                    self.behind -= 1;
                                    self.arrivals.push(self.aimed.elapsed());
                                }
                                (true, false) => self.behind += 1,
                                _ => {}
                            }
                            person.there = there;
                        }
                    },
                });
            }
            assert!(closed.is_none(), "{}: the server closed the socket with {closed:?}", person.user);
            if opened {
                let mut hello = json!({"id": HELLO, "op": "hello", "token": token::client(&person.user)});
                if !person.present {
                    hello["present"] = json!(false);
                }
                if !person.resume.is_empty() {
                    hello["resume"] = json!(person.resume);
                }
                connection.send(&hello.to_string());
            }
            person.connection = Some(connection);
        }
    }
}
