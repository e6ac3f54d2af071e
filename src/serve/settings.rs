//! Turns the configuration into what the rooms below want to know, and keeps the token secret: given, or generated once
//! into the data folder, readable by its owner only.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use engine::config::{EngineConfig, Limits, TokenConfig};
use protocols::{DoorLimits, DoorsConfig, TlsFiles};
use ring::rand::{SecureRandom, SystemRandom};

use crate::catalogue;
use crate::config::{Config, Registration};

const SECRET_NAME: &str = "jwt.secret";
/// 384 random bits, as hexadecimal text.
const SECRET_BYTES: usize = 48;
/// Descriptors that are not connections: journal, database, rings, logs, and room for a surprise.
const FILES_RESERVED: u64 = 512;
/// Beyond this a connection table is a mistake, whatever the system allows.
const CONNECTIONS_MAX: u64 = 1_000_000;

/// Why there is no secret to sign tokens with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// The folder or the file cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read it, so it is no secret.
    #[error("{} can be read by others (mode {mode:o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It was cut short.
    #[error("{} holds {length} bytes, which is too short for a secret; remove it to have one generated \
             (everybody must then sign in again)", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// What it holds.
        length: usize,
    },
}

/// What the engine wants to know. Makes the data folder and its secret when they are not there.
pub(crate) fn engine(config: &Config) -> Result<EngineConfig, SecretError> {
    let secret = match &config.auth.jwt_secret {
        Some(secret) => secret.clone().into_bytes(),
        None => kept_secret(&config.data_dir)?,
    };
    let mut wanted = EngineConfig::new(&config.data_dir, Vec::new());
    wanted.shards = config.shards;
    wanted.backend = config.backend;
    wanted.registration = match config.auth.registration {
        Registration::Open => engine::config::Registration::Open,
        Registration::Closed => engine::config::Registration::Closed,
    };
    wanted.strict_total = config.strict_total;
    wanted.tokens = TokenConfig {
        secret,
        access_ttl: config.auth.access_token_ttl,
        refresh_ttl: config.auth.refresh_token_ttl,
        ..wanted.tokens
    };
    wanted.limits = limits(config, wanted.limits);
    if config.demo_catalogue {
        wanted.first_catalogue = catalogue::demo();
    }
    Ok(wanted)
}

fn limits(config: &Config, preset: Limits) -> Limits {
    let limits = &config.limits;
    Limits {
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
        store_queue_rows: config.store_queue_rows,
        drain: config.drain,
        ..preset
    }
}

/// How many connections there may be when this many files may be open.
pub(crate) fn connections(config: &Config, open_files: u64) -> u32 {
    let room = open_files.saturating_sub(FILES_RESERVED).clamp(64, CONNECTIONS_MAX);
    let room = u32::try_from(room).unwrap_or(u32::MAX);
    config.limits.connections.map_or(room, |wanted| wanted.min(room))
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

/// Makes the data folder, for its owner only, when it is not there.
pub(crate) fn make_folder(path: &Path) -> Result<(), SecretError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| SecretError::Io { path: path.to_owned(), source })
}

/// The folder's secret; generated when there is none. Two processes that start at once end up with the same one.
fn kept_secret(data_dir: &Path) -> Result<Vec<u8>, SecretError> {
    make_folder(data_dir)?;
    let path = data_dir.join(SECRET_NAME);
    let failed = |source| SecretError::Io { path: path.clone(), source };
    match read_secret(&path)? {
        Some(secret) => return Ok(secret),
        None => tracing::info!(path = %path.display(), "a token secret was generated"),
    }
    let mut bytes = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| failed(io::Error::other("the system has no randomness")))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let draft = data_dir.join(format!("{SECRET_NAME}.{}", std::process::id()));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    // A link appears whole or not at all, and never over one that somebody else made first.
    let linked = written.and_then(|()| fs::hard_link(&draft, &path));
    let _ = fs::remove_file(&draft);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    fs::File::open(data_dir).and_then(|folder| folder.sync_all()).map_err(failed)?;
    read_secret(&path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

fn read_secret(path: &Path) -> Result<Option<Vec<u8>>, SecretError> {
    let failed = |source| SecretError::Io { path: path.to_owned(), source };
    let mut file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), mode });
    }
    let mut secret = Vec::new();
    file.read_to_end(&mut secret).map_err(failed)?;
    if secret.len() < SECRET_BYTES {
        return Err(SecretError::Short { path: path.to_owned(), length: secret.len() });
    }
    Ok(Some(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let first = kept_secret(&data).unwrap();
        assert_eq!(kept_secret(&data).unwrap(), first);
        assert!(first.len() >= 64);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&data), mode(&data.join(SECRET_NAME))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        kept_secret(folder.path()).unwrap();
        let path = folder.path().join(SECRET_NAME);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(kept_secret(folder.path()), Err(SecretError::Exposed { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "cut").unwrap();
        assert!(matches!(kept_secret(folder.path()), Err(SecretError::Short { length: 3, .. })));
    }
}
