//! The log: to stderr, filtered by RUST_LOG or MANGAHUB_LOG when set, else by the configuration; text or JSON lines. Nothing ever
//! fails because of it.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::cli::args::Global;
use crate::cli::exit::{Exit, Failure};
use crate::config::Config;

/// Starts the log of this process.
pub(super) fn start(config: &Config, global: &Global) -> Result<(), Failure> {
    let from_environment = ["RUST_LOG", "MANGAHUB_LOG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|filter| !filter.is_empty()).map(|filter| (*name, filter)));
    let (source, filter) = match (from_environment, global.verbose) {
        (Some((name, filter)), _) => (name, filter),
        (None, 0) if global.quiet => ("--quiet", "error".to_owned()),
        (None, 0) => ("log.filter", config.log_filter.clone()),
        (None, 1) => ("--verbose", "debug".to_owned()),
        (None, _) => ("--verbose", "trace".to_owned()),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        Failure::new(Exit::Config, format!("{source} is {filter:?}, which is no log filter: {error}"))
    })?;
    let stderr = std::io::stderr;
    // A line that cannot be written (a full disk, a pipe that nobody reads) is lost; to say so on the same stderr would panic.
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).log_internal_errors(false);
    if config.log_json {
        lines.json().init();
    } else {
        lines.with_ansi(stderr().is_terminal()).init();
    }
    Ok(())
}
