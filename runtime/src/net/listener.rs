//! Listeners, one per shard and port.

use std::{io, net::SocketAddr};

use super::TcpStream;

/// How a listener is made.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Connections that the kernel keeps waiting.
    pub backlog: u32,
    /// Connections taken per ring turn, so that a connect storm does not stall those who are served.
    pub accept_per_turn_max: u32,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self { backlog: 1024, accept_per_turn_max: 16 }
    }
}

/// A TCP listener with SO_REUSEPORT: every shard binds the same address and the kernel spreads connections.
#[derive(Debug)]
pub struct TcpListener {}

impl TcpListener {
    /// Binds on this shard.
    pub fn bind(address: SocketAddr, config: &ListenerConfig) -> io::Result<Self> {
        let _ = (address, config);
        unimplemented!()
    }

    /// Binds anywhere (no shard needed), to know the port before the shards start; attach it on its shard.
    pub fn reserve(address: SocketAddr, config: &ListenerConfig) -> io::Result<std::net::TcpListener> {
        let _ = (address, config);
        unimplemented!()
    }

    /// Takes a listener made by [`TcpListener::reserve`] into use on this shard.
    pub fn attach(reserved: std::net::TcpListener, config: &ListenerConfig) -> io::Result<Self> {
        let _ = (reserved, config);
        unimplemented!()
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        unimplemented!()
    }

    /// The next connection. Safe to drop while waiting (nothing is lost). Paced; out of descriptors it pauses and goes on.
    pub async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        unimplemented!()
    }

    /// Stops listening and returns the connections that had already been completed by the kernel.
    pub fn close(self) -> Vec<(TcpStream, SocketAddr)> {
        unimplemented!()
    }
}
