//! Which I/O backend this machine allows, found by trying, never by reading a version number.
//!
//! It promises that a refusal of io_uring is explained and names what to change. The rings it tries are made exactly as
//! the shards' are.

use std::io;

use io_uring::{IoUring, opcode};
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

impl RingFlags {
    /// Best first; each is tried until one works.
    const CANDIDATES: [RingFlags; 3] = [
        RingFlags { defer_taskrun: true, coop_taskrun: true },
        RingFlags { defer_taskrun: false, coop_taskrun: true },
        RingFlags { defer_taskrun: false, coop_taskrun: false },
    ];

    pub(crate) fn builder(self) -> io_uring::Builder {
        let mut builder = IoUring::builder();
        if self.coop_taskrun {
            builder.setup_coop_taskrun();
        }
        if self.defer_taskrun {
            builder.setup_single_issuer();
            builder.setup_defer_taskrun();
        }
        builder
    }

    fn describe(self) -> &'static str {
        match (self.defer_taskrun, self.coop_taskrun) {
            (true, _) => "single_issuer, coop_taskrun, defer_taskrun",
            (false, true) => "coop_taskrun; this kernel has no defer_taskrun (Linux 6.1)",
            (false, false) => "default flags; this kernel has no coop_taskrun (Linux 5.19)",
        }
    }
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
    #[error("io_uring was asked for, but {explanation}; {fix}")]
    Refused {
        /// What was found.
        explanation: String,
        /// What to change.
        fix: String,
    },
}

/// Submission queue entries of each shard's ring.
pub const RING_ENTRIES: u32 = 1024;

/// What the shards submit; a kernel without one of these is too old (Linux 5.6 has them all).
const OPCODES: [(u8, &str); 8] = [
    (opcode::PollAdd::CODE, "poll_add"),
    (opcode::Read::CODE, "read"),
    (opcode::Recv::CODE, "recv"),
    (opcode::Send::CODE, "send"),
    (opcode::Connect::CODE, "connect"),
    (opcode::Close::CODE, "close"),
    (opcode::Timeout::CODE, "timeout"),
    (opcode::AsyncCancel::CODE, "async_cancel"),
];

/// Tries io_uring with the best flags, then with fewer, then falls back to epoll with an explanation. The outcome is
/// logged. With `force` the fallback is an error, or epoll is taken without a try.
pub fn probe(force: Option<BackendKind>) -> Result<Probe, ProbeError> {
    let forced = force.is_some();
    if force == Some(BackendKind::Epoll) {
        let explanation = "epoll, as asked for".to_owned();
        return Ok(Probe { backend: BackendKind::Epoll, flags: RingFlags::default(), explanation, fix: None, forced });
    }
    match try_ring() {
        Ok(flags) => {
            let explanation = format!("io_uring ({})", flags.describe());
            tracing::info!(%explanation, "I/O backend");
            Ok(Probe { backend: BackendKind::IoUring, flags, explanation, fix: None, forced })
        }
        Err(refusal) => {
            let (found, fix) = refusal.explain(&Facts::read());
            if forced {
                return Err(ProbeError::Refused { explanation: found, fix });
            }
            let explanation = format!("epoll, because {found}");
            tracing::warn!(%explanation, %fix, "io_uring is not used");
            let flags = RingFlags::default();
            Ok(Probe { backend: BackendKind::Epoll, flags, explanation, fix: Some(fix), forced })
        }
    }
}

impl Probe {
    /// The same decision with epoll, after a shard's ring failed although the probe's had worked.
    pub(crate) fn fallen_back(&self, error: &io::Error) -> Probe {
        let refusal = Refusal::Setup(error.raw_os_error().unwrap_or(0));
        let (found, fix) = refusal.explain(&Facts::read());
        Probe {
            backend: BackendKind::Epoll,
            flags: RingFlags::default(),
            explanation: format!("epoll, because a shard's ring was refused: {found}"),
            fix: Some(fix),
            forced: false,
        }
    }
}

/// Why io_uring cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refusal {
    /// `io_uring_setup` failed with this error number.
    Setup(i32),
    /// The ring works but lacks an operation.
    Opcode(&'static str),
}

fn try_ring() -> Result<RingFlags, Refusal> {
    let mut last = Refusal::Setup(0);
    for flags in RingFlags::CANDIDATES {
        match flags.builder().build(RING_ENTRIES) {
            Ok(ring) => {
                let mut supported = io_uring::Probe::new();
                let missing = match ring.submitter().register_probe(&mut supported) {
                    Ok(()) => OPCODES.iter().find(|(code, _)| !supported.is_supported(*code)),
                    // Kernels before 5.6 cannot even be asked.
                    Err(_) => OPCODES.first(),
                };
                return match missing {
                    None => Ok(flags),
                    Some((_, name)) => Err(Refusal::Opcode(name)),
                };
            }
            Err(error) => {
                let number = error.raw_os_error().unwrap_or(0);
                last = Refusal::Setup(number);
                // Unknown flags are EINVAL; anything else is not the flags' fault.
                if number != libc::EINVAL {
                    break;
                }
            }
        }
    }
    Err(last)
}

/// What else is known about this machine, to explain a refusal with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Facts {
    kernel: String,
    /// `kernel.io_uring_disabled`: 0 allowed, 1 only for a group, 2 for nobody.
    disabled: Option<u8>,
    /// A seccomp filter is installed.
    filtered: bool,
    memlock_bytes: Option<u64>,
}

impl Facts {
    fn read() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/self/status");
        let limits = read("/proc/self/limits");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            disabled: read("/proc/sys/kernel/io_uring_disabled").trim().parse().ok(),
            filtered: status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2")),
            memlock_bytes: limits
                .lines()
                .find_map(|line| line.strip_prefix("Max locked memory"))
                .and_then(|rest| rest.split_whitespace().next())
                .and_then(|soft| soft.parse().ok()),
        }
    }

    fn is_at_least(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self.kernel.split(|mark: char| !mark.is_ascii_digit()).map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(found_major)), Some(Ok(found_minor))) => (found_major, found_minor) >= (major, minor),
            _ => false,
        }
    }
}

impl Refusal {
    /// What was found, and what to change.
    fn explain(&self, facts: &Facts) -> (String, String) {
        let kernel = &facts.kernel;
        let seccomp_fix = "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile \
                           (Docker: --security-opt seccomp=PROFILE.json, or seccomp=unconfined to try it)";
        match self {
            Refusal::Setup(libc::EPERM | libc::EACCES) if facts.disabled.is_some_and(|mode| mode > 0) => (
                format!("the sysctl kernel.io_uring_disabled is {}", facts.disabled.unwrap_or_default()),
                "set it to 0: sysctl -w kernel.io_uring_disabled=0 (or, when it is 1, add this process's group to \
                 kernel.io_uring_group)"
                    .to_owned(),
            ),
            Refusal::Setup(number @ (libc::EPERM | libc::EACCES)) => {
                (format!("io_uring_setup was refused by seccomp or a security module ({})", named(*number)), seccomp_fix.to_owned())
            }
            Refusal::Setup(libc::ENOSYS) if facts.filtered || facts.is_at_least(5, 1) => (
                format!("io_uring_setup is hidden (ENOSYS) although this is Linux {kernel}: by seccomp, a sandbox, or a kernel built without it"),
                format!("{seccomp_fix}; gVisor and kernels without CONFIG_IO_URING stay on epoll"),
            ),
            Refusal::Setup(libc::ENOMEM) => (
                format!(
                    "the ring does not fit into the locked memory limit (RLIMIT_MEMLOCK {})",
                    facts.memlock_bytes.map_or("unknown".to_owned(), |bytes| format!("{} KiB", bytes / 1024))
                ),
                "raise it: ulimit -l 65536, systemd LimitMEMLOCK=64M, Docker --ulimit memlock=67108864 (kernels from 5.12 \
                 count rings against the cgroup's memory instead)"
                    .to_owned(),
            ),
            Refusal::Setup(libc::EMFILE | libc::ENFILE) => (
                "there is no descriptor left for a ring".to_owned(),
                "raise the limit: ulimit -n 65536, systemd LimitNOFILE=65536".to_owned(),
            ),
            Refusal::Setup(number @ (libc::ENOSYS | libc::EINVAL)) => (
                format!("this kernel is too old for io_uring (Linux {kernel}, {})", named(*number)),
                "use Linux 5.6 or newer; 6.1 or newer is best".to_owned(),
            ),
            Refusal::Setup(number) => (
                format!("io_uring_setup failed: {}", io::Error::from_raw_os_error(*number)),
                "report this; epoll works meanwhile".to_owned(),
            ),
            Refusal::Opcode(name) => (
                format!("this kernel's io_uring (Linux {kernel}) has no {name}"),
                "use Linux 5.6 or newer; 6.1 or newer is best".to_owned(),
            ),
        }
    }
}

fn named(number: i32) -> &'static str {
    match number {
        libc::EPERM => "EPERM",
        libc::EACCES => "EACCES",
        libc::ENOSYS => "ENOSYS",
        libc::EINVAL => "EINVAL",
        _ => "another error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kernel: &str) -> Facts {
        Facts { kernel: kernel.to_owned(), disabled: Some(0), filtered: false, memlock_bytes: Some(65_536) }
    }

    #[test]
    fn every_refusal_names_its_cause_and_what_to_change() {
        let new = facts("6.8.0-45-generic");
        let cases = [
            (Refusal::Setup(libc::EPERM), new.clone(), "seccomp", "seccomp"),
            (
                Refusal::Setup(libc::EPERM),
                Facts { disabled: Some(2), ..new.clone() },
                "io_uring_disabled is 2",
                "sysctl",
            ),
            (Refusal::Setup(libc::ENOSYS), new.clone(), "hidden", "seccomp"),
            (Refusal::Setup(libc::ENOSYS), facts("4.19.0"), "too old", "5.6"),
            (Refusal::Setup(libc::ENOMEM), new.clone(), "64 KiB", "ulimit -l"),
            (Refusal::Setup(libc::EMFILE), new.clone(), "descriptor", "ulimit -n"),
            (Refusal::Setup(libc::EINVAL), facts("5.4.0"), "too old", "5.6"),
            (Refusal::Opcode("recv"), facts("5.4.0"), "recv", "5.6"),
            (Refusal::Setup(libc::EIO), new, "failed", "report"),
        ];
        for (refusal, facts, cause, change) in cases {
            let (found, fix) = refusal.explain(&facts);
            assert!(found.contains(cause), "{refusal:?}: {found}");
            assert!(fix.contains(change), "{refusal:?}: {fix}");
        }
    }

    #[test]
    fn epoll_can_be_forced_anywhere() {
        let probe = probe(Some(BackendKind::Epoll)).unwrap();
        assert_eq!(probe.backend, BackendKind::Epoll);
        assert!(probe.forced);
    }

    #[test]
    fn the_kernel_release_is_compared_by_numbers() {
        assert!(facts("6.18.44-fc").is_at_least(6, 1));
        assert!(facts("5.10.0").is_at_least(5, 6));
        assert!(!facts("5.4").is_at_least(5, 6));
        assert!(!facts("").is_at_least(5, 6));
    }
}
