//! The two connections on Tokio sockets. A turn writes what is to be written and reads what is there, in as few system calls as
//! the socket allows, so one task drives a connection at full rate; being cancelled loses nothing. Taking events out and deciding
//! what to send stays with the caller.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ::tokio::io::Interest;
use ::tokio::net::{TcpSocket, TcpStream};
use ::tokio::time::timeout;
use proto::frame::{EncodeError, Hello, SetProgress};
use proto::line::{Auth, AuthSuccess, ClientLine, ServerLine};
use proto::{SessionId, UserId};

use crate::frames::{Event, WindowFull};
use crate::{frames, lines};

/// What the first read asks for; doubled whenever a read was filled, so that idle connections stay small.
const READ_BYTES_MIN: usize = 2 * 1024;
/// What a read asks for at most.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Why a client could not connect or go on.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket failed, or the server closed it without a word.
    #[error("connection to the server: {0}")]
    Io(#[from] io::Error),
    /// The server's bytes make no sense.
    #[error(transparent)]
    Protocol(#[from] frames::ConnectionError),
    /// A line of the server makes no sense.
    #[error("the server sent a line that cannot be read: {0}")]
    Line(#[from] proto::line::LineError),
    /// The token does not fit a Hello.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The server refused the sign-in or ended the connection.
    #[error("the server ended the connection: {detail} ({code})")]
    Refused {
        /// The problem code, as the server spells it.
        code: String,
        /// For a person.
        detail: String,
    },
    /// The server did not answer in time.
    #[error("the server did not answer within {0:?}")]
    Timeout(Duration),
}

/// Connects with Nagle's algorithm off, from a given local address when there is one.
pub async fn connect(server: SocketAddr, local: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(local) = local {
        socket.set_reuseaddr(true)?;
        socket.bind(local)?;
    }
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What Welcome said, kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// The session.
    pub session: SessionId,
    /// The user.
    pub user: UserId,
    /// The user's name.
    pub username: String,
    /// How many commands may be unanswered at a time.
    pub window: u32,
    /// The largest device_seq that was applied for this device.
    pub last_seq: u64,
}

/// A frame connection on a socket.
#[derive(Debug)]
pub struct FrameClient {
    stream: TcpStream,
    connection: frames::Connection,
    read_bytes: usize,
}

impl FrameClient {
    /// Connects, says Hello and waits for Welcome. What came right behind Welcome is there to be taken out.
    pub async fn connect(
        server: SocketAddr,
        hello: &Hello<'_>,
        within: Duration,
    ) -> Result<(Self, Session), ClientError> {
        let shake_hands = async {
            let stream = connect(server, None).await?;
            Self::start(stream, hello).await
        };
        timeout(within, shake_hands).await.map_err(|_| ClientError::Timeout(within))?
    }

    /// The same on a stream that is connected already (from another address, for example); waits as long as it takes.
    pub async fn start(stream: TcpStream, hello: &Hello<'_>) -> Result<(Self, Session), ClientError> {
        let connection = frames::Connection::open(hello)?;
        let mut client = Self { stream, connection, read_bytes: READ_BYTES_MIN };
        loop {
            match client.connection.next_event()? {
                Some(Event::Welcome(welcome)) => {
                    let session = Session {
                        session: welcome.session,
                        user: welcome.user,
                        username: welcome.username.to_owned(),
                        window: welcome.window,
                        last_seq: welcome.last_seq,
                    };
                    return Ok((client, session));
                }
                Some(Event::Bye(bye)) => return Err(refused(bye.code(), bye.detail)),
                Some(Event::Rejected { reject, .. }) => return Err(refused(reject.code(), reject.detail)),
                Some(_) => {}
                None => drop(client.turn().await?),
            }
        }
    }

    /// Queues a command; it leaves with the next turn. Many commands before one turn make one write.
    pub fn set_progress(&mut self, command: &SetProgress) -> Result<u64, WindowFull> {
        self.connection.set_progress(command)
    }

    /// The next event that is there already; `turn` brings more.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, ClientError> {
        Ok(self.connection.next_event()?)
    }

    /// The protocol's state: every other command, the window, the resume token.
    pub fn connection(&mut self) -> &mut frames::Connection {
        &mut self.connection
    }

    /// Writes and reads once what can be written and read, waiting until one of them can. Gives how many bytes were read.
    /// Safe to cancel. The server's end of the stream is an `UnexpectedEof`.
    pub async fn turn(&mut self) -> Result<usize, ClientError> {
        loop {
            let wrote = match try_write(&self.stream, self.connection.outgoing())? {
                0 => false,
                bytes => {
                    self.connection.sent(bytes);
                    true
                }
            };
            let room = self.connection.room(self.read_bytes);
            let offered = room.len();
            let read = try_read(&self.stream, room)?;
            self.connection.filled(read);
            if read == offered {
                self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
            }
            if wrote || read > 0 {
                return Ok(read);
            }
            self.stream.ready(interest(self.connection.outgoing())).await?;
        }
    }

    /// Says Bye, sends what is queued and gives the socket back.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.connection.bye();
        while !self.connection.outgoing().is_empty() {
            match try_write(&self.stream, self.connection.outgoing())? {
                0 => drop(self.stream.ready(Interest::WRITABLE).await?),
                bytes => self.connection.sent(bytes),
            }
        }
        Ok(())
    }
}

/// A JSON-lines connection on a socket.
#[derive(Debug)]
pub struct LineClient {
    stream: TcpStream,
    connection: lines::Connection,
    scratch: Vec<u8>,
}

impl LineClient {
    /// Connects, sends auth and waits for its answer.
    pub async fn connect(
        server: SocketAddr,
        auth: &Auth<'_>,
        within: Duration,
    ) -> Result<(Self, AuthSuccess<'static>), ClientError> {
        let shake_hands = async {
            let stream = connect(server, None).await?;
            Self::start(stream, auth).await
        };
        timeout(within, shake_hands).await.map_err(|_| ClientError::Timeout(within))?
    }

    /// The same on a stream that is connected already; waits as long as it takes.
    pub async fn start(stream: TcpStream, auth: &Auth<'_>) -> Result<(Self, AuthSuccess<'static>), ClientError> {
        let connection = lines::Connection::open(auth);
        let mut client = Self { stream, connection, scratch: vec![0; READ_BYTES_MIN] };
        loop {
            match client.connection.next_line()? {
                Some(ServerLine::AuthSuccess(success)) => {
                    let success = AuthSuccess { username: success.username.into_owned().into(), ..success };
                    return Ok((client, success));
                }
                Some(ServerLine::AuthError { error }) => return Err(refused(None, &error)),
                Some(ServerLine::Error(error)) => {
                    return Err(ClientError::Refused { code: error.code.into(), detail: error.message.into() });
                }
                Some(_) => {}
                None => drop(client.turn().await?),
            }
        }
    }

    /// Queues a command; it leaves with the next turn.
    pub fn set_progress(&mut self, command: &SetProgress) {
        self.connection.set_progress(command);
    }

    /// Queues any message.
    pub fn send(&mut self, line: &ClientLine<'_>) {
        self.connection.send(line);
    }

    /// The next message that is there already; `turn` brings more.
    pub fn next_line(&mut self) -> Result<Option<ServerLine<'_>>, ClientError> {
        Ok(self.connection.next_line()?)
    }

    /// Writes and reads once what can be written and read, waiting until one of them can. Gives how many bytes were read.
    /// Safe to cancel. The server's end of the stream is an `UnexpectedEof`.
    pub async fn turn(&mut self) -> Result<usize, ClientError> {
        loop {
            let wrote = match try_write(&self.stream, self.connection.outgoing())? {
                0 => false,
                bytes => {
                    self.connection.sent(bytes);
                    true
                }
            };
            let read = try_read(&self.stream, &mut self.scratch)?;
            self.connection.feed(&self.scratch[..read]);
            if wrote || read > 0 {
                return Ok(read);
            }
            self.stream.ready(interest(self.connection.outgoing())).await?;
        }
    }
}

fn refused(code: Option<proto::Code>, detail: &str) -> ClientError {
    let code = code.map_or("closed", proto::Code::as_str).to_owned();
    ClientError::Refused { code, detail: detail.to_owned() }
}

fn interest(outgoing: &[u8]) -> Interest {
    if outgoing.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE }
}

/// How much the socket took; 0: nothing now.
fn try_write(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    match stream.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

/// How much came; 0: nothing now.
fn try_read(stream: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    match stream.try_read(room) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
        result => result,
    }
}
