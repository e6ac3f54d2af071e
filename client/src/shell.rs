//! The Tokio shell around the protocols: a socket, its reads and its writes. What is queued on the connection goes out with
//! the next `next` or `flush`, all of it in one write. Dropping the client closes the socket; nothing is retried behind the
//! caller's back.

use std::io;

use proto::frame::{Bye, Hello, Reject, SetProgress, Welcome};
use proto::line::{Auth, AuthSuccess, ClientLine, LineError, ServerLine};
use proto::{Code, SessionId, UserId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};

use crate::frames::{self, Connection, Event};
use crate::lines;

/// Bytes asked of the socket at a time: a few hundred acks.
const READ_BYTES: usize = 16 * 1024;

/// Why a client cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The server does not follow the protocol.
    #[error(transparent)]
    Protocol(#[from] frames::Error),
    /// A line of the server cannot be read.
    #[error("the server sent a line that cannot be read: {0}")]
    Line(#[from] LineError),
    /// The server refused Hello or closed, and said why.
    #[error("the server closed the connection: {detail} ({})", code.map_or("no code", Code::as_str))]
    Closed {
        /// The reason, when this version knows it.
        code: Option<Code>,
        /// In words.
        detail: String,
    },
    /// The server refused auth, or said why it refuses before it closed.
    #[error("the server refused: {detail} ({code})")]
    Refused {
        /// As the server spells it.
        code: String,
        /// In words.
        detail: String,
    },
    /// The server closed without a word.
    #[error("the server closed the connection without a Bye")]
    Cut,
}

impl From<Bye<'_>> for Error {
    fn from(bye: Bye<'_>) -> Self {
        Self::Closed { code: bye.code(), detail: bye.detail.to_owned() }
    }
}

/// Of a request without which the caller cannot go on.
impl From<Reject<'_>> for Error {
    fn from(reject: Reject<'_>) -> Self {
        Self::Closed { code: reject.code(), detail: reject.detail.to_owned() }
    }
}

/// Who the server says we are.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// The session.
    pub session: SessionId,
    /// The user.
    pub user: UserId,
    /// The user's name.
    pub username: String,
    /// The highest device sequence that was applied.
    pub last_seq: u64,
    /// How many updates may be unanswered.
    pub window: u32,
}

impl SignedIn {
    /// Keeps what a Welcome says.
    pub fn of(welcome: &Welcome<'_>) -> Self {
        Self {
            session: welcome.session,
            user: welcome.user,
            username: welcome.username.to_owned(),
            last_seq: welcome.last_seq,
            window: welcome.window,
        }
    }
}

/// One signed-in connection. `T` is what the caller wants back with each update's answer.
#[derive(Debug)]
pub struct FrameClient<T> {
    stream: TcpStream,
    connection: Connection<T>,
}

impl<T> FrameClient<T> {
    /// Connects, says Hello and waits for Welcome.
    pub async fn connect(address: impl ToSocketAddrs, hello: &Hello<'_>) -> Result<(Self, SignedIn), Error> {
        Self::over(TcpStream::connect(address).await?, hello).await
    }

    /// Says Hello on a socket that is connected already, and waits for Welcome.
    pub async fn over(stream: TcpStream, hello: &Hello<'_>) -> Result<(Self, SignedIn), Error> {
        stream.set_nodelay(true)?;
        let mut client = Self { stream, connection: Connection::open(hello)? };
        let mut answered = Vec::new();
        let signed_in = match client.next(&mut answered).await? {
            Event::Welcome(welcome) => SignedIn::of(&welcome),
            Event::Bye(bye) => return Err(bye.into()),
            Event::Reject(reject) => return Err(reject.into()),
            _ => return Err(Error::Cut),
        };
        Ok((client, signed_in))
    }

    /// The protocol's side: queue requests here, then call [`Self::next`] or [`Self::flush`].
    pub fn connection(&mut self) -> &mut Connection<T> {
        &mut self.connection
    }

    /// The socket and the protocol, for a caller with a loop of its own.
    pub fn into_parts(self) -> (TcpStream, Connection<T>) {
        (self.stream, self.connection)
    }

    /// Queues one update; see [`Connection::set_progress`].
    pub fn set_progress(&mut self, update: &SetProgress, tag: T) -> Result<u64, frames::WindowFull> {
        self.connection.set_progress(update, tag)
    }

    /// Sends what is queued. Safe to cancel.
    pub async fn flush(&mut self) -> Result<(), Error> {
        // One write at a time: a cancelled `write_all` would not tell how much of a frame has left.
        while !self.connection.pending_out().is_empty() {
            let bytes = self.stream.write(self.connection.pending_out()).await?;
            self.connection.sent(bytes);
        }
        Ok(())
    }

    /// Sends what is queued and waits for the next event. `answered` then holds the tags of the updates it answers.
    /// Safe to cancel: nothing that was received is lost, nothing that was sent is sent again.
    pub async fn next(&mut self, answered: &mut Vec<T>) -> Result<Event<'_>, Error> {
        self.flush().await?;
        while !self.connection.has_event()? {
            let room = self.connection.room(READ_BYTES);
            let bytes = self.stream.read(room).await?;
            if bytes == 0 {
                return Err(Error::Cut);
            }
            self.connection.received(bytes);
        }
        self.connection.poll(answered)?.ok_or(Error::Cut)
    }
}

/// One signed-in connection of JSON lines.
#[derive(Debug)]
pub struct LineClient {
    stream: TcpStream,
    connection: lines::Connection,
    scratch: Box<[u8]>,
}

impl LineClient {
    /// Connects, sends auth and waits for its answer.
    pub async fn connect(address: impl ToSocketAddrs, auth: &Auth<'_>) -> Result<(Self, AuthSuccess<'static>), Error> {
        Self::over(TcpStream::connect(address).await?, auth).await
    }

    /// Sends auth on a socket that is connected already, and waits for its answer.
    pub async fn over(stream: TcpStream, auth: &Auth<'_>) -> Result<(Self, AuthSuccess<'static>), Error> {
        stream.set_nodelay(true)?;
        let connection = lines::Connection::open(auth);
        let mut client = Self { stream, connection, scratch: vec![0; READ_BYTES].into() };
        let success = match client.next().await? {
            ServerLine::AuthSuccess(success) => {
                AuthSuccess { username: success.username.into_owned().into(), ..success }
            }
            ServerLine::AuthError { error } => {
                return Err(Error::Refused { code: "auth_error".to_owned(), detail: error.into_owned() });
            }
            ServerLine::Error(error) => {
                return Err(Error::Refused { code: error.code.into_owned(), detail: error.message.into_owned() });
            }
            _ => return Err(Error::Cut),
        };
        Ok((client, success))
    }

    /// Queues one message; it goes out with the next `next` or `flush`.
    pub fn send(&mut self, line: &ClientLine<'_>) {
        self.connection.send(line);
    }

    /// Queues one update.
    pub fn set_progress(&mut self, update: &SetProgress) {
        self.connection.set_progress(update);
    }

    /// Sends what is queued. Safe to cancel.
    pub async fn flush(&mut self) -> Result<(), Error> {
        while !self.connection.pending_out().is_empty() {
            let bytes = self.stream.write(self.connection.pending_out()).await?;
            self.connection.sent(bytes);
        }
        Ok(())
    }

    /// Sends what is queued and waits for the next message. Safe to cancel.
    pub async fn next(&mut self) -> Result<ServerLine<'_>, Error> {
        self.flush().await?;
        while !self.connection.has_line()? {
            let bytes = self.stream.read(&mut self.scratch).await?;
            if bytes == 0 {
                return Err(Error::Cut);
            }
            self.connection.feed(&self.scratch[..bytes]);
        }
        self.connection.next_line()?.ok_or(Error::Cut)
    }
}
