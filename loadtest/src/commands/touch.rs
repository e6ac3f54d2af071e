//! `loadtest touch`: far more users than fit into memory come once each; memory stays within its bounds and nothing is lost.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use loadtest::touch::{self, Outcome, Plan};

use crate::{Failure, OwnServer};

const MIB: u64 = 1 << 20;

#[derive(Args)]
pub(crate) struct TouchArgs {
    #[command(flatten)]
    own: OwnServer,
    /// Users, each of whom comes once
    #[arg(long, default_value_t = 1_000_000)]
    users: usize,
    /// Users seeded at a time
    #[arg(long, default_value_t = 20_000)]
    part: usize,
    /// Users who are there at once
    #[arg(long, default_value_t = 64)]
    at_a_time: usize,
    /// Users who are asked for what they have afterwards
    #[arg(long, default_value_t = 10_000)]
    sample: usize,
    /// MiB that resident memory may have beside what it had at the start and what is configured for users: page caches (32 MiB for
    /// each connection to the store), the store's queue, seeding's own answers
    #[arg(long, default_value_t = 192)]
    allowance_mib: u64,
    /// Writes everything as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) async fn touch(args: TouchArgs) -> Result<String, Failure> {
    if args.users == 0 || args.part == 0 {
        return Err("users and part must be above 0".into());
    }
    let (launch, _fresh) = args.own.launch()?;
    let server = launch.start()?;
    let plan = Plan {
        users: args.users,
        part: args.part,
        at_a_time: args.at_a_time,
        sample: args.sample.min(args.users),
        allowance_bytes: args.allowance_mib * MIB,
    };
    let outcome = touch::run(&launch, &server, &plan).await?;
    server.stop()?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&outcome)?)?;
    }
    let table = table(&outcome)?;
    if outcome.is_good() { Ok(table) } else { Err(format!("{}\n{table}", outcome.wrong.join("\n")).into()) }
}

fn table(outcome: &Outcome) -> Result<String, Failure> {
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    let mut table = String::from("seconds    touched  in memory  evicted    users MiB  not stored  RSS MiB\n");
    for reading in &outcome.readings {
        writeln!(
            table,
            "{:>7.0} {:>10} {:>10} {:>8} {:>12.1} {:>11.1} {:>8.1}",
            reading.at_s,
            reading.touched,
            reading.in_memory,
            reading.evictions,
            mib(reading.user_bytes),
            mib(reading.not_stored_bytes),
            mib(reading.rss_bytes)
        )?;
    }
    let Outcome { shards, user_bytes_max, rss_bytes_max, rss_bytes_peak, user_bytes_peak, .. } = *outcome;
    writeln!(table, "users, at most         {:.1} MiB of {:.1} MiB", mib(user_bytes_peak), mib(user_bytes_max))?;
    writeln!(table, "RSS, at most           {:.1} MiB of {:.1} MiB", mib(rss_bytes_peak), mib(rss_bytes_max))?;
    writeln!(table, "shards                 {shards}")?;
    writeln!(table, "asked afterwards       {}, evicted before {}", outcome.asked, outcome.asked_evicted)?;
    for (reason, count) in &outcome.refusals {
        writeln!(table, "told to come again     {count} ({reason})")?;
    }
    Ok(table)
}
