//! Priorities of threads that are not shards: bulk work (hashing, search) yields the CPU to the shards.

/// Lowers this thread's priority to nice 10, so that a shard on the same CPU gets about ten times its share. Linux keeps nice
/// values per thread. A refusal is ignored: the work is still done, only less politely.
pub fn yield_to_shards() {
    const NICE: libc::c_int = 10;
    // SAFETY: setpriority takes no pointers; `who` 0 is the calling thread (setpriority(2), "C library/kernel differences").
    #[allow(unsafe_code)]
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn lowering_one_threads_priority_leaves_the_others() {
        let nice = || {
            let line = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // proc(5): the fields after the name, which ends with the last parenthesis; nice is field 19 of the whole line.
            line.rsplit(") ").next().unwrap().split(' ').nth(16).unwrap().to_owned()
        };
        let before = nice();
        let lowered = std::thread::spawn(move || {
            super::yield_to_shards();
            nice()
        });
        assert_eq!(lowered.join().unwrap(), "10");
        assert_eq!(nice(), before);
    }
}
