//! What the server withstands: loads that no client should make, and beside them one ordinary client whose acknowledgements are
//! timed, alone and beside the load in turns, so that a busy machine disturbs both alike. Every load runs on a thread of its own
//! and ends when it is told to; what it was answered is counted by kind.

pub mod flood;
pub mod logins;
pub mod never_reads;
pub mod overload;
pub mod silent;
pub mod trickle;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;
use proto::MangaId;
use serde::Serialize;

use crate::report::Latency;
use crate::tokens::{Seeded, Tokens};
use crate::{http, process};

use self::trickle::Trickle;

/// How often something happened, by what it was.
pub type Counts = BTreeMap<String, u64>;

/// A server to be abused, and who does it. The first user is the ordinary one.
#[derive(Clone, Debug)]
pub struct Target {
    /// TCP sync.
    pub sync: SocketAddr,
    /// HTTP.
    pub http: SocketAddr,
    /// Metrics.
    pub metrics: SocketAddr,
    /// The server's process.
    pub pid: u32,
    /// Users and series.
    pub tokens: Arc<Tokens>,
}

impl Target {
    /// The ordinary client.
    pub fn trickle(&self, rate: f64) -> Trickle {
        Trickle { server: self.sync, user: self.tokens.users[0].clone(), series: self.series(), rate }
    }

    /// Somebody who is not ordinary.
    pub fn other(&self, at: usize) -> Seeded {
        let others = &self.tokens.users[1..];
        others[at % others.len()].clone()
    }

    /// A series.
    pub fn series(&self) -> MangaId {
        self.tokens.series[0]
    }

    /// Resident memory now.
    pub fn rss_bytes(&self) -> io::Result<u64> {
        process::usage(self.pid).map(|usage| usage.rss_bytes)
    }

    /// A metric, added up over the rows that have every one of these labels (`reason="capacity"`).
    pub fn metric(&self, name: &str, labels: &[&str]) -> io::Result<f64> {
        let text = http::get(self.metrics, "/metrics")?;
        let rows = text.lines().filter(|row| labels.iter().all(|label| row.contains(label)));
        Ok(http::metric(&rows.collect::<Vec<_>>().join("\n"), name).unwrap_or(0.0))
    }
}

/// Tells a load to end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether it is time.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts that several threads add to.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<Counts>>);

impl Tally {
    /// Adds.
    pub fn add(&self, what: &str, count: u64) {
        if count == 0 {
            return;
        }
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(what) {
            Some(known) => *known += count,
            None => drop(counts.insert(what.to_owned(), count)),
        }
    }

    /// What was counted so far.
    pub fn read(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A load on a thread of its own.
#[derive(Debug)]
pub struct Load {
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts it: `work` gets what tells it to end, and runs inside a `LocalSet`.
    pub fn start<F, Fut>(work: F) -> io::Result<Self>
    where
        F: FnOnce(Stop) -> Fut + Send + 'static,
        Fut: Future<Output = ()>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = Stop::default();
        let told = stop.clone();
        let thread = std::thread::Builder::new()
            .name("load".into())
            .spawn(move || tokio::task::LocalSet::new().block_on(&runtime, work(told)))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it and waits until it has ended.
    pub fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        self.stop.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A load that panicked counted nothing, which shows.
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.finish();
    }
}

/// How the ordinary client fared beside something.
#[derive(Clone, Debug, Serialize)]
pub struct Beside {
    /// What was beside it.
    pub beside: String,
    /// Its acknowledgements, over all turns.
    pub acks: Latency,
    /// The same, turn by turn.
    pub p99_us_by_turn: Vec<u64>,
    /// Its p99 over that of the turns alone.
    pub p99_to_alone: f64,
    /// What it was refused.
    pub refused: Counts,
    /// What the load did, and was answered.
    pub load: Counts,
}

impl Beside {
    /// Compared with another one.
    pub fn against(self, alone: &Beside) -> Self {
        Self { p99_to_alone: self.acks.p99_us as f64 / alone.acks.p99_us.max(1) as f64, ..self }
    }

    /// A row for a person.
    pub fn row(&self) -> String {
        let Latency { p50_us, p99_us, max_us, samples, .. } = self.acks;
        format!(
            "{:<22} {samples:>7} acks   p50 {p50_us:>6} us   p99 {p99_us:>7} us   max {max_us:>7} us   p99 to alone {:.2}   refused {:?}   load {:?}\n",
            self.beside, self.p99_to_alone, self.refused, self.load
        )
    }
}

/// One thing to be beside.
pub struct Turn<'a> {
    /// Its name.
    pub name: String,
    /// Starts the load of one turn, given the turn's number.
    pub start: Start<'a>,
}

/// What starts a load.
pub type Start<'a> = Box<dyn Fn(usize, &Tally) -> io::Result<Option<Load>> + 'a>;

/// How the turns are taken.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Turns {
    /// How often each one comes.
    pub rounds: usize,
    /// How long each lasts.
    #[serde(skip)]
    pub time: Duration,
    /// Updates per second of the ordinary client.
    pub rate: f64,
}

/// How long a load runs before the ordinary client is timed beside it.
const SETTLE: Duration = Duration::from_millis(500);

/// Times the ordinary client alone and beside each of these, in turns.
pub fn in_turns(target: &Target, turns: Turns, others: Vec<Turn<'_>>) -> io::Result<Vec<Beside>> {
    let alone = Turn { name: "alone".into(), start: Box::new(|_, _| Ok(None)) };
    let all: Vec<Turn<'_>> = std::iter::once(alone).chain(others).collect();
    let mut sums: Vec<Sum> = all.iter().map(|_| Sum::new()).collect();
    for round in 0..turns.rounds {
        for (turn, sum) in all.iter().zip(&mut sums) {
            let load = (turn.start)(round, &sum.tally)?;
            std::thread::sleep(SETTLE);
            let acks = target.trickle(turns.rate).measure(turns.time)?;
            load.into_iter().for_each(Load::end);
            sum.add(&acks)?;
        }
    }
    let alone_us = sums.first().map_or(0, |sum| sum.latency.value_at_quantile(0.99)).max(1);
    all.iter().zip(sums).map(|(turn, sum)| sum.report(turn.name.clone(), alone_us)).collect()
}

/// Times the ordinary client once, beside whatever there is.
pub fn once(target: &Target, turns: Turns, beside: &str) -> io::Result<Beside> {
    let mut sum = Sum::new();
    sum.add(&target.trickle(turns.rate).measure(turns.time)?)?;
    let alone_us = sum.latency.value_at_quantile(0.99).max(1);
    sum.report(beside.to_owned(), alone_us)
}

struct Sum {
    latency: Histogram<u64>,
    by_turn: Vec<u64>,
    refused: Counts,
    tally: Tally,
}

impl Sum {
    fn new() -> Self {
        let latency = histogram();
        Self { latency, by_turn: Vec::new(), refused: Counts::new(), tally: Tally::default() }
    }

    fn add(&mut self, acks: &trickle::Acks) -> io::Result<()> {
        self.by_turn.push(acks.latency.value_at_quantile(0.99));
        self.latency.add(&acks.latency).map_err(io::Error::other)?;
        for (what, count) in &acks.refused {
            *self.refused.entry(what.clone()).or_default() += count;
        }
        Ok(())
    }

    fn report(self, beside: String, alone_us: u64) -> io::Result<Beside> {
        let named = |error| io::Error::other(format!("beside {beside}: {error}; refused: {:?}", self.refused));
        let acks = Latency::of(&self.latency).map_err(named)?;
        Ok(Beside {
            p99_to_alone: acks.p99_us as f64 / alone_us as f64,
            acks,
            p99_us_by_turn: self.by_turn,
            refused: self.refused,
            load: self.tally.read(),
            beside,
        })
    }
}

/// Microseconds, up to ten minutes.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are constant")
}
