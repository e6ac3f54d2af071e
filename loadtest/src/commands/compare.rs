//! `loadtest compare`: the server and what it is compared with, in turns (A B A B ..), so that whatever the machine does meanwhile
//! it does to both. Medians and spread of every figure, never a mean.

use std::fmt::Write as _;

use clap::Args;
use loadtest::report::Report;

use super::sync::{SyncArgs, Target, measure};
use crate::Failure;

#[derive(Args)]
pub(crate) struct CompareArgs {
    /// What the server is compared with
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    with: Vec<Target>,
    /// Runs of each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[command(flatten)]
    sync: SyncArgs,
}

type Figure = (&'static str, fn(&Report) -> f64);

const FIGURES: &[Figure] = &[
    ("durable updates/s", |report| report.acknowledged_per_s),
    ("p50 us", |report| report.latency.p50_us as f64),
    ("p90 us", |report| report.latency.p90_us as f64),
    ("p99 us", |report| report.latency.p99_us as f64),
    ("p99.9 us", |report| report.latency.p99_9_us as f64),
    ("server CPU us/update", |report| report.server.as_ref().map_or(0.0, |server| server.cpu_us_per_update)),
    ("  without SQL", Report::cpu_us_per_update_without_sql),
    ("  shards and journal", |report| report.cpu_us_per_update_of(&["shard", "journal"])),
    ("  shards", |report| report.cpu_us_per_update_of(&["shard"])),
];

pub(crate) async fn compare(args: CompareArgs) -> Result<String, Failure> {
    if args.rounds == 0 {
        return Err("rounds must be above 0".into());
    }
    let targets: Vec<Target> = [args.sync.target].into_iter().chain(args.with.iter().copied()).collect();
    let mut reports: Vec<Vec<Report>> = targets.iter().map(|_| Vec::new()).collect();
    for _ in 0..args.rounds {
        for (target, reports) in targets.iter().zip(&mut reports) {
            let mut sync = args.sync.clone();
            sync.target = *target;
            reports.push(measure(&sync).await?);
        }
    }
    let mut table = format!("{:<22}", format!("median of {}", args.rounds));
    for target in &targets {
        write!(table, " {:>32}", format!("{target:?}").to_lowercase())?;
    }
    table.push('\n');
    for (name, figure) in FIGURES {
        write!(table, "{name:<22}")?;
        let first = Spread::of(&reports[0], *figure);
        for (at, reports) in reports.iter().enumerate() {
            let spread = Spread::of(reports, *figure);
            let ratio = if at == 0 { String::new() } else { format!(" {:.2}x", first.median / spread.median) };
            let text = format!("{} [{}-{}]{ratio}", short(spread.median), short(spread.least), short(spread.most));
            write!(table, " {text:>32}")?;
        }
        table.push('\n');
    }
    table.push_str("ratios are the first column over the other\n\nlast run of the first column:\n");
    Ok(table + &reports[0][args.rounds - 1].table())
}

struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(reports: &[Report], figure: fn(&Report) -> f64) -> Self {
        let mut values: Vec<f64> = reports.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        Self { median: values[values.len() / 2], least: values[0], most: values[values.len() - 1] }
    }
}

fn short(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}
