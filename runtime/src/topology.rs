//! How many shards to run, and on which CPUs.

use thiserror::Error;

/// Most shards that one process may run.
pub const SHARDS_MAX: usize = 256;

/// The CPUs this process may use and the shards that will run on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Allowed CPUs (affinity mask), in ascending order; never assumed to be 0..N.
    pub cpus: Vec<usize>,
    /// The CPU of each shard; its length is the number of shards.
    pub shards: Vec<usize>,
    /// One line for people: where the number comes from.
    pub explanation: String,
}

/// Why no topology could be decided.
#[derive(Debug, Error)]
pub enum TopologyError {
    /// A number of shards outside 1..=[`SHARDS_MAX`] was asked for.
    #[error("{requested} shards were asked for; choose a number from 1 to {SHARDS_MAX}")]
    Requested {
        /// What was asked for.
        requested: usize,
    },
    /// The affinity mask could not be read.
    #[error("the CPU affinity mask could not be read: {0}")]
    Affinity(#[source] std::io::Error),
}

/// Decides the shards: as many as allowed CPUs, no more than the cgroup quota (rounded up), unless `requested` says otherwise.
pub fn detect(requested: Option<usize>) -> Result<Topology, TopologyError> {
    let _ = requested;
    unimplemented!()
}
