//! TCP streams with owned, native reads and writes, and their way from one shard to another.
//!
//! A buffer is given away for the time of an operation and comes back with its result. A pending native read must never
//! be dropped: the kernel may already have taken bytes for it. That is why reading ends by a [`Closer`], from outside.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    rc::{Rc, Weak},
};

use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable};
use socket2::SockRef;

use super::{
    PollStream,
    owned::{ReadBuffer, Spare, WriteBuffer},
};
use crate::budget;

/// What all parts of one connection share. Declared before the socket in every struct below, so that it is gone before
/// the descriptor closes and no [`Closer`] can hit a descriptor that was given to somebody else.
#[derive(Debug)]
pub(crate) struct Life {
    fd: RawFd,
    peer: Option<SocketAddr>,
    local: Cell<Option<SocketAddr>>,
}

impl Life {
    #[allow(unsafe_code)]
    fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as any part of the connection lives, and parts hold this `Rc`.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    fn local_addr(&self) -> SocketAddr {
        if let Some(known) = self.local.get() {
            return known;
        }
        let found = SockRef::from(&self.socket()).local_addr().ok().and_then(|address| address.as_socket());
        // An open socket always has one; "unspecified" is the answer that grants least.
        let local = found.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        self.local.set(Some(local));
        local
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }
}

/// A TCP connection on this shard.
#[derive(Debug)]
pub struct TcpStream {
    life: Rc<Life>,
    socket: monoio::net::TcpStream,
}

/// The reading half. One read at a time; never drop a pending read (bytes may be lost): end it with a [`Closer`].
#[derive(Debug)]
pub struct ReadHalf {
    life: Rc<Life>,
    half: OwnedReadHalf<monoio::net::TcpStream>,
}

/// The writing half. Dropping it sends FIN.
#[derive(Debug)]
pub struct WriteHalf {
    life: Rc<Life>,
    half: OwnedWriteHalf<monoio::net::TcpStream>,
}

/// Ends a connection from elsewhere on the shard; cheap to clone, harmless after the connection is gone.
#[derive(Debug, Clone)]
pub struct Closer {
    life: Weak<Life>,
}

/// A connection on its way to another shard: the descriptor and what was already read. `Send`; dropping it closes the
/// connection.
#[derive(Debug)]
pub struct Detached {
    fd: OwnedFd,
    peer: SocketAddr,
    /// Bytes that were read and not used yet.
    pub read: Vec<u8>,
}

impl TcpStream {
    /// Connects (client side; for tests and probes). TCP_NODELAY is set.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = monoio::net::TcpStream::connect_addr(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self::wrap(socket, Some(address)))
    }

    /// Takes over a connected socket. TCP_NODELAY is set.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        let peer = stream.peer_addr()?;
        Self::from_accepted(stream.into(), peer)
    }

    pub(crate) fn from_accepted(fd: OwnedFd, peer: SocketAddr) -> io::Result<Self> {
        // Replies are written whole: waiting for more to send with them only adds 40 ms.
        SockRef::from(&fd).set_tcp_nodelay(true)?;
        Self::from_fd(fd, Some(peer))
    }

    /// Any stream socket; a Unix one has no peer address.
    pub(crate) fn from_fd(fd: OwnedFd, peer: Option<SocketAddr>) -> io::Result<Self> {
        // The ring waits by itself and would hand EAGAIN through from a non-blocking socket; epoll needs one.
        SockRef::from(&fd).set_nonblocking(monoio::utils::is_legacy())?;
        Ok(Self::wrap(monoio::net::TcpStream::from_std(fd.into())?, peer))
    }

    fn wrap(socket: monoio::net::TcpStream, peer: Option<SocketAddr>) -> Self {
        let life = Rc::new(Life { fd: socket.as_raw_fd(), peer, local: Cell::new(None) });
        Self { life, socket }
    }

    /// The other end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.life.peer.expect("a TCP stream has a peer; Unix sockets are only handed out as poll streams")
    }

    /// This end.
    pub fn local_addr(&self) -> SocketAddr {
        self.life.local_addr()
    }

    /// A handle that ends the connection from outside.
    pub fn closer(&self) -> Closer {
        Closer { life: Rc::downgrade(&self.life) }
    }

    /// Reads into the spare room of `buf`, appending; `Ok(0)` is the end of the stream. See [`ReadHalf`] for the one rule.
    /// A buffer without spare room is refused (`InvalidInput`). Spends the poll's budget.
    pub async fn read<B: ReadBuffer>(&mut self, buf: B) -> (io::Result<usize>, B) {
        read(&mut self.socket, buf).await
    }

    /// Writes all of `buf` and hands it back. One system call for what the socket takes at once: gather small pieces in
    /// one buffer.
    pub async fn write_all<B: WriteBuffer>(&mut self, buf: B) -> (io::Result<()>, B) {
        write_all(&mut self.socket, buf).await
    }

    /// Waits until a read would not block. Safe to drop.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable(false).await
    }

    /// Splits into halves for a reader task and a writer task.
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        let (read, write) = self.socket.into_split();
        (ReadHalf { life: self.life.clone(), half: read }, WriteHalf { life: self.life, half: write })
    }

    /// The stream as tokio's `AsyncRead + AsyncWrite`, for hyper and rustls. No native read may be pending.
    pub fn into_poll(self) -> io::Result<PollStream> {
        let socket = self.socket.try_into_poll_io().map_err(|(error, _)| error)?;
        Ok(PollStream::new(self.life, socket))
    }

    /// Leaves this shard. No native read may be pending; `read` are the bytes already read.
    ///
    /// The descriptor is duplicated and the old one closed: whatever this shard's ring or epoll set still knows of the
    /// connection goes with the old one. 1-6 us.
    pub fn detach(self, read: Vec<u8>) -> io::Result<Detached> {
        let fd = self.life.socket().try_clone_to_owned()?;
        Ok(Detached { fd, peer: self.peer_addr(), read })
    }
}

impl ReadHalf {
    /// Reads into the spare room of `buf`, appending; `Ok(0)` is the end of the stream. See [`TcpStream::read`].
    pub async fn read<B: ReadBuffer>(&mut self, buf: B) -> (io::Result<usize>, B) {
        read(&mut self.half, buf).await
    }

    /// Waits until a read would not block. Safe to drop. Then a read is safe and returns at once: an idle connection
    /// needs no buffer this way (0.6 KB instead of 9 KB; 30-60 % more CPU per frame when busy).
    #[allow(unsafe_code)]
    pub async fn readable(&self) -> io::Result<()> {
        // SAFETY: the halves share the stream in an `Rc<UnsafeCell<_>>` that only this thread can reach, and nobody ever
        // keeps a `&mut` to it across an await: reads and writes take what they need from it when they are called.
        let socket = unsafe { &*self.half.0.get() };
        socket.readable(false).await
    }

    /// The other end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.life.peer.expect("a TCP stream has a peer; Unix sockets are only handed out as poll streams")
    }

    /// A handle that ends the connection from outside.
    pub fn closer(&self) -> Closer {
        Closer { life: Rc::downgrade(&self.life) }
    }

    /// Puts the halves of one stream together again; halves of two streams are a bug and panic.
    pub fn reunite(self, write: WriteHalf) -> TcpStream {
        let socket = self.half.reunite(write.half).expect("halves of one stream are reunited");
        TcpStream { life: self.life, socket }
    }
}

impl WriteHalf {
    /// Writes all of `buf` and hands it back. See [`TcpStream::write_all`].
    pub async fn write_all<B: WriteBuffer>(&mut self, buf: B) -> (io::Result<()>, B) {
        write_all(&mut self.half, buf).await
    }

    /// A handle that ends the connection from outside.
    pub fn closer(&self) -> Closer {
        Closer { life: Rc::downgrade(&self.life) }
    }
}

impl Closer {
    pub(crate) fn new(life: &Rc<Life>) -> Self {
        Self { life: Rc::downgrade(life) }
    }

    /// Shuts both directions down: a pending read returns 0, writes fail. What was written before is still sent.
    pub fn close(&self) {
        self.shutdown(std::net::Shutdown::Both);
    }

    /// Shuts reading down only: a pending read returns 0; what is still to be written goes out.
    pub fn close_read(&self) {
        self.shutdown(std::net::Shutdown::Read);
    }

    /// True when the connection is gone.
    pub fn is_gone(&self) -> bool {
        self.life.strong_count() == 0
    }

    fn shutdown(&self, how: std::net::Shutdown) {
        if let Some(life) = self.life.upgrade() {
            // Fails only when the connection has ended already, which is what was wanted.
            let _ = SockRef::from(&life.socket()).shutdown(how);
        }
    }
}

impl Detached {
    /// The other end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Attaches to this shard; returns the stream and the bytes already read.
    pub fn attach(self) -> io::Result<(TcpStream, Vec<u8>)> {
        Ok((TcpStream::from_fd(self.fd, Some(self.peer))?, self.read))
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

async fn read<S: AsyncReadRent, B: ReadBuffer>(socket: &mut S, buf: B) -> (io::Result<usize>, B) {
    let mut spare = Spare(buf);
    if spare.room() == 0 {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "a read needs a buffer with spare room");
        return (Err(error), spare.0);
    }
    // On epoll a read whose bytes are already here completes at once: without this a flood would never let go.
    budget::spend().await;
    let (outcome, spare) = socket.read(spare).await;
    (outcome, spare.0)
}

async fn write_all<S: AsyncWriteRent, B: WriteBuffer>(socket: &mut S, buf: B) -> (io::Result<()>, B) {
    budget::spend().await;
    let (outcome, buf) = AsyncWriteRentExt::write_all(socket, buf).await;
    (outcome.map(drop), buf)
}
