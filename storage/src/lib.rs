//! What survives the process: the journal, the stores behind it, and the bytes both are made of. This room promises that a
//! record whose ticket has passed the watermark is on this host's disk, and that what the store says it has applied it has.
//! It decides no rule of the product: records are results that `hub` worked out.

pub mod backup;
pub mod checkpoint;
pub mod file_system;
pub mod folder;
pub mod hot;
pub mod journal;
pub mod lane;
pub mod migrations;
pub mod record;
mod redis;
pub mod store;
pub mod trace;
pub mod wire;
pub mod writer;
