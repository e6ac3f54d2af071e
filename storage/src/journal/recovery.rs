//! Opening a journal: the chain of segments is checked before anything is replayed, a torn last commit is dropped and
//! reported, anything else that is broken is refused with the way out. It must never drop an acknowledged record silently.

use proto::Version;

use super::feed::RawRecord;
use super::{
    CommitFeed, Cursors, Journal, JournalConfig, JournalId, LaneCursors, Listener, Lsn, Medium, OpenError, ReplayError,
    ShardJournal, StartError,
};

/// An opened journal: first replay, then start.
#[derive(Debug)]
pub struct Opened {
    /// Starts the threads, once the records have been replayed.
    pub journal: Starter,
    /// What the journal contains.
    pub recovery: Recovery,
}

/// What a journal contained when it was opened.
#[derive(Debug)]
pub struct Recovery {}

/// What one walk over the journal gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replayed {
    /// Records at or before their lane's cursor: the store has them.
    pub skipped: u64,
    /// Records handed out.
    pub replayed: u64,
}

impl Recovery {
    /// Which journal: the key of the store's cursors.
    pub fn journal_id(&self) -> JournalId {
        unimplemented!("api first")
    }

    /// The last durable record.
    pub fn end(&self) -> Lsn {
        unimplemented!("api first")
    }

    /// The largest version that any segment or commit has noted: the clock must start above it.
    pub fn version_high_water(&self) -> Version {
        unimplemented!("api first")
    }

    /// Bytes of the torn last commit that was dropped, if there was one.
    pub fn torn_bytes(&self) -> Option<u64> {
        unimplemented!("api first")
    }

    /// What the journal stands on.
    pub fn medium(&self) -> &Medium {
        unimplemented!("api first")
    }

    /// Checks the store's cursors against the journal and begins a walk over every record behind its lane's cursor.
    pub fn replay(&self, _from: &LaneCursors) -> Result<Replay, ReplayError> {
        unimplemented!("api first")
    }
}

/// A walk over the records that the store has not applied, in LSN order.
#[derive(Debug)]
pub struct Replay {}

impl Replay {
    /// The next record, or none at the end of the journal. A lending iterator: the record is valid until the next call.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<RawRecord<'_>>, ReplayError> {
        unimplemented!("api first")
    }

    /// Counts so far.
    pub fn replayed(&self) -> Replayed {
        unimplemented!("api first")
    }
}

/// An opened journal that has not been started.
#[derive(Debug)]
pub struct Starter {}

impl Starter {
    /// Starts the journal's threads for `listeners.len()` shards. `cursors` are the store's, as published to `Cursors`; the feed
    /// begins behind the lowest of them, so recovered records reach the store through it too.
    pub fn start(
        self,
        _cursors: LaneCursors,
        _listeners: Vec<Listener>,
    ) -> Result<(Journal, Vec<ShardJournal>, CommitFeed, Cursors), StartError> {
        unimplemented!("api first")
    }
}

/// Opens the journal in `config.folder`, or makes a new one where there is none. Reads and checks every segment.
pub fn open(_config: JournalConfig) -> Result<Opened, OpenError> {
    unimplemented!("api first")
}
