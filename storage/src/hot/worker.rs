//! The cache's thread: takes what the journal has made durable, writes it in pipelines, one after the other, and answers
//! questions for users beside them. It never makes anybody wait: everything that arrives has found room in a bounded queue.
//!
//! Trust. A copy is used only when this node has filled it during the current *epoch* of its writing. Whatever may have been
//! lost on the way to Redis (a write without an answer, a refused row, an overrun) or in it (a new connection: who knows what it
//! came back with) ends the epoch, and with it the trust in every copy; a row that found no room makes its user's copy be
//! deleted. So a copy that is used lacks nothing that this node
//! has ever acknowledged, except what still waits here, which is merged into the answer.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_channel::oneshot;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hub::load::StoredUser;
use hub::record::Record;
use proto::{NodeId, UserId, Version};
use tokio::sync::mpsc::Receiver;

use super::layout::Mark;
use super::pending::{Added, Changes, Pending, Writes};
use super::redis::{Redis, Vouching};
use super::{Handle, HotConfig, Message};
use crate::journal::Committed;
use crate::record;
use crate::redis::{Circuit, Failure, Local, Reconnects, count, next};
use crate::trace;

/// Rows of one pipeline.
const WRITE_ROWS_MAX: usize = 1_000;

/// Questions for users under way at once.
const LOADS_MAX: usize = 512;

/// How often Redis is asked something whether or not there is anything to ask: that it is gone must be seen on a quiet server too.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Messages taken at once.
const MESSAGES_MAX: usize = 256;

/// A question that was answered, or not.
struct Loaded {
    user: UserId,
    reply: oneshot::Sender<Option<StoredUser>>,
    /// What waited to be written when it was asked.
    newer: [Option<Changes>; 2],
    answer: Result<Option<(StoredUser, Option<Mark>)>, Failure>,
}

pub(super) struct Worker {
    redis: Redis,
    inbox: Receiver<Message>,
    handle: Arc<Handle>,
    config: HotConfig,
    node: NodeId,
    pending: Pending,
    circuit: Circuit,
    epoch: u64,
    overruns: u64,
    reconnects: Reconnects,
    /// What is being written, kept until it has been.
    sent: Arc<Writes>,
    /// Updates that are followed: those that wait, and those that are being written.
    followed: Vec<(UserId, Version)>,
    sent_followed: Vec<(UserId, Version)>,
    writing: Option<Local<Result<(), Failure>>>,
    probing: Option<Local<Result<(), Failure>>>,
    look_at: tokio::time::Instant,
    loading: FuturesUnordered<Local<Loaded>>,
    stop_at: Option<tokio::time::Instant>,
}

impl Worker {
    pub(super) fn new(
        redis: Redis,
        inbox: Receiver<Message>,
        handle: Arc<Handle>,
        config: HotConfig,
        node: NodeId,
    ) -> Self {
        Self {
            node,
            reconnects: redis.reconnects(),
            circuit: redis.circuit(),
            redis,
            inbox,
            pending: Pending::new(config.queue_rows_max),
            epoch: random(),
            overruns: 0,
            sent: Arc::default(),
            followed: Vec::new(),
            sent_followed: Vec::new(),
            writing: None,
            probing: None,
            look_at: tokio::time::Instant::now(),
            loading: FuturesUnordered::new(),
            stop_at: None,
            handle,
            config,
        }
    }

    /// Runs until it is told to stop and what waited is written, or its time is up.
    pub(super) async fn run(mut self) {
        let mut messages = Vec::with_capacity(MESSAGES_MAX);
        loop {
            self.begin_write();
            self.publish();
            let stopping = self.stop_at.is_some();
            if stopping && self.writing.is_none() && (self.pending.is_empty() || !self.circuit.breaker.is_closed()) {
                break;
            }
            tokio::select! {
                taken = self.inbox.recv_many(&mut messages, MESSAGES_MAX), if !stopping => {
                    if taken == 0 {
                        break;
                    }
                    messages.drain(..).for_each(|message| self.take(message));
                }
                written = next(&mut self.writing) => self.written(written),
                probed = next(&mut self.probing) => self.probed(probed),
                Some(loaded) = self.loading.next(), if !self.loading.is_empty() => self.loaded(loaded),
                () = self.circuit.probe_is_due() => self.probe(),
                () = tokio::time::sleep_until(self.look_at),
                    if self.circuit.breaker.is_closed() && self.probing.is_none() => self.look(),
                () = tokio::time::sleep_until(self.stop_at.unwrap_or_else(tokio::time::Instant::now)),
                    if stopping => break,
            }
        }
        self.redis.close().await;
    }

    fn publish(&self) {
        let counts = &self.handle.stats.counts;
        counts.queue_rows.store(self.pending.rows() as u64, Relaxed);
        counts.writing_rows.store(self.sent.rows as u64, Relaxed);
        self.handle.stats.standing.set_breaker(self.circuit.breaker.state());
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Committed(committed) => self.committed(&committed),
            Message::Load { user, reply } => self.load(user, reply),
            Message::Fill(user) => {
                if self.pending.add_complete(&user) == Added::Dropped {
                    count(&self.handle.stats.counts.dropped_queue);
                }
            }
            Message::Newer(rows) => {
                let added = self.pending.add_rows(&rows);
                self.note(added);
            }
            Message::Stop { patience } => self.stop_at = Some(tokio::time::Instant::now() + patience),
        }
    }

    fn committed(&mut self, committed: &Committed) {
        self.handle.inbox_bytes.fetch_sub(committed.bytes(), Relaxed);
        for raw in committed.records() {
            match record::decode(&raw) {
                Ok(record) => {
                    self.follow(&record);
                    let added = self.pending.add(&record);
                    self.note(added);
                }
                // The store writer parks it and says so.
                Err(_) => self.end_epoch(),
            }
        }
    }

    fn follow(&mut self, record: &Record) {
        if trace::follows(record.version()) && self.followed.len() < trace::FOLLOWED_MAX {
            self.followed.push((record.user(), record.version()));
        }
    }

    fn note(&mut self, added: Added) {
        if added != Added::Waits {
            count(&self.handle.stats.counts.dropped_queue);
        }
        if added == Added::Lost {
            self.end_epoch();
        }
    }

    /// Whatever this node has vouched for is trusted no more.
    fn end_epoch(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        count(&self.handle.stats.counts.epochs);
    }

    /// An overrun or a new connection is noticed at the latest when somebody is about to trust a copy or to vouch for one. A
    /// Redis that was started again has the copies of its last snapshot, with marks of this epoch and without the changes since.
    fn look_for_losses(&mut self) {
        if self.reconnects.came() {
            self.end_epoch();
        }
        let overruns = self.handle.overruns.load(std::sync::atomic::Ordering::Acquire);
        if overruns != self.overruns {
            self.overruns = overruns;
            self.end_epoch();
        }
    }

    fn load(&mut self, user: UserId, reply: oneshot::Sender<Option<StoredUser>>) {
        let counts = &self.handle.stats.counts;
        let newer = [self.sent.find(user).cloned(), self.pending.find(user).cloned()];
        let refusal = if !self.circuit.breaker.is_closed() {
            Some(&counts.misses_breaker)
        } else if self.loading.len() >= LOADS_MAX {
            Some(&counts.misses_busy)
        } else if newer.iter().flatten().any(|changes| changes.forget) {
            Some(&counts.misses_untrusted)
        } else {
            None
        };
        if let Some(counter) = refusal {
            count(counter);
            let _ = reply.send(None);
            return;
        }
        let (redis, node) = (self.redis.clone(), self.node);
        self.loading.push(Box::pin(async move {
            let answer = redis.load(user, node).await;
            Loaded { user, reply, newer, answer }
        }));
    }

    fn loaded(&mut self, loaded: Loaded) {
        self.look_for_losses();
        let Loaded { user, reply, newer, answer } = loaded;
        let counts = &self.handle.stats.counts;
        let answer = match answer {
            Ok(None) => {
                count(&counts.misses);
                self.circuit.breaker.succeeded();
                None
            }
            Ok(Some((mut stored, mark))) => {
                self.circuit.breaker.succeeded();
                if mark.is_some_and(|mark| self.is_trusted(mark)) {
                    count(&counts.hits);
                    self.pending.touch(user, stored.progress.iter().map(|(manga, _)| *manga).collect());
                    newer.iter().flatten().for_each(|changes| changes.merge_into(&mut stored));
                    Some(stored)
                } else {
                    count(&counts.misses_untrusted);
                    None
                }
            }
            Err(failure) => {
                count(&counts.misses_failed);
                self.failed(&failure);
                None
            }
        };
        // Whoever asked may have gone.
        let _ = reply.send(answer);
    }

    /// Vouched for in this epoch, and not so long ago that another node's losses would matter.
    fn is_trusted(&self, mark: Mark) -> bool {
        let age_s = unix_s().saturating_sub(mark.filled_unix_s);
        mark.epoch == self.epoch && age_s < self.config.ttl.as_secs().max(1)
    }

    fn begin_write(&mut self) {
        if self.writing.is_some() || !self.circuit.breaker.is_closed() || self.pending.is_empty() {
            return;
        }
        self.look_for_losses();
        let writes = Arc::new(self.pending.take(WRITE_ROWS_MAX));
        self.sent = Arc::clone(&writes);
        // All that waited of a user goes at once.
        let is_sent = |(user, _): &mut (UserId, Version)| writes.find(*user).is_some();
        self.sent_followed = self.followed.extract_if(.., is_sent).collect();
        let redis = self.redis.clone();
        let mark = Mark { epoch: self.epoch, filled_unix_s: unix_s() };
        let vouching = Vouching { node: self.node, mark };
        self.writing = Some(Box::pin(async move { redis.write(&writes, vouching).await }));
    }

    fn written(&mut self, written: Result<(), Failure>) {
        let sent = std::mem::take(&mut self.sent);
        let followed = std::mem::take(&mut self.sent_followed);
        let counts = &self.handle.stats.counts;
        match written {
            Ok(()) => {
                for (_, version) in followed {
                    tracing::info!(target: trace::TARGET, version = version.0, stage = "cached", rows = sent.rows);
                }
                self.circuit.breaker.succeeded();
                count(&counts.writes);
                counts.rows.fetch_add(sent.rows as u64, Relaxed);
                let fills = sent.users.iter().filter(|(_, changes)| changes.complete).count();
                counts.fills.fetch_add(fills as u64, Relaxed);
            }
            Err(Failure::Refused { text, commands }) => {
                tracing::warn!(error = text, commands, "Redis refused rows; they are dropped");
                counts.dropped_refused.fetch_add(commands as u64, Relaxed);
                self.handle.stats.standing.failed(&text);
                self.circuit.breaker.succeeded();
                self.end_epoch();
            }
            Err(failure) => {
                count(&counts.write_failures);
                self.followed.extend(followed);
                self.end_epoch();
                let added = self.pending.put_back(Arc::unwrap_or_clone(sent));
                self.note(added);
                match failure {
                    // It has been restarted: the probe brings the scripts.
                    Failure::NoScript => self.probe(),
                    failure => self.failed(&failure),
                }
            }
        }
    }

    fn failed(&mut self, failure: &Failure) {
        let stats = &self.handle.stats;
        // It was answered.
        if matches!(failure, Failure::Odd) {
            return stats.standing.failed(failure.text());
        }
        if self.circuit.failed(failure, &stats.standing) {
            count(&stats.counts.opened);
        }
    }

    fn probe(&mut self) {
        self.circuit.breaker.probing();
        let redis = self.redis.clone();
        self.probing = Some(Box::pin(async move { redis.probe().await }));
    }

    fn look(&mut self) {
        self.look_at = tokio::time::Instant::now() + LOOK_EVERY;
        let redis = self.redis.clone();
        self.probing = Some(Box::pin(async move { redis.probe().await }));
    }

    fn probed(&mut self, probed: Result<(), Failure>) {
        match probed {
            Ok(()) if self.circuit.breaker.is_closed() => self.circuit.breaker.succeeded(),
            Ok(()) => {
                self.circuit.breaker.close();
                tracing::info!("Redis answers; the hot cache is used");
            }
            Err(failure) => self.failed(&failure),
        }
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// An epoch that no earlier run has had.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(Duration::from_secs(unix_s()))
}
