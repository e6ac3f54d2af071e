//! Starting and stopping the journal: checks the room it has, begins a segment of its own (which seals whatever a crash
//! left), and starts the two threads. It promises that what was handed over before a close is durable after it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use super::chain::{Chain, segment_path};
use super::commit::{Active, Committer, Counters};
use super::feed::FeedQueue;
use super::format::{BLOCK_BYTES, COMMIT_RECORD_BYTES_MAX, SegmentHeader};
use super::room::{Room, RoomConfig};
use super::scan::io_error;
use super::shard::{Gate, Message, Watermark};
use super::{
    BusyReason, CommitFeed, Cursors, FailureHook, JournalConfig, LaneCursors, Listener, Lsn, OpenError, ShardJournal,
    StartError,
};

/// A journal works with no fewer segments: one written, one prepared, two on their way to the store.
const SEGMENTS_MIN: u64 = 4;

/// A shard may always have this much under way, however many shards there are.
const SHARD_IN_FLIGHT_BYTES_MIN: u64 = 64 << 10;

/// An opened journal that has not been started.
pub struct Starter {
    config: JournalConfig,
    chain: Arc<Chain>,
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
    /// Segments on the disk, the prepared one included.
    pub segments: u64,
    /// What they take, in bytes.
    pub bytes: u64,
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

/// What a start gives.
#[derive(Debug)]
pub struct Started {
    /// The handle that closes it.
    pub journal: Journal,
    /// One per shard, in order.
    pub shards: Vec<ShardJournal>,
    /// For the store writer.
    pub feed: CommitFeed,
    /// Published by the store writer, read by everybody.
    pub cursors: Cursors,
}

/// The running journal. One per process.
pub struct Journal {
    inbox: Sender<Message>,
    committer: JoinHandle<()>,
    preparer: JoinHandle<()>,
    room: Arc<Room>,
    counters: Arc<Counters>,
    journal_bytes_max: u64,
}

impl std::fmt::Debug for Starter {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Starter").field("journal", &self.chain.journal).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Journal").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Starter {
    pub(super) fn new(config: JournalConfig, chain: Arc<Chain>) -> Self {
        Self { config, chain }
    }

    /// Starts the journal's threads for `listeners.len()` shards, in shard order. `cursors` are the store's; the feed begins
    /// behind the lowest of them, so recovered records reach the store through it too.
    pub fn start(self, cursors: LaneCursors, listeners: Vec<Listener>) -> Result<Started, StartError> {
        let folder = self.config.folder.clone();
        let Assembled { begin, inbox, sender, watermarks, shards, feed, cursors } =
            self.assemble(cursors, listeners.len())?;
        let (room, counters) = (begin.room.clone(), begin.counters.clone());
        let journal_bytes_max = begin.config.journal_bytes_max;
        let committer = begin.spawn(inbox, watermarks, listeners)?;
        let preparing = room.clone();
        let preparer = std::thread::Builder::new()
            .name("journal-room".into())
            .spawn(move || preparing.run())
            .map_err(io_error("start a thread for", &folder))?;
        let journal = Journal { inbox: sender, committer, preparer, room, counters, journal_bytes_max };
        Ok(Started { journal, shards, feed, cursors })
    }

    /// Everything but the threads.
    pub(super) fn assemble(self, cursors: LaneCursors, shards: usize) -> Result<Assembled, StartError> {
        let Self { mut config, chain } = self;
        chain.check(&cursors)?;
        config.in_flight_bytes_max = check_settings(&config, shards)?;
        config.journal_bytes_max = self::journal_bytes_max(&config, &chain)?;
        let sealed = chain.trim_last()?;
        let path = segment_path(&config.folder, chain.next_segment);
        if chain.unused.is_none() {
            config.engine.prepare(&path, config.segment_bytes).map_err(io_error("prepare", &path))?;
        }
        let gate = Arc::new(Gate::default());
        let counters = Arc::new(Counters::default());
        counters.end.store(chain.end.0, Ordering::Release);
        let shared_cursors = Cursors::new(cursors);
        let room = Room::new(RoomConfig {
            folder: config.folder.clone(),
            segment_bytes: config.segment_bytes,
            journal_bytes_max: config.journal_bytes_max,
            reserve_bytes: 2 * config.in_flight_bytes_max,
            engine: config.engine.clone(),
            cursors: shared_cursors.clone(),
            gate: gate.clone(),
            sealed,
            note_in: config.note_in.clone(),
            journal: chain.journal,
            counters: counters.clone(),
            next_segment: chain.next_segment + 1,
        });
        let next = cursors.lowest().plus(1);
        let queue = FeedQueue::new(config.feed_rows_max, chain.end, next);
        let feed = CommitFeed::new(queue.clone(), config.folder.clone(), chain.journal, next);
        let watermarks: Arc<[Watermark]> = (0..shards).map(|_| Watermark::at(chain.end)).collect();
        let (sender, inbox) = mpsc::channel();
        let per_shard = config.in_flight_bytes_max / shards as u64;
        let shards = (0..shards)
            .map(|shard| ShardJournal::new(shard, per_shard, watermarks.clone(), gate.clone(), sender.clone()))
            .collect();
        let begin = Begin { config, chain, path, gate, room, queue, counters };
        Ok(Assembled { begin, inbox, sender, watermarks, shards, feed, cursors: shared_cursors })
    }
}

/// A journal without its threads.
pub(super) struct Assembled {
    pub(super) begin: Begin,
    pub(super) inbox: Receiver<Message>,
    pub(super) sender: Sender<Message>,
    pub(super) watermarks: Arc<[Watermark]>,
    pub(super) shards: Vec<ShardJournal>,
    pub(super) feed: CommitFeed,
    pub(super) cursors: Cursors,
}

/// Everything the journal's thread begins with.
pub(super) struct Begin {
    config: JournalConfig,
    chain: Arc<Chain>,
    path: std::path::PathBuf,
    gate: Arc<Gate>,
    pub(super) room: Arc<Room>,
    queue: Arc<FeedQueue>,
    counters: Arc<Counters>,
}

impl Begin {
    /// Starts the thread and waits until it has its segment: engines may keep their files on one thread.
    fn spawn(
        self,
        inbox: Receiver<Message>,
        watermarks: Arc<[Watermark]>,
        listeners: Vec<Listener>,
    ) -> Result<JoinHandle<()>, OpenError> {
        let (began, beginning) = mpsc::sync_channel(1);
        let (folder, error_path) = (self.config.folder.clone(), self.path.clone());
        let body = move || {
            let stop = Stop {
                gate: self.gate.clone(),
                queue: self.queue.clone(),
                counters: self.counters.clone(),
                hook: self.config.on_failure.clone(),
            };
            let committer = match self.committer(inbox, watermarks, listeners) {
                Ok(committer) => committer,
                Err(error) => {
                    let _ = began.send(Err(error));
                    return;
                }
            };
            let _ = began.send(Ok(()));
            stop.on_panic(|| committer.run());
        };
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(body)
            .map_err(io_error("start a thread for", &folder))?;
        match beginning.recv() {
            Ok(Ok(())) => Ok(thread),
            Ok(Err(error)) => Err(io_error("begin", &error_path)(error)),
            Err(_) => Err(io_error("begin", &error_path)(std::io::Error::other("the journal's thread died"))),
        }
    }

    /// Begins the segment, on the thread that will write it.
    pub(super) fn committer(
        self,
        inbox: Receiver<Message>,
        watermarks: Arc<[Watermark]>,
        listeners: Vec<Listener>,
    ) -> std::io::Result<Committer> {
        let Self { config, chain, path, gate, room, queue, counters } = self;
        let header = SegmentHeader {
            journal: chain.journal,
            store: config.store_id,
            segment: chain.next_segment,
            first: chain.end.plus(1),
            version: chain.version,
        };
        let active = Active::begin(&*config.engine, path, header)?;
        room.note(header.segment)?;
        Ok(Committer {
            inbox,
            watermarks,
            listeners,
            gate,
            room,
            feed: queue,
            counters,
            engine: config.engine,
            on_failure: config.on_failure,
            on_committed: config.on_committed,
            segment_bytes: config.segment_bytes,
            commit_bytes_max: COMMIT_RECORD_BYTES_MAX.min((config.segment_bytes / 4) as usize),
            active,
            next: header.first,
            version: chain.version,
            committed: Vec::new(),
        })
    }
}

/// A panic on the journal's thread is a failed commit: nothing unwritten may be answered.
struct Stop {
    gate: Arc<Gate>,
    queue: Arc<FeedQueue>,
    counters: Arc<Counters>,
    hook: FailureHook,
}

impl Stop {
    fn on_panic(self, body: impl FnOnce()) {
        if std::panic::catch_unwind(AssertUnwindSafe(body)).is_err() {
            self.counters.failed.store(true, Ordering::Release);
            self.gate.shut(BusyReason::Stopped);
            self.queue.close();
            (self.hook)("the journal's thread panicked");
        }
    }
}

/// Refuses settings that contradict each other; returns what may be in flight.
fn check_settings(config: &JournalConfig, shards: usize) -> Result<u64, StartError> {
    if shards == 0 {
        return Err(StartError::Config("the journal needs at least one shard".into()));
    }
    if config.segment_bytes < (1 << 20) || !config.segment_bytes.is_multiple_of(BLOCK_BYTES as u64) {
        return Err(StartError::Config("a journal segment takes at least 1 MiB, in whole 4 KiB blocks".into()));
    }
    // A quarter, so that twice as much always fits the half of a segment that is left when the next one is late.
    let quarter = config.segment_bytes / 4;
    let in_flight = config.in_flight_bytes_max.min(quarter).max(shards as u64 * SHARD_IN_FLIGHT_BYTES_MIN);
    if in_flight > quarter {
        return Err(StartError::Config(format!("{shards} shards need larger journal segments")));
    }
    Ok(in_flight)
}

/// The configured limit, or a tenth of what is free and its own.
fn journal_bytes_max(config: &JournalConfig, chain: &Chain) -> Result<u64, StartError> {
    let available =
        config.engine.available_bytes(&config.folder).map_err(io_error("ask for room in", &config.folder))?;
    let own: u64 = chain.segments.iter().map(|segment| segment.bytes).sum();
    let allowed_bytes = config.journal_bytes_max.min((available + own) / 10);
    let needed_bytes = SEGMENTS_MIN * config.segment_bytes;
    if allowed_bytes < needed_bytes {
        return Err(StartError::NoRoom { path: config.folder.clone(), needed_bytes, allowed_bytes });
    }
    Ok(allowed_bytes)
}

impl Journal {
    /// Whether a commit has failed. Final.
    pub fn failed(&self) -> bool {
        self.counters.failed.load(Ordering::Acquire)
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        let room = self.room.stats();
        let counter = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            commits: counter(&self.counters.commits),
            records: counter(&self.counters.records),
            record_bytes: counter(&self.counters.record_bytes),
            segments: room.segments,
            bytes: room.bytes,
            journal_bytes_max: self.journal_bytes_max,
            end: Lsn(counter(&self.counters.end)),
            last_write_us: counter(&self.counters.last_write_us),
            prepare_failures: room.prepare_failures,
            no_room: room.no_room,
            failed: self.failed(),
        }
    }

    /// Writes everything that was handed over before this call, publishes the watermark, and stops the threads. The feed still
    /// hands out what is committed and then closes. Returns false when a commit had failed.
    pub fn close(self) -> bool {
        // A thread that has ended already needs no message.
        let _ = self.inbox.send(Message::Close);
        let ended = self.committer.join().is_ok();
        self.room.stop();
        let ended = self.preparer.join().is_ok() && ended;
        self.room.note_or_warn(0);
        ended && !self.counters.failed.load(Ordering::Acquire)
    }
}
