//! The journal's thread: gathers what shards have handed over, writes it as one commit, and only then moves the watermark.
//! It never waits for company, never rewrites a block that was acknowledged, and never tries a failed write again.

use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use proto::Version;
use runtime::buffer::AlignedBuf;

use super::chain::Sealed;
use super::feed::{Committed, FeedQueue, followed};
use super::format::{BLOCK_BYTES, COMMIT_HEADER_BYTES, CommitHeader, SegmentHeader};
use super::room::Room;
use super::shard::{Gate, HandOver, Message, Watermark};
use super::{BusyReason, CommitHook, Engine, FailureHook, Listener, Lsn, SegmentFile};
use crate::trace;

/// How long a commit gathers while there is no next segment in sight: padding is what fills a journal that is nearly full.
const TIGHT_GATHER: Duration = Duration::from_millis(5);

/// How long a full segment waits for the next one, which admission has seen coming.
const ROLL_PATIENCE: Duration = Duration::from_secs(60);

/// Counters of the journal's thread.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) commits: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) record_bytes: AtomicU64,
    pub(super) end: AtomicU64,
    pub(super) last_write_us: AtomicU64,
    pub(super) failed: AtomicBool,
}

/// What the thread is started with.
pub(super) struct Committer {
    pub(super) inbox: Receiver<Message>,
    pub(super) watermarks: Arc<[Watermark]>,
    pub(super) listeners: Vec<Listener>,
    pub(super) gate: Arc<Gate>,
    pub(super) room: Arc<Room>,
    pub(super) feed: Arc<FeedQueue>,
    pub(super) counters: Arc<Counters>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) on_failure: FailureHook,
    pub(super) on_committed: Option<CommitHook>,
    pub(super) segment_bytes: u64,
    pub(super) commit_bytes_max: usize,
    /// The segment being written: its file, and the header that it got.
    pub(super) active: Active,
    pub(super) next: Lsn,
    pub(super) version: Version,
    /// What a commit made durable, on its way to the feed.
    pub(super) committed: Vec<Committed>,
}

/// The segment being written.
pub(super) struct Active {
    pub(super) file: Box<dyn SegmentFile>,
    pub(super) path: std::path::PathBuf,
    pub(super) header: SegmentHeader,
    pub(super) offset: u64,
}

impl Active {
    /// Opens a prepared segment and makes its header durable.
    pub(super) fn begin(engine: &dyn Engine, path: std::path::PathBuf, header: SegmentHeader) -> std::io::Result<Self> {
        let mut file = engine.open(&path)?;
        let mut block = AlignedBuf::with_capacity(BLOCK_BYTES, BLOCK_BYTES);
        block.extend_from_slice(&header.encode());
        write_whole(&mut *file, block.as_slice(), 0)?;
        Ok(Self { file, path, header, offset: BLOCK_BYTES as u64 })
    }
}

fn write_whole(file: &mut dyn SegmentFile, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    let written = file.write(bytes, offset)?;
    if written != bytes.len() {
        return Err(std::io::Error::other(format!("{written} of {} bytes were written", bytes.len())));
    }
    Ok(())
}

/// Whether the loop goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inbox {
    Open,
    Closed,
}

impl Committer {
    /// Runs until the journal is closed or a commit fails.
    pub(super) fn run(mut self) {
        let mut commit = AlignedBuf::with_capacity(BLOCK_BYTES, 1 << 20);
        let mut gathered: Vec<HandOver> = Vec::new();
        let mut left_over: Option<HandOver> = None;
        let mut tight = false;
        let mut inbox = Inbox::Open;
        while inbox == Inbox::Open || left_over.is_some() {
            inbox = self.gather(&mut gathered, &mut left_over, tight, inbox);
            if gathered.is_empty() {
                continue;
            }
            match self.commit(&mut commit, &gathered) {
                Ok(now_tight) => tight = now_tight,
                Err(what) => return self.fail(&what),
            }
            self.publish(&mut gathered);
        }
        self.gate.shut(BusyReason::Stopped);
        self.feed.close();
    }

    /// Waits for a first hand-over and takes what else is there, up to a commit's limit.
    fn gather(
        &self,
        gathered: &mut Vec<HandOver>,
        left_over: &mut Option<HandOver>,
        tight: bool,
        mut inbox: Inbox,
    ) -> Inbox {
        let mut bytes = 0;
        let mut gather_until = None;
        if let Some(first) = left_over.take() {
            bytes += first.records.len();
            gathered.push(first);
        }
        loop {
            let message = if gathered.is_empty() && inbox == Inbox::Open {
                self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else if tight && inbox == Inbox::Open {
                let until = *gather_until.get_or_insert_with(|| Instant::now() + TIGHT_GATHER);
                self.inbox.recv_timeout(until.saturating_duration_since(Instant::now()))
            } else {
                self.inbox.try_recv().map_err(|_| RecvTimeoutError::Timeout)
            };
            match message {
                Ok(Message::HandOver(more))
                    if gathered.is_empty() || bytes + more.records.len() <= self.commit_bytes_max =>
                {
                    bytes += more.records.len();
                    gathered.push(more);
                }
                Ok(Message::HandOver(more)) => {
                    *left_over = Some(more);
                    return inbox;
                }
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => inbox = Inbox::Closed,
                Err(RecvTimeoutError::Timeout) => return inbox,
            }
        }
    }

    /// Writes one commit; returns whether room is tight afterwards.
    pub(super) fn commit(&mut self, commit: &mut AlignedBuf, gathered: &[HandOver]) -> Result<bool, String> {
        commit.clear();
        commit.resize(COMMIT_HEADER_BYTES, 0);
        let mut count = 0;
        for hand_over in gathered {
            commit.extend_from_slice(&hand_over.records);
            count += hand_over.count;
            self.version = self.version.max(hand_over.version);
        }
        let bytes = (commit.len() - COMMIT_HEADER_BYTES) as u32;
        commit.pad_to(BLOCK_BYTES);
        if self.active.offset + commit.len() as u64 > self.segment_bytes {
            self.roll()?;
        }
        let SegmentHeader { journal, segment, .. } = self.active.header;
        CommitHeader { journal, segment, base: self.next, version: self.version, count, bytes }
            .seal(commit.as_mut_slice());
        let started = Instant::now();
        write_whole(&mut *self.active.file, commit.as_slice(), self.active.offset).map_err(|error| {
            format!("writing {} bytes to {} failed: {error}", commit.len(), self.active.path.display())
        })?;
        self.active.offset += commit.len() as u64;
        self.next = self.next.plus(u64::from(count));
        let counters = &self.counters;
        counters.last_write_us.store(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters.records.fetch_add(u64::from(count), Ordering::Relaxed);
        counters.record_bytes.fetch_add(u64::from(bytes), Ordering::Relaxed);
        counters.end.store(self.next.0 - 1, Ordering::Release);
        Ok(self.room.note_remaining(self.segment_bytes - self.active.offset))
    }

    fn roll(&mut self) -> Result<(), String> {
        let header = self.active.header;
        let sealed = Sealed {
            path: self.active.path.clone(),
            header,
            last: Lsn(self.next.0 - 1),
            end_offset: self.active.offset,
            bytes: self.segment_bytes,
        };
        let (segment, path) = self
            .room
            .roll(sealed, ROLL_PATIENCE)
            .ok_or("no further segment could be prepared for what had been admitted".to_owned())?;
        let header = SegmentHeader { segment, first: self.next, version: self.version, ..header };
        self.active = Active::begin(&*self.engine, path.clone(), header)
            .map_err(|error| format!("beginning segment {} failed: {error}", path.display()))?;
        self.room.begun();
        Ok(())
    }

    /// Shows the records to the hook, moves the watermarks of everyone in this commit, wakes them, and gives the records to
    /// the store writer. The hook goes first: by the time that anybody is told of a change, it has seen it.
    pub(super) fn publish(&mut self, gathered: &mut Vec<HandOver>) {
        let end = Lsn(self.next.0 - 1);
        let count: u64 = gathered.iter().map(|hand_over| u64::from(hand_over.count)).sum();
        let mut first = Lsn(end.0 + 1 - count);
        for hand_over in &mut *gathered {
            let committed = Committed { first, count: hand_over.count, bytes: take(&mut hand_over.records).into() };
            first = first.plus(u64::from(hand_over.count));
            if trace::is_on() {
                for (lsn, version) in followed(&committed.bytes, committed.first) {
                    tracing::info!(target: trace::TARGET, version = version.0, stage = "durable", lsn = lsn.0, records = count);
                }
            }
            if let Some(hook) = &self.on_committed {
                hook(&committed);
            }
            self.committed.push(committed);
        }
        for hand_over in &*gathered {
            self.watermarks[hand_over.shard].publish(hand_over.ticket, end, hand_over.bytes_total);
        }
        for (index, hand_over) in gathered.iter().enumerate() {
            let again_later = gathered[index + 1..].iter().any(|later| later.shard == hand_over.shard);
            if !again_later {
                self.listeners[hand_over.shard]();
            }
        }
        gathered.clear();
        self.feed.push(self.committed.drain(..), end);
    }

    fn fail(self, what: &str) {
        self.counters.failed.store(true, Ordering::Release);
        self.gate.shut(BusyReason::Stopped);
        self.feed.close();
        (self.on_failure)(what);
    }
}
