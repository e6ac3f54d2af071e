//! The bytes of one entry of the stream between nodes: a header of fixed size and what it announces. What is written here may
//! be read by the next server version and the one before, so a layout never changes; a new one gets a new version byte. All
//! numbers are little-endian.
//!
//! ```text
//! header       version u8 = 1, kind u8, 0 0, node u32, epoch u64, seq u64, stored u64, sent_unix_ms u64            = 40 bytes
//! 1 word       nothing
//! 2 records    per record: kind u8, layout u8, length u16, payload (as in the journal, see `crate::record`)
//! 3 revoked    per grant: grant 16, user 16, revoked_at_unix_ms u64, keep_until_unix_ms u64
//! 4 goodbye    nothing
//! ```
//! `epoch` tells the runs of a node apart. `seq` counts what a run has told and what it failed to tell: an entry with content
//! has the next one, a word repeats the last; so who misses one notices with the next word. `stored` is the highest `seq` of
//! which the node's store has everything; all ones while it lacks something from before this run.

use proto::{GrantId, NodeId, UserId};

use crate::journal::RawRecord;
use crate::record;
use crate::store::Revocation;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 40;
const REVOKED_BYTES: usize = 48;
const NOTHING_STORED: u64 = u64::MAX;

/// The most that an entry holds beside its header.
pub(super) const BODY_BYTES_MAX: usize = 16 << 10;

/// What an entry announces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// That the node lives.
    Word = 1,
    /// Changes.
    Records = 2,
    /// Sessions that were ended.
    Revoked = 3,
    /// The end of a run that has told everything.
    Goodbye = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Word, Self::Records, Self::Revoked, Self::Goodbye].into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether it is counted by `seq`.
    pub(super) fn has_content(self) -> bool {
        matches!(self, Self::Records | Self::Revoked)
    }
}

/// Who says it, and where in what they say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) node: NodeId,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) stored: Option<u64>,
    pub(super) sent_unix_ms: u64,
}

impl Header {
    /// The entry's bytes.
    pub(super) fn with(&self, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&[VERSION, self.kind as u8, 0, 0]);
        bytes.extend_from_slice(&self.node.0.to_le_bytes());
        for number in [self.epoch, self.seq, self.stored.unwrap_or(NOTHING_STORED), self.sent_unix_ms] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(body);
        bytes
    }

    /// What an entry says, and its content. `None` when it is not one that this version knows.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = Rest(bytes);
        let [VERSION, kind, _, _] = rest.take()? else { return None };
        let node = NodeId(u32::from_le_bytes(rest.take()?));
        let [epoch, seq, stored, sent_unix_ms] = [rest.u64()?, rest.u64()?, rest.u64()?, rest.u64()?];
        let stored = Some(stored).filter(|stored| *stored != NOTHING_STORED);
        Some((Self { kind: Kind::from_byte(kind)?, node, epoch, seq, stored, sent_unix_ms }, rest.0))
    }
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const WIDTH: usize>(&mut self) -> Option<[u8; WIDTH]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// Appends one record as the journal has it; false, and nothing is done, when it finds no room.
pub(super) fn put_record(body: &mut Vec<u8>, raw: &RawRecord<'_>) -> bool {
    let Ok(length) = u16::try_from(raw.payload.len()) else { return false };
    if body.len() + 4 + raw.payload.len() > BODY_BYTES_MAX {
        return false;
    }
    body.extend_from_slice(&[raw.kind, raw.version]);
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(raw.payload);
    true
}

/// The records of an entry, and how many of them this version cannot read. `None` when the bytes are no entry's.
pub(super) fn parse_records(body: &[u8]) -> Option<(Vec<hub::Record>, u64)> {
    let mut rest = Rest(body);
    let (mut records, mut unreadable) = (Vec::with_capacity(body.len() / 64), 0);
    while !rest.0.is_empty() {
        let [kind, layout, low, high] = rest.take()?;
        let payload = rest.bytes(usize::from(u16::from_le_bytes([low, high])))?;
        match record::decode_parts(kind, layout, payload) {
            Ok(record) => records.push(record),
            Err(_) => unreadable += 1,
        }
    }
    Some((records, unreadable))
}

/// Sessions that were ended, in as many bodies as they need.
pub(super) fn revoked_bodies(revoked: &[Revocation]) -> impl Iterator<Item = Vec<u8>> {
    revoked.chunks(BODY_BYTES_MAX / REVOKED_BYTES).map(|revoked| {
        let mut body = Vec::with_capacity(revoked.len() * REVOKED_BYTES);
        for Revocation { grant, user, revoked_at_unix_ms, keep_until_unix_ms } in revoked {
            body.extend_from_slice(grant.as_bytes());
            body.extend_from_slice(user.as_bytes());
            body.extend_from_slice(&revoked_at_unix_ms.to_le_bytes());
            body.extend_from_slice(&keep_until_unix_ms.to_le_bytes());
        }
        body
    })
}

/// The sessions of an entry.
pub(super) fn parse_revoked(body: &[u8]) -> Option<Vec<Revocation>> {
    let mut rest = Rest(body);
    let mut revoked = Vec::with_capacity(body.len() / REVOKED_BYTES);
    while !rest.0.is_empty() {
        revoked.push(Revocation {
            grant: GrantId::from_bytes(rest.take()?),
            user: UserId::from_bytes(rest.take()?),
            revoked_at_unix_ms: rest.u64()?,
            keep_until_unix_ms: rest.u64()?,
        });
    }
    Some(revoked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(kind: Kind) -> Header {
        Header { kind, node: NodeId(7), epoch: 1 << 40, seq: 9, stored: Some(8), sent_unix_ms: 1_800_000_000_000 }
    }

    #[test]
    fn an_entry_has_the_bytes_that_are_documented() {
        let bytes = Header { stored: None, ..header(Kind::Word) }.with(&[]);
        let mut expected = vec![1, 1, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([0xFF; 8]);
        expected.extend(1_800_000_000_000_u64.to_le_bytes());
        assert_eq!(bytes, expected);
        for kind in [Kind::Word, Kind::Records, Kind::Revoked, Kind::Goodbye] {
            let bytes = header(kind).with(b"body");
            assert_eq!(Header::parse(&bytes), Some((header(kind), &b"body"[..])));
        }
    }

    #[test]
    fn an_entry_of_another_version_or_kind_is_no_entry() {
        let bytes = header(Kind::Word).with(&[]);
        for (at, byte) in [(0, 2), (1, 0), (1, 5)] {
            let mut other = bytes.clone();
            other[at] = byte;
            assert_eq!(Header::parse(&other), None);
        }
        assert_eq!(Header::parse(&bytes[..39]), None);
    }

    #[test]
    fn records_of_a_newer_layout_are_passed_over_and_counted() {
        let body = [9, 9, 2, 0, 0xAB, 0xCD];
        assert_eq!(parse_records(&body), Some((Vec::new(), 1)));
        assert_eq!(parse_records(&body[..5]), None);
    }

    #[test]
    fn revocations_read_back_however_many() {
        let all: Vec<Revocation> = (0..1_000_u64)
            .map(|number| Revocation {
                grant: GrantId::from_bytes([number as u8; 16]),
                user: UserId::from_bytes([3; 16]),
                revoked_at_unix_ms: number,
                keep_until_unix_ms: number + 1,
            })
            .collect();
        let bodies: Vec<Vec<u8>> = revoked_bodies(&all).collect();
        assert!(bodies.len() > 1 && bodies.iter().all(|body| body.len() <= BODY_BYTES_MAX));
        let read: Vec<Revocation> = bodies.iter().flat_map(|body| parse_revoked(body).unwrap()).collect();
        assert_eq!(read, all);
        assert_eq!(parse_revoked(&bodies[0][1..]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_entry_or_not(bytes: Vec<u8>) {
            if let Some((_, body)) = Header::parse(&bytes) {
                let _ = (parse_records(body), parse_revoked(body));
            }
            let _ = (parse_records(&bytes), parse_revoked(&bytes));
        }
    }
}
