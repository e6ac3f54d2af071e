//! Users who come once: each signs in, sets one series and leaves, many at a time, and there are far more of them than the memory
//! for users holds. What must hold: the server's resident memory stays below what it was told to use and a stated allowance,
//! and whoever had to leave memory reads back exactly what was acknowledged. Users are seeded in parts, so that the harness need
//! not hold everybody's token either.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use client::shell::{Error, FrameClient};
use proto::frame::{SetProgress, wants};
use proto::{Chapter, Code, DeviceSeq, MangaId, Page};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::dial::dial;
use crate::person::device;
use crate::server::{Launch, Server};
use crate::tokens::Seeded;
use crate::{http, process, reader};

/// Readings that a run keeps, about.
const READINGS: usize = 40;

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Users, each of whom comes once.
    pub users: usize,
    /// Users seeded at a time.
    pub part: usize,
    /// Users who are there at once.
    pub at_a_time: usize,
    /// Users who are asked for what they have afterwards, from all over the run.
    pub sample: usize,
    /// Resident bytes above those of the start and those for users: page caches, queues, what the allocator keeps.
    pub allowance_bytes: u64,
}

/// The server at one moment.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Reading {
    /// Since the first visit.
    pub at_s: f64,
    /// Users who have been there.
    pub touched: usize,
    /// Users in memory.
    pub in_memory: u64,
    /// What they take, as the server counts it.
    pub user_bytes: u64,
    /// What of it the store lacks.
    pub not_stored_bytes: u64,
    /// Users who have left memory.
    pub evictions: u64,
    /// Resident memory.
    pub rss_bytes: u64,
}

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Users who came.
    pub users: usize,
    /// Shards, each with the configured bytes.
    pub shards: usize,
    /// Bytes for users, on all shards.
    pub user_bytes_max: u64,
    /// What resident memory had to stay below.
    pub rss_bytes_max: u64,
    /// The most that was seen.
    pub rss_bytes_peak: u64,
    /// The most that the server counted for users.
    pub user_bytes_peak: u64,
    /// Times somebody was told to come again, by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Users who were asked afterwards.
    pub asked: usize,
    /// How many of those had left memory for certain: they came before as many others as fit into it.
    pub asked_evicted: usize,
    /// What was wrong, up to twenty.
    pub wrong: Vec<String>,
    /// The course of it.
    pub readings: Vec<Reading>,
}

impl Outcome {
    /// Whether everything held.
    pub fn is_good(&self) -> bool {
        self.wrong.is_empty()
    }
}

struct Visitors {
    server: SocketAddr,
    series: Vec<MangaId>,
    touched: Cell<usize>,
    refusals: RefCell<BTreeMap<String, u64>>,
}

/// Runs it on a server that was just started by `launch`. Must be called inside a `LocalSet`.
pub async fn run(launch: &Launch, server: &Server, plan: &Plan) -> io::Result<Outcome> {
    let (doors, pid) = (server.doors, server.pid());
    // Shards say it with their first tick, a second after the start.
    while limits(&http::get(doors.metrics, "/metrics")?)?.0 == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (user_bytes_max, shards) = limits(&http::get(doors.metrics, "/metrics")?)?;
    let rss_at_start = process::usage(pid)?.rss_bytes;
    let rss_bytes_max = rss_at_start + user_bytes_max + plan.allowance_bytes;
    let (began, mut readings, mut sample) = (Instant::now(), Vec::new(), Vec::new());
    let mut visitors =
        Visitors { server: doors.tcp_sync, series: Vec::new(), touched: Cell::new(0), refusals: RefCell::default() };
    let (mut peak_rss, mut peak_users) = (0, 0);
    while visitors.touched.get() < plan.users {
        let count = plan.part.min(plan.users - visitors.touched.get());
        let mut tokens = launch.seed(count, 1)?;
        visitors.series = std::mem::take(&mut tokens.series);
        let first = visitors.touched.get();
        let shared = Rc::new(visitors);
        let watched = watch(&shared, first + count, doors.metrics, pid, began);
        let ((), seen) = tokio::try_join!(all_come(&shared, &tokens.users, first, plan.at_a_time), watched)?;
        visitors = Rc::into_inner(shared).ok_or_else(|| io::Error::other("somebody is still there"))?;
        for reading in seen {
            peak_rss = peak_rss.max(reading.rss_bytes);
            peak_users = peak_users.max(reading.user_bytes);
            readings.push(reading);
        }
        let wanted = plan.sample * visitors.touched.get() / plan.users;
        let every = (count / wanted.saturating_sub(sample.len()).max(1)).max(1);
        let chosen = tokens.users.into_iter().enumerate().step_by(every);
        sample.extend(chosen.map(|(at, seeded)| (first + at, seeded)));
    }
    let last = read(&visitors, doors.metrics, pid, began)?;
    let evicted_for_certain = plan.users.saturating_sub(last.in_memory as usize * 2);
    let asked_evicted = sample.iter().filter(|(number, _)| *number < evicted_for_certain).count();
    let mut wrong = check(&visitors, &sample).await.map_err(io::Error::other)?;
    readings.push(read(&visitors, doors.metrics, pid, began)?);
    if peak_rss > rss_bytes_max {
        wrong.push(format!("resident memory rose to {peak_rss} bytes; {rss_bytes_max} were allowed"));
    }
    wrong.truncate(20);
    Ok(Outcome {
        users: plan.users,
        shards,
        user_bytes_max,
        rss_bytes_max,
        rss_bytes_peak: peak_rss,
        user_bytes_peak: peak_users,
        refusals: visitors.refusals.into_inner(),
        asked: sample.len(),
        asked_evicted,
        wrong,
        readings: thinned(readings),
    })
}

/// How much there is for users on all shards, and how many shards there are.
fn limits(metrics: &str) -> io::Result<(u64, usize)> {
    let shards = metrics.lines().filter(|line| line.starts_with("mangahub_user_bytes{")).count();
    let bytes = http::metric(metrics, "mangahub_user_bytes_max").filter(|_| shards > 0);
    let bytes = bytes.ok_or_else(|| io::Error::other("the server does not say how much it may keep of users"))?;
    Ok((bytes as u64, shards))
}

/// What the user of this number sets: another place for each, so that nobody else's would pass for it.
fn place(number: usize) -> (Chapter, Page) {
    let chapter = Chapter::from_hundredths(100 + (number % 90_000_000) as u32).unwrap_or(Chapter::ZERO);
    (chapter, Page((number % 97) as u32))
}

async fn all_come(visitors: &Rc<Visitors>, users: &[Seeded], first: usize, at_a_time: usize) -> io::Result<()> {
    let mut coming: JoinSet<Result<(), Error>> = JoinSet::new();
    for (at, seeded) in users.iter().enumerate() {
        if coming.len() >= at_a_time.max(1)
            && let Some(came) = coming.join_next().await
        {
            came?.map_err(io::Error::other)?;
        }
        coming.spawn_local(Rc::clone(visitors).come(seeded.clone(), first + at));
    }
    while let Some(came) = coming.join_next().await {
        came?.map_err(io::Error::other)?;
    }
    Ok(())
}

impl Visitors {
    /// One visit, begun anew while the server says "not now".
    async fn come(self: Rc<Self>, seeded: Seeded, number: usize) -> Result<(), Error> {
        let told = |code: Code| *self.refusals.borrow_mut().entry(code.as_str().to_owned()).or_default() += 1;
        reader::patiently(async || self.visit(&seeded, number).await, told).await?;
        self.touched.set(self.touched.get() + 1);
        Ok(())
    }

    async fn visit(&self, seeded: &Seeded, number: usize) -> Result<(), Error> {
        let hello = reader::hello(seeded, Some(device(seeded, 0)), wants::PROGRESS);
        let (mut client, signed_in) = FrameClient::over(dial(self.server).await?, &hello).await?;
        let (chapter, page) = place(number);
        let update = SetProgress {
            manga: self.series[0],
            device_seq: Some(DeviceSeq(signed_in.last_seq + 1)),
            chapter,
            page: Some(page),
            status: None,
            force: false,
            ack_database: false,
            conflict_token: None,
        };
        let full = |_| io::Error::other("a window without room for one update");
        client.set_progress(&update, ()).map_err(full)?;
        reader::answered(&mut client).await
    }
}

/// Reads every half second until as many as `until` have come.
async fn watch(
    visitors: &Visitors,
    until: usize,
    metrics: SocketAddr,
    pid: u32,
    began: Instant,
) -> io::Result<Vec<Reading>> {
    let mut readings = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tick.tick().await;
        readings.push(read(visitors, metrics, pid, began)?);
        if visitors.touched.get() >= until {
            return Ok(readings);
        }
    }
}

fn read(visitors: &Visitors, metrics: SocketAddr, pid: u32, began: Instant) -> io::Result<Reading> {
    let text = http::get(metrics, "/metrics")?;
    let value = |name| http::metric(&text, name).unwrap_or(0.0) as u64;
    Ok(Reading {
        at_s: began.elapsed().as_secs_f64(),
        touched: visitors.touched.get(),
        in_memory: value("mangahub_users_in_memory"),
        user_bytes: value("mangahub_user_bytes"),
        not_stored_bytes: value("mangahub_user_bytes_not_stored"),
        evictions: value("mangahub_user_evictions_total"),
        rss_bytes: process::usage(pid)?.rss_bytes,
    })
}

/// Asks for everything that the sampled users have, and says what is not as they set it.
async fn check(visitors: &Visitors, sample: &[(usize, Seeded)]) -> Result<Vec<String>, Error> {
    let mut wrong = Vec::new();
    for (number, seeded) in sample {
        let states = reader::states(visitors.server, seeded).await?;
        let (chapter, page) = place(*number);
        let there = states.get(&visitors.series[0]).map(|entry| (entry.key.chapter, entry.page, entry.deleted));
        if states.len() != 1 || there != Some((chapter, Some(page), false)) {
            wrong.push(format!("user {number} set {chapter}, page {}, and has {states:?}", page.0));
        }
    }
    Ok(wrong)
}

/// Every so many of many.
fn thinned(readings: Vec<Reading>) -> Vec<Reading> {
    let (every, last) = (readings.len().div_ceil(READINGS).max(1), readings.last().copied());
    let mut kept: Vec<Reading> = readings.into_iter().step_by(every).collect();
    kept.extend(last);
    kept
}
