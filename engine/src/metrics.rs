//! Counting. A shard counts in plain numbers and adds them to the process's metrics once per tick: an update costs an
//! increment of a field, not an atomic.

use proto::Code;

/// A shard's counts since the last tick.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) applied: u64,
    pub(crate) already: u64,
    pub(crate) announced: u64,
    pub(crate) slow_consumers: u64,
    pub(crate) busy_journal: u64,
    pub(crate) busy_dirty: u64,
    pub(crate) busy_mailbox: u64,
    pub(crate) busy_held: u64,
    pub(crate) busy_loads: u64,
    pub(crate) busy_load_waiters: u64,
    pub(crate) busy_catch_ups: u64,
    pub(crate) full_shard: u64,
    pub(crate) full_user: u64,
    pub(crate) over_frame_rate: u64,
    pub(crate) over_line_rate: u64,
    pub(crate) over_api_rate: u64,
    pub(crate) memory_hits: u64,
    pub(crate) memory_misses: u64,
    pub(crate) redis_hits: u64,
    pub(crate) redis_misses: u64,
    pub(crate) store_hits: u64,
    pub(crate) store_failures: u64,
    pub(crate) revoked_connections: u64,
    pub(crate) merged: u64,
    pub(crate) not_held: u64,
    pub(crate) refreshed: u64,
    refused: [u64; Code::ALL.len()],
}

impl Counters {
    /// A request was refused.
    pub(crate) fn refused(&mut self, code: Code) {
        if let Some(count) = self.refused.get_mut((code as usize).wrapping_sub(1)) {
            *count += 1;
        }
    }
}

/// The process's counters, looked up once per shard.
pub(crate) struct Handles {
    applied: metrics::Counter,
    already: metrics::Counter,
    announced: metrics::Counter,
    slow_consumers: metrics::Counter,
    busy_journal: metrics::Counter,
    busy_dirty: metrics::Counter,
    busy_mailbox: metrics::Counter,
    busy_held: metrics::Counter,
    busy_loads: metrics::Counter,
    busy_load_waiters: metrics::Counter,
    busy_catch_ups: metrics::Counter,
    full_shard: metrics::Counter,
    full_user: metrics::Counter,
    over_frame_rate: metrics::Counter,
    over_line_rate: metrics::Counter,
    over_api_rate: metrics::Counter,
    memory_hits: metrics::Counter,
    memory_misses: metrics::Counter,
    redis_hits: metrics::Counter,
    redis_misses: metrics::Counter,
    store_hits: metrics::Counter,
    store_failures: metrics::Counter,
    revoked_connections: metrics::Counter,
    merged: metrics::Counter,
    not_held: metrics::Counter,
    refreshed: metrics::Counter,
    refused: Vec<metrics::Counter>,
    users: metrics::Gauge,
    user_bytes: metrics::Gauge,
    user_bytes_max: metrics::Gauge,
    dirty_bytes: metrics::Gauge,
    connections: metrics::Gauge,
    gated: metrics::Gauge,
    held_users: metrics::Gauge,
    held_bytes: metrics::Gauge,
    evictions: metrics::Counter,
    evictions_seen: u64,
}

/// A shard's levels at a tick.
#[derive(Clone, Copy, Default)]
pub(crate) struct Levels {
    pub(crate) users: crate::users::Figures,
    pub(crate) connections: usize,
    pub(crate) gated: usize,
}

impl Handles {
    /// Registers a shard's counters.
    pub(crate) fn new(shard: usize) -> Self {
        let shard = shard.to_string();
        let busy = |kind: &'static str, reason: &'static str| metrics::counter!("mangahub_refused_total", "kind" => kind, "reason" => reason);
        let lookup = |level: &'static str, outcome: &'static str| metrics::counter!("mangahub_user_lookups_total", "level" => level, "outcome" => outcome);
        Self {
            applied: metrics::counter!("mangahub_commands_total", "outcome" => "applied"),
            already: metrics::counter!("mangahub_commands_total", "outcome" => "already"),
            announced: metrics::counter!("mangahub_announcements_total"),
            slow_consumers: busy("connection", "slow_consumer"),
            busy_journal: busy("update", "journal"),
            busy_dirty: busy("update", "store_backlog"),
            busy_mailbox: busy("update", "mailbox_full"),
            busy_held: busy("update", "held_full"),
            busy_loads: busy("user", "loads_full"),
            busy_load_waiters: busy("user", "load_waiters_full"),
            busy_catch_ups: busy("catch_up", "unanswered"),
            full_shard: busy("connection", "shard_full"),
            full_user: busy("connection", "user_full"),
            over_frame_rate: busy("update", "rate"),
            over_line_rate: busy("line", "rate"),
            over_api_rate: busy("request", "rate"),
            memory_hits: lookup("memory", "hit"),
            memory_misses: lookup("memory", "miss"),
            redis_hits: lookup("redis", "hit"),
            redis_misses: lookup("redis", "miss"),
            store_hits: lookup("store", "hit"),
            store_failures: lookup("store", "failed"),
            revoked_connections: metrics::counter!("mangahub_connections_revoked_total"),
            merged: metrics::counter!("mangahub_nodes_records_merged_total"),
            not_held: metrics::counter!("mangahub_nodes_records_not_held_total"),
            refreshed: metrics::counter!("mangahub_nodes_users_reloaded_total"),
            refused: (Code::ALL.iter())
                .map(|code| metrics::counter!("mangahub_refusals_total", "code" => code.as_str()))
                .collect(),
            users: metrics::gauge!("mangahub_users_in_memory", "shard" => shard.clone()),
            user_bytes: metrics::gauge!("mangahub_user_bytes", "shard" => shard.clone()),
            user_bytes_max: metrics::gauge!("mangahub_user_bytes_max", "shard" => shard.clone()),
            dirty_bytes: metrics::gauge!("mangahub_user_bytes_not_stored", "shard" => shard.clone()),
            connections: metrics::gauge!("mangahub_live_connections", "shard" => shard.clone()),
            gated: metrics::gauge!("mangahub_answers_waiting_for_the_disk", "shard" => shard.clone()),
            held_users: metrics::gauge!("mangahub_nodes_users_not_stored", "shard" => shard.clone()),
            held_bytes: metrics::gauge!("mangahub_nodes_bytes_not_stored", "shard" => shard),
            evictions: metrics::counter!("mangahub_user_evictions_total"),
            evictions_seen: 0,
        }
    }

    /// Adds a tick's counts, and says where things stand.
    pub(crate) fn publish(&mut self, counters: Counters, levels: Levels) {
        self.applied.increment(counters.applied);
        self.already.increment(counters.already);
        self.announced.increment(counters.announced);
        self.slow_consumers.increment(counters.slow_consumers);
        self.busy_journal.increment(counters.busy_journal);
        self.busy_dirty.increment(counters.busy_dirty);
        self.busy_mailbox.increment(counters.busy_mailbox);
        self.busy_held.increment(counters.busy_held);
        self.busy_loads.increment(counters.busy_loads);
        self.busy_load_waiters.increment(counters.busy_load_waiters);
        self.busy_catch_ups.increment(counters.busy_catch_ups);
        self.full_shard.increment(counters.full_shard);
        self.full_user.increment(counters.full_user);
        self.over_frame_rate.increment(counters.over_frame_rate);
        self.over_line_rate.increment(counters.over_line_rate);
        self.over_api_rate.increment(counters.over_api_rate);
        self.memory_hits.increment(counters.memory_hits);
        self.memory_misses.increment(counters.memory_misses);
        self.redis_hits.increment(counters.redis_hits);
        self.redis_misses.increment(counters.redis_misses);
        self.store_hits.increment(counters.store_hits);
        self.store_failures.increment(counters.store_failures);
        self.revoked_connections.increment(counters.revoked_connections);
        self.merged.increment(counters.merged);
        self.not_held.increment(counters.not_held);
        self.refreshed.increment(counters.refreshed);
        for (handle, count) in self.refused.iter().zip(counters.refused) {
            if count > 0 {
                handle.increment(count);
            }
        }
        self.users.set(levels.users.users as f64);
        self.user_bytes.set(levels.users.bytes as f64);
        self.user_bytes_max.set(levels.users.bytes_max as f64);
        self.dirty_bytes.set(levels.users.dirty_bytes as f64);
        self.connections.set(levels.connections as f64);
        self.gated.set(levels.gated as f64);
        self.held_users.set(levels.users.held.0 as f64);
        self.held_bytes.set(levels.users.held.1 as f64);
        self.evictions.increment(levels.users.evictions - self.evictions_seen);
        self.evictions_seen = levels.users.evictions;
    }
}
