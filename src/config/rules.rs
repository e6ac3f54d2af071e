//! The rules between keys: what may not be combined, and what follows from a public bind. A configuration that breaks
//! one refuses to start and names the way out; nothing is silently weakened.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::Config;
use crate::config::layers::{ConfigError, Resolved};
use crate::config::value::Value;
use storage::store::PostgresConfig;

/// Who may make an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registration {
    /// Anybody.
    Open,
    /// Nobody; `mangahub admin create` still does.
    Closed,
}

const SECRET_BYTES_MIN: usize = 32;

/// `auto` is open on loopback and closed beyond it.
pub(super) fn registration(word: &str, listen: IpAddr) -> Registration {
    match word {
        "open" => Registration::Open,
        "closed" => Registration::Closed,
        _ if listen.is_loopback() => Registration::Open,
        _ => Registration::Closed,
    }
}

/// A secret is absent, or long enough that guessing it is hopeless (RFC 7518 3.2: as long as the hash).
pub(super) fn secret(text: String) -> Result<Option<String>, ConfigError> {
    match text.len() {
        0 => Ok(None),
        SECRET_BYTES_MIN.. => Ok(Some(text)),
        length => Err(ConfigError::Rule(format!(
            "auth.jwt_secret has {length} bytes; it needs at least {SECRET_BYTES_MIN} bytes. \
             Leave it out to have one generated, or make one with: openssl rand -base64 48"
        ))),
    }
}

/// The database, when there is one: an address that can be read.
pub(super) fn database(url: String) -> Result<Option<PostgresConfig>, ConfigError> {
    if url.is_empty() {
        return Ok(None);
    }
    let config = PostgresConfig::new(url);
    config.check().map_err(|error| ConfigError::Rule(format!("store.url (DATABASE_URL): {error}")))?;
    Ok(Some(config))
}

/// Certificate and key come together.
pub(super) fn tls(cert: &str, key: &str) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    match (cert, key) {
        ("", "") => Ok(None),
        ("", _) => Err(ConfigError::Rule("tls.key is set without tls.cert; TLS needs both".to_owned())),
        (_, "") => Err(ConfigError::Rule("tls.cert is set without tls.key; TLS needs both".to_owned())),
        (cert, key) => Ok(Some((PathBuf::from(cert), PathBuf::from(key)))),
    }
}

/// Single addresses; a proxy is known by its own.
pub(super) fn addresses(texts: &[String]) -> Result<Vec<IpAddr>, ConfigError> {
    let wrong = |text: &String| ConfigError::Rule(format!("trusted_proxies has {text:?}, which is not an IP address"));
    texts.iter().map(|text| text.parse().map_err(|_| wrong(text))).collect()
}

/// What this version knows but cannot do is refused, never ignored.
pub(super) fn available(resolved: &Resolved) -> Result<(), ConfigError> {
    for (key, value, origin) in resolved.iter().filter(|(key, ..)| resolved.is_set(key.path)) {
        if key.path == "auth.registration" && *value == Value::Text("invite".to_owned()) {
            return Err(ConfigError::Rule(format!(
                "auth.registration = \"invite\" ({origin}) is not available in this version; use \"closed\" and \
                 `mangahub admin create`, or \"open\""
            )));
        }
    }
    Ok(())
}

/// One written, one prepared, two on their way to the store.
const JOURNAL_SEGMENTS_MIN: u64 = 4;

/// Everything that concerns more than one key.
pub(super) fn check(config: &Config, insecure: bool) -> Result<(), ConfigError> {
    if !config.listen.is_loopback() && config.tls.is_none() && config.trusted_proxies.is_empty() && !insecure {
        return Err(ConfigError::Rule(format!(
            "listening on {} without TLS would send passwords and tokens in clear. Set tls.cert and tls.key, or \
             trusted_proxies when a proxy ends TLS, or pass --insecure if this network is yours",
            config.listen
        )));
    }
    if config.auth.refresh_token_ttl < config.auth.access_token_ttl {
        return Err(ConfigError::Rule(
            "auth.refresh_token_ttl_s is shorter than auth.access_token_ttl_s; a session would end before its token"
                .to_owned(),
        ));
    }
    if config.limits.dirty_bytes > config.limits.user_bytes {
        return Err(ConfigError::Rule(
            "limits.dirty_bytes is larger than limits.user_bytes, of which it is a part".to_owned(),
        ));
    }
    if config.journal_bytes_max < JOURNAL_SEGMENTS_MIN * config.journal_segment_bytes {
        return Err(ConfigError::Rule(format!(
            "journal.bytes_max is less than {JOURNAL_SEGMENTS_MIN} times journal.segment_bytes; a journal has at least as many \
             segments"
        )));
    }
    if !config.journal_segment_bytes.is_multiple_of(4_096) {
        return Err(ConfigError::Rule("journal.segment_bytes is not a multiple of 4096, a disk's block".to_owned()));
    }
    distinct_ports(config)
}

fn distinct_ports(config: &Config) -> Result<(), ConfigError> {
    let ports = config.ports;
    let mut taken = BTreeMap::new();
    for (name, port) in [("http", ports.http), ("tcp_sync", ports.tcp_sync), ("metrics", ports.metrics)] {
        match taken.insert(port, name) {
            Some(other) if port != 0 => {
                return Err(ConfigError::Rule(format!("ports.{other} and ports.{name} are both {port}")));
            }
            _ => {}
        }
    }
    Ok(())
}
