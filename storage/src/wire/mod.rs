//! The wire between nodes that share a database: what one node has made durable reaches the others through a capped Redis
//! stream. It is told only after it is on this host's disk, never waited for, and bounded; whoever misses something notices, and
//! loads its users anew once the store has it. So the stream may lose anything at any time: that costs time, never data.
//! See docs/decisions/007-nodes.md.

mod entry;
mod outbox;
mod reader;
mod roll;
mod sender;
mod stats;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::NodeId;
use tokio::sync::mpsc;

pub use crate::redis::{BreakerState, RedisError};
pub use stats::{WireCounts, WireReading, WireState};

use crate::journal::{Committed, Cursors, Lsn, StoreId};
use crate::redis::{self, Connection, count};
use crate::store::Revocation;
use sender::Sender;
use stats::Stats;

/// Messages on their way to the wire's thread.
const INBOX_MESSAGES: usize = 8_192;

/// Bytes of records on their way to the wire's thread.
const INBOX_BYTES_MAX: usize = 16 << 20;

/// Between two words of a node.
const WORD_EVERY: Duration = Duration::from_millis(500);

/// Without its own last word coming back for this long, nothing arrives.
const SILENCE_MAX: Duration = Duration::from_secs(4);

/// Where Redis is and how much may wait for it.
#[derive(Clone)]
pub struct WireConfig {
    /// As for the hot cache.
    pub url: String,
    /// As for the hot cache.
    pub tls_ca: Option<PathBuf>,
    /// How long one append may take.
    pub timeout: Duration,
    /// Bytes that may wait to be appended.
    pub queue_bytes_max: usize,
    /// Entries of up to 16 KiB that the stream keeps, about.
    pub stream_entries: u32,
    /// How long the entry of a node that has died stands in the way of another under its id.
    pub claim: Duration,
}

impl WireConfig {
    /// The defaults, for a Redis.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            tls_ca: None,
            timeout: Duration::from_secs(1),
            queue_bytes_max: 16 << 20,
            stream_entries: 16_384,
            claim: Duration::from_secs(5),
        }
    }
}

impl std::fmt::Debug for WireConfig {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may carry a password.
        out.debug_struct("WireConfig").field("stream_entries", &self.stream_entries).finish_non_exhaustive()
    }
}

/// Who this node is to the others. Words without spaces.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its id in merge keys.
    pub node: NodeId,
    /// Tells its runs apart.
    pub epoch: u64,
    /// Its data folder, so that a copy of it is told from the folder itself.
    pub place: String,
    /// What its secret for tokens looks like, without telling it.
    pub secret_print: String,
    /// Only nodes of one store speak to each other.
    pub store: StoreId,
}

/// Why a node must not run beside the others.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// Another node stands in the way.
    #[error("{0}")]
    Conflict(Conflict),
}

/// What another node is in the way of.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Conflict {
    /// It runs under the same id.
    #[error(
        "another server runs as this node on the same database (in the folder {place}): this data folder is a copy of its \
         own. Give this server a data folder of its own; a node's folder may be moved, not copied"
    )]
    Taken {
        /// Its data folder, as [`Identity::place`] says it.
        place: String,
    },
    /// It signs tokens with another secret.
    #[error(
        "node {node} uses the same database and signs tokens with another secret. Give all nodes the same auth.jwt_secret \
         (JWT_SECRET): a secret that a server made for itself is known to it alone"
    )]
    Secret {
        /// Which.
        node: String,
    },
}

/// A place in what a node has told: which run, and which number in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Origin {
    /// Whose.
    pub node: NodeId,
    /// In which run.
    pub epoch: u64,
    /// Up to where.
    pub seq: u64,
}

/// What came from the other nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Changes that are durable there.
    Records {
        /// Where they were told.
        origin: Origin,
        /// In the order of that node's journal.
        records: Vec<hub::Record>,
    },
    /// The store has everything that was told in this run up to here, and everything of that node's earlier runs.
    Stored(Origin),
    /// Sessions that were ended there.
    Revoked(Vec<Revocation>),
    /// Something was missed, and the store should have it by now: every user is to be loaded anew.
    Reload,
}

/// Takes what comes, on the wire's thread: must not block. What it has no room for it hands back, and is asked again.
pub type Listener = Box<dyn FnMut(Event) -> Result<(), Event> + Send>;

/// What the wire needs once recovery is over.
pub struct Begin {
    /// How far the store has this node's journal.
    pub cursors: Cursors,
    /// Up to where the journal has records of earlier runs that the store lacks.
    pub recovered: Option<Lsn>,
    /// Who takes what comes.
    pub listener: Listener,
}

/// To the wire's thread.
enum Message {
    Begin(Begin),
    Committed(Committed),
    Revoked(Vec<Revocation>),
    Stop { patience: Duration },
}

/// What everybody shares with the thread.
#[derive(Debug, Default)]
struct Handle {
    stats: Stats,
    inbox_bytes: AtomicUsize,
    /// Times that something did not find its way to the thread, or nobody was there to be told.
    left_out: AtomicU64,
    /// Up to where in the journal that was.
    left_out_until: AtomicU64,
}

/// The way to the other nodes, for the journal and for whoever ends sessions. A cheap clone.
#[derive(Clone)]
pub struct Wire {
    inbox: mpsc::Sender<Message>,
    handle: Arc<Handle>,
}

/// The running thread.
/// Dropping it ends the thread soon, without a goodbye.
pub struct WireThread {
    wire: Wire,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread and enters this node among the others; a conflict with one of them is refused here, when Redis can be asked.
/// Blocks for as long as a node under the same id that has died may look alive, a few seconds at most.
pub fn start(config: WireConfig, identity: Identity) -> Result<(Wire, WireThread), WireError> {
    let wanted = redis::configure(&config.url, config.tls_ca.as_deref())?;
    let (inbox, messages) = mpsc::channel(INBOX_MESSAGES);
    let handle = Arc::new(Handle::default());
    let wire = Wire { inbox, handle: Arc::clone(&handle) };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RedisError::from)?;
    let (verdict, judged) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("wire".into()).spawn(move || {
        // Acknowledgements must not wait for the other nodes.
        runtime::priority::yield_to_shards();
        tokio.block_on(async move {
            let mut sender = Sender::new(Connection::start(wanted.clone()), messages, handle, config, identity);
            let conflict = sender.enter().await;
            let is_refused = conflict.is_some();
            let _ = verdict.send(conflict);
            if !is_refused {
                sender.run(wanted).await;
            }
        });
    });
    let thread = thread.map_err(RedisError::from)?;
    match judged.recv() {
        Ok(Some(conflict)) => Err(WireError::Conflict(conflict)),
        Ok(None) | Err(_) => Ok((wire.clone(), WireThread { wire, thread: Some(thread) })),
    }
}

impl Wire {
    /// Takes durable records. For the journal's thread: never waits. What finds no room is missed by the others, and noticed.
    pub fn committed(&self, committed: &Committed) {
        let stats = &self.handle.stats;
        let is_alone = stats.alone.load(Ordering::Relaxed);
        if !is_alone {
            let bytes = committed.bytes();
            let waiting = self.handle.inbox_bytes.fetch_add(bytes, Ordering::Relaxed);
            if waiting <= INBOX_BYTES_MAX && self.inbox.try_send(Message::Committed(committed.clone())).is_ok() {
                return;
            }
            self.handle.inbox_bytes.fetch_sub(bytes, Ordering::Relaxed);
            count(&stats.counts.dropped);
        }
        self.handle.left_out_until.fetch_max(committed.last().0, Ordering::Release);
        self.handle.left_out.fetch_add(1, Ordering::Release);
    }

    /// Tells the others that sessions were ended, which the store knows already. Never waits; what finds no room they find there.
    pub fn revoked(&self, revoked: &[Revocation]) {
        if !revoked.is_empty() && self.inbox.try_send(Message::Revoked(revoked.to_vec())).is_err() {
            count(&self.handle.stats.counts.dropped);
        }
    }

    /// What it is doing; readable from any thread at any time.
    pub fn read(&self) -> WireReading {
        self.handle.stats.read(unix_ms(), SILENCE_MAX.as_millis() as u64)
    }
}

impl WireThread {
    /// Recovery is over: from now on the others are told and heard. Blocks until the thread has room for the message.
    pub fn begin(&self, begin: Begin) {
        let _ = self.wire.inbox.blocking_send(Message::Begin(begin));
    }

    /// Ends the thread, after the journal was closed and the store writer has ended: what waits is told, if Redis takes it within
    /// `patience`, and the others are told that this was all. Blocks.
    pub fn stop(mut self, patience: Duration) {
        let _ = self.wire.inbox.blocking_send(Message::Stop { patience });
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the wire's thread had a defect; the other nodes load what they missed from the store");
        }
    }
}

impl Drop for WireThread {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.wire.inbox.try_send(Message::Stop { patience: Duration::ZERO });
        }
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Wire").finish_non_exhaustive()
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
