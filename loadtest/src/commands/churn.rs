//! `loadtest churn`: people come, read on and leave, and nothing of the server may grow. With more users than the memory for them
//! holds it is also the run in which everybody is touched once.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use loadtest::churn::{self, Plan};
use loadtest::http;

use crate::{Failure, OwnServer};

#[derive(Args)]
pub(crate) struct ChurnArgs {
    #[command(flatten)]
    own: OwnServer,
    /// Visits per second
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Users, who come in turn
    #[arg(long, default_value_t = 10_000)]
    users: usize,
    /// Series that each visit moves on in
    #[arg(long, default_value_t = 1)]
    series: usize,
    /// Seconds
    #[arg(long, default_value_t = 3_600)]
    duration: u64,
    /// Writes everything as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) async fn churn(args: ChurnArgs) -> Result<String, Failure> {
    if !args.rate.is_finite() || args.rate <= 0.0 || args.users == 0 || args.series == 0 {
        return Err("rate, users and series must be above 0".into());
    }
    let (launch, _fresh) = args.own.launch()?;
    let server = launch.start()?;
    let tokens = launch.seed(args.users, args.series)?;
    let plan = Plan { rate: args.rate, duration: Duration::from_secs(args.duration), series: args.series };
    let outcome = churn::run(server.doors, server.pid(), &tokens, &plan).await?;
    let metrics = http::get(server.doors.metrics, "/metrics")?;
    server.stop()?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&outcome)?)?;
    }
    let mut table = String::new();
    writeln!(table, "visits                 {}", outcome.visits)?;
    writeln!(table, "at once                {}", outcome.at_once)?;
    writeln!(table, "RSS growth             {:.2} % an hour", outcome.rss_growth_per_hour * 100.0)?;
    if let Some(last) = outcome.timeline.last() {
        writeln!(table, "RSS                    {:.1} MiB", last.rss_bytes as f64 / 1_048_576.0)?;
    }
    writeln!(table, "descriptors            {} -> {}", outcome.descriptors[0], outcome.descriptors[1])?;
    for name in ["mangahub_users_in_memory", "mangahub_user_bytes", "mangahub_user_evictions_total"] {
        writeln!(table, "{name:<22} {}", http::metric(&metrics, name).unwrap_or(0.0))?;
    }
    for (error, count) in &outcome.errors {
        writeln!(table, "error {count:>6}  {error}")?;
    }
    for (key, value) in &launch.settings {
        writeln!(table, "raised {key} {value}")?;
    }
    Ok(table)
}
