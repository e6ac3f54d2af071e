//! A journal engine that can be made to stall: writes wait until the gate opens, then go through to the real one.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use storage::journal::{Engine, Medium, SegmentFile, StdEngine};

#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

/// Real writes behind a gate.
#[derive(Clone, Default)]
pub struct Stalling {
    real: Arc<StdEngine>,
    gate: Arc<Gate>,
}

impl Stalling {
    pub fn close(&self) {
        *self.gate.closed.lock().expect("a test's own step works") = true;
    }

    pub fn open_gate(&self) {
        *self.gate.closed.lock().expect("a test's own step works") = false;
        self.gate.opened.notify_all();
    }
}

struct Gated {
    real: Box<dyn SegmentFile>,
    gate: Arc<Gate>,
}

impl SegmentFile for Gated {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let closed = self.gate.closed.lock().expect("a test's own step works");
        drop(self.gate.opened.wait_while(closed, |closed| *closed).expect("a test's own step works"));
        self.real.write(bytes, offset)
    }
}

impl Engine for Stalling {
    fn name(&self) -> &'static str {
        "stalling"
    }

    fn probe(&self, folder: &Path) -> io::Result<Medium> {
        self.real.probe(folder)
    }

    fn prepare(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.real.prepare(path, bytes)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(Gated { real: self.real.open(path)?, gate: Arc::clone(&self.gate) }))
    }
}
