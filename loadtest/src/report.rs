//! What a run measured, as a table for a person and as JSON for a script. It never prints a mean, and a run without samples is
//! a failure, not a row of zeros.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::stages::Stage;
use crate::threads::{self, Groups};
use crate::timeline::Moment;

/// Latencies in microseconds, from the moment an update was due (open loop) or sent (closed loop) to its acknowledgement.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Median.
    pub p50_us: u64,
    /// One in ten is slower.
    pub p90_us: u64,
    /// One in a hundred is slower.
    pub p99_us: u64,
    /// One in a thousand is slower.
    pub p99_9_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// How many were measured.
    pub samples: u64,
}

/// There was nothing to report.
#[derive(Debug, thiserror::Error)]
#[error("no samples: not one update was acknowledged in the measured time; see the errors above")]
pub struct NoSamples;

impl Latency {
    /// From a histogram of microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Result<Self, NoSamples> {
        if histogram.is_empty() {
            return Err(NoSamples);
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        Ok(Self {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            max_us: histogram.max(),
            samples: histogram.len(),
        })
    }
}

/// What the server used during the measured time.
#[derive(Clone, Debug, Serialize)]
pub struct ServerCost {
    /// CPU time of the whole process.
    pub cpu_us: u64,
    /// The same over the acknowledged updates.
    pub cpu_us_per_update: f64,
    /// Resident memory at the end.
    pub rss_bytes: u64,
    /// Open descriptors at the end.
    pub descriptors: u64,
}

/// Where and with what it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// CPUs this process may use.
    pub cpus: usize,
    /// The processor's name.
    pub processor: String,
    /// The kernel's release.
    pub kernel: String,
}

impl Machine {
    /// Reads /proc.
    pub fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            processor: processor.map_or_else(|| "unknown".into(), |(_, name)| name.trim().into()),
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
        }
    }
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The run's parameters, as they were given or defaulted.
    pub run: serde_json::Value,
    /// Limits that the profile raised above the server's defaults, by configuration key.
    pub limits_raised: BTreeMap<String, String>,
    /// Where it ran.
    pub machine: Machine,
    /// Measured seconds, warm-up left out.
    pub measured_s: f64,
    /// Durable acknowledged updates in that time.
    pub acknowledged: u64,
    /// Of them per second.
    pub acknowledged_per_s: f64,
    /// Announcements that reached watching devices in that time.
    pub announced: u64,
    /// Time to acknowledgement.
    pub latency: Latency,
    /// What came of the announcements, when every device's part in them was followed.
    pub deliveries: Option<Deliveries>,
    /// Refusals and failures by kind, whole run.
    pub errors: BTreeMap<String, u64>,
    /// What the server used; absent when its pid is not known.
    pub server: Option<ServerCost>,
    /// The server's CPU time by thread.
    pub threads: Option<Groups>,
    /// Where that time went, when the server was sampled.
    pub stages: Vec<Stage>,
    /// Connections that gave their place to another user, whole run.
    pub changes: u64,
    /// Records that the store still lacked when sending ended, and the seconds until it had them.
    pub drain: Option<Drain>,
    /// What the server said of itself, over time.
    pub timeline: Vec<Moment>,
    /// CPU time of the harness in the measured time.
    pub client_cpu_us: u64,
}

/// What came of the announcements in the measured time.
#[derive(Clone, Debug, Serialize)]
pub struct Deliveries {
    /// Announcements that reached a device.
    pub delivered: u64,
    /// Of them per second.
    pub delivered_per_s: f64,
    /// Per second of the server's CPU time.
    pub delivered_per_core_s: Option<f64>,
    /// CPU of the server for each, the updates' own share included.
    pub cpu_us_per_delivery: Option<f64>,
    /// Time from the moment the update was due (open loop) or sent to the moment that the device had read of it.
    pub since_due: Latency,
    /// The same from the first sign that it was durable: its answer was read, or another device had read of it.
    pub since_durable: Latency,
    /// Devices that had not heard of the last state of a series 10 s after the end, added up over the series.
    pub missing: usize,
}

/// How the store caught up after a burst.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Drain {
    /// Records that it lacked when sending ended.
    pub records: u64,
    /// Seconds until it lacked none; absent when it did not get there in the time given.
    pub seconds: Option<f64>,
}

impl Deliveries {
    fn rows(&self) -> Vec<(String, String)> {
        let mut rows = vec![("deliveries/s".to_owned(), format!("{:.0}", self.delivered_per_s))];
        if let (Some(each), Some(per_core)) = (self.cpu_us_per_delivery, self.delivered_per_core_s) {
            rows.push(("deliveries/s per core".into(), format!("{per_core:.0}")));
            rows.push(("server CPU/delivery".into(), format!("{each:.3} us")));
        }
        for (name, delay) in [("from sent", &self.since_due), ("from durable", &self.since_durable)] {
            let text = format!("p50 {} us, p99 {} us, max {} us", delay.p50_us, delay.p99_us, delay.max_us);
            rows.push((format!("delivered, {name}"), text));
        }
        rows.push(("last states missing".into(), self.missing.to_string()));
        rows
    }
}

impl Report {
    /// CPU of the whole process per update, less the threads that execute SQL; 0 when it is not known.
    pub fn cpu_us_per_update_without_sql(&self) -> f64 {
        let threads = self.threads.iter().flatten();
        let cpu_ns: u64 = threads.filter(|(name, _)| *name != threads::SQL_GROUP).map(|(_, spent)| spent.cpu_ns).sum();
        cpu_ns as f64 / 1e3 / self.acknowledged.max(1) as f64
    }

    /// CPU of some groups of threads per update; 0 when it is not known.
    pub fn cpu_us_per_update_of(&self, groups: &[&str]) -> f64 {
        let threads = self.threads.iter().flatten();
        let cpu_ns: u64 =
            threads.filter(|(name, _)| groups.contains(&name.as_str())).map(|(_, spent)| spent.cpu_ns).sum();
        cpu_ns as f64 / 1e3 / self.acknowledged.max(1) as f64
    }

    /// CPU per update by group of threads, and without the execution of SQL.
    fn thread_rows(&self) -> Vec<(String, String)> {
        let Some(threads) = &self.threads else { return Vec::new() };
        let each = |cpu_ns: u64| cpu_ns as f64 / 1e3 / self.acknowledged.max(1) as f64;
        let without_sql = format!("{:.3} us", self.cpu_us_per_update_without_sql());
        let first = ("CPU/update without SQL".to_owned(), without_sql);
        let busy = threads.iter().filter(|(_, spent)| each(spent.cpu_ns) >= 0.001);
        let rows = busy.map(|(name, spent)| {
            let waited = format!("{:.3} us, {:.3} us waiting for a CPU", each(spent.cpu_ns), each(spent.waited_ns));
            (format!("  {name}"), waited)
        });
        [first].into_iter().chain(rows).collect()
    }

    /// CPU per update by stage, and what the least telling stages are made of.
    fn stage_rows(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        for stage in &self.stages {
            let value = format!("{:.3} us {:5.1} %", stage.us_per_update, stage.per_cent);
            rows.push((format!("stage {}", stage.name), value));
            let mostly = stage.mostly.iter().map(|(function, per_cent)| format!("{per_cent:.1} % {function}"));
            rows.extend(mostly.map(|function| (String::new(), format!("  {function}"))));
        }
        rows
    }

    /// A table of aligned rows.
    pub fn table(&self) -> String {
        let mut rows = vec![
            ("durable updates/s".to_string(), format!("{:.0}", self.acknowledged_per_s)),
            ("acknowledged".into(), format!("{} in {:.1} s", self.acknowledged, self.measured_s)),
            ("announced".into(), self.announced.to_string()),
        ];
        let latency = &self.latency;
        let points = [
            ("p50", latency.p50_us),
            ("p90", latency.p90_us),
            ("p99", latency.p99_us),
            ("p99.9", latency.p99_9_us),
            ("max", latency.max_us),
        ];
        rows.extend(points.map(|(name, us)| (format!("ack {name}"), format!("{us} us"))));
        if let Some(deliveries) = &self.deliveries {
            rows.extend(deliveries.rows());
        }
        match &self.server {
            Some(server) => rows.extend([
                ("server CPU/update".into(), format!("{:.2} us", server.cpu_us_per_update)),
                ("server CPU".into(), format!("{:.2} cores", server.cpu_us as f64 / 1e6 / self.measured_s)),
                ("server RSS".into(), format!("{:.1} MiB", server.rss_bytes as f64 / 1_048_576.0)),
                ("server descriptors".into(), server.descriptors.to_string()),
            ]),
            None => rows.push(("server CPU".into(), "unknown: give --server-pid".into())),
        }
        if self.server.is_some() {
            rows.extend(self.thread_rows());
        }
        rows.extend(self.stage_rows());
        if let Some(drain) = self.drain {
            let seconds = drain.seconds.map_or("not in time".to_owned(), |seconds| format!("{seconds:.1} s"));
            rows.push(("store caught up".into(), format!("{} records in {seconds}", drain.records)));
        }
        if let Some(most) = self.timeline.iter().map(|moment| moment.lag_records).max() {
            rows.push(("store lag, most".into(), format!("{most} records")));
        }
        if self.changes > 0 {
            rows.push(("places changed".into(), self.changes.to_string()));
        }
        let client_cores = self.client_cpu_us as f64 / 1e6 / self.measured_s;
        rows.push(("client CPU".into(), format!("{client_cores:.2} cores")));
        rows.extend(self.errors.iter().map(|(kind, count)| (format!("error {kind}"), count.to_string())));
        rows.extend(self.limits_raised.iter().map(|(key, value)| (format!("raised {key}"), value.clone())));
        let mut table = String::new();
        for (name, value) in rows {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{name:<22} {value}");
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_samples_is_a_failure() {
        assert!(Latency::of(&Histogram::new(3).unwrap()).is_err());
    }
}
