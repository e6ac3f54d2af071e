//! Frames are appended to a growing buffer of the caller's, with no allocation of their own. A message that does not fit its kind
//! leaves the buffer as it was.

use std::mem::MaybeUninit;

use rkyv::Serialize;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::Serializer;
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::writer::{Positional, Writer, WriterExt};

use super::error::EncodeError;
use super::header::{ALIGNMENT_BYTES, HEADER_BYTES, Header, Kind};

/// Appends a frame whose payload is a fixed layout: one copy, no branch.
#[inline]
pub(super) fn put_fixed<const N: usize>(kind: Kind, seq: u64, payload: &[u8; N], out: &mut Vec<u8>) {
    out.extend_from_slice(&Header::new(kind, N as u32, seq).to_bytes());
    out.extend_from_slice(payload);
}

/// Scratch for the resolvers of nested lists: a Notice with its most changes needs 12 bytes for each.
const SCRATCH_BYTES: usize = 1024;

/// The serializer that archives are written with.
pub(super) type Archiver<'a> = Strategy<Serializer<PayloadWriter<'a>, SubAllocator<'a>, ()>, Failure>;

/// Appends a frame whose payload is an archive: what it points to first, padding, then the root as its last bytes.
pub(super) fn put_archive<T>(kind: Kind, seq: u64, value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError>
where
    T: for<'a> Serialize<Archiver<'a>>,
{
    let start = out.len();
    let bytes_max = kind.payload_bytes_max();
    out.extend_from_slice(&Header::new(kind, 0, seq).to_bytes());
    let mut bytes = 0;
    match archive(value, bytes_max, out, &mut bytes) {
        Ok(()) => {
            let header = Header::new(kind, bytes as u32, seq).to_bytes();
            out[start..start + HEADER_BYTES].copy_from_slice(&header);
            Ok(())
        }
        Err(Failure) => {
            out.truncate(start);
            Err(EncodeError { kind, bytes, bytes_max })
        }
    }
}

// rkyv offers the padding that gives the root its end at a multiple of 16 only around an unchecked call.
#[allow(unsafe_code)]
fn archive<T>(value: &T, bytes_max: u32, out: &mut Vec<u8>, bytes: &mut usize) -> Result<(), Failure>
where
    T: for<'a> Serialize<Archiver<'a>>,
{
    const { assert!(align_of::<T::Archived>() <= ALIGNMENT_BYTES) };
    let mut scratch = [MaybeUninit::uninit(); SCRATCH_BYTES];
    let writer = PayloadWriter { out, bytes, bytes_max: bytes_max as usize };
    let mut serializer = Serializer::new(writer, SubAllocator::new(&mut scratch), ());
    let serializer: &mut Archiver<'_> = Strategy::wrap(&mut serializer);
    let resolver = value.serialize(serializer)?;
    let end = (serializer.pos() + size_of::<T::Archived>()).next_multiple_of(ALIGNMENT_BYTES);
    let padding = end - size_of::<T::Archived>() - serializer.pos();
    serializer.pad(padding)?;
    // SAFETY: the resolver is this value's own, and the position is the end (a multiple of 16) less the size of the archived
    // type (a multiple of its alignment, which is at most 16), so it is aligned for it.
    unsafe { serializer.resolve_aligned(value, resolver)? };
    Ok(())
}

/// Writes a payload: positions count from the payload's start, and what its kind may not carry is refused.
pub(super) struct PayloadWriter<'a> {
    out: &'a mut Vec<u8>,
    bytes: &'a mut usize,
    bytes_max: usize,
}

impl Positional for PayloadWriter<'_> {
    fn pos(&self) -> usize {
        *self.bytes
    }
}

impl Writer<Failure> for PayloadWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        *self.bytes += bytes.len();
        if *self.bytes > self.bytes_max {
            return Err(Failure);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}
