//! What the writer tells about itself, and the way to tell it to stop. Atomics for everything that is read often; the lock is
//! held only to sleep and to keep the last error.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pending::Pending;
use crate::journal::Lsn;
use crate::store::Applied;

/// Counters and state of a running writer.
#[derive(Debug)]
pub struct WriterStats {
    reached: AtomicU64,
    waiting_records: AtomicU64,
    waiting_since_unix_ms: AtomicU64,
    from_segments: AtomicBool,
    batches: AtomicU64,
    rows: AtomicU64,
    rows_changed: AtomicU64,
    last_batch_rows: AtomicU64,
    last_batch_us: AtomicU64,
    parked: AtomicU64,
    failures: AtomicU64,
    restarts: AtomicU64,
    finished: AtomicBool,
    shared: Mutex<Shared>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Shared {
    stop_at: Option<Instant>,
    last_error: Option<String>,
    failing_since_unix_ms: Option<u64>,
    ended: bool,
}

/// One look at a writer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Every record up to here is stored or parked.
    pub reached: Lsn,
    /// Records taken from the journal, or waiting in its feed, that are not stored yet (those left in segments not counted).
    pub lag_records: u64,
    /// How old the oldest of them is, in milliseconds; 0 without one.
    pub lag_ms: u64,
    /// Whether it is so far behind that it reads the segments.
    pub from_segments: bool,
    /// Transactions.
    pub batches: u64,
    /// Rows sent in them.
    pub rows: u64,
    /// Rows that changed something.
    pub rows_changed: u64,
    /// Rows of the last transaction.
    pub last_batch_rows: u64,
    /// How long it took.
    pub last_batch_us: u64,
    /// Records parked since the start.
    pub parked: u64,
    /// Attempts that failed because the store was away or the segments could not be read.
    pub failures: u64,
    /// Times that a defect stopped the writer and it began again.
    pub restarts: u64,
    /// Since when attempts have been failing, in Unix milliseconds; `None` while the store answers.
    pub failing_since_unix_ms: Option<u64>,
    /// What the last failure said.
    pub last_error: Option<String>,
    /// The feed has closed and everything is stored.
    pub finished: bool,
}

impl WriterStats {
    pub(super) fn new(reached: Lsn) -> Self {
        Self {
            reached: AtomicU64::new(reached.0),
            waiting_records: AtomicU64::new(0),
            waiting_since_unix_ms: AtomicU64::new(0),
            from_segments: AtomicBool::new(false),
            batches: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            rows_changed: AtomicU64::new(0),
            last_batch_rows: AtomicU64::new(0),
            last_batch_us: AtomicU64::new(0),
            parked: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            shared: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Everything at once; the fields are read one after the other.
    pub fn read(&self) -> Reading {
        let since = self.waiting_since_unix_ms.load(Relaxed);
        let (last_error, failing_since_unix_ms) = {
            let shared = self.lock();
            (shared.last_error.clone(), shared.failing_since_unix_ms)
        };
        Reading {
            reached: Lsn(self.reached.load(Relaxed)),
            lag_records: self.waiting_records.load(Relaxed),
            lag_ms: if since == 0 { 0 } else { super::now_unix_ms().saturating_sub(since) },
            from_segments: self.from_segments.load(Relaxed),
            batches: self.batches.load(Relaxed),
            rows: self.rows.load(Relaxed),
            rows_changed: self.rows_changed.load(Relaxed),
            last_batch_rows: self.last_batch_rows.load(Relaxed),
            last_batch_us: self.last_batch_us.load(Relaxed),
            parked: self.parked.load(Relaxed),
            failures: self.failures.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
            failing_since_unix_ms,
            last_error,
            finished: self.finished.load(Relaxed),
        }
    }

    /// Waits until everything up to `lsn` is stored or parked; false when that took longer, or the writer has ended before.
    pub(super) fn wait_for(&self, lsn: Lsn, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut shared = self.lock();
        loop {
            if self.reached.load(Relaxed) >= lsn.0 {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || shared.ended {
                return false;
            }
            shared = self.changed.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// From then on the writer gives up, between two batches or while it waits for the store.
    pub(super) fn stop_at(&self, when: Instant) {
        self.lock().stop_at = Some(when);
        self.changed.notify_all();
    }

    /// Whether the time to give up has come.
    pub(super) fn is_time_up(&self) -> bool {
        self.lock().stop_at.is_some_and(|stop_at| stop_at <= Instant::now())
    }

    /// Sleeps, unless it is time to give up: true then.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut shared = self.lock();
        loop {
            let now = Instant::now();
            if shared.stop_at.is_some_and(|stop_at| stop_at <= now) {
                return true;
            }
            if until <= now {
                return false;
            }
            let next = shared.stop_at.map_or(until, |stop_at| stop_at.min(until));
            shared = self.changed.wait_timeout(shared, next - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn waiting(&self, pending: &Pending, fed_rows: usize, from_segments: bool) {
        self.waiting_records.store((pending.records() + fed_rows) as u64, Relaxed);
        if let Some(first_unix_ms) = pending.first_unix_ms() {
            self.waiting_since_unix_ms.store(first_unix_ms, Relaxed);
        }
        self.from_segments.store(from_segments, Relaxed);
    }

    pub(super) fn stored(&self, rows: usize, applied: Applied, parked: usize, took: Duration) {
        self.batches.fetch_add(1, Relaxed);
        self.rows.fetch_add(rows as u64, Relaxed);
        self.rows_changed.fetch_add(applied.changed, Relaxed);
        self.last_batch_rows.store(rows as u64, Relaxed);
        self.last_batch_us.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.parked.fetch_add(parked as u64, Relaxed);
        metrics::histogram!("mangahub_store_batch_rows").record(rows as f64);
        metrics::histogram!("mangahub_store_batch_seconds").record(took.as_secs_f64());
        let mut shared = self.lock();
        if shared.failing_since_unix_ms.take().is_some() {
            tracing::info!("the store answers again; the journal drains");
        }
    }

    /// The writer panicked and begins again.
    pub(super) fn restarted(&self) {
        let restarts = self.restarts.fetch_add(1, Relaxed) + 1;
        tracing::error!(restarts, "the store writer had a defect; it begins again behind what is stored");
        self.failed(&format!("the store writer had a defect and has begun again {restarts} times"));
    }

    pub(super) fn failed(&self, error: &str) {
        self.failures.fetch_add(1, Relaxed);
        let mut shared = self.lock();
        if shared.failing_since_unix_ms.is_none() {
            tracing::warn!(error, "the store is away; records wait in the journal");
            shared.failing_since_unix_ms = Some(super::now_unix_ms());
        }
        shared.last_error = Some(error.to_owned());
    }

    /// The store has everything.
    pub(super) fn nothing_waits(&self) {
        self.waiting_since_unix_ms.store(0, Relaxed);
    }

    /// The store has everything up to `lsn`. What comes behind it is as old as the newest record of the batch, or younger.
    pub(super) fn reached(&self, lsn: Lsn, newest_unix_ms: Option<u64>) {
        self.waiting_records.store(0, Relaxed);
        if let Some(newest_unix_ms) = newest_unix_ms {
            self.waiting_since_unix_ms.store(newest_unix_ms, Relaxed);
        }
        let _shared = self.lock();
        self.reached.fetch_max(lsn.0, Relaxed);
        self.changed.notify_all();
    }

    pub(super) fn finish(&self, finished: bool) {
        let mut shared = self.lock();
        self.finished.store(finished, Relaxed);
        shared.ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Plain values, each set in one statement: a panic elsewhere leaves nothing half done.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
