//! The load harness: drives a server over its real doors, measures what it does, and keeps a ledger of what it acknowledged, so
//! that losses show. It talks only to addresses it was given or to a server it started itself, and it stops by itself.

pub mod abuse;
pub mod campaign;
pub mod churn;
pub mod connection;
pub mod crowd;
pub mod deliveries;
pub mod dial;
pub mod drive;
pub mod floor;
pub mod http;
pub mod idle;
pub mod ledger;
pub mod peers;
pub mod person;
pub mod process;
pub mod profile;
pub mod reader;
pub mod reads;
pub mod report;
pub mod server;
pub mod stages;
pub mod threads;
pub mod timeline;
pub mod tls;
pub mod tokens;
pub mod touch;
pub mod verify;
pub mod workload;
