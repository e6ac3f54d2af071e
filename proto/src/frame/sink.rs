//! Where encoded frames go: appended to a growing buffer of the caller's, with no allocation of their own. A message that does
//! not fit its kind leaves the buffer as it was.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use rkyv::Serialize;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::Serializer;
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::writer::{Positional, Writer, WriterExt};
use rkyv::util::AlignedVec;

use super::error::EncodeError;
use super::header::{ALIGNMENT_BYTES, HEADER_BYTES, Header, Kind};

/// A growing byte buffer that frames can be appended to.
pub trait Sink {
    /// Appends.
    fn put(&mut self, bytes: &[u8]);
    /// Everything written so far.
    fn written(&mut self) -> &mut [u8];
    /// Forgets what lies beyond a length.
    fn cut(&mut self, len: usize);
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn written(&mut self) -> &mut [u8] {
        self
    }

    fn cut(&mut self, len: usize) {
        self.truncate(len);
    }
}

impl Sink for BytesMut {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn written(&mut self) -> &mut [u8] {
        self
    }

    fn cut(&mut self, len: usize) {
        self.truncate(len);
    }
}

impl Sink for AlignedVec<16> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn written(&mut self) -> &mut [u8] {
        self
    }

    fn cut(&mut self, len: usize) {
        self.resize(len, 0);
    }
}

/// Appends a frame whose payload is a fixed layout: one copy, no branch.
#[inline]
pub(super) fn put_fixed<const N: usize>(kind: Kind, seq: u64, payload: &[u8; N], out: &mut impl Sink) {
    out.put(&Header::new(kind, N as u32, seq).to_bytes());
    out.put(payload);
}

/// Scratch for the resolvers of nested lists: a Notice with its most changes needs 12 bytes for each.
const SCRATCH_BYTES: usize = 1024;

/// The serializer that archives are written with.
pub(super) type Archiver<'a> = Strategy<Serializer<PayloadWriter<'a>, SubAllocator<'a>, ()>, Failure>;

/// Appends a frame whose payload is an archive: what it points to first, padding, then the root as its last bytes.
pub(super) fn put_archive<T>(kind: Kind, seq: u64, value: &T, out: &mut impl Sink) -> Result<(), EncodeError>
where
    T: for<'a> Serialize<Archiver<'a>>,
{
    let start = out.written().len();
    let bytes_max = kind.payload_bytes_max();
    out.put(&Header::new(kind, 0, seq).to_bytes());
    let mut bytes = 0;
    match archive(value, bytes_max, out, &mut bytes) {
        Ok(()) => {
            let header = Header::new(kind, bytes as u32, seq).to_bytes();
            out.written()[start..start + HEADER_BYTES].copy_from_slice(&header);
            Ok(())
        }
        Err(Failure) => {
            out.cut(start);
            Err(EncodeError { kind, bytes, bytes_max })
        }
    }
}

// rkyv offers the padding that gives the root its end at a multiple of 16 only around an unchecked call.
#[allow(unsafe_code)]
fn archive<T>(value: &T, bytes_max: u32, out: &mut dyn Sink, bytes: &mut usize) -> Result<(), Failure>
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
    out: &'a mut dyn Sink,
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
        self.out.put(bytes);
        Ok(())
    }
}
