//! The end in two phases, seen from every shard: first drain (stop accepting, finish), then stop (close now).

use std::{io, time::Duration};

/// Begins the phases; from any thread, any number of times.
#[derive(Debug, Clone)]
pub struct Shutdown {}

/// The first phase, seen from a shard.
#[derive(Debug, Clone)]
pub struct Drain {}

/// The second phase, seen from a shard. Every connection listens to it and closes its socket when it fires.
#[derive(Debug, Clone)]
pub struct Stop {}

impl Shutdown {
    /// Begins draining on every shard.
    pub fn drain(&self) {
        unimplemented!()
    }

    /// Begins the hard stop on every shard (and draining, if that had not begun).
    pub fn stop(&self) {
        unimplemented!()
    }

    /// True once draining has begun.
    pub fn is_draining(&self) -> bool {
        unimplemented!()
    }

    /// True once the hard stop has begun.
    pub fn is_stopping(&self) -> bool {
        unimplemented!()
    }
}

impl Drain {
    /// Waits until draining begins.
    pub async fn draining(&self) {
        unimplemented!()
    }

    /// True once draining has begun.
    pub fn is_draining(&self) -> bool {
        unimplemented!()
    }
}

impl Stop {
    /// Waits for the hard stop.
    pub async fn stopped(&self) {
        unimplemented!()
    }

    /// True once the hard stop has begun.
    pub fn is_stopped(&self) -> bool {
        unimplemented!()
    }
}

/// A signal that asks the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT (Ctrl-C).
    Interrupt,
}

/// SIGTERM and SIGINT as something to wait for, usually on the main thread.
#[derive(Debug)]
pub struct Signals {}

impl Signals {
    /// Takes over SIGTERM and SIGINT for the whole process.
    pub fn install() -> io::Result<Self> {
        unimplemented!()
    }

    /// Blocks this thread until a signal comes, or `timeout` has passed (`None` waits for ever).
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Option<Signal>> {
        let _ = timeout;
        unimplemented!()
    }
}
