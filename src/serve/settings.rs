//! Turns the configuration into what the rooms below want to know: one function per room, no decisions beyond names and
//! units.

use engine::config::{EngineConfig, Limits, TokenConfig};
use protocols::{DoorLimits, DoorsConfig, TlsFiles};
use storage::hot::HotConfig;

use crate::catalogue;
use crate::config::{Config, Registration};

/// Descriptors kept back where there are plenty: journal, database, rings, logs, and room for a surprise.
const FILES_RESERVED: u64 = 512;
/// What a server opens for itself, measured at 37 with two shards, and as much again: a connection must never take the
/// descriptor that the journal's next segment needs.
const FILES_MIN: u64 = 64;
/// Its share per shard: ring, listeners, wakes.
const FILES_PER_SHARD: u64 = 16;
/// Fewer connections than this are not worth a start.
const CONNECTIONS_MIN: u64 = 32;
/// Beyond this a connection table is a mistake, whatever the system allows.
const CONNECTIONS_MAX: u64 = 1_000_000;

/// What the engine wants to know. Without a secret of its own the configuration leaves it to the data folder's.
pub(crate) fn engine(config: &Config, connections_max: u32) -> EngineConfig {
    let secret = config.auth.jwt_secret.clone().unwrap_or_default().into_bytes();
    let mut wanted = EngineConfig::new(&config.data_dir, Vec::new());
    wanted.shards = config.shards;
    wanted.backend = config.backend;
    wanted.registration = match config.auth.registration {
        Registration::Open => engine::config::Registration::Open,
        Registration::Closed => engine::config::Registration::Closed,
    };
    wanted.strict_total = config.strict_total;
    wanted.ack_database = config.ack_database;
    wanted.ack_database_max = config.ack_database_max;
    wanted.database = config.database.clone();
    wanted.hot = config.cache.as_ref().map(|cache| HotConfig {
        tls_ca: cache.tls_ca.clone(),
        ttl: cache.ttl,
        timeout: cache.timeout,
        queue_rows_max: cache.queue_rows,
        ..HotConfig::new(&cache.redis_url)
    });
    wanted.tokens = TokenConfig {
        secret,
        access_ttl: config.auth.access_token_ttl,
        refresh_ttl: config.auth.refresh_token_ttl,
        ..wanted.tokens
    };
    wanted.limits = limits(config, connections_max, wanted.limits);
    if config.demo_catalogue {
        wanted.first_catalogue = catalogue::demo();
    }
    wanted
}

fn limits(config: &Config, connections_max: u32, preset: Limits) -> Limits {
    let limits = &config.limits;
    Limits {
        // The doors count connections for the process; nothing keeps them all from belonging to users of one shard.
        connections_per_shard: connections_max as usize,
        mailbox_messages: limits.mailbox_messages,
        out_queue_messages: limits.queue_messages,
        out_queue_bytes: limits.queue_bytes,
        window_max: limits.window_updates,
        frame_rate_per_s: limits.updates_per_s,
        frame_burst: limits.updates_burst,
        line_rate_per_s: limits.lines_per_s,
        line_burst: limits.lines_burst,
        api_rate_per_s: limits.requests_per_s,
        api_burst: limits.requests_burst,
        login_per_address: limits.logins_per_address,
        login_per_account: limits.logins_per_account,
        user_bytes_max: limits.user_bytes,
        dirty_bytes_max: limits.dirty_bytes,
        hashing_queue: limits.hash_queue,
        journal_bytes_max: config.journal_bytes_max,
        journal_segment_bytes: config.journal_segment_bytes,
        store_queue_rows: config.store_queue_rows,
        drain: config.drain,
        ..preset
    }
}

/// Too few files may be open for a server.
#[derive(Debug, thiserror::Error)]
#[error(
    "this process may open {limit} files, and a server with {shards} shards needs {needed}. Raise the limit: `ulimit -n 65536`, \
     systemd LimitNOFILE=65536, Docker --ulimit nofile=65536"
)]
pub(crate) struct TooFewFiles {
    limit: u64,
    shards: u64,
    needed: u64,
}

/// How many connections there may be when this many files may be open and there are so many shards.
pub(crate) fn connections(config: &Config, open_files: u64, shards: usize) -> Result<u32, TooFewFiles> {
    let shards = shards as u64;
    let own = FILES_MIN + FILES_PER_SHARD * shards;
    let needed = own + CONNECTIONS_MIN;
    if open_files < needed {
        return Err(TooFewFiles { limit: open_files, shards, needed });
    }
    let plenty = FILES_RESERVED + FILES_PER_SHARD * shards;
    let room = open_files - plenty.min(open_files / 2).max(own);
    let room = u32::try_from(room.min(CONNECTIONS_MAX)).unwrap_or(u32::MAX);
    Ok(config.limits.connections.map_or(room, |wanted| wanted.min(room)))
}

/// What the doors want to know.
pub(crate) fn doors(config: &Config, connections_max: u32) -> DoorsConfig {
    let limits = &config.limits;
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    DoorsConfig {
        tcp_sync: Some(config.public(config.ports.tcp_sync)),
        http: Some(config.public(config.ports.http)),
        metrics: Some(([127, 0, 0, 1], config.ports.metrics).into()),
        tls: config.tls.clone().map(|(certificate_chain, private_key)| TlsFiles { certificate_chain, private_key }),
        plain_beyond_loopback: config.tls.is_none() || config.tls_allow_plain,
        trusted_proxies: config.trusted_proxies.clone(),
        cors_origins: config.http.cors_origins.clone(),
        catalogue_require_auth: config.catalogue_require_auth,
        limits: DoorLimits {
            connections_max,
            connections_per_address_max: limits.connections_per_address,
            window_max: limits.window_updates,
            greeting_timeout_ms: millis(limits.greeting_timeout),
            sync_idle_timeout_ms: millis(config.sync_idle_timeout),
            http_idle_timeout_ms: millis(config.http.idle_timeout),
            http_body_bytes_max: config.http.body_bytes_max,
            http_header_bytes_max: config.http.header_bytes_max,
            write_timeout_ms: millis(limits.write_timeout),
        },
    }
}
