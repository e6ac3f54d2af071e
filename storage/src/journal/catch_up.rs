//! Reading committed records back from the segments, for a store writer that has fallen behind, while the journal goes on
//! writing the last of them. It reads only what is known to be durable and never looks for an end itself.

use std::path::PathBuf;

use super::chain;
use super::feed::Committed;
use super::format::{CommitHeader, SegmentHeader, SegmentStart, parse_record};
use super::scan::{SegmentScan, read_start};
use super::{JournalId, Lsn, OpenError};

/// Small commits are gathered up to this size, so that the reader is asked once per batch and not once per record.
const BATCH_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct SegmentReader {
    folder: PathBuf,
    journal: JournalId,
    scan: Option<SegmentScan>,
}

/// Records read so far.
struct Gathered {
    count: u32,
    bytes: Vec<u8>,
}

impl SegmentReader {
    pub(super) fn new(folder: PathBuf, journal: JournalId) -> Self {
        Self { folder, journal, scan: None }
    }

    /// Lets go of the file that was being read, and of the memory.
    pub(super) fn close(&mut self) {
        self.scan = None;
    }

    /// Records from `next` on, at least one, none beyond `durable`; `next` must not be beyond it either.
    pub(super) fn read(&mut self, next: Lsn, durable: Lsn) -> Result<Committed, OpenError> {
        let mut batch = Gathered { count: 0, bytes: Vec::new() };
        while batch.bytes.len() < BATCH_BYTES {
            let wanted = next.plus(u64::from(batch.count));
            if wanted > durable {
                break;
            }
            if !self.append_commit(wanted, &mut batch)? {
                self.look_again(wanted, &mut batch)?;
            }
        }
        Ok(Committed { first: next, count: batch.count, bytes: batch.bytes.into() })
    }

    /// After the end of a segment, or of what had been written when it was last read.
    fn look_again(&mut self, wanted: Lsn, batch: &mut Gathered) -> Result<(), OpenError> {
        if let Some(scan) = &mut self.scan {
            scan.refresh();
            if self.append_commit(wanted, batch)? {
                return Ok(());
            }
        }
        self.scan = Some(self.find(wanted)?);
        if self.append_commit(wanted, batch)? {
            return Ok(());
        }
        self.scan = None;
        Err(self.lost(wanted))
    }

    /// Adds the commit that contains `wanted` and continues `batch` exactly; false when this segment has none.
    fn append_commit(&mut self, wanted: Lsn, batch: &mut Gathered) -> Result<bool, OpenError> {
        let Some(scan) = &mut self.scan else { return Ok(false) };
        loop {
            let Some((header, records)) = scan.next()? else { return Ok(false) };
            if header.last() < wanted {
                continue;
            }
            if header.base > wanted {
                return Ok(false);
            }
            let skipped = skip_to(records, &header, wanted).map_err(|what| OpenError::Corrupt {
                path: self.folder.clone(),
                offset: 0,
                what: format!("{what}, before record {wanted}"),
            })?;
            batch.bytes.extend_from_slice(&records[skipped..]);
            batch.count += (header.last().0 - wanted.0 + 1) as u32;
            return Ok(true);
        }
    }

    /// The segment that contains `wanted`: the last one that begins at or before it.
    fn find(&self, wanted: Lsn) -> Result<SegmentScan, OpenError> {
        let mut best: Option<(PathBuf, SegmentHeader)> = None;
        for (_, path) in chain::list(&self.folder)? {
            match read_start(&path) {
                Ok(SegmentStart::Header(header)) if header.journal == self.journal && header.first <= wanted => {
                    best = Some((path, header));
                }
                // Prepared ones, and those that the journal drops while we look.
                _ => {}
            }
        }
        let (path, header) = best.ok_or_else(|| self.lost(wanted))?;
        SegmentScan::open(&path, &header)
    }

    fn lost(&self, wanted: Lsn) -> OpenError {
        OpenError::Corrupt {
            path: self.folder.clone(),
            offset: 0,
            what: format!("record {wanted} is durable and cannot be found"),
        }
    }
}

fn skip_to(records: &[u8], header: &CommitHeader, wanted: Lsn) -> Result<usize, &'static str> {
    let mut at = 0;
    for lsn in header.base.0..wanted.0 {
        at += parse_record(&records[at..], Lsn(lsn))?.1;
    }
    Ok(at)
}
