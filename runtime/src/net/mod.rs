//! Sockets of a shard.

mod listener;
mod poll;
mod stream;
mod unix;

pub use listener::{ListenerConfig, TcpListener};
pub use poll::PollStream;
pub use stream::{Closer, Detached, ReadBuffer, ReadHalf, TcpStream, WriteBuffer, WriteHalf};
pub use unix::{PeerCredentials, UnixListener};
