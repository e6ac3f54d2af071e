//! The Unix listener of the admin socket.
//!
//! Whoever can reach its file is an administrator: the file is private to the user, and each connection says who it is.

use std::{
    fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use super::{PollStream, TcpStream};
use crate::{task, time};

/// Pause after accept failed for want of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

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
pub struct UnixListener {
    readiness: monoio::net::UnixListener,
    socket: std::os::unix::net::UnixListener,
    path: PathBuf,
}

impl UnixListener {
    /// Binds `path` with mode 0600. A socket file that nobody listens on is replaced; a live one is `AddrInUse`.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok() {
            match StdUnixStream::connect(path) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
                Err(error) => return Err(error),
                Ok(_) => return Err(io::Error::new(ErrorKind::AddrInUse, "somebody is listening on this socket")),
            }
        }
        let socket = std::os::unix::net::UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        let readiness = monoio::net::UnixListener::from_std(socket.try_clone()?)?;
        Ok(Self { readiness, socket, path: path.to_owned() })
    }

    /// The next connection. Safe to drop while waiting.
    pub async fn accept(&mut self) -> io::Result<(PollStream, PeerCredentials)> {
        loop {
            match self.socket.accept() {
                Ok((stream, _)) => {
                    let fd = OwnedFd::from(stream);
                    let credentials = credentials(&fd)?;
                    return Ok((TcpStream::from_fd(fd, None)?.into_poll()?, credentials));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readiness.readable(false).await?,
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                    time::sleep(EXHAUSTED_PAUSE).await;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for UnixListener {
    fn drop(&mut self) {
        // Already gone is as good as removed.
        let _ = fs::remove_file(&self.path);
    }
}

/// SO_PEERCRED, unix(7): fixed by the kernel at connect time.
#[allow(unsafe_code)]
fn credentials(fd: &OwnedFd) -> io::Result<PeerCredentials> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `found` is as long as `length` says, and both outlive the call.
    let outcome = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut found).cast(), &raw mut length)
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(PeerCredentials { pid: found.pid, uid: found.uid, gid: found.gid })
}
