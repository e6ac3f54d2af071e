//! One server's life: limits raised, log on, engine started (folder, journal, store, recovery), doors opened, banner
//! printed, signal awaited, drained. It never opens a door before recovery is over, and never ends before what was
//! acknowledged is on disk.

mod banner;
pub(crate) mod ports;
pub(crate) mod settings;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::boot::{Doors, Running, StartError};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use protocols::{DoorError, DoorPlan};
use runtime::open_files::{OpenFiles, raise_open_files};
use runtime::shutdown::Signals;

use crate::admin::{self, SocketError};
use crate::cli::Output;
use crate::config::Config;

/// How often the metrics tidy up what they gathered, and the engine is asked whether it can go on.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a stop may take beyond its drain before the process is ended: the engine's own deadline should have come first.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Why a server does not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The engine does not start, or could not keep its promise.
    #[error(transparent)]
    Engine(#[from] StartError),
    /// The doors' settings cannot be used.
    #[error(transparent)]
    Doors(#[from] DoorError),
    /// The admin socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Too few open files are allowed.
    #[error(transparent)]
    Files(#[from] settings::TooFewFiles),
    /// The system refused something that a server needs.
    #[error("{what}: {source}")]
    System {
        /// What was asked.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> ServeError {
    move |source| ServeError::System { what, source }
}

/// Runs a server until it is told to stop.
pub(crate) fn run(config: &Config, output: Output) -> Result<(), ServeError> {
    // Before any other thread exists, so that every thread leaves the signals to this one.
    let mut signals = Signals::install().map_err(system("cannot take over SIGTERM"))?;
    let files = raise_open_files().map_err(system("cannot raise the limit on open files"))?;
    storage::trace::follow(config.trace_sample);
    let prometheus = install_metrics();
    // A number of shards that cannot be had is the engine's to refuse.
    let shards = runtime::topology::detect(config.shards).map_or(1, |topology| topology.shards.len());
    let connections_max = settings::connections(config, files.limit, shards)?;
    let plan = DoorPlan::prepare(settings::doors(config, connections_max), prometheus.clone())?;
    let running =
        engine::boot::start(settings::engine(config, connections_max), protocols::encoders(), doors(plan.clone()))?;
    let addresses = plan.addresses();
    admin::serve(&config.data_dir, running.admin(), running.facts().clone())?;
    ports::write(&config.data_dir, addresses).map_err(system("cannot write ports.json"))?;
    let seen = banner::Seen { config, facts: running.facts(), addresses, files, connections_max };
    banner::print(&seen, output);
    tracing::info!(http = ?addresses.http, tcp_sync = ?addresses.tcp_sync, "every door is open");

    let signal = loop {
        if let Some(signal) = signals.wait(Some(LOOK_EVERY)).map_err(system("cannot wait for signals"))? {
            break Some(signal);
        }
        prometheus.iter().for_each(PrometheusHandle::run_upkeep);
        if running.refused().is_some() {
            break None;
        }
    };
    tracing::info!(
        ?signal,
        drain_ms = config.drain.as_millis() as u64,
        "stopping: no new connections, finishing what is in flight"
    );
    stop(running, config)
}

fn doors(plan: DoorPlan) -> Doors {
    Arc::new(move |engine, context| protocols::start_doors(engine, context, &plan).map_err(|error| error.to_string()))
}

fn install_metrics() -> Option<PrometheusHandle> {
    let installed = protocols::metrics_door::described::recorder().and_then(PrometheusBuilder::install_recorder);
    let handle = installed.inspect_err(|error| tracing::warn!(%error, "metrics are off")).ok()?;
    protocols::metrics_door::described::describe();
    Some(handle)
}

fn stop(running: Running, config: &Config) -> Result<(), ServeError> {
    let deadline = config.drain + STOP_GRACE;
    let overdue = move || {
        std::thread::sleep(deadline);
        tracing::error!("the stop took longer than it may; ending now. What was acknowledged is in the journal");
        std::process::exit(1);
    };
    std::thread::Builder::new()
        .name("stop-deadline".to_owned())
        .spawn(overdue)
        .map_err(system("cannot start a thread"))?;
    running.shut_down();
    // While the folder's lock is still held: the next server's files must not be taken for this one's.
    leave(&config.data_dir);
    let ended = running.wait();
    tracing::info!("stopped");
    Ok(ended?)
}

/// Takes away what says that a server is here.
fn leave(data_dir: &Path) {
    for name in [ports::NAME, admin::SOCKET_NAME] {
        let _ = std::fs::remove_file(data_dir.join(name));
    }
}

/// The limit on open files, for people.
fn files_line(files: OpenFiles) -> String {
    if files.was == files.limit {
        files.limit.to_string()
    } else {
        format!("{} (raised from {})", files.limit, files.was)
    }
}
