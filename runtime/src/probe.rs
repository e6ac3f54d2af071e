//! Which I/O backend this machine allows, found by trying, never by reading a version number.

use thiserror::Error;

/// The kernel interface that drives a shard's I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// io_uring.
    IoUring,
    /// epoll, the fallback.
    Epoll,
}

impl BackendKind {
    /// The name shown to people and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            BackendKind::IoUring => "io_uring",
            BackendKind::Epoll => "epoll",
        }
    }
}

/// The ring setup flags that the kernel accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingFlags {
    /// `IORING_SETUP_SINGLE_ISSUER` and `IORING_SETUP_DEFER_TASKRUN` (Linux 6.1).
    pub defer_taskrun: bool,
    /// `IORING_SETUP_COOP_TASKRUN` (Linux 5.19).
    pub coop_taskrun: bool,
}

/// The chosen backend and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What the shards will run on.
    pub backend: BackendKind,
    /// Setup flags of each shard's ring; meaningless for epoll.
    pub flags: RingFlags,
    /// One line for people: what was found.
    pub explanation: String,
    /// What to change to get io_uring, when it was refused.
    pub fix: Option<String>,
    /// True when the caller forced the backend; then a failing ring is an error, not a fallback.
    pub forced: bool,
}

/// Why a forced backend cannot be used.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// io_uring was forced and is not usable.
    #[error("io_uring was asked for but {explanation}; {fix}")]
    Refused {
        /// What was found.
        explanation: String,
        /// What to change.
        fix: String,
    },
}

/// Submission queue entries of each shard's ring.
pub const RING_ENTRIES: u32 = 1024;

/// Tries io_uring with the best flags, then with fewer, then falls back to epoll with an explanation.
pub fn probe(force: Option<BackendKind>) -> Result<Probe, ProbeError> {
    let _ = force;
    unimplemented!()
}
