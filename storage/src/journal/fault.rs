//! A disk that fails on demand, under the journal: for tests only. It refuses room, fails, shortens or tears a write, holds
//! writes back, and at a simulated power failure forgets whatever had not been flushed when its write returned.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

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

#[derive(Default)]
struct Plan {
    no_space: bool,
    held: bool,
    /// Writes to let through before the fault.
    fault: Option<(u64, WriteFault)>,
    writes: u64,
    unflushed: Vec<(PathBuf, u64, Vec<u8>)>,
}

/// A fault layer over [`StdEngine`]. Clones share one plan.
#[derive(Clone, Default)]
pub struct FaultEngine {
    inner: Arc<StdEngine>,
    plan: Arc<(Mutex<Plan>, Condvar)>,
}

impl FaultEngine {
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

    /// After `writes` more writes, segment headers included, one meets `fault`.
    pub fn fail_after(&self, writes: u64, fault: WriteFault) {
        self.plan().fault = Some((writes, fault));
    }

    /// Writes so far, segment headers included.
    pub fn writes(&self) -> u64 {
        self.plan().writes
    }

    /// The power fails: what a write left unflushed is as it was before. Call once nothing writes any more.
    pub fn lose_power(&self) -> io::Result<()> {
        for (path, offset, before) in self.plan().unflushed.drain(..).rev() {
            File::options().write(true).open(path)?.write_all_at(&before, offset)?;
        }
        Ok(())
    }
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
        let file = self.inner.open_file(path)?;
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
        match &mut plan.fault {
            Some((0, fault)) => Some(*fault),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        }
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
