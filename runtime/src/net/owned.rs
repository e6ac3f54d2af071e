//! Buffers that can be given to the kernel for the time of an operation.
//!
//! The traits are sealed: their promises (a stable address, a true length) are what the soundness of native I/O rests on.

use bytes::{Bytes, BytesMut};
use monoio::buf::{IoBuf, IoBufMut};

use crate::buffer::AlignedBuf;

mod sealed {
    /// The spare room of a buffer.
    #[allow(unsafe_code)]
    pub trait Room: Unpin + 'static {
        /// Where it starts and how long it is.
        fn room(&mut self) -> (*mut u8, usize);

        /// Its first `count` bytes were written.
        ///
        /// # Safety
        /// They were, and `count` is no more than the room.
        unsafe fn filled(&mut self, count: usize);
    }
}

use sealed::Room;

/// Buffers that a native read can fill: it appends, in the spare room.
pub trait ReadBuffer: Room {}

/// Buffers that a native write can send.
pub trait WriteBuffer: IoBuf {}

impl ReadBuffer for Vec<u8> {}
impl ReadBuffer for BytesMut {}
impl ReadBuffer for AlignedBuf {}
impl WriteBuffer for Vec<u8> {}
impl WriteBuffer for Bytes {}
impl WriteBuffer for BytesMut {}
impl WriteBuffer for &'static [u8] {}
impl WriteBuffer for AlignedBuf {}

#[allow(unsafe_code)]
impl Room for Vec<u8> {
    fn room(&mut self) -> (*mut u8, usize) {
        let spare = self.spare_capacity_mut();
        (spare.as_mut_ptr().cast(), spare.len())
    }

    unsafe fn filled(&mut self, count: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.set_len(self.len() + count) };
    }
}

#[allow(unsafe_code)]
impl Room for BytesMut {
    fn room(&mut self) -> (*mut u8, usize) {
        let spare = self.spare_capacity_mut();
        (spare.as_mut_ptr().cast(), spare.len())
    }

    unsafe fn filled(&mut self, count: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.set_len(self.len() + count) };
    }
}

#[allow(unsafe_code)]
impl Room for AlignedBuf {
    fn room(&mut self) -> (*mut u8, usize) {
        self.spare()
    }

    unsafe fn filled(&mut self, count: usize) {
        // SAFETY: the caller's promise.
        unsafe { AlignedBuf::filled(self, count) };
    }
}

// SAFETY: the content starts at the returned address, stays there while the buffer is not touched (it is owned by the
// operation), and is `len` bytes long.
#[allow(unsafe_code)]
unsafe impl IoBuf for AlignedBuf {
    fn read_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

/// The spare room of `B` as the runtime wants it: something to be filled from its start.
#[derive(Debug)]
pub(crate) struct Spare<B>(pub(crate) B);

impl<B: Room> Spare<B> {
    pub(crate) fn room(&mut self) -> usize {
        self.0.room().1
    }
}

// SAFETY: the room lies in the buffer's own allocation, which does not move while the operation owns the buffer.
#[allow(unsafe_code)]
unsafe impl<B: Room> IoBufMut for Spare<B> {
    fn write_ptr(&mut self) -> *mut u8 {
        self.0.room().0
    }

    fn bytes_total(&mut self) -> usize {
        self.0.room().1
    }

    unsafe fn set_init(&mut self, count: usize) {
        // SAFETY: the runtime calls this once, with the number of bytes that the kernel wrote at `write_ptr`.
        unsafe { self.0.filled(count) };
    }
}
