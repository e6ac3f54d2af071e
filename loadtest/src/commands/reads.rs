//! `loadtest reads`: what a read costs by where it is answered from.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use loadtest::reads::{self, Outcome, Plan};

use crate::{Failure, OwnServer};

#[derive(Args)]
pub(crate) struct ReadsArgs {
    #[command(flatten)]
    own: OwnServer,
    /// Users, each with progress in every series
    #[arg(long, default_value_t = 20_000)]
    users: usize,
    /// Series
    #[arg(long, default_value_t = 10)]
    series: usize,
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Seconds that are not measured
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    /// Seconds that are
    #[arg(long, default_value_t = 10)]
    duration: u64,
    /// The seed of who is asked for
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes everything as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) async fn reads(args: ReadsArgs) -> Result<String, Failure> {
    let (mut launch, _fresh) = args.own.launch()?;
    // One address asks for everybody.
    for limit in ["MANGAHUB_LIMITS_REQUESTS_PER_S", "MANGAHUB_LIMITS_REQUESTS_BURST"] {
        launch.settings.push((limit.to_owned(), "1000000".to_owned()));
    }
    let server = launch.start()?;
    let tokens = launch.seed(args.users, args.series)?;
    let plan = Plan {
        connections: args.connections,
        warm_up: Duration::from_secs(args.warm_up),
        time: Duration::from_secs(args.duration),
        seed: args.seed,
    };
    let outcome = reads::run(&server, &tokens, plan).await?;
    server.stop()?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&outcome)?)?;
    }
    Ok(table(&outcome)?)
}

fn table(outcome: &Outcome) -> Result<String, std::fmt::Error> {
    let mut table = String::new();
    writeln!(table, "reads/s                {:.0}", outcome.reads_per_s)?;
    writeln!(table, "reads/s per core       {:.0}", outcome.reads_per_core_s)?;
    let latency = &outcome.latency;
    writeln!(table, "p50 {} us, p99 {} us, max {} us", latency.p50_us, latency.p99_us, latency.max_us)?;
    for (labels, count) in &outcome.lookups {
        writeln!(table, "looked up {labels}: {count}")?;
    }
    for (status, count) in &outcome.statuses {
        writeln!(table, "status {status}: {count}")?;
    }
    Ok(table)
}
