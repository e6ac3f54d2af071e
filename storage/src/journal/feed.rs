//! The feed: committed records in LSN order, from the journal's thread to the store writer. It holds a bounded number of
//! rows; when the writer falls further behind, the rest is read back from the segments, and the writer does not notice. It
//! never carries a record that is not durable, and never makes the journal wait.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::Version;

use super::catch_up::SegmentReader;
use super::format::parse_record;
use super::{JournalId, Lsn, OpenError};
use crate::lane::Lane;
use crate::trace;

/// Records with consecutive positions, all durable. A clone shares the bytes.
#[derive(Clone, Debug)]
pub struct Committed {
    pub(super) first: Lsn,
    pub(super) count: u32,
    pub(super) bytes: Bytes,
}

/// One record as it lies in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// Its position.
    pub lsn: Lsn,
    /// Its lane.
    pub lane: Lane,
    /// Which layout follows.
    pub kind: u8,
    /// Which version of that layout.
    pub version: u8,
    /// The layout's bytes; see [`crate::record`].
    pub payload: &'a [u8],
}

impl Committed {
    /// What a shard would have handed over.
    #[cfg(test)]
    pub(crate) fn of_records<R: super::Journalled>(first: Lsn, records: impl Iterator<Item = R>) -> Self {
        let (mut bytes, mut count) = (Vec::new(), 0);
        for record in records {
            let (lane, kind, layout) = (record.lane(), record.kind(), record.layout_version());
            super::format::push_record(&mut bytes, lane, kind, layout, |out| record.encode(out));
            count += 1;
        }
        Self { first, count, bytes: bytes.into() }
    }

    /// The position of the first record.
    pub fn first(&self) -> Lsn {
        self.first
    }

    /// The position of the last record.
    pub fn last(&self) -> Lsn {
        Lsn(self.first.0 + u64::from(self.count) - 1)
    }

    /// How many records; at least one.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The records, in LSN order.
    pub fn records(&self) -> impl Iterator<Item = RawRecord<'_>> {
        let mut rest = &self.bytes[..];
        let mut lsn = self.first;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            // These bytes came from this process's shards, or from a segment whose checksums were right a moment ago.
            let (record, taken) = parse_record(rest, lsn).expect("committed records are intact");
            (rest, lsn) = (&rest[taken..], lsn.plus(1));
            Some(record)
        })
    }
}

/// The versions of the records that are followed, with their positions counted from `first`.
pub(super) fn followed(records: &[u8], first: Lsn) -> impl Iterator<Item = (Lsn, Version)> + '_ {
    let (mut rest, mut lsn) = (records, first);
    std::iter::from_fn(move || {
        let (record, taken) = parse_record(rest, lsn).ok()?;
        (rest, lsn) = (&rest[taken..], lsn.plus(1));
        Some((record.lsn, crate::record::decode(&record).map_or(Version::ZERO, |record| record.version())))
    })
    .filter(|(_, version)| trace::follows(*version))
}

/// What the feed has to say.
#[derive(Debug)]
pub enum Next {
    /// Records to apply.
    Committed(Committed),
    /// Nothing for the time given.
    Idle,
    /// The journal has stopped and everything has been handed out.
    Closed,
}

/// The segments could not be read back. The journal itself may be fine; the caller may try again.
#[derive(Debug, thiserror::Error)]
#[error("cannot read committed records back from the journal: {0}")]
pub struct FeedError(#[from] pub OpenError);

#[derive(Default)]
struct State {
    queue: VecDeque<Committed>,
    rows: usize,
    /// Set when something was left out of the queue: it is in the segments.
    behind: bool,
    durable: Lsn,
    closed: bool,
    on_ready: Option<Box<dyn Fn() + Send>>,
}

/// What the journal's thread and the writer share.
pub(super) struct FeedQueue {
    state: Mutex<State>,
    ready: Condvar,
    rows_max: usize,
}

impl FeedQueue {
    /// A queue for a journal that ends at `durable`; a writer that begins before it reads the segments first.
    pub(super) fn new(rows_max: usize, durable: Lsn, next: Lsn) -> Arc<Self> {
        let state = State { durable, behind: next <= durable, ..State::default() };
        Arc::new(Self { state: Mutex::new(state), ready: Condvar::new(), rows_max })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between statements; a panic elsewhere does not make it less so.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what one commit made durable; past the limit it is left to the segments.
    pub(super) fn push(&self, commits: impl Iterator<Item = Committed>, durable: Lsn) {
        let mut state = self.lock();
        state.durable = durable;
        for committed in commits {
            if !state.behind && state.rows + committed.count() <= self.rows_max {
                state.rows += committed.count();
                state.queue.push_back(committed);
            } else {
                state.behind = true;
            }
        }
        self.wake(&state);
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake(&state);
    }

    fn wake(&self, state: &State) {
        self.ready.notify_one();
        if let Some(wake) = &state.on_ready {
            wake();
        }
    }
}

enum Step {
    Take(Committed),
    ReadSegments(Lsn),
    Idle,
    Closed,
}

/// The store writer's end. One per journal; `Send`, to be moved to the writer's thread.
pub struct CommitFeed {
    queue: Arc<FeedQueue>,
    next: Lsn,
    segments: SegmentReader,
}

impl CommitFeed {
    pub(super) fn new(queue: Arc<FeedQueue>, folder: PathBuf, journal: JournalId, next: Lsn) -> Self {
        Self { queue, next, segments: SegmentReader::new(folder, journal) }
    }

    /// The next records, waiting at most `patience`. Blocks the calling thread. An error repeats until its cause is gone; no
    /// record is skipped.
    pub fn next(&mut self, patience: Duration) -> Result<Next, FeedError> {
        let deadline = Instant::now() + patience;
        match self.step(deadline) {
            Step::Take(committed) => {
                self.segments.close();
                Ok(self.hand_out(committed))
            }
            Step::ReadSegments(durable) => {
                let committed = self.segments.read(self.next, durable)?;
                Ok(self.hand_out(committed))
            }
            Step::Idle => Ok(Next::Idle),
            Step::Closed => Ok(Next::Closed),
        }
    }

    fn hand_out(&mut self, committed: Committed) -> Next {
        debug_assert_eq!(committed.first, self.next, "the feed neither skips nor repeats");
        self.next = committed.last().plus(1);
        Next::Committed(committed)
    }

    fn step(&mut self, deadline: Instant) -> Step {
        let mut state = self.queue.lock();
        loop {
            if let Some(committed) = state.queue.pop_front() {
                state.rows -= committed.count();
                return Step::Take(committed);
            }
            if state.behind {
                if self.next <= state.durable {
                    return Step::ReadSegments(state.durable);
                }
                // Caught up, with the lock held: what is committed next is queued again.
                state.behind = false;
            }
            if state.closed {
                return Step::Closed;
            }
            let patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                return Step::Idle;
            }
            state = self.queue.ready.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Like [`Self::next`] without waiting; for a writer on an executor, together with [`Self::on_ready`].
    pub fn try_next(&mut self) -> Result<Next, FeedError> {
        self.next(Duration::ZERO)
    }

    /// Calls `wake` whenever `try_next` may have something after it said `Idle`. On the journal's thread: must not block.
    pub fn on_ready(&mut self, wake: Box<dyn Fn() + Send>) {
        self.queue.lock().on_ready = Some(wake);
    }

    /// Goes back to `next`, or forward: everything from there on is handed out again. Its segments must still be there, which
    /// they are as long as some lane's published cursor is before it.
    pub fn rewind(&mut self, next: Lsn) {
        let mut state = self.queue.lock();
        state.queue.clear();
        state.rows = 0;
        state.behind = next <= state.durable;
        drop(state);
        self.segments.close();
        self.next = next;
    }

    /// The next position that will be handed out.
    pub fn position(&self) -> Lsn {
        self.next
    }

    /// Rows waiting in memory, and whether some are left to be read from the segments.
    pub fn backlog(&self) -> (usize, bool) {
        let state = self.queue.lock();
        (state.rows, state.behind)
    }
}

impl std::fmt::Debug for CommitFeed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("CommitFeed").field("next", &self.next).finish_non_exhaustive()
    }
}
