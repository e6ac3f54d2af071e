//! Listeners, one per shard and port.
//!
//! It promises that a connect storm cannot stall those who are served (accepting is paced), that running out of
//! descriptors pauses accepting instead of ending it, and that connections which the kernel had completed are not lost
//! when the listener closes.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::TcpStream;
use crate::{task, time};

/// Pause after accept failed for want of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// How a listener is made.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Connections that the kernel keeps waiting (capped by net.core.somaxconn).
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
pub struct TcpListener {
    /// Tells when there is something to accept.
    readiness: monoio::net::TcpListener,
    /// The same socket, for accept(2) itself: an accept operation in flight could not be dropped without losing what it
    /// accepts, a readiness wait can.
    socket: std::net::TcpListener,
    address: SocketAddr,
    per_turn_max: u32,
    taken_this_turn: u32,
    pauses: u64,
}

impl TcpListener {
    /// Binds on this shard.
    pub fn bind(address: SocketAddr, config: &ListenerConfig) -> io::Result<Self> {
        Self::attach(Self::reserve(address, config)?, config)
    }

    /// Binds anywhere (no shard needed), to know the port and meet its errors before the shards start; attach it on its
    /// shard. It listens at once: connections wait in the kernel.
    pub fn reserve(address: SocketAddr, config: &ListenerConfig) -> io::Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Both: the address may still have connections of the process before (TIME_WAIT), and it is shared by the shards.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
        Ok(socket.into())
    }

    /// Takes a listener made by [`TcpListener::reserve`] into use on this shard.
    pub fn attach(reserved: std::net::TcpListener, config: &ListenerConfig) -> io::Result<Self> {
        reserved.set_nonblocking(true)?;
        Ok(Self {
            address: reserved.local_addr()?,
            readiness: monoio::net::TcpListener::from_std(reserved.try_clone()?)?,
            socket: reserved,
            per_turn_max: config.accept_per_turn_max.max(1),
            taken_this_turn: 0,
            pauses: 0,
        })
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// How often accepting paused for want of descriptors or memory.
    pub fn pauses(&self) -> u64 {
        self.pauses
    }

    /// The next connection. Safe to drop while waiting (nothing is lost). Paced; out of descriptors it pauses and goes on.
    /// An error means that the listener itself is broken.
    pub async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            if self.taken_this_turn >= self.per_turn_max {
                self.taken_this_turn = 0;
                task::yield_now().await;
            }
            match self.take() {
                Ok(accepted) => return Ok(accepted),
                Err(error) => match verdict(&error) {
                    Verdict::Wait => {
                        self.taken_this_turn = 0;
                        self.readiness.readable(false).await?;
                    }
                    Verdict::Skip => self.taken_this_turn += 1,
                    Verdict::Pause => {
                        self.pauses += 1;
                        if self.pauses.is_power_of_two() {
                            tracing::warn!(
                                address = %self.address, %error, pauses = self.pauses,
                                "accepting pauses; raise the descriptor limit (ulimit -n) if this goes on"
                            );
                        }
                        time::sleep(EXHAUSTED_PAUSE).await;
                    }
                    Verdict::Broken => return Err(error),
                },
            }
        }
    }

    /// Stops listening and returns the connections that had already been completed by the kernel.
    pub fn close(mut self) -> Vec<(TcpStream, SocketAddr)> {
        let mut waiting = Vec::new();
        loop {
            match self.take() {
                Ok(accepted) => waiting.push(accepted),
                Err(error) if matches!(verdict(&error), Verdict::Skip) => {}
                Err(_) => return waiting,
            }
        }
    }

    fn take(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, peer) = self.socket.accept()?;
        self.taken_this_turn += 1;
        // A peer that is gone already fails here, with an error that `verdict` skips.
        let stream = TcpStream::from_accepted(socket.into(), peer)?;
        Ok((stream, peer))
    }
}

/// What an error of accept(2) asks for.
enum Verdict {
    /// Nothing to accept.
    Wait,
    /// This connection is gone; the next may be fine.
    Skip,
    /// Out of descriptors or memory: it heals when others leave.
    Pause,
    /// The listener is broken.
    Broken,
}

fn verdict(error: &io::Error) -> Verdict {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Verdict::Pause,
        // accept(2) passes on errors of the network and of the connection itself; the manual says to retry.
        Some(
            libc::ECONNABORTED
            | libc::ECONNRESET
            | libc::ENOTCONN
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::ETIMEDOUT
            | libc::EINTR,
        ) => Verdict::Skip,
        _ if error.kind() == ErrorKind::WouldBlock => Verdict::Wait,
        _ => Verdict::Broken,
    }
}
