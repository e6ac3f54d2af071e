//! The client's side of MangaHub's live doors. The protocols themselves are sans-I/O (bytes in, events out, bytes to send), so
//! they run on any runtime and in simulations; `shell` puts them on Tokio sockets. Nothing here reads a clock or retries, and
//! memory is bounded by the server's window, one frame of the largest size and what the caller has not sent yet.

pub mod frames;
pub mod lines;
#[cfg(feature = "tokio")]
pub mod shell;
