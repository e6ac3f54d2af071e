//! The boot sequence: folder, journal, store, recovery, writer, compute pool, shards, and only then the doors. What it
//! returns is the way to the running server for everybody who is not on a shard: administration and shutdown.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use runtime::ShardContext;

use crate::Engine;
use crate::admin::Admin;
use crate::config::EngineConfig;
use crate::fanout::Encoders;

/// A shard's open doors: serves until they are closed (after the drain began and every connection has been told) or the
/// hard stop fires.
pub type Serving = Pin<Box<dyn Future<Output = ()>>>;

/// Opens a shard's doors: called on each shard's thread once its engine works and recovery is over. An error text (a port
/// that is taken) fails the start of the whole server.
pub type Doors = Arc<dyn Fn(Engine, ShardContext) -> Result<Serving, String> + Send + Sync>;

/// Why the engine does not start. The text says what to do.
#[derive(thiserror::Error, Debug)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// Another process holds the data folder, or it cannot be used.
    #[error("{0}")]
    Folder(String),
    /// The journal cannot be opened or does not fit the store.
    #[error("{0}")]
    Journal(String),
    /// The store cannot be opened.
    #[error("{0}")]
    Store(String),
    /// The doors did not open.
    #[error("{0}")]
    Doors(String),
    /// The shards cannot start.
    #[error("{0}")]
    Runtime(String),
}

/// What the banner says.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Shards running.
    pub shards: usize,
    /// How their number was decided.
    pub topology: String,
    /// `io_uring` or the fallback.
    pub backend: String,
    /// Why, and what to change, when it is the fallback.
    pub backend_reason: String,
    /// The store, in words.
    pub store: String,
    /// The journal: how it writes, in words; loud on a volatile file system.
    pub journal: String,
    /// Records replayed at boot.
    pub replayed: u64,
    /// Series in the catalogue.
    pub series: usize,
}

/// A running engine, from outside the shards.
pub struct Running {
    facts: Facts,
    admin: Admin,
}

impl Running {
    /// What the banner says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Administration.
    pub fn admin(&self) -> Admin {
        self.admin.clone()
    }

    /// Begins the drain (as SIGTERM does). `wait` returns when it is over.
    pub fn shut_down(&self) {}

    /// Blocks until the engine has stopped. An error means that it stopped because it could not keep its promise (a failed
    /// journal write, a panic in a shard): the process must exit non-zero.
    pub fn wait(self) -> Result<(), StartError> {
        Ok(())
    }
}

/// Starts everything and returns when every shard is ready and its doors have been called. Blocks.
pub fn start(config: EngineConfig, encoders: Encoders, doors: Doors) -> Result<Running, StartError> {
    let _ = (config, encoders, doors);
    Err(StartError::Config("not yet".to_owned()))
}
