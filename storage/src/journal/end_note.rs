//! The journal's end, noted outside its folder: how far it had reached at least. Segments are files that a person can restore
//! or lose one by one, and a journal cannot tell by itself that its end is gone. The note never claims more than what is
//! durable, is written beside the commits and never for one, and is never more trusted than to refuse a start.

use std::io;
use std::path::Path;

use super::{JournalId, Lsn};
use crate::folder::replace_file;

const MAGIC: &[u8; 8] = b"MHJEND\0\0";
const FORMAT: u32 = 1;
/// magic, format u32, crc32c u32 of all behind it, journal 16, segment u64, end u64; little-endian
const NOTE_BYTES: usize = 48;

/// What was noted last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndNote {
    /// Of which journal.
    pub journal: JournalId,
    /// The last segment that it had: the one being written, or the one prepared behind it.
    pub segment: u64,
    /// A record that was durable, and all before it.
    pub end: Lsn,
}

impl EndNote {
    /// The note at `path`, or none where there has been none yet. `InvalidData`: it is damaged, or a newer server's.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => Self::decode(&bytes).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the note at `path`: a crash leaves the old one or this one. Two flushes.
    pub(super) fn store(&self, path: &Path) -> io::Result<()> {
        replace_file(path, &self.encode())
    }

    fn encode(&self) -> [u8; NOTE_BYTES] {
        let mut out = [0; NOTE_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[16..32].copy_from_slice(&self.journal.0);
        out[32..40].copy_from_slice(&self.segment.to_le_bytes());
        out[40..].copy_from_slice(&self.end.0.to_le_bytes());
        let crc = crc32c::crc32c(&out[16..]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; NOTE_BYTES] = bytes.try_into().ok()?;
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let sound = bytes.starts_with(MAGIC) && u32_at(8) == FORMAT && crc32c::crc32c(&bytes[16..]) == u32_at(12);
        sound.then(|| Self {
            journal: JournalId(std::array::from_fn(|index| bytes[16 + index])),
            segment: u64_at(32),
            end: Lsn(u64_at(40)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_comes_back_and_whatever_broke_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal-end");
        assert_eq!(EndNote::load(&path).unwrap(), None);
        let note = EndNote { journal: JournalId([7; 16]), segment: 3, end: Lsn(99) };
        note.store(&path).unwrap();
        assert_eq!(EndNote::load(&path).unwrap(), Some(note));
        let whole = note.encode();
        for bit in 0..whole.len() * 8 {
            let mut broken = whole;
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(EndNote::decode(&broken), None, "bit {bit}");
        }
        assert_eq!(EndNote::decode(&whole[..NOTE_BYTES - 1]), None);
    }
}
