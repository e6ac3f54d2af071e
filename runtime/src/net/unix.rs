//! The Unix listener of the admin socket.

use std::{io, path::Path};

use super::PollStream;

/// Who is at the other end of a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A Unix stream listener; its file is removed when it is dropped.
#[derive(Debug)]
pub struct UnixListener {}

impl UnixListener {
    /// Binds `path` with mode 0600. A socket file that nobody listens on is replaced; a live one is `AddrInUse`.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let _ = path;
        unimplemented!()
    }

    /// The next connection. Safe to drop while waiting.
    pub async fn accept(&mut self) -> io::Result<(PollStream, PeerCredentials)> {
        unimplemented!()
    }
}
