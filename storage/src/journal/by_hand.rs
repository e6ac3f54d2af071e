//! The journal without its threads, driven step by step: for simulation. The same admission, commits, segments and feed; who
//! drives it decides when a commit is written, when its watermark moves and when the next segment is prepared.

use std::sync::Arc;

use runtime::buffer::AlignedBuf;

use super::commit::Committer;
use super::feed::RawRecord;
use super::format::{BLOCK_BYTES, parse_record};
use super::room::Room;
use super::shard::{HandOver, Message};
use super::start::Assembled;
use super::{CommitFeed, Cursors, LaneCursors, Listener, Lsn, ShardJournal, StartError, Starter};

/// What a start by hand gives.
pub struct StartedByHand {
    /// The steps.
    pub journal: JournalByHand,
    /// One per shard, in order.
    pub shards: Vec<ShardJournal>,
    /// For the store writer.
    pub feed: CommitFeed,
    /// Published by the store writer, read by everybody.
    pub cursors: Cursors,
}

/// A journal whose steps somebody else takes. Dropping it is a crash: what was not written is gone.
pub struct JournalByHand {
    committer: Committer,
    room: Arc<Room>,
    buffer: AlignedBuf,
    waiting: Option<HandOver>,
    written: Vec<HandOver>,
}

impl Starter {
    /// As [`Starter::start`], without threads.
    pub fn start_by_hand(self, cursors: LaneCursors, listeners: Vec<Listener>) -> Result<StartedByHand, StartError> {
        let Assembled { begin, inbox, watermarks, shards, feed, cursors, .. } =
            self.assemble(cursors, listeners.len())?;
        let room = begin.room.clone();
        let committer = begin
            .committer(inbox, watermarks, listeners)
            .map_err(|error| StartError::Config(format!("the first segment could not be begun: {error}")))?;
        let buffer = AlignedBuf::with_capacity(BLOCK_BYTES, 1 << 16);
        let journal = JournalByHand { committer, room, buffer, waiting: None, written: Vec::new() };
        Ok(StartedByHand { journal, shards, feed, cursors })
    }
}

impl JournalByHand {
    /// Writes up to `hand_overs_max` of what has been handed over, as one commit, unless one is still to be published. Returns
    /// how many there were. An error is a failed write: the process would end here.
    pub fn write(&mut self, hand_overs_max: usize) -> Result<usize, String> {
        if !self.written.is_empty() {
            return Ok(0);
        }
        let mut bytes = 0;
        while self.written.len() < hand_overs_max {
            let next = self.waiting.take().or_else(|| match self.committer.inbox.try_recv() {
                Ok(Message::HandOver(hand_over)) => Some(hand_over),
                Ok(Message::Close) | Err(_) => None,
            });
            let Some(next) = next else { break };
            bytes += next.records.len();
            if bytes > self.committer.commit_bytes_max && !self.written.is_empty() {
                self.waiting = Some(next);
                break;
            }
            self.written.push(next);
        }
        if self.written.is_empty() {
            return Ok(0);
        }
        // The preparing thread would have it ready by the time that the segment is full.
        if self.committer.active.offset + bytes as u64 + 2 * BLOCK_BYTES as u64 > self.committer.segment_bytes {
            self.room.prepare_next();
        }
        self.committer.commit(&mut self.buffer, &self.written)?;
        Ok(self.written.len())
    }

    /// The records of the commit that is being written or waits to be published, in the journal's order. Positions are right
    /// once it has been written.
    pub fn written(&self) -> Vec<RawRecord<'_>> {
        let count: u64 = self.written.iter().map(|hand_over| u64::from(hand_over.count)).sum();
        let mut lsn = Lsn(self.committer.next.0.saturating_sub(count));
        let mut records = Vec::new();
        for hand_over in &self.written {
            let mut rest = &hand_over.records[..];
            while let Ok((record, taken)) = parse_record(rest, lsn) {
                records.push(record);
                (rest, lsn) = (&rest[taken..], lsn.plus(1));
            }
        }
        records
    }

    /// Moves the watermarks over what was written, wakes the shards and feeds the writer.
    pub fn publish(&mut self) {
        if !self.written.is_empty() {
            let mut written = std::mem::take(&mut self.written);
            self.committer.publish(&mut written);
        }
    }

    /// What the preparing thread does in one round: drops drained segments, prepares the next.
    pub fn make_room(&self) {
        self.room.drop_drained();
        self.room.prepare_next();
    }

    /// The last durable record.
    pub fn end(&self) -> Lsn {
        Lsn(self.committer.next.0 - 1)
    }
}
