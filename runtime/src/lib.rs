//! The shard runtime: one pinned thread per shard, each with its own ring (or epoll set), timers, sockets and mailbox.
//!
//! It promises that no task can starve a shard (the fairness guard behind [`spawn`]), that everything that queues is
//! bounded, and that a shard ends without leaking descriptors. It knows no product rules, and it is the only room that
//! names the crate underneath; nothing of that crate shows in a public signature.

pub mod budget;
pub mod buffer;
pub mod fleet;
pub mod local;
pub mod mailbox;
pub mod net;
pub mod notify;
pub mod on_shard;
pub mod open_files;
#[allow(unsafe_code)]
mod pool;
pub mod priority;
pub mod probe;
pub mod shutdown;
pub mod task;
pub mod time;
pub mod topology;
mod turn;
mod waker;

pub use fleet::{Fleet, FleetConfig, FleetError, ShardContext};
pub use on_shard::OnShard;
pub use task::{JoinHandle, Panicked, essential, spawn, spawn_essential, yield_now};
pub use time::{Elapsed, interval, sleep, timeout};
