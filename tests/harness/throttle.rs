//! A slow link: what a server sends passes at so many bytes a second, what a client sends passes at once.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

/// What the kernel keeps on the side of the reader: little, so that what is not read stays with the server.
const BUFFER: u32 = 4 * 1024;
/// How often it reads.
const EVERY: Duration = Duration::from_millis(50);

/// A link in front of one address, each connection through it with a rate of its own; it ends with this value.
pub struct Throttle {
    url: String,
    rate: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Throttle {
    /// A link on a free port in front of `port` on loopback that takes `rate` bytes a second of each connection.
    pub async fn start(port: u16, rate: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback has free ports");
        let own = listener.local_addr().expect("a bound socket has an address").port();
        let rate = Arc::new(AtomicU64::new(rate));
        let shared = rate.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(link(client, port, shared.clone()));
            }
        });
        Self { url: format!("http://127.0.0.1:{own}"), rate, task }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on another rate, for those who are connected too.
    pub fn set(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn link(client: TcpStream, port: u16, rate: Arc<AtomicU64>) {
    let socket = TcpSocket::new_v4().expect("there are sockets");
    socket.set_recv_buffer_size(BUFFER).expect("a buffer may be small");
    let Ok(server) = socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await else { return };
    for socket in [&client, &server] {
        let _ = socket.set_nodelay(true);
    }
    let ((mut client_in, mut client_out), (mut server_in, mut server_out)) = (client.into_split(), server.into_split());
    let up = async move { tokio::io::copy(&mut client_in, &mut server_out).await.map(drop) };
    let down = async move {
        let mut buffer = vec![0; BUFFER as usize];
        let mut at = Instant::now();
        loop {
            let rate = rate.load(Ordering::Relaxed);
            let share = u64::try_from(EVERY.as_millis()).expect("short") * rate / 1_000;
            if share == 0 {
                sleep(EVERY).await;
                continue;
            }
            // What was not used is not saved up: who was slow does not become quick by it.
            at = at.max(Instant::now() - EVERY) + EVERY;
            sleep_until(at).await;
            let mut left = usize::try_from(share).expect("a share fits in memory");
            // Reads what is there, and waits for nothing but the first byte.
            let wanted = left.min(buffer.len());
            let Ok(length @ 1..) = server_in.read(&mut buffer[..wanted]).await else { return Ok(()) };
            client_out.write_all(&buffer[..length]).await?;
            left -= length;
            while left > 0 {
                let wanted = left.min(buffer.len());
                match server_in.try_read(&mut buffer[..wanted]) {
                    Ok(0) => return Ok(()),
                    Ok(length) => {
                        client_out.write_all(&buffer[..length]).await?;
                        left -= length;
                    }
                    Err(_) => break,
                }
            }
        }
    };
    // Either side's end closes both.
    let _: Result<(), std::io::Error> = tokio::select! {
        ended = up => ended,
        ended = down => ended,
    };
}
