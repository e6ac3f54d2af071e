//! The journal's promises, on real files: what a fault, a torn tail or damage may and may not do to what was acknowledged.

mod faults;
mod live;
mod recovery;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::Version;
use tempfile::TempDir;

use super::chain::segment_path;
use super::*;
use crate::file_system::FileSystem;
use crate::lane::Lane;

/// Far more than anything here takes, so that a slow machine is not a failure.
const PATIENCE: Duration = Duration::from_secs(60);

const STORE: StoreId = StoreId([5; 16]);

/// The smallest segment there is: rolls come soon.
const SEGMENT_BYTES: u64 = 1 << 20;

/// A record with a number and a size of the test's choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Note {
    number: u64,
    bytes: usize,
}

impl Note {
    fn numbered(number: u64) -> Self {
        Self { number, bytes: 100 }
    }

    fn read(raw: &RawRecord<'_>) -> u64 {
        assert_eq!(raw.lane.as_byte(), (u64::from_le_bytes(raw.payload[..8].try_into().unwrap()) % 16) as u8);
        u64::from_le_bytes(raw.payload[..8].try_into().unwrap())
    }
}

impl Journalled for Note {
    fn lane(&self) -> Lane {
        Lane::from_byte((self.number % 16) as u8).unwrap()
    }

    fn kind(&self) -> u8 {
        77
    }

    fn layout_version(&self) -> u8 {
        1
    }

    fn version(&self) -> Version {
        Version(self.number)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_le_bytes());
        out.resize(out.len() + self.bytes - 8, (self.number % 251) as u8);
    }
}

/// A folder on a disk: `/tmp` may be memory, where O_DIRECT and a flush mean nothing.
fn disk_folder() -> TempDir {
    let usual = std::env::temp_dir();
    let volatile = FileSystem::of(&usual).is_ok_and(|found| found.volatile);
    tempfile::tempdir_in(if volatile { Path::new("/var/tmp") } else { &usual }).unwrap()
}

/// What the failure hook was told.
type Failures = Arc<Mutex<Vec<String>>>;

fn config(folder: &Path, engine: Arc<dyn Engine>) -> (JournalConfig, Failures) {
    let failures = Failures::default();
    let seen = failures.clone();
    let mut config = JournalConfig::new(folder, STORE);
    config.segment_bytes = SEGMENT_BYTES;
    config.engine = engine;
    config.on_failure = Arc::new(move |what| seen.lock().unwrap().push(what.to_owned()));
    (config, failures)
}

/// A started journal and what belongs to it.
struct Rig {
    journal: Option<Journal>,
    shards: Vec<ShardJournal>,
    feed: CommitFeed,
    cursors: Cursors,
    wakes: Vec<Receiver<()>>,
    failures: Failures,
}

impl Rig {
    fn start(folder: &Path, shards: usize) -> Self {
        Self::start_with(config(folder, Arc::new(StdEngine::default())), shards)
    }

    fn start_with((config, failures): (JournalConfig, Failures), shards: usize) -> Self {
        let opened = open(config).unwrap();
        let (listeners, wakes) = (0..shards)
            .map(|_| {
                let (sender, receiver) = channel();
                let listener: Listener = Box::new(move || {
                    let _ = sender.send(());
                });
                (listener, receiver)
            })
            .unzip();
        let Started { journal, shards, feed, cursors } = opened.journal.start(LaneCursors::START, listeners).unwrap();
        Self { journal: Some(journal), shards, feed, cursors, wakes, failures }
    }

    fn journal(&self) -> &Journal {
        self.journal.as_ref().expect("not closed yet")
    }

    fn close(&mut self) -> bool {
        self.journal.take().expect("closed once").close()
    }

    /// Appends the notes as one hand-over of a shard.
    fn hand_over(&mut self, shard: usize, notes: impl IntoIterator<Item = Note>) -> Ticket {
        let mut ticket = Ticket::default();
        for note in notes {
            ticket = self.shards[shard].append(&note);
        }
        self.shards[shard].flush();
        ticket
    }

    fn wait_durable(&self, shard: usize, ticket: Ticket) {
        let deadline = Instant::now() + PATIENCE;
        while self.shards[shard].durable().ticket < ticket {
            let left = deadline.saturating_duration_since(Instant::now());
            self.wakes[shard].recv_timeout(left).expect("a wake for every movement of the watermark");
        }
    }

    fn write_durably(&mut self, shard: usize, notes: impl IntoIterator<Item = Note>) {
        let ticket = self.hand_over(shard, notes);
        self.wait_durable(shard, ticket);
    }

    /// Takes `count` records from the feed and returns their numbers.
    fn drain(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        let mut next = self.feed.position();
        while numbers.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} records", numbers.len());
            let Next::Committed(committed) = self.feed.next(Duration::from_millis(50)).unwrap() else { continue };
            assert_eq!(committed.first(), next, "the feed neither skips nor repeats");
            for raw in committed.records() {
                assert_eq!(raw.lsn, next);
                next = next.plus(1);
                numbers.push(Note::read(&raw));
            }
        }
        numbers
    }

    fn wait_failed(&self) {
        wait_until("the journal notices", || self.journal().failed() && !self.failures.lock().unwrap().is_empty());
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn reopen(folder: &Path) -> Result<Opened, OpenError> {
    open(config(folder, Arc::new(StdEngine::buffered())).0)
}

/// Every record of the journal in `folder`, by position.
fn contents(folder: &Path) -> BTreeMap<u64, u64> {
    replay(&reopen(folder).unwrap().recovery, &LaneCursors::START)
}

fn replay(recovery: &Recovery, from: &LaneCursors) -> BTreeMap<u64, u64> {
    let mut replay = recovery.replay(from).unwrap();
    let mut found = BTreeMap::new();
    while let Some(raw) = replay.next().unwrap() {
        assert_eq!(found.insert(raw.lsn.0, Note::read(&raw)), None);
    }
    found
}

fn numbers(range: std::ops::Range<u64>) -> Vec<u64> {
    range.collect()
}

fn notes(range: std::ops::Range<u64>) -> impl Iterator<Item = Note> {
    range.map(Note::numbered)
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    chain::list(folder).unwrap().into_iter().map(|(_, path)| path).collect()
}

fn first_segment(folder: &Path) -> PathBuf {
    segment_path(folder, 1)
}

/// What every engine must pass: several segments, then everything is found again.
pub(super) fn a_journal_on_an_engine_keeps_what_it_acknowledged(engine: Arc<dyn Engine>) {
    let folder = disk_folder();
    let mut rig = Rig::start_with(config(folder.path(), engine), 2);
    for round in 0..40 {
        let shard = round as usize % 2;
        wait_until("there is room", || rig.shards[shard].admit(15 * 4_012).is_ok());
        rig.write_durably(shard, (round * 15..round * 15 + 15).map(|number| Note { number, bytes: 4_000 }));
    }
    assert!(rig.journal().stats().segments >= 3);
    assert!(rig.close());
    assert_eq!(contents(folder.path()).into_values().collect::<Vec<_>>(), numbers(0..600));
}

#[test]
fn every_engine_keeps_what_it_acknowledged() {
    a_journal_on_an_engine_keeps_what_it_acknowledged(Arc::new(StdEngine::default()));
    a_journal_on_an_engine_keeps_what_it_acknowledged(Arc::new(StdEngine::buffered()));
    a_journal_on_an_engine_keeps_what_it_acknowledged(Arc::new(fault::FaultEngine::default()));
}
