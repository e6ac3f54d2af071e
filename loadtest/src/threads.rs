//! Where a server's CPU time goes, by thread: every thread of the server has a name for its work, and the kernel keeps each
//! one's time in nanoseconds. This is what tells the rows of the store apart from the acknowledgements.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

/// CPU time of one group of threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spent {
    /// How many threads.
    pub threads: usize,
    /// On a CPU so far, user and system, in nanoseconds.
    pub cpu_ns: u64,
    /// Runnable and waiting for a CPU so far, in nanoseconds.
    pub waited_ns: u64,
}

/// CPU time by group.
pub type Groups = BTreeMap<String, Spent>;

/// The group in which SQL is executed; goals on the cost of an update leave it out.
pub const SQL_GROUP: &str = "store-writer";

/// Reads every thread of a process, keyed by thread id.
pub fn read(pid: u32) -> io::Result<BTreeMap<u32, (String, Spent)>> {
    let mut threads = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        // A thread may end between being listed and being read.
        let (Some(id), Ok(name), Ok(stat)) =
            (id, std::fs::read_to_string(path.join("comm")), std::fs::read_to_string(path.join("schedstat")))
        else {
            continue;
        };
        let mut fields = stat.split_whitespace().map(|field| field.parse::<u64>().unwrap_or(0));
        let spent = Spent { threads: 1, cpu_ns: fields.next().unwrap_or(0), waited_ns: fields.next().unwrap_or(0) };
        threads.insert(id, (group_of(name.trim()).to_owned(), spent));
    }
    Ok(threads)
}

/// The same, added up by group.
pub fn groups(pid: u32) -> io::Result<Groups> {
    let mut groups = Groups::new();
    for (name, spent) in read(pid)?.into_values() {
        let group = groups.entry(name).or_default();
        group.threads += spent.threads;
        group.cpu_ns += spent.cpu_ns;
        group.waited_ns += spent.waited_ns;
    }
    Ok(groups)
}

/// What was spent between two readings. Threads that ended in between are missing from the later one and count as nothing.
pub fn between(before: &Groups, after: &Groups) -> Groups {
    let since = |name: &String, after: &Spent| {
        let before = before.get(name).copied().unwrap_or_default();
        Spent {
            threads: after.threads,
            cpu_ns: after.cpu_ns.saturating_sub(before.cpu_ns),
            waited_ns: after.waited_ns.saturating_sub(before.waited_ns),
        }
    };
    after.iter().map(|(name, after)| (name.clone(), since(name, after))).collect()
}

/// Threads that are numbered do the same work: `shard-0` and `shard-1` are `shard`.
pub fn group_of(name: &str) -> &str {
    name.trim_end_matches(|letter: char| letter.is_ascii_digit()).trim_end_matches(['-', '_', ' '])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_threads_are_one_group() {
        assert_eq!(group_of("shard-0"), "shard");
        assert_eq!(group_of("store-read-12"), "store-read");
        assert_eq!(group_of("journal"), "journal");
    }

    #[test]
    fn work_shows_in_the_thread_that_did_it() {
        let before = groups(std::process::id()).unwrap();
        let worker = std::thread::Builder::new().name("burner-7".into()).spawn(|| {
            let began = std::time::Instant::now();
            while began.elapsed() < std::time::Duration::from_millis(30) {
                std::hint::spin_loop();
            }
            groups(std::process::id()).unwrap()
        });
        let after = worker.unwrap().join().unwrap();
        let spent = between(&before, &after);
        assert!(spent["burner"].threads == 1 && spent["burner"].cpu_ns > 0, "{spent:?}");
    }
}
