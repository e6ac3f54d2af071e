//! The rules between keys: what may not be combined, and what follows from a public bind. A configuration that breaks
//! one refuses to start and names the way out; nothing is silently weakened.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::Config;
use crate::config::layers::{ConfigError, Resolved};

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
pub(super) fn registration(word: &str, listen: Option<IpAddr>) -> Registration {
    match word {
        "open" => Registration::Open,
        "closed" => Registration::Closed,
        _ if listen.is_some_and(|address| address.is_loopback()) => Registration::Open,
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

/// Certificate and key come together.
pub(super) fn tls(cert: &str, key: &str) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    match (cert, key) {
        ("", "") => Ok(None),
        ("", _) => Err(ConfigError::Rule("tls.key is set without tls.cert; TLS needs both".to_owned())),
        (_, "") => Err(ConfigError::Rule("tls.cert is set without tls.key; TLS needs both".to_owned())),
        (cert, key) => Ok(Some((PathBuf::from(cert), PathBuf::from(key)))),
    }
}

/// Everything that concerns more than one key.
pub(super) fn check(config: &Config, resolved: &Resolved) -> Result<(), ConfigError> {
    for (key, _, origin) in resolved.iter().filter(|(key, ..)| key.reserved && resolved.is_set(key.path)) {
        return Err(ConfigError::Rule(format!(
            "{} ({origin}) is not available in this version: progress is kept in the embedded store of the data \
             folder. Unset it to start",
            key.path
        )));
    }
    let insecure = resolved.get("insecure").0 == crate::config::value::Value::Switch(true);
    if !config.listen.is_loopback() && config.tls.is_none() && config.trusted_proxies.is_empty() && !insecure {
        return Err(ConfigError::Rule(format!(
            "listening on {} without TLS would send passwords and tokens in clear. Set tls.cert and tls.key, or \
             trusted_proxies when a proxy ends TLS, or pass --insecure if this network is yours",
            config.listen
        )));
    }
    for proxy in &config.trusted_proxies {
        if network(proxy).is_none() {
            return Err(ConfigError::Rule(format!(
                "trusted_proxies has {proxy:?}, which is neither an IP address nor a network such as 10.0.0.0/8"
            )));
        }
    }
    if config.auth.refresh_token_ttl < config.auth.access_token_ttl {
        return Err(ConfigError::Rule(
            "auth.refresh_token_ttl_s is shorter than auth.access_token_ttl_s; a session would end before its token"
                .to_owned(),
        ));
    }
    if config.limits.dirty_bytes > config.limits.user_cache_bytes {
        return Err(ConfigError::Rule(
            "limits.dirty_bytes is larger than limits.user_cache_bytes, of which it is a part".to_owned(),
        ));
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

/// An address, or an address and a prefix length.
fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    Some((address, prefix.unwrap_or(longest))).filter(|(_, prefix)| *prefix <= longest)
}
