//! The optional second engine: glommio's DmaFile on an executor of its own, on the journal's thread. Preparation and
//! everything else stays with plain file I/O. It must keep the same promise: a write returns when it is on the disk.

use std::io;
use std::path::Path;
use std::rc::Rc;

use glommio::io::{DmaFile, OpenOptions};
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use rustix::fs::OFlags;

use super::{Engine, Medium, SegmentFile, StdEngine};

/// Memory that the executor registers with the kernel. One commit is under way at a time, but it must fit.
const IO_MEMORY_BYTES: usize = 32 << 20;

thread_local! {
    /// glommio allows one executor per thread, and segments follow one another on the journal's thread.
    static EXECUTOR: std::cell::RefCell<Option<Rc<LocalExecutor>>> = const { std::cell::RefCell::new(None) };
}

fn executor() -> io::Result<Rc<LocalExecutor>> {
    EXECUTOR.with_borrow_mut(|slot| {
        if let Some(executor) = slot {
            return Ok(executor.clone());
        }
        let made = LocalExecutorBuilder::new(Placement::Unbound)
            .name("journal")
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(32)
            .make()
            .map_err(|error| {
                io::Error::other(format!(
                    "glommio cannot start ({error}). It needs io_uring and locked memory (`ulimit -l`); leave the feature out \
                     to use plain file I/O"
                ))
            })?;
        Ok(slot.insert(Rc::new(made)).clone())
    })
}

/// glommio's DmaFile for commits, [`StdEngine`] for the rest. Needs a file system that takes O_DIRECT.
#[derive(Debug, Default)]
pub struct GlommioEngine {
    inner: StdEngine,
}

impl Engine for GlommioEngine {
    fn name(&self) -> &'static str {
        "glommio"
    }

    fn probe(&self, folder: &Path) -> io::Result<Medium> {
        let medium = self.inner.probe(folder)?;
        if !medium.direct {
            return Err(io::Error::other("the glommio engine needs O_DIRECT, which this file system refuses"));
        }
        Ok(medium)
    }

    fn prepare(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.inner.prepare(path, bytes)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let executor = executor()?;
        let path = path.to_owned();
        let file = executor.run(async move {
            let flags = OFlags::DSYNC.bits() as i32;
            OpenOptions::new().write(true).custom_flags(flags).dma_open(path).await.map_err(io::Error::from)
        })?;
        Ok(Box::new(GlommioFile { executor, file: Some(file) }))
    }
}

struct GlommioFile {
    executor: Rc<LocalExecutor>,
    file: Option<DmaFile>,
}

impl SegmentFile for GlommioFile {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let file = self.file.as_ref().expect("taken only when dropped");
        self.executor.run(async {
            let mut buffer = file.alloc_dma_buffer(bytes.len());
            buffer.as_bytes_mut().copy_from_slice(bytes);
            file.write_at(buffer, offset).await.map_err(io::Error::from)
        })
    }
}

impl Drop for GlommioFile {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // The executor closes its own files; everything in this one is on the disk already.
            let _ = self.executor.run(file.close());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::a_journal_on_an_engine_keeps_what_it_acknowledged;
    use super::*;

    #[test]
    fn glommio_keeps_what_was_acknowledged() {
        a_journal_on_an_engine_keeps_what_it_acknowledged(std::sync::Arc::new(GlommioEngine::default()));
    }
}
