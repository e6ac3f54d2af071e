//! Which of a device's last 4,096 sequence numbers were applied: what makes a retry harmless. A set that only grows and only
//! slides forward, so inserting is idempotent and the order of insertion does not matter. While the numbers form one run there
//! is no bitmap; a gap costs 512 bytes until it is filled or slides out.

use proto::{DeviceSeq, ValueError};

/// How many sequence numbers, counted back from the highest applied one, are remembered.
pub const WINDOW_SEQS: u64 = 4_096;

/// The largest sequence number a device may use: it has to survive a JSON number.
pub const DEVICE_SEQ_MAX: DeviceSeq = DeviceSeq((1 << 53) - 1);

const WORDS: usize = WINDOW_SEQS as usize / 64;

/// Bytes that a window with gaps keeps on the heap.
pub const BITMAP_BYTES: usize = WORDS * 8;

/// What a window knows about a sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Not applied: work it out.
    New,
    /// Applied before: answer with the current state.
    Applied,
    /// Older than the window: nobody can say.
    TooOld,
}

/// The applied sequence numbers of one device.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// The highest applied number; 0 while there is none.
    last: u64,
    /// Without a bitmap: exactly `run_from..=last` (and nothing else of the window) was applied.
    run_from: u64,
    /// Bit `seq % 4096` for every number of the window.
    bitmap: Option<Box<[u64; WORDS]>>,
}

impl Window {
    /// The highest applied number; 0 while there is none.
    pub fn last_seq(&self) -> DeviceSeq {
        DeviceSeq(self.last)
    }

    /// Whether nothing was applied yet.
    pub fn is_empty(&self) -> bool {
        self.last == 0
    }

    /// What is known about `seq`.
    pub fn look_up(&self, seq: DeviceSeq) -> Seen {
        let DeviceSeq(seq) = seq;
        if seq > self.last {
            Seen::New
        } else if self.last - seq >= WINDOW_SEQS {
            Seen::TooOld
        } else if self.contains(seq) {
            Seen::Applied
        } else {
            Seen::New
        }
    }

    /// Marks `seq` as applied. Numbers older than the window, and 0, change nothing.
    pub fn insert(&mut self, seq: DeviceSeq) {
        let DeviceSeq(seq) = seq;
        if seq == 0 || (seq <= self.last && (self.last - seq >= WINDOW_SEQS || self.contains(seq))) {
            return;
        }
        match &self.bitmap {
            None if self.last == 0 => (self.run_from, self.last) = (seq, seq),
            None if seq == self.last + 1 => self.last = seq,
            None if seq.checked_add(1) == Some(self.run_from) => self.run_from = seq,
            // A leap past the whole window leaves a run of one.
            None if seq > self.last && seq - self.last >= WINDOW_SEQS => (self.run_from, self.last) = (seq, seq),
            _ => self.insert_with_gap(seq),
        }
    }

    /// Adds everything that `other` knows.
    pub fn merge(&mut self, other: &Window) {
        if other.last == 0 {
            return;
        }
        if other.last > self.last {
            let older = std::mem::replace(self, other.clone());
            return self.merge(&older);
        }
        if other.bitmap.is_none() && self.bitmap.is_none() && other.run_from >= self.run_from {
            return; // a run within a run
        }
        let oldest = self.oldest().max(other.oldest());
        (oldest..=other.last).filter(|seq| other.contains(*seq)).for_each(|seq| self.insert(DeviceSeq(seq)));
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        if self.bitmap.is_some() { BITMAP_BYTES } else { 0 }
    }

    /// As tables keep it, beside `last_seq`: 8 bytes (the first number of the run, little-endian) for a single run, else 512
    /// bytes in which bit `seq % 4096` (least significant bit first) says that `seq` was applied. Empty while nothing was.
    pub fn to_bytes(&self) -> Vec<u8> {
        match &self.bitmap {
            None if self.last == 0 => Vec::new(),
            None => self.run_from.to_le_bytes().to_vec(),
            Some(bitmap) => bitmap.iter().flat_map(|word| word.to_le_bytes()).collect(),
        }
    }

    /// From what [`Window::to_bytes`] made. Refuses what it cannot have made.
    pub fn from_bytes(last_seq: DeviceSeq, bytes: &[u8]) -> Result<Self, ValueError> {
        let wrong = ValueError::new("device window", "0, 8 or 512 bytes that fit its last sequence number");
        let DeviceSeq(last) = last_seq;
        if last == 0 && bytes.is_empty() {
            return Ok(Self::default());
        }
        if last == 0 || last_seq > DEVICE_SEQ_MAX {
            return Err(wrong);
        }
        if let Ok(run_from) = <[u8; 8]>::try_from(bytes) {
            let run_from = u64::from_le_bytes(run_from);
            let valid = (1..=last).contains(&run_from);
            return if valid { Ok(Self { last, run_from, bitmap: None }) } else { Err(wrong) };
        }
        if bytes.len() != BITMAP_BYTES {
            return Err(wrong);
        }
        let mut bitmap = Box::new([0_u64; WORDS]);
        for (word, eight) in bitmap.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*eight);
        }
        let mut window = Self { last, run_from: 0, bitmap: Some(bitmap) };
        if !window.contains(last) {
            return Err(wrong);
        }
        window.compact();
        Ok(window)
    }

    /// The lowest number the window reaches down to.
    fn oldest(&self) -> u64 {
        self.last.saturating_sub(WINDOW_SEQS - 1).max(1)
    }

    /// For numbers within the window only.
    fn contains(&self, seq: u64) -> bool {
        match &self.bitmap {
            None => seq >= self.run_from && self.last != 0,
            Some(bitmap) => bitmap[word_of(seq)] & bit_of(seq) != 0,
        }
    }

    fn insert_with_gap(&mut self, seq: u64) {
        let (last, run_from, oldest) = (self.last, self.run_from, self.oldest());
        let bitmap = self.bitmap.get_or_insert_with(|| {
            let mut fresh = Box::new([0; WORDS]);
            masks(run_from.max(oldest), last + 1).for_each(|(word, mask)| fresh[word] |= mask);
            fresh
        });
        if seq > last {
            if seq - last >= WINDOW_SEQS {
                bitmap.fill(0);
            } else {
                masks(last + 1, seq).for_each(|(word, mask)| bitmap[word] &= !mask);
            }
            self.last = seq;
        }
        bitmap[word_of(seq)] |= bit_of(seq);
        // A filled gap may have been the last one; a gap that nobody fills slides out as the numbers go on, which is looked
        // for once in 256 of them.
        if seq < last || seq.is_multiple_of(256) {
            self.compact();
        }
    }

    /// Drops the bitmap when the numbers form one run.
    fn compact(&mut self) {
        let Some(bitmap) = &self.bitmap else { return };
        let count: u64 = bitmap.iter().map(|word| u64::from(word.count_ones())).sum();
        let run_from = self.last + 1 - count.min(self.last);
        if masks(run_from, self.last + 1).all(|(word, mask)| bitmap[word] & mask == mask) {
            self.run_from = run_from;
            self.bitmap = None;
        }
    }
}

/// Two windows are equal when they give the same answers.
impl PartialEq for Window {
    fn eq(&self, other: &Self) -> bool {
        self.last == other.last && (self.oldest()..=self.last).all(|seq| self.contains(seq) == other.contains(seq))
    }
}

impl Eq for Window {}

/// The words that the numbers `from..to` fall into, each with their bits. At most a window long.
fn masks(from: u64, to: u64) -> impl Iterator<Item = (usize, u64)> {
    let mut seq = from;
    std::iter::from_fn(move || {
        let count = (to.checked_sub(seq).filter(|left| *left > 0)?).min(64 - seq % 64);
        let mask = (u64::MAX >> (64 - count)) << (seq % 64);
        let word = word_of(seq);
        seq += count;
        Some((word, mask))
    })
}

fn word_of(seq: u64) -> usize {
    (seq % WINDOW_SEQS / 64) as usize
}

fn bit_of(seq: u64) -> u64 {
    1 << (seq % 64)
}
