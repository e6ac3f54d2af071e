//! How the harness connects: from many loopback addresses in turn, because one address has only some 28,000 ports and every
//! closed connection keeps one for a minute. To a server elsewhere it connects as anybody would.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream};

/// Loopback addresses in turn: 127.0.1.1 to 127.0.1.64.
const SOURCES: u8 = 64;

thread_local! {
    static NEXT: Cell<u8> = const { Cell::new(0) };
}

/// Connects; what is written goes out at once.
pub async fn dial(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = match server.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => {
            let source = NEXT.get();
            NEXT.set((source + 1) % SOURCES);
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 1, 1 + source), 0)))?;
            socket.connect(server).await?
        }
        _ => TcpStream::connect(server).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}
