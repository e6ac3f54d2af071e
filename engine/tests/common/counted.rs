//! What the engine counts, asked for as a scraper does. Look before the server starts: its shards find their counters then.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// The process's metrics. Several tests and servers may share them, so counts are compared with those before.
fn metrics() -> &'static PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS.get_or_init(|| PrometheusBuilder::new().install_recorder().expect("nobody else records in this process"))
}

/// A figure by its whole name, labels included; a counter is there once it has counted.
pub fn figure(name: &str) -> Option<f64> {
    let page = metrics().render();
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// How often something was refused because of a limit.
pub fn refused(kind: &str, reason: &str) -> u64 {
    figure(&format!("mangahub_refused_total{{kind=\"{kind}\",reason=\"{reason}\"}}")).unwrap_or(0.0) as u64
}
