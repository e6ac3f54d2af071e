//! `loadtest`: measures a MangaHub server over its own doors. Without an address it starts a server of its own in a fresh folder,
//! and stops it. Exit codes: 0 done, 1 failed or something is missing, 2 unusable arguments.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use loadtest::campaign::{self, Campaign};
use loadtest::drive::{self, Measured, Mode, Plan, Shared};
use loadtest::ledger::{Expectations, Writer};
use loadtest::report::{Latency, Machine, Report, ServerCost};
use loadtest::server::{Launch, Server, sibling_binary};
use loadtest::tokens::Tokens;
use loadtest::verify;
use loadtest::workload::Distribution;

#[derive(Parser)]
#[command(name = "loadtest", version, about = "Measures a MangaHub server over its own doors")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drives the sync plane and reports durable updates per second and their latency
    Sync(SyncArgs),
    /// Checks that everything a ledger speaks of is on the server
    Verify(VerifyArgs),
    /// Kills its own server under load, over and over, and checks that nothing acknowledged is lost
    Kill(KillArgs),
}

#[derive(Args)]
struct OwnServer {
    /// The server's binary; the one beside this program when absent
    #[arg(long)]
    server_bin: Option<PathBuf>,
    /// Where its data goes; a fresh folder under the temporary folder, removed afterwards, when absent
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// CPUs for the server, as `taskset -c` takes them
    #[arg(long, default_value = "")]
    server_cpus: String,
    /// A configuration key of the server, as MANGAHUB_NAME=VALUE; may be repeated; appears in the report
    #[arg(long = "set", value_parser = key_value)]
    settings: Vec<(String, String)>,
}

#[derive(Args)]
struct SyncArgs {
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
    /// Users that write
    #[arg(long, default_value_t = 1)]
    users: usize,
    /// Connections per user
    #[arg(long, default_value_t = 1)]
    devices: usize,
    /// Of them, how many write; the others watch
    #[arg(long, default_value_t = 1)]
    writers: usize,
    /// Series per user
    #[arg(long, default_value_t = 10)]
    series: usize,
    /// Closed loop: updates in flight per writing connection
    #[arg(long, default_value_t = 64, conflicts_with = "rate")]
    window: usize,
    /// Open loop: updates per second over all connections
    #[arg(long)]
    rate: Option<f64>,
    /// How picks are spread
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    distribution: Distribution,
    /// Seconds over which connections are opened
    #[arg(long, default_value_t = 0.0)]
    ramp: f64,
    /// Seconds of load that are not measured
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Seconds that are
    #[arg(long, default_value_t = 10.0)]
    duration: f64,
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

#[derive(Args)]
struct VerifyArgs {
    /// The ledger
    #[arg(long)]
    ledger: PathBuf,
    /// The server's TCP sync door
    #[arg(long)]
    address: SocketAddr,
    /// The tokens of the ledger's users
    #[arg(long)]
    tokens: PathBuf,
}

#[derive(Args)]
struct KillArgs {
    #[command(flatten)]
    own: OwnServer,
    /// Kills that hit an update in flight and a record that was not in the store
    #[arg(long, default_value_t = 200)]
    cycles: u32,
    /// Users, each with two writing devices
    #[arg(long, default_value_t = 8)]
    users: usize,
    /// Series per user
    #[arg(long, default_value_t = 6)]
    series: usize,
    /// Updates in flight on a pipelining connection
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// The longest load before a kill, in milliseconds
    #[arg(long, default_value_t = 400)]
    load_ms: u64,
    /// The seed of every choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must look like MANGAHUB_NAME=VALUE")?;
    Ok((key.into(), value.into()))
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let work = async {
        match cli.command {
            Command::Sync(args) => sync(args).await,
            Command::Verify(args) => verify_ledger(args).await,
            Command::Kill(args) => kill(args).await,
        }
    };
    match tokio::task::LocalSet::new().block_on(&runtime, work) {
        Ok(text) => {
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => failed(&*error),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    let _ = writeln!(io::stderr(), "loadtest: {error}");
    ExitCode::FAILURE
}

impl OwnServer {
    /// How to start it, and the folder to remove afterwards.
    fn launch(&self) -> io::Result<(Launch, Option<tempfile::TempDir>)> {
        let (data_dir, fresh) = match &self.data_dir {
            Some(folder) => (folder.clone(), None),
            None => {
                let fresh = tempfile::tempdir()?;
                (fresh.path().join("data"), Some(fresh))
            }
        };
        let mut launch = Launch::for_load(self.server_bin.clone().map_or_else(sibling_binary, Ok)?, data_dir);
        launch.settings.extend(self.settings.iter().cloned());
        launch.cpus.clone_from(&self.server_cpus);
        Ok((launch, fresh))
    }
}

impl SyncArgs {
    fn plan(&self) -> Result<Plan, Failure> {
        if self.writers == 0 || self.writers > self.devices || self.writers > self.series {
            return Err("writers must be at least 1, at most devices, and at most series".into());
        }
        if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) || self.users == 0 || self.window == 0 {
            return Err("rate, users and window must be above 0".into());
        }
        let seconds = |value: f64, name: &str| {
            Duration::try_from_secs_f64(value).map_err(|_| format!("{name} must be a number of seconds, at least 0"))
        };
        Ok(Plan {
            users: self.users,
            devices: self.devices,
            writers: self.writers,
            series: self.series,
            mode: self.rate.map_or(Mode::Closed { window: self.window }, |rate| Mode::Open { rate }),
            distribution: self.distribution,
            seed: self.seed,
            ramp: seconds(self.ramp, "ramp")?,
            warm_up: seconds(self.warm_up, "warm-up")?,
            measure: seconds(self.duration, "duration")?,
        })
    }
}

async fn sync(args: SyncArgs) -> Result<String, Failure> {
    let plan = args.plan()?;
    let ledger = args.ledger.as_deref().map(Writer::create).transpose()?;
    let mut limits_raised = BTreeMap::new();
    // The folder outlives the server: fields drop in order.
    let mut own: Option<(Server, Option<tempfile::TempDir>)> = None;
    let (address, pid, tokens) = match (args.address, &args.tokens) {
        (Some(address), Some(tokens)) => {
            (address, args.server_pid, Tokens::load(tokens)?.take(plan.users, plan.series)?)
        }
        _ => {
            let (launch, fresh) = args.own.launch()?;
            limits_raised.extend(launch.settings.iter().cloned());
            let (server, _) = own.insert((launch.start()?, fresh));
            (server.doors.tcp_sync, Some(server.pid()), launch.seed(plan.users, plan.series)?)
        }
    };
    let measured = drive::run(address, pid, &tokens, Shared::new(plan, ledger, false)).await?;
    let report = report(&measured, limits_raised)?;
    if let Some((server, _folder)) = own {
        server.stop()?;
    }
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(report.table())
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
    Ok(Report {
        run: serde_json::to_value(&shared.plan)?,
        limits_raised,
        machine: Machine::here(),
        measured_s: elapsed_s,
        acknowledged,
        acknowledged_per_s: acknowledged as f64 / elapsed_s,
        announced: shared.announced.get(),
        latency,
        errors,
        server,
        client_cpu_us: measured.client_cpu_us,
    })
}

async fn verify_ledger(args: VerifyArgs) -> Result<String, Failure> {
    let (expectations, tokens) = (Expectations::load(&args.ledger)?, Tokens::load(&args.tokens)?);
    let verdict = verify::verify(args.address, &tokens, &expectations).await?;
    if verdict.missing.is_empty() {
        return Ok(format!("nothing is missing: {} entries, {} series\n", verdict.entries, verdict.series));
    }
    let lines: Vec<String> = verdict.missing.iter().take(20).map(|missing| format!("{missing:?}")).collect();
    Err(format!("{} of {} series lost something:\n{}", verdict.missing.len(), verdict.series, lines.join("\n")).into())
}

async fn kill(args: KillArgs) -> Result<String, Failure> {
    let (launch, _fresh) = args.own.launch()?;
    let campaign = Campaign {
        cycles: args.cycles,
        users: args.users,
        series: args.series,
        window: args.window,
        load_max: Duration::from_millis(args.load_ms),
        shards: [1, 2],
        seed: args.seed,
    };
    let outcome = campaign::run(launch, &campaign).await?;
    Ok(serde_json::to_string_pretty(&outcome)? + "\n")
}
