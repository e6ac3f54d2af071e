//! Kill -9, over and over: load, SIGKILL at a random moment (some during a polite stop, some behind a pause), restart (some
//! killed again before their doors open, every other one with another number of shards), and compare with everything the
//! server had acknowledged, announced or shown. Updates without an answer are sent again with the
//! device sequences they had, as a real client would. With stores of its own ([`Stores`]) it ends those as well: each alone,
//! while the server goes on, and all together.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use client::shell::Error;
use proto::{Code, DeviceId, MangaId, MergeKey, UserId};
use tokio::task::JoinHandle;

use crate::connection::{Connection, Pending};
use crate::drive::{self, Plan, Shared};
use crate::http;
use crate::ledger::{Entry, Expectations, Source};
use crate::reader;
use crate::server::{Doors, Launch, Server};
use crate::tokens::Tokens;
use crate::verify::{self, Verdict};
use crate::workload::Random;

/// The metric that says how many records the last start found in the journal and not in the store.
const RECOVERED: &str = "mangahub_recovered_records";
/// Cycles that may be wasted (nothing in flight, or nothing undrained) for each one that counts.
const TRIES_PER_CYCLE: u32 = 5;
/// A stop under way is killed within this time of its beginning.
const DRAIN_MAX: Duration = Duration::from_millis(150);
/// How long clients may take to be served again after a pause.
const RESUME_PATIENCE: Duration = Duration::from_secs(30);
/// How long the store may take to have everything once it is there again.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

/// One of the stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// The database.
    Database,
    /// The hot cache, which may have lost everything when it comes back.
    Cache,
}

/// What the server stands on besides its data folder, in the hands of whoever runs a campaign.
pub trait Stores {
    /// Ends one at once, as a crash would.
    fn end(&mut self, which: Which);
    /// Starts it again on what it has.
    fn start(&mut self, which: Which);
    /// The merge keys in the database's table of progress.
    fn rows(&mut self) -> HashMap<(UserId, MangaId), MergeKey>;
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Cycles that count: an update in flight at the kill, and a record that the store did not have yet; when only a store was
    /// killed, that updates were acknowledged without it.
    pub cycles: u32,
    /// Users, each with two writing devices: one pipelines, the other sends one update at a time.
    pub users: usize,
    /// Series per user.
    pub series: usize,
    /// Updates in flight on a pipelining connection.
    pub window: usize,
    /// Load before each kill: a random time up to this.
    pub load_max: Duration,
    /// The numbers of shards to alternate between.
    pub shards: [usize; 2],
    /// How long a paused server (SIGSTOP) stays so.
    pub pause: Duration,
    /// One cycle of so many has a pause.
    pub pause_every: u32,
    /// The seed of every choice.
    pub seed: u64,
}

/// What comes before a kill.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Load.
    UnderLoad,
    /// Load, and a stop (SIGTERM) that is under way.
    DuringDrain,
    /// Load, a pause (SIGSTOP, SIGCONT), and load again on the same connections.
    AfterPause,
    /// Load, the database killed, load that must go on without it, and load with it again on the same connections.
    DatabaseGone,
    /// The same with the hot cache.
    CacheGone,
    /// Load, and everything killed at once.
    AllGone,
}

impl Kind {
    /// A fixed rota: every third cycle kills a drain, and pauses come as often as wanted; with stores each of four things
    /// is killed in turn.
    fn of(cycle: u32, campaign: &Campaign, has_stores: bool) -> Self {
        if has_stores {
            return [Self::UnderLoad, Self::DatabaseGone, Self::CacheGone, Self::AllGone][cycle as usize % 4];
        }
        match cycle {
            cycle if cycle % campaign.pause_every.max(1) == campaign.pause_every / 2 => Self::AfterPause,
            cycle if cycle % 3 == 1 => Self::DuringDrain,
            _ => Self::UnderLoad,
        }
    }
}

/// What came of it.
#[derive(Debug, Default, serde::Serialize)]
pub struct Outcome {
    /// Cycles that counted.
    pub counted: u32,
    /// Cycles in all.
    pub cycles: u32,
    /// Restarts with another number of shards.
    pub reshards: u32,
    /// Cycles by what was killed or came before it.
    pub kinds: BTreeMap<Kind, u32>,
    /// Starts that were killed before their doors opened.
    pub recovery_kills: u32,
    /// Acknowledged, announced and read states that were compared.
    pub entries: u64,
    /// Records that restarts found only in the journal.
    pub recovered: u64,
    /// Updates in flight at the kills.
    pub in_flight: u64,
    /// Updates that were sent again with their old device sequences.
    pub resent: u64,
    /// Refusals and failures by kind (the kills themselves show as `connection_lost`).
    pub errors: BTreeMap<String, u64>,
}

/// Why a campaign failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A server could not be run.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A connection failed where the server was meant to be well.
    #[error("cycle {cycle}: {lost}")]
    Connection {
        /// Which cycle.
        cycle: u32,
        /// Why.
        #[source]
        lost: Error,
    },
    /// The server could not be asked afterwards.
    #[error("cycle {cycle}: {error}")]
    Verify {
        /// Which cycle.
        cycle: u32,
        /// Why.
        #[source]
        error: verify::Error,
    },
    /// Something acknowledged, announced or shown is not there.
    #[error("cycle {cycle}: {} of {} series lost something, first: {:?}", verdict.missing.len(), verdict.series, verdict.missing.first())]
    Lost {
        /// Which cycle.
        cycle: u32,
        /// What.
        verdict: Verdict,
    },
    /// Nobody was served any more.
    #[error("cycle {cycle}: nothing was acknowledged within {RESUME_PATIENCE:?} of {since}")]
    Stuck {
        /// Which cycle.
        cycle: u32,
        /// What had happened.
        since: &'static str,
    },
    /// The store did not take over what the journal has.
    #[error("cycle {cycle}: the database lacks {lag} records {DRAIN_PATIENCE:?} after everything was there again")]
    Undrained {
        /// Which cycle.
        cycle: u32,
        /// How many records.
        lag: u64,
    },
    /// The database's rows are not what the server has.
    #[error("cycle {cycle}: user {user}, series {manga}: the database has {row:?}, the server {shown:?}")]
    Rows {
        /// Which cycle.
        cycle: u32,
        /// Whose.
        user: UserId,
        /// In which series.
        manga: MangaId,
        /// The row's merge key.
        row: Option<MergeKey>,
        /// The one that the server shows.
        shown: Option<MergeKey>,
    },
    /// Too many cycles killed a server that had nothing to lose.
    #[error("only {counted} of {cycles} kills hit an update in flight and an undrained record; load longer or heavier")]
    Idle {
        /// Cycles that counted.
        counted: u32,
        /// Cycles in all.
        cycles: u32,
    },
}

type Unanswered = HashMap<(UserId, DeviceId), Vec<Pending>>;

struct State {
    plan: Plan,
    random: Random,
    expectations: Expectations,
    unanswered: Unanswered,
    outcome: Outcome,
}

impl State {
    fn new(campaign: &Campaign) -> Self {
        let Campaign { users, series, window, seed, .. } = *campaign;
        let plan = Plan { devices: 2, writers: 2, ..Plan::updates(users, series, window, seed) };
        let random = Random::new(seed);
        let (expectations, unanswered, outcome) = (Expectations::default(), HashMap::new(), Outcome::default());
        Self { plan, random, expectations, unanswered, outcome }
    }
}

/// Runs a campaign on a fresh data folder, over stores of its own when there are some; `launch` then names them. Must be called
/// inside a `LocalSet`.
pub async fn run(
    mut launch: Launch,
    campaign: &Campaign,
    mut stores: Option<&mut dyn Stores>,
) -> Result<Outcome, Failure> {
    let mut state = State::new(campaign);
    let mut tokens = None;
    let mut shards = campaign.shards[0];
    let settings = launch.settings.clone();
    let mut at_stake = AtStake::Nothing;
    let mut start_took = Duration::ZERO;
    loop {
        let cycle = state.outcome.cycles;
        launch.settings = settings.clone();
        launch.settings.push(("MANGAHUB_SHARDS".into(), shards.to_string()));
        // Twice in a row now and then: what a recovery leaves must be recoverable too.
        for _ in 0..cycle % 3 {
            let delay = start_took.mul_f64(state.random.unit());
            state.outcome.recovery_kills += u32::from(launch.start_and_kill(delay)?);
        }
        let began = Instant::now();
        let server = launch.start()?;
        start_took = began.elapsed();
        let tokens = match &mut tokens {
            Some(tokens) => tokens,
            none => none.insert(launch.seed(campaign.users, campaign.series)?),
        };
        let recovered = http::metric(&http::get(server.doors.metrics, "/metrics")?, RECOVERED).unwrap_or(0.0) as u64;
        state.outcome.recovered += recovered;
        state.outcome.counted += u32::from(at_stake.counts(recovered));
        compare(&server.doors, tokens, &mut state, cycle).await?;
        if let Some(stores) = stores.as_deref_mut() {
            compare_rows(&server.doors, tokens, stores, cycle).await?;
        }
        if state.outcome.counted >= campaign.cycles {
            server.stop()?;
            return Ok(state.outcome);
        }
        if cycle >= campaign.cycles * TRIES_PER_CYCLE {
            return Err(Failure::Idle { counted: state.outcome.counted, cycles: cycle });
        }
        let kind = Kind::of(cycle, campaign, stores.is_some());
        // Not `as_deref_mut`: that would borrow for as long as the stores live.
        let stores = stores.as_mut().map(|stores| &mut **stores as &mut dyn Stores);
        at_stake = load_and_kill(server, tokens, &mut state, campaign, kind, stores).await?;
        *state.outcome.kinds.entry(kind).or_default() += 1;
        state.outcome.cycles += 1;
        if state.outcome.cycles.is_multiple_of(2) {
            shards = if shards == campaign.shards[0] { campaign.shards[1] } else { campaign.shards[0] };
            state.outcome.reshards += 1;
        }
    }
}

async fn compare(doors: &Doors, tokens: &Tokens, state: &mut State, cycle: u32) -> Result<(), Failure> {
    let verdict = verify::verify(doors.tcp_sync, tokens, &state.expectations).await;
    let verdict = verdict.map_err(|error| Failure::Verify { cycle, error })?;
    state.outcome.entries = verdict.entries;
    if verdict.missing.is_empty() { Ok(()) } else { Err(Failure::Lost { cycle, verdict }) }
}

/// What a cycle put at stake.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AtStake {
    Nothing,
    /// An update was in flight at the kill; whether the store lacked a record is for the next start to say.
    Undrained,
    /// Clients were served while a store was gone.
    Served,
}

impl AtStake {
    /// Whether a cycle was worth something, once the next start has said how many records it recovered.
    fn counts(self, recovered: u64) -> bool {
        match self {
            Self::Nothing => false,
            Self::Undrained => recovered > 0,
            Self::Served => true,
        }
    }
}

/// Waits until the database has everything, and compares its rows with what the server shows, which has just been compared with
/// everything that it ever said.
async fn compare_rows(doors: &Doors, tokens: &Tokens, stores: &mut dyn Stores, cycle: u32) -> Result<(), Failure> {
    let lag = doors.drained(DRAIN_PATIENCE).await?;
    if lag > 0 {
        return Err(Failure::Undrained { cycle, lag });
    }
    let rows = stores.rows();
    for seeded in &tokens.users {
        let user = seeded.user_id;
        let states = reader::states(doors.tcp_sync, seeded).await;
        let states = states.map_err(|lost| Failure::Connection { cycle, lost })?;
        for manga in &tokens.series {
            let shown = states.get(manga).map(|entry| entry.key);
            let row = rows.get(&(user, *manga)).copied();
            if row != shown {
                return Err(Failure::Rows { cycle, user, manga: *manga, row, shown });
            }
        }
    }
    Ok(())
}

/// One round of load on a healthy server, ended by a kill. Answers whether that put something at stake.
async fn load_and_kill(
    server: Server,
    tokens: &Tokens,
    state: &mut State,
    campaign: &Campaign,
    kind: Kind,
    mut stores: Option<&mut dyn Stores>,
) -> Result<AtStake, Failure> {
    let (cycle, doors) = (state.outcome.cycles, server.doors);
    let load = campaign.load_max.mul_f64(0.1 + 0.9 * state.random.unit());
    let shared = Shared::new(state.plan.clone(), None, true);
    *shared.expectations.borrow_mut() = Some(std::mem::take(&mut state.expectations));
    let connections = drive::connect(doors.tcp_sync, tokens, &shared).await;
    let connections = connections.map_err(|lost| Failure::Connection { cycle, lost })?;
    shared.sending.set(true);
    let tasks = begin(connections, state);
    let readers = tokio::task::spawn_local(read_along(doors, tokens.clone(), Rc::clone(&shared), state.random.clone()));
    tokio::time::sleep(load).await;
    let mut at_stake = AtStake::Nothing;
    match (kind, stores.as_deref_mut()) {
        (Kind::DuringDrain, _) => {
            server.signal("TERM")?;
            tokio::time::sleep(DRAIN_MAX.mul_f64(state.random.unit())).await;
        }
        (Kind::AfterPause, _) => {
            pause(&server, &shared, campaign.pause, cycle).await?;
            if tasks.iter().any(JoinHandle::is_finished) {
                return Err(io::Error::other(format!("cycle {cycle}: a pause cost a connection")).into());
            }
            tokio::time::sleep(load).await;
        }
        (Kind::DatabaseGone | Kind::CacheGone, Some(stores)) => {
            let which = if kind == Kind::DatabaseGone { Which::Database } else { Which::Cache };
            stores.end(which);
            served_again(&shared, "the end of a store", cycle).await?;
            tokio::time::sleep(load).await;
            stores.start(which);
            served_again(&shared, "the return of a store", cycle).await?;
            at_stake = AtStake::Served;
        }
        _ => {}
    }
    let in_flight = shared.in_flight.get();
    server.kill()?;
    if let (Kind::AllGone, Some(stores)) = (kind, stores) {
        [Which::Database, Which::Cache].into_iter().for_each(|which| stores.end(which));
        [Which::Database, Which::Cache].into_iter().for_each(|which| stores.start(which));
    }
    shared.sending.set(false);
    end(tasks, state, kind, cycle).await?;
    readers.abort();
    state.outcome.in_flight += in_flight;
    state.expectations = shared.expectations.borrow_mut().take().unwrap_or_default();
    for (kind, count) in shared.errors.borrow().iter() {
        *state.outcome.errors.entry(kind.clone()).or_default() += count;
    }
    if in_flight > 0 && at_stake == AtStake::Nothing {
        at_stake = AtStake::Undrained;
    }
    Ok(at_stake)
}

type Driving = JoinHandle<(Connection, Error)>;

/// Lets every connection send, first what was never answered; every other one sends one update at a time.
fn begin(connections: Vec<Connection>, state: &mut State) -> Vec<Driving> {
    connections
        .into_iter()
        .enumerate()
        .map(|(at, mut connection)| {
            let resend = state.unanswered.remove(&connection.device()).unwrap_or_default();
            state.outcome.resent += resend.len() as u64;
            connection.resend(resend);
            if at % 2 == 1 {
                connection.one_at_a_time();
            }
            tokio::task::spawn_local(connection.run())
        })
        .collect()
}

/// Waits for the ends of connections whose server has been killed.
async fn end(tasks: Vec<Driving>, state: &mut State, kind: Kind, cycle: u32) -> Result<(), Failure> {
    for task in tasks {
        // A task ends by itself once its socket does; it panics only by a defect of the harness.
        let (connection, lost) = task.await.map_err(io::Error::other)?;
        state.unanswered.insert(connection.device(), connection.unanswered());
        // The kill cuts the socket; whatever else ended the connection did so before, as a drain may.
        let expected = match &lost {
            Error::Io(_) | Error::Cut => true,
            Error::Closed { code, .. } => kind == Kind::DuringDrain && *code == Some(Code::ShuttingDown),
            _ => false,
        };
        if !expected {
            return Err(Failure::Connection { cycle, lost });
        }
    }
    Ok(())
}

/// Stops the process for a while; afterwards the same connections must be served again.
async fn pause(server: &Server, shared: &Shared, pause: Duration, cycle: u32) -> Result<(), Failure> {
    server.signal("STOP")?;
    // What was on its way arrives.
    tokio::time::sleep(pause).await;
    server.signal("CONT")?;
    served_again(shared, "the end of a pause", cycle).await
}

/// Waits until the server says something that it had not said yet.
async fn served_again(shared: &Shared, since: &'static str, cycle: u32) -> Result<(), Failure> {
    let said = || shared.expectations.borrow().as_ref().map_or(0, |expectations| expectations.entries);
    let before = said();
    let deadline = Instant::now() + RESUME_PATIENCE;
    while said() == before {
        if Instant::now() > deadline {
            return Err(Failure::Stuck { cycle, since });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Reads users' states while others write, and remembers what was shown.
async fn read_along(doors: Doors, tokens: Tokens, shared: Rc<Shared>, mut random: Random) {
    loop {
        let seeded = &tokens.users[random.below(tokens.users.len() as u64) as usize];
        let Ok(states) = reader::states(doors.tcp_sync, seeded).await else { return };
        for entry in states.values().filter(|entry| !entry.deleted) {
            let (user, manga, key) = (seeded.user_id, entry.manga, entry.key);
            shared.remember(&Entry { user, manga, key, source: Source::Read });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
