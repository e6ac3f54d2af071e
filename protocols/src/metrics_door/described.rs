//! Every metric that the page shows: its name, its kind and what it says, in one table. The page's HELP lines come from here, and
//! a test compares the table with docs/metrics.md and with the page of a real server, so that none of the three can drift.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

use crate::admission::{Door, Refusal};

/// What a metric is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It stands where things stand.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// As the page's TYPE line spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

use Kind::{Counter, Gauge, Histogram};

/// A metric of the page.
pub type Described = (&'static str, Kind, &'static str);

/// All of them, by what they are about.
#[rustfmt::skip]
pub const METRICS: &[Described] = &[
    // Updates.
    ("mangahub_commands_total", Counter, "Commands by outcome: applied, or already known from this device."),
    ("mangahub_announcements_total", Counter, "Changes given to other connections of their user."),
    ("mangahub_answers_waiting_for_the_disk", Gauge, "Answers and announcements that wait for a commit, by shard."),
    ("mangahub_user_lookups_total", Counter, "Users looked for, by level (memory, redis, store) and outcome (hit, miss, failed)."),
    ("mangahub_users_in_memory", Gauge, "Users in memory, by shard."),
    ("mangahub_user_bytes", Gauge, "Memory of users, by shard."),
    ("mangahub_user_bytes_max", Gauge, "The most that users may take, by shard."),
    ("mangahub_user_bytes_not_stored", Gauge, "Memory of users whose changes the store lacks, by shard."),
    ("mangahub_user_evictions_total", Counter, "Users who made room for others."),

    // The journal.
    ("mangahub_journal_commits_total", Counter, "Commits written."),
    ("mangahub_journal_records_total", Counter, "Records in them."),
    ("mangahub_journal_record_bytes_total", Counter, "Bytes of records in them, without padding."),
    ("mangahub_journal_bytes", Gauge, "What the journal's segments take on the disk."),
    ("mangahub_journal_bytes_max", Gauge, "What they may take; beyond it changes are refused."),
    ("mangahub_journal_segments", Gauge, "Segments on the disk, the prepared one included."),
    ("mangahub_journal_last_write_seconds", Gauge, "How long the last commit's write took."),
    ("mangahub_journal_prepare_failures_total", Counter, "Times that the next segment could not be prepared."),
    ("mangahub_recovered_records", Gauge, "Records that the last start found in the journal and not in the store."),

    // The store.
    ("mangahub_store_lag_records", Gauge, "Records in the journal that the store lacks."),
    ("mangahub_store_lag_seconds", Gauge, "Age of the oldest record in the journal that the store lacks."),
    ("mangahub_store_batches_total", Counter, "Batches stored."),
    ("mangahub_store_batch_rows", Histogram, "Rows of a batch."),
    ("mangahub_store_batch_seconds", Histogram, "How long storing a batch took."),
    ("mangahub_store_rows_total", Counter, "Rows sent to the store."),
    ("mangahub_store_rows_changed_total", Counter, "Rows that changed something there."),
    ("mangahub_store_write_failures_total", Counter, "Attempts to store a batch that failed and were made again."),
    ("mangahub_store_writer_restarts_total", Counter, "Times that a defect stopped the store writer and it began again."),
    ("mangahub_parked_records", Gauge, "Records that the store refused and that wait for a person."),
    ("mangahub_parked_records_total", Counter, "Records that the store refused since the start."),

    // Redis; only with one.
    ("mangahub_cache_loads_total", Counter, "Users asked of Redis, by outcome."),
    ("mangahub_cache_rows_total", Counter, "Rows written to Redis."),
    ("mangahub_cache_writes_total", Counter, "Writes to Redis, each one pipeline."),
    ("mangahub_cache_fills_total", Counter, "Whole users sent to Redis."),
    ("mangahub_cache_write_failures_total", Counter, "Writes to Redis that failed and were made again."),
    ("mangahub_cache_dropped_total", Counter, "Rows and hand-overs that Redis did not get, by reason."),
    ("mangahub_cache_queue_rows", Gauge, "Rows that wait to be written to Redis."),
    ("mangahub_cache_breaker", Gauge, "The breaker in front of Redis: 0 closed, 1 probing, 2 open."),
    ("mangahub_cache_breaker_opened_total", Counter, "Times that it opened."),
    ("mangahub_cache_epochs_total", Counter, "Times that every copy in Redis was given up."),

    // Other nodes; the wire to them only with a Postgres and a Redis.
    ("mangahub_nodes_alive", Gauge, "Nodes on this database that have said a word lately, this one included."),
    ("mangahub_nodes_records_merged_total", Counter, "Changes of other nodes that were merged."),
    ("mangahub_nodes_records_not_held_total", Counter, "Those of them that found no room to be kept until the store has them."),
    ("mangahub_nodes_users_reloaded_total", Counter, "Users loaded anew because changes of other nodes may have been missed."),
    ("mangahub_nodes_users_not_stored", Gauge, "Users of whom changes of other nodes are kept until the store has them, by shard."),
    ("mangahub_nodes_bytes_not_stored", Gauge, "Memory of these changes, by shard."),
    ("mangahub_wire_lag_seconds", Gauge, "How long this node's last word took through the stream and back."),
    ("mangahub_wire_queue_bytes", Gauge, "Changes that wait to be told to the other nodes."),
    ("mangahub_wire_breaker", Gauge, "The breaker in front of the stream: 0 closed, 1 probing, 2 open."),
    ("mangahub_wire_breaker_opened_total", Counter, "Times that it opened."),
    ("mangahub_wire_entries_sent_total", Counter, "Entries appended to the stream."),
    ("mangahub_wire_entries_received_total", Counter, "Entries of other nodes read from the stream."),
    ("mangahub_wire_records_received_total", Counter, "Changes in them."),
    ("mangahub_wire_records_ahead_total", Counter, "Changes from a clock that is more than a minute ahead of this one."),
    ("mangahub_wire_unreadable_total", Counter, "Entries and changes that this version cannot read."),
    ("mangahub_wire_dropped_total", Counter, "Times that other nodes were not told for want of room; they load anew."),
    ("mangahub_wire_send_failures_total", Counter, "Times that appending to the stream failed and was done again."),
    ("mangahub_wire_gaps_total", Counter, "Times that something of another node was found missing."),
    ("mangahub_wire_gap_open", Gauge, "1 while something of another node is missing and users are not loaded anew yet."),
    ("mangahub_wire_reloads_total", Counter, "Times that users were loaded anew because of that."),
    ("mangahub_wire_nodes_silent_total", Counter, "Other nodes that went silent without a goodbye."),
    ("mangahub_wire_held_up_total", Counter, "Times that a shard had no room and reading the stream waited."),

    // Queues, limits, refusals.
    ("mangahub_queue_depth", Gauge, "What waits in a queue or is under way, by queue."),
    ("mangahub_queue_places", Gauge, "How much may, by queue."),
    ("mangahub_queue_refused_total", Counter, "What was refused because a queue was full, by queue."),
    ("mangahub_mailbox_sent_total", Counter, "Requests from one shard to another."),
    ("mangahub_mailbox_depth", Gauge, "Requests that another shard has not taken yet."),
    ("mangahub_mailbox_refused_total", Counter, "Requests refused because the other shard's mailbox was full."),
    ("mangahub_mailbox_replies_delayed_total", Counter, "Answers that had to wait for another shard."),
    ("mangahub_refused_total", Counter, "What a limit inside refused, by kind and reason."),
    ("mangahub_refusals_total", Counter, "All refusals, by the code that the client was told."),

    // Connections.
    ("mangahub_connections", Gauge, "Connections over all doors."),
    ("mangahub_connections_max", Gauge, "The most there may be."),
    ("mangahub_connections_open", Gauge, "Connections by door."),
    ("mangahub_connections_refused_total", Counter, "Connections turned away or ended by the server, by door and reason."),
    ("mangahub_connections_revoked_total", Counter, "Live connections closed because their session had ended."),
    ("mangahub_live_connections", Gauge, "Connections that hear of their user's changes, by shard."),
    ("mangahub_http_responses_total", Counter, "HTTP answers by class of status."),
    ("mangahub_revocations_known", Gauge, "Ended sessions that are remembered until their tokens expire."),
    ("mangahub_revocations_forgotten_total", Counter, "Ended sessions forgotten too early, because there were too many."),

    // The process.
    ("mangahub_dependency_state", Gauge, "A dependency: 0 healthy, 1 degraded, 2 down."),
    ("mangahub_task_panics_total", Counter, "Tasks that a defect ended."),
    ("process_cpu_seconds_total", Counter, "Processor time, user and system."),
    ("process_max_fds", Gauge, "Descriptors that may be open."),
    ("process_open_fds", Gauge, "Open descriptors."),
    ("process_resident_memory_bytes", Gauge, "Resident memory."),
    ("process_start_time_seconds", Gauge, "When the process was started, in Unix time."),
    ("process_threads", Gauge, "Threads."),
];

/// What a metric says, by its name.
pub(super) fn described(name: &str) -> Option<&'static Described> {
    METRICS.iter().find(|(known, ..)| *known == name)
}

/// What keeps the process's metrics, with the histograms' bounds.
pub fn recorder() -> Result<PrometheusBuilder, BuildError> {
    let rows: Vec<f64> = (0..6).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power))).collect();
    let seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("mangahub_store_batch_rows".to_owned()), &rows)?
        .set_buckets_for_metric(Matcher::Full("mangahub_store_batch_seconds".to_owned()), &seconds)
}

/// Gives every metric of the process its HELP line, and names the doors' counters before anything has been counted, so that a
/// first refusal is seen as a step from 0.
pub fn describe() {
    for (name, kind, help) in METRICS.iter().copied() {
        match kind {
            Counter => metrics::describe_counter!(name, help),
            Gauge => metrics::describe_gauge!(name, help),
            Histogram => metrics::describe_histogram!(name, help),
        }
    }
    for door in Door::ALL {
        for reason in Refusal::ALL {
            metrics::counter!("mangahub_connections_refused_total", "door" => door.as_str(), "reason" => reason.as_str())
                .increment(0);
        }
    }
}
