//! Connections that never say who they are: what each costs, whether others are served meanwhile, and whether they are gone when
//! the time for a greeting is over.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{Beside, Target, Turns, once};
use crate::dial::dial;

/// How long after the last was opened the last must be closed: the greeting time that the server has, and room for a busy
/// machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The ordinary client is timed for no longer than this, since they are gone soon.
const BESIDE_MAX: Duration = Duration::from_secs(4);

/// Which door is knocked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// TCP sync.
    Sync,
    /// HTTP.
    Http,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Which door.
    pub door: Door,
    /// Connections that were opened.
    pub opened: usize,
    /// Seconds until they were.
    pub opened_s: f64,
    /// Resident bytes of the server before, with all open, and after they had gone.
    pub rss_bytes: [u64; 3],
    /// Resident bytes for each.
    pub bytes_each: f64,
    /// The ordinary client, before and while they were open.
    pub acks: Vec<Beside>,
    /// Connections that the server closed.
    pub closed: usize,
    /// Seconds from the opening of the last to the closing of the last.
    pub closed_s: f64,
    /// Connections that the server counted as late.
    pub counted: u64,
}

/// Opens so many and waits until they are closed.
pub async fn run(target: &Target, door: Door, connections: usize, turns: Turns) -> io::Result<Outcome> {
    let alone = once(target, turns, "alone")?;
    let labels =
        [if door == Door::Sync { "door=\"tcp_sync\"" } else { "door=\"http\"" }, "reason=\"greeting_timeout\""];
    let late = || target.metric("mangahub_connections_refused_total", &labels);
    let (before, late_before) = (target.rss_bytes()?, late()?);
    let began = Instant::now();
    let address = if door == Door::Sync { target.sync } else { target.http };
    let mut silent = Vec::with_capacity(connections);
    for _ in 0..connections {
        silent.push(dial(address).await?);
    }
    let (opened_s, opened) = (began.elapsed().as_secs_f64(), Instant::now());
    // All of them were accepted when the last was: the kernel keeps their order, per shard.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let with_all = target.rss_bytes()?;
    let short = Turns { time: turns.time.min(BESIDE_MAX), ..turns };
    let beside = once(target, short, &format!("{connections} silent"))?.against(&alone);
    let closed = until_closed(&mut silent, opened + PATIENCE).await;
    let closed_s = opened.elapsed().as_secs_f64();
    drop(silent);
    let after = target.rss_bytes()?;
    Ok(Outcome {
        door,
        opened: connections,
        opened_s,
        rss_bytes: [before, with_all, after],
        bytes_each: (with_all as f64 - before as f64) / connections.max(1) as f64,
        acks: vec![alone, beside],
        closed,
        closed_s,
        counted: (late()? - late_before) as u64,
    })
}

/// How many the server has closed by then.
async fn until_closed(silent: &mut [TcpStream], deadline: Instant) -> usize {
    let mut closed = 0;
    for stream in silent {
        let ended = tokio::time::timeout_at(deadline.into(), stream.read(&mut [0; 16])).await;
        // A reset is an end too; a byte would be an answer to nothing.
        closed += usize::from(matches!(ended, Ok(Ok(0) | Err(_))));
    }
    closed
}
