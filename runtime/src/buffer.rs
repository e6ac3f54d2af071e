//! Growable byte buffers with a fixed alignment.

/// A growable byte buffer whose first byte always lies on a multiple of its alignment (4,096 for O_DIRECT, 16 for frames).
#[derive(Debug)]
pub struct AlignedBuf {
    bytes: Vec<u8>,
    align: usize,
}

impl AlignedBuf {
    /// An empty buffer; allocates nothing. Panics unless `align` is a power of two.
    pub fn new(align: usize) -> Self {
        assert!(align.is_power_of_two(), "an alignment is a power of two");
        Self { bytes: Vec::new(), align }
    }

    /// An empty buffer with room for `capacity` bytes.
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
        self.bytes.len()
    }

    /// True when nothing is held.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that fit without growing.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// What is held.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// What is held, to change.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Makes room for `additional` more bytes.
    pub fn reserve(&mut self, additional: usize) {
        self.bytes.reserve(additional);
    }

    /// Appends `bytes`, growing when needed.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Sets the length to `len`; new bytes are `value`.
    pub fn resize(&mut self, len: usize, value: u8) {
        self.bytes.resize(len, value);
    }

    /// Appends zeros until the length is a multiple of `multiple`.
    pub fn pad_to(&mut self, multiple: usize) {
        self.resize(self.len().next_multiple_of(multiple), 0);
    }

    /// Shortens to `len`; does nothing when shorter already.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// Forgets the content, keeps the room.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Drops the first `count` bytes and moves the rest to the front, so that it is aligned again.
    pub fn consume(&mut self, count: usize) {
        self.bytes.drain(..count);
    }

    /// Hands the content out and leaves an empty buffer of the same alignment.
    pub fn take(&mut self) -> AlignedBuf {
        std::mem::replace(self, AlignedBuf::new(self.align))
    }
}
