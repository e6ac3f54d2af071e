//! The integration tests: one binary, so that everything links once. Each module tests promises of the whole server
//! through its real doors, with the real binary.

// In a test, a failed unwrap is the failure.
#![allow(clippy::unwrap_used)]

mod abuse;
mod backup;
mod completions;
mod deploy;
mod faults_folder;
mod faults_host;
mod hot_cache;
mod kill_nine;
mod kill_stores;
mod memory;
mod metrics;
mod nodes;
mod postgres;
mod serve;
mod support;
mod sync;
mod tidy;
mod tracing;
