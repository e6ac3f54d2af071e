//! Upkeep: one plain thread that looks at the store and the journal once a second, says what works, writes the checkpoint,
//! and has old rows purged. Nothing that a request waits for happens here.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_executor::block_on;
use proto::Version;
use runtime::mailbox::MeshStats;
use storage::checkpoint::Checkpoint;
use storage::folder::DataFolder;
use storage::hot::{HotReading, HotState};
use storage::journal::{Journal, JournalId, Stats};
use storage::writer::WriterStats;

use crate::Health;
use crate::accounts::now_ms;
use crate::shared::Shared;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const CHECKPOINT_EVERY: Duration = Duration::from_secs(30);
const PURGE_EVERY: Duration = Duration::from_secs(3_600);
/// Tombstones are kept this long (DESIGN, records).
const TOMBSTONES_KEPT_MS: u64 = 30 * 24 * 3_600_000;

/// What administration and upkeep know of the journal and the writer. The lock is theirs alone: no shard takes it.
pub(crate) struct Operations {
    journal: Mutex<Option<Journal>>,
    journal_id: JournalId,
    writer: Arc<WriterStats>,
    high_water: Version,
    mesh: OnceLock<MeshStats>,
}

impl Operations {
    pub(crate) fn new(journal: Journal, journal_id: JournalId, writer: Arc<WriterStats>, high_water: Version) -> Self {
        Self { journal: Mutex::new(Some(journal)), journal_id, writer, high_water, mesh: OnceLock::new() }
    }

    /// The mailboxes to report on from now on.
    pub(crate) fn watch(&self, mesh: MeshStats) {
        let _ = self.mesh.set(mesh);
    }

    /// The journal's counters; none after it was closed.
    pub(crate) fn journal_stats(&self) -> Option<Stats> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Journal::stats)
    }

    /// The writer's.
    pub(crate) fn writer(&self) -> &WriterStats {
        &self.writer
    }

    /// The last commit; false when one had failed.
    pub(crate) fn close_journal(&self) -> bool {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner).take();
        journal.is_none_or(Journal::close)
    }

    /// Writes what a start needs to know when the store is away.
    pub(crate) fn write_checkpoint(&self, folder: &DataFolder, shared: &Shared) {
        let checkpoint = Checkpoint {
            journal: self.journal_id,
            store: shared.store.store_id(),
            cursors: shared.cursors.snapshot(),
            // Versions follow the wall clock, or run ahead of it by what recovery found.
            version: self.high_water.max(Version::from_unix_ms(now_ms())),
            revocations: shared.revocations.encode(),
            catalogue: Vec::new(),
        };
        if let Err(error) = checkpoint.store(&folder.checkpoint()) {
            tracing::warn!(%error, "the checkpoint could not be written; the last one stays");
        }
    }

    fn look(&self, shared: &Shared) {
        let ping = block_on(shared.store.ping());
        let reading = self.writer.read();
        let journal = self.journal_stats().unwrap_or_default();
        metrics::counter!("mangahub_journal_commits_total").absolute(journal.commits);
        metrics::counter!("mangahub_journal_records_total").absolute(journal.records);
        metrics::counter!("mangahub_journal_record_bytes_total").absolute(journal.record_bytes);
        metrics::gauge!("mangahub_journal_segments").set(journal.segments as f64);
        metrics::gauge!("mangahub_journal_last_write_us").set(journal.last_write_us as f64);
        // From the journal's end, because the writer does not count what it left in the segments.
        let lag_records = journal.end.0.saturating_sub(reading.reached.0).max(reading.lag_records);
        metrics::gauge!("mangahub_store_lag_records").set(lag_records as f64);
        let lag_ms = if lag_records == 0 { 0 } else { reading.lag_ms };
        metrics::gauge!("mangahub_store_lag_ms").set(lag_ms as f64);
        metrics::counter!("mangahub_store_rows_total").absolute(reading.rows);
        metrics::counter!("mangahub_store_batches_total").absolute(reading.batches);
        metrics::counter!("mangahub_parked_records_total").absolute(reading.parked);
        metrics::gauge!("mangahub_revocations_known").set(shared.revocations.len() as f64);
        metrics::counter!("mangahub_store_writer_restarts_total").absolute(reading.restarts);
        metrics::counter!("mangahub_task_panics_total").absolute(runtime::task::panics_total());
        for lane in self.mesh.get().into_iter().flat_map(MeshStats::lanes) {
            let (from, to) = (lane.from.to_string(), lane.to.to_string());
            metrics::counter!("mangahub_mailbox_sent_total", "from" => from.clone(), "to" => to.clone())
                .absolute(lane.sent);
            metrics::counter!("mangahub_mailbox_refused_total", "from" => from.clone(), "to" => to.clone())
                .absolute(lane.refused);
            metrics::counter!("mangahub_mailbox_replies_delayed_total", "from" => from, "to" => to)
                .absolute(lane.replies_refused);
        }
        let store = match (&ping, reading.failing_since_unix_ms) {
            (Err(error), _) => format!("away: {error}"),
            (Ok(()), Some(_)) => format!("not writing: {}", reading.last_error.as_deref().unwrap_or("unknown")),
            (Ok(()), None) => "ok".to_owned(),
        };
        let words = match (journal.failed, journal.no_room) {
            (true, _) => "failed",
            (false, true) => "no room",
            (false, false) => "ok",
        };
        let mut health = Health {
            ready: !journal.failed,
            degraded: store != "ok" || words != "ok",
            dependencies: vec![("journal", words.to_owned()), ("store", store)],
        };
        if let Some(hot) = &shared.hot {
            let reading = hot.read();
            publish_hot(&reading);
            // Nothing is lost without it: that is degraded, and never down.
            health.degraded |= reading.state != HotState::Healthy;
            health.dependencies.push(("redis", reading.state.as_str().to_owned()));
        }
        shared.health.store(Arc::new(health));
    }
}

fn publish_hot(reading: &HotReading) {
    let counts = &reading.counts;
    let loads = [
        ("hit", counts.hits),
        ("miss", counts.misses),
        ("untrusted", counts.misses_untrusted),
        ("breaker_open", counts.misses_breaker),
        ("busy", counts.misses_busy),
        ("failed", counts.misses_failed),
    ];
    for (outcome, count) in loads {
        metrics::counter!("mangahub_cache_loads_total", "outcome" => outcome).absolute(count);
    }
    let dropped =
        [("queue_full", counts.dropped_queue), ("refused", counts.dropped_refused), ("behind", counts.dropped_inbox)];
    for (reason, count) in dropped {
        metrics::counter!("mangahub_cache_dropped_total", "reason" => reason).absolute(count);
    }
    metrics::counter!("mangahub_cache_rows_total").absolute(counts.rows);
    metrics::counter!("mangahub_cache_writes_total").absolute(counts.writes);
    metrics::counter!("mangahub_cache_fills_total").absolute(counts.fills);
    metrics::counter!("mangahub_cache_write_failures_total").absolute(counts.write_failures);
    metrics::counter!("mangahub_cache_breaker_opened_total").absolute(counts.opened);
    metrics::counter!("mangahub_cache_epochs_total").absolute(counts.epochs);
    metrics::gauge!("mangahub_cache_breaker").set(f64::from(reading.breaker as u8));
    metrics::gauge!("mangahub_cache_queue_rows").set(counts.queue_rows as f64);
}

/// The thread.
pub(crate) struct Upkeep {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Upkeep {
    pub(crate) fn start(
        operations: &Arc<Operations>,
        shared: &Arc<Shared>,
        folder: &Arc<DataFolder>,
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let (operations, shared, folder) = (Arc::clone(operations), Arc::clone(shared), Arc::clone(folder));
        let run = move || {
            runtime::priority::yield_to_shards();
            let (mut checkpoint_at, mut purge_at) = (Instant::now(), Instant::now() + PURGE_EVERY);
            loop {
                operations.look(&shared);
                let now = Instant::now();
                if now >= checkpoint_at {
                    operations.write_checkpoint(&folder, &shared);
                    checkpoint_at = now + CHECKPOINT_EVERY;
                }
                if now >= purge_at {
                    purge(&shared);
                    purge_at = now + PURGE_EVERY;
                }
                if stopped.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("upkeep".to_owned()).spawn(run)?;
        Ok(Self { stop, thread })
    }

    pub(crate) fn stop(self) {
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the upkeep thread had a defect; the last checkpoint may be old");
        }
    }
}

fn purge(shared: &Shared) {
    let now_ms = now_ms();
    match block_on(shared.store.purge(now_ms, now_ms.saturating_sub(TOMBSTONES_KEPT_MS))) {
        Ok(purged) => tracing::info!(?purged, "old rows were purged"),
        Err(error) => tracing::warn!(%error, "old rows were not purged; tried again in an hour"),
    }
}
