//! What the journal makes of the disk: commits of recorded sizes through the journal, fed by two threads as fast as it takes
//! them, and then the very writes that it made once more by a bare loop, with the same flags on segments of zeros, with
//! nothing else around it. The two alternate; the ratio of their times is that of their MB/s and of their commits/s.
//!
//! `cargo bench -p mangahub-storage --bench journal_replay` measures with the recordings in `benches/commits/` (sizes of the
//! commits of real runs: 64 connections with a window of 1, 64 and 256); `-- --record <folder of segments>` prints those of a
//! journal. The folder is `$MANGAHUB_BENCH_FOLDER`, else the system's temporary one: use a disk.

#![allow(clippy::print_stdout, reason = "a report for whoever runs it")]

#[path = "../../benches/workload/mod.rs"]
mod workload;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use proto::Version;
use runtime::buffer::AlignedBuf;
use rustix::fs::OFlags;
use storage::journal::{
    Engine, JournalConfig, Journalled, LaneCursors, Listener, ShardJournal, Started, StdEngine, StoreId, Ticket, open,
};
use storage::lane::Lane;
use workload::folder;

const ROUNDS: usize = 5;
/// A run repeats its recording until it has written one of these.
const RUN_BYTES: usize = 384 << 20;
/// The same for runs that stay inside the segment that the journal begins with: while they last, it zeroes nothing.
const ONE_SEGMENT_BYTES: usize = 60 << 20;
const RUN_COMMITS: usize = 8_000;
const BLOCK_BYTES: usize = 4_096;
const COMMIT_HEADER_BYTES: usize = 64;
/// What a progress record takes of a commit, its frame included.
const RECORD_BYTES: usize = 140;
const FRAME_BYTES: usize = 12;
const RECORDINGS: [(&str, &str); 3] = [
    ("window 1", include_str!("../../benches/commits/window-1.txt")),
    ("window 64", include_str!("../../benches/commits/window-64.txt")),
    ("window 256", include_str!("../../benches/commits/window-256.txt")),
];

/// How the recorded buffers are handed over.
#[derive(Clone, Copy)]
enum Feed {
    /// By two threads, as fast as the journal takes them: it gathers what waits.
    Full,
    /// One after the other is durable: the commits are the recorded ones.
    Single,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        _ if cfg!(debug_assertions) => println!("journal_replay: SKIPPED, this is not an optimised build"),
        ["--record", folder] => {
            for (_, bytes) in commits(Path::new(folder)) {
                println!("{bytes}");
            }
        }
        [] => {
            for (name, recording) in RECORDINGS {
                let sizes: Vec<usize> =
                    recording.split_whitespace().map(|size| size.parse().expect("a recording is numbers")).collect();
                for (room, run_bytes) in [("zeroing as it goes", RUN_BYTES), ("room zeroed before", ONE_SEGMENT_BYTES)]
                {
                    compare(&format!("{name}, as fast as it takes them, {room}"), &sizes, run_bytes, Feed::Full);
                    compare(&format!("{name}, one at a time, {room}"), &sizes, run_bytes, Feed::Single);
                }
            }
        }
        _ => {
            println!("journal_replay: no arguments, or --record <folder of segments>");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Runs both in turns and prints what came of it.
fn compare(name: &str, sizes: &[usize], run_bytes: usize, feed: Feed) {
    let mut taken = 0;
    let fits = |size: &usize| {
        taken += padded(*size);
        taken <= run_bytes
    };
    let sizes: Arc<[usize]> = sizes.iter().copied().cycle().take(RUN_COMMITS).take_while(fits).collect();
    println!("{name}: {} hand-overs, {:.0} MB", sizes.len(), sizes.iter().sum::<usize>() as f64 / 1e6);
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let folder = folder();
        let (journal, waits) = through_the_journal(folder.path(), &sizes, feed);
        let writes: Vec<usize> = commits(folder.path()).map(|(_, bytes)| padded(bytes)).collect();
        drop(folder);
        let bare = bare(&writes);
        let (bytes, commits) = (writes.iter().sum::<usize>() as f64 / 1e6, writes.len() as f64);
        let rate = |took: Duration| (bytes / took.as_secs_f64(), commits / took.as_secs_f64());
        let ((journal_mb, journal_commits), (bare_mb, bare_commits)) = (rate(journal), rate(bare));
        let ratio = bare.as_secs_f64() / journal.as_secs_f64();
        println!(
            "  journal {journal_mb:7.1} MB/s {journal_commits:7.0} commits/s   bare {bare_mb:7.1} MB/s {bare_commits:7.0} \
             commits/s   ratio {ratio:.2}   ({commits} commits, {waits} waits for room)"
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("  ratio {:.2} (median; {:.2} to {:.2})", ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1]);
}

fn padded(record_bytes: usize) -> usize {
    (COMMIT_HEADER_BYTES + record_bytes).next_multiple_of(BLOCK_BYTES)
}

/// Records and bytes of the commits in a folder of segments, in order, as their headers tell (`journal/format.rs`).
fn commits(folder: &Path) -> impl Iterator<Item = (usize, usize)> {
    let entries = std::fs::read_dir(folder).expect("a folder of segments");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of it").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|kind| kind == "seg"));
    paths.sort();
    paths.into_iter().flat_map(|path| {
        let file = File::open(path).expect("a segment");
        let mut at = BLOCK_BYTES as u64;
        std::iter::from_fn(move || {
            let mut header = [0; COMMIT_HEADER_BYTES];
            file.read_exact_at(&mut header, at).ok().filter(|()| header.starts_with(b"MHCM"))?;
            let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| header[at + byte])) as usize;
            at += padded(number(52)) as u64;
            Some((number(48), number(52)))
        })
    })
}

/// A record of a size.
struct Sized(usize);

impl Journalled for Sized {
    fn lane(&self) -> Lane {
        Lane::from_byte((self.0 % 16) as u8).expect("below 16")
    }

    fn kind(&self) -> u8 {
        1
    }

    fn layout_version(&self) -> u8 {
        1
    }

    fn version(&self) -> Version {
        Version(1)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.resize(out.len() + self.0, 0xA5);
    }
}

/// Hands every buffer over and waits until all are durable. Answers how long that took, and how often a thread was refused.
fn through_the_journal(folder: &Path, sizes: &Arc<[usize]>, feed: Feed) -> (Duration, usize) {
    let threads = match feed {
        Feed::Full => 2,
        Feed::Single => 1,
    };
    let opened = open(JournalConfig::new(folder, StoreId::default())).expect("a fresh journal");
    let wakes: Vec<Arc<Mutex<Option<Thread>>>> = (0..threads).map(|_| Arc::default()).collect();
    let listeners = wakes.iter().cloned().map(|wake| {
        let wake = move || {
            if let Some(thread) = &*wake.lock().expect("nobody panics with it") {
                thread.unpark();
            }
        };
        Box::new(wake) as Listener
    });
    // Nobody reads the feed and no cursor moves: the segments stay, to be read and written again.
    let Started { journal, shards, feed: _feed, cursors: _cursors } =
        opened.journal.start(LaneCursors::START, listeners.collect()).expect("room for a journal");
    // The next segment is being written ahead just now; a running server has it.
    while journal.stats().segments < 2 {
        thread::sleep(Duration::from_millis(1));
    }
    let (next, ready) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(threads + 1)));
    let producers = shards.into_iter().zip(wakes).map(|(shard, wake)| {
        let (sizes, next, ready) = (sizes.clone(), next.clone(), ready.clone());
        thread::spawn(move || {
            *wake.lock().expect("nobody panics with it") = Some(thread::current());
            ready.wait();
            produce(shard, &sizes, &next, feed)
        })
    });
    let producers: Vec<_> = producers.collect();
    ready.wait();
    let began = Instant::now();
    let waits = producers.into_iter().map(|producer| producer.join().expect("a producer")).sum();
    let took = began.elapsed();
    assert!(journal.close());
    (took, waits)
}

fn produce(mut shard: ShardJournal, sizes: &[usize], next: &AtomicUsize, feed: Feed) -> usize {
    let (mut waits, mut ticket) = (0, Ticket::default());
    let wait = |shard: &ShardJournal, ticket| {
        while shard.durable().ticket < ticket {
            thread::park();
        }
    };
    while let Some(size) = sizes.get(next.fetch_add(1, Ordering::Relaxed)) {
        while shard.admit(*size).is_err() {
            waits += 1;
            thread::park_timeout(Duration::from_millis(1));
        }
        let (records, rest) = (size / RECORD_BYTES, size % RECORD_BYTES);
        (0..records).for_each(|_| ticket = shard.append(&Sized(RECORD_BYTES - FRAME_BYTES)));
        if rest >= FRAME_BYTES {
            ticket = shard.append(&Sized(rest - FRAME_BYTES));
        }
        shard.flush();
        if let Feed::Single = feed {
            wait(&shard, ticket);
        }
    }
    wait(&shard, ticket);
    waits
}

/// Writes of these sizes, one after the other, each durable when it returns.
fn bare(writes: &[usize]) -> Duration {
    let folder = folder();
    let engine = StdEngine::default();
    let medium = engine.probe(folder.path()).expect("a writable folder");
    let segment_bytes = JournalConfig::SEGMENT_BYTES as usize;
    let (mut segments, mut at) = (1, BLOCK_BYTES);
    for bytes in writes {
        if at + bytes > segment_bytes {
            (segments, at) = (segments + 1, BLOCK_BYTES);
        }
        at += bytes;
    }
    let path = |segment: usize| folder.path().join(format!("segment-{segment}"));
    (0..segments).for_each(|segment| engine.prepare(&path(segment), segment_bytes as u64).expect("room for zeros"));
    let flags = if medium.direct { OFlags::DIRECT | OFlags::DSYNC } else { OFlags::DSYNC };
    let open = |segment| OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(path(segment));
    let mut buffer = AlignedBuf::with_capacity(BLOCK_BYTES, 1 << 20);
    buffer.resize(writes.iter().copied().max().unwrap_or(0), 0xA5);
    let write = || {
        let began = Instant::now();
        let mut file = open(0).expect("a segment of zeros");
        let (mut segment, mut at) = (0, BLOCK_BYTES);
        for bytes in writes {
            if at + bytes > segment_bytes {
                (segment, at) = (segment + 1, BLOCK_BYTES);
                file = open(segment).expect("a segment of zeros");
            }
            let written = file.write_at(&buffer.as_slice()[..*bytes], at as u64).expect("a disk that works");
            assert_eq!(written, *bytes);
            at += bytes;
        }
        began.elapsed()
    };
    thread::scope(|scope| scope.spawn(write).join().expect("the bare loop"))
}
