//! `loadtest`: measures a MangaHub server over its own doors. Without an address it starts a server of its own in a fresh folder,
//! and stops it. Exit codes: 0 done, 1 failed or something is missing, 2 unusable arguments.

mod commands;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use loadtest::campaign::{self, Campaign};
use loadtest::ledger::Expectations;
use loadtest::server::{Launch, sibling_binary};
use loadtest::tokens::Tokens;
use loadtest::verify;

#[derive(Parser)]
#[command(name = "loadtest", version, about = "Measures a MangaHub server over its own doors")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drives the sync plane and reports durable updates per second and their latency
    Sync(Box<commands::SyncArgs>),
    /// Checks that everything a ledger speaks of is on the server
    Verify(VerifyArgs),
    /// Kills its own server under load, over and over, and checks that nothing acknowledged is lost
    Kill(KillArgs),
    /// Measures what a signed-in user who does nothing costs in memory
    Idle(commands::IdleArgs),
    /// Reads progress over HTTP, of users in memory or (with little memory) from Redis or the store
    Reads(commands::ReadsArgs),
    /// Lets far more users than fit into memory come once each, and checks that memory stays bounded and nothing is lost
    Touch(commands::TouchArgs),
    /// Lets users come, read on and leave at a steady rate, and watches what grows
    Churn(commands::ChurnArgs),
    /// Does what no client should, and watches how an ordinary one fares beside it
    Abuse(Box<commands::AbuseArgs>),
    /// Measures the server and something else in turns
    Compare(Box<commands::CompareArgs>),
    /// Answers the same frames after nothing but a group commit; `sync --target floor` starts it
    Floor(commands::FloorArgs),
}

#[derive(Args, Clone)]
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
    /// How long a paused server (SIGSTOP) stays so, in milliseconds
    #[arg(long, default_value_t = 3_000)]
    pause_ms: u64,
    /// One cycle of so many has a pause
    #[arg(long, default_value_t = 10)]
    pause_every: u32,
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
            Command::Sync(args) => commands::sync(*args).await,
            Command::Verify(args) => verify_ledger(args).await,
            Command::Kill(args) => kill(args).await,
            Command::Idle(args) => commands::idle(args).await,
            Command::Reads(args) => commands::reads(args).await,
            Command::Touch(args) => commands::touch(args).await,
            Command::Churn(args) => commands::churn(args).await,
            Command::Abuse(args) => commands::abuse(*args).await,
            Command::Compare(args) => commands::compare(*args).await,
            Command::Floor(args) => commands::floor(args).await,
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
        pause: Duration::from_millis(args.pause_ms),
        pause_every: args.pause_every,
        seed: args.seed,
    };
    let outcome = campaign::run(launch, &campaign, None).await?;
    Ok(serde_json::to_string_pretty(&outcome)? + "\n")
}
