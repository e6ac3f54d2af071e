//! The subcommands of `loadtest` that measure: arguments in, a table out. What is measured, and how, is the
//! library's; here it is only asked for.

mod idle;
mod sync;

pub(crate) use self::idle::{IdleArgs, idle};
pub(crate) use self::sync::{SyncArgs, sync};
