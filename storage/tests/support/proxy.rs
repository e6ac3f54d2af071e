//! A TCP relay on 127.0.0.1 between a client and a server, for tests that cut the connection between the two.

#![allow(dead_code, clippy::unwrap_used, reason = "every test binary uses its own part; a failed step fails the test")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A relay to one server. Dropping it ends its connections.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    server: SocketAddr,
    is_cut: AtomicBool,
    is_over: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Relays to a port of 127.0.0.1.
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            server: SocketAddr::from(([127, 0, 0, 1], port)),
            is_cut: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            sockets: Mutex::default(),
        });
        let relaying = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if relaying.is_over.load(Ordering::SeqCst) {
                    return;
                }
                relaying.relay(client);
            }
        });
        Self { address, state }
    }

    /// Where to connect instead of the server.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ends every connection and takes no new one until [`Self::mend`].
    pub(crate) fn cut(&self) {
        self.state.is_cut.store(true, Ordering::SeqCst);
        for socket in self.state.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Relays again.
    pub(crate) fn mend(&self) {
        self.state.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn relay(&self, client: TcpStream) {
        // A refused connection looks like a server that has gone.
        let Ok(server) = TcpStream::connect(self.server) else { return };
        let mut sockets = self.sockets.lock().unwrap();
        if self.is_cut.load(Ordering::SeqCst) {
            return;
        }
        for (from, to) in [(&client, &server), (&server, &client)] {
            let _ = from.set_nodelay(true);
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            sockets.push(from.try_clone().unwrap());
            std::thread::spawn(move || copy(from, to));
        }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
