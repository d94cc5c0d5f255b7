//! The floor: what the machine takes for `send(2)` of the same bytes to as many loopback sockets, without any server around it.
//!
//! One process has the sockets and sends, another reads, each with as many files as a server or a crowd has.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::{
    child::Owned,
    crowd::{Crowd, DEADLINE},
    frame, meter,
};

/// The two processes.
pub struct Floor {
    // It ends first: sockets that end are an error to it.
    ears: Owned,
    sender: Owned,
    count: usize,
}

impl Floor {
    /// So many sockets, to each of which this text goes as one frame.
    pub fn start(count: usize, text: &[u8]) -> Self {
        let this = std::env::current_exe().expect("a process knows its program");
        let count_text = count.to_string();
        let mut sender = Owned::spawn(Command::new(&this).args(["floor-sender", &count_text]));
        sender.say(std::str::from_utf8(text).expect("messages are texts"));
        let address = sender.hear("listening on ", DEADLINE);
        let ears = Owned::spawn(Command::new(&this).args(["floor-ears", &count_text, &address]));
        sender.hear("ready", DEADLINE);
        Self { sender, ears, count }
    }

    /// One frame to each. Returns when all have it.
    pub fn send(&mut self) {
        self.sender.say("go");
        self.sender.hear("sent", DEADLINE);
        self.ears.hear("heard", DEADLINE);
    }

    /// How many sockets there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// CPU that the sender has used.
    pub fn cpu(&self) -> Duration {
        meter::cpu(self.sender.pid())
    }
}

/// The process that sends. Its first line is the text, each other one asks for a round; it ends with its input.
pub fn sender(count: usize) {
    let mut lines = std::io::stdin().lines().map_while(Result::ok);
    let frame = frame::of_a_server(frame::TEXT, lines.next().expect("the text").as_bytes());
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback");
    listener.listen(4_096).expect("it can listen");
    say(&format!("listening on {}", listener.local_addr().expect("bound").as_socket().expect("an address")));
    let accept = |_| {
        let (socket, _) = listener.accept().expect("a socket");
        socket.set_tcp_nodelay(true).expect("an open socket");
        TcpStream::from(socket)
    };
    let mut sockets: Vec<TcpStream> = (0..count).map(accept).collect();
    say("ready");
    for _ in lines {
        for socket in &mut sockets {
            socket.write_all(&frame).expect("it is read");
        }
        say("sent");
    }
}

/// The process that reads: as a crowd does. It ends with its input, too.
pub fn ears(count: usize, at: SocketAddr) {
    std::thread::spawn(|| {
        std::io::stdin().lines().map_while(Result::ok).for_each(drop);
        std::process::exit(0);
    });
    let mut crowd = Crowd::bare(count, at);
    for round in 1.. {
        crowd.until_frames(round * count as u64, Duration::from_secs(3_600));
        say("heard");
    }
}

fn say(line: &str) {
    // Whoever listened may have gone, and then this process ends soon.
    let _ = writeln!(std::io::stdout(), "{line}");
}
