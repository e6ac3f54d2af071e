//! Room for what comes next: a background thread keeps one segment of zeros prepared, drops segments that every lane's cursor
//! has passed, and with both decides whether shards may append. It promises that whatever has been admitted can be written,
//! and must never touch the segment that is being written.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::chain::{Sealed, segment_path};
use super::commit::Counters;
use super::shard::Gate;
use super::{BusyReason, Cursors, EndNote, Engine, JournalId, Lsn};
use crate::file_system::sync_folder;

/// How often cursors are looked at, and how soon a preparation that failed is tried again.
const TICK: Duration = Duration::from_millis(250);

/// How often the journal's end is noted while it moves: two flushes of a small file, beside thousands of commits.
const NOTE_EVERY: Duration = Duration::from_secs(1);

struct State {
    sealed: VecDeque<Sealed>,
    next: Option<PathBuf>,
    next_segment: u64,
    /// The segment taken last has no durable header yet.
    beginning: bool,
    /// Bytes that the segment being written has left.
    remaining_bytes: u64,
    /// Why there is no next segment, once that is more than a matter of time.
    obstacle: Option<Obstacle>,
    prepare_failures: u64,
    noted: EndNote,
    noted_at: Instant,
    stopped: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    Disk,
    Limit,
}

/// Shared by the journal's thread and the preparing one.
pub(super) struct Room {
    state: Mutex<State>,
    changed: Condvar,
    folder: PathBuf,
    segment_bytes: u64,
    journal_bytes_max: u64,
    reserve_bytes: u64,
    engine: Arc<dyn Engine>,
    cursors: Cursors,
    gate: Arc<Gate>,
    note_in: Option<PathBuf>,
    counters: Arc<Counters>,
}

/// What [`Room`] needs to know.
pub(super) struct RoomConfig {
    pub(super) folder: PathBuf,
    pub(super) segment_bytes: u64,
    pub(super) journal_bytes_max: u64,
    /// What must be left of the last segment for shards to go on: everything in flight, and as much again for padding.
    pub(super) reserve_bytes: u64,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) cursors: Cursors,
    pub(super) gate: Arc<Gate>,
    pub(super) sealed: VecDeque<Sealed>,
    pub(super) note_in: Option<PathBuf>,
    pub(super) journal: JournalId,
    /// Tell how far the journal is durable.
    pub(super) counters: Arc<Counters>,
    /// The number after the segment that is being written.
    pub(super) next_segment: u64,
}

/// What the counters say about room.
pub(super) struct RoomStats {
    pub(super) segments: u64,
    pub(super) bytes: u64,
    pub(super) prepare_failures: u64,
    pub(super) no_room: bool,
}

impl Room {
    pub(super) fn new(config: RoomConfig) -> Arc<Self> {
        let state = State {
            sealed: config.sealed,
            next: None,
            next_segment: config.next_segment,
            beginning: false,
            remaining_bytes: config.segment_bytes,
            obstacle: None,
            prepare_failures: 0,
            noted: EndNote { journal: config.journal, segment: config.next_segment - 1, end: Lsn::ZERO },
            noted_at: Instant::now(),
            stopped: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            folder: config.folder,
            segment_bytes: config.segment_bytes,
            journal_bytes_max: config.journal_bytes_max,
            reserve_bytes: config.reserve_bytes,
            engine: config.engine,
            cursors: config.cursors,
            gate: config.gate,
            note_in: config.note_in,
            counters: config.counters,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment; a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how much is left after a commit. Returns whether room is tight: there is no next segment and none in sight, so
    /// commits should waste as little as they can.
    pub(super) fn note_remaining(&self, bytes: u64) -> bool {
        let mut state = self.lock();
        state.remaining_bytes = bytes;
        self.judge(&state);
        state.next.is_none() && (state.obstacle.is_some() || bytes < 2 * self.reserve_bytes)
    }

    /// Seals the segment that was being written and takes the prepared one; waits for it, since admission has made sure that
    /// it is coming. None when it does not come. The sealed one stays until [`Room::begun`]: it is what says which journal
    /// this is, and where it ends.
    pub(super) fn roll(&self, sealed: Sealed, patience: Duration) -> Option<(u64, PathBuf)> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while state.next.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.stopped {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let path = state.next.take()?;
        let segment = state.next_segment;
        state.sealed.push_back(sealed);
        state.beginning = true;
        state.next_segment += 1;
        state.remaining_bytes = self.segment_bytes;
        self.judge(&state);
        drop(state);
        self.changed.notify_all();
        Some((segment, path))
    }

    /// The segment taken last has its header on the disk.
    pub(super) fn begun(&self) {
        self.lock().beginning = false;
    }

    /// Ends the preparing thread after what it is doing.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    pub(super) fn stats(&self) -> RoomStats {
        let state = self.lock();
        RoomStats {
            segments: state.sealed.len() as u64 + 1 + u64::from(state.next.is_some()),
            bytes: state.sealed.iter().map(|sealed| sealed.bytes).sum::<u64>()
                + self.segment_bytes * (1 + u64::from(state.next.is_some())),
            prepare_failures: state.prepare_failures,
            no_room: state.obstacle.is_some() && self.gate.refusal() == Some(BusyReason::NoRoom),
        }
    }

    fn judge(&self, state: &State) {
        if state.next.is_some() || state.remaining_bytes >= self.reserve_bytes {
            self.gate.open();
        } else {
            self.gate.shut(if state.obstacle.is_some() { BusyReason::NoRoom } else { BusyReason::SlowFlush });
        }
    }

    /// The preparing thread's body.
    pub(super) fn run(&self) {
        let mut state = self.lock();
        while !state.stopped {
            drop(state);
            self.drop_drained();
            let waiting = !self.prepare_next();
            self.note_end_in_time();
            state = self.lock();
            if waiting && !state.stopped {
                state = self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Removes segments that every lane's cursor has passed, oldest first: what is left is always without holes, even if the
    /// machine stops in between.
    pub(super) fn drop_drained(&self) {
        let drained = self.cursors.snapshot().lowest();
        loop {
            let path = {
                let state = self.lock();
                let kept = state.beginning && state.sealed.len() == 1;
                let front = state.sealed.front().filter(|front| front.last <= drained && !kept);
                front.map(|front| front.path.clone())
            };
            let Some(path) = path else { return };
            let removed = match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => sync_folder(&self.folder),
            };
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "cannot remove a drained journal segment; will try again");
                return;
            }
            self.lock().sealed.pop_front();
        }
    }

    /// Prepares the next segment if it is missing and there is room. Returns whether there may be more to do at once.
    pub(super) fn prepare_next(&self) -> bool {
        let (segment, taken) = {
            let state = self.lock();
            if state.next.is_some() || state.stopped {
                return false;
            }
            (state.next_segment, state.sealed.iter().map(|sealed| sealed.bytes).sum::<u64>() + self.segment_bytes)
        };
        if taken + self.segment_bytes > self.journal_bytes_max {
            self.note_obstacle(Obstacle::Limit, "the store has not drained enough of it");
            return false;
        }
        let path = segment_path(&self.folder, segment);
        match self.engine.prepare(&path, self.segment_bytes) {
            Ok(()) => {
                // Before anything can be written to it.
                self.note_or_warn(segment);
                let mut state = self.lock();
                if state.obstacle.take().is_some() {
                    tracing::info!("the journal has room again");
                }
                state.next = Some(path);
                self.judge(&state);
                drop(state);
                self.changed.notify_all();
                true
            }
            Err(error) => {
                self.lock().prepare_failures += 1;
                self.note_obstacle(Obstacle::Disk, &error.to_string());
                false
            }
        }
    }

    /// Notes how far the journal is, and that `segment` is there.
    pub(super) fn note(&self, segment: u64) -> std::io::Result<()> {
        let Some(path) = &self.note_in else { return Ok(()) };
        let note = {
            let mut state = self.lock();
            state.noted_at = Instant::now();
            let segment = segment.max(state.noted.segment);
            EndNote { segment, end: Lsn(self.counters.end.load(Ordering::Acquire)), ..state.noted }
        };
        note.store(path)?;
        self.lock().noted = note;
        Ok(())
    }

    /// The same; a note that cannot be written keeps nobody from reading on: the next one may be.
    pub(super) fn note_or_warn(&self, segment: u64) {
        if let Err(error) = self.note(segment) {
            tracing::warn!(%error, "the journal's end could not be noted; will try again");
        }
    }

    fn note_end_in_time(&self) {
        let noted = {
            let state = self.lock();
            if state.noted_at.elapsed() < NOTE_EVERY {
                return;
            }
            state.noted
        };
        if self.counters.end.load(Ordering::Acquire) > noted.end.0 {
            self.note_or_warn(noted.segment);
        }
    }

    fn note_obstacle(&self, obstacle: Obstacle, why: &str) {
        let mut state = self.lock();
        if state.obstacle.replace(obstacle) != Some(obstacle) {
            tracing::warn!(
                why,
                "the journal cannot prepare its next segment; writes will be busy when this one is full"
            );
        }
        self.judge(&state);
    }
}
