//! The probe under a real seccomp filter, as containers have it: epoll, explained, and a fleet that runs on it.

#![allow(clippy::unwrap_used)] // A failed step fails the test.

mod support;

use runtime::probe::{BackendKind, probe};

/// Installs a filter that refuses io_uring_setup(2) with `errno` for this process.
#[allow(unsafe_code)]
fn refuse_io_uring(errno: i32) {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        // seccomp_data begins with the system call's number.
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program during the call; both structs outlive it.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    };
    assert!(installed, "{}", std::io::Error::last_os_error());
}

fn falls_back(test: &str, errno: i32, cause: &str) {
    if !support::is_child() {
        let output = support::run_in_child(test);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        return;
    }
    refuse_io_uring(errno);
    let found = probe(None).unwrap();
    assert_eq!(found.backend, BackendKind::Epoll);
    assert!(found.explanation.contains(cause), "{}", found.explanation);
    assert!(found.fix.as_deref().unwrap().contains("seccomp"), "{:?}", found.fix);
    let error = probe(Some(BackendKind::IoUring)).unwrap_err().to_string();
    assert!(error.contains("asked for") && error.contains(cause), "{error}");
    // A probe from before the filter: the shards' rings are refused, and all of them fall back together.
    let flags = runtime::probe::RingFlags::default();
    let stale = runtime::probe::Probe {
        backend: BackendKind::IoUring,
        flags,
        explanation: String::new(),
        fix: None,
        forced: false,
    };
    let config = runtime::FleetConfig::new(runtime::topology::detect(Some(2)).unwrap(), stale.clone());
    let fleet = runtime::fleet::start(config, |_| |_| runtime::sleep(std::time::Duration::from_millis(1))).unwrap();
    assert_eq!(fleet.backend(), BackendKind::Epoll);
    assert!(fleet.probe().explanation.contains(cause), "{}", fleet.probe().explanation);
    fleet.join();
    let forced = runtime::probe::Probe { forced: true, ..stale };
    let config = runtime::FleetConfig::new(runtime::topology::detect(Some(2)).unwrap(), forced);
    let refused = runtime::fleet::start(config, |_| |_| std::future::ready(())).unwrap_err();
    assert!(refused.to_string().contains("io_uring could not be set up"), "{refused}");
}

#[test]
fn refused_by_seccomp_with_eperm_it_falls_back_and_explains() {
    falls_back("refused_by_seccomp_with_eperm_it_falls_back_and_explains", libc::EPERM, "refused by seccomp");
}

#[test]
fn hidden_by_seccomp_with_enosys_it_falls_back_and_explains() {
    falls_back("hidden_by_seccomp_with_enosys_it_falls_back_and_explains", libc::ENOSYS, "hidden");
}

#[test]
fn a_ring_that_does_not_fit_into_locked_memory_is_explained() {
    // Kernels from 5.12 do not count rings against RLIMIT_MEMLOCK, so the refusal itself is what is imitated.
    let test = "a_ring_that_does_not_fit_into_locked_memory_is_explained";
    if !support::is_child() {
        let output = support::run_in_child(test);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    refuse_io_uring(libc::ENOMEM);
    let found = probe(None).unwrap();
    assert!(found.explanation.contains("RLIMIT_MEMLOCK"), "{}", found.explanation);
    assert!(found.fix.unwrap().contains("ulimit -l"));
}

#[test]
fn where_io_uring_is_allowed_the_probe_says_with_which_flags() {
    match probe(None).unwrap() {
        found if found.backend == BackendKind::IoUring => assert!(found.explanation.starts_with("io_uring (")),
        found => assert!(found.fix.is_some()),
    }
}
