//! The shards' end of the journal: admission, the turn's buffer, tickets and the watermark. Appending is a copy into a local
//! buffer: no lock, no system call, no allocation per record. A shard must ask for admission before it changes state, and must
//! hold back everything computed from a change until the watermark has reached its ticket.

use proto::Version;

use super::Lsn;
use crate::lane::Lane;

/// What can be written to the journal.
pub trait Journalled {
    /// The lane it belongs to.
    fn lane(&self) -> Lane;
    /// Which layout `encode` writes.
    fn kind(&self) -> u8;
    /// Which version of that layout.
    fn layout_version(&self) -> u8;
    /// The change's version, for the clock's high-water mark.
    fn version(&self) -> Version;
    /// Appends the layout's bytes.
    fn encode(&self, out: &mut Vec<u8>);
}

/// The number of one of a shard's hand-overs. What carries it may be seen once [`ShardJournal::durable`] has reached it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Ticket(pub u64);

/// How far a shard's hand-overs are on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Durable {
    /// The last hand-over that is durable, and all before it.
    pub ticket: Ticket,
    /// No record up to that ticket has a later position: once a lane's cursor has passed it, the store has them.
    pub lsn: Lsn,
}

/// Why the journal takes nothing now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BusyReason {
    /// As much as may be is on its way to the disk.
    SlowFlush,
    /// There is no room for another segment: the disk is full, or the store has not drained enough of the journal.
    NoRoom,
    /// A commit has failed; the process is about to end. Or the journal has been closed.
    Stopped,
}

/// Admission refused: nothing has changed, the client may try again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("the journal takes nothing now: {reason:?}")]
pub struct Busy {
    /// Why.
    pub reason: BusyReason,
}

/// One shard's end of the journal. Stays on its shard.
#[derive(Debug)]
pub struct ShardJournal {}

impl ShardJournal {
    /// Whether `bytes` more of records may be appended now. Ask before applying a command, with the most it can produce;
    /// nothing is reserved, so apply and append follow without giving up the turn.
    pub fn admit(&self, _bytes: usize) -> Result<(), Busy> {
        unimplemented!("api first")
    }

    /// Adds a record to this turn's buffer; its ticket is that of the coming hand-over.
    pub fn append(&mut self, _record: &impl Journalled) -> Ticket {
        unimplemented!("api first")
    }

    /// Whether this turn's buffer has anything in it: the first record of a turn is the time to schedule the flush.
    pub fn is_empty(&self) -> bool {
        unimplemented!("api first")
    }

    /// Hands this turn's buffer to the journal's thread. Does nothing when it is empty. Call once per turn.
    pub fn flush(&mut self) {
        unimplemented!("api first")
    }

    /// How far this shard's hand-overs are durable. Two atomic loads.
    pub fn durable(&self) -> Durable {
        unimplemented!("api first")
    }
}

/// Counters of a running journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Commits written.
    pub commits: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of records in them, without padding.
    pub record_bytes: u64,
    /// Segments on the disk.
    pub segments: u64,
    /// What they may take at most, in bytes.
    pub journal_bytes_max: u64,
    /// The last durable record.
    pub end: Lsn,
    /// How long the last write took.
    pub last_write_us: u64,
    /// Times that the next segment could not be prepared.
    pub prepare_failures: u64,
    /// Whether shards are being refused for want of room.
    pub no_room: bool,
    /// Whether a commit has failed.
    pub failed: bool,
}

/// The running journal. One per process.
#[derive(Debug)]
pub struct Journal {}

impl Journal {
    /// Whether a commit has failed. Final.
    pub fn failed(&self) -> bool {
        unimplemented!("api first")
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        unimplemented!("api first")
    }

    /// Writes everything that was handed over before this call, publishes the watermark, and stops the threads. The feed still
    /// hands out what is committed and then closes. Returns false when a commit had failed.
    pub fn close(self) -> bool {
        unimplemented!("api first")
    }
}
