//! TCP streams with owned, native reads and writes.

use std::{io, net::SocketAddr};

use super::PollStream;

/// Buffers that a native read can fill: appended to, in the spare room.
pub trait ReadBuffer: Sized + 'static {}

/// Buffers that a native write can send.
pub trait WriteBuffer: Sized + 'static {}

impl ReadBuffer for Vec<u8> {}
impl ReadBuffer for bytes::BytesMut {}
impl ReadBuffer for crate::buffer::AlignedBuf {}
impl WriteBuffer for Vec<u8> {}
impl WriteBuffer for bytes::Bytes {}
impl WriteBuffer for bytes::BytesMut {}
impl WriteBuffer for &'static [u8] {}
impl WriteBuffer for crate::buffer::AlignedBuf {}

/// A TCP connection on this shard.
#[derive(Debug)]
pub struct TcpStream {}

/// The reading half. One read at a time; never drop a pending read (bytes may be lost): end it with a [`Closer`].
#[derive(Debug)]
pub struct ReadHalf {}

/// The writing half. Dropping it sends FIN.
#[derive(Debug)]
pub struct WriteHalf {}

/// Ends a connection from elsewhere on the shard; cheap to clone, harmless after the connection is gone.
#[derive(Debug, Clone)]
pub struct Closer {}

/// A connection on its way to another shard: the descriptor and what was already read. `Send`.
#[derive(Debug)]
pub struct Detached {
    /// Bytes that were read and not used yet.
    pub read: Vec<u8>,
    /// The other end.
    pub peer: SocketAddr,
}

impl TcpStream {
    /// Connects (client side; used by tests and probes). TCP_NODELAY is set.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let _ = address;
        unimplemented!()
    }

    /// Takes over a connected socket.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        let _ = stream;
        unimplemented!()
    }

    /// The other end.
    pub fn peer_addr(&self) -> SocketAddr {
        unimplemented!()
    }

    /// This end.
    pub fn local_addr(&self) -> SocketAddr {
        unimplemented!()
    }

    /// A handle that ends the connection from outside.
    pub fn closer(&self) -> Closer {
        unimplemented!()
    }

    /// Reads into the spare room of `buf`, appending; `Ok(0)` is the end of the stream. See [`ReadHalf`] for the one rule.
    pub async fn read<B: ReadBuffer>(&mut self, buf: B) -> (io::Result<usize>, B) {
        (Err(io::ErrorKind::Unsupported.into()), buf)
    }

    /// Writes all of `buf` and hands it back.
    pub async fn write_all<B: WriteBuffer>(&mut self, buf: B) -> (io::Result<()>, B) {
        (Err(io::ErrorKind::Unsupported.into()), buf)
    }

    /// Waits until a read would not block. Safe to drop.
    pub async fn readable(&self) -> io::Result<()> {
        unimplemented!()
    }

    /// Splits into halves for a reader task and a writer task.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        unimplemented!()
    }

    /// The stream as tokio's `AsyncRead + AsyncWrite`, for hyper and rustls. No native read may be pending.
    pub fn into_poll(self) -> io::Result<PollStream> {
        unimplemented!()
    }

    /// Leaves this shard. No native read may be pending; `read` are the bytes already read.
    pub fn detach(self, read: Vec<u8>) -> io::Result<Detached> {
        let _ = read;
        unimplemented!()
    }
}

impl ReadHalf {
    /// Reads into the spare room of `buf`, appending; `Ok(0)` is the end of the stream.
    pub async fn read<B: ReadBuffer>(&mut self, buf: B) -> (io::Result<usize>, B) {
        (Err(io::ErrorKind::Unsupported.into()), buf)
    }

    /// Waits until a read would not block. Safe to drop.
    pub async fn readable(&self) -> io::Result<()> {
        unimplemented!()
    }

    /// A handle that ends the connection from outside.
    pub fn closer(&self) -> Closer {
        unimplemented!()
    }

    /// Puts the halves of one stream together again; halves of two streams are a bug and panic.
    pub fn reunite(self, write: WriteHalf) -> TcpStream {
        let _ = write;
        unimplemented!()
    }
}

impl WriteHalf {
    /// Writes all of `buf` and hands it back.
    pub async fn write_all<B: WriteBuffer>(&mut self, buf: B) -> (io::Result<()>, B) {
        (Err(io::ErrorKind::Unsupported.into()), buf)
    }

    /// A handle that ends the connection from outside.
    pub fn closer(&self) -> Closer {
        unimplemented!()
    }
}

impl Closer {
    /// Shuts both directions down: a pending read returns 0, writes fail.
    pub fn close(&self) {
        unimplemented!()
    }

    /// Shuts reading down only: a pending read returns 0; what is still to be written goes out.
    pub fn close_read(&self) {
        unimplemented!()
    }
}

impl Detached {
    /// Attaches to this shard; returns the stream and the bytes already read.
    pub fn attach(self) -> io::Result<(TcpStream, Vec<u8>)> {
        unimplemented!()
    }
}
