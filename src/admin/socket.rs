//! The admin socket: a Unix socket in the data folder that only its owner can open, one request line, one reply line,
//! as often as the client likes. It may do anything, so it is never reachable over a network.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use engine::admin::Admin;
use engine::boot::Facts;
use serde_json::Value;

use crate::admin::{Refusal, Reply, Request, SOCKET_NAME, answer, block_on};

/// A request may carry a part of a catalogue file, a reply the tokens of a load run.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Operators at once.
const CONNECTIONS_MAX: usize = 16;
/// An operator that says nothing for this long is gone.
const IDLE: Duration = Duration::from_secs(60);

/// Why the socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Nobody listens.
    #[error("no server answers on {}", path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
    },
    /// It broke.
    #[error("the admin socket {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Starts answering on the folder's socket, on threads of its own. The folder's lock must be held: a socket file that is
/// left over belongs to a server that is gone.
pub(crate) fn serve(data_dir: &Path, admin: Admin, facts: Facts) -> Result<(), SocketError> {
    let path = data_dir.join(SOCKET_NAME);
    let broken = |source| SocketError::Io { path: path.clone(), source };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(broken(error)),
        _ => {}
    }
    // The folder is 0700, so nobody else can reach the socket in the moment before its own mode is set.
    let listener = UnixListener::bind(&path).map_err(broken)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(broken)?;
    let facts = Arc::new(facts);
    let open = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of descriptors, most likely: give the system time to get some back.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            };
            let Some(place) = Place::take(&open) else {
                turn_away(&stream);
                continue;
            };
            let (admin, facts) = (admin.clone(), facts.clone());
            let connection = move || {
                if let Err(error) = converse(&stream, &admin, &facts) {
                    tracing::debug!(%error, "an admin connection ended early");
                }
                drop(place);
            };
            // Without a thread for it the connection closes, and its place with it.
            let _ = std::thread::Builder::new().name("admin".to_owned()).spawn(connection);
        }
    };
    std::thread::Builder::new().name("admin-accept".to_owned()).spawn(accept).map(drop).map_err(broken)
}

/// One of the connections that may be open; given back however its thread ends, and when there is no thread to be had.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(open));
        (open.fetch_add(1, Ordering::Relaxed) < CONNECTIONS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Says why before it closes; in one write that fits an empty socket, so it waits for nobody.
fn turn_away(stream: &UnixStream) {
    tracing::warn!("as many operators are connected as may be ({CONNECTIONS_MAX}); another one was refused");
    let detail = format!("{CONNECTIONS_MAX} operators are connected already; try again when one has finished");
    let _ = write_line(stream, &Reply::Refused(Refusal::new(proto::Code::Busy, detail)));
}

fn converse(stream: &UnixStream, admin: &Admin, facts: &Facts) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        if reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let reply: Reply = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => block_on(answer(admin, facts, request)).into(),
            Err(error) => Reply::Refused(Refusal::new(proto::Code::InvalidInput, format!("not a request: {error}"))),
        };
        write_line(stream, &reply)?;
    }
}

fn write_line<T: serde::Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// The operator's end.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Connects to the server of a data folder.
    pub(crate) fn connect(data_dir: &Path) -> Result<Self, SocketError> {
        let path = data_dir.join(SOCKET_NAME);
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream), path }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Err(SocketError::Absent { path })
            }
            Err(source) => Err(SocketError::Io { path, source }),
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Result<Value, Refusal>, SocketError> {
        let asked = write_line(self.stream.get_ref(), request);
        // Read in any case: a server that has no place says so and closes, perhaps before it was asked.
        let mut line = Vec::new();
        let read = self.stream.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let exchanged = match (asked, read) {
            (_, Ok(bytes)) if bytes > 0 => serde_json::from_slice::<Reply>(&line).map_err(io::Error::from),
            (Err(problem), _) | (Ok(()), Err(problem)) => Err(problem),
            (Ok(()), Ok(_)) => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server went away before it answered"))
            }
        };
        exchanged.map(Into::into).map_err(|source| SocketError::Io { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_even_by_threads_that_panic() {
        let open = Arc::new(AtomicUsize::new(0));
        let held: Vec<_> = (0..CONNECTIONS_MAX).map(|_| Place::take(&open).unwrap()).collect();
        assert!(Place::take(&open).is_none());
        for place in held {
            let thread = std::thread::spawn(move || {
                let _place = place;
                std::panic::resume_unwind(Box::new("a defect"));
            });
            assert!(thread.join().is_err());
        }
        assert_eq!(open.load(Ordering::Relaxed), 0);
        assert!(Place::take(&open).is_some());
    }
}
