//! Opening a journal: the chain of segments is checked before anything is replayed, a torn last commit is dropped and
//! reported, anything else that is broken is refused with the way out. It must never drop an acknowledged record silently.

use std::collections::VecDeque;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use proto::Version;
use ring::rand::{SecureRandom, SystemRandom};

use super::chain::{self, Chain, Sealed};
use super::feed::RawRecord;
use super::format::{record_extent, record_parts};
use super::scan::{SegmentScan, io_error};
use super::{JournalConfig, JournalId, LaneCursors, Lsn, Medium, OpenError, ReplayError, Starter};
use crate::file_system;
use crate::lane::{LANES, Lane};

/// An opened journal: first replay, then start.
#[derive(Debug)]
pub struct Opened {
    /// Starts the threads, once the records have been replayed.
    pub journal: Starter,
    /// What the journal contains.
    pub recovery: Recovery,
}

/// What a journal contained when it was opened.
#[derive(Clone, Debug)]
pub struct Recovery {
    pub(super) chain: Arc<Chain>,
    pub(super) medium: Medium,
}

/// What one walk over the journal gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replayed {
    /// Records at or before their lane's cursor: the store has them.
    pub skipped: u64,
    /// Records handed out.
    pub replayed: u64,
}

impl Recovery {
    /// Which journal: the key of the store's cursors.
    pub fn journal_id(&self) -> JournalId {
        self.chain.journal
    }

    /// Whether there was no journal and one has been begun.
    pub fn is_fresh(&self) -> bool {
        self.chain.segments.is_empty()
    }

    /// The last durable record.
    pub fn end(&self) -> Lsn {
        self.chain.end
    }

    /// The first record that is still here; one past the end when there is none.
    pub fn first(&self) -> Lsn {
        self.chain.first()
    }

    /// The largest version that any segment or commit has noted: the clock must start above it.
    pub fn version_high_water(&self) -> Version {
        self.chain.version
    }

    /// What the journal stands on.
    pub fn medium(&self) -> &Medium {
        &self.medium
    }

    /// Checks the store's cursors against the journal and begins a walk over every record behind its lane's cursor.
    pub fn replay(&self, from: &LaneCursors) -> Result<Replay, ReplayError> {
        self.replay_lanes(from, |_| true)
    }

    /// The same for some of the lanes, so that several can walk at once; records of the others are neither handed out nor counted.
    pub fn replay_lanes(&self, from: &LaneCursors, mine: impl Fn(Lane) -> bool) -> Result<Replay, ReplayError> {
        self.chain.check(from)?;
        let needed = from.lowest().plus(1);
        let segments = self.chain.segments.iter().filter(|segment| segment.last >= needed).cloned().collect();
        Ok(Replay {
            segments,
            scan: None,
            from: *from,
            lanes: std::array::from_fn(|at| Lane::all().nth(at).is_some_and(&mine)),
            commit: Vec::new(),
            at: 0,
            lsn: Lsn::ZERO,
            after: Lsn::ZERO,
            counts: Replayed::default(),
        })
    }
}

/// A walk over the records that the store has not applied, in LSN order.
#[derive(Debug)]
pub struct Replay {
    segments: VecDeque<Sealed>,
    scan: Option<SegmentScan>,
    from: LaneCursors,
    lanes: [bool; LANES],
    commit: Vec<u8>,
    at: usize,
    lsn: Lsn,
    /// The position behind this commit, as its header has it.
    after: Lsn,
    counts: Replayed,
}

impl Replay {
    /// The next record, or none at the end of the journal. A lending iterator: the record is valid until the next call.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<RawRecord<'_>>, ReplayError> {
        loop {
            if self.at == self.commit.len() {
                // Positions are counted, not written: a commit that holds fewer or more would shift all that follow.
                if self.lsn != self.after {
                    return Err(self.broken("a commit of another number of records than its header says"));
                }
                if !self.next_commit()? {
                    return Ok(None);
                }
                continue;
            }
            let (start, lsn) = (self.at, self.lsn);
            if let Some((lane, taken)) = record_extent(&self.commit[start..])
                && !self.lanes[lane.index()]
            {
                (self.at, self.lsn) = (start + taken, lsn.plus(1));
                continue;
            }
            let parts = record_parts(&self.commit[start..]).map_err(|what| self.broken(what))?;
            self.at += parts.end;
            self.lsn = lsn.plus(1);
            if lsn > self.from.get(parts.lane) {
                self.counts.replayed += 1;
                return Ok(Some(parts.record(&self.commit[start..], lsn)));
            }
            self.counts.skipped += 1;
        }
    }

    /// Counts so far.
    pub fn replayed(&self) -> Replayed {
        self.counts
    }

    fn broken(&self, what: &str) -> ReplayError {
        let (path, offset) = self.scan.as_ref().map(|scan| (scan.path().to_owned(), scan.offset())).unwrap_or_default();
        ReplayError::Segment(OpenError::Corrupt { path, offset, what: format!("{what}, record {}", self.lsn) })
    }

    fn next_commit(&mut self) -> Result<bool, ReplayError> {
        loop {
            if let Some(scan) = &mut self.scan
                && let Some((header, records)) = scan.next()?
            {
                self.commit.clear();
                self.commit.extend_from_slice(records);
                self.at = 0;
                self.lsn = header.base;
                self.after = header.last().plus(1);
                return Ok(true);
            }
            let Some(segment) = self.segments.pop_front() else { return Ok(false) };
            self.scan = Some(SegmentScan::open(&segment.path, &segment.header)?);
        }
    }
}

/// Opens the journal in `config.folder`, or begins a new one where there is none. Reads and checks every segment.
pub fn open(config: JournalConfig) -> Result<Opened, OpenError> {
    let folder = &config.folder;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error("make", folder))?;
    let medium = config.engine.probe(folder).map_err(io_error("write to", folder))?;
    chain::remove_unfinished(folder)?;
    let found = chain::read(&config)?;
    let chain = match (found, config.expected) {
        (Some(chain), _) => chain,
        (None, Some(expected)) => return Err(OpenError::Missing { path: folder.clone(), expected }),
        (None, None) => begin(folder)?,
    };
    chain.flush_last()?;
    file_system::sync_folder(folder).map_err(io_error("flush", folder))?;
    if let Some(bytes) = chain.torn {
        tracing::warn!(bytes, end = chain.end.0, "the journal's last commit was torn; it had never been acknowledged");
    }
    let chain = Arc::new(chain);
    let recovery = Recovery { chain: chain.clone(), medium };
    Ok(Opened { journal: Starter::new(config, chain), recovery })
}

fn begin(folder: &std::path::Path) -> Result<Chain, OpenError> {
    let mut id = [0; 16];
    SystemRandom::new()
        .fill(&mut id)
        .map_err(|_| io_error("get random bytes for", folder)(std::io::Error::other("the system gave none")))?;
    Ok(Chain {
        journal: JournalId(id),
        segments: VecDeque::new(),
        version: Version::ZERO,
        end: Lsn::ZERO,
        torn: None,
        next_segment: 1,
        unused: None,
    })
}
