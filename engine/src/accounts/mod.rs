//! Accounts and sessions: registering, signing in, refreshing, revoking. Synchronous in the store (503 while it is away);
//! hashing runs on the compute pool, never on a shard.

pub mod types;

pub use types::*;
