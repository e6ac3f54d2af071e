//! The disk under the simulated journal: files that are there as soon as they are written, and a write that the power failure
//! tears on demand.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use storage::journal::{Engine, Medium, SegmentFile, StdEngine};

const BLOCK_BYTES: usize = 4_096;
const WHOLE: u64 = u64::MAX;

/// Clones share the switch.
#[derive(Clone)]
pub(crate) struct Disk {
    inner: Arc<StdEngine>,
    /// How many blocks of the next write reach the disk.
    blocks: Arc<AtomicU64>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::new(StdEngine::buffered()), blocks: Arc::new(AtomicU64::new(WHOLE)) }
    }

    /// The next write stops after this many blocks, and one before its end at the latest.
    pub(crate) fn tear(&self, blocks: u64) {
        self.blocks.store(blocks, Ordering::Relaxed);
    }
}

impl Engine for Disk {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn probe(&self, folder: &Path) -> io::Result<Medium> {
        self.inner.probe(folder)
    }

    fn available_bytes(&self, _folder: &Path) -> io::Result<u64> {
        Ok(1 << 50)
    }

    fn prepare(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let unfinished = path.with_extension("new");
        File::create(&unfinished)?.set_len(bytes)?;
        std::fs::rename(&unfinished, path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(Segment { file: File::options().write(true).open(path)?, disk: self.clone() }))
    }
}

struct Segment {
    file: File,
    disk: Disk,
}

impl SegmentFile for Segment {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let blocks = self.disk.blocks.swap(WHOLE, Ordering::Relaxed);
        if blocks == WHOLE {
            self.file.write_all_at(bytes, offset)?;
            return Ok(bytes.len());
        }
        let reaches = (blocks as usize * BLOCK_BYTES).min(bytes.len() - BLOCK_BYTES);
        self.file.write_all_at(&bytes[..reaches], offset)?;
        Err(io::Error::other("the power failed"))
    }
}
