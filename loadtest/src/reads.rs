//! What a read costs by where it is answered from: users have progress, and then everybody's is asked for over HTTP in no order. With
//! room for all of them the answers come from memory; with little room they come from Redis or the store. Which it was is the
//! server's own count, in the outcome.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use client::shell::{Error, FrameClient};
use hdrhistogram::Histogram;
use proto::frame::SetProgress;
use proto::{Chapter, MangaId};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::dial::dial;
use crate::report::Latency;
use crate::server::Server;
use crate::tokens::{Seeded, Tokens};
use crate::workload::Random;
use crate::{http, process, reader};

/// Users who are there at once while everybody gets progress.
const AT_A_TIME: usize = 32;
/// How long the store may take to have all of it.
const DRAIN_PATIENCE: Duration = Duration::from_secs(120);
const LOOKUPS: &str = "mangahub_user_lookups_total";

/// One run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// Reads that are not measured: they bring Redis and the kernel's caches into the state that lasts.
    pub warm_up: Duration,
    /// Reads that are.
    pub time: Duration,
    /// The seed of who is asked for.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// As asked for.
    pub plan: Plan,
    /// Answers per second.
    pub reads_per_s: f64,
    /// Answers per second of the server's CPU time.
    pub reads_per_core_s: f64,
    /// From sending to the whole answer.
    pub latency: Latency,
    /// Where users were looked for, by level and outcome, as the server writes it.
    pub lookups: BTreeMap<String, u64>,
    /// Answers by status.
    pub statuses: BTreeMap<String, u64>,
}

/// Gives everybody progress in every series, waits until the store has it, and reads. Must be called inside a `LocalSet`.
pub async fn run(server: &Server, tokens: &Tokens, plan: Plan) -> io::Result<Outcome> {
    let doors = server.doors;
    let tokens = Rc::new(tokens.clone());
    let mut coming: JoinSet<Result<(), Error>> = JoinSet::new();
    for at in 0..tokens.users.len() {
        if coming.len() >= AT_A_TIME
            && let Some(came) = coming.join_next().await
        {
            came?.map_err(io::Error::other)?;
        }
        let tokens = Rc::clone(&tokens);
        coming.spawn_local(async move {
            // A server with little room for what its store lacks takes them as fast as that store does.
            let visit = async || write(doors.tcp_sync, &tokens.users[at], &tokens.series).await;
            reader::patiently(visit, |_| ()).await
        });
    }
    while let Some(came) = coming.join_next().await {
        came?.map_err(io::Error::other)?;
    }
    let lag = doors.drained(DRAIN_PATIENCE).await?;
    if lag > 0 {
        return Err(io::Error::other(format!(
            "the store lacks {lag} records {DRAIN_PATIENCE:?} after the last update"
        )));
    }
    ask(doors.http, &tokens, plan, plan.warm_up).await?;
    let before = (http::get(doors.metrics, "/metrics")?, process::usage(server.pid())?, Instant::now());
    let (times, statuses) = ask(doors.http, &tokens, plan, plan.time).await?;
    let (seconds, usage) = (before.2.elapsed().as_secs_f64(), process::usage(server.pid())?);
    let after = http::get(doors.metrics, "/metrics")?;
    let mut lookups: BTreeMap<String, u64> = BTreeMap::new();
    for (text, sign) in [(&after, 1.0), (&before.0, -1.0)] {
        for (labels, value) in http::labelled(text, LOOKUPS) {
            let count = lookups.entry(labels.to_owned()).or_default();
            *count = count.wrapping_add_signed((sign * value) as i64);
        }
    }
    lookups.retain(|_, count| *count > 0);
    let cpu_s = (usage.cpu_us - before.1.cpu_us) as f64 / 1e6;
    Ok(Outcome {
        plan,
        reads_per_s: times.len() as f64 / seconds,
        reads_per_core_s: times.len() as f64 / cpu_s,
        latency: Latency::of(&times).map_err(io::Error::other)?,
        lookups,
        statuses,
    })
}

/// One user's visit: an update of each series.
async fn write(server: SocketAddr, seeded: &Seeded, series: &[MangaId]) -> Result<(), Error> {
    let hello = reader::hello(seeded, None, 0);
    let (mut client, _) = FrameClient::<()>::over(dial(server).await?, &hello).await?;
    for manga in series {
        let update = SetProgress {
            manga: *manga,
            device_seq: None,
            chapter: Chapter::whole(3),
            page: None,
            status: None,
            force: false,
            ack_database: false,
            conflict_token: None,
        };
        client.set_progress(&update, ()).map_err(|_| io::Error::other("a window too small for every series"))?;
    }
    reader::answered(&mut client).await
}

type Answers = (Histogram<u64>, BTreeMap<String, u64>);

/// Asks on all connections for so long.
async fn ask(server: SocketAddr, tokens: &Rc<Tokens>, plan: Plan, time: Duration) -> io::Result<Answers> {
    let times = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(io::Error::other)?;
    let answers = Rc::new(RefCell::new((times, BTreeMap::new())));
    let until = Instant::now() + time;
    let mut asking: JoinSet<io::Result<()>> = JoinSet::new();
    for at in 0..plan.connections {
        let (tokens, answers) = (Rc::clone(tokens), Rc::clone(&answers));
        let mut random = Random::new(plan.seed + at as u64);
        asking.spawn_local(async move {
            let mut stream = dial(server).await?;
            while Instant::now() < until {
                let seeded = &tokens.users[random.below(tokens.users.len() as u64) as usize];
                let manga = tokens.series[random.below(tokens.series.len() as u64) as usize];
                let request = format!(
                    "GET /api/progress/{manga} HTTP/1.1\r\nHost: {server}\r\nAuthorization: Bearer {}\r\n\r\n",
                    seeded.token
                );
                let began = Instant::now();
                stream.write_all(request.as_bytes()).await?;
                let (status, _) = http::answer(&mut stream).await?;
                let mut answers = answers.borrow_mut();
                answers.0.saturating_record(began.elapsed().as_micros() as u64);
                *answers.1.entry(status).or_default() += 1;
            }
            Ok(())
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked??;
    }
    Rc::into_inner(answers).map(RefCell::into_inner).ok_or_else(|| io::Error::other("somebody still asks"))
}
