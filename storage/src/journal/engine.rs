//! How the journal's bytes reach the disk: one object that prepares segments and opens them for writing. The default is plain
//! file I/O, O_DIRECT|O_DSYNC where the file system takes it. An engine must never say that bytes are written before they
//! are on the disk, and must never retry a failed write by itself.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;

use super::format::BLOCK_BYTES;
use crate::file_system::{self, FileSystem};

/// Zeros are written ahead in pieces of this size: large enough for the disk's full speed, small enough that a commit
/// queued behind one waits for well under a millisecond.
const ZEROS_BYTES: usize = 256 << 10;

/// Zeros as O_DIRECT takes them. Not from the heap: a large aligned block that comes and goes with every segment leaves a hole
/// each time that the next one does not fit into.
#[repr(align(4096))]
struct Zeros([u8; ZEROS_BYTES]);

static ZEROS: Zeros = Zeros([0; ZEROS_BYTES]);
const _: () = assert!(align_of::<Zeros>() == BLOCK_BYTES);

/// What the journal stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Medium {
    /// The file system's kind, as statfs names it.
    pub file_system: &'static str,
    /// Whether writes go past the page cache.
    pub direct: bool,
    /// Whether the medium forgets everything at power-off: durability is then a pretence.
    pub volatile: bool,
    /// The above for a person, and what to do about it.
    pub explanation: String,
}

impl Medium {
    /// Puts into words what was found.
    pub fn new(file_system: FileSystem, direct: bool) -> Self {
        let FileSystem { kind, volatile, remote } = file_system;
        let explanation = match (volatile, remote, direct) {
            (true, ..) => format!(
                "WARNING: the journal is on {kind}, which is memory: a power failure or a reboot loses everything that was \
                 acknowledged. Put the data folder on a disk"
            ),
            (_, true, _) => format!(
                "the journal is on {kind}, a file system of another machine: acknowledged means that machine said so. A local \
                 disk is faster and surer"
            ),
            (_, _, true) => {
                format!("{kind}, writes past the page cache and on the disk before they return (O_DIRECT|O_DSYNC)")
            }
            (_, _, false) => format!(
                "{kind} refuses O_DIRECT: writes go through the page cache, on the disk before they return (O_DSYNC); slower, \
                 as durable"
            ),
        };
        Self { file_system: kind, direct, volatile, explanation }
    }
}

/// Makes and opens segments. The seam under which tests put a fault layer.
pub trait Engine: Send + Sync {
    /// A short name for the banner and the benchmarks.
    fn name(&self) -> &'static str;

    /// Looks at the folder: what it stands on and whether direct writes are taken. Called before anything else.
    fn probe(&self, folder: &Path) -> io::Result<Medium>;

    /// Bytes that the file system under the folder still has for us.
    fn available_bytes(&self, folder: &Path) -> io::Result<u64> {
        file_system::available_bytes(folder)
    }

    /// Makes a segment of `bytes` zeros, durably, its name in the folder included. Runs on a background thread and may take
    /// long; an error leaves nothing under `path`.
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

/// Plain file I/O: pwrite(2) on files opened with O_DSYNC, and O_DIRECT unless the probe found it refused.
#[derive(Debug, Default)]
pub struct StdEngine {
    buffered: AtomicBool,
}

impl StdEngine {
    /// Does not even try O_DIRECT.
    pub fn buffered() -> Self {
        Self { buffered: AtomicBool::new(true) }
    }

    fn flags(&self, durable: bool) -> i32 {
        let direct = if self.buffered.load(Ordering::Relaxed) { OFlags::empty() } else { OFlags::DIRECT };
        let durable = if durable { OFlags::DSYNC } else { OFlags::empty() };
        (direct | durable).bits() as i32
    }

    /// The segment as the journal writes it (`durable`); for engines that wrap this one.
    pub(super) fn open_file(&self, path: &Path, durable: bool) -> io::Result<File> {
        OpenOptions::new().write(true).custom_flags(self.flags(durable)).open(path)
    }

    fn takes_direct_writes(&self, folder: &Path) -> io::Result<bool> {
        let path = folder.join("probe.new");
        let attempt = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags((OFlags::DIRECT | OFlags::DSYNC).bits() as i32)
            .open(&path)
            .and_then(|file| file.write_all_at(&ZEROS.0[..BLOCK_BYTES], 0));
        // Removed whether it worked or not; it may not even be there.
        let _ = std::fs::remove_file(&path);
        match attempt {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn write_zeros(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(self.flags(false))
            .open(path)?;
        let mut offset = 0;
        while offset < bytes {
            let piece = (bytes - offset).min(ZEROS_BYTES as u64) as usize;
            file.write_all_at(&ZEROS.0[..piece], offset)?;
            offset += piece as u64;
        }
        file.sync_all()
    }
}

impl Engine for StdEngine {
    fn name(&self) -> &'static str {
        "std"
    }

    fn probe(&self, folder: &Path) -> io::Result<Medium> {
        let file_system = FileSystem::of(folder)?;
        if !self.buffered.load(Ordering::Relaxed) && !self.takes_direct_writes(folder)? {
            self.buffered.store(true, Ordering::Relaxed);
        }
        Ok(Medium::new(file_system, !self.buffered.load(Ordering::Relaxed)))
    }

    fn prepare(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let unfinished = path.with_extension("new");
        let made = self.write_zeros(&unfinished, bytes).and_then(|()| std::fs::rename(&unfinished, path));
        if let Err(error) = made {
            // Half a segment would keep the room that its retry needs.
            let _ = std::fs::remove_file(&unfinished);
            return Err(error);
        }
        path.parent().map_or(Ok(()), file_system::sync_folder)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(StdFile(self.open_file(path, true)?)))
    }
}

struct StdFile(File);

impl SegmentFile for StdFile {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        // One call: what a second one after a short write would find on the disk is anybody's guess.
        loop {
            match self.0.write_at(bytes, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => return outcome,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_written_through_to_the_disk() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for engine in [StdEngine::default(), StdEngine::buffered()] {
            let medium = engine.probe(folder.path()).unwrap();
            let path = folder.path().join("segment");
            engine.prepare(&path, 64 << 10).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), vec![0; 64 << 10]);
            let flags = rustix::fs::fcntl_getfl(engine.open_file(&path, true).unwrap()).unwrap();
            assert!(flags.contains(OFlags::DSYNC), "without O_DSYNC a write is not durable when it returns");
            assert_eq!(flags.contains(OFlags::DIRECT), medium.direct);
        }
    }

    #[test]
    fn segments_that_come_and_go_leave_no_memory_behind() {
        const SEGMENTS: usize = 64;
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let engine = StdEngine::buffered();
        let path = folder.path().join("segment");
        // proc(5), second field of statm, in pages of 4 KiB.
        let resident = || -> usize {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
        };
        // As in a server, where larger blocks have come and gone, so that these come from the heap.
        drop(std::hint::black_box(vec![1_u8; 1 << 20]));
        engine.prepare(&path, 64 << 10).unwrap();
        let before = resident();
        // What the journal keeps of each lies where the next one would have gone.
        let kept: Vec<Box<[u8; 48]>> = (0..SEGMENTS)
            .map(|_| {
                engine.prepare(&path, 64 << 10).unwrap();
                Box::new([1; 48])
            })
            .collect();
        let grown = resident().saturating_sub(before);
        assert!(grown < SEGMENTS * ZEROS_BYTES / 8, "{grown} bytes more for {} segments", kept.len());
    }

    #[test]
    fn memory_is_called_memory() {
        let medium = Medium::new(FileSystem { kind: "tmpfs", volatile: true, remote: false }, false);
        assert!(medium.explanation.starts_with("WARNING"));
    }
}
