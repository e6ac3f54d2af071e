//! What the process uses, read from /proc when a scraper asks: memory, descriptors, processor time, connections. The names
//! are those that Prometheus client libraries use.

use std::fmt::Write;

use crate::admission::Admission;

/// Appends the gauges; one that cannot be read is left out.
pub(crate) fn append(page: &mut String, admission: &Admission) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident_bytes = kilobytes(&status, "VmRSS:").map(|kilobytes| kilobytes * 1024);
    let open_fds = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    gauge(page, "process_resident_memory_bytes", "Resident memory.", resident_bytes);
    gauge(page, "process_open_fds", "Open descriptors.", open_fds);
    gauge(page, "process_max_fds", "Descriptors that may be open.", fds_max(&limits));
    gauge(page, "process_threads", "Threads.", kilobytes(&status, "Threads:"));
    gauge(page, "mangahub_connections", "Connections over all doors.", Some(u64::from(admission.open())));
    gauge(page, "mangahub_connections_max", "The most there may be.", Some(u64::from(admission.open_max())));
    gauge(page, "mangahub_task_panics", "Tasks that panicked.", Some(runtime::task::panics_total()));
}

fn gauge(page: &mut String, name: &str, about: &str, value: Option<u64>) {
    if let Some(value) = value {
        let _ = writeln!(page, "# HELP {name} {about}\n# TYPE {name} gauge\n{name} {value}");
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

    #[test]
    fn the_process_knows_itself() {
        let mut page = String::new();
        append(&mut page, &Admission::new(10, 10));
        for name in ["process_resident_memory_bytes ", "process_open_fds ", "process_max_fds ", "process_threads "] {
            assert!(page.lines().any(|line| line.starts_with(name)), "{name}\n{page}");
        }
    }
}
