//! How a sync connection reads and writes: native owned buffers on a plain socket, poll-style through rustls. Both look the
//! same to the wires, and neither ever drops a pending native read.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use runtime::buffer::AlignedBuf;
use runtime::net::{PollStream, ReadHalf, TcpStream, WriteHalf};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::stream::Rewind;

/// The reading side.
pub(crate) trait Input: 'static {
    /// Waits until a read would not block, without holding a buffer.
    fn readable(&mut self) -> impl Future<Output = io::Result<()>>;
    /// Reads into the spare room of `buffer`; 0 is the end. Never dropped while pending.
    async fn read(&mut self, buffer: AlignedBuf) -> (io::Result<usize>, AlignedBuf);
}

/// The writing side.
pub(crate) trait Output: 'static {
    /// Writes everything and hands the buffer back.
    async fn write_all(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>);
    /// Says that nothing more comes; what was written still arrives.
    async fn finish(self);
}

/// A connection before it is split between its reader and its writer.
pub(crate) trait Transport: Input {
    /// Its reading side.
    type In: Input;
    /// Its writing side.
    type Out: Output;
    /// One side for each task.
    fn halves(self) -> (Self::In, Self::Out);
}

impl Input for TcpStream {
    fn readable(&mut self) -> impl Future<Output = io::Result<()>> {
        TcpStream::readable(self)
    }

    async fn read(&mut self, buffer: AlignedBuf) -> (io::Result<usize>, AlignedBuf) {
        TcpStream::read(self, buffer).await
    }
}

impl Transport for TcpStream {
    type In = ReadHalf;
    type Out = WriteHalf;

    fn halves(self) -> (ReadHalf, WriteHalf) {
        self.split()
    }
}

impl Input for ReadHalf {
    fn readable(&mut self) -> impl Future<Output = io::Result<()>> {
        ReadHalf::readable(self)
    }

    async fn read(&mut self, buffer: AlignedBuf) -> (io::Result<usize>, AlignedBuf) {
        ReadHalf::read(self, buffer).await
    }
}

impl Output for WriteHalf {
    async fn write_all(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        WriteHalf::write_all(self, bytes).await
    }

    async fn finish(self) {
        // Dropping this half sends FIN.
    }
}

type Tls = TlsStream<Rewind<PollStream>>;

/// Both sides of a TLS connection; its state cannot be split, so the tasks take turns at it within a poll.
#[derive(Clone)]
pub(crate) struct TlsSide {
    stream: Rc<RefCell<Tls>>,
}

impl TlsSide {
    pub(crate) fn new(stream: Tls) -> Self {
        Self { stream: Rc::new(RefCell::new(stream)) }
    }
}

impl Transport for TlsSide {
    type In = TlsSide;
    type Out = TlsSide;

    fn halves(self) -> (TlsSide, TlsSide) {
        (self.clone(), self)
    }
}

impl Input for TlsSide {
    fn readable(&mut self) -> impl Future<Output = io::Result<()>> {
        // Not the socket is asked but rustls: decrypted bytes may be waiting inside it.
        std::future::poll_fn(|cx| {
            let mut stream = self.stream.borrow_mut();
            Pin::new(&mut *stream).poll_fill_buf(cx).map_ok(drop)
        })
    }

    async fn read(&mut self, mut buffer: AlignedBuf) -> (io::Result<usize>, AlignedBuf) {
        let start = buffer.len();
        buffer.resize(buffer.capacity(), 0);
        let read = std::future::poll_fn(|cx| {
            let mut space = ReadBuf::new(&mut buffer.as_mut_slice()[start..]);
            let mut stream = self.stream.borrow_mut();
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut space)) {
                Ok(()) => Poll::Ready(Ok(space.filled().len())),
                // A peer that closes the socket without closing TLS first; frames and lines show a cut by themselves.
                Err(problem) if problem.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
                Err(problem) => Poll::Ready(Err(problem)),
            }
        })
        .await;
        buffer.truncate(start + read.as_ref().map_or(0, |count| *count));
        (read, buffer)
    }
}

impl Output for TlsSide {
    async fn write_all(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let mut sent = 0;
        let written = std::future::poll_fn(|cx| {
            let mut stream = self.stream.borrow_mut();
            while sent < bytes.len() {
                match ready!(Pin::new(&mut *stream).poll_write(cx, &bytes[sent..]))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => sent += count,
                }
            }
            Pin::new(&mut *stream).poll_flush(cx)
        })
        .await;
        (written, bytes)
    }

    async fn finish(self) {
        // The peer may be gone already; then there is nobody to tell.
        let _ = std::future::poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)).await;
    }
}
