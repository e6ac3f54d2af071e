//! Upkeep: one plain thread that looks at the store and the journal once a second, says what works, writes the checkpoint,
//! and has old rows purged. Nothing that a request waits for happens here.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
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
use storage::store::{Purged, StoreError};
use storage::wire::Wire;
use storage::writer::{Reading, WriterStats};

use crate::accounts::now_ms;
use crate::boot::absent;
use crate::catalogue::Catalogue;
use crate::nodes::{self, Poll};
use crate::report::{self, Look};
use crate::shared::Shared;
use crate::{Dependency, Health, State};

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
    /// Why the server must stop.
    refused: OnceLock<String>,
    /// Records that the store refused and that wait for a person, at the last look.
    parked: AtomicU64,
    /// The catalogue that the checkpoint has.
    kept: Mutex<Option<Arc<Catalogue>>>,
}

impl Operations {
    pub(crate) fn new(journal: Journal, journal_id: JournalId, writer: Arc<WriterStats>, high_water: Version) -> Self {
        Self {
            journal: Mutex::new(Some(journal)),
            journal_id,
            writer,
            high_water,
            mesh: OnceLock::new(),
            refused: OnceLock::new(),
            parked: AtomicU64::new(0),
            kept: Mutex::default(),
        }
    }

    /// Why the server must stop, when it must.
    pub(crate) fn refused(&self) -> Option<String> {
        self.refused.get().cloned()
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
        if shared.store.may_be_away() {
            self.keep_catalogue(folder, shared);
        }
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

    /// The catalogue goes into a file of its own, when it is another than the one there.
    fn keep_catalogue(&self, folder: &DataFolder, shared: &Shared) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let catalogue = shared.catalogue.load_full();
        if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &catalogue)) {
            return;
        }
        let checkpoint = Checkpoint {
            journal: self.journal_id,
            store: shared.store.store_id(),
            catalogue: catalogue.encode(),
            ..Checkpoint::default()
        };
        match checkpoint.store(&folder.checkpoint_catalogue()) {
            Ok(()) => *kept = Some(catalogue),
            Err(error) => {
                tracing::warn!(%error, "the catalogue could not be kept; tried again with the next checkpoint")
            }
        }
    }

    fn look(&self, shared: &Shared) {
        let mut ping = block_on(shared.store.ping());
        if ping.is_ok() && shared.is_awaited.load(Ordering::Relaxed) {
            ping = absent::settle_in(shared).and(ping);
            shared.is_awaited.store(ping.is_err(), Ordering::Release);
        }
        if let Err(StoreError::Unfit { reason }) = &ping {
            let _ = self.refused.set(reason.clone());
        }
        // Those of earlier runs too; while the store is away, the last answer stands.
        if let Ok(parked) = &ping {
            metrics::gauge!("mangahub_parked_records").set(*parked as f64);
            self.parked.store(*parked, Ordering::Relaxed);
        }
        let writer = self.writer.read();
        let journal = self.journal_stats().unwrap_or_default();
        let hot = shared.hot.as_ref().map(|hot| hot.read());
        let wire = shared.wire.as_ref().map(Wire::read);
        wire.iter().for_each(nodes::publish);
        let mut dependencies = vec![of_journal(&journal), self.of_store(ping.is_ok(), &writer)];
        dependencies.extend(hot.as_ref().map(of_hot_cache));
        dependencies.extend(wire.as_ref().map(nodes::dependency));
        let health = Health {
            ready: !journal.failed && !wire.as_ref().is_some_and(nodes::is_copy),
            degraded: dependencies.iter().any(|dependency| dependency.state != State::Healthy),
            dependencies,
        };
        let look =
            Look { journal: &journal, writer: &writer, hot: hot.as_ref(), mesh: self.mesh.get(), health: &health };
        report::publish(&look, shared);
        shared.health.store(Arc::new(health));
    }

    /// The store: without it, whoever is in memory is served on, so it is never a reason to be not ready.
    fn of_store(&self, answers: bool, writer: &Reading) -> Dependency {
        let parked = self.parked.load(Ordering::Relaxed);
        let (state, detail) = match (answers, writer.failing_since_unix_ms) {
            (false, _) => (State::Down, Some("it does not answer; changes wait in the journal".to_owned())),
            (true, Some(_)) => (State::Degraded, Some("it does not take changes; they wait in the journal".to_owned())),
            (true, None) if parked > 0 => {
                (State::Degraded, Some(format!("{parked} records were refused and are parked: mangahub db check")))
            }
            (true, None) => (State::Healthy, None),
        };
        Dependency { name: "store", state, detail }
    }
}

fn of_journal(journal: &Stats) -> Dependency {
    let (state, detail) = match (journal.failed, journal.no_room) {
        (true, _) => (State::Down, Some("a commit failed".to_owned())),
        (false, true) => (State::Degraded, Some("it has no room: its limit or the disk is reached".to_owned())),
        (false, false) => (State::Healthy, None),
    };
    Dependency { name: "journal", state, detail }
}

/// Nothing is lost without it: down is degraded for the server, and never down.
fn of_hot_cache(reading: &HotReading) -> Dependency {
    let (state, detail) = match reading.state {
        HotState::Healthy => (State::Healthy, None),
        HotState::Degraded => (State::Degraded, Some("it is behind".to_owned())),
        HotState::Down => (State::Down, Some("it does not answer; everything goes around it".to_owned())),
    };
    Dependency { name: "redis", state, detail }
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
            let mut poll = Poll::new();
            let (mut checkpoint_at, mut purge_at) = (Instant::now(), Instant::now());
            loop {
                operations.look(&shared);
                poll.look(&shared);
                let now = Instant::now();
                if now >= checkpoint_at {
                    operations.write_checkpoint(&folder, &shared);
                    checkpoint_at = now + CHECKPOINT_EVERY;
                }
                if now >= purge_at {
                    // What is left goes with the next look: other writes come in between.
                    purge_at = if purge(&shared) { now } else { now + PURGE_EVERY };
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

/// Has some old rows removed; false when there were none, or the store did not say.
fn purge(shared: &Shared) -> bool {
    let now_ms = now_ms();
    match block_on(shared.store.purge(now_ms, now_ms.saturating_sub(TOMBSTONES_KEPT_MS))) {
        Ok(purged) if purged == Purged::default() => false,
        Ok(purged) => {
            tracing::info!(?purged, "old rows were purged");
            true
        }
        Err(error) => {
            tracing::warn!(%error, "old rows were not purged; tried again in an hour");
            false
        }
    }
}
