//! `loadtest sync`: one run of the sync plane against a server, or the same rows into something that it is compared with.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use loadtest::drive::{self, Measured, Mode, Plan, Request, Shared};
use loadtest::ledger::Writer;
use loadtest::peers::{self, Peer};
use loadtest::profile::Profile;
use loadtest::report::{Deliveries, Drain, Latency, Machine, Report, ServerCost};
use loadtest::server::Server;
use loadtest::stages::{self, Recorded};
use loadtest::timeline::{self, Recorder};
use loadtest::tokens::Tokens;
use loadtest::workload::Distribution;

use super::floor::{self, Running};
use crate::{Failure, OwnServer};

/// How often the server is asked how it is.
const READ_EVERY: Duration = Duration::from_millis(500);

#[derive(Args, Clone)]
pub(crate) struct SyncArgs {
    /// A profile: updates, updates-thin, burst, steady, latency, fanout, fanout-1, fanout-10, fanout-100, or a file; what is
    /// given here beside it wins
    #[arg(long)]
    pub(crate) profile: Option<String>,
    /// What gets the rows: the server, or something that it is compared with
    #[arg(long, value_enum, default_value_t = Target::Mangahub)]
    pub(crate) target: Target,
    /// Connections to a peer
    #[arg(long, default_value_t = 8)]
    peer_connections: usize,
    /// Rows without an answer on each connection to a peer [default: 2000; for NATS 1000, since JetStream drops what is beyond
    /// 10,000 in all without a word]
    #[arg(long)]
    peer_pipeline: Option<usize>,
    /// Bytes of a row sent to a peer: what a progress record takes in the journal
    #[arg(long, default_value_t = 140)]
    row_bytes: usize,
    /// The TCP sync door of a running server; without it a server is started
    #[arg(long, requires = "tokens")]
    address: Option<SocketAddr>,
    /// That server's process, for its CPU time and memory
    #[arg(long)]
    server_pid: Option<u32>,
    /// The file that `mangahub admin seed --tokens` wrote for it
    #[arg(long)]
    tokens: Option<PathBuf>,
    #[command(flatten)]
    own: OwnServer,
    /// Users that write [default: 1]
    #[arg(long)]
    users: Option<usize>,
    /// Connections per user [default: 1]
    #[arg(long)]
    devices: Option<usize>,
    /// Of them, how many write; the others watch [default: 1]
    #[arg(long)]
    writers: Option<usize>,
    /// Series per user [default: 10]
    #[arg(long)]
    series: Option<usize>,
    /// Connections open at once; users beyond them wait for a place [default: all]
    #[arg(long)]
    connections_max: Option<usize>,
    /// Of 1,000 connected users, how many have one more device, which watches [default: 0]
    #[arg(long)]
    watched_per_mille: Option<usize>,
    /// Connections per second that give their place to a user who waits [default: 0]
    #[arg(long)]
    changes_per_s: Option<f64>,
    /// Closed loop: updates in flight per writing connection [default: 64]
    #[arg(long, conflicts_with_all = ["rate", "in_flight"])]
    window: Option<usize>,
    /// Closed loop: updates in flight over all connections together
    #[arg(long, conflicts_with = "rate")]
    in_flight: Option<usize>,
    /// Of those, how many a connection gets at a time [default: 64]
    #[arg(long)]
    burst: Option<usize>,
    /// Open loop: updates per second over all connections
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Follows every announcement: how long after the answer each device has it, and whether each has heard of the last state
    #[arg(long)]
    deliveries: bool,
    /// Samples the server with perf and shows where the CPU time of an update goes
    #[arg(long)]
    stages: bool,
    /// How picks are spread [default: uniform]
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    /// Seconds over which connections are opened
    #[arg(long, default_value_t = 0.0)]
    ramp: f64,
    /// Seconds of load that are not measured [default: 2]
    #[arg(long)]
    pub(crate) warm_up: Option<f64>,
    /// Seconds that are [default: 10]
    #[arg(long)]
    pub(crate) duration: Option<f64>,
    /// Seconds that the store may take to catch up afterwards; that time is measured
    #[arg(long)]
    drain_s: Option<f64>,
    /// The seed of every pick
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes every acknowledgement down; the file must not exist
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// Writes the report as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What gets the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Target {
    /// The server.
    Mangahub,
    /// `XADD` into a Redis with `appendfsync always`, started privately.
    Redis,
    /// A NATS JetStream file stream with `sync_interval: always`, started privately.
    Nats,
    /// The server, asked where a series stands instead: an answer that nothing is written for.
    State,
    /// The same frames after nothing but a group commit of the same sizes.
    Floor,
    /// The same frames answered at once by a bare echo on the server's runtime.
    Echo,
}

impl SyncArgs {
    fn profile(&self) -> Result<Profile, Failure> {
        Ok(self.profile.as_deref().map(Profile::load).transpose()?.unwrap_or_default())
    }

    fn plan(&self, profile: &Profile) -> Result<Plan, Failure> {
        let seconds = |value: f64, name: &str| {
            Duration::try_from_secs_f64(value).map_err(|_| format!("{name} must be a number of seconds, at least 0"))
        };
        let plan = Plan {
            users: self.users.or(profile.users).unwrap_or(1),
            devices: self.devices.or(profile.devices).unwrap_or(1),
            writers: self.writers.or(profile.writers).unwrap_or(1),
            series: self.series.or(profile.series).unwrap_or(10),
            connections_max: self.connections_max.or(profile.connections_max).unwrap_or(0),
            watched_per_mille: self.watched_per_mille.or(profile.watched_per_mille).unwrap_or(0),
            changes_per_s: self.changes_per_s.or(profile.changes_per_s).unwrap_or(0.0),
            mode: self.mode(profile),
            request: if self.target == Target::State { Request::State } else { Request::Update },
            deliveries: self.deliveries || profile.deliveries.unwrap_or(false),
            stages: self.stages,
            distribution: self.distribution.or(profile.distribution).unwrap_or(Distribution::Uniform),
            seed: self.seed,
            ramp: seconds(self.ramp, "ramp")?,
            warm_up: seconds(self.warm_up.or(profile.warm_up).unwrap_or(2.0), "warm-up")?,
            measure: seconds(self.duration.or(profile.duration).unwrap_or(10.0), "duration")?,
        };
        if plan.writers == 0 || plan.writers > plan.devices || plan.writers > plan.series {
            return Err("writers must be at least 1, at most devices, and at most series".into());
        }
        let is_load = match plan.mode {
            Mode::Open { rate } => rate.is_finite() && rate > 0.0,
            Mode::Closed { window } => window > 0,
            Mode::Shared { in_flight, burst } => burst > 0 && in_flight >= burst,
        };
        if !is_load || plan.users == 0 || !plan.changes_per_s.is_finite() {
            return Err("rate, users, window and burst must be above 0, and in-flight at least a burst".into());
        }
        if plan.deliveries && (plan.changes_per_s > 0.0 || plan.connections_max > 0) {
            return Err(
                "deliveries cannot be followed where users take turns: leave connections-max and changes out".into()
            );
        }
        Ok(plan)
    }

    /// The command line decides which kind of loop it is; else the profile.
    fn mode(&self, profile: &Profile) -> Mode {
        let burst = self.burst.or(profile.burst).unwrap_or(64);
        match (self.rate, self.in_flight, self.window) {
            (Some(rate), ..) => Mode::Open { rate },
            (_, Some(in_flight), _) => Mode::Shared { in_flight, burst },
            (.., Some(window)) => Mode::Closed { window },
            _ => match (profile.rate, profile.in_flight) {
                (Some(rate), _) => Mode::Open { rate },
                (_, Some(in_flight)) => Mode::Shared { in_flight, burst },
                _ => Mode::Closed { window: profile.window.unwrap_or(64) },
            },
        }
    }
}

pub(crate) async fn sync(args: SyncArgs) -> Result<String, Failure> {
    let report = measure(&args).await?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    match &report.deliveries {
        Some(deliveries) if deliveries.missing > 0 => {
            Err(format!("{} last states did not reach a device:\n{}", deliveries.missing, report.table()).into())
        }
        _ => Ok(report.table()),
    }
}

/// One run.
pub(crate) async fn measure(args: &SyncArgs) -> Result<Report, Failure> {
    let profile = args.profile()?;
    let plan = args.plan(&profile)?;
    if plan.stages {
        stages::check()?;
    }
    let peer = match args.target {
        Target::Mangahub | Target::State | Target::Floor | Target::Echo => None,
        Target::Redis => Some(Peer::Redis),
        Target::Nats => Some(Peer::Nats),
    };
    if let Some(peer) = peer {
        let (connections, row_bytes) = (args.peer_connections, args.row_bytes);
        let pipeline = args.peer_pipeline.unwrap_or(if peer == Peer::Nats { 1_000 } else { 2_000 });
        let (warm_up, measure) = (plan.warm_up, plan.measure);
        let plan = peers::Plan { peer, connections, pipeline, row_bytes, streams: 16, warm_up, measure };
        return Ok(peers::run(&plan).await?);
    }
    if matches!(args.target, Target::Floor | Target::Echo) {
        let running = match args.target {
            Target::Echo => Running::echo(&args.own.server_cpus)?,
            _ => Running::floor()?,
        };
        let tokens = floor::tokens(plan.users, plan.series);
        let measured =
            drive::run(running.address, Some(running.pid()), &tokens, Shared::new(plan, None, false)).await?;
        return report(&measured, BTreeMap::new());
    }
    let ledger = args.ledger.as_deref().map(Writer::create).transpose()?;
    let mut limits_raised = BTreeMap::new();
    // The folder outlives the server: fields drop in order.
    let mut own: Option<(Server, Option<tempfile::TempDir>)> = None;
    let (address, pid, tokens) = match (args.address, &args.tokens) {
        (Some(address), Some(tokens)) => {
            (address, args.server_pid, Tokens::load(tokens)?.take(plan.users, plan.series)?)
        }
        _ => {
            let (mut launch, fresh) = args.own.launch()?;
            let given = std::mem::take(&mut launch.settings);
            launch.settings = profile.raise.clone().into_iter().chain(given).collect();
            limits_raised.extend(launch.settings.iter().cloned());
            let (server, _) = own.insert((launch.start()?, fresh));
            (server.doors.tcp_sync, Some(server.pid()), launch.seed(plan.users, plan.series)?)
        }
    };
    let recorder = own.as_ref().map(|(server, _)| Recorder::start(server.doors.metrics, server.pid(), READ_EVERY));
    let recorder = recorder.transpose()?;
    let measured = drive::run(address, pid, &tokens, Shared::new(plan, ledger, false)).await?;
    let patience = args.drain_s.or(profile.drain_s);
    let drain = match (&own, patience) {
        (Some((server, _)), Some(patience)) => Some(drain(server, patience).await?),
        _ => None,
    };
    let timeline = recorder.map(Recorder::finish).unwrap_or_default();
    let mut report = Report { drain, timeline, ..report(&measured, limits_raised)? };
    if let Some((server, _folder)) = own
        && let Err(problem) = server.stop()
    {
        // What was measured stands; how it stopped is said beside it.
        report.errors.insert(format!("stop: {problem}"), 1);
    }
    Ok(report)
}

/// Waits until the store has everything.
async fn drain(server: &Server, patience_s: f64) -> Result<Drain, Failure> {
    let began = Instant::now();
    let mut records = None;
    loop {
        let moment = timeline::read(server.doors.metrics, server.pid(), began)?;
        let records = *records.get_or_insert(moment.lag_records);
        if moment.lag_records == 0 {
            return Ok(Drain { records, seconds: Some(moment.at_s) });
        }
        if moment.at_s > patience_s {
            return Ok(Drain { records, seconds: None });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn report(measured: &Measured, limits_raised: BTreeMap<String, String>) -> Result<Report, Failure> {
    let shared = &measured.shared;
    let (acknowledged, elapsed_s) = (shared.acknowledged.get(), measured.elapsed.as_secs_f64());
    let errors = shared.errors.borrow().clone();
    let latency = Latency::of(&shared.latency.borrow()).map_err(|error| format!("{error}; errors: {errors:?}"))?;
    let server = measured.server.map(|(before, after)| {
        let cpu_us = after.cpu_us - before.cpu_us;
        let cpu_us_per_update = cpu_us as f64 / acknowledged.max(1) as f64;
        ServerCost { cpu_us, cpu_us_per_update, rss_bytes: after.rss_bytes, descriptors: after.descriptors }
    });
    let samples = measured.recorded.as_ref().map(Recorded::attribute).transpose()?;
    let cpu_ns: u64 = measured.threads.iter().flatten().map(|(_, spent)| spent.cpu_ns).sum();
    let cpu_us_per_update = cpu_ns as f64 / 1e3 / acknowledged.max(1) as f64;
    let deliveries = shared.plan.deliveries.then(|| deliveries(measured, server.as_ref())).transpose()?;
    Ok(Report {
        run: serde_json::to_value(&shared.plan)?,
        limits_raised,
        machine: Machine::here(),
        measured_s: elapsed_s,
        acknowledged,
        acknowledged_per_s: acknowledged as f64 / elapsed_s,
        announced: shared.announced.get(),
        latency,
        deliveries,
        errors,
        server,
        threads: measured.threads.clone(),
        stages: samples.map(|samples| samples.table(cpu_us_per_update)).unwrap_or_default(),
        changes: shared.changes.get(),
        drain: None,
        timeline: Vec::new(),
        client_cpu_us: measured.client_cpu_us,
    })
}

fn deliveries(measured: &Measured, server: Option<&ServerCost>) -> Result<Deliveries, Failure> {
    let shared = &measured.shared;
    let delivered = shared.announced.get();
    let cpu_us = server.map(|server| server.cpu_us as f64).filter(|cpu_us| *cpu_us > 0.0);
    let (errors, delays) = (shared.errors.borrow(), shared.delays.borrow());
    let latency = |histogram| {
        let nothing = |_| format!("nothing was announced: are there devices that do not write? errors: {errors:?}");
        Latency::of(histogram).map_err(nothing)
    };
    Ok(Deliveries {
        delivered,
        delivered_per_s: delivered as f64 / measured.elapsed.as_secs_f64(),
        delivered_per_core_s: cpu_us.map(|cpu_us| delivered as f64 / cpu_us * 1e6),
        cpu_us_per_delivery: cpu_us.map(|cpu_us| cpu_us / delivered.max(1) as f64),
        since_due: latency(&delays[0])?,
        since_durable: latency(&delays[1])?,
        missing: shared.missing(),
    })
}
