//! A disk that fails on demand, under the journal: for tests only. It refuses room, fails, shortens or tears a write, holds or
//! slows writes, and at a simulated power failure forgets or tears whatever had not been flushed when its write returned.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;

use super::format::BLOCK_BYTES;
use super::{Engine, Medium, SegmentFile, StdEngine};

/// What happens to a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteFault {
    /// Nothing is written; EIO.
    Error,
    /// Half of it is written, and that is all the disk says.
    Short,
    /// The blocks whose bit is set (bit 63 stands for all from the 64th on) are written; EIO.
    Torn(u64),
}

/// What a power failure does to writes that were not flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerLoss {
    /// None of them reached the disk.
    Dropped,
    /// Some of their sectors did: a seeded choice for each.
    Torn(u64),
}

/// A disk writes this much or nothing.
const SECTOR_BYTES: usize = 512;

#[derive(Default)]
struct Plan {
    no_space: bool,
    held: bool,
    delay: Duration,
    /// Writes to let through before the fault.
    fault: Option<(u64, WriteFault)>,
    writes: u64,
    unflushed: Vec<(PathBuf, u64, Vec<u8>)>,
}

/// A fault layer over [`StdEngine`]. Clones share one plan.
#[derive(Clone, Default)]
pub struct FaultEngine {
    inner: Arc<StdEngine>,
    without_flush: bool,
    plan: Arc<(Mutex<Plan>, Condvar)>,
}

impl FaultEngine {
    /// Segments are opened without O_DSYNC: the negative control, which shows that the promise rests on that flag and that a
    /// power failure of this layer finds out.
    pub fn without_flush() -> Self {
        Self { without_flush: true, ..Self::default() }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether preparing a segment meets a full disk.
    pub fn set_no_space(&self, no_space: bool) {
        self.plan().no_space = no_space;
    }

    /// Holds every write back until told otherwise.
    pub fn set_held(&self, held: bool) {
        self.plan().held = held;
        self.plan.1.notify_all();
    }

    /// Every write takes this much longer.
    pub fn set_delay(&self, delay: Duration) {
        self.plan().delay = delay;
    }

    /// After `writes` more writes, segment headers included, one meets `fault`.
    pub fn fail_after(&self, writes: u64, fault: WriteFault) {
        self.plan().fault = Some((writes, fault));
    }

    /// Writes so far, segment headers included.
    pub fn writes(&self) -> u64 {
        self.plan().writes
    }

    /// The power fails: what a write left unflushed is as it was before, in whole or in part. Answers how many writes that
    /// were. Call once nothing writes any more.
    pub fn lose_power(&self, loss: PowerLoss) -> io::Result<usize> {
        let unflushed = std::mem::take(&mut self.plan().unflushed);
        let mut random = match loss {
            PowerLoss::Dropped => None,
            PowerLoss::Torn(seed) => Some(seed),
        };
        for (path, offset, before) in unflushed.iter().rev() {
            let file = File::options().write(true).open(path)?;
            for (index, sector) in before.chunks(SECTOR_BYTES).enumerate() {
                if random.as_mut().is_none_or(|state| splitmix(state) & 1 == 0) {
                    file.write_all_at(sector, offset + (index * SECTOR_BYTES) as u64)?;
                }
            }
        }
        Ok(unflushed.len())
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): a few bits that a seed repeats.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Engine for FaultEngine {
    fn name(&self) -> &'static str {
        "fault"
    }

    fn probe(&self, folder: &Path) -> io::Result<Medium> {
        self.inner.probe(folder)
    }

    fn prepare(&self, path: &Path, bytes: u64) -> io::Result<()> {
        if self.plan().no_space {
            return Err(io::Error::from(rustix::io::Errno::NOSPC));
        }
        self.inner.prepare(path, bytes)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let file = self.inner.open_file(path, !self.without_flush)?;
        // A write returns flushed because of this flag and nothing else.
        let flushes = rustix::fs::fcntl_getfl(&file)?.contains(OFlags::DSYNC);
        Ok(Box::new(FaultFile { engine: self.clone(), file, path: path.to_owned(), flushes }))
    }
}

struct FaultFile {
    engine: FaultEngine,
    file: File,
    path: PathBuf,
    flushes: bool,
}

impl FaultFile {
    fn next_fault(&self) -> Option<WriteFault> {
        let mut plan = self.engine.plan();
        while plan.held {
            plan = self.engine.plan.1.wait(plan).unwrap_or_else(PoisonError::into_inner);
        }
        plan.writes += 1;
        let delay = plan.delay;
        let fault = match &mut plan.fault {
            Some((0, fault)) => Some(*fault),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        drop(plan);
        std::thread::sleep(delay);
        fault
    }

    fn remember(&self, offset: u64, length: usize) -> io::Result<()> {
        if !self.flushes {
            let mut before = vec![0; length];
            File::open(&self.path)?.read_exact_at(&mut before, offset)?;
            self.engine.plan().unflushed.push((self.path.clone(), offset, before));
        }
        Ok(())
    }
}

impl SegmentFile for FaultFile {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let fault = self.next_fault();
        self.remember(offset, bytes.len())?;
        match fault {
            None => self.file.write_at(bytes, offset),
            Some(WriteFault::Error) => Err(io::Error::from(rustix::io::Errno::IO)),
            Some(WriteFault::Short) => {
                let half = (bytes.len() / 2).next_multiple_of(BLOCK_BYTES).min(bytes.len() - BLOCK_BYTES);
                if half > 0 { self.file.write_at(&bytes[..half], offset) } else { Ok(0) }
            }
            Some(WriteFault::Torn(blocks)) => {
                for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
                    if blocks >> index.min(63) & 1 == 1 {
                        self.file.write_all_at(block, offset + (index * BLOCK_BYTES) as u64)?;
                    }
                }
                Err(io::Error::from(rustix::io::Errno::IO))
            }
        }
    }
}
