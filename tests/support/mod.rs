//! What the integration tests stand on: real servers from the real binary on ports of the system's choosing, and small
//! clients for each door. Nothing here sleeps to synchronise: it waits for conditions, with generous deadlines.

mod account;
mod command;
mod frames;
mod http;
mod load;
mod rows;
mod server;

#[path = "../../storage/tests/support/postgres.rs"]
pub(crate) mod postgres;
#[path = "../../storage/tests/support/redis.rs"]
pub(crate) mod redis;

pub(crate) use account::{PASSWORD, Reader};
pub(crate) use command::{Finished, mangahub, mangahub_through};
pub(crate) use frames::{block_on, progress};
pub(crate) use http::{Answer, Request};
pub(crate) use load::under_load;
pub(crate) use rows::merge_key;
pub(crate) use server::{Launch, Server, on_disk};

use std::time::{Duration, Instant};

/// How long anything may take on a slow, busy machine before a test calls it broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the long campaigns run whole (`./test --soak`).
pub(crate) fn is_soak() -> bool {
    std::env::var_os("MANGAHUB_SOAK").is_some_and(|value| value == "1")
}

/// Waits until `look` finds something. Panics with `what` after [`PATIENCE`].
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
