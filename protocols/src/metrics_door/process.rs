//! What the process uses, read from /proc when a scraper asks: memory, descriptors, processor time, connections. The names
//! are those that Prometheus client libraries use.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use super::described::described;
use crate::admission::Admission;

/// Ticks in a second of /proc's times: USER_HZ, 100 wherever this server runs (proc(5)).
const TICKS_PER_S: f64 = 100.0;

/// When this process was started, in Unix time. From how long ago it was, because a clock may be set.
static STARTED_S: LazyLock<Option<f64>> = LazyLock::new(|| {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime_s: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let started_s = Stat::read()?.started_ticks as f64 / TICKS_PER_S;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Some(now_s - (uptime_s - started_s))
});

/// Appends what the process knows of itself; what cannot be read is left out.
pub(crate) fn append(page: &mut String, admission: &Admission) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident_bytes = kilobytes(&status, "VmRSS:").map(|kilobytes| kilobytes * 1024);
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let cpu_ticks = Stat::read().map(|stat| stat.cpu_ticks as f64);
    let whole = |number: Option<u64>| number.map(|number| number as f64);
    show(page, "process_resident_memory_bytes", whole(resident_bytes));
    show(page, "process_open_fds", whole(open_fds()));
    show(page, "process_max_fds", whole(fds_max(&limits)));
    show(page, "process_threads", whole(kilobytes(&status, "Threads:")));
    show(page, "process_cpu_seconds_total", cpu_ticks.map(|ticks| ticks / TICKS_PER_S));
    show(page, "process_start_time_seconds", *STARTED_S);
    show(page, "mangahub_connections", Some(f64::from(admission.open())));
    show(page, "mangahub_connections_max", Some(f64::from(admission.open_max())));
    show(page, "mangahub_task_panics_total", whole(Some(runtime::task::panics_total())));
}

fn show(page: &mut String, name: &str, value: Option<f64>) {
    let (Some(value), Some((name, kind, help))) = (value, described(name)) else { return };
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {}\n{name} {value}", kind.as_str());
}

/// The folder's size is how many there are (Linux 6.2, fs/proc/fd.c); before that it was 0, and they are counted one by one,
/// which with ten thousand connections is the dearest part of the page.
fn open_fds() -> Option<u64> {
    let folder = "/proc/self/fd";
    match std::fs::metadata(folder).map(|found| found.size()) {
        Ok(size) if size > 0 => Some(size),
        _ => std::fs::read_dir(folder).ok().map(|entries| entries.count() as u64),
    }
}

/// What /proc/self/stat says.
struct Stat {
    cpu_ticks: u64,
    started_ticks: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // Behind the name, which may hold anything, up to its closing bracket.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // proc(5) counts from 1 and the name is the second: utime 14, stime 15, starttime 22.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, started_ticks: field(22)? })
    }
}

/// The number on a line of /proc/self/status.
fn kilobytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(field))?;
    line[field.len()..].split_whitespace().next()?.parse().ok()
}

fn fds_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    line["Max open files".len()..].split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> f64 {
        let mut page = String::new();
        append(&mut page, &Admission::new(10, 10));
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} is missing:\n{page}")).parse().unwrap()
    }

    #[test]
    fn the_process_knows_itself() {
        for name in ["process_resident_memory_bytes", "process_max_fds", "process_threads"] {
            assert!(value(name) > 0.0, "{name}");
        }
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age_s = now_s - value("process_start_time_seconds");
        assert!((-1.0..86_400.0).contains(&age_s), "started {age_s} s ago");
        let before = value("process_cpu_seconds_total");
        while value("process_cpu_seconds_total") <= before {}
    }

    #[test]
    fn descriptors_are_counted_whichever_way() {
        let counted = std::fs::read_dir("/proc/self/fd").unwrap().count() as f64;
        let more: Vec<_> = (0..100).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        // Other tests of this process open and close some of their own.
        let seen = value("process_open_fds");
        assert!((counted + 50.0..counted + 200.0).contains(&seen), "{seen} of {counted} and 100");
        drop(more);
    }
}
