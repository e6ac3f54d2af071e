//! A journal folder as one input, and what must hold when it is opened: never a panic, never a record that was not written,
//! never an intact commit left out; the rest is refused, or a torn end is dropped.
//!
//! ```text
//! input     mode u8: 0 damaged only, else checksums were made right again after the damage; then segments until the end
//! segment   number u32, file length u32, stored length u32 (all little-endian), then the stored bytes; the rest is zeros
//! ```
#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, reason = "a failure is the finding")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use storage::journal::{JournalConfig, LaneCursors, StdEngine, StoreId, open};

pub const STORE: StoreId = StoreId([5; 16]);
pub const SEGMENT_BYTES: u64 = 1 << 20;
pub const BLOCK_BYTES: usize = 4_096;
/// Inputs announce file lengths; more than this is not made.
const FILE_BYTES_MAX: usize = 256 << 10;
const SEGMENTS_MAX: usize = 8;

/// One segment's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    pub number: u32,
    pub bytes: Vec<u8>,
}

/// A folder's content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Folder {
    /// Somebody made wrong checksums right: what is accepted says nothing about damage.
    pub forged: bool,
    pub segments: Vec<Segment>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Folder {
    pub fn parse(input: &[u8]) -> Self {
        let Some((mode, mut rest)) = input.split_first() else { return Self::default() };
        let mut segments = Vec::new();
        while rest.len() >= 12 && segments.len() < SEGMENTS_MAX {
            let number = u32_at(rest, 0);
            let length = (u32_at(rest, 4) as usize).min(FILE_BYTES_MAX);
            let stored = (u32_at(rest, 8) as usize).min(rest.len() - 12).min(length);
            let mut bytes = rest[12..12 + stored].to_vec();
            bytes.resize(length, 0);
            segments.push(Segment { number, bytes });
            rest = &rest[12 + stored..];
        }
        // As files of these names end up: the last of a number counts.
        let mut by_number: Vec<Segment> = Vec::new();
        segments.into_iter().rev().for_each(|segment: Segment| {
            if by_number.iter().all(|other| other.number != segment.number) {
                by_number.push(segment);
            }
        });
        by_number.sort_by_key(|segment| segment.number);
        Self { forged: *mode != 0, segments: by_number }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.forged)];
        for Segment { number, bytes } in &self.segments {
            let stored = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            for field in [*number, bytes.len() as u32, stored as u32] {
                out.extend_from_slice(&field.to_le_bytes());
            }
            out.extend_from_slice(&bytes[..stored]);
        }
        out
    }

    /// Reads the segments of a folder.
    pub fn read(folder: &Path) -> Self {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let segment = |path: PathBuf| {
            let name = path.file_stem()?.to_str()?.strip_prefix("journal-")?;
            Some(Segment { number: name.parse().ok()?, bytes: std::fs::read(&path).unwrap() })
        };
        Self { forged: false, segments: paths.into_iter().filter_map(segment).collect() }
    }

    /// Makes the folder's content this.
    fn write(&self, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for Segment { number, bytes } in &self.segments {
            std::fs::write(folder.join(format!("journal-{number:010}.seg")), bytes).unwrap();
        }
    }

    /// Which journal the first segment names.
    fn journal(&self) -> Option<[u8; 16]> {
        self.segments.first()?.bytes.get(16..32)?.try_into().ok()
    }

    fn file(&self, number: u32) -> Option<&[u8]> {
        self.segments.iter().find(|segment| segment.number == number).map(|segment| &segment.bytes[..])
    }
}

/// Where a commit lies that was written and acknowledged.
struct Commit {
    segment: u32,
    at: usize,
    end: usize,
    last: u64,
}

fn commits(folder: &Folder) -> Vec<Commit> {
    let mut found = Vec::new();
    for Segment { number, bytes } in &folder.segments {
        let mut at = BLOCK_BYTES;
        while bytes.get(at..at + 4) == Some(b"MHCM") {
            let end = at + 64 + u32_at(bytes, at + 52) as usize;
            if bytes.get(at + 8..end).is_none_or(|content| crc32c::crc32c(content) != u32_at(bytes, at + 4)) {
                // Torn when it was written, and never acknowledged.
                break;
            }
            let last = u64_at(bytes, at + 32) + u64::from(u32_at(bytes, at + 48)) - 1;
            found.push(Commit { segment: *number, at, end, last });
            at = end.next_multiple_of(BLOCK_BYTES);
        }
    }
    found
}

/// A record as it is replayed: position, lane, kind, layout version, payload.
type Replayed = (u64, u8, u8, u8, Vec<u8>);

/// What a folder's journal says; none when it is refused.
fn replay(folder: &Path) -> Option<Vec<Replayed>> {
    let mut config = JournalConfig::new(folder, STORE);
    config.segment_bytes = SEGMENT_BYTES;
    config.engine = Arc::new(StdEngine::buffered());
    let opened = told(open(config))?;
    let mut replay = told(opened.recovery.replay(&LaneCursors::START))?;
    let mut records = Vec::new();
    loop {
        match told(replay.next())? {
            Some(raw) => {
                // Either a record or a refusal that names what is wrong.
                if let Err(error) = storage::record::decode(&raw) {
                    assert!(!error.to_string().is_empty());
                }
                records.push((raw.lsn.0, raw.lane.as_byte(), raw.kind, raw.version, raw.payload.to_vec()));
            }
            None => return Some(records),
        }
    }
}

fn told<T, E: std::fmt::Display>(result: Result<T, E>) -> Option<T> {
    result.map_err(|error| assert!(!error.to_string().is_empty())).ok()
}

/// A journal that was written, and what it holds.
pub struct Original {
    pub folder: Folder,
    commits: Vec<Commit>,
    records: Vec<Replayed>,
}

/// A folder to open journals in, and the journals that damaged ones were made from.
pub struct Bench {
    folder: tempfile::TempDir,
    pub originals: Vec<Original>,
}

impl Bench {
    /// `inputs` that are whole are the originals.
    pub fn new<'a>(inputs: impl IntoIterator<Item = &'a [u8]>) -> Self {
        // Memory where there is some: millions of files are written, and what a flush does is not the question here.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let mut bench = Self { folder: tempfile::tempdir_in(parent).unwrap(), originals: Vec::new() };
        for input in inputs {
            let folder = Folder::parse(input);
            let commits = commits(&folder);
            folder.write(bench.folder.path());
            if let Some(records) = replay(bench.folder.path())
                && !folder.forged
                && !records.is_empty()
                && commits.last().is_some_and(|last| last.last == records.len() as u64)
            {
                bench.originals.push(Original { folder, commits, records });
            }
        }
        // Of one journal in several states the longest counts.
        bench.originals.sort_by_key(|original| std::cmp::Reverse(original.records.len()));
        bench
    }

    pub fn check(&self, input: &[u8]) {
        let damaged = Folder::parse(input);
        damaged.write(self.folder.path());
        let Some(records) = replay(self.folder.path()) else { return };
        for (before, after) in records.iter().zip(records.iter().skip(1)) {
            assert_eq!(before.0 + 1, after.0, "positions without a hole");
        }
        let journal = damaged.journal();
        let original = self.originals.iter().find(|original| original.folder.journal() == journal);
        let Some(original) = original.filter(|_| !damaged.forged) else { return };
        // Not `assert_eq`: nobody reads a whole journal.
        assert!(original.records.starts_with(&records), "a record that was never written");
        let header_kept = |number| {
            let (before, after) = (original.folder.file(number), damaged.file(number));
            before.zip(after).is_some_and(|(before, after)| after.starts_with(&before[..BLOCK_BYTES]))
        };
        for commit in &original.commits {
            let (Some(before), Some(after)) = (original.folder.file(commit.segment), damaged.file(commit.segment))
            else {
                continue;
            };
            let intact = after.get(commit.at..commit.end) == Some(&before[commit.at..commit.end]);
            let found = commit.last <= records.len() as u64;
            assert!(found || !intact || !header_kept(commit.segment), "record {} is there and left out", commit.last);
        }
    }
}
