//! The shards' end of the journal: admission, the turn's buffer, tickets and the watermark. Appending is a copy into a local
//! buffer: no lock, no system call, no allocation per record. A shard must ask for admission before it changes state, and must
//! hold back everything computed from a change until the watermark has reached its ticket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use proto::Version;

use super::Lsn;
use super::feed::followed;
use super::format::{RECORD_HEADER_BYTES, push_record};
use crate::lane::Lane;
use crate::trace;

/// A new turn buffer's room: a few dozen records, so that an ordinary turn does not grow it.
const TURN_BYTES: usize = 8 << 10;

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

/// Whether shards may append at all; written by the journal's threads, read by every admission.
#[derive(Debug, Default)]
pub(super) struct Gate(AtomicU8);

impl Gate {
    pub(super) fn open(&self) {
        self.set(0);
    }

    /// Refuses from now on; `Stopped` is final.
    pub(super) fn shut(&self, reason: BusyReason) {
        self.set(match reason {
            BusyReason::SlowFlush => 1,
            BusyReason::NoRoom => 2,
            BusyReason::Stopped => 3,
        });
    }

    fn set(&self, state: u8) {
        // Two threads open and shut, and neither may undo a stop.
        let _ =
            self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now != 3 && now != state).then_some(state));
    }

    pub(super) fn refusal(&self) -> Option<BusyReason> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            1 => Some(BusyReason::SlowFlush),
            2 => Some(BusyReason::NoRoom),
            _ => Some(BusyReason::Stopped),
        }
    }
}

/// One shard's watermark, on cache lines of its own: the journal's thread writes it, the shard reads it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Watermark {
    ticket: AtomicU64,
    lsn: AtomicU64,
    bytes: AtomicU64,
}

impl Watermark {
    /// Before the first hand-over: what earlier runs left in the journal is durable, and the store may lack it.
    pub(super) fn at(end: Lsn) -> Self {
        Self { lsn: AtomicU64::new(end.0), ..Self::default() }
    }

    /// Moves it. The ticket goes last: who sees it sees the rest.
    pub(super) fn publish(&self, ticket: u64, lsn: Lsn, bytes: u64) {
        self.lsn.store(lsn.0, Ordering::Release);
        self.bytes.store(bytes, Ordering::Release);
        self.ticket.store(ticket, Ordering::Release);
    }
}

/// One turn's records on their way to the journal's thread.
#[derive(Debug)]
pub(super) struct HandOver {
    pub(super) shard: usize,
    pub(super) ticket: u64,
    /// The shard's count of bytes up to and with these.
    pub(super) bytes_total: u64,
    pub(super) count: u32,
    pub(super) version: Version,
    pub(super) records: Vec<u8>,
}

/// What the journal's thread is told.
#[derive(Debug)]
pub(super) enum Message {
    HandOver(HandOver),
    Close,
}

/// One shard's end of the journal. Stays on its shard.
#[derive(Debug)]
pub struct ShardJournal {
    shard: usize,
    buffer: Vec<u8>,
    count: u32,
    version: Version,
    ticket: u64,
    bytes_total: u64,
    in_flight_bytes_max: u64,
    watermarks: Arc<[Watermark]>,
    gate: Arc<Gate>,
    journal: Sender<Message>,
}

impl ShardJournal {
    pub(super) fn new(
        shard: usize,
        in_flight_bytes_max: u64,
        watermarks: Arc<[Watermark]>,
        gate: Arc<Gate>,
        journal: Sender<Message>,
    ) -> Self {
        Self {
            shard,
            buffer: Vec::with_capacity(TURN_BYTES),
            count: 0,
            version: Version::ZERO,
            ticket: 1,
            bytes_total: 0,
            in_flight_bytes_max,
            watermarks,
            gate,
            journal,
        }
    }

    /// Whether `bytes` more of records may be appended now. Ask before applying a command, with the most it can produce;
    /// nothing is reserved, so apply and append follow without giving up the turn.
    pub fn admit(&self, bytes: usize) -> Result<(), Busy> {
        if let Some(reason) = self.gate.refusal() {
            return Err(Busy { reason });
        }
        let in_flight = self.in_flight_bytes();
        // A shard with nothing under way may always hand over one record, however large its command.
        if in_flight > 0 && in_flight + bytes as u64 > self.in_flight_bytes_max {
            return Err(Busy { reason: BusyReason::SlowFlush });
        }
        Ok(())
    }

    /// Bytes of records that were appended and are not durable yet.
    pub fn in_flight_bytes(&self) -> u64 {
        self.bytes_total - self.watermarks[self.shard].bytes.load(Ordering::Acquire)
    }

    /// Whether `bytes` more would be refused for what ordinarily heals within a write or two.
    pub fn is_pressed(&self, bytes: usize) -> bool {
        matches!(self.admit(bytes), Err(Busy { reason: BusyReason::SlowFlush }))
    }

    /// Whether at least half of what may be on its way is free again.
    pub fn has_room(&self) -> bool {
        self.in_flight_bytes() <= self.in_flight_bytes_max / 2
    }

    /// Adds a record to this turn's buffer; its ticket is that of the coming hand-over.
    pub fn append(&mut self, record: &impl Journalled) -> Ticket {
        let taken = push_record(&mut self.buffer, record.lane(), record.kind(), record.layout_version(), |out| {
            record.encode(out);
        });
        self.bytes_total += taken as u64;
        self.count += 1;
        self.version = self.version.max(record.version());
        Ticket(self.ticket)
    }

    /// What a record with this many bytes of payload takes of the journal's credit.
    pub const fn record_bytes(payload_bytes: usize) -> usize {
        payload_bytes + RECORD_HEADER_BYTES
    }

    /// Whether this turn's buffer has nothing in it: the first record of a turn is the time to schedule the flush.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Hands this turn's buffer to the journal's thread. Does nothing when it is empty. Call once per turn.
    pub fn flush(&mut self) {
        if self.count == 0 {
            return;
        }
        let records = std::mem::replace(&mut self.buffer, Vec::with_capacity(TURN_BYTES));
        if trace::is_on() {
            for (_, version) in followed(&records, Lsn::ZERO) {
                let (ticket, records) = (self.ticket, self.count);
                tracing::info!(target: trace::TARGET, version = version.0, stage = "handed over", ticket, records);
            }
        }
        let hand_over = HandOver {
            shard: self.shard,
            ticket: self.ticket,
            bytes_total: self.bytes_total,
            count: std::mem::take(&mut self.count),
            version: self.version,
            records,
        };
        self.ticket += 1;
        // Refused only after a stop: the ticket then never becomes durable, and nothing that carries it is ever seen.
        let _ = self.journal.send(Message::HandOver(hand_over));
    }

    /// How far this shard's hand-overs are durable. Two atomic loads.
    pub fn durable(&self) -> Durable {
        let watermark = &self.watermarks[self.shard];
        let ticket = Ticket(watermark.ticket.load(Ordering::Acquire));
        Durable { ticket, lsn: Lsn(watermark.lsn.load(Ordering::Acquire)) }
    }
}
