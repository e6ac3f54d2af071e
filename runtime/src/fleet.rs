//! The fleet: one pinned thread per shard, from start to a clean end.
//!
//! It promises that either every shard runs or none does, that a shard's panic ends the process (half a server is
//! invisible loss), and that the end leaks no descriptors as long as every task listens to the hard stop.

use std::{
    io,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder, time::TimeDriver};
use thiserror::Error;

use crate::{
    probe::{BackendKind, Probe, RING_ENTRIES},
    shutdown::{Drain, Shutdown, Stop},
    task,
    topology::{self, Topology},
    turn::{self, Turnstile},
};

/// Pause between two looks at whether a shard's last tasks have ended; timers are about this coarse.
const LINGER_STEP: Duration = Duration::from_millis(1);

/// What a fleet is started with.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// Shards and their CPUs.
    pub topology: Topology,
    /// The backend.
    pub probe: Probe,
    /// Threads are called `<prefix>-<shard>`.
    pub thread_name_prefix: String,
    /// How long at most a shard keeps running after its main returned, so that its tasks end with their sockets.
    pub linger_max: Duration,
    /// False runs without the fairness guard: for the tests that show what it is for, never for a server.
    #[doc(hidden)]
    pub guard: bool,
}

impl FleetConfig {
    /// Defaults for a topology and a probe.
    pub fn new(topology: Topology, probe: Probe) -> Self {
        Self {
            topology,
            probe,
            thread_name_prefix: "shard".to_owned(),
            linger_max: Duration::from_millis(200),
            guard: true,
        }
    }
}

/// Why a fleet did not start.
#[derive(Debug, Error)]
pub enum FleetError {
    /// A shard's thread could not be started.
    #[error("shard {shard}: its thread could not be started: {source}")]
    Thread {
        /// The shard.
        shard: usize,
        /// What the system said.
        source: io::Error,
    },
    /// A shard's ring or epoll set could not be made.
    #[error("shard {shard}: its {} could not be set up: {source}", backend.name())]
    Backend {
        /// The shard.
        shard: usize,
        /// What was tried.
        backend: BackendKind,
        /// What the system said.
        source: io::Error,
    },
}

/// What a shard's main is given.
#[derive(Debug, Clone)]
pub struct ShardContext {
    /// This shard, 0-based.
    pub id: usize,
    /// How many shards there are.
    pub shards: usize,
    /// The CPU this shard is pinned to.
    pub cpu: usize,
    /// What this shard runs on.
    pub backend: BackendKind,
    /// First phase of the end: stop accepting, finish.
    pub drain: Drain,
    /// Second phase: close now.
    pub stop: Stop,
    /// Lets a shard begin the end of the whole fleet.
    pub shutdown: Shutdown,
}

impl ShardContext {
    /// A shard of no fleet, whose work is driven by hand: for simulation. No phase begins unless `shutdown` is told to and
    /// somebody watches it.
    pub fn by_hand(id: usize, shards: usize) -> Self {
        let shutdown = Shutdown::new(shards);
        Self { id, shards, cpu: 0, backend: BackendKind::Epoll, drain: Drain::new(), stop: Stop::new(), shutdown }
    }
}

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    shutdown: Shutdown,
    probe: Probe,
    threads: Vec<thread::JoinHandle<()>>,
}

/// What the starting thread tells a shard once all have reported.
#[derive(Debug, Clone)]
enum Verdict {
    Go,
    UseInstead(Box<Probe>),
    GiveUp,
}

/// What a shard tells the starting thread.
type Report = (usize, Result<(), io::Error>);

/// Everything a shard's thread begins with, its main aside.
struct Seat {
    id: usize,
    shards: usize,
    cpu: usize,
    probe: Probe,
    linger_max: Duration,
    guard: bool,
    shutdown: Shutdown,
    reports: mpsc::Sender<Report>,
    verdicts: mpsc::Receiver<Verdict>,
}

/// Starts one pinned thread per shard. `factory` is called here, once per shard; what it returns runs on the shard's thread.
///
/// A shard's main is essential: if it panics, the process exits with [`task::FATAL_EXIT_CODE`]. When it returns, the
/// shard's hard stop is fired and the shard runs a little longer so that its tasks end. If a shard's ring is refused
/// although the probe's was granted, all shards run on epoll (unless io_uring was forced).
pub fn start<M, F>(config: FleetConfig, mut factory: impl FnMut(usize) -> M) -> Result<Fleet, FleetError>
where
    M: FnOnce(ShardContext) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let shards = config.topology.shards.len();
    let shutdown = Shutdown::new(shards);
    let (reports, incoming) = mpsc::channel();
    let mut threads = Vec::with_capacity(shards);
    let mut verdicts = Vec::with_capacity(shards);
    for (id, cpu) in config.topology.shards.iter().copied().enumerate() {
        let (verdict, received) = mpsc::channel();
        let seat = Seat {
            id,
            shards,
            cpu,
            probe: config.probe.clone(),
            linger_max: config.linger_max,
            guard: config.guard,
            shutdown: shutdown.clone(),
            reports: reports.clone(),
            verdicts: received,
        };
        let main = factory(id);
        let name = format!("{}-{id}", config.thread_name_prefix);
        // An error drops the verdict channels, which the threads already started take for `GiveUp`.
        let thread = thread::Builder::new()
            .name(name)
            // Nobody may be waiting in `join` yet: a shard that dies must not go unnoticed.
            .spawn(move || task::essential("shard", || run_seat(seat, main)))
            .map_err(|source| FleetError::Thread { shard: id, source })?;
        threads.push(thread);
        verdicts.push(verdict);
    }
    let probe = settle(&config.probe, &incoming, &verdicts)?;
    Ok(Fleet { shutdown, probe, threads })
}

/// Waits for every shard's report and decides for all of them together.
fn settle(
    probe: &Probe,
    incoming: &mpsc::Receiver<Report>,
    verdicts: &[mpsc::Sender<Verdict>],
) -> Result<Probe, FleetError> {
    let announce = |verdict: Verdict| verdicts.iter().for_each(|shard| drop(shard.send(verdict.clone())));
    let Some((shard, source)) = first_failure(incoming, verdicts.len()) else {
        announce(Verdict::Go);
        return Ok(probe.clone());
    };
    if probe.backend == BackendKind::Epoll || probe.forced {
        announce(Verdict::GiveUp);
        return Err(FleetError::Backend { shard, backend: probe.backend, source });
    }
    let fallback = probe.fallen_back(&source);
    tracing::warn!(explanation = %fallback.explanation, fix = fallback.fix.as_deref(), "all shards fall back");
    announce(Verdict::UseInstead(Box::new(fallback.clone())));
    match first_failure(incoming, verdicts.len()) {
        None => {
            announce(Verdict::Go);
            Ok(fallback)
        }
        Some((shard, source)) => {
            announce(Verdict::GiveUp);
            Err(FleetError::Backend { shard, backend: BackendKind::Epoll, source })
        }
    }
}

fn first_failure(incoming: &mpsc::Receiver<Report>, shards: usize) -> Option<(usize, io::Error)> {
    let reports: Vec<Report> = incoming.iter().take(shards).collect();
    reports.into_iter().find_map(|(shard, outcome)| outcome.err().map(|error| (shard, error)))
}

impl Fleet {
    /// The two-phase shutdown of this fleet; cheap to clone, usable from any thread.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// What the shards run on.
    pub fn backend(&self) -> BackendKind {
        self.probe.backend
    }

    /// What the shards run on and why; differs from the configured probe when all shards fell back.
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// True when every shard has ended.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(thread::JoinHandle::is_finished)
    }

    /// Waits for every shard to end.
    pub fn join(self) {
        for thread in self.threads {
            thread.join().expect("a shard that panics ends the process");
        }
    }
}

/// The runtime of one shard.
enum Engine {
    Ring(monoio::Runtime<TimeDriver<IoUringDriver>>),
    Epoll(monoio::Runtime<TimeDriver<LegacyDriver>>),
}

impl Engine {
    fn build(probe: &Probe) -> io::Result<Self> {
        match probe.backend {
            BackendKind::IoUring => RuntimeBuilder::<IoUringDriver>::new()
                .with_entries(RING_ENTRIES)
                .uring_builder(probe.flags.builder())
                .enable_timer()
                .build()
                .map(Engine::Ring),
            BackendKind::Epoll => RuntimeBuilder::<LegacyDriver>::new()
                .with_entries(RING_ENTRIES)
                .enable_timer()
                .build()
                .map(Engine::Epoll),
        }
    }

    fn block_on(&mut self, future: impl Future<Output = ()>) {
        match self {
            Engine::Ring(runtime) => runtime.block_on(future),
            Engine::Epoll(runtime) => runtime.block_on(future),
        }
    }
}

fn build(probe: &Probe) -> io::Result<(Engine, Turnstile)> {
    Ok((Engine::build(probe)?, Turnstile::new()?))
}

/// A shard's thread: pin, build, wait for the others, run, end.
fn run_seat<M, F>(mut seat: Seat, main: M)
where
    M: FnOnce(ShardContext) -> F,
    F: Future<Output = ()> + 'static,
{
    if let Err(error) = topology::pin_thread(seat.cpu) {
        tracing::warn!(shard = seat.id, cpu = seat.cpu, %error, "the shard could not be pinned; it runs unpinned");
    }
    // The ring belongs to the thread that makes it (single_issuer), so it is made here, after pinning (its memory is local).
    let (mut engine, turnstile) = loop {
        let (outcome, built) = match build(&seat.probe) {
            Ok(built) => (Ok(()), Some(built)),
            Err(error) => (Err(error), None),
        };
        if seat.reports.send((seat.id, outcome)).is_err() {
            return;
        }
        match (seat.verdicts.recv(), built) {
            (Ok(Verdict::Go), Some(built)) => break built,
            (Ok(Verdict::UseInstead(probe)), _) => seat.probe = *probe,
            _ => return,
        }
    };
    engine.block_on(run_shard(seat, main, turnstile));
    turn::end();
}

/// A shard's life inside its runtime.
#[allow(clippy::disallowed_methods)] // The turnstile is the guard and runs below it.
async fn run_shard<M, F>(seat: Seat, main: M, turnstile: Turnstile)
where
    M: FnOnce(ShardContext) -> F,
    F: Future<Output = ()> + 'static,
{
    turn::begin(seat.guard);
    let turnstile = seat.guard.then(|| monoio::spawn(turnstile.run()));
    let (drain, stop) = (Drain::new(), Stop::new());
    let context = ShardContext {
        id: seat.id,
        shards: seat.shards,
        cpu: seat.cpu,
        backend: seat.probe.backend,
        drain: drain.clone(),
        stop: stop.clone(),
        shutdown: seat.shutdown.clone(),
    };
    task::spawn_essential("shutdown watch", seat.shutdown.clone().watch(seat.id, drain.clone(), stop.clone()));
    let ended = task::spawn_essential("shard main", main(context)).await;
    debug_assert!(ended.is_ok(), "an essential panic ends the process");

    drain.begin();
    stop.begin();
    seat.shutdown.wake_shard(seat.id);
    linger(seat.id, seat.linger_max).await;
    turn::close_turnstile();
    if let Some(turnstile) = turnstile {
        turnstile.await;
    }
    // One more visit to the ring: closing a descriptor is an operation too, and has to be submitted.
    monoio::time::sleep(LINGER_STEP).await;
}

/// Runs the shard until its tasks have ended, about 2 ms as a rule. A task that is still there when the runtime goes
/// leaks, with its sockets.
async fn linger(shard: usize, linger_max: Duration) {
    let deadline = Instant::now() + linger_max;
    let mut steps = 0;
    loop {
        monoio::time::sleep(LINGER_STEP).await;
        steps += 1;
        let live = turn::with(turn::Turn::live);
        if live == 0 && steps >= 2 {
            return;
        }
        if Instant::now() >= deadline {
            tracing::warn!(shard, live, "tasks did not end after the hard stop; they leak with their sockets");
            return;
        }
    }
}
