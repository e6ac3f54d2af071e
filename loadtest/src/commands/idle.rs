//! `loadtest idle`: a fresh server per wire, one row per wire, and the connection's own share as the difference to a run in which
//! nobody stays connected.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use loadtest::idle::{self, Plan, Slope, Wire};
use loadtest::tls::Trust;

use crate::{Failure, OwnServer};

#[derive(Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    own: OwnServer,
    /// How the connections speak; each on a fresh server
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Wire::None, Wire::Frames, Wire::Lines, Wire::Tls])]
    wires: Vec<Wire>,
    /// Users and connections at the first reading
    #[arg(long, default_value_t = 1_000)]
    from: usize,
    /// Users and connections at the second
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Series of each user
    #[arg(long, default_value_t = 10)]
    series: usize,
    /// Seconds of quiet before a reading
    #[arg(long, default_value_t = 60)]
    quiet: u64,
    /// Writes the slopes as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) async fn idle(args: IdleArgs) -> Result<String, Failure> {
    if args.from == 0 || args.connections <= args.from || args.series == 0 {
        return Err("series and from must be above 0, and connections above from".into());
    }
    let mut slopes = Vec::new();
    for wire in &args.wires {
        slopes.push(measure(&args, *wire).await?);
    }
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&slopes)?)?;
    }
    table(&slopes)
}

async fn measure(args: &IdleArgs, wire: Wire) -> Result<Slope, Failure> {
    let (mut launch, _fresh) = args.own.launch()?;
    let certificates = tempfile::tempdir()?;
    let mut trust = None;
    if wire == Wire::Tls {
        let (made, files) = Trust::make(certificates.path())?;
        for (key, file) in [("MANGAHUB_TLS_CERT", files.certificate), ("MANGAHUB_TLS_KEY", files.key)] {
            launch.settings.push((key.to_owned(), file.display().to_string()));
        }
        trust = Some(made);
    }
    let server = launch.start()?;
    let tokens = launch.seed(args.connections, args.series)?;
    let plan = Plan {
        wire,
        from: args.from,
        to: args.connections,
        series: args.series,
        quiet: Duration::from_secs(args.quiet),
    };
    let slope = idle::run(server.doors.tcp_sync, server.pid(), &tokens, trust, &plan).await?;
    server.stop()?;
    Ok(slope)
}

fn table(slopes: &[Slope]) -> Result<String, Failure> {
    let mut table = String::from("bytes each, all in   of it the connection   RSS MiB          descriptors     wire\n");
    let users_alone = slopes.iter().find(|slope| slope.wire == Wire::None).map(|slope| slope.bytes_each);
    for slope in slopes {
        let share = match (users_alone, slope.wire) {
            (_, Wire::None) => "-".to_owned(),
            (Some(alone), _) => format!("{:.0}", slope.bytes_each - alone),
            (None, _) => "unknown".to_owned(),
        };
        let [rss_before, rss_after] = slope.rss_bytes.map(|bytes| bytes as f64 / 1_048_576.0);
        let [open_before, open_after] = slope.descriptors;
        let wire = format!("{:?}", slope.wire).to_lowercase();
        writeln!(
            table,
            "{:>18.0} {share:>22}   {rss_before:>6.1} {rss_after:>6.1}   {open_before:>6} {open_after:>6}   {wire}",
            slope.bytes_each
        )?;
    }
    Ok(table)
}
