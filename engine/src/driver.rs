//! Where a shard's own tasks run, how they sleep and what time it is: the shard's runtime and the system's clocks. Under a
//! simulation (unit tests only) its executor and its virtual time instead; a server has no trace of that.

use std::time::{Duration, Instant, SystemTime};

use crate::core::Now;

/// What a simulation breaks on purpose, to show that it would notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sabotage {
    /// The gate opens one ticket early.
    EarlyRelease,
    /// A user who is loaded has forgotten which commands were applied.
    ForgottenDevices,
    /// Changes count as stored before they are.
    StoredTooEarly,
    /// The connection that made a change hears of it too.
    Echo,
    /// What the journal had at the start is not merged into who is loaded.
    ForgottenRecovery,
    /// A user's stream begins anew with every load.
    RestartedStream,
    /// Replies that found a mailbox full wait for the next turn.
    LateReplies,
    /// An answer that waits for the store does not wait.
    DatabaseUnasked,
}

/// Whether this defect is switched on; never, outside unit tests.
#[inline(always)]
pub(crate) fn sabotaged(_defect: Sabotage) -> bool {
    #[cfg(test)]
    return crate::sim::executor::sabotage() == Some(_defect);
    #[cfg(not(test))]
    false
}

/// The time of a turn.
pub(crate) fn now(started: Instant) -> Now {
    #[cfg(test)]
    if let Some(now) = crate::sim::executor::now() {
        return now;
    }
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { wall_ms: wall.as_millis() as u64, since_start_ns: started.elapsed().as_nanos() as u64 }
}

/// Starts one of the engine's own tasks.
pub(crate) fn spawn_essential(name: &'static str, task: impl Future<Output = ()> + 'static) {
    #[cfg(test)]
    if let Some(executor) = crate::sim::executor::current() {
        executor.spawn(Box::pin(task));
        return;
    }
    drop(runtime::spawn_essential(name, task));
}

/// Sleeps.
pub(crate) async fn sleep(duration: Duration) {
    #[cfg(test)]
    if let Some(executor) = crate::sim::executor::current() {
        return executor.sleep(duration).await;
    }
    runtime::sleep(duration).await;
}
