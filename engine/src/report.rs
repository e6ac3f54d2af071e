//! What upkeep tells the metrics page once a second: levels, and totals that threads keep in plain numbers. Names, kinds and
//! meanings stand in `protocols` (the metrics door), because every name of the page stands there.

use runtime::mailbox::MeshStats;
use storage::hot::HotReading;
use storage::journal::Stats;
use storage::store::QueueReading;
use storage::writer::Reading;

use crate::Health;
use crate::shared::Shared;

/// One look.
pub(crate) struct Look<'a> {
    pub(crate) journal: &'a Stats,
    pub(crate) writer: &'a Reading,
    pub(crate) hot: Option<&'a HotReading>,
    pub(crate) mesh: Option<&'a MeshStats>,
    pub(crate) health: &'a Health,
}

/// Publishes it.
pub(crate) fn publish(look: &Look<'_>, shared: &Shared) {
    of_journal(look.journal);
    of_writer(look);
    metrics::gauge!("mangahub_revocations_known").set(shared.revocations.len() as f64);
    // Named from the start, so that its first step is seen as one.
    metrics::counter!("mangahub_revocations_forgotten_total").increment(0);
    let feed = QueueReading {
        queue: "store_feed",
        waiting: look.writer.lag_records as usize,
        places: shared.config.limits.store_queue_rows,
        // Past its end the writer reads the journal's segments instead.
        refused: 0,
    };
    for queue in shared.store.queues().into_iter().chain([shared.accounts.hashing_queue(), feed]) {
        of_queue(&queue);
    }
    look.mesh.iter().for_each(|mesh| of_mailboxes(mesh));
    if let Some(hot) = look.hot {
        of_hot_cache(hot);
    }
    for dependency in &look.health.dependencies {
        metrics::gauge!("mangahub_dependency_state", "dependency" => dependency.name)
            .set(f64::from(dependency.state as u8));
    }
}

fn of_journal(journal: &Stats) {
    metrics::counter!("mangahub_journal_commits_total").absolute(journal.commits);
    metrics::counter!("mangahub_journal_records_total").absolute(journal.records);
    metrics::counter!("mangahub_journal_record_bytes_total").absolute(journal.record_bytes);
    metrics::counter!("mangahub_journal_prepare_failures_total").absolute(journal.prepare_failures);
    metrics::gauge!("mangahub_journal_segments").set(journal.segments as f64);
    metrics::gauge!("mangahub_journal_bytes").set(journal.bytes as f64);
    metrics::gauge!("mangahub_journal_bytes_max").set(journal.journal_bytes_max as f64);
    metrics::gauge!("mangahub_journal_last_write_seconds").set(journal.last_write_us as f64 / 1e6);
}

fn of_writer(look: &Look<'_>) {
    let Look { journal, writer, .. } = look;
    // From the journal's end, because the writer does not count what it left in the segments.
    let lag_records = journal.end.0.saturating_sub(writer.reached.0).max(writer.lag_records);
    metrics::gauge!("mangahub_store_lag_records").set(lag_records as f64);
    let lag_ms = if lag_records == 0 { 0 } else { writer.lag_ms };
    metrics::gauge!("mangahub_store_lag_seconds").set(lag_ms as f64 / 1e3);
    metrics::counter!("mangahub_store_rows_total").absolute(writer.rows);
    metrics::counter!("mangahub_store_rows_changed_total").absolute(writer.rows_changed);
    metrics::counter!("mangahub_store_batches_total").absolute(writer.batches);
    metrics::counter!("mangahub_store_write_failures_total").absolute(writer.failures);
    metrics::counter!("mangahub_parked_records_total").absolute(writer.parked);
    metrics::counter!("mangahub_store_writer_restarts_total").absolute(writer.restarts);
}

fn of_queue(queue: &QueueReading) {
    metrics::gauge!("mangahub_queue_depth", "queue" => queue.queue).set(queue.waiting as f64);
    metrics::gauge!("mangahub_queue_places", "queue" => queue.queue).set(queue.places as f64);
    metrics::counter!("mangahub_queue_refused_total", "queue" => queue.queue).absolute(queue.refused);
}

fn of_mailboxes(mesh: &MeshStats) {
    for lane in mesh.lanes() {
        let labels = [("from", lane.from.to_string()), ("to", lane.to.to_string())];
        metrics::counter!("mangahub_mailbox_sent_total", &labels).absolute(lane.sent);
        metrics::counter!("mangahub_mailbox_refused_total", &labels).absolute(lane.refused);
        metrics::counter!("mangahub_mailbox_replies_delayed_total", &labels).absolute(lane.replies_refused);
        metrics::gauge!("mangahub_mailbox_depth", &labels).set(lane.waiting as f64);
    }
}

fn of_hot_cache(reading: &HotReading) {
    let counts = &reading.counts;
    let loads = [
        ("hit", counts.hits),
        ("miss", counts.misses),
        ("untrusted", counts.misses_untrusted),
        ("breaker_open", counts.misses_breaker),
        ("busy", counts.misses_busy),
        ("failed", counts.misses_failed),
    ];
    for (outcome, count) in loads {
        metrics::counter!("mangahub_cache_loads_total", "outcome" => outcome).absolute(count);
    }
    let dropped =
        [("queue_full", counts.dropped_queue), ("refused", counts.dropped_refused), ("behind", counts.dropped_inbox)];
    for (reason, count) in dropped {
        metrics::counter!("mangahub_cache_dropped_total", "reason" => reason).absolute(count);
    }
    metrics::counter!("mangahub_cache_rows_total").absolute(counts.rows);
    metrics::counter!("mangahub_cache_writes_total").absolute(counts.writes);
    metrics::counter!("mangahub_cache_fills_total").absolute(counts.fills);
    metrics::counter!("mangahub_cache_write_failures_total").absolute(counts.write_failures);
    metrics::counter!("mangahub_cache_breaker_opened_total").absolute(counts.opened);
    metrics::counter!("mangahub_cache_epochs_total").absolute(counts.epochs);
    metrics::gauge!("mangahub_cache_breaker").set(f64::from(reading.breaker as u8));
    metrics::gauge!("mangahub_cache_queue_rows").set(counts.queue_rows as f64);
}
