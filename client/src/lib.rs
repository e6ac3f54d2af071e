//! The client's side of TCP sync: what to send, what was answered, where one stands. `frames` and `lines` do no I/O at all, so
//! they run under any runtime and in tests without one; `tokio` (a feature) puts them on sockets. Memory is bounded by the
//! window that the server grants and by one read.

pub mod frames;
pub mod in_flight;
pub mod lines;
#[cfg(feature = "tokio")]
pub mod tokio;
