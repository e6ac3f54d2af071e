//! The simulated world: a server's parts on one thread, its disk and store, and the people. One step is one thing that
//! happens, whichever the seed draws; after each the shadow is told what the shards did. A crash drops the server where it
//! stands and boots another one, perhaps with another number of shards, on what the disk and the store have.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_executor::block_on;
use hub::{Hlc, Role, SeriesFacts};
use proto::{DeviceId, MangaId, NodeId, SeriesStatus, UserId, Version};
use ring::hmac;
use runtime::ShardContext;
use storage::journal::by_hand::{JournalByHand, StartedByHand};
use storage::journal::{self, Cursors, JournalConfig, Listener, Lsn};
use storage::store::seam::Seamed;
use storage::store::{NewUser, SeedUser, SharedStore, SqliteConfig, SqliteStore};
use storage::writer::WriterConfig;
use storage::writer::by_hand::WriterByHand;

use super::clients::{Client, SERIES};
use super::disk::Disk;
use super::executor::{self, Executor, Random};
use super::hook;
use super::people::Call;
use super::shadow::Shadow;
use super::store::SimStore;
use super::wire;
use crate::accounts::Accounts;
use crate::catalogue::{Catalogue, Series};
use crate::compute::Compute;
use crate::config::EngineConfig;
use crate::driver::Sabotage;
use crate::fanout::{Encoders, WireForm};
use crate::limits::{Rate, SharedBuckets};
use crate::revocations::{Known, Revocations};
use crate::shard::{Loops, Shard, Wakes};
use crate::shared::Shared;
use crate::tokens::Tokens;
use crate::{Engine, recovery};

const START_MS: u64 = 1_800_000_000_000;
const NODE: NodeId = NodeId(7);
const FOLDER_ID: u64 = 0xF0_1D;
pub(crate) const SHARDS_MAX: usize = 4;

/// A violation: what was wrong, in words.
pub(crate) type Verdict = Result<(), String>;

/// A running server. Dropped as a whole.
pub(crate) struct Server {
    pub(crate) engines: Vec<Engine>,
    pub(crate) journal: JournalByHand,
    pub(crate) writer: WriterByHand,
    pub(crate) cursors: Cursors,
    _loops: Vec<Loops>,
}

/// How often what happened.
pub(crate) type Tally = BTreeMap<String, u64>;

/// How a seed's people and machines behave: no two seeds alike, so that together they meet every limit.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// Updates at once, at most.
    pub(crate) burst_max: usize,
    /// People connect once in so many chances, and are cut off once in so many.
    pub(crate) connects_one_in: usize,
    pub(crate) cut_one_in: usize,
    /// Steps between two rests.
    pub(crate) rest_every: u64,
    /// Steps that a stall lasts, at most.
    pub(crate) stall_max: u64,
    pub(crate) journal_bytes_max: u64,
}

impl Manner {
    fn new(random: &mut Random) -> Self {
        Self {
            burst_max: random.pick(&[1, 4, 60]),
            connects_one_in: random.pick(&[1, 1, 10]),
            cut_one_in: random.pick(&[2, 8]),
            rest_every: random.pick(&[3_000, 5_000, 24_000]),
            stall_max: random.pick(&[100, 2_000, 20_000]),
            journal_bytes_max: random.pick(&[4 << 20, 1 << 30]),
        }
    }
}

/// Everything.
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) executor: Rc<Executor>,
    pub(crate) trace: u64,
    pub(crate) shadow: Shadow,
    pub(crate) clients: Vec<Client>,
    pub(crate) calls: Vec<Call>,
    pub(crate) store: Arc<SimStore>,
    pub(crate) server: Option<Server>,
    pub(crate) crashes: u64,
    pub(crate) heard: u64,
    /// How often what happened.
    pub(crate) tally: Tally,
    /// Steps for which the disk, the writer and the store's readers stand still.
    pub(crate) stalled: [u64; 3],
    pub(crate) manner: Manner,
    disk: Disk,
    pub(crate) shared_store: SharedStore,
    compute: Compute,
    config: EngineConfig,
    boots: u64,
    folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let mut random = Random::new(seed);
        let executor = Executor::new(START_MS);
        executor::install(Some(Rc::clone(&executor)), sabotage);
        hook::take();
        let memory = std::path::Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a folder for the simulation");
        let real = SqliteStore::open(&SqliteConfig::new(folder.path().join("store.sqlite")), START_MS);
        let real: SharedStore = Arc::new(real.expect("a fresh store opens"));
        let refuses_one_in = random.pick(&[0, 0, 200, 20]);
        let store = Arc::new(SimStore::new(random.next(), refuses_one_in));
        let config = config(folder.path(), &mut random);
        let manner = Manner::new(&mut random);
        let users: Vec<UserId> =
            (0..random.pick(&[2, 6, 24])).map(|_| UserId::from_bytes(bytes(&mut random))).collect();
        block_on(real.seed_users(users.iter().zip(0..).map(|(user, at)| account(*user, at)).collect()))
            .expect("users are made");
        let mut clients = Vec::new();
        for user in &users {
            for at in 0..1 + random.below(3) {
                let device = (at > 0 || !random.one_in(4)).then(|| DeviceId::from_bytes(bytes(&mut random)));
                clients.push(Client::new(*user, device));
            }
        }
        let mut shadow = Shadow::default();
        (shadow.rules.facts, shadow.rules.strict_total, shadow.rules.node) = (facts(), config.strict_total, NODE);
        shadow.users = users.iter().map(|user| (*user, Default::default())).collect();
        let mut world = Self {
            random,
            executor,
            trace: 0xCBF2_9CE4_8422_2325,
            shadow,
            clients,
            calls: Vec::new(),
            shared_store: Arc::new(Seamed::new(real, Arc::clone(&store))),
            store,
            server: None,
            crashes: 0,
            heard: 0,
            tally: Tally::new(),
            stalled: [0; 3],
            manner,
            disk: Disk::new(),
            compute: Compute::start(1).expect("the compute thread starts"),
            config,
            boots: 0,
            folder,
        };
        world.boot().expect("a first start");
        world
    }

    /// Puts something into the trace (FNV-1a over 64-bit words).
    pub(crate) fn note(&mut self, word: u64) {
        self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
    }

    pub(crate) fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("the server runs between crashes")
    }

    /// Starts a server on what there is.
    fn boot(&mut self) -> Verdict {
        self.boots += 1;
        let shards = 1 + self.random.below(SHARDS_MAX);
        let mut wanted = JournalConfig::new(self.folder.path().join("journal"), self.shared_store.store_id());
        wanted.segment_bytes = 1 << 20;
        wanted.journal_bytes_max = self.manner.journal_bytes_max;
        wanted.feed_rows_max = self.random.pick(&[4, 100_000]);
        wanted.engine = Arc::new(self.disk.clone());
        wanted.on_failure = Arc::new(|_| {});
        let told = |error: &dyn std::fmt::Display| format!("the start after a crash failed: {error}");
        let opened = journal::open(wanted).map_err(|error| told(&error))?;
        let id = opened.recovery.journal_id();
        let from = block_on(self.shared_store.cursors(id)).map_err(|error| told(&error))?;
        let recovered = recovery::replay(&opened.recovery, &from, NODE, 2).map_err(|error| told(&error))?;
        let wakes: Vec<Wakes> = (0..shards).map(|_| Wakes::default()).collect();
        let listener = |wakes: &Wakes| {
            let watermark = wakes.watermark.clone();
            Box::new(move || watermark.notify()) as Listener
        };
        let started = opened.journal.start_by_hand(from, wakes.iter().map(listener).collect());
        let StartedByHand { journal, shards: journals, feed, cursors } = started.map_err(|error| told(&error))?;
        journal.make_room();
        let batches = WriterConfig { batch_rows_max: self.random.pick(&[8, 2_000]), ..WriterConfig::default() };
        let writer = WriterByHand::new(feed, Arc::clone(&self.shared_store), id, cursors.clone(), batches);
        let shared = self.share(shards, &cursors);
        let (mesh, _) = runtime::mailbox::mesh(shards, shared.config.limits.mailbox_messages);
        let high_water: Version = recovered.high_water;
        let parts = mesh.into_iter().zip(journals).zip(wakes).enumerate();
        let (mut engines, mut loops) = (Vec::new(), Vec::new());
        for (id, ((endpoint, journal), wakes)) in parts {
            let mail = endpoint.attach_with(|flush| {
                self.executor.spawn(flush);
            });
            let context = ShardContext::by_hand(id, shards);
            let shard = Shard::new(context, Arc::clone(&shared), mail, journal, Hlc::new(high_water));
            loops.push(shard.start(&wakes));
            engines.push(Engine { shard });
        }
        let mut users: Vec<_> = recovered.users.into_values().collect();
        users.sort_by_key(|(state, _)| state.user());
        for (state, lsn) in users {
            let owner = shared.owner(state.user());
            engines[owner].shard.core.borrow_mut().users.recover(state, lsn);
        }
        if recovered.replayed > 0 {
            self.count("replayed after a start");
        }
        self.shadow.epoch = shared.epoch;
        self.server = Some(Server { engines, journal, writer, cursors, _loops: loops });
        Ok(())
    }

    fn share(&self, shards: usize, cursors: &Cursors) -> Arc<Shared> {
        let config = self.config.clone();
        let revocations = Arc::new(Revocations::new(Known::default(), &[], START_MS));
        let tokens = Tokens::new(&config.tokens);
        let accounts =
            Accounts::new(Arc::clone(&self.shared_store), tokens, Arc::clone(&revocations), self.compute.clone());
        let encoders = Encoders::new().with(WireForm::Frame, wire::encode);
        let health = crate::Health { ready: true, degraded: false, dependencies: Vec::new() };
        Arc::new(Shared {
            shards,
            node: NODE,
            folder_id: FOLDER_ID,
            epoch: self.boots,
            started: Instant::now(),
            store: Arc::clone(&self.shared_store),
            hot: None,
            wire: None,
            is_awaited: AtomicBool::new(false),
            cursors: cursors.clone(),
            catalogue: Arc::new(ArcSwap::from_pointee(catalogue())),
            revocations,
            accounts,
            encoders,
            api_rates: SharedBuckets::new(Rate::new(1_000, 1_000)),
            conflict_key: hmac::Key::new(hmac::HMAC_SHA256, b"simulated"),
            health: ArcSwap::from_pointee(health),
            shards_done: AtomicUsize::new(0),
            done_wakes: Vec::new(),
            config,
        })
    }

    /// The process dies, perhaps in the middle of a write, and another one starts.
    pub(crate) fn crash(&mut self) -> Verdict {
        self.crashes += 1;
        self.count_server();
        match self.random.below(3) {
            0 => {}
            // Written, and nobody was told.
            1 => self.write(usize::MAX)?,
            // Not even written.
            _ => {
                let blocks = self.random.below(3) as u64;
                self.disk.tear(blocks);
                let torn = self.server().journal.write(usize::MAX);
                self.disk.tear(u64::MAX);
                self.note(torn.unwrap_or(0) as u64);
            }
        }
        let end = self.server().journal.end();
        self.note(end.0);
        self.clients.iter_mut().for_each(Client::lose);
        self.calls.clear();
        self.executor.abort_all();
        self.store.forget_loads();
        self.server = None;
        hook::take();
        self.shadow.crash();
        self.check_beliefs()?;
        let jump_s = self.random.pick(&[0, 1, -1, 3_600, -3_600, 86_400, -86_400]);
        self.executor.step_wall(jump_s * 1_000);
        self.boot()?;
        let again = self.server().journal.end();
        if again != end { Err(format!("the journal ended at {end} and now ends at {again}")) } else { Ok(()) }
    }

    /// Writes a commit and tells the shadow what the disk has.
    pub(crate) fn write(&mut self, hand_overs_max: usize) -> Verdict {
        let Self { server, shadow, .. } = self;
        let Some(server) = server else { return Ok(()) };
        if !server.journal.written().is_empty() {
            return Ok(());
        }
        server.journal.write(hand_overs_max)?;
        let mut last = Lsn::ZERO;
        for raw in server.journal.written() {
            let record = storage::record::decode(&raw).map_err(|error| error.to_string())?;
            shadow.written(&record, raw.lsn)?;
            last = raw.lsn;
        }
        self.note(last.0);
        Ok(())
    }

    /// Something happened that a campaign must have seen.
    pub(crate) fn count(&mut self, what: impl Into<String>) {
        *self.tally.entry(what.into()).or_default() += 1;
    }

    /// What the server counted, before it goes.
    pub(crate) fn count_server(&mut self) {
        let Some(server) = &self.server else { return };
        let figures = server.engines.iter().map(|engine| engine.shard.core.borrow().users.figures());
        let evictions: u64 = figures.map(|figures| figures.evictions).sum();
        *self.tally.entry("evicted".to_owned()).or_default() += evictions;
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.executor.advance(time);
        self.note(time.as_nanos() as u64);
    }

    /// The shadow learns what the shards did in this step.
    pub(crate) fn look(&mut self) -> Verdict {
        for seen in hook::take() {
            if let hook::Seen::Decided { outcome, .. } = &seen {
                self.count(match outcome {
                    hub::Outcome::Applied(_) => "applied".to_owned(),
                    hub::Outcome::Already(_) => "already".to_owned(),
                    hub::Outcome::Conflict(_) => "conflict".to_owned(),
                    hub::Outcome::Rejected(reject) => format!("rejected: {}", reject.code()),
                });
            }
            self.shadow.see(seen)?;
        }
        self.shadow.end_decision()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.clients.iter_mut().for_each(Client::lose);
        self.calls.clear();
        self.executor.abort_all();
        self.store.forget_loads();
        self.server = None;
        executor::install(None, None);
        hook::take();
    }
}

fn bytes(random: &mut Random) -> [u8; 16] {
    let (low, high) = (random.next(), random.next());
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

fn account(id: UserId, at: usize) -> SeedUser {
    let name = format!("reader{at}");
    let email = format!("{name}@example.org");
    let user = NewUser {
        id,
        username: name.clone(),
        username_folded: name,
        email: email.clone(),
        email_folded: email,
        password_hash: String::new(),
        role: Role::User,
        created_at_unix_ms: START_MS,
    };
    SeedUser { user, session: None }
}

/// Limits so small that each of them is met.
fn config(folder: &std::path::Path, random: &mut Random) -> EngineConfig {
    let mut config = EngineConfig::new(folder, [7; 32]);
    config.strict_total = random.one_in(4);
    // The shadow knows an answer for every change, and no clock.
    config.ack_database_max = Duration::MAX;
    let limits = &mut config.limits;
    limits.mailbox_messages = random.pick(&[2, 16, 8_192]);
    limits.out_queue_messages = random.pick(&[2, 8, 256]);
    limits.window_max = random.pick(&[2, 16, 4_096]);
    (limits.frame_rate_per_s, limits.frame_burst) =
        random.pick(&[(50, 10), (1_000_000, 1_000_000), (1_000_000, 1_000_000)]);
    limits.user_bytes_max = random.pick(&[0, 0, 2_000, 256 << 20]);
    limits.dirty_bytes_max = random.pick(&[4_000, 30_000, 128 << 20, 128 << 20]);
    limits.load_waiters_max = random.pick(&[2, 4_096]);
    limits.loads_max = random.pick(&[1, 256]);
    limits.held_answers_max = random.pick(&[2, 65_536]);
    config
}

fn facts() -> BTreeMap<MangaId, SeriesFacts> {
    let kinds = [
        (None, SeriesStatus::Ongoing),
        (Some(20), SeriesStatus::Completed),
        (Some(30), SeriesStatus::Ongoing),
        (Some(10), SeriesStatus::Hiatus),
        (Some(50), SeriesStatus::Cancelled),
        (Some(5), SeriesStatus::Ongoing),
    ];
    (1..=SERIES).map(MangaId).zip(kinds.map(|(total, status)| SeriesFacts { total, status })).collect()
}

fn catalogue() -> Catalogue {
    let row = |(id, facts): (MangaId, SeriesFacts)| Series {
        id,
        slug: format!("series-{id}"),
        title: String::new(),
        author: None,
        description: None,
        genres: Vec::new(),
        status: facts.status,
        total_chapters: facts.total,
        cover_url: None,
        year: None,
        average_rating: 0.0,
        created_at_ms: 0,
        updated_at_ms: 0,
    };
    Catalogue::new(facts().into_iter().map(row).collect())
}
