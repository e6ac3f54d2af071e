//! A connection as hyper and rustls want it: poll-style, with the bytes that sniffing took put back in front, plain or
//! inside TLS. It adds no buffering of its own beyond those first bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use runtime::net::PollStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

/// A stream whose first bytes were read already.
pub(crate) struct Rewind<S> {
    head: Vec<u8>,
    at: usize,
    inner: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Rewind<S> {
    pub(crate) fn new(head: Vec<u8>, inner: S) -> Self {
        Self { head, at: 0, inner }
    }

    /// Reads until `enough` says so of the bytes seen so far, or the stream ends; nothing is lost, they come again.
    pub(crate) async fn peek(&mut self, bytes_max: usize, enough: impl Fn(&[u8]) -> bool) -> io::Result<&[u8]> {
        while self.head.len() < bytes_max && !enough(&self.head) {
            let mut space = [0_u8; 64];
            let want = (bytes_max - self.head.len()).min(space.len());
            let got = std::future::poll_fn(|cx| {
                let mut buffer = ReadBuf::new(&mut space[..want]);
                ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer))?;
                Poll::Ready(Ok::<usize, io::Error>(buffer.filled().len()))
            })
            .await?;
            if got == 0 {
                break;
            }
            self.head.extend_from_slice(&space[..got]);
        }
        Ok(&self.head)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.at < this.head.len() {
            let count = (this.head.len() - this.at).min(buffer.remaining());
            buffer.put_slice(&this.head[this.at..this.at + count]);
            this.at += count;
            if this.at == this.head.len() {
                (this.head, this.at) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Plain or inside TLS.
pub(crate) enum Stream {
    Plain(Rewind<PollStream>),
    Tls(Box<Rewind<TlsStream<Rewind<PollStream>>>>),
}

impl Stream {
    /// See [`Rewind::peek`].
    pub(crate) async fn peek(&mut self, bytes_max: usize, enough: impl Fn(&[u8]) -> bool) -> io::Result<&[u8]> {
        match self {
            Self::Plain(plain) => plain.peek(bytes_max, enough).await,
            Self::Tls(tls) => tls.peek(bytes_max, enough).await,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(plain) => Pin::new(plain).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(plain) => Pin::new(plain).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(plain) => Pin::new(plain).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(plain) => Pin::new(plain).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}
