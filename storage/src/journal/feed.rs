//! The feed: committed records in LSN order, from the journal's thread to the store writer. It holds a bounded number of
//! rows; when the writer falls further behind, the rest is read back from the segments, and the writer does not notice. It
//! never carries a record that is not durable, and never makes the journal wait.

use std::time::Duration;

use super::{Lsn, OpenError};
use crate::lane::Lane;

/// Records with consecutive positions, all durable.
#[derive(Debug)]
pub struct Committed {
    first: Lsn,
    count: u32,
    bytes: Vec<u8>,
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

    /// The records, in LSN order.
    pub fn records(&self) -> impl Iterator<Item = RawRecord<'_>> {
        let _ = &self.bytes;
        std::iter::empty()
    }
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

/// The store writer's end. One per journal; `Send`, to be moved to the writer's thread.
#[derive(Debug)]
pub struct CommitFeed {}

impl CommitFeed {
    /// The next records, waiting at most `patience`. Blocks the calling thread. An error repeats until its cause is gone; no
    /// record is skipped.
    pub fn next(&mut self, _patience: Duration) -> Result<Next, FeedError> {
        unimplemented!("api first")
    }

    /// Like [`Self::next`] without waiting; for a writer on an executor, together with [`Self::on_ready`].
    pub fn try_next(&mut self) -> Result<Next, FeedError> {
        self.next(Duration::ZERO)
    }

    /// Calls `wake` whenever `try_next` may have something after it said `Idle`. On the journal's thread: must not block.
    pub fn on_ready(&mut self, _wake: Box<dyn Fn() + Send>) {
        unimplemented!("api first")
    }

    /// Rows waiting in memory, and whether the writer is being fed from the segments.
    pub fn backlog(&self) -> (usize, bool) {
        unimplemented!("api first")
    }
}
