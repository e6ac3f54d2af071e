//! The fleet: one pinned thread per shard, from start to a clean end.

use std::time::Duration;

use thiserror::Error;

use crate::{
    probe::{BackendKind, Probe},
    shutdown::{Drain, Shutdown, Stop},
    topology::Topology,
};

/// What a fleet is started with.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// Shards and their CPUs.
    pub topology: Topology,
    /// The backend.
    pub probe: Probe,
    /// Threads are called `<prefix>-<shard>`.
    pub thread_name_prefix: String,
    /// How long a shard keeps running after its main returned, so that its tasks end with their sockets.
    pub linger_max: Duration,
    #[doc(hidden)]
    pub guard: bool,
}

impl FleetConfig {
    /// Defaults for a topology and a probe.
    pub fn new(topology: Topology, probe: Probe) -> Self {
        Self {
            topology,
            probe,
            thread_name_prefix: "shard".to_owned(),
            linger_max: Duration::from_millis(200),
            guard: true,
        }
    }
}

/// Why a fleet did not start.
#[derive(Debug, Error)]
pub enum FleetError {
    /// A shard's thread could not be started.
    #[error("shard {shard}: its thread could not be started: {source}")]
    Thread {
        /// The shard.
        shard: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// A shard's ring or epoll set could not be made.
    #[error("shard {shard}: its {} could not be set up: {source}", backend.name())]
    Backend {
        /// The shard.
        shard: usize,
        /// What was tried.
        backend: BackendKind,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What a shard's main is given.
#[derive(Debug, Clone)]
pub struct ShardContext {
    /// This shard, 0-based.
    pub id: usize,
    /// How many shards there are.
    pub shards: usize,
    /// The CPU this shard is pinned to.
    pub cpu: usize,
    /// What this shard runs on.
    pub backend: BackendKind,
    /// First phase of the end: stop accepting, finish.
    pub drain: Drain,
    /// Second phase: close now.
    pub stop: Stop,
    /// Lets a shard begin the end of the whole fleet.
    pub shutdown: Shutdown,
}

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    shutdown: Shutdown,
    backend: BackendKind,
}

/// Starts one pinned thread per shard. `factory` is called here, once per shard; what it returns runs on the shard's thread.
///
/// A shard's main is essential: if it panics, the process exits non-zero. When it returns, the shard's hard stop is fired
/// and the shard runs a little longer so that its tasks end.
pub fn start<M, F>(config: FleetConfig, mut factory: impl FnMut(usize) -> M) -> Result<Fleet, FleetError>
where
    M: FnOnce(ShardContext) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let _ = factory(config.topology.shards.len());
    unimplemented!()
}

impl Fleet {
    /// The two-phase shutdown of this fleet; cheap to clone, usable from any thread.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// What the shards run on.
    pub fn backend(&self) -> BackendKind {
        self.backend
    }

    /// True when every shard has ended.
    pub fn is_finished(&self) -> bool {
        unimplemented!()
    }

    /// Waits for every shard to end.
    pub fn join(self) {
        unimplemented!()
    }
}
