//! The journal's bytes: segment headers, commit headers and record frames, all little-endian. Whoever writes or reads a
//! segment goes through here; nothing here does I/O. A layout is never changed in place, only by a new format number.
//!
//! ```text
//! segment   block 0: magic "MHJOURNL", format u32, crc u32, journal 16, store 16, segment u64, first_lsn u64, version u64
//!           then commits, each beginning on a 4 KiB block; zeros up to the end
//! commit    magic "MHCM", crc u32, journal 16, segment u64, base_lsn u64, version u64, count u32, bytes u32, 0 u64;
//!           then `bytes` of records, `count` of them, with positions base_lsn, base_lsn + 1, ..; zeros up to the block's end
//! record    length u32, crc32c u32, lane u8, kind u8, layout version u8, 0 u8; then `length` bytes
//! ```
//! A segment's crc covers its first 128 bytes with the crc as zero; a commit's covers everything behind the crc, records
//! included; a record's everything behind the crc.

use proto::Version;

use super::feed::RawRecord;
use super::{JournalId, Lsn, StoreId};
use crate::lane::Lane;

/// The unit of writing: commits begin and end on it.
pub(super) const BLOCK_BYTES: usize = 4096;
/// The newest format that this build reads and the one it writes.
pub(super) const FORMAT: u32 = 1;
/// What a commit takes before its first record.
pub(super) const COMMIT_HEADER_BYTES: usize = 64;
/// What a record takes before its payload.
pub(super) const RECORD_HEADER_BYTES: usize = 12;
/// The most that records of one commit take.
pub(super) const COMMIT_RECORD_BYTES_MAX: usize = 8 << 20;

const SEGMENT_MAGIC: &[u8; 8] = b"MHJOURNL";
const COMMIT_MAGIC: &[u8; 4] = b"MHCM";
const SEGMENT_HEADER_BYTES: usize = 128;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn id_at(bytes: &[u8], at: usize) -> [u8; 16] {
    std::array::from_fn(|index| bytes[at + index])
}

/// The first block of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    /// Which journal.
    pub(super) journal: JournalId,
    /// Which store it drains into.
    pub(super) store: StoreId,
    /// The segment's number; its file name says the same.
    pub(super) segment: u64,
    /// The position of its first record.
    pub(super) first: Lsn,
    /// The largest version written before this segment.
    pub(super) version: Version,
}

/// What the first block of a segment turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SegmentStart {
    /// A segment of a format that this build reads.
    Header(SegmentHeader),
    /// Prepared and never used.
    Unused,
    /// A format number above [`FORMAT`].
    Newer(u32),
    /// Neither; what is wrong.
    Broken(&'static str),
}

impl SegmentHeader {
    /// One block.
    pub(super) fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[0..8].copy_from_slice(SEGMENT_MAGIC);
        block[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        block[16..32].copy_from_slice(&self.journal.0);
        block[32..48].copy_from_slice(&self.store.0);
        block[48..56].copy_from_slice(&self.segment.to_le_bytes());
        block[56..64].copy_from_slice(&self.first.0.to_le_bytes());
        block[64..72].copy_from_slice(&self.version.0.to_le_bytes());
        let crc = crc32c::crc32c(&block[..SEGMENT_HEADER_BYTES]);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Reads the first block of a segment; fewer bytes than a block are broken.
    pub(super) fn decode(block: &[u8]) -> SegmentStart {
        if block.len() < BLOCK_BYTES {
            return SegmentStart::Broken("a file too short for a header");
        }
        if block.iter().all(|byte| *byte == 0) {
            return SegmentStart::Unused;
        }
        if &block[..8] != SEGMENT_MAGIC {
            return SegmentStart::Broken("a header without the magic");
        }
        // Before the checksum: a newer format may keep its checksum elsewhere.
        let format = u32_at(block, 8);
        if format > FORMAT {
            return SegmentStart::Newer(format);
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..12]), &[0; 4]);
        let crc = crc32c::crc32c_append(crc, &block[16..SEGMENT_HEADER_BYTES]);
        if format == 0 || crc != u32_at(block, 12) {
            return SegmentStart::Broken("a header with a wrong checksum");
        }
        SegmentStart::Header(SegmentHeader {
            journal: JournalId(id_at(block, 16)),
            store: StoreId(id_at(block, 32)),
            segment: u64_at(block, 48),
            first: Lsn(u64_at(block, 56)),
            version: Version(u64_at(block, 64)),
        })
    }
}

/// What stands before the records of a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CommitHeader {
    /// Which journal.
    pub(super) journal: JournalId,
    /// Which segment it was written for.
    pub(super) segment: u64,
    /// The position of its first record.
    pub(super) base: Lsn,
    /// The largest version written so far.
    pub(super) version: Version,
    /// How many records; at least one.
    pub(super) count: u32,
    /// How many bytes they take.
    pub(super) bytes: u32,
}

impl CommitHeader {
    /// Fills in the header at the front of a commit whose records already follow it.
    pub(super) fn seal(&self, commit: &mut [u8]) {
        commit[0..4].copy_from_slice(COMMIT_MAGIC);
        commit[8..24].copy_from_slice(&self.journal.0);
        commit[24..32].copy_from_slice(&self.segment.to_le_bytes());
        commit[32..40].copy_from_slice(&self.base.0.to_le_bytes());
        commit[40..48].copy_from_slice(&self.version.0.to_le_bytes());
        commit[48..52].copy_from_slice(&self.count.to_le_bytes());
        commit[52..56].copy_from_slice(&self.bytes.to_le_bytes());
        commit[56..64].fill(0);
        let crc = crc32c::crc32c(&commit[8..self.content_bytes()]);
        commit[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// The header's fields, if the bytes begin like a commit of this journal and segment. The records are not looked at.
    pub(super) fn peek(bytes: &[u8], journal: JournalId, segment: u64) -> Option<CommitHeader> {
        if bytes.len() < COMMIT_HEADER_BYTES || &bytes[..4] != COMMIT_MAGIC {
            return None;
        }
        let header = CommitHeader {
            journal: JournalId(id_at(bytes, 8)),
            segment: u64_at(bytes, 24),
            base: Lsn(u64_at(bytes, 32)),
            version: Version(u64_at(bytes, 40)),
            count: u32_at(bytes, 48),
            bytes: u32_at(bytes, 52),
        };
        let sane = header.count > 0
            && header.base.0 > 0
            && header.base.0.checked_add(u64::from(header.count)).is_some()
            && header.bytes as usize >= header.count as usize * RECORD_HEADER_BYTES
            && header.bytes as usize <= COMMIT_RECORD_BYTES_MAX;
        (header.journal == journal && header.segment == segment && sane).then_some(header)
    }

    /// Whether the checksum of the whole commit is right; `commit` must hold [`Self::content_bytes`].
    pub(super) fn is_intact(commit: &[u8], content_bytes: usize) -> bool {
        crc32c::crc32c(&commit[8..content_bytes]) == u32_at(commit, 4)
    }

    /// Header and records, without padding.
    pub(super) fn content_bytes(&self) -> usize {
        COMMIT_HEADER_BYTES + self.bytes as usize
    }

    /// What it takes in the segment.
    pub(super) fn padded_bytes(&self) -> usize {
        self.content_bytes().next_multiple_of(BLOCK_BYTES)
    }

    /// The position of its last record.
    pub(super) fn last(&self) -> Lsn {
        Lsn(self.base.0 + u64::from(self.count) - 1)
    }
}

/// Appends one framed record; `encode` writes the payload. Returns the bytes taken.
pub(super) fn push_record(
    out: &mut Vec<u8>,
    lane: Lane,
    kind: u8,
    layout_version: u8,
    encode: impl FnOnce(&mut Vec<u8>),
) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, lane.as_byte(), kind, layout_version, 0]);
    encode(out);
    let length = out.len() - start - RECORD_HEADER_BYTES;
    let crc = crc32c::crc32c(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    length + RECORD_HEADER_BYTES
}

/// A record's header, checked, and where the record ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordParts {
    pub(super) lane: Lane,
    pub(super) kind: u8,
    pub(super) version: u8,
    pub(super) end: usize,
}

impl RecordParts {
    /// The record that these are parts of; `bytes` begin with it.
    pub(super) fn record<'a>(&self, bytes: &'a [u8], lsn: Lsn) -> RawRecord<'a> {
        let Self { lane, kind, version, end } = *self;
        RawRecord { lsn, lane, kind, version, payload: &bytes[RECORD_HEADER_BYTES..end] }
    }
}

/// The parts of the first record of `bytes`; an error says what is wrong with it.
pub(super) fn record_parts(bytes: &[u8]) -> Result<RecordParts, &'static str> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err("a record cut off in its header");
    }
    let end = RECORD_HEADER_BYTES + u32_at(bytes, 0) as usize;
    if bytes.len() < end {
        return Err("a record longer than its commit");
    }
    if crc32c::crc32c(&bytes[8..end]) != u32_at(bytes, 4) {
        return Err("a record with a wrong checksum");
    }
    let lane = Lane::from_byte(bytes[8]).ok_or("a record in a lane that does not exist")?;
    Ok(RecordParts { lane, kind: bytes[9], version: bytes[10], end })
}

/// Lane and length of the first record of `bytes`, without looking at what it says: a checksum over all of them was right.
pub(super) fn record_extent(bytes: &[u8]) -> Option<(Lane, usize)> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return None;
    }
    let end = RECORD_HEADER_BYTES + u32_at(bytes, 0) as usize;
    Lane::from_byte(bytes[8]).filter(|_| end <= bytes.len()).map(|lane| (lane, end))
}

/// The first record of `bytes`, which begin at position `lsn`, and what it takes.
pub(super) fn parse_record(bytes: &[u8], lsn: Lsn) -> Result<(RawRecord<'_>, usize), &'static str> {
    record_parts(bytes).map(|parts| (parts.record(bytes, lsn), parts.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_header_comes_back_and_any_flipped_bit_is_seen() {
        let header = SegmentHeader {
            journal: JournalId([7; 16]),
            store: StoreId([9; 16]),
            segment: 3,
            first: Lsn(77),
            version: Version(1 << 40),
        };
        let block = header.encode();
        assert_eq!(SegmentHeader::decode(&block), SegmentStart::Header(header));
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut broken = block;
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(SegmentHeader::decode(&broken), SegmentStart::Header(header), "bit {bit}");
            assert!(!matches!(SegmentHeader::decode(&broken), SegmentStart::Header(_)), "bit {bit}");
        }
        assert_eq!(SegmentHeader::decode(&[0; BLOCK_BYTES]), SegmentStart::Unused);
    }

    #[test]
    fn a_record_comes_back_and_any_flipped_bit_is_seen() {
        let mut bytes = Vec::new();
        let lane = Lane::from_byte(5).unwrap();
        let taken = push_record(&mut bytes, lane, 2, 1, |out| out.extend_from_slice(b"payload"));
        assert_eq!(taken, bytes.len());
        let (record, end) = parse_record(&bytes, Lsn(4)).unwrap();
        assert_eq!(
            (record.lane, record.kind, record.version, record.payload, end),
            (lane, 2, 1, &b"payload"[..], taken)
        );
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_record(&broken, Lsn(4)).is_err(), "bit {bit}");
        }
    }
}
