//! The rules, from outside: what each promises, by example and by property. One binary, so that it links once.
#![allow(clippy::unwrap_used, reason = "tests, and the functions they share")]

mod devices;
mod merging;
mod progress;
mod properties;
mod support;
