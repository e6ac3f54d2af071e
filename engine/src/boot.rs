//! The boot sequence: folder, journal, store, recovery, writer, compute pool, shards, and only then the doors. What it
//! returns is the way to the running server for everybody who is not on a shard: administration and shutdown.

pub(crate) mod absent;
mod logged;

use futures_executor::block_on;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hub::{Hlc, UserState};
use ring::hmac;
use runtime::fleet::{self, FleetConfig};
use runtime::notify::Notify;
use runtime::probe::Probe;
use runtime::topology::Topology;
use runtime::{Fleet, ShardContext};
use rustc_hash::FxHashMap;
use storage::checkpoint::Checkpoint;
use storage::folder::DataFolder;
use storage::hot::{self, HotCache, HotThread};
use storage::journal::{self, Cursors, Lsn, ShardJournal};
use storage::store::postgres::OpenError;
use storage::store::{PostgresStore, SharedStore, SqliteConfig, SqliteStore, StoreError};
use storage::wire::{Wire, WireThread};
use storage::writer::{self, Writer, WriterConfig};

use self::absent::Absent;
use self::logged::{Against, Logged, checkpoint, open_journal};
use crate::Engine;
use crate::accounts::{Accounts, now_ms};
use crate::admin::Admin;
use crate::catalogue::Catalogue;
use crate::compute::Compute;
use crate::config::EngineConfig;
use crate::fanout::Encoders;
use crate::fit;
use crate::limits::{Rate, SharedBuckets};
use crate::nodes;
use crate::recovery::Recovered;
use crate::revocations::{self, Known, Revocations};
use crate::shard::{Shard, Wakes};
use crate::shared::Shared;
use crate::tokens::{SECRET_BYTES_MIN, Tokens};
use crate::upkeep::{Operations, Upkeep};

/// How long the end of a run waits for Redis to take what waits for it.
const REDIS_PATIENCE: Duration = Duration::from_secs(1);

/// How long the end of a run waits for the store in any case.
const STORE_PATIENCE_MIN: Duration = Duration::from_secs(1);

/// A shard's open doors: serves until they are closed (after the drain began and every connection has been told) or the
/// hard stop fires.
pub type Serving = Pin<Box<dyn Future<Output = ()>>>;

/// Opens a shard's doors: called on each shard's thread once its engine works and recovery is over. An error text (a port
/// that is taken) fails the start of the whole server.
pub type Doors = Arc<dyn Fn(Engine, ShardContext) -> Result<Serving, String> + Send + Sync>;

/// What a test puts in the place of the real thing.
#[derive(Clone, Default)]
pub struct Seams {
    /// Under the journal.
    pub journal: Option<Arc<dyn journal::Engine>>,
    /// In front of the store: given the real one.
    pub store: Option<Arc<dyn Fn(SharedStore) -> SharedStore + Send + Sync>>,
}

/// Why the engine does not start. The text says what to do.
#[derive(thiserror::Error, Debug)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// Another process holds the data folder, or it cannot be used.
    #[error("{0}")]
    Folder(String),
    /// The journal cannot be opened or does not fit the store.
    #[error("{0}")]
    Journal(String),
    /// The store cannot be opened.
    #[error("{0}")]
    Store(String),
    /// The store's database does not answer, and this start needs it. It may go another time.
    #[error("{0}")]
    Away(String),
    /// The doors did not open.
    #[error("{0}")]
    Doors(String),
    /// The shards cannot start.
    #[error("{0}")]
    Runtime(String),
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } | StoreError::Busy => Self::Away(error.to_string()),
            _ => Self::Store(error.to_string()),
        }
    }
}

/// What the banner says.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Shards running.
    pub shards: usize,
    /// How their number was decided.
    pub topology: String,
    /// `io_uring` or the fallback.
    pub backend: String,
    /// Why, and what to change, when it is the fallback.
    pub backend_reason: String,
    /// The store, in words.
    pub store: String,
    /// Redis, in words, when there is one.
    pub cache: Option<String>,
    /// The journal: how it writes, in words; loud on a volatile file system.
    pub journal: String,
    /// Where a journal that did not fit was set aside, when the store was adopted.
    pub journal_aside: Option<PathBuf>,
    /// Records replayed at boot.
    pub replayed: u64,
    /// Series in the catalogue.
    pub series: usize,
}

/// A running engine, from outside the shards.
pub struct Running {
    facts: Facts,
    admin: Admin,
    fleet: Fleet,
    upkeep: Upkeep,
    operations: Arc<Operations>,
    writer: Writer,
    hot: Option<HotThread>,
    wire: Option<WireThread>,
    shared: Arc<Shared>,
    draining: AtomicBool,
    // Released last: nobody else may open the folder before everything in it is closed.
    folder: Arc<DataFolder>,
}

impl Running {
    /// What the banner says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Administration.
    pub fn admin(&self) -> Admin {
        self.admin.clone()
    }

    /// Why the server must stop, when it must: its database is not the one any more that it began with.
    pub fn refused(&self) -> Option<String> {
        self.operations.refused()
    }

    /// Begins the drain (as SIGTERM does). `wait` returns when it is over, at the latest when the configured time is up.
    pub fn shut_down(&self) {
        if self.draining.swap(true, Ordering::AcqRel) {
            return;
        }
        let shutdown = self.fleet.shutdown().clone();
        shutdown.drain();
        let patience = self.shared.config.limits.drain;
        let hard_stop = move || {
            std::thread::sleep(patience);
            shutdown.stop();
        };
        if std::thread::Builder::new().name("hard-stop".to_owned()).spawn(hard_stop).is_err() {
            self.fleet.shutdown().stop();
        }
    }

    /// Blocks until the engine has stopped. An error means that it stopped because it could not keep its promise (a failed
    /// journal write, a panic in a shard): the process must exit non-zero.
    pub fn wait(self) -> Result<(), StartError> {
        let began = Instant::now();
        self.fleet.join();
        self.upkeep.stop();
        let healthy = self.operations.close_journal();
        if let Some(hot) = self.hot {
            hot.stop(REDIS_PATIENCE);
        }
        // What the connections left of the time to stop; what the store does not get in it, it gets at the next start. One that is
        // away is not waited for.
        let refused = self.operations.refused();
        let is_down = |part: &crate::Dependency| part.name == "store" && part.state == crate::State::Down;
        let is_away = self.operations.writer().read().failing_since_unix_ms.is_some()
            || self.shared.health.load().dependencies.iter().any(is_down);
        let patience = match (&refused, is_away) {
            (Some(_), _) => Duration::ZERO,
            (None, true) => STORE_PATIENCE_MIN,
            (None, false) => self.shared.config.limits.drain.saturating_sub(began.elapsed()).max(STORE_PATIENCE_MIN),
        };
        if !self.writer.stop(patience) {
            tracing::warn!("the store lacks records; they are in the journal and follow with the next start");
        }
        // The last word says how much the store has.
        if let Some(wire) = self.wire {
            wire.stop(REDIS_PATIENCE);
        }
        self.operations.write_checkpoint(&self.folder, &self.shared);
        if let Err(error) = block_on(self.shared.store.rest()) {
            tracing::warn!(%error, "the store's log could not be folded in; copy it together with the store");
        }
        match refused {
            _ if !healthy => Err(StartError::Journal("a commit of the journal failed".to_owned())),
            Some(reason) => Err(StartError::Store(reason)),
            None => Ok(()),
        }
    }
}

/// Starts everything and returns when every shard is ready and its doors are open. Blocks.
pub fn start(config: EngineConfig, encoders: Encoders, doors: Doors) -> Result<Running, StartError> {
    start_with(config, encoders, doors, Seams::default())
}

/// As [`start`], with seams for tests.
pub fn start_with(config: EngineConfig, encoders: Encoders, doors: Doors, seams: Seams) -> Result<Running, StartError> {
    let mut config = config;
    if !config.tokens.secret.is_empty() && config.tokens.secret.len() < SECRET_BYTES_MIN {
        let length = config.tokens.secret.len();
        let text = format!("the token secret has {length} bytes; it needs at least {SECRET_BYTES_MIN}");
        return Err(StartError::Config(text));
    }
    let topology = runtime::topology::detect(config.shards).map_err(|error| StartError::Config(error.to_string()))?;
    let probe = runtime::probe::probe(config.backend).map_err(|error| StartError::Runtime(error.to_string()))?;
    let folder = DataFolder::open(&config.data_dir).map_err(|error| StartError::Folder(error.to_string()))?;
    let folder = Arc::new(folder);
    if config.tokens.secret.is_empty() {
        config.tokens.secret = folder.secret().map_err(|error| StartError::Folder(error.to_string()))?.into_bytes();
    }
    let checkpoint = checkpoint(&folder);
    let (mut store, absent) = open_store(&config, &folder, checkpoint.as_ref())?;
    if let Some(seam) = &seams.store {
        store = seam(store);
    }
    let shards = topology.shards.len();
    let wakes: Vec<Wakes> = (0..shards).map(|_| Wakes::default()).collect();
    let (wire, wire_thread) = nodes::start(&config, &folder, &store)?.unzip();
    let (hot, hot_thread) = start_hot(&config, &folder)?.unzip();
    let against = Against { store: &store, checkpoint: checkpoint.as_ref(), absent: absent.as_ref() };
    let logged = open_journal(&config, &folder, &against, (hot.as_ref(), wire.as_ref()), &wakes, &seams)?;
    let is_away = absent.is_some();
    let catalogue = match absent {
        Some(absent) => absent.catalogue,
        None => load_catalogue(&config, &store)?,
    };
    let Logged { journal, shard_journals, feed, cursors, journal_id, recovered, words, aside, revoked } = logged;
    let writer = writer::start(feed, Arc::clone(&store), journal_id, cursors.clone(), WriterConfig::default())
        .map_err(|error| StartError::Store(error.to_string()))?;
    let operations = Arc::new(Operations::new(journal, journal_id, writer.stats(), recovered.high_water));
    let facts = Facts {
        shards,
        topology: topology.explanation.clone(),
        backend: probe.backend.name().to_owned(),
        backend_reason: reason_of(&probe),
        store: format!("{} at {}{}", store.kind(), store.place(), if is_away { " (away)" } else { "" }),
        cache: hot.as_ref().map(|hot| format!("Redis {}", hot.place())),
        journal: words,
        journal_aside: aside,
        replayed: recovered.replayed,
        series: catalogue.len(),
    };
    metrics::gauge!("mangahub_recovered_records").set(recovered.replayed as f64);
    let known = revocations((!is_away).then_some(&store), revoked)?;
    let shared = share(config, &folder, store, (hot, wire), cursors, catalogue, known, encoders, &wakes)?;
    shared.is_awaited.store(is_away, Ordering::Release);
    let incoming = wakes.iter().map(|wakes| Arc::clone(&wakes.incoming)).collect();
    let recovered_until = recovered.users.values().map(|(_, lsn)| *lsn).max();
    let fleet = start_shards(topology, probe, &shared, &operations, wakes, shard_journals, recovered, doors);
    // A start that failed leaves nothing running: the folder can be opened again.
    let fleet = fleet.inspect_err(|_| {
        let _ = operations.close_journal();
    })?;
    let upkeep = Upkeep::start(&operations, &shared, &folder).map_err(|error| {
        fleet.shutdown().stop();
        StartError::Runtime(error.to_string())
    })?;
    nodes::begin(wire_thread.as_ref(), &shared, incoming, recovered_until);
    let admin = Admin::new(Arc::clone(&shared), Arc::clone(&operations));
    let (hot, draining) = (hot_thread, AtomicBool::new(false));
    Ok(Running { facts, admin, fleet, upkeep, operations, writer, hot, wire: wire_thread, shared, draining, folder })
}

/// Why the backend is what it is, and what to change when it is the fallback.
fn reason_of(probe: &Probe) -> String {
    match &probe.fix {
        Some(fix) => format!("{}; {fix}", probe.explanation),
        None => probe.explanation.clone(),
    }
}

/// The hot cache, when there is one. A Redis that is away is no reason not to start.
fn start_hot(config: &EngineConfig, folder: &DataFolder) -> Result<Option<(HotCache, HotThread)>, StartError> {
    let start = |wanted: &hot::HotConfig| hot::start(wanted.clone(), folder.node());
    config.hot.as_ref().map(start).transpose().map_err(|error| StartError::Config(error.to_string()))
}

/// The store that the configuration names: a Postgres database, which may be away, or the file in the folder.
fn open_store(
    config: &EngineConfig,
    folder: &DataFolder,
    checkpoint: Option<&Checkpoint>,
) -> Result<(SharedStore, Option<Absent>), StartError> {
    if let Some(database) = &config.database {
        return match PostgresStore::open(database, now_ms()) {
            Ok(store) => Ok((Arc::new(store), None)),
            // Nothing is adopted unseen.
            Err(away @ OpenError::Away(_)) if !config.adopt_store => {
                let absent = Absent::new(database, folder, checkpoint, &away)?;
                Ok((Arc::clone(&absent.store) as SharedStore, Some(absent)))
            }
            Err(away @ OpenError::Away(_)) => Err(StartError::Away(away.to_string())),
            Err(error) => Err(StartError::Store(error.to_string())),
        };
    }
    if !config.adopt_store {
        fit::store_is_there(folder)?;
    }
    let sqlite = SqliteStore::open(&SqliteConfig::new(folder.sqlite()), now_ms())
        .map_err(|error| fit::store_refused(folder, &error))?;
    Ok((Arc::new(sqlite), None))
}

fn load_catalogue(config: &EngineConfig, store: &SharedStore) -> Result<Catalogue, StartError> {
    let mut rows = block_on(store.load_catalogue())?;
    if rows.is_empty() && !config.first_catalogue.is_empty() {
        block_on(store.import(config.first_catalogue.clone(), now_ms()))?;
        rows = block_on(store.load_catalogue())?;
    }
    Ok(Catalogue::new(rows.into_iter().map(crate::catalogue::Series::from).collect()))
}

/// What was revoked before, as the store, unless it is away, and the checkpoint have it.
fn revocations(store: Option<&SharedStore>, known: Known) -> Result<Revocations, StartError> {
    let now_ms = now_ms();
    let stored = store.map(|store| block_on(store.revocations(0, now_ms, revocations::ENTRIES_MAX)));
    let stored = stored.transpose()?.unwrap_or_default();
    Ok(Revocations::new(known, &stored, now_ms))
}

#[allow(clippy::too_many_arguments, reason = "the one place where everything comes together")]
fn share(
    config: EngineConfig,
    folder: &DataFolder,
    store: SharedStore,
    (hot, wire): (Option<HotCache>, Option<Wire>),
    cursors: Cursors,
    catalogue: Catalogue,
    revocations: Revocations,
    encoders: Encoders,
    wakes: &[Wakes],
) -> Result<Arc<Shared>, StartError> {
    let revocations = Arc::new(revocations);
    if let Some(wire) = &wire {
        revocations.share(wire.clone());
    }
    revocations.tell(wakes.iter().map(|wakes| Arc::clone(&wakes.ended)).collect());
    let compute =
        Compute::start(config.limits.hashing_queue).map_err(|error| StartError::Runtime(error.to_string()))?;
    let tokens = Tokens::new(&config.tokens);
    let limits = &config.limits;
    Ok(Arc::new(Shared {
        shards: wakes.len(),
        node: folder.node(),
        folder_id: folder.folder_id(),
        epoch: folder.stream_epoch(),
        started: Instant::now(),
        is_awaited: AtomicBool::new(false),
        cursors,
        catalogue: Arc::new(ArcSwap::from_pointee(catalogue)),
        accounts: Accounts::new(Arc::clone(&store), tokens, Arc::clone(&revocations), compute),
        revocations,
        encoders,
        api_rates: SharedBuckets::new(Rate::new(limits.api_rate_per_s, limits.api_burst)),
        // A label in front keeps these tags apart from token signatures made with the same secret.
        conflict_key: hmac::Key::new(
            hmac::HMAC_SHA256,
            &[b"mangahub conflict tokens\0".as_slice(), &config.tokens.secret].concat(),
        ),
        health: ArcSwap::from_pointee(crate::Health { ready: true, degraded: false, dependencies: Vec::new() }),
        shards_done: AtomicUsize::new(0),
        done_wakes: wakes.iter().map(|wakes| wakes.done.clone()).collect::<Vec<Notify>>(),
        store,
        hot,
        wire,
        config,
    }))
}

/// What a shard's thread is given.
struct ShardParts {
    shared: Arc<Shared>,
    wakes: Wakes,
    mail: runtime::mailbox::Endpoint<crate::message::Request, crate::message::Reply>,
    journal: ShardJournal,
    clock: Hlc,
    recovered: Vec<(UserState, Lsn)>,
    doors: Doors,
    report: mpsc::Sender<Result<(), String>>,
}

#[allow(clippy::too_many_arguments, reason = "what the boot sequence has gathered")]
fn start_shards(
    topology: Topology,
    probe: Probe,
    shared: &Arc<Shared>,
    operations: &Operations,
    wakes: Vec<Wakes>,
    journals: Vec<ShardJournal>,
    recovered: Recovered,
    doors: Doors,
) -> Result<Fleet, StartError> {
    let shards = shared.shards;
    let (mesh, stats) = runtime::mailbox::mesh(shards, shared.config.limits.mailbox_messages);
    operations.watch(stats);
    let high_water = recovered.high_water;
    let mut by_owner: FxHashMap<usize, Vec<(UserState, Lsn)>> = FxHashMap::default();
    for (user, state) in recovered.users {
        if let Some(hot) = &shared.hot {
            hot.newer(state.0.to_rows());
        }
        by_owner.entry(shared.owner(user)).or_default().push(state);
    }
    let (report, reports) = mpsc::channel();
    let mut parts: Vec<Option<ShardParts>> = (wakes.into_iter().zip(mesh).zip(journals).enumerate())
        .map(|(id, ((wakes, mail), journal))| {
            Some(ShardParts {
                shared: Arc::clone(shared),
                wakes,
                mail,
                journal,
                clock: Hlc::new(high_water),
                recovered: by_owner.remove(&id).unwrap_or_default(),
                doors: Arc::clone(&doors),
                report: report.clone(),
            })
        })
        .collect();
    drop(report);
    let fleet = fleet::start(FleetConfig::new(topology, probe), |id| {
        let parts = parts[id].take().expect("each shard is started once");
        move |context| run_shard(context, parts)
    })
    .map_err(|error| StartError::Runtime(error.to_string()))?;
    for _ in 0..shards {
        let refusal = match reports.recv() {
            Ok(Ok(())) => continue,
            Ok(Err(text)) => StartError::Doors(text),
            Err(_) => StartError::Runtime("a shard ended before its doors were open".to_owned()),
        };
        fleet.shutdown().stop();
        fleet.join();
        return Err(refusal);
    }
    Ok(fleet)
}

/// A shard's life.
async fn run_shard(context: ShardContext, parts: ShardParts) {
    let ShardParts { shared, wakes, mail, journal, clock, recovered, doors, report } = parts;
    let shard = Shard::new(context.clone(), shared, mail.attach(), journal, clock);
    for (state, lsn) in recovered {
        shard.core.borrow_mut().users.recover(state, lsn);
    }
    let loops = shard.start(&wakes);
    let serving = match doors(Engine { shard: shard.clone() }, context.clone()) {
        Ok(serving) => serving,
        Err(text) => {
            let _ = report.send(Err(text));
            return;
        }
    };
    let _ = report.send(Ok(()));
    drop(report);
    runtime::spawn_essential("drain", shard.clone().drain());
    serving.await;
    shard.finish(&wakes).await;
    drop(loops);
}
