//! Streams in tokio's poll style, for hyper and rustls.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use super::Closer;

/// A stream as tokio's `AsyncRead + AsyncWrite`, with the per-poll budget built in. Safe to drop, select and time out.
#[derive(Debug)]
pub struct PollStream {}

impl PollStream {
    /// The other end; `None` for a Unix socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        unimplemented!()
    }

    /// A handle that ends the connection from outside.
    pub fn closer(&self) -> Closer {
        unimplemented!()
    }
}

impl tokio::io::AsyncRead for PollStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        unimplemented!()
    }
}

impl tokio::io::AsyncWrite for PollStream {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, _buf: &[u8]) -> Poll<io::Result<usize>> {
        unimplemented!()
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        unimplemented!()
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        unimplemented!()
    }
}
