//! The subcommands of `loadtest` that measure: arguments in, a table out. What is measured, and how, is the
//! library's; here it is only asked for.

mod abuse;
mod churn;
mod compare;
mod floor;
mod idle;
mod reads;
mod sync;
mod touch;

pub(crate) use self::abuse::{AbuseArgs, abuse};
pub(crate) use self::churn::{ChurnArgs, churn};
pub(crate) use self::compare::{CompareArgs, compare};
pub(crate) use self::floor::{FloorArgs, floor};
pub(crate) use self::idle::{IdleArgs, idle};
pub(crate) use self::reads::{ReadsArgs, reads};
pub(crate) use self::sync::{SyncArgs, sync};
pub(crate) use self::touch::{TouchArgs, touch};
