//! What a person sees when the server is up: where it is, what it stands on, and what to try next. Scripts read
//! `ports.json` instead, or ask for the banner as JSON.

use std::fmt::Write as _;
use std::io::Write as _;

use engine::boot::Facts;
use protocols::DoorAddresses;
use runtime::open_files::OpenFiles;
use serde_json::json;

use crate::cli::Output;
use crate::config::{Config, Registration};
use crate::serve::files_line;

/// What the banner is made of.
pub(crate) struct Seen<'s> {
    pub(crate) config: &'s Config,
    pub(crate) facts: &'s Facts,
    pub(crate) addresses: DoorAddresses,
    pub(crate) files: OpenFiles,
    pub(crate) connections_max: u32,
}

/// Prints it, unless the operator wants silence.
pub(crate) fn print(seen: &Seen<'_>, output: Output) {
    let text = match output {
        Output::Quiet => return,
        Output::Json => format!("{}\n", as_json(seen)),
        Output::Table => as_text(seen),
    };
    // A closed stdout is no reason to stop serving.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn as_json(seen: &Seen<'_>) -> serde_json::Value {
    let Facts { shards, topology, backend, backend_reason, store, cache, journal, journal_aside: _, replayed, series } =
        seen.facts;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "http": seen.addresses.http,
        "tcp_sync": seen.addresses.tcp_sync,
        "metrics": seen.addresses.metrics,
        "data_dir": seen.config.data_dir,
        "store": store,
        "cache": cache,
        "journal": journal,
        "shards": shards,
        "topology": topology,
        "backend": backend,
        "backend_reason": backend_reason,
        "replayed": replayed,
        "series": series,
        "open_files": seen.files.limit,
        "connections_max": seen.connections_max,
    })
}

fn as_text(seen: &Seen<'_>) -> String {
    let facts = seen.facts;
    let (scheme, tls) = match seen.config.tls {
        Some(_) => ("https", "TLS and plain"),
        None => ("http", "plain"),
    };
    let mut text = format!("MangaHub {}\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    if let Some(http) = seen.addresses.http {
        line("http", format!("{scheme}://{http}"));
    }
    if let Some(sync) = seen.addresses.tcp_sync {
        line("tcp sync", format!("{sync}  (frames and JSON lines, {tls})"));
    }
    if let Some(metrics) = seen.addresses.metrics {
        line("metrics", format!("http://{metrics}/metrics"));
    }
    let data_dir = std::path::absolute(&seen.config.data_dir).unwrap_or_else(|_| seen.config.data_dir.clone());
    line("data", data_dir.display().to_string());
    line("store", facts.store.clone());
    if let Some(cache) = &facts.cache {
        line("cache", cache.clone());
    }
    line("journal", facts.journal.clone());
    line("shards", format!("{} ({})", facts.shards, facts.topology));
    line("io", facts.backend_reason.clone());
    line("files", format!("{}: up to {} connections", files_line(seen.files), seen.connections_max));
    let registration = match seen.config.auth.registration {
        Registration::Open => "open",
        Registration::Closed => "closed; make accounts with `mangahub admin create`",
    };
    line("accounts", format!("registration is {registration}"));
    line("catalogue", format!("{} series", facts.series));
    if facts.replayed > 0 {
        line("recovered", format!("{} records that the store did not have yet", facts.replayed));
    }
    if let Some(http) = seen.addresses.http {
        text.push_str(&try_next(&format!("{scheme}://{http}"), seen.config));
    }
    text
}

/// Lines that can be pasted as they are.
fn try_next(base: &str, config: &Config) -> String {
    if config.auth.registration == Registration::Closed {
        return format!("\nTry next:\n  curl -s {base}/api/manga?page_size=3\n");
    }
    let json = "-H 'content-type: application/json'";
    format!(
        "\nTry next:\n  \
         curl -s {base}/auth/register {json} -d '{{\"username\":\"reader\",\"email\":\"reader@example.com\",\"password\":\"correct horse\"}}'\n  \
         TOKEN=$(curl -s {base}/auth/login {json} -d '{{\"username\":\"reader\",\"password\":\"correct horse\"}}' | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')\n  \
         curl -s -X PUT {base}/api/progress/berserk -H \"authorization: Bearer $TOKEN\" {json} -d '{{\"chapter\":12}}'\n"
    )
}
