//! The client's side of MangaHub's live doors. The protocol itself is sans-I/O (bytes in, events out, bytes to send), so it runs
//! on any runtime and in simulations; `shell` wraps it for Tokio. It never blocks, never reads a clock, and holds at most one
//! frame of the largest size plus what the caller has not sent yet.

pub mod frames;
#[cfg(feature = "tokio")]
pub mod shell;
