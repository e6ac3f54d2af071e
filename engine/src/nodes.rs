//! Other nodes on the same database: what they have changed is merged into users that are in memory and announced to whoever
//! is connected here; what they have ended is closed here. When something was missed, users are let go or loaded anew. State of
//! other nodes always merges, and nobody is loaded for it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_executor::block_on;
use hub::{ProgressView, Record, UserState};
use proto::{NodeId, UserId, Version};
use runtime::notify::Notify;
use rustc_hash::FxHashMap;
use storage::folder::DataFolder;
use storage::hot::HotCache;
use storage::journal::Lsn;
use storage::store::{LoadedUser, SharedStore, StoreError};
use storage::wire::{
    self, Begin, Conflict, Event, Identity, Listener, Origin, Wire, WireConfig, WireReading, WireState, WireThread,
};

use crate::accounts::now_ms;
use crate::boot::StartError;
use crate::config::EngineConfig;
use crate::core::Core;
use crate::driver;
use crate::revocations::{ENTRIES_MAX, Revocations};
use crate::shared::Shared;
use crate::users::Found;
use crate::{Dependency, State};

/// Records that may wait for a shard: more than any entry of the stream has.
const WAITING_MAX: usize = 8_192;

/// Records merged before others have their turn.
const BATCH_MAX: usize = 256;

/// Users of a shard loaded anew at a time.
const REFRESHES_MAX: usize = 32;

/// After the store refused one.
const REFRESH_PAUSE_NS: u64 = 1_000_000_000;

/// How often the store is asked who was signed out elsewhere.
const POLL_EVERY: Duration = Duration::from_secs(5);

/// How far the question reaches back behind the last answer: nodes' clocks differ, and transactions end later than they begin.
const POLL_OVERLAP_MS: u64 = 120_000;

/// What waits for a shard, from the wire's thread.
#[derive(Default)]
pub(crate) struct Incoming {
    waiting: Mutex<Arrived>,
    any: Notify,
}

/// What has come.
#[derive(Default)]
pub(crate) struct Arrived {
    records: VecDeque<(Origin, Record)>,
    stored: FxHashMap<NodeId, Origin>,
    anew: bool,
}

impl Incoming {
    fn add(&self, add: impl FnOnce(&mut Arrived)) {
        add(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.any.notify();
    }

    fn has_room(&self, records: usize) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.records.is_empty() || waiting.records.len() + records <= WAITING_MAX
    }

    /// Waits for something, and takes some of it: records before what depends on them.
    pub(crate) async fn take(&self) -> Arrived {
        self.any.notified().await;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.records.len() <= BATCH_MAX {
            return std::mem::take(&mut *waiting);
        }
        self.any.notify();
        Arrived { records: waiting.records.drain(..BATCH_MAX).collect(), ..Arrived::default() }
    }
}

/// Who takes what comes from the other nodes: hands each record to its user's owner.
fn listener(
    owner: impl Fn(UserId) -> usize + Send + 'static,
    shards: Vec<Arc<Incoming>>,
    revocations: Arc<Revocations>,
    hot: Option<HotCache>,
) -> Listener {
    Box::new(move |event| {
        match event {
            Event::Records { ref records, .. } if !shards.iter().all(|shard| shard.has_room(records.len())) => {
                return Err(event);
            }
            Event::Records { origin, records } => {
                for record in records {
                    shards[owner(record.user())].add(|arrived| arrived.records.push_back((origin, record)));
                }
            }
            Event::Stored(origin) => shards.iter().for_each(|shard| {
                shard.add(|arrived| {
                    arrived.stored.insert(origin.node, origin);
                });
            }),
            Event::Revoked(revoked) => revocations.add_unknown(revoked, now_ms()),
            Event::Reload => {
                hot.iter().for_each(HotCache::distrust);
                shards.iter().for_each(|shard| shard.add(|arrived| arrived.anew = true));
            }
        }
        Ok(())
    })
}

/// Users that are to be loaded anew, although they are in memory.
#[derive(Default)]
pub(crate) struct Refreshes {
    waiting: VecDeque<UserId>,
    under_way: usize,
    not_before_ns: u64,
}

impl Core {
    /// Takes in what came from other nodes.
    pub(crate) fn arrived(&mut self, arrived: Arrived) {
        for (origin, record) in &arrived.records {
            self.merge(*origin, record);
        }
        let mut anew = arrived.anew;
        for stored in arrived.stored.values() {
            anew |= self.users.stored_elsewhere(stored);
        }
        if anew {
            self.load_anew();
        }
    }

    /// One change of another node.
    fn merge(&mut self, origin: Origin, record: &Record) {
        self.counters.merged += 1;
        // One that is too far ahead is merged all the same; the clock does not follow it.
        self.clock.observe(record.version(), self.now.wall_ms);
        let node = self.shared.node;
        self.counters.not_held += u64::from(!self.users.hold(origin, record, node));
        let Found::Resident(slot) = self.users.find(record.user()) else { return };
        let state = &mut self.users.get(slot).state;
        let before = shown(state, record);
        runtime::essential("merge", || state.replay(record));
        let after = shown(state, record);
        self.users.count_bytes(slot);
        if let Some(view) = after.filter(|_| before != after) {
            let version = record.version();
            let (version, device) = match record {
                Record::Progress(record) if record.row.key == view.key => {
                    (version, record.device.map(|stamp| stamp.device))
                }
                // Its progress lost, and the shelf that came along won: no version tells where that belongs.
                Record::Progress(_) => (Version::ZERO, None),
                _ => (version, None),
            };
            self.tell(slot, view, version, None, device);
            self.follow_position(slot);
        }
    }

    /// No user begins below a position that one had: positions are the clock's, and this one may have been counted up.
    fn follow_position(&mut self, slot: u32) {
        let position = Version(self.users.get(slot).position);
        self.clock.observe(position, self.now.wall_ms);
    }

    /// Something was missed: whom nobody needs is let go, everybody else is loaded once more.
    fn load_anew(&mut self) {
        self.refreshes.waiting = self.users.forget_clean().into();
        self.refreshes.not_before_ns = 0;
        self.refresh_more();
    }

    /// Goes on loading users anew, so many at a time.
    pub(crate) fn refresh_more(&mut self) {
        while self.refreshes.under_way < REFRESHES_MAX && self.now.since_start_ns >= self.refreshes.not_before_ns {
            let Some(user) = self.refreshes.waiting.pop_front() else { return };
            match self.users.find(user) {
                Found::Absent => {}
                // What is being loaded may have been read before.
                Found::Loading(_) => return self.refreshes.waiting.push_back(user),
                // From a copy that was asked for before anybody knew that it lacks something.
                Found::Resident(slot) if self.users.get(slot).for_reading => self.users.forget(slot),
                Found::Resident(_) => self.refresh(user),
            }
        }
    }

    /// Whether users wait to be loaded anew.
    pub(crate) fn has_refreshes(&self) -> bool {
        !self.refreshes.waiting.is_empty()
    }

    fn refresh(&mut self, user: UserId) {
        let Some(shard) = self.shard.upgrade() else { return };
        self.refreshes.under_way += 1;
        let question = self.shared.store.load_user(user);
        driver::spawn_essential("user refresh", async move {
            let answer = question.await;
            let mut core = shard.core.borrow_mut();
            core.refreshes.under_way -= 1;
            core.open_turn();
            core.refreshed(user, answer);
            core.refresh_more();
        });
    }

    fn refreshed(&mut self, user: UserId, answer: Result<Option<LoadedUser>, StoreError>) {
        let loaded = match answer {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "a user is loaded anew later");
                self.refreshes.not_before_ns = self.now.since_start_ns + REFRESH_PAUSE_NS;
                return self.refreshes.waiting.push_back(user);
            }
        };
        let Found::Resident(slot) = self.users.find(user) else { return };
        let resident = self.users.get(slot);
        if resident.for_reading {
            return;
        }
        // What this node has and the store lacks stays: rows only merge. A fault was logged.
        let rows = resident.state.to_rows();
        let Ok(state) = self.assemble(loaded, Some(rows)) else { return };
        let known = &self.users.get(slot).state;
        let is_news = |view: &ProgressView| {
            let before = known.state_of(view.manga);
            before != Some(*view) && !(before.is_none() && view.deleted)
        };
        let news: Vec<ProgressView> = state.progress_views().filter(is_news).collect();
        self.users.replace(slot, state);
        self.counters.refreshed += 1;
        for view in news {
            // No version tells where in this node's stream it belongs.
            self.tell(slot, view, Version::ZERO, None, None);
        }
        self.follow_position(slot);
    }
}

/// What others see of the series that a record changes.
fn shown(state: &UserState, record: &Record) -> Option<ProgressView> {
    match record {
        Record::Progress(record) => state.state_of(record.manga),
        Record::Library(record) => state.progress(record.manga),
        Record::Device(_) | Record::Preferences(_) => None,
    }
}

/// Asks the store who was signed out elsewhere: what the wire does not bring, this does within five seconds.
pub(crate) struct Poll {
    at: Instant,
    since_ms: u64,
    failing: bool,
}

impl Poll {
    /// Everything up to now is known from the start.
    pub(crate) fn new() -> Self {
        Self { at: Instant::now(), since_ms: now_ms(), failing: false }
    }

    /// Asks, when it is time.
    pub(crate) fn look(&mut self, shared: &Shared) {
        let now = Instant::now();
        if shared.config.database.is_none() || now < self.at {
            return;
        }
        self.at = now + POLL_EVERY;
        let now_ms = now_ms();
        let since_ms = self.since_ms.saturating_sub(POLL_OVERLAP_MS);
        match block_on(shared.store.revocations(since_ms, now_ms, ENTRIES_MAX)) {
            Ok(revoked) => {
                self.since_ms = now_ms;
                shared.revocations.add_stored(revoked, now_ms);
                if std::mem::take(&mut self.failing) {
                    shared.revocations.check_all();
                }
            }
            Err(_) => self.failing = true,
        }
    }
}

/// The way to the other nodes on the same database. With a database and a Redis there may be some, and who is in conflict with
/// one of them does not start.
pub(crate) fn start(
    config: &EngineConfig,
    folder: &DataFolder,
    store: &SharedStore,
) -> Result<Option<(Wire, WireThread)>, StartError> {
    let (Some(hot), true) = (&config.hot, config.database.is_some()) else { return Ok(None) };
    let wanted = WireConfig { tls_ca: hot.tls_ca.clone(), ..WireConfig::new(&hot.url) };
    let identity = Identity {
        node: folder.node(),
        epoch: folder.stream_epoch(),
        place: folder.place().map_err(|error| StartError::Folder(error.to_string()))?,
        secret_print: secret_print(&config.tokens.secret),
        store: store.store_id(),
    };
    wire::start(wanted, identity).map(Some).map_err(|error| StartError::Config(error.to_string()))
}

/// Recovery is over and the shards run: the others are told and heard.
pub(crate) fn begin(
    wire: Option<&WireThread>,
    shared: &Arc<Shared>,
    shards: Vec<Arc<Incoming>>,
    recovered: Option<Lsn>,
) {
    let Some(wire) = wire else { return };
    let of = Arc::downgrade(shared);
    // Without shards nobody takes anything.
    let owner = move |user| of.upgrade().map_or(0, |shared| shared.owner(user));
    let listener = listener(owner, shards, Arc::clone(&shared.revocations), shared.hot.clone());
    wire.begin(Begin { cursors: shared.cursors.clone(), recovered, listener });
}

/// Whether this node must not be used: another one runs under its id.
pub(crate) fn is_copy(reading: &WireReading) -> bool {
    matches!(&reading.state, WireState::Conflict(Conflict::Taken { .. }))
}

/// How things stand with the other nodes.
pub(crate) fn dependency(reading: &WireReading) -> Dependency {
    let (state, detail) = match &reading.state {
        WireState::Healthy => (State::Healthy, None),
        WireState::Down => (State::Down, Some("other nodes are not told of changes, and not heard".to_owned())),
        WireState::Conflict(conflict) => (State::Degraded, Some(conflict.to_string())),
    };
    Dependency { name: "nodes", state, detail }
}

/// Tells the metrics page.
pub(crate) fn publish(reading: &WireReading) {
    let counts = &reading.counts;
    metrics::gauge!("mangahub_nodes_alive").set((counts.others + 1) as f64);
    metrics::gauge!("mangahub_wire_gap_open").set(counts.gap_open as f64);
    metrics::gauge!("mangahub_wire_lag_seconds").set(counts.lag_ms as f64 / 1e3);
    metrics::gauge!("mangahub_wire_queue_bytes").set(counts.queue_bytes as f64);
    metrics::gauge!("mangahub_wire_breaker").set(f64::from(reading.breaker as u8));
    let totals = [
        ("mangahub_wire_entries_sent_total", counts.sent),
        ("mangahub_wire_entries_received_total", counts.received),
        ("mangahub_wire_records_received_total", counts.received_records),
        ("mangahub_wire_records_ahead_total", counts.ahead),
        ("mangahub_wire_unreadable_total", counts.unreadable),
        ("mangahub_wire_dropped_total", counts.dropped),
        ("mangahub_wire_send_failures_total", counts.send_failures),
        ("mangahub_wire_gaps_total", counts.gaps),
        ("mangahub_wire_reloads_total", counts.reloads),
        ("mangahub_wire_nodes_silent_total", counts.silent),
        ("mangahub_wire_held_up_total", counts.held_up),
        ("mangahub_wire_breaker_opened_total", counts.opened),
    ];
    for (name, total) in totals {
        metrics::counter!(name).absolute(total);
    }
}

/// What a secret looks like to the other nodes, without telling it.
fn secret_print(secret: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let tag = ring::hmac::sign(&key, b"mangahub: one secret for all nodes");
    tag.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use hub::record::PreferencesRecord;
    use hub::{Preferences, Strategy};

    use super::*;
    use crate::revocations::Known;

    fn records(count: usize) -> Vec<Record> {
        let row = Preferences { strategy: Strategy::Latest, ..Preferences::default() };
        (0..count).map(|_| Record::Preferences(PreferencesRecord { user: UserId::new_v7(), row })).collect()
    }

    #[test]
    fn what_finds_no_room_is_handed_back_whole_and_a_shard_takes_a_little_at_a_time() {
        let shards: Vec<Arc<Incoming>> = (0..2).map(|_| Arc::default()).collect();
        let revocations = Arc::new(Revocations::new(Known::default(), &[], 0));
        // Everybody is the second shard's.
        let mut listener = listener(|_| 1, shards.clone(), revocations, None);
        let origin = Origin { node: NodeId(2), epoch: 1, seq: 1 };
        let mut taken = 0;
        let back = loop {
            match listener(Event::Records { origin, records: records(400) }) {
                Ok(()) => taken += 400,
                Err(back) => break back,
            }
        };
        assert!(matches!(&back, Event::Records { records, .. } if records.len() == 400));
        assert_eq!(taken, WAITING_MAX / 400 * 400);
        listener(Event::Stored(origin)).unwrap();
        let other = block_on(shards[0].take());
        assert!(other.records.is_empty() && other.stored.contains_key(&origin.node));
        let back = listener(back).unwrap_err();
        // What depends on the records comes after them.
        let (mut heard, mut stored) = (0, false);
        while !stored {
            let arrived = block_on(shards[1].take());
            assert!(arrived.records.len() <= BATCH_MAX && !arrived.anew);
            (heard, stored) = (heard + arrived.records.len(), !arrived.stored.is_empty());
        }
        assert_eq!(heard, taken);
        listener(back).unwrap();
    }
}
