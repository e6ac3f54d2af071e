//! Sockets of a shard: listeners that share a port, native streams with owned buffers, poll-style streams, the admin
//! socket. TCP_NODELAY is always on. Nothing here parses what it carries.

mod listener;
mod owned;
mod poll;
mod stream;
mod unix;

pub use listener::{ListenerConfig, TcpListener};
pub use owned::{ReadBuffer, WriteBuffer};
pub use poll::PollStream;
pub use stream::{Closer, Detached, ReadHalf, TcpStream, WriteHalf};
pub use unix::{PeerCredentials, UnixListener};
