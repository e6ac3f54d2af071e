//! A simulation of the engine: real shards, journal, writer and store, on one thread, in virtual time, in an order that a seed
//! decides; cut connections, retries and crashes included. A shadow model checks everything that anybody is told. What is
//! and is not simulated: docs/decisions/004-simulator.md.

mod clients;
mod disk;
pub(crate) mod executor;
pub(crate) mod hook;
mod model;
pub(crate) mod people;
mod shadow;
mod steps;
mod store;
mod tests;
mod wire;
mod world;
