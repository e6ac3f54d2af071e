//! What the server costs, read from /proc: CPU time and resident memory of one process, by pid. Read-only; a process that has
//! ended reads as an error, never as zero.

use std::io;

/// Linux reports process times to user space in ticks of 1/100 s on every architecture Rust has (USER_HZ, time(7)).
const TICK_US: u64 = 10_000;

/// One reading of a process.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Usage {
    /// User and system CPU time since the process started, in microseconds, in steps of 10 ms.
    pub cpu_us: u64,
    /// Resident set, in bytes.
    pub rss_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

/// Reads `/proc/<pid>/stat`, `status` and the descriptor table.
pub fn usage(pid: u32) -> io::Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name may hold spaces and brackets: fields are counted from behind its last bracket (proc(5)).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| malformed(pid));
    let (user_ticks, system_ticks) = (field(11)?, field(12)?);
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss_kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(|rest| rest.split_whitespace().next());
    let rss_kib: u64 = rss_kib.and_then(|text| text.parse().ok()).ok_or_else(|| malformed(pid))?;
    Ok(Usage { cpu_us: (user_ticks + system_ticks) * TICK_US, rss_bytes: rss_kib * 1024, descriptors })
}

/// CPU time of the calling process so far, user and system, in microseconds.
pub fn own_cpu_us() -> u64 {
    usage(std::process::id()).map_or(0, |usage| usage.cpu_us)
}

fn malformed(pid: u32) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("/proc/{pid}/stat or status has another shape than proc(5) says"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_process() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 1 << 18 && usage.descriptors >= 3);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(super::usage(u32::MAX - 1).is_err());
    }
}
