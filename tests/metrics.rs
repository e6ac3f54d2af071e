//! The metrics page, its documentation and the server's own table say the same; health names every dependency.

use std::collections::BTreeMap;
use std::fs;

use protocols::metrics_door::described::METRICS;
use serde_json::json;

use crate::support::postgres::PostgresServer;
use crate::support::redis::RedisServer;
use crate::support::{Launch, Reader, Request, Server, eventually};

/// The rows of docs/metrics.md: name, kind, meaning.
pub(crate) fn documented() -> Vec<(String, String, String)> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let cells = rows.map(|row| row.split(" | ").map(str::to_owned).collect::<Vec<_>>());
    cells
        .map(|cells| match &cells[..] {
            [name, kind, meaning] => (name.trim_end_matches('`').to_owned(), kind.clone(), meaning.clone()),
            other => panic!("not a row: {other:?}"),
        })
        .collect()
}

fn page(server: &Server) -> String {
    Request::new(server.ports.metrics, "GET", "/metrics").send().expect(200).text
}

/// The families of a page: by name, the kind and the meaning.
fn families(page: &str) -> BTreeMap<String, (String, String)> {
    let mut families: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            families.entry(name.to_owned()).or_default().1 = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            families.entry(name.to_owned()).or_default().0 = kind.to_owned();
        }
    }
    families
}

#[test]
fn the_page_shows_what_is_documented_and_nothing_else() {
    let documented = documented();
    let table: Vec<(String, String, String)> = METRICS
        .iter()
        .map(|(name, kind, help)| (name.to_string(), kind.as_str().to_owned(), help.to_string()))
        .collect();
    for (row, known) in documented.iter().zip(&table) {
        assert_eq!(row, known, "docs/metrics.md (left) and the metrics door's table (right)");
    }
    assert_eq!(documented.len(), table.len(), "docs/metrics.md and the metrics door's table have as many rows");

    // As one of several nodes, so that everything is there.
    let (redis, postgres) = (RedisServer::start(), PostgresServer::start());
    let launch = Launch::new().variable("REDIS_URL", &redis.url()).variable("DATABASE_URL", &postgres.url());
    let server = launch.start();
    let reader = Reader::register(&server, "measured");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 3})).expect(200);
    let shown = eventually("a page with a stored batch", || {
        let page = page(&server);
        (page.contains("mangahub_store_batch_rows_count 1") && page.contains("mangahub_cache_rows_total"))
            .then_some(page)
    });
    let shown = families(&shown);
    for (name, kind, help) in &documented {
        let found = shown.get(name).unwrap_or_else(|| panic!("{name} is documented and not on the page"));
        assert_eq!((&found.0, &found.1), (kind, help), "{name}");
    }
    for name in shown.keys() {
        assert!(documented.iter().any(|(known, ..)| known == name), "{name} is on the page and not in docs/metrics.md");
    }
}

/// The value of a metric with these labels.
fn value(page: &str, name: &str) -> f64 {
    let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {name}:\n{page}")).parse().unwrap()
}

#[test]
fn what_was_done_is_what_is_counted() {
    let server = Server::start();
    let reader = Reader::register(&server, "counted");
    let manga = reader.series(&server, "berserk");
    for chapter in 1..=5 {
        reader.put_progress(&server, manga, &json!({"chapter": chapter})).expect(200);
    }
    reader.put_progress(&server, manga, &json!({"chapter": 1})).expect(409);
    let page = eventually("everything is counted and stored", || {
        let page = page(&server);
        let is_done = value(&page, "mangahub_commands_total{outcome=\"applied\"}") == 5.0
            && value(&page, "mangahub_store_lag_records") == 0.0
            && value(&page, "mangahub_journal_records_total") == 5.0
            // Each metric is published on its own: a page may fall between two of them.
            && value(&page, "mangahub_store_lag_seconds") == 0.0
            && page.contains("mangahub_store_batch_rows_sum")
            && value(&page, "mangahub_store_batch_rows_sum") == value(&page, "mangahub_store_rows_total");
        is_done.then_some(page)
    });
    // The user was looked for in memory first, then in the store, then found in memory.
    assert_eq!(value(&page, "mangahub_user_lookups_total{level=\"memory\",outcome=\"miss\"}"), 1.0);
    assert_eq!(value(&page, "mangahub_user_lookups_total{level=\"store\",outcome=\"hit\"}"), 1.0);
    assert!(value(&page, "mangahub_user_lookups_total{level=\"memory\",outcome=\"hit\"}") >= 5.0);
    // One active segment and one prepared, of 64 MiB each.
    assert!(value(&page, "mangahub_journal_bytes") >= f64::from(64 << 20));
    assert!(value(&page, "mangahub_journal_bytes") <= value(&page, "mangahub_journal_bytes_max"));
    for queue in ["store_reads", "store_accounts", "store_batches", "store_feed", "hashing"] {
        let places = value(&page, &format!("mangahub_queue_places{{queue=\"{queue}\"}}"));
        let depth = value(&page, &format!("mangahub_queue_depth{{queue=\"{queue}\"}}"));
        assert!(places > 0.0 && (0.0..=places).contains(&depth), "{queue}: {depth} of {places}");
        assert_eq!(value(&page, &format!("mangahub_queue_refused_total{{queue=\"{queue}\"}}")), 0.0, "{queue}");
    }
    assert_eq!(value(&page, "mangahub_dependency_state{dependency=\"store\"}"), 0.0);
    assert_eq!(value(&page, "mangahub_connections_refused_total{door=\"http\",reason=\"capacity\"}"), 0.0);
}

#[test]
fn health_says_of_every_dependency_how_it_is_and_degraded_is_not_down() {
    let mut redis = RedisServer::start();
    let server = Launch::new().variable("REDIS_URL", &redis.url()).start();
    let ready = || server.request("GET", "/health/ready").send().expect(200).json();
    let well = json!({
        "status": "ready",
        "dependencies": {"journal": "healthy", "store": "healthy", "redis": "healthy"},
        "details": {},
    });
    eventually("everything is well", || (ready() == well).then_some(()));
    redis.kill();
    let ill = eventually("Redis is down", || Some(ready()).filter(|health| health["dependencies"]["redis"] == "down"));
    assert_eq!(ill["status"], "degraded");
    assert_eq!(ill["dependencies"]["store"], "healthy");
    // Why, and nothing about where: anybody may read this.
    let details = ill["details"].as_object().unwrap();
    assert!(details.len() == 1 && details.contains_key("redis"), "{ill}");
    assert!(!ill.to_string().contains(&redis.port().to_string()), "{ill}");
    eventually("the metric says so too", || {
        (value(&page(&server), "mangahub_dependency_state{dependency=\"redis\"}") == 2.0).then_some(())
    });
    let told = server.cli(&["server", "ping"]).done().stdout;
    assert!(told.starts_with("degraded\n") && told.contains("redis"), "{told}");
    redis.go_up();
    eventually("everything is well again", || (ready() == well).then_some(()));
}
