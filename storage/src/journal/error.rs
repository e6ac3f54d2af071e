//! What can be wrong with a journal, each with the way out. Nothing here is retried: a person decides.

use std::io;
use std::path::PathBuf;

use super::{JournalId, Lsn, StoreId};

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An acknowledged part of the journal cannot be read back.
    #[error(
        "the journal is damaged: {what} in {path} at byte {offset}. What was acknowledged there cannot be read. \
         Stop, copy the folder, and restore it from a backup or, to go on with what the store has, run `mangahub db adopt`"
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// A segment between two others is not there.
    #[error(
        "the journal has a hole: {path} begins at record {found}, but record {expected} is the next one. A segment is missing; \
         bring it back, or run `mangahub db adopt` to go on with what the store has"
    )]
    Hole {
        /// The segment after the hole.
        path: PathBuf,
        /// The record that was expected.
        expected: Lsn,
        /// The first one that is there.
        found: Lsn,
    },
    /// A segment was prepared behind one that is not there: the end of the journal is missing.
    #[error(
        "the journal lacks its end: {path} was made when segment {missing} had been begun, and that one is missing. What was \
         acknowledged there cannot be read. Bring it back, or run `mangahub db adopt` to go on with what the store has"
    )]
    EndMissing {
        /// The prepared segment.
        path: PathBuf,
        /// The number of the one before it.
        missing: u64,
    },
    /// It had been further than it is.
    #[error(
        "the journal ends at record {end} of segment {segment}, and it is noted to have reached record {noted_end} and segment \
         {noted_segment}: it is an older copy, or segments of its end are missing. What was acknowledged since is not in it. \
         Bring them back, or run `mangahub db adopt` to go on with what is here"
    )]
    EndOlder {
        /// Its last record.
        end: Lsn,
        /// Its last segment.
        segment: u64,
        /// What was noted as its end.
        noted_end: Lsn,
        /// What was noted as its last segment.
        noted_segment: u64,
    },
    /// Written by a newer server.
    #[error("{path} has journal format {found}; this server reads up to {known}. Start the newer server again")]
    NewerFormat {
        /// The segment.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest one this build reads.
        known: u32,
    },
    /// Segments of two journals in one folder.
    #[error(
        "{path} belongs to journal {found}; the one of this folder is {expected}. Move it out of the folder and bring the right \
         one back, or run `mangahub db adopt` to go on with what the store has"
    )]
    ForeignSegment {
        /// The segment.
        path: PathBuf,
        /// Its journal.
        found: JournalId,
        /// The folder's journal.
        expected: JournalId,
    },
    /// The journal was written for another store.
    #[error(
        "this journal belongs to store {found}, the configured store is {expected}. Run `mangahub db drain` against the old \
         store first, or `mangahub db adopt` to accept what the configured store has"
    )]
    OtherStore {
        /// The store in the segments.
        found: StoreId,
        /// The configured one.
        expected: StoreId,
    },
    /// A journal was expected here and there is none.
    #[error(
        "journal {expected} is not in {path}. Bring the folder back, or run `mangahub db adopt` to go on with what the store has"
    )]
    Missing {
        /// The empty folder.
        path: PathBuf,
        /// The journal that the store or the checkpoint knows.
        expected: JournalId,
    },
}

impl OpenError {
    /// Whether the journal itself is not what it should be, so that going on without what cannot be read is a way out. A disk
    /// that refuses for the moment, and a journal of a newer server, say nothing of the kind.
    pub fn is_unfit(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::NewerFormat { .. })
    }
}

impl ReplayError {
    /// As [`OpenError::is_unfit`].
    pub fn is_unfit(&self) -> bool {
        match self {
            Self::Behind { .. } | Self::Ahead { .. } => true,
            Self::Segment(error) => error.is_unfit(),
        }
    }
}

/// Why records cannot be replayed from the given cursors.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Records that the store still needs are gone.
    #[error(
        "the store needs records from {needed} on, the journal begins at {first}. Bring the missing segments back, or run \
         `mangahub db adopt` to go on with what the store has"
    )]
    Behind {
        /// The first record that the store has not applied.
        needed: Lsn,
        /// The first record of the journal.
        first: Lsn,
    },
    /// The store has applied records that the journal does not have.
    #[error(
        "the store has applied records up to {cursor}, the journal ends at {end}: it is older than the store, or its disk lost \
         a flush. Bring the right journal back, or run `mangahub db adopt` to go on with what the store has"
    )]
    Ahead {
        /// The furthest cursor.
        cursor: Lsn,
        /// The last record of the journal.
        end: Lsn,
    },
    /// A segment changed or vanished under the reader, or a record is not what its checksum says.
    #[error(transparent)]
    Segment(#[from] OpenError),
}

/// Why a journal cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is too little room.
    #[error(
        "the journal needs room for at least {needed_bytes} bytes (4 segments) and may take {allowed_bytes}: free and its own \
         space on {path} allow no more (it takes at most 10 % of it). Free some space, or give it another folder"
    )]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// What four segments take.
        needed_bytes: u64,
        /// What the limit allows.
        allowed_bytes: u64,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Config(String),
    /// The disk refused, or the folder changed since it was opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store and the journal do not fit each other.
    #[error(transparent)]
    Cursors(#[from] ReplayError),
}
