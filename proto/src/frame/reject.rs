//! Reject: one frame was not accepted and changed nothing. It says why, by code and in words, when to try again, and for a conflict
//! what is stored and the token that overrides it.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::access::access;
use super::encode::put_archive;
use super::error::PayloadError;
use super::header::Kind;
use super::progress::{EntryRoot, ProgressEntry};
use super::session::cut;
use crate::code::Code;
use crate::values::ConflictToken;

const HAS_STORED: u16 = 1;

/// "Not accepted; nothing was changed by it", but for `not_in_database`: that change was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject<'a> {
    /// The header.seq of the frame that is refused.
    pub seq: u64,
    /// A `Code`'s number.
    pub code: u16,
    /// For a person.
    pub detail: &'a str,
    /// How long to wait before trying again; 0: no advice.
    pub retry_after_ms: u32,
    /// What is stored, for a conflict and for a device_seq that is too old.
    pub stored: Option<ProgressEntry>,
    /// Overrides exactly this conflict when it is sent back in SetProgress, within 10 min.
    pub conflict_token: Option<ConflictToken>,
}

#[derive(Archive, Serialize)]
#[rkyv(archived = RejectLayout)]
struct RejectRoot<'a> {
    stored: EntryRoot,
    conflict_token: [u8; 16],
    seq: u64,
    retry_after_ms: u32,
    code: u16,
    flags: u16,
    #[rkyv(with = InlineAsBox)]
    detail: &'a str,
}

const _: () = assert!(size_of::<RejectLayout<'_>>() == 104 && align_of::<RejectLayout<'_>>() == 8);

impl<'a> Reject<'a> {
    /// A refusal that is told by its code and detail alone.
    pub const fn because(seq: u64, code: Code, detail: &'a str) -> Self {
        Self { seq, code: code as u16, detail, retry_after_ms: 0, stored: None, conflict_token: None }
    }

    /// The reason, when this version knows it.
    pub const fn code(&self) -> Option<Code> {
        Code::from_u16(self.code)
    }

    /// Appends the frame; its header.seq is `seq`, the detail is cut to what fits.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let root = RejectRoot {
            stored: self.stored.map_or(EntryRoot::default(), ProgressEntry::to_root),
            conflict_token: self.conflict_token.map_or([0; 16], |token| *token.as_bytes()),
            seq: self.seq,
            retry_after_ms: self.retry_after_ms,
            code: self.code,
            flags: if self.stored.is_some() { HAS_STORED } else { 0 },
            detail: cut(self.detail),
        };
        put_archive(Kind::Reject, self.seq, &root, out).expect("a Reject with its detail cut fits its cap");
    }

    /// Reads a payload in place; it must be 8-aligned.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let raw = access::<RejectLayout<'_>>(Kind::Reject, payload)?;
        let has_stored = raw.flags.to_native() & HAS_STORED != 0;
        Ok(Self {
            seq: raw.seq.to_native(),
            code: raw.code.to_native(),
            detail: raw.detail.get(),
            retry_after_ms: raw.retry_after_ms.to_native(),
            stored: if has_stored { Some(ProgressEntry::try_from(&raw.stored)?) } else { None },
            conflict_token: ConflictToken::from_bytes(raw.conflict_token),
        })
    }
}
