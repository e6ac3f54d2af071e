//! Growable byte buffers with a fixed alignment.
//!
//! It promises that the first byte lies on a multiple of the alignment whatever happens to the buffer. It must never hand
//! out bytes that nobody wrote.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    fmt,
    ptr::NonNull,
};

/// A growable byte buffer whose first byte always lies on a multiple of its alignment (4,096 for O_DIRECT, 16 for frames).
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
    capacity: usize,
    align: usize,
}

// SAFETY: the buffer owns its bytes alone, like `Vec<u8>`.
#[allow(unsafe_code)]
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
#[allow(unsafe_code)]
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// An empty buffer; allocates nothing. Panics unless `align` is a power of two.
    pub fn new(align: usize) -> Self {
        assert!(align.is_power_of_two(), "an alignment is a power of two");
        Self { start: NonNull::dangling(), len: 0, capacity: 0, align }
    }

    /// An empty buffer with room for at least `capacity` bytes.
    pub fn with_capacity(align: usize, capacity: usize) -> Self {
        let mut buf = Self::new(align);
        buf.reserve(capacity);
        buf
    }

    /// The alignment.
    pub fn align(&self) -> usize {
        self.align
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that fit without growing.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// What is held; starts on the alignment when anything was ever allocated.
    #[allow(unsafe_code)]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the first `len` bytes are allocated and were written; with nothing allocated `len` is 0 and the
        // dangling pointer is valid for an empty slice of bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// What is held, to change.
    #[allow(unsafe_code)]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Makes room for `additional` more bytes; doubles, so that appending costs little on average.
    pub fn reserve(&mut self, additional: usize) {
        let wanted = self.len.checked_add(additional).expect("a buffer's length fits the address space");
        if wanted > self.capacity {
            self.grow_to(wanted.max(self.capacity.saturating_mul(2)).max(self.align).max(64));
        }
    }

    /// Appends `bytes`, growing when needed.
    #[allow(unsafe_code)]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        // SAFETY: `reserve` made room for them behind `len`; the two do not overlap, since `self` is exclusive here.
        unsafe { self.start.as_ptr().add(self.len).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.len += bytes.len();
    }

    /// Sets the length to `len`; new bytes are `value`.
    #[allow(unsafe_code)]
    pub fn resize(&mut self, len: usize, value: u8) {
        if len > self.len {
            let added = len - self.len;
            self.reserve(added);
            // SAFETY: `reserve` made room for `added` bytes behind `len`.
            unsafe { self.start.as_ptr().add(self.len).write_bytes(value, added) };
        }
        self.len = len;
    }

    /// Appends zeros until the length is a multiple of `multiple`.
    pub fn pad_to(&mut self, multiple: usize) {
        self.resize(self.len.next_multiple_of(multiple), 0);
    }

    /// Shortens to `len`; does nothing when shorter already.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Forgets the content, keeps the room.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Drops the first `count` bytes and moves the rest to the front, so that it is aligned again. Panics when there are
    /// fewer. Costs a copy of the rest: consume many small things at once.
    pub fn consume(&mut self, count: usize) {
        let len = self.len;
        assert!(count <= len, "only what is held can be consumed");
        if count > 0 {
            self.as_mut_slice().copy_within(count.., 0);
            self.len = len - count;
        }
    }

    /// Hands the content out and leaves an empty buffer of the same alignment.
    pub fn take(&mut self) -> AlignedBuf {
        std::mem::replace(self, AlignedBuf::new(self.align))
    }

    /// The spare room behind the content: where a read may write, and how much.
    #[allow(unsafe_code)]
    pub(crate) fn spare(&mut self) -> (*mut u8, usize) {
        // SAFETY: `len` never exceeds `capacity`; with nothing allocated this adds 0.
        (unsafe { self.start.as_ptr().add(self.len) }, self.capacity - self.len)
    }

    /// The first `count` bytes of the spare room were written.
    ///
    /// # Safety
    /// They were, and `count` is no more than the spare room.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn filled(&mut self, count: usize) {
        debug_assert!(count <= self.capacity - self.len);
        self.len += count;
    }

    fn layout(&self, capacity: usize) -> Layout {
        Layout::from_size_align(capacity, self.align).expect("a buffer's length fits the address space")
    }

    #[allow(unsafe_code)]
    fn grow_to(&mut self, capacity: usize) {
        let layout = self.layout(capacity);
        // SAFETY: `capacity` is at least 64, so the layout is not empty. The old block, if any, holds `len` bytes and was
        // allocated with the layout it is freed with.
        unsafe {
            let Some(start) = NonNull::new(alloc(layout)) else { handle_alloc_error(layout) };
            if self.capacity > 0 {
                start.as_ptr().copy_from_nonoverlapping(self.start.as_ptr(), self.len);
                dealloc(self.start.as_ptr(), self.layout(self.capacity));
            }
            self.start = start;
        }
        self.capacity = capacity;
    }
}

impl Drop for AlignedBuf {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: allocated by `grow_to` with this layout, and nobody uses it after the drop.
            unsafe { dealloc(self.start.as_ptr(), self.layout(self.capacity)) };
        }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AlignedBuf")
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .field("align", &self.align)
            .finish()
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl std::io::Write for AlignedBuf {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_stays_aligned_through_growth_and_consumption() {
        for align in [1, 16, 512, 4096] {
            let mut buf = AlignedBuf::new(align);
            let mut model = Vec::new();
            for step in 0..400_usize {
                let piece = vec![step as u8; step % 97];
                buf.extend_from_slice(&piece);
                model.extend_from_slice(&piece);
                if step % 5 == 4 {
                    let count = model.len() / 3;
                    buf.consume(count);
                    model.drain(..count);
                }
                assert_eq!(buf.as_slice(), model);
                assert!(buf.capacity() == 0 || buf.as_slice().as_ptr().addr().is_multiple_of(align));
            }
        }
    }

    #[test]
    fn padding_is_zeros_up_to_the_block() {
        let mut buf = AlignedBuf::with_capacity(4096, 10);
        buf.extend_from_slice(&[7; 5000]);
        buf.truncate(4097);
        buf.pad_to(4096);
        assert_eq!(buf.len(), 8192);
        assert!(buf.as_slice()[4097..].iter().all(|byte| *byte == 0));
        buf.pad_to(4096);
        assert_eq!(buf.len(), 8192);
    }

    #[test]
    fn taking_leaves_an_empty_buffer_of_the_same_alignment() {
        let mut buf = AlignedBuf::with_capacity(16, 8);
        buf.resize(3, 9);
        let taken = buf.take();
        assert_eq!(taken.as_slice(), [9, 9, 9]);
        assert!(buf.is_empty());
        assert_eq!((buf.capacity(), buf.align()), (0, 16));
        assert_eq!(buf.as_slice(), [0_u8; 0]);
    }

    #[test]
    fn the_spare_room_is_what_a_read_fills() {
        let mut buf = AlignedBuf::with_capacity(16, 64);
        buf.extend_from_slice(b"ab");
        let (spare, room) = buf.spare();
        assert!(room >= 62);
        #[allow(unsafe_code)]
        // SAFETY: two bytes of spare room exist, and are written before they are counted.
        unsafe {
            spare.copy_from_nonoverlapping(b"cd".as_ptr(), 2);
            buf.filled(2);
        }
        assert_eq!(buf.as_slice(), b"abcd");
    }
}
