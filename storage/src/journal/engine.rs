//! How the journal's bytes reach the disk: one object that prepares segments and opens them for writing. The default is plain
//! file I/O, O_DIRECT|O_DSYNC where the file system takes it. An engine must never say that bytes are written before they
//! are on the disk, and must never retry a failed write by itself.

use std::io;
use std::path::Path;

/// What the journal stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Medium {
    /// The file system's kind, as statfs names it.
    pub file_system: String,
    /// Whether writes go past the page cache.
    pub direct: bool,
    /// Whether the medium forgets everything at power-off: durability is then a pretence.
    pub volatile: bool,
    /// The above for a person, and what to do about it.
    pub explanation: String,
}

/// Makes and opens segments. The seam under which tests put a fault layer.
pub trait Engine: Send + Sync {
    /// A short name for the banner and the benchmarks.
    fn name(&self) -> &'static str;

    /// Looks at the folder: what it stands on and whether direct writes are taken.
    fn probe(&self, folder: &Path) -> io::Result<Medium>;

    /// Bytes that the file system under the folder still has for us.
    fn available_bytes(&self, folder: &Path) -> io::Result<u64>;

    /// Makes a segment of `bytes` zeros, durably, its name in the folder included. Runs on a background thread and may take
    /// long; an error leaves no file behind.
    fn prepare(&self, path: &Path, bytes: u64) -> io::Result<()>;

    /// Opens a prepared segment for writing, on the journal's thread; it stays there.
    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>>;
}

/// A segment open for writing.
pub trait SegmentFile {
    /// Writes whole 4 KiB blocks (`bytes` starts at a 4 KiB boundary in memory, `offset` in the file) and returns when they
    /// are on the disk. One attempt: fewer bytes than given is a failed write.
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize>;
}

/// Plain file I/O.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdEngine {
    /// Do not even try O_DIRECT.
    pub buffered: bool,
}

impl Engine for StdEngine {
    fn name(&self) -> &'static str {
        "std"
    }

    fn probe(&self, _folder: &Path) -> io::Result<Medium> {
        unimplemented!("api first")
    }

    fn available_bytes(&self, _folder: &Path) -> io::Result<u64> {
        unimplemented!("api first")
    }

    fn prepare(&self, _path: &Path, _bytes: u64) -> io::Result<()> {
        unimplemented!("api first")
    }

    fn open(&self, _path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        unimplemented!("api first")
    }
}
