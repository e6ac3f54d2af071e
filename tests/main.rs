//! The integration tests: one binary, so that everything links once. Each module tests promises of the whole server
//! through its real doors, with the real binary.

mod kill_nine;
mod serve;
mod support;
mod sync;
mod tidy;
