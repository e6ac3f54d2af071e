//! What the runtime's tests share: fleets on either backend, and waiting on conditions instead of on time.

#![allow(dead_code)] // Each test binary uses a part of it.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A failed step fails the test; what was skipped is said.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use runtime::{
    FleetConfig, ShardContext,
    fleet::{self, Fleet},
    probe::{self, BackendKind},
    topology,
};

/// Longest wait for something that has to happen; generous, because the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Both backends. Where io_uring is refused (a container), its half of the tests says so and is skipped.
pub(crate) fn backends() -> Vec<BackendKind> {
    let mut backends = vec![BackendKind::Epoll];
    match probe::probe(Some(BackendKind::IoUring)) {
        Ok(_) => backends.push(BackendKind::IoUring),
        Err(error) => println!("io_uring is not tested here: {error}"),
    }
    backends
}

pub(crate) fn config(backend: BackendKind, shards: usize) -> FleetConfig {
    FleetConfig::new(topology::detect(Some(shards)).unwrap(), probe::probe(Some(backend)).unwrap())
}

pub(crate) fn start<M, F>(backend: BackendKind, shards: usize, factory: impl FnMut(usize) -> M) -> Fleet
where
    M: FnOnce(ShardContext) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    fleet::start(config(backend, shards), factory).unwrap()
}

/// Runs `main` on one shard and returns what it returns.
pub(crate) fn on_shard<T, M, F>(backend: BackendKind, main: M) -> T
where
    T: Send + 'static,
    M: FnOnce(ShardContext) -> F + Send + 'static,
    F: Future<Output = T> + 'static,
{
    let (result, received) = mpsc::channel();
    let mut main = Some(main);
    let fleet = start(backend, 1, |_| {
        let (main, result) = (main.take().unwrap(), result.clone());
        move |context| async move { result.send(main(context).await).unwrap() }
    });
    let value = received.recv_timeout(PATIENCE * 2).expect("the shard's main ends in time");
    fleet.join();
    value
}

/// Waits until `condition` holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Open descriptors of this process.
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Runs one test of this binary alone in a child process, with `MANGAHUB_TEST_CHILD` set.
pub(crate) fn run_in_child(test: &str) -> std::process::Output {
    std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--include-ignored"])
        .env("MANGAHUB_TEST_CHILD", "1")
        .output()
        .unwrap()
}

/// True in the child of [`run_in_child`].
pub(crate) fn is_child() -> bool {
    std::env::var_os("MANGAHUB_TEST_CHILD").is_some()
}
