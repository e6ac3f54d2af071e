//! The hot cache: Redis between a shard's memory and the store. It is derived and disposable: written only after the journal
//! has made a change durable, guarded by the merge order, so losing it costs time and never data. Whoever asks gets a whole
//! user that lacks nothing this node has acknowledged, or `None` at once or after a short time-out, and goes to the store.
//! See docs/decisions/006-redis.md.

mod layout;
mod pending;
mod redis;
mod stats;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_channel::oneshot;
use hub::load::StoredUser;
use proto::{NodeId, UserId};
use tokio::sync::mpsc;

pub use crate::redis::{BreakerState, RedisError};
pub use stats::{HotCounts, HotReading, HotState};

use crate::journal::Committed;
use crate::redis::count;
use stats::Stats;

/// Messages on their way to the cache's thread.
const INBOX_MESSAGES: usize = 8_192;

/// Bytes of records on their way to the cache's thread.
const INBOX_BYTES_MAX: usize = 16 << 20;

/// Where Redis is and how much may wait for it.
#[derive(Clone)]
pub struct HotConfig {
    /// `redis://`, `rediss://` (TLS), `redis-sentinel://`, `redis+unix://`.
    pub url: String,
    /// A PEM file of the only certificate authorities to trust; the system's when absent.
    pub tls_ca: Option<PathBuf>,
    /// How long a key lives that nobody uses.
    pub ttl: Duration,
    /// How long a read may take; a pipeline of writes may take ten times as long.
    pub timeout: Duration,
    /// Rows that may wait to be written.
    pub queue_rows_max: usize,
}

impl std::fmt::Debug for HotConfig {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may carry a password.
        out.debug_struct("HotConfig").field("ttl", &self.ttl).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl HotConfig {
    /// The defaults, for a Redis.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            tls_ca: None,
            ttl: Duration::from_secs(3_600),
            timeout: Duration::from_millis(100),
            queue_rows_max: 65_536,
        }
    }
}

/// To the cache's thread.
enum Message {
    /// Durable records, from the journal's thread.
    Committed(Committed),
    /// Everything the store has of a user.
    Fill(Box<StoredUser>),
    /// Rows that the store may lack.
    Newer(Box<StoredUser>),
    /// A question.
    Load { user: UserId, reply: oneshot::Sender<Option<StoredUser>> },
    /// Write what waits and end.
    Stop { patience: Duration },
}

/// What everybody shares with the thread.
#[derive(Debug, Default)]
struct Handle {
    stats: Stats,
    inbox_bytes: AtomicUsize,
    /// Times that durable records did not find their way to the thread.
    overruns: AtomicU64,
    queue_rows_max: usize,
}

/// The way to the hot cache, for shards and for the journal. A cheap clone.
#[derive(Clone)]
pub struct HotCache {
    inbox: mpsc::Sender<Message>,
    handle: Arc<Handle>,
    place: Arc<str>,
}

/// The running thread.
pub struct HotThread {
    cache: HotCache,
    thread: JoinHandle<()>,
}

/// Starts the thread, which connects by itself, now or when Redis comes. `node` is whose marks vouch for copies.
pub fn start(config: HotConfig, node: NodeId) -> Result<(HotCache, HotThread), RedisError> {
    let wanted = crate::redis::configure(&config.url, config.tls_ca.as_deref())?;
    let (inbox, messages) = mpsc::channel(INBOX_MESSAGES);
    let handle = Arc::new(Handle { queue_rows_max: config.queue_rows_max, ..Handle::default() });
    let cache = HotCache { inbox, handle: handle.clone(), place: crate::redis::place(&wanted).into() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("hot-cache".into()).spawn(move || {
        // Acknowledgements must not wait for the cache.
        runtime::priority::yield_to_shards();
        runtime.block_on(async move {
            let redis = redis::Redis::start(wanted, &config);
            worker::Worker::new(redis, messages, handle, config, node).run().await;
        });
    })?;
    Ok((cache.clone(), HotThread { cache, thread }))
}

impl HotCache {
    /// Where Redis is, for people; without a password.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Takes durable records. For the journal's thread: never waits. What finds no room ends the trust in every copy.
    pub fn committed(&self, committed: &Committed) {
        let bytes = committed.bytes();
        let waiting = self.handle.inbox_bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting <= INBOX_BYTES_MAX && self.inbox.try_send(Message::Committed(committed.clone())).is_ok() {
            return;
        }
        self.handle.inbox_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.handle.overruns.fetch_add(1, Ordering::Release);
        count(&self.handle.stats.counts.dropped_inbox);
    }

    /// A user as Redis has them, complete and at least as new as anything this node has acknowledged; `None` when that cannot
    /// be had within the time-out. Preferences, devices and history are not in it: rules need the store.
    pub fn load(&self, user: UserId) -> impl Future<Output = Option<StoredUser>> + use<> {
        let (reply, answer) = oneshot::channel();
        if self.inbox.try_send(Message::Load { user, reply }).is_err() {
            count(&self.handle.stats.counts.misses_busy);
        }
        async { answer.await.ok().flatten() }
    }

    /// Everything of a user that was just loaded from the store: durable, and complete.
    pub fn fill(&self, user: StoredUser) {
        if self.inbox.try_send(Message::Fill(Box::new(user))).is_err() {
            count(&self.handle.stats.counts.dropped_queue);
        }
    }

    /// Rows that recovery found in the journal and Redis may lack.
    pub fn newer(&self, rows: StoredUser) {
        if self.inbox.try_send(Message::Newer(Box::new(rows))).is_err() {
            self.handle.overruns.fetch_add(1, Ordering::Release);
            count(&self.handle.stats.counts.dropped_inbox);
        }
    }

    /// Ends the trust in every copy: changes of other nodes may have missed them.
    pub fn distrust(&self) {
        self.handle.overruns.fetch_add(1, Ordering::Release);
    }

    /// What it is doing; readable from any thread at any time.
    pub fn read(&self) -> HotReading {
        self.handle.stats.read(self.handle.queue_rows_max)
    }
}

impl HotThread {
    /// Ends the thread, after the journal was closed: what waits is written if Redis takes it within `patience`. Blocks.
    pub fn stop(self, patience: Duration) {
        let _ = self.cache.inbox.blocking_send(Message::Stop { patience });
        if self.thread.join().is_err() {
            tracing::error!("the hot cache's thread had a defect; nothing depends on it");
        }
    }
}

impl std::fmt::Debug for HotCache {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("HotCache").field("place", &self.place).finish_non_exhaustive()
    }
}
