//! Streams in tokio's poll style, for hyper and rustls.
//!
//! On io_uring readiness comes from an epoll set nested in the ring. Every call spends the poll's budget, so that a
//! pipelined flood cannot keep one poll running for ever.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use monoio::net::unix::stream_poll::UnixStreamPoll;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Closer, stream::Life};
use crate::budget;

/// A stream as tokio's `AsyncRead + AsyncWrite`, with the per-poll budget built in. Safe to drop, select and time out.
#[derive(Debug)]
pub struct PollStream {
    life: Rc<Life>,
    peer: Option<SocketAddr>,
    socket: UnixStreamPoll,
}

impl PollStream {
    pub(crate) fn new(life: Rc<Life>, peer: Option<SocketAddr>, socket: UnixStreamPoll) -> Self {
        Self { life, peer, socket }
    }

    /// The other end; `None` for a Unix socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// A handle that ends the connection from outside.
    pub fn closer(&self) -> Closer {
        Closer::new(&self.life)
    }
}

impl AsyncRead for PollStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(budget::poll_spend(cx));
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for PollStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(budget::poll_spend(cx));
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(budget::poll_spend(cx));
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
