//! `loadtest abuse <scenario>`: what the server withstands, and how an ordinary client fares beside it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use loadtest::abuse::{self, Beside, Target, Turn, Turns, flood, logins, never_reads, overload, silent};
use loadtest::report::{Latency, Machine};
use loadtest::server::{Launch, Server};
use serde::Serialize;

use crate::{Failure, OwnServer};

/// Users of a flood: the ordinary one, and as many as flood at once, twice, so that turns differ.
const FLOODERS: usize = 32;

#[derive(Args)]
pub(crate) struct AbuseArgs {
    #[command(subcommand)]
    scenario: Scenario,
    #[command(flatten)]
    own: OwnServer,
    /// Writes the outcome as JSON
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// Turns of each kind
    #[arg(long, global = true, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each turn
    #[arg(long, global = true, default_value_t = 5.0)]
    seconds: f64,
    /// Updates per second of the ordinary client
    #[arg(long, global = true, default_value_t = 200.0)]
    rate: f64,
}

#[derive(Subcommand)]
enum Scenario {
    /// Connections that flood; the server keeps its ordinary limits
    Flood {
        /// What they send
        #[arg(long, value_enum, value_delimiter = ',', default_values_t = flood::Kind::ALL)]
        kinds: Vec<flood::Kind>,
        /// How many at once
        #[arg(long, value_delimiter = ',', default_values_t = [1, 10])]
        floods: Vec<usize>,
    },
    /// Sign-ins over HTTP as fast as they are answered
    Logins {
        /// How many at once
        #[arg(long, default_value_t = 64)]
        connections: usize,
    },
    /// Connections that never say who they are
    Silent {
        /// How many
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        /// Which door
        #[arg(long, value_enum, default_value_t = silent::Door::Sync)]
        door: silent::Door,
    },
    /// Connections that never read, of announcements and of answers
    NeverReads {
        /// How many of each
        #[arg(long, default_value_t = 50)]
        readers: usize,
    },
    /// Many times the sustained rate
    Overload {
        /// Users, each with one connection
        #[arg(long, default_value_t = 200)]
        users: usize,
        /// Updates in flight per user while the sustained rate is looked for
        #[arg(long, default_value_t = 64)]
        window: usize,
        /// Seconds of that before it counts: what the journal takes in until it is as full as it may be is no rate that holds
        #[arg(long, default_value_t = 60.0)]
        fill: f64,
        /// Seconds that count
        #[arg(long, default_value_t = 60.0)]
        find: f64,
        /// Updates per second, where it is known what the server sustains
        #[arg(long)]
        sustained: Option<f64>,
        /// How many times that rate is offered
        #[arg(long, default_value_t = 10.0)]
        times: f64,
        /// For so many seconds
        #[arg(long, default_value_t = 300.0)]
        duration: f64,
    },
}

/// What a scenario gave, and where.
#[derive(Serialize)]
struct Report<T> {
    scenario: &'static str,
    machine: Machine,
    limits_changed: Vec<(String, String)>,
    turns: Turns,
    outcome: T,
}

/// A kind of flood, and how the ordinary client fared beside it.
#[derive(Serialize)]
struct Flooded {
    kind: flood::Kind,
    acks: Vec<Beside>,
}

pub(crate) async fn abuse(args: AbuseArgs) -> Result<String, Failure> {
    let turns = Turns { rounds: args.rounds, time: seconds(args.seconds)?, rate: args.rate };
    if turns.rounds == 0 || !(1.0..=900.0).contains(&turns.rate) || turns.time < Duration::from_millis(100) {
        return Err("rounds must be above 0, rate from 1 to 900, and seconds at least 0.1".into());
    }
    match args.scenario {
        Scenario::Flood { ref kinds, ref floods } => {
            let place = Place::ordinary(&args.own, FLOODERS + 1)?;
            let mut outcome = Vec::new();
            for kind in kinds {
                outcome.push(Flooded { kind: *kind, acks: flooded(&place.target, *kind, floods, turns)? });
            }
            let text = outcome.iter().flat_map(|flooded| {
                let head = format!("{:?}\n", flooded.kind);
                std::iter::once(head).chain(flooded.acks.iter().map(Beside::row))
            });
            let text = text.collect();
            place.report(&args, "flood", turns, outcome)?;
            Ok(text)
        }
        Scenario::Logins { connections } => {
            let place = Place::ordinary(&args.own, 2)?;
            let outcome = logins::run(&place.target, connections, turns).await?;
            let mut text: String = outcome.acks.iter().map(Beside::row).collect();
            for (status, latency) in &outcome.answers {
                writeln!(text, "sign-ins answered {status}: {}", points(latency))?;
            }
            place.report(&args, "logins", turns, outcome)?;
            Ok(text)
        }
        Scenario::Silent { connections, door } => {
            let place = Place::ordinary(&args.own, 2)?;
            let outcome = silent::run(&place.target, door, connections, turns).await?;
            let text = silent_text(&outcome)?;
            place.report(&args, "silent", turns, outcome)?;
            Ok(text)
        }
        Scenario::NeverReads { readers } => {
            let place = Place::ordinary(&args.own, FLOODERS + 1)?;
            let outcome = never_reads::run(&place.target, readers, never_reads::ANNOUNCEMENTS_PER_S, turns).await?;
            let text = never_reads_text(&outcome)?;
            place.report(&args, "never-reads", turns, outcome)?;
            Ok(text)
        }
        Scenario::Overload { users, window, fill, find, sustained, times, duration } => {
            let (fill, find, time) = (seconds(fill)?, seconds(find)?, seconds(duration)?);
            let place = Place::wide(&args.own, users)?;
            let plan = overload::Plan { users, window, fill, find, sustained, times, time };
            let outcome = overload::run(&place.target, plan).await?;
            let text = overload_text(&outcome);
            place.report(&args, "overload", turns, outcome)?;
            Ok(text)
        }
    }
}

fn silent_text(outcome: &silent::Outcome) -> Result<String, Failure> {
    let mut text: String = outcome.acks.iter().map(Beside::row).collect();
    writeln!(
        text,
        "{} opened in {:.1} s, {:.0} bytes each; {} closed in {:.1} s, {} counted as late; RSS MiB {:.1?}",
        outcome.opened,
        outcome.opened_s,
        outcome.bytes_each,
        outcome.closed,
        outcome.closed_s,
        outcome.counted,
        outcome.rss_bytes.map(mib)
    )?;
    Ok(text)
}

fn never_reads_text(outcome: &never_reads::Outcome) -> Result<String, Failure> {
    let mut text: String = outcome.acks.iter().map(Beside::row).collect();
    writeln!(
        text,
        "{} of {:?} that never read were cut off in {:.1} s, after {} announcements; RSS MiB {:.1?}",
        outcome.closed,
        outcome.readers,
        outcome.closed_s,
        outcome.announced,
        outcome.rss_bytes.map(mib)
    )?;
    Ok(text)
}

fn seconds(seconds: f64) -> Result<Duration, Failure> {
    Ok(Duration::try_from_secs_f64(seconds).map_err(|_| "a time must be a number of seconds, at least 0")?)
}

fn flooded(target: &Target, kind: flood::Kind, floods: &[usize], turns: Turns) -> Result<Vec<Beside>, Failure> {
    let levels = floods.iter().map(|&count| Turn {
        name: format!("{count} flooding"),
        start: Box::new(move |round, tally| flood::start(target, kind, count, round, tally).map(Some)),
    });
    Ok(abuse::in_turns(target, turns, levels.collect())?)
}

/// A server of its own with its users.
struct Place {
    target: Target,
    settings: Vec<(String, String)>,
    // In this order: the folder outlives the server.
    server: Server,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    /// With the limits that everybody gets, but for connections from one address: here they all come from this machine.
    fn ordinary(own: &OwnServer, users: usize) -> Result<Self, Failure> {
        let (mut launch, folder) = own.launch()?;
        launch.settings = vec![("MANGAHUB_LIMITS_CONNECTIONS_PER_ADDRESS".to_owned(), "100000".to_owned())];
        launch.settings.extend(own.settings.iter().cloned());
        Self::open(launch, folder, users)
    }

    /// With the rate limits raised: what is looked for is what the server can do.
    fn wide(own: &OwnServer, users: usize) -> Result<Self, Failure> {
        let (launch, folder) = own.launch()?;
        Self::open(launch, folder, users)
    }

    fn open(launch: Launch, folder: Option<tempfile::TempDir>, users: usize) -> Result<Self, Failure> {
        let server = launch.start()?;
        let tokens = Arc::new(launch.seed(users, 10)?);
        let doors = server.doors;
        let target =
            Target { sync: doors.tcp_sync, http: doors.http, metrics: doors.metrics, pid: server.pid(), tokens };
        Ok(Self { target, settings: launch.settings, server, _folder: folder })
    }

    /// Writes the report, and stops the server, which must still do that in order.
    fn report<T: Serialize>(
        self,
        args: &AbuseArgs,
        scenario: &'static str,
        turns: Turns,
        outcome: T,
    ) -> Result<(), Failure> {
        let report = Report { scenario, machine: Machine::here(), limits_changed: self.settings, turns, outcome };
        if let Some(file) = &args.json {
            std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
        }
        self.server.stop()?;
        Ok(())
    }
}

fn overload_text(outcome: &overload::Outcome) -> String {
    let each = |latency: &Option<Latency>| latency.as_ref().map_or_else(|| "none".to_owned(), points);
    format!(
        "sustained {:.0}/s; offered {:.0}/s, sent {:.0}/s\ngoodput {:.0}/s: {:.2} of the sustained rate\n\
         served least {} and median {}: {:.2}\nacks {}\nrefusals {}\nrefused {:?}\nRSS MiB {:.1?}\n",
        outcome.sustained_per_s,
        outcome.offered_per_s,
        outcome.sent_per_s,
        outcome.goodput_per_s,
        outcome.goodput_share,
        outcome.served[0],
        outcome.served[1],
        outcome.least_to_median,
        each(&outcome.acks),
        each(&outcome.refusals),
        outcome.refused,
        outcome.rss_bytes.map(mib)
    )
}

fn points(latency: &Latency) -> String {
    let Latency { p50_us, p99_us, max_us, samples, .. } = latency;
    format!("p50 {p50_us} us, p99 {p99_us} us, max {max_us} us of {samples}")
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
