//! What the server is compared with: the same rows, made durable by something well known, driven as hard as its own protocol
//! allows. Each peer is started privately, on a free port and in a folder that goes away, and stopped again.

mod nats;
mod pipeline;
mod redis;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::report::Report;

/// Which peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// `XADD` into Redis streams, `appendfsync always`.
    Redis,
    /// Publishes into a JetStream file stream, `sync_interval: always`.
    Nats,
}

/// One run against a peer.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Plan {
    /// Which.
    pub peer: Peer,
    /// Connections.
    pub connections: usize,
    /// Rows without an answer, per connection.
    pub pipeline: usize,
    /// Bytes of a row: what a progress record takes in the journal.
    pub row_bytes: usize,
    /// Streams or subjects that the rows are spread over.
    pub streams: usize,
    /// Load that is not measured.
    #[serde(skip)]
    pub warm_up: Duration,
    /// Load that is.
    #[serde(skip)]
    pub measure: Duration,
}

/// A peer could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not on this machine.
    #[error("{program} is not installed ({detail}); {advice}")]
    NotInstalled {
        /// What is missing.
        program: &'static str,
        /// What was tried.
        detail: String,
        /// What to do.
        advice: &'static str,
    },
    /// It did not start, or broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It refused a row.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// It acknowledged nothing.
    #[error(transparent)]
    NoSamples(#[from] crate::report::NoSamples),
}

/// Starts the peer, drives it, stops it. Must be called inside a `LocalSet`.
pub async fn run(plan: &Plan) -> Result<Report, Error> {
    let folder = tempfile::tempdir()?;
    match plan.peer {
        Peer::Redis => redis::run(plan, folder.path()).await,
        Peer::Nats => nats::run(plan, folder.path()).await,
    }
}

/// A peer's process; killed when dropped.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts it and waits until its port answers.
    fn start(mut command: Command, address: SocketAddr, folder: &Path) -> Result<Self, Error> {
        let log = std::fs::File::create(folder.join("peer.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = Self { child: command.spawn()?, address };
        let deadline = Instant::now() + Duration::from_secs(15);
        while std::net::TcpStream::connect(address).is_err() {
            let ended = process.child.try_wait()?.is_some();
            if ended || Instant::now() > deadline {
                let log = std::fs::read_to_string(folder.join("peer.log")).unwrap_or_default();
                return Err(io::Error::other(format!("{:?} did not start:\n{log}", command.get_program())).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody uses at the moment.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
