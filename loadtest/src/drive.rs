//! The sync plane: many connections on one thread, each with its own window, all driven by one plan. Closed loop keeps a window
//! of updates in flight; open loop sends by a schedule and counts latency from the moment an update was due, so that a stalled
//! server cannot hide behind its own slowness.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::shell::Error;
use hdrhistogram::Histogram;
use proto::Chapter;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::connection::{Connection, Queue};
use crate::crowd::{self, Crowd, Pool};
use crate::deliveries::{Audience, Delivery};
use crate::ledger::{Entry, Expectations, Writer};
use crate::person;
use crate::process::{self, Usage};
use crate::stages::{Recorded, Sampling};
use crate::threads;
use crate::tokens::Tokens;
use crate::workload::{Distribution, Picker, Random};

/// What decides when an update is sent.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "mode")]
pub enum Mode {
    /// So many in flight on every writing connection.
    Closed {
        /// Updates without an answer, per connection.
        window: usize,
    },
    /// So many in flight over all connections together, handed to them in bursts.
    Shared {
        /// Updates without an answer.
        in_flight: usize,
        /// How many of them a connection gets at a time.
        burst: usize,
    },
    /// So many per second over all connections.
    Open {
        /// Updates due per second.
        rate: f64,
    },
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Updates, answered when they are durable.
    Update,
    /// Questions where a series stands, for which nothing is written. Their answers count as updates' do.
    State,
}

/// One run of the sync plane.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Plan {
    /// Users that write.
    pub users: usize,
    /// Connections per user, each a device of its own.
    pub devices: usize,
    /// Of them, how many write; they share the user's series among them, so that no update is behind another.
    pub writers: usize,
    /// Series per user.
    pub series: usize,
    /// Connections open at once, at most; users beyond them wait for a place. 0: one for every device of every user.
    pub connections_max: usize,
    /// Of 1,000 connected users, how many have one more device, which only watches.
    pub watched_per_mille: usize,
    /// Connections per second that give their place to a user who is away.
    pub changes_per_s: f64,
    /// When updates are sent.
    #[serde(flatten)]
    pub mode: Mode,
    /// What is sent.
    pub request: Request,
    /// Whether every device's part in the announcements is followed.
    pub deliveries: bool,
    /// Whether the server is sampled, to tell where its CPU time goes.
    pub stages: bool,
    /// How picks are spread over users (open loop) and series.
    pub distribution: Distribution,
    /// The seed of every pick.
    pub seed: u64,
    /// The time over which connections are opened.
    #[serde(skip)]
    pub ramp: Duration,
    /// Load that is not measured.
    #[serde(skip)]
    pub warm_up: Duration,
    /// Load that is.
    #[serde(skip)]
    pub measure: Duration,
}

impl Plan {
    /// Updates without a pause from one device of each user, nothing measured: for a ledger.
    pub fn updates(users: usize, series: usize, window: usize, seed: u64) -> Self {
        Self {
            users,
            devices: 1,
            writers: 1,
            series,
            connections_max: 0,
            watched_per_mille: 0,
            changes_per_s: 0.0,
            mode: Mode::Closed { window },
            request: Request::Update,
            deliveries: false,
            stages: false,
            distribution: Distribution::Uniform,
            seed,
            ramp: Duration::ZERO,
            warm_up: Duration::ZERO,
            measure: Duration::ZERO,
        }
    }
}

/// What all connections of a run share.
pub struct Shared {
    /// When the run began; moments are microseconds since.
    pub origin: Instant,
    /// The plan.
    pub plan: Plan,
    /// Whether updates are sent.
    pub sending: Cell<bool>,
    /// Whether latencies count.
    pub measuring: Cell<bool>,
    /// Updates sent and not answered, over all connections.
    pub in_flight: Cell<u64>,
    /// Acknowledged while measuring.
    pub acknowledged: Cell<u64>,
    /// Announced while measuring.
    pub announced: Cell<u64>,
    /// Who must hear of what, by user, when that is followed.
    pub audiences: RefCell<Vec<Rc<Audience>>>,
    /// Time to each delivery: from when the update was due, and from the first sign that it was durable.
    pub delays: RefCell<[Histogram<u64>; 2]>,
    /// Time to acknowledgement.
    pub latency: RefCell<Histogram<u64>>,
    /// Refusals and failures, by kind.
    pub errors: RefCell<BTreeMap<String, u64>>,
    /// The ledger on disk, when there is one.
    pub ledger: RefCell<Option<Writer>>,
    /// The same in memory, when somebody will compare.
    pub expectations: RefCell<Option<Expectations>>,
    /// How series are picked.
    pub series: Picker,
    /// Who is away, when there are more users than places.
    pub crowd: OnceCell<Crowd>,
    /// What is in flight over all connections together, when that is what is kept up.
    pub pool: OnceCell<Pool>,
    /// Places that changed hands.
    pub changes: Cell<u64>,
}

impl Shared {
    /// Nothing sent, nothing counted.
    pub fn new(plan: Plan, ledger: Option<Writer>, remember: bool) -> Rc<Self> {
        let series = Picker::new(plan.distribution, plan.series.div_ceil(plan.writers.max(1)));
        Rc::new(Self {
            origin: Instant::now(),
            plan,
            sending: Cell::new(false),
            measuring: Cell::new(false),
            in_flight: Cell::new(0),
            acknowledged: Cell::new(0),
            announced: Cell::new(0),
            audiences: RefCell::default(),
            delays: RefCell::new([histogram(), histogram()]),
            latency: RefCell::new(histogram()),
            errors: RefCell::default(),
            ledger: RefCell::new(ledger),
            expectations: RefCell::new(remember.then(Expectations::default)),
            series,
            crowd: OnceCell::new(),
            pool: OnceCell::new(),
            changes: Cell::new(0),
        })
    }

    /// So many updates are no longer in flight.
    pub fn answered(&self, updates: u64) {
        self.in_flight.set(self.in_flight.get() - updates);
        if let Some(pool) = self.pool.get()
            && self.sending.get()
        {
            pool.refill(updates, self.now_us());
        }
    }

    /// Microseconds since the run began.
    pub fn now_us(&self) -> u64 {
        self.origin.elapsed().as_micros() as u64
    }

    /// Counts one refusal or failure.
    pub fn count_error(&self, kind: &str) {
        let mut errors = self.errors.borrow_mut();
        match errors.get_mut(kind) {
            Some(count) => *count += 1,
            None => drop(errors.insert(kind.to_owned(), 1)),
        }
    }

    /// A device heard of an update.
    pub fn delivered(&self, delivery: Delivery) {
        let mut delays = self.delays.borrow_mut();
        delays[0].saturating_record(delivery.since_due_us);
        delays[1].saturating_record(delivery.since_durable_us);
    }

    /// Devices that have not heard of the last state of a series, added up over users and series.
    pub fn missing(&self) -> usize {
        self.audiences.borrow().iter().map(|audience| audience.missing()).sum()
    }

    /// Writes down what the server said.
    pub fn remember(&self, entry: &Entry) {
        if let Some(expectations) = self.expectations.borrow_mut().as_mut() {
            expectations.add(entry);
        }
        let failed = self.ledger.borrow_mut().as_mut().is_some_and(|ledger| ledger.append(entry).is_err());
        if failed {
            self.count_error("ledger_write");
        }
    }
}

/// Microseconds, up to ten minutes.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are constant")
}

/// What a run gave.
pub struct Measured {
    /// What was counted.
    pub shared: Rc<Shared>,
    /// How long was measured.
    pub elapsed: Duration,
    /// The server before and after, when its pid is known.
    pub server: Option<(Usage, Usage)>,
    /// The server's CPU time in that time, by thread.
    pub threads: Option<threads::Groups>,
    /// What was sampled of the server, when that was asked for.
    pub recorded: Option<Recorded>,
    /// CPU time of this process in that time.
    pub client_cpu_us: u64,
}

/// Opens every connection of the plan, over the ramp. All of them, or the first reason why not.
pub async fn connect(server: SocketAddr, tokens: &Tokens, shared: &Rc<Shared>) -> Result<Vec<Connection>, Error> {
    let plan = &shared.plan;
    let places = match plan.connections_max {
        0 => plan.users,
        max => plan.users.min(max / plan.devices.max(1)),
    };
    let mut connections = Vec::with_capacity(places * plan.devices);
    for (at, seeded) in tokens.users.iter().take(places).enumerate() {
        let is_watched = at * plan.watched_per_mille % 1_000 < plan.watched_per_mille;
        let devices = plan.devices + usize::from(is_watched);
        let audience = plan.deliveries.then(|| Rc::new(Audience::new(devices)));
        shared.audiences.borrow_mut().extend(audience.clone());
        for device in 0..devices {
            let id = *person::device(seeded, device).as_bytes();
            let connection = Connection::open(server, seeded, &tokens.series, device, id, shared).await?;
            connections.push(connection.at_place(at).in_audience(audience.as_ref(), device));
        }
        let due = plan.ramp.mul_f64((at + 1) as f64 / places as f64);
        tokio::time::sleep_until((shared.origin + due).into()).await;
    }
    let away: VecDeque<usize> = (places..plan.users.min(tokens.users.len())).collect();
    if !away.is_empty() {
        let crowd = Crowd { server, tokens: Rc::new(tokens.clone()), away: RefCell::new(away) };
        // Empty until here: a run connects once.
        let _ = shared.crowd.set(crowd);
    }
    Ok(connections)
}

/// Runs a plan from its ramp to the last answer. Must be called inside a `LocalSet`.
pub async fn run(
    server: SocketAddr,
    server_pid: Option<u32>,
    tokens: &Tokens,
    shared: Rc<Shared>,
) -> Result<Measured, Error> {
    let connections = connect(server, tokens, &shared).await?;
    let queues: Vec<_> = connections.iter().filter(|connection| connection.writes()).map(Connection::queue).collect();
    shared.sending.set(true);
    let tasks: Vec<_> = connections.into_iter().map(|connection| tokio::task::spawn_local(connection.run())).collect();
    let helpers = begin(&shared, queues);
    tokio::time::sleep(shared.plan.warm_up).await;
    let read_server = || server_pid.map(process::usage).transpose().map_err(Error::Io);
    let read_threads = || server_pid.map(threads::groups).transpose().map_err(Error::Io);
    let (server_before, threads_before) = (read_server()?, read_threads()?);
    let (client_before, began) = (process::own_cpu_us(), Instant::now());
    let sampled = server_pid.filter(|_| shared.plan.stages);
    let sampling = sampled.map(Sampling::start).transpose().map_err(io::Error::other)?;
    shared.measuring.set(true);
    tokio::time::sleep(shared.plan.measure).await;
    shared.measuring.set(false);
    let elapsed = began.elapsed();
    let client_cpu_us = process::own_cpu_us() - client_before;
    let (server_after, threads_after) = (read_server()?, read_threads()?);
    let recorded = sampling.map(Sampling::stop).transpose().map_err(io::Error::other)?;
    shared.sending.set(false);
    helpers.iter().for_each(JoinHandle::abort);
    settle(&shared).await;
    for task in tasks {
        task.abort();
    }
    if let Some(ledger) = shared.ledger.borrow_mut().as_mut() {
        ledger.flush().map_err(Error::Io)?;
    }
    let threads = threads_before.zip(threads_after).map(|(before, after)| threads::between(&before, &after));
    Ok(Measured { server: server_before.zip(server_after), threads, shared, elapsed, recorded, client_cpu_us })
}

/// Starts what keeps the load up beside the connections themselves.
fn begin(shared: &Rc<Shared>, queues: Vec<Rc<Queue>>) -> Vec<JoinHandle<()>> {
    let plan = &shared.plan;
    let mut helpers = Vec::new();
    if plan.changes_per_s > 0.0 && shared.crowd.get().is_some() {
        let changing = crowd::change_places(plan.changes_per_s, queues.clone(), Rc::clone(shared));
        helpers.push(tokio::task::spawn_local(changing));
    }
    match plan.mode {
        Mode::Open { rate } => {
            helpers.push(tokio::task::spawn_local(schedule(rate, queues, Rc::clone(shared))));
        }
        Mode::Shared { in_flight, burst } => {
            let picker = Picker::new(plan.distribution, queues.len());
            let pool = shared.pool.get_or_init(|| Pool::new(queues, picker, plan.seed, burst));
            pool.refill(in_flight as u64, shared.now_us());
        }
        Mode::Closed { .. } => {}
    }
    helpers
}

/// Waits for the answers that are still due and the announcements that were owed, at most 10 s; what is missing then is an
/// error of its own kind.
async fn settle(shared: &Shared) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while shared.in_flight.get() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for _ in 0..shared.in_flight.get() {
        shared.count_error("unanswered");
    }
    while shared.missing() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Gives every update its due moment and hands it to the connection that was picked, a tick's worth at a time.
async fn schedule(rate: f64, queues: Vec<Rc<Queue>>, shared: Rc<Shared>) {
    let picker = Picker::new(shared.plan.distribution, queues.len());
    let mut random = Random::new(shared.plan.seed ^ 0x5eed);
    let began = shared.now_us();
    let mut handed = 0u64;
    let Ok(tick) = Ticker::start() else { return shared.count_error("no_ticker") };
    while shared.sending.get() {
        tick.next.notified().await;
        let now = shared.now_us() - began;
        while let Some(moment) = due_us(handed, rate, now) {
            queues[picker.pick(&mut random)].push(began + moment, 1);
            handed += 1;
        }
    }
}

/// When the update of this number was due, if it is by now; the first one is at once.
fn due_us(number: u64, rate: f64, now_us: u64) -> Option<u64> {
    let due_us = (number as f64 * 1e6 / rate) as u64;
    (due_us <= now_us).then_some(due_us)
}

/// How often an open loop looks what is due. The runtime's own timers are a millisecond coarse, which would be most of what is
/// measured at low rates.
const TICK: Duration = Duration::from_micros(100);

/// A thread that ticks until it is dropped.
struct Ticker {
    next: Arc<Notify>,
}

impl Ticker {
    fn start() -> std::io::Result<Self> {
        let next = Arc::new(Notify::new());
        let tick = Arc::downgrade(&next);
        std::thread::Builder::new().name("ticker".into()).spawn(move || {
            while let Some(next) = tick.upgrade() {
                next.notify_one();
                drop(next);
                std::thread::sleep(TICK);
            }
        })?;
        Ok(Self { next })
    }
}

/// The next chapter to set: a hundredth further, so that every update is a real change and no total is soon reached.
pub fn next_chapter(current: Chapter) -> Option<Chapter> {
    Chapter::from_hundredths(current.hundredths() + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::due_us;

    #[test]
    fn an_open_loop_hands_an_update_over_when_it_is_due_and_not_one_period_later() {
        assert_eq!(due_us(0, 50.0, 0), Some(0));
        assert_eq!((due_us(1, 50.0, 19_999), due_us(1, 50.0, 20_000)), (None, Some(20_000)));
        assert_eq!(due_us(3, 50.0, 75_000), Some(60_000));
    }
}
