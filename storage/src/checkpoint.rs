//! The local checkpoint: what a server needs to know to start while its store is away (cursors, identities, the clock's
//! high-water mark, revoked grants, the catalogue). It is derived: replaced as a whole, never edited, and never more
//! trusted than the store when the store is there.

use std::io;
use std::path::Path;

use proto::Version;

use crate::folder::replace_file;
use crate::journal::{JournalId, LaneCursors, Lsn, StoreId};
use crate::lane::{LANES, Lane};

const MAGIC: &[u8; 8] = b"MHCHECKP";
const FORMAT: u32 = 1;
/// magic, format, crc, journal, store, version, cursors, lengths of the two blobs
const HEADER_BYTES: usize = 16 + 16 + 16 + 8 + LANES * 8 + 16;

/// What the last running server knew.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checkpoint {
    /// Its journal.
    pub journal: JournalId,
    /// The store it drained into.
    pub store: StoreId,
    /// How far it had drained.
    pub cursors: LaneCursors,
    /// The largest version it had given out, or reserved.
    pub version: Version,
    /// Revoked grants, in the engine's encoding.
    pub revocations: Vec<u8>,
    /// The catalogue, in the engine's encoding; empty when it was not kept.
    pub catalogue: Vec<u8>,
}

/// Why there is no checkpoint to use.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It cannot be read or written.
    #[error("the checkpoint: {0}")]
    Io(#[from] io::Error),
    /// It is not what was written. Safe to ignore when the store answers: everything in it is there too.
    #[error(
        "the checkpoint is damaged ({0}). It is needed only while the store is away: start with the store reachable, and it \
         is written anew"
    )]
    Damaged(&'static str),
    /// Written by a newer server.
    #[error("the checkpoint has format {found}; this server reads up to {known}. Start the newer server again")]
    Newer {
        /// Its format.
        found: u32,
        /// The newest one this build reads.
        known: u32,
    },
}

impl Checkpoint {
    /// The checkpoint at `path`, or none where there has been none yet.
    pub fn load(path: &Path) -> Result<Option<Self>, CheckpointError> {
        match std::fs::read(path) {
            Ok(bytes) => Self::decode(&bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the checkpoint at `path`: a crash leaves the old one or this one. Two flushes.
    pub fn store(&self, path: &Path) -> Result<(), CheckpointError> {
        Ok(replace_file(path, &self.encode())?)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.revocations.len() + self.catalogue.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.journal.0);
        out.extend_from_slice(&self.store.0);
        out.extend_from_slice(&self.version.0.to_le_bytes());
        for lane in Lane::all() {
            out.extend_from_slice(&self.cursors.get(lane).0.to_le_bytes());
        }
        out.extend_from_slice(&(self.revocations.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.catalogue.len() as u64).to_le_bytes());
        out.extend_from_slice(&self.revocations);
        out.extend_from_slice(&self.catalogue);
        let crc = crc32c::crc32c(&out[16..]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
            return Err(CheckpointError::Damaged("it does not begin like one"));
        }
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let id_at = |at: usize| std::array::from_fn(|index| bytes[at + index]);
        let found = u32_at(8);
        if found > FORMAT {
            return Err(CheckpointError::Newer { found, known: FORMAT });
        }
        if crc32c::crc32c(&bytes[16..]) != u32_at(12) {
            return Err(CheckpointError::Damaged("its checksum is wrong"));
        }
        let (revocations, catalogue) = (u64_at(HEADER_BYTES - 16), u64_at(HEADER_BYTES - 8));
        let blobs = &bytes[HEADER_BYTES..];
        if revocations.checked_add(catalogue) != Some(blobs.len() as u64) {
            return Err(CheckpointError::Damaged("it is cut off"));
        }
        let (revocations, catalogue) = blobs.split_at(revocations as usize);
        let mut cursors = LaneCursors::START;
        for lane in Lane::all() {
            cursors.advance(lane, Lsn(u64_at(56 + lane.index() * 8)));
        }
        Ok(Self {
            journal: JournalId(id_at(16)),
            store: StoreId(id_at(32)),
            cursors,
            version: Version(u64_at(48)),
            revocations: revocations.to_vec(),
            catalogue: catalogue.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Checkpoint {
        let mut cursors = LaneCursors::all_at(Lsn(5));
        cursors.advance(Lane::from_byte(15).unwrap(), Lsn(90));
        Checkpoint {
            journal: JournalId([1; 16]),
            store: StoreId([2; 16]),
            cursors,
            version: Version(77),
            revocations: vec![3; 100],
            catalogue: vec![4; 1_000],
        }
    }

    #[test]
    fn a_checkpoint_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        assert_eq!(Checkpoint::load(&path).unwrap(), None);
        example().store(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap(), Some(example()));
        Checkpoint::default().store(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap(), Some(Checkpoint::default()));
    }

    #[test]
    fn a_damaged_checkpoint_is_reported_whatever_broke() {
        let whole = example().encode();
        for length in 0..whole.len() {
            assert!(Checkpoint::decode(&whole[..length]).is_err(), "cut at {length}");
        }
        for byte in 0..whole.len() {
            let mut broken = whole.clone();
            broken[byte] ^= 0x40;
            assert!(Checkpoint::decode(&broken).is_err(), "byte {byte}");
        }
        let mut newer = whole;
        newer[8] = 2;
        assert!(matches!(Checkpoint::decode(&newer), Err(CheckpointError::Newer { found: 2, known: 1 })));
    }
}
