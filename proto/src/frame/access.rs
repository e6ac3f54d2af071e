//! Reading in place: where one frame ends and the next begins, and a payload checked as an archive of its kind without copying
//! it. Whoever reads gets slices of the receive buffer; nothing here allocates except `Receiver`, and that within its cap.

use std::num::NonZeroUsize;

use rkyv::Portable;
use rkyv::api::low::LowValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;

use super::error::{FrameError, PayloadError};
use super::header::{ALIGNMENT_BYTES, Caps, HEADER_BYTES, Header, Kind, PREAMBLE_BYTES, Preamble};

/// How deep the pointers of an archive may lead into each other before the check gives up. Notice goes deepest: its root, the
/// list of changes, a change's text; rkyv refuses the step that would use up the count.
pub const CHECK_DEPTH_MAX: usize = 4;

/// One frame as it lies in the receive buffer.
#[derive(Clone, Copy, Debug)]
pub struct RawFrame<'a> {
    /// Its header; length and flags are checked, the kind may be unknown.
    pub header: Header,
    /// Exactly `header.length` bytes, not looked at yet.
    pub payload: &'a [u8],
}

impl RawFrame<'_> {
    /// How many bytes of the buffer this frame takes, header included; a multiple of 16.
    #[inline]
    pub const fn consumed(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Its kind, when this version knows it.
    #[inline]
    pub const fn kind(&self) -> Option<Kind> {
        Kind::from_u16(self.header.kind)
    }
}

/// Takes the first frame off a receive buffer, which must start at a multiple of 16 and at a frame's start. `None`: the frame is
/// not complete yet (`bytes_needed` says how much it takes). Costs a few nanoseconds and allocates nothing.
#[inline]
pub fn split_frame<'a>(buffer: &'a [u8], caps: &Caps) -> Result<Option<RawFrame<'a>>, FrameError> {
    if !(buffer.as_ptr() as usize).is_multiple_of(ALIGNMENT_BYTES) {
        return Err(FrameError::Misaligned);
    }
    let Some((head, rest)) = buffer.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let header = Header::from_bytes(head);
    header.check(caps)?;
    Ok(rest.get(..header.length as usize).map(|payload| RawFrame { header, payload }))
}

/// How many bytes the first frame of a buffer takes in all: known once its header is there and within its cap. Until then: a header.
pub fn bytes_needed(buffer: &[u8], caps: &Caps) -> Result<usize, FrameError> {
    let Some(head) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(HEADER_BYTES) };
    let header = Header::from_bytes(head);
    header.check(caps)?;
    Ok(HEADER_BYTES + header.length as usize)
}

/// Checks a payload as an archive and reads it in place. `T`'s root is the payload's last bytes.
#[inline]
pub(super) fn access<T>(kind: Kind, payload: &[u8]) -> Result<&T, PayloadError>
where
    T: Portable + for<'a> CheckBytes<LowValidator<'a, Failure>>,
{
    const DEPTH: NonZeroUsize = NonZeroUsize::new(CHECK_DEPTH_MAX).expect("not zero");
    let mut validator = Validator::new(ArchiveValidator::with_max_depth(payload, Some(DEPTH)), ());
    rkyv::api::access_with_context::<T, _, Failure>(payload, &mut validator)
        .map_err(|Failure| PayloadError::Layout { kind })
}

/// The same for a fixed layout, whose payload is the root and nothing else.
#[inline]
pub(super) fn access_fixed<T>(kind: Kind, payload: &[u8]) -> Result<&T, PayloadError>
where
    T: Portable + for<'a> CheckBytes<LowValidator<'a, Failure>>,
{
    if payload.len() != size_of::<T>() {
        return Err(PayloadError::Layout { kind });
    }
    access(kind, payload)
}

/// Where in a `Receiver` a frame lies.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Its header.
    pub header: Header,
    start: usize,
}

/// An aligned receive buffer for those who do not bring their own (clients, the TLS side): bytes go in as they come, frames come
/// out in place. Never holds more than one frame of the largest size and one read beyond what has been taken out.
#[derive(Debug)]
pub struct Receiver {
    buffer: AlignedVec<ALIGNMENT_BYTES>,
    taken: usize,
    filled: usize,
    caps: Caps,
}

impl Receiver {
    /// An empty buffer; allocates on first use.
    pub fn new(caps: Caps) -> Self {
        Self { buffer: AlignedVec::new(), taken: 0, filled: 0, caps }
    }

    /// Room for at least `bytes_min` more bytes, to be read into; `filled` tells how many came.
    pub fn room(&mut self, bytes_min: usize) -> &mut [u8] {
        if self.buffer.len() - self.filled < bytes_min {
            // Frames are multiples of 16, so the rest stays aligned when it moves to the front.
            self.buffer.copy_within(self.taken..self.filled, 0);
            self.filled -= self.taken;
            self.taken = 0;
            if self.buffer.len() - self.filled < bytes_min {
                self.buffer.resize(self.filled + bytes_min, 0);
            }
        }
        &mut self.buffer[self.filled..]
    }

    /// Says how many bytes were read into `room`.
    ///
    /// # Panics
    /// When that is more than there was room for.
    pub fn filled(&mut self, bytes: usize) {
        assert!(bytes <= self.buffer.len() - self.filled, "more bytes than there was room for");
        self.filled += bytes;
    }

    /// Copies bytes in that were read elsewhere.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    /// Takes the preamble off the front, when it is there.
    pub fn preamble(&mut self) -> Result<Option<Preamble>, FrameError> {
        let preamble = Preamble::read(&self.buffer[self.taken..self.filled])?;
        self.taken += if preamble.is_some() { PREAMBLE_BYTES } else { 0 };
        Ok(preamble)
    }

    /// Takes the next complete frame off the front.
    pub fn next_frame(&mut self) -> Result<Option<RawFrame<'_>>, FrameError> {
        Ok(self.take()?.map(|taken| self.frame(taken)))
    }

    /// The same without borrowing: `frame` gives the frame itself, as long as nothing was read in between.
    pub fn take(&mut self) -> Result<Option<Taken>, FrameError> {
        let start = self.taken;
        let Some(frame) = split_frame(&self.buffer[start..self.filled], &self.caps)? else { return Ok(None) };
        let header = frame.header;
        self.taken += frame.consumed();
        Ok(Some(Taken { header, start: start + HEADER_BYTES }))
    }

    /// The frame that `take` gave last.
    pub fn frame(&self, taken: Taken) -> RawFrame<'_> {
        let payload = &self.buffer[taken.start..taken.start + taken.header.length as usize];
        RawFrame { header: taken.header, payload }
    }

    /// Bytes that are there but not taken out yet.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.taken..self.filled]
    }
}

/// A payload at a 16-aligned address: itself when it lies well, else a copy in the scratch. For those who keep frames elsewhere
/// than in a receive buffer; the server's hot path never copies.
pub fn aligned<'a>(payload: &'a [u8], scratch: &'a mut AlignedVec<ALIGNMENT_BYTES>) -> &'a [u8] {
    if (payload.as_ptr() as usize).is_multiple_of(ALIGNMENT_BYTES) {
        return payload;
    }
    scratch.clear();
    scratch.extend_from_slice(payload);
    scratch
}
