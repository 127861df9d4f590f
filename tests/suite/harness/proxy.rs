//! A TCP proxy that breaks connections on demand.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

/// One way through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// Listens on a free port of 127.0.0.1 and forwards to the target, until dropped.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

struct State {
    target: SocketAddr,
    refuse: AtomicBool,
    delay_ms: AtomicU64,
    silent_to_server: AtomicBool,
    silent_to_client: AtomicBool,
    ended: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the proxy");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(State {
            target,
            refuse: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            silent_to_server: AtomicBool::new(false),
            silent_to_client: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            streams: Mutex::new(Vec::new()),
        });
        let accepting = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.ended.load(SeqCst) {
                    return;
                }
                accepting.accept(client);
            }
        });
        Proxy { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends every present connection; new ones are taken.
    pub fn cut(&self) {
        for stream in self.state.streams.lock().expect("the streams").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Closes new connections at once. Present ones live on: see [`Proxy::cut`].
    pub fn refuse(&self) {
        self.state.refuse.store(true, SeqCst);
    }

    /// Holds each piece back for so long, in each direction.
    pub fn delay(&self, milliseconds: u64) {
        self.state.delay_ms.store(milliseconds, SeqCst);
    }

    /// Stops forwarding in one direction without closing anything: to that side the line is just silent.
    pub fn silence(&self, direction: Direction) {
        self.state.silent(direction).store(true, SeqCst);
    }

    /// All as at the start; what a silence held back flows again.
    pub fn restore(&self) {
        self.state.refuse.store(false, SeqCst);
        self.state.delay_ms.store(0, SeqCst);
        self.state.silent_to_server.store(false, SeqCst);
        self.state.silent_to_client.store(false, SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, SeqCst);
        self.cut();
        // Wakes the accepting thread, which then ends and closes the port.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    fn silent(&self, direction: Direction) -> &AtomicBool {
        match direction {
            Direction::ToServer => &self.silent_to_server,
            Direction::ToClient => &self.silent_to_client,
        }
    }

    fn accept(self: &Arc<Self>, client: TcpStream) {
        if self.refuse.load(SeqCst) {
            return;
        }
        // A target that is away closes the client's connection, as a refused one would.
        let Ok(server) = TcpStream::connect(self.target) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        for (from, to, direction) in [(&client, &server, Direction::ToServer), (&server, &client, Direction::ToClient)]
        {
            let (Ok(from), Ok(to), Ok(kept)) = (from.try_clone(), to.try_clone(), from.try_clone()) else { return };
            self.streams.lock().expect("the streams").push(kept);
            let state = self.clone();
            std::thread::spawn(move || state.pump(from, to, direction));
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, direction: Direction) {
        let mut buffer = vec![0; 64 * 1024];
        while !self.ended.load(SeqCst) {
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            std::thread::sleep(Duration::from_millis(self.delay_ms.load(SeqCst)));
            while self.silent(direction).load(SeqCst) && !self.ended.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
