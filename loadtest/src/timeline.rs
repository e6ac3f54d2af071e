//! What the server says of itself over time: how far the store is behind, rows, memory, CPU by thread. Read on a thread of its
//! own, so that a slow answer of the metrics door disturbs no measurement.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{http, process};

/// One reading.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Moment {
    /// Seconds since the readings began.
    pub at_s: f64,
    /// Commands applied so far.
    pub applied: u64,
    /// Records that the store lacks.
    pub lag_records: u64,
    /// Age of the oldest of them, in milliseconds.
    pub lag_ms: u64,
    /// Rows written by the store so far.
    pub store_rows: u64,
    /// Journal segments on disk.
    pub segments: u64,
    /// Commits of the journal so far.
    pub commits: u64,
    /// Bytes of records in the journal so far.
    pub record_bytes: u64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

/// Reads once.
pub fn read(metrics: SocketAddr, pid: u32, since: Instant) -> io::Result<Moment> {
    let text = http::get(metrics, "/metrics")?;
    let value = |name: &str| http::metric(&text, name).unwrap_or(0.0) as u64;
    let usage = process::usage(pid)?;
    Ok(Moment {
        at_s: since.elapsed().as_secs_f64(),
        applied: value("mangahub_commands_total"),
        lag_records: value("mangahub_store_lag_records"),
        lag_ms: (http::metric(&text, "mangahub_store_lag_seconds").unwrap_or(0.0) * 1e3) as u64,
        store_rows: value("mangahub_store_rows_total"),
        segments: value("mangahub_journal_segments"),
        commits: value("mangahub_journal_commits_total"),
        record_bytes: value("mangahub_journal_record_bytes_total"),
        rss_bytes: usage.rss_bytes,
        descriptors: usage.descriptors,
    })
}

/// Reads on and on, until it is told to stop.
pub struct Recorder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Moment>>,
}

impl Recorder {
    /// Starts reading.
    pub fn start(metrics: SocketAddr, pid: u32, every: Duration) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let since = Instant::now();
        let thread = std::thread::Builder::new().name("recorder".into()).spawn(move || {
            let mut moments = Vec::new();
            while !told.load(Ordering::Relaxed) {
                // A server too busy to answer leaves a gap, which shows.
                moments.extend(read(metrics, pid, since));
                std::thread::park_timeout(every);
            }
            moments
        })?;
        Ok(Self { stop, thread })
    }

    /// Stops and gives what was read.
    pub fn finish(self) -> Vec<Moment> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_default()
    }
}
