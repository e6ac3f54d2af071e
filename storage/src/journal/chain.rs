//! The chain of segments in a folder: found, ordered, checked against each other. It promises that what it accepts is one
//! journal without holes, and refuses everything else with what to do.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use proto::Version;

use super::format::{SegmentHeader, SegmentStart};
use super::scan::{SegmentScan, Tail, io_error, read_start};
use super::{EndNote, JournalConfig, JournalId, LaneCursors, Lsn, OpenError, ReplayError, StoreId};

/// Segments walked at once: past that the disk is what takes the time.
const WALKERS_MAX: usize = 4;

/// A segment on the disk that is written no more.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) path: PathBuf,
    pub(super) header: SegmentHeader,
    /// Its last record; one before its first when it has none.
    pub(super) last: Lsn,
    /// Where its last commit ends.
    pub(super) end_offset: u64,
    /// The size of its file.
    pub(super) bytes: u64,
}

/// What was found in a folder.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) journal: JournalId,
    pub(super) segments: VecDeque<Sealed>,
    /// The largest version noted anywhere.
    pub(super) version: Version,
    /// The last intact record.
    pub(super) end: Lsn,
    /// Bytes of a torn last commit.
    pub(super) torn: Option<u64>,
    /// The number after the last used one.
    pub(super) next_segment: u64,
    /// A prepared segment that was never used, with exactly that number.
    pub(super) unused: Option<PathBuf>,
}

/// The file of a segment.
pub(super) fn segment_path(folder: &Path, segment: u64) -> PathBuf {
    folder.join(format!("journal-{segment:010}.seg"))
}

fn segment_number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("journal-")?.strip_suffix(".seg")?.parse().ok()
}

/// The segments in `folder`, by number. Files of other names are left alone.
pub(super) fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io_error("list", folder))? {
        let path = entry.map_err(io_error("list", folder))?.path();
        if let Some(segment) = segment_number(&path) {
            found.push((segment, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes what an interrupted preparation left.
pub(super) fn remove_unfinished(folder: &Path) -> Result<(), OpenError> {
    for entry in std::fs::read_dir(folder).map_err(io_error("list", folder))? {
        let path = entry.map_err(io_error("list", folder))?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> OpenError {
    OpenError::Corrupt { path: path.to_owned(), offset, what: what.into() }
}

/// Reads every segment of the folder and checks the whole.
pub(super) fn read(config: &JournalConfig) -> Result<Option<Chain>, OpenError> {
    let mut found = Vec::new();
    for (segment, path) in list(&config.folder)? {
        let start = read_start(&path)?;
        found.push((segment, path, start));
    }
    let spare = split_spare(&mut found)?;
    let walked = walk_all(&found);
    let mut chain: Option<Chain> = None;
    for ((segment, path, start), walked) in found.iter().zip(walked) {
        let header = match start {
            SegmentStart::Header(header) if header.segment == *segment => *header,
            SegmentStart::Header(_) => return Err(corrupt(path, 0, "a segment under another segment's name")),
            SegmentStart::Unused => return Err(corrupt(path, 0, "an empty header before later segments")),
            SegmentStart::Broken(what) => return Err(corrupt(path, 0, *what)),
            SegmentStart::Newer(_) => unreachable!("read_start refuses newer formats"),
        };
        check_identity(config, chain.as_ref(), path, &header)?;
        chain.get_or_insert_with(|| Chain::new(&header)).add(path, header, walked)?;
    }
    // A segment is prepared only once the one before it has been begun.
    let due = chain.as_ref().map_or(1, |chain| chain.next_segment);
    if let Some((segment, path, _)) = spare.first().filter(|(segment, ..)| *segment > due) {
        return Err(OpenError::EndMissing { path: path.clone(), missing: segment - 1 });
    }
    let reaches = spare.last().map_or(due - 1, |(segment, ..)| *segment);
    if let (Some(chain), Some(noted)) = (&chain, config.noted) {
        chain.check_end(&noted, reaches)?;
    }
    for (segment, path, start) in spare {
        let bytes = std::fs::metadata(&path).map_err(io_error("look at", &path))?.len();
        match &mut chain {
            Some(chain) if segment == chain.next_segment => {
                // Of another size, or with half a header: prepared anew in its place, which is never without a segment.
                if start == SegmentStart::Unused && bytes == config.segment_bytes {
                    chain.unused = Some(path);
                }
            }
            _ => std::fs::remove_file(&path).map_err(io_error("remove", &path))?,
        }
    }
    Ok(chain)
}

/// What the commits of one segment say, checked against its header alone.
struct Walked {
    /// Its last record; one before its first when it has none.
    last: Lsn,
    /// The largest version noted in a commit.
    version: Version,
    /// Bytes of a torn last commit.
    torn: Option<u64>,
    end_offset: u64,
    bytes: u64,
}

/// Walks the commits of every segment that has a header, several at a time: a start waits for this.
fn walk_all(found: &[Found]) -> Vec<Option<Result<Walked, OpenError>>> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(WALKERS_MAX).min(found.len());
    let next = AtomicUsize::new(0);
    let walk_some = || {
        let mut walked = Vec::new();
        for at in std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed)).take_while(|at| *at < found.len()) {
            if let (_, path, SegmentStart::Header(header)) = &found[at] {
                walked.push((at, walk(path, header)));
            }
        }
        walked
    };
    let mut all: Vec<_> = found.iter().map(|_| None).collect();
    thread::scope(|scope| {
        let walkers: Vec<_> = (1..threads).map(|_| scope.spawn(walk_some)).collect();
        let own = walk_some();
        let others = walkers.into_iter().flat_map(|walker| walker.join().expect("walking does not panic"));
        own.into_iter().chain(others).for_each(|(at, walked)| all[at] = Some(walked));
    });
    all
}

fn walk(path: &Path, header: &SegmentHeader) -> Result<Walked, OpenError> {
    let mut last = Lsn(header.first.0.saturating_sub(1));
    let mut version = header.version;
    let mut scan = SegmentScan::open(path, header)?;
    loop {
        let offset = scan.offset();
        let Some((commit, _)) = scan.next()? else { break };
        if commit.base != last.plus(1) {
            let what = format!("a commit of record {}, where {} is the next one", commit.base, last.plus(1));
            return Err(corrupt(path, offset, what));
        }
        last = commit.last();
        version = version.max(commit.version);
    }
    let torn = match scan.tail()? {
        Tail::Clean => None,
        Tail::Torn(bytes) => Some(bytes),
        Tail::Continued(intact) => {
            let what = format!("a broken commit with an intact one after it, at byte {intact}");
            return Err(corrupt(path, scan.offset(), what));
        }
    };
    let bytes = std::fs::metadata(path).map_err(io_error("look at", path))?.len();
    Ok(Walked { last, version, torn, end_offset: scan.offset(), bytes })
}

/// Splits off the last segments that were never begun. A header is durable before the first commit behind it, so a last
/// segment without one holds nothing acknowledged, unless there is something behind it.
fn split_spare(found: &mut Vec<Found>) -> Result<Vec<Found>, OpenError> {
    let begun =
        found.iter().rposition(|(.., start)| matches!(start, SegmentStart::Header(_))).map_or(0, |last| last + 1);
    let spare = found.split_off(begun);
    for (_, path, _) in &spare {
        if holds_anything(path)? {
            return Err(corrupt(path, 0, "a broken header with something behind it"));
        }
    }
    Ok(spare)
}

/// A segment's number, file and first block.
type Found = (u64, PathBuf, SegmentStart);

/// Whether anything was ever written behind a header that cannot be read.
fn holds_anything(path: &Path) -> Result<bool, OpenError> {
    let nobody = SegmentHeader {
        journal: JournalId::default(),
        store: StoreId::default(),
        segment: 0,
        first: Lsn::ZERO,
        version: Version::ZERO,
    };
    Ok(SegmentScan::open(path, &nobody)?.tail()? != Tail::Clean)
}

fn check_identity(
    config: &JournalConfig,
    chain: Option<&Chain>,
    path: &Path,
    header: &SegmentHeader,
) -> Result<(), OpenError> {
    let expected = chain.map(|chain| chain.journal).or(config.expected);
    if let Some(expected) = expected.filter(|expected| *expected != header.journal) {
        return Err(OpenError::ForeignSegment { path: path.to_owned(), found: header.journal, expected });
    }
    if header.store != config.store_id {
        return Err(OpenError::OtherStore { found: header.store, expected: config.store_id });
    }
    Ok(())
}

impl Chain {
    fn new(first: &SegmentHeader) -> Self {
        Self {
            journal: first.journal,
            segments: VecDeque::new(),
            version: Version::ZERO,
            end: Lsn(first.first.0.saturating_sub(1)),
            torn: None,
            next_segment: first.segment,
            unused: None,
        }
    }

    /// The first record that is still here; one past the end when there is none.
    pub(super) fn first(&self) -> Lsn {
        self.segments.front().map_or(self.end.plus(1), |segment| segment.header.first)
    }

    /// Makes what was read last as durable as it looks: what a killed process had written may be in a cache only.
    pub(super) fn flush_last(&self) -> Result<(), OpenError> {
        let Some(last) = self.segments.back() else { return Ok(()) };
        let file = std::fs::File::open(&last.path).map_err(io_error("open", &last.path))?;
        file.sync_all().map_err(io_error("flush", &last.path))
    }

    /// Whether it still reaches as far as was noted elsewhere; `reaches` is its last segment, begun or prepared.
    fn check_end(&self, noted: &EndNote, reaches: u64) -> Result<(), OpenError> {
        if noted.journal != self.journal || (self.end >= noted.end && reaches >= noted.segment) {
            return Ok(());
        }
        let EndNote { segment: noted_segment, end: noted_end, .. } = *noted;
        Err(OpenError::EndOlder { end: self.end, segment: reaches, noted_end, noted_segment })
    }

    /// Whether a store with these cursors can be fed from this journal.
    pub(super) fn check(&self, cursors: &LaneCursors) -> Result<(), ReplayError> {
        let (needed, first) = (cursors.lowest().plus(1), self.first());
        if cursors.highest() > self.end {
            return Err(ReplayError::Ahead { cursor: cursors.highest(), end: self.end });
        }
        if needed < first {
            return Err(ReplayError::Behind { needed, first });
        }
        Ok(())
    }

    /// Gives back the zeros behind the last commit, since a new segment follows: a server that is started often would fill
    /// its journal with them. What was torn is kept as it is.
    pub(super) fn trim_last(&self) -> Result<VecDeque<Sealed>, OpenError> {
        let mut segments = self.segments.clone();
        if let Some(last) = segments.back_mut().filter(|last| self.torn.is_none() && last.end_offset < last.bytes) {
            let failed = |source| OpenError::Io { what: "trim", path: last.path.clone(), source };
            let file = std::fs::OpenOptions::new().write(true).open(&last.path).map_err(failed)?;
            let failed = |source| OpenError::Io { what: "trim", path: last.path.clone(), source };
            file.set_len(last.end_offset).and_then(|()| file.sync_all()).map_err(failed)?;
            last.bytes = last.end_offset;
        }
        Ok(segments)
    }

    /// Joins a segment that was walked to those before.
    fn add(
        &mut self,
        path: &Path,
        header: SegmentHeader,
        walked: Option<Result<Walked, OpenError>>,
    ) -> Result<(), OpenError> {
        let expected = self.end.plus(1);
        if header.first < expected {
            return Err(corrupt(path, 0, format!("a segment that begins at record {}, not {expected}", header.first)));
        }
        if header.first > expected {
            // The segment before ends too early: a broken commit there explains it, else a whole segment is missing.
            return Err(match self.torn.take().and(self.segments.back()) {
                Some(before) => {
                    corrupt(&before.path, before.bytes, "a broken commit that the next segment builds upon")
                }
                None => OpenError::Hole { path: path.to_owned(), expected, found: header.first },
            });
        }
        let Walked { last, version, torn, end_offset, bytes } =
            walked.unwrap_or_else(|| unreachable!("a segment with a header is walked"))?;
        (self.end, self.version, self.torn) = (last, self.version.max(version), torn);
        self.segments.push_back(Sealed { path: path.to_owned(), header, last: self.end, end_offset, bytes });
        self.next_segment = header.segment + 1;
        Ok(())
    }
}
