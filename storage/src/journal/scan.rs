//! Reading one segment from its first commit on, through a window, so that a journal of many gigabytes is walked in a few
//! megabytes of memory. It says where the intact commits end and what lies behind them; it decides nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::format::{BLOCK_BYTES, COMMIT_HEADER_BYTES, CommitHeader, FORMAT, SegmentHeader, SegmentStart};
use super::{JournalId, OpenError};

/// Read at once: large enough that small commits cost no system call each.
const WINDOW_BYTES: usize = 1 << 20;

const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// What lies behind the last intact commit of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tail {
    /// Zeros, or nothing.
    Clean,
    /// Something that is no commit, ending after this many bytes.
    Torn(u64),
    /// Something that is no commit, and an intact commit at this offset.
    Continued(u64),
}

/// One segment being read.
#[derive(Debug)]
pub(super) struct SegmentScan {
    file: File,
    path: PathBuf,
    journal: JournalId,
    segment: u64,
    offset: u64,
    window: Vec<u8>,
    window_at: u64,
    /// How much of the window has been read.
    filled: usize,
}

/// An I/O failure on a journal path.
pub(super) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { what, path: path.to_owned(), source }
}

/// Reads and checks the first block of the segment at `path`; a newer format is an error.
pub(super) fn read_start(path: &Path) -> Result<SegmentStart, OpenError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let mut block = [0; BLOCK_BYTES];
    let got = read_up_to(&file, &mut block, 0).map_err(io_error("read", path))?;
    match SegmentHeader::decode(&block[..got]) {
        SegmentStart::Newer(found) => Err(OpenError::NewerFormat { path: path.to_owned(), found, known: FORMAT }),
        start => Ok(start),
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

impl SegmentScan {
    /// Begins at the first commit of the segment whose header says `header`.
    pub(super) fn open(path: &Path, header: &SegmentHeader) -> Result<Self, OpenError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        // Sequential: twice the read-ahead.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Self {
            file,
            path: path.to_owned(),
            journal: header.journal,
            segment: header.segment,
            offset: BLOCK_BYTES as u64,
            window: Vec::new(),
            window_at: 0,
            filled: 0,
        })
    }

    /// The segment's file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the next commit begins, or would.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next intact commit and its records, or none where the intact ones end.
    pub(super) fn next(&mut self) -> Result<Option<(CommitHeader, &[u8])>, OpenError> {
        let Some(header) = self.intact_at(self.offset)? else { return Ok(None) };
        let at = (self.offset - self.window_at) as usize;
        self.offset += header.padded_bytes() as u64;
        Ok(Some((header, &self.window[at + COMMIT_HEADER_BYTES..at + header.content_bytes()])))
    }

    /// Forgets what was read ahead: a segment that is still being written may have more by now.
    pub(super) fn refresh(&mut self) {
        self.filled = 0;
        let _ = rustix::fs::fadvise(&self.file, self.offset, None, rustix::fs::Advice::DontNeed);
    }

    /// Looks at everything behind the intact commits. Call after `next` has returned none.
    pub(super) fn tail(&mut self) -> Result<Tail, OpenError> {
        let mut at = self.offset;
        let mut torn_end = None;
        loop {
            let block = self.bytes(at, BLOCK_BYTES)?;
            if block.is_empty() {
                break;
            }
            if block != &ZEROS[..block.len()] {
                torn_end = Some(at + block.len() as u64);
                if at > self.offset && self.intact_at(at)?.is_some() {
                    return Ok(Tail::Continued(at));
                }
            }
            at += BLOCK_BYTES as u64;
        }
        Ok(torn_end.map_or(Tail::Clean, |end| Tail::Torn(end - self.offset)))
    }

    fn intact_at(&mut self, at: u64) -> Result<Option<CommitHeader>, OpenError> {
        let (journal, segment) = (self.journal, self.segment);
        let Some(header) = CommitHeader::peek(self.bytes(at, COMMIT_HEADER_BYTES)?, journal, segment) else {
            return Ok(None);
        };
        let content = self.bytes(at, header.content_bytes())?;
        let whole = content.len() == header.content_bytes();
        Ok((whole && CommitHeader::is_intact(content, header.content_bytes())).then_some(header))
    }

    /// `length` bytes at `at`, or as many as there are.
    fn bytes(&mut self, at: u64, length: usize) -> Result<&[u8], OpenError> {
        let inside = at >= self.window_at && at + length as u64 <= self.window_at + self.filled as u64;
        if !inside {
            self.filled = 0;
            if self.window.len() < length.max(WINDOW_BYTES) {
                self.window = vec![0; length.max(WINDOW_BYTES)];
            }
            self.filled = read_up_to(&self.file, &mut self.window, at).map_err(io_error("read", &self.path))?;
            self.window_at = at;
        }
        let start = (at - self.window_at) as usize;
        Ok(&self.window[start..(start + length).min(self.filled)])
    }
}
