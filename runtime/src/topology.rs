//! How many shards to run, and on which CPUs.
//!
//! It promises to respect what this process was given: the affinity mask (whatever numbers are in it) and the cgroup CPU
//! quota. It must never assume that CPUs are numbered 0..N.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Most shards that one process may run.
pub const SHARDS_MAX: usize = 256;

/// Where the cgroup file systems are mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

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
    Affinity(#[source] io::Error),
}

/// Decides the shards: as many as allowed CPUs, no more than the cgroup quota (rounded up), unless `requested` says
/// otherwise. More shards than CPUs are allowed when asked for; they share CPUs in turn.
pub fn detect(requested: Option<usize>) -> Result<Topology, TopologyError> {
    let cpus = affinity().map_err(TopologyError::Affinity)?;
    let own_cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let quota = quota_cpus(&own_cgroups, Path::new(CGROUP_ROOT));
    decide(cpus, quota, requested)
}

/// The decision itself: `quota` is in CPUs, fractions included.
fn decide(cpus: Vec<usize>, quota: Option<f64>, requested: Option<usize>) -> Result<Topology, TopologyError> {
    let allowed = cpus.len();
    let by_quota = quota.map(|quota| (quota.ceil() as usize).max(1));
    let (count, explanation) = match (requested, by_quota) {
        (Some(requested), _) if requested == 0 || requested > SHARDS_MAX => {
            return Err(TopologyError::Requested { requested });
        }
        (Some(requested), _) if requested > allowed => {
            (requested, format!("{requested} shards as asked for, on {allowed} allowed CPUs: they share CPUs"))
        }
        (Some(requested), _) => (requested, format!("{requested} shards as asked for, of {allowed} allowed CPUs")),
        (None, Some(limit)) if limit < allowed => (
            limit,
            format!(
                "{limit} shards: {allowed} CPUs are allowed, the cgroup quota is {:.2} CPUs",
                quota.unwrap_or_default()
            ),
        ),
        (None, _) => (allowed.min(SHARDS_MAX), format!("{} shards: one per allowed CPU", allowed.min(SHARDS_MAX))),
    };
    let shards = cpus.iter().copied().cycle().take(count).collect();
    Ok(Topology { cpus, shards, explanation })
}

/// The affinity mask of this process, as CPU numbers.
#[allow(unsafe_code)]
fn affinity() -> io::Result<Vec<usize>> {
    // The kernel refuses masks shorter than its own (EINVAL): grow until it fits, up to 64 Ki CPUs.
    let mut words = 16;
    loop {
        let mut mask = vec![0_u64; words];
        let bytes = words * size_of::<u64>();
        // SAFETY: the kernel writes at most `bytes` bytes, which is the length of `mask`; pid 0 is this thread.
        let outcome = unsafe { libc::sched_getaffinity(0, bytes, mask.as_mut_ptr().cast()) };
        if outcome == 0 {
            let is_set = |cpu: &usize| mask[cpu / 64] & (1 << (cpu % 64)) != 0;
            return Ok((0..words * 64).filter(is_set).collect());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) || words >= 1024 {
            return Err(error);
        }
        words *= 2;
    }
}

/// Pins the calling thread to one CPU.
#[allow(unsafe_code)]
pub(crate) fn pin_thread(cpu: usize) -> io::Result<()> {
    let mut mask = vec![0_u64; (cpu / 64 + 1).max(16)];
    mask[cpu / 64] |= 1 << (cpu % 64);
    // SAFETY: the kernel reads as many bytes as `mask` is long; pid 0 is this thread.
    let outcome = unsafe { libc::sched_setaffinity(0, mask.len() * size_of::<u64>(), mask.as_ptr().cast()) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The tightest CPU quota of this process's cgroups (v2, else v1), its ancestors included; `None` when unlimited.
fn quota_cpus(own_cgroups: &str, root: &Path) -> Option<f64> {
    let mut tightest: Option<f64> = None;
    for line in own_cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, read): (PathBuf, fn(&Path) -> Option<f64>) = match controllers {
            "" => (root.to_path_buf(), quota_v2),
            list if list.split(',').any(|name| name == "cpu") => {
                let joined = root.join(list);
                (if joined.is_dir() { joined } else { root.join("cpu") }, quota_v1)
            }
            _ => continue,
        };
        // Inside a container the path is often "/" or one that is not mounted here: then the mount's own file counts.
        let relative = path.trim_start_matches('/');
        let mut folder = mount.join(relative);
        loop {
            if let Some(quota) = read(&folder) {
                tightest = Some(tightest.map_or(quota, |other| other.min(quota)));
            }
            if folder == mount || !folder.pop() || !folder.starts_with(&mount) {
                break;
            }
        }
    }
    tightest
}

/// `cpu.max`: "QUOTA PERIOD" in microseconds, or "max PERIOD".
fn quota_v2(folder: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(folder.join("cpu.max")).ok()?;
    let mut words = text.split_whitespace();
    let quota: f64 = words.next()?.parse().ok()?;
    let period: f64 = words.next()?.parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// `cpu.cfs_quota_us` (-1 for none) over `cpu.cfs_period_us`.
fn quota_v1(folder: &Path) -> Option<f64> {
    let read = |name: &str| -> Option<f64> { std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok() };
    let quota = read("cpu.cfs_quota_us")?;
    let period = read("cpu.cfs_period_us")?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allowed_cpu_gets_a_shard_whatever_its_number() {
        let topology = decide(vec![3, 7, 64], None, None).unwrap();
        assert_eq!(topology.shards, vec![3, 7, 64]);
        assert!(topology.explanation.contains("one per allowed CPU"));
    }

    #[test]
    fn the_quota_limits_shards_and_is_rounded_up() {
        let topology = decide(vec![0, 1, 2, 3], Some(1.5), None).unwrap();
        assert_eq!(topology.shards, vec![0, 1]);
        assert!(topology.explanation.contains("1.50"), "{}", topology.explanation);
        assert_eq!(decide(vec![0, 1], Some(0.1), None).unwrap().shards, vec![0]);
        assert_eq!(decide(vec![0, 1], Some(8.0), None).unwrap().shards, vec![0, 1]);
    }

    #[test]
    fn a_request_overrides_and_may_share_cpus() {
        assert_eq!(decide(vec![4, 5], Some(1.0), Some(2)).unwrap().shards, vec![4, 5]);
        let shared = decide(vec![4, 5], None, Some(3)).unwrap();
        assert_eq!(shared.shards, vec![4, 5, 4]);
        assert!(shared.explanation.contains("share"));
        assert!(matches!(decide(vec![4], None, Some(0)), Err(TopologyError::Requested { requested: 0 })));
        assert!(decide(vec![4], None, Some(SHARDS_MAX + 1)).is_err());
    }

    #[test]
    fn the_tightest_quota_of_the_ancestors_counts() {
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("pod/app");
        std::fs::create_dir_all(&leaf).unwrap();
        std::fs::write(leaf.join("cpu.max"), "max 100000\n").unwrap();
        std::fs::write(root.path().join("pod/cpu.max"), "150000 100000\n").unwrap();
        assert_eq!(quota_cpus("0::/pod/app\n", root.path()), Some(1.5));
        assert_eq!(quota_cpus("0::/elsewhere\n", root.path()), None);
        assert_eq!(quota_cpus("nonsense\n", root.path()), None);
    }

    #[test]
    fn version_one_cgroups_are_read_too() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("cpu,cpuacct/app");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("cpu.cfs_quota_us"), "250000\n").unwrap();
        std::fs::write(folder.join("cpu.cfs_period_us"), "100000\n").unwrap();
        assert_eq!(quota_cpus("5:memory:/app\n4:cpu,cpuacct:/app\n", root.path()), Some(2.5));
        std::fs::write(folder.join("cpu.cfs_quota_us"), "-1\n").unwrap();
        assert_eq!(quota_cpus("4:cpu,cpuacct:/app\n", root.path()), None);
    }

    #[test]
    fn this_machine_has_a_topology_and_threads_can_be_pinned_to_it() {
        let topology = detect(None).unwrap();
        assert!(!topology.shards.is_empty());
        let cpu = *topology.cpus.last().unwrap();
        std::thread::spawn(move || {
            pin_thread(cpu).unwrap();
            assert_eq!(affinity().unwrap(), vec![cpu]);
        })
        .join()
        .unwrap();
    }
}
