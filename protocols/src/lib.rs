//! The doors: TCP sync, HTTP and metrics, each a thin reading of its protocol over one engine. They own sockets, wire
//! encodings, admission and the one map of errors; they promise that nothing a client sends can hurt another client, and
//! they hold no rule of the product.

pub mod admission;
pub mod config;
mod doors;
mod http;
pub mod metrics_door;
mod shard;
mod stream;
mod tcp_sync;
pub mod tls;

pub use config::{DoorAddresses, DoorError, DoorLimits, DoorPlan, DoorsConfig, TlsFiles};
pub use doors::{Doors, encoders, open, start_doors};
#[cfg(feature = "fuzz")]
pub use http::fuzz::check_request;
