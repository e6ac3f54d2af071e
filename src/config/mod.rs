//! The one configuration: every key's value, checked by itself and against the others, as plain typed fields. Nothing
//! else in the server reads the environment or a configuration file.

pub(crate) mod keys;
mod layers;
mod rules;
mod show;
mod value;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use runtime::probe::BackendKind;
use storage::store::PostgresConfig;

pub(crate) use layers::{ConfigError, Resolved, Sources};
pub(crate) use rules::Registration;
pub(crate) use show::{as_json, as_table};
use value::Value;

/// The commented configuration file with every key at its default; `mangahub init` writes it.
pub(crate) const DEFAULT_FILE: &str = include_str!("../../mangahub.toml");

/// The configuration of one server.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Where everything durable lives.
    pub(crate) data_dir: PathBuf,
    /// The address of the public doors.
    pub(crate) listen: IpAddr,
    /// How many shards; none means as many as allowed CPUs.
    pub(crate) shards: Option<usize>,
    /// Which backend, when it is not for the probe to choose.
    pub(crate) backend: Option<BackendKind>,
    /// Peers whose forwarded headers count.
    pub(crate) trusted_proxies: Vec<IpAddr>,
    /// How long a stop may take.
    pub(crate) drain: Duration,
    /// The ports.
    pub(crate) ports: Ports,
    /// Certificate and key, when TLS is on.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// With TLS, whether plain connections from beyond loopback are served too.
    pub(crate) tls_allow_plain: bool,
    /// Sessions and registration.
    pub(crate) auth: Auth,
    /// Whether an empty catalogue is filled with the demo.
    pub(crate) demo_catalogue: bool,
    /// Whether catalogue reads need a sign-in.
    pub(crate) catalogue_require_auth: bool,
    /// Whether progress above a known total is always refused.
    pub(crate) strict_total: bool,
    /// Whether every change is answered only when the database has it.
    pub(crate) ack_database: bool,
    pub(crate) ack_database_max: Duration,
    /// The HTTP door's own settings.
    pub(crate) http: Http,
    /// How long a sync connection may stay silent.
    pub(crate) sync_idle_timeout: Duration,
    /// What is limited, and to how much.
    pub(crate) limits: Limits,
    /// How large the journal may grow.
    pub(crate) journal_bytes_max: u64,
    /// How large one of its segments is.
    pub(crate) journal_segment_bytes: u64,
    /// The Postgres database that is the store; none means the embedded one.
    pub(crate) database: Option<PostgresConfig>,
    /// Rows that may wait for the store in memory before the journal's segments are read instead.
    pub(crate) store_queue_rows: usize,
    /// Redis between memory and the store, when it is configured.
    pub(crate) cache: Option<Cache>,
    /// What is logged.
    pub(crate) log_filter: String,
    /// Whether the log is JSON lines.
    pub(crate) log_json: bool,
    /// One update in so many is logged on its whole way; 0: none.
    pub(crate) trace_sample: u64,
}

/// The ports of the doors that this version opens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// HTTP.
    pub(crate) http: u16,
    /// Progress sync over TCP.
    pub(crate) tcp_sync: u16,
    /// Metrics, loopback only.
    pub(crate) metrics: u16,
}

/// Sessions and registration.
#[derive(Clone)]
pub(crate) struct Auth {
    /// The secret that signs tokens; none means one generated in the data folder.
    pub(crate) jwt_secret: Option<String>,
    /// How long an access token lives.
    pub(crate) access_token_ttl: Duration,
    /// How long a refresh token lives.
    pub(crate) refresh_token_ttl: Duration,
    /// Who may register.
    pub(crate) registration: Registration,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the secret: this ends up in logs.
        out.debug_struct("Auth").field("registration", &self.registration).finish_non_exhaustive()
    }
}

/// The hot cache.
#[derive(Clone)]
pub(crate) struct Cache {
    /// Where Redis is; may carry a password.
    pub(crate) redis_url: String,
    /// The only certificate authorities to trust, when not the system's.
    pub(crate) tls_ca: Option<PathBuf>,
    /// How long a key lives that nobody uses.
    pub(crate) ttl: Duration,
    /// How long a read may take.
    pub(crate) timeout: Duration,
    /// Rows that may wait to be written.
    pub(crate) queue_rows: usize,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the URL: this ends up in logs.
        out.debug_struct("Cache").field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// The HTTP door's own settings.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    /// Origins that browsers may call from.
    pub(crate) cors_origins: Vec<String>,
    /// The largest request body.
    pub(crate) body_bytes_max: usize,
    /// The largest request head.
    pub(crate) header_bytes_max: usize,
    /// How long an idle connection is kept.
    pub(crate) idle_timeout: Duration,
}

/// What is limited, and to how much. Defaults and reasons: mangahub.toml.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) connections: Option<u32>,
    pub(crate) connections_per_address: u32,
    pub(crate) greeting_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) mailbox_messages: usize,
    pub(crate) queue_messages: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) window_updates: u32,
    pub(crate) updates_per_s: u32,
    pub(crate) updates_burst: u32,
    pub(crate) lines_per_s: u32,
    pub(crate) lines_burst: u32,
    pub(crate) requests_per_s: u32,
    pub(crate) requests_burst: u32,
    pub(crate) logins_per_address: u32,
    pub(crate) logins_per_account: u32,
    pub(crate) hash_queue: usize,
    pub(crate) user_bytes: usize,
    pub(crate) dirty_bytes: usize,
}

impl Config {
    /// Takes the values of a checked configuration and holds them against each other.
    pub(crate) fn from_resolved(resolved: &Resolved) -> Result<Self, ConfigError> {
        rules::available(resolved)?;
        let read = Reader(resolved);
        let listen = read.text("listen").parse().expect("the key's kind is an address");
        let config = Self {
            data_dir: PathBuf::from(read.text("data_dir")),
            listen,
            shards: Some(read.number("shards")).filter(|shards| *shards > 0),
            backend: match read.text("backend").as_str() {
                "io_uring" => Some(BackendKind::IoUring),
                "epoll" => Some(BackendKind::Epoll),
                _ => None,
            },
            trusted_proxies: rules::addresses(&read.list("trusted_proxies"))?,
            drain: read.millis("drain_ms"),
            ports: Ports {
                http: read.number("ports.http"),
                tcp_sync: read.number("ports.tcp_sync"),
                metrics: read.number("ports.metrics"),
            },
            tls: rules::tls(&read.text("tls.cert"), &read.text("tls.key"))?,
            tls_allow_plain: read.switch("tls.allow_plain"),
            auth: Auth {
                jwt_secret: rules::secret(read.text("auth.jwt_secret"))?,
                access_token_ttl: read.seconds("auth.access_token_ttl_s"),
                refresh_token_ttl: read.seconds("auth.refresh_token_ttl_s"),
                registration: rules::registration(&read.text("auth.registration"), listen),
            },
            demo_catalogue: read.switch("catalogue.demo"),
            catalogue_require_auth: read.switch("catalogue.require_auth"),
            strict_total: read.switch("progress.strict_total"),
            ack_database: read.text("progress.ack") == "database",
            ack_database_max: read.millis("progress.ack_database_max_ms"),
            http: Http {
                cors_origins: read.list("http.cors_origins"),
                body_bytes_max: read.number("http.body_bytes_max"),
                header_bytes_max: read.number("http.header_bytes_max"),
                idle_timeout: read.millis("http.idle_timeout_ms"),
            },
            sync_idle_timeout: read.millis("tcp_sync.idle_timeout_ms"),
            limits: Limits::read(&read),
            journal_bytes_max: read.number("journal.bytes_max"),
            journal_segment_bytes: read.number("journal.segment_bytes"),
            database: rules::database(read.text("store.url"))?,
            store_queue_rows: read.number("store.queue_rows"),
            cache: Some(read.text("cache.redis_url")).filter(|url| !url.is_empty()).map(|redis_url| Cache {
                redis_url,
                tls_ca: Some(read.text("cache.tls_ca")).filter(|path| !path.is_empty()).map(PathBuf::from),
                ttl: read.seconds("cache.ttl_s"),
                timeout: read.millis("cache.timeout_ms"),
                queue_rows: read.number("cache.queue_rows"),
            }),
            log_filter: read.text("log.filter"),
            log_json: read.text("log.format") == "json",
            trace_sample: read.number("trace.sample"),
        };
        rules::check(&config, read.switch("insecure"))?;
        Ok(config)
    }

    /// The address of a public door on this port.
    pub(crate) fn public(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.listen, port)
    }
}

impl Limits {
    fn read(read: &Reader<'_>) -> Self {
        Self {
            connections: Some(read.number("limits.connections")).filter(|number| *number > 0),
            connections_per_address: read.number("limits.connections_per_address"),
            greeting_timeout: read.millis("limits.greeting_timeout_ms"),
            write_timeout: read.millis("limits.write_timeout_ms"),
            mailbox_messages: read.number("limits.mailbox_messages"),
            queue_messages: read.number("limits.queue_messages"),
            queue_bytes: read.number("limits.queue_bytes"),
            window_updates: read.number("limits.window_updates"),
            updates_per_s: read.number("limits.updates_per_s"),
            updates_burst: read.number("limits.updates_burst"),
            lines_per_s: read.number("limits.lines_per_s"),
            lines_burst: read.number("limits.lines_burst"),
            requests_per_s: read.number("limits.requests_per_s"),
            requests_burst: read.number("limits.requests_burst"),
            logins_per_address: read.number("limits.logins_per_address"),
            logins_per_account: read.number("limits.logins_per_account"),
            hash_queue: read.number("limits.hash_queue"),
            user_bytes: read.number("limits.user_bytes"),
            dirty_bytes: read.number("limits.dirty_bytes"),
        }
    }
}

/// Reads typed values out of the table; the kinds of the table guarantee that they fit.
struct Reader<'r>(&'r Resolved);

impl Reader<'_> {
    fn number<T: TryFrom<u64>>(&self, path: &str) -> T {
        let Value::Number(number) = self.0.get(path).0 else { unreachable!("{path} is a number in the table") };
        T::try_from(number).ok().expect("the key's range fits its field")
    }

    fn text(&self, path: &str) -> String {
        let Value::Text(text) = &self.0.get(path).0 else { unreachable!("{path} is text in the table") };
        text.clone()
    }

    fn switch(&self, path: &str) -> bool {
        let Value::Switch(on) = self.0.get(path).0 else { unreachable!("{path} is a switch in the table") };
        on
    }

    fn list(&self, path: &str) -> Vec<String> {
        let Value::List(items) = &self.0.get(path).0 else { unreachable!("{path} is a list in the table") };
        items.clone()
    }

    fn millis(&self, path: &str) -> Duration {
        Duration::from_millis(self.number(path))
    }

    fn seconds(&self, path: &str) -> Duration {
        Duration::from_secs(self.number(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let flags =
            flags.iter().map(|(path, value)| ("--set".to_owned(), path.to_string(), value.to_string())).collect();
        Config::from_resolved(&Resolved::from_sources(&Sources { flags, ..Sources::default() })?)
    }

    #[test]
    fn the_defaults_are_a_valid_configuration() {
        let config = config(&[]).unwrap();
        assert!(config.listen.is_loopback());
        assert_eq!(config.auth.registration, Registration::Open);
        assert_eq!(config.public(config.ports.http).to_string(), "127.0.0.1:8084");
    }

    #[test]
    fn every_number_that_a_key_may_hold_fits_where_it_goes() {
        for key in keys::KEYS {
            let ends = match key.kind {
                keys::Kind::Port => [0, u64::from(u16::MAX)],
                keys::Kind::Count { min, max } | keys::Kind::Time { min, max, .. } | keys::Kind::Bytes { min, max } => {
                    [min, max]
                }
                _ => continue,
            };
            for number in ends {
                // Refused beside the others' defaults, perhaps, but in words.
                if let Err(refused) = config(&[(key.path, &number.to_string())]) {
                    assert!(!matches!(refused, ConfigError::Value { .. }), "{}: {refused}", key.path);
                }
            }
        }
    }

    #[test]
    fn the_commented_file_shows_every_key_at_its_default() {
        let uncommented: String = DEFAULT_FILE
            .lines()
            .map(|line| line.strip_prefix("#").filter(|rest| !rest.starts_with([' ', '#'])).unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mangahub.toml");
        std::fs::write(&file, uncommented).unwrap();
        let sources = Sources { config_file: Some(file), ..Sources::default() };
        let from_file = Resolved::from_sources(&sources).unwrap();
        let defaults = Resolved::from_sources(&Sources::default()).unwrap();
        for ((key, value, origin), (_, default, _)) in from_file.iter().zip(defaults.iter()) {
            assert_ne!(*origin, layers::Origin::Default, "mangahub.toml does not show {}", key.path);
            assert_eq!(value, default, "{}", key.path);
        }
    }

    #[test]
    fn a_public_bind_without_tls_needs_a_proxy_or_insecure() {
        let error = config(&[("listen", "0.0.0.0")]).unwrap_err().to_string();
        assert!(error.contains("--insecure") && error.contains("tls.cert"), "{error}");
        assert!(config(&[("listen", "0.0.0.0"), ("insecure", "true")]).is_ok());
        assert!(config(&[("listen", "0.0.0.0"), ("trusted_proxies", "10.0.0.1")]).is_ok());
    }

    #[test]
    fn registration_is_closed_on_a_public_bind_unless_set() {
        let public = [("listen", "0.0.0.0"), ("insecure", "true")];
        assert_eq!(config(&public).unwrap().auth.registration, Registration::Closed);
        let open = [public[0], public[1], ("auth.registration", "open")];
        assert_eq!(config(&open).unwrap().auth.registration, Registration::Open);
    }

    #[test]
    fn a_short_secret_and_half_a_certificate_are_refused() {
        assert!(config(&[("auth.jwt_secret", "short")]).unwrap_err().to_string().contains("32 bytes"));
        assert!(config(&[("tls.cert", "cert.pem")]).unwrap_err().to_string().contains("tls.key"));
    }

    #[test]
    fn a_database_is_taken_from_its_url_and_never_shown_with_its_password() {
        let with = |url: &str| {
            let environment = [("DATABASE_URL".to_owned(), url.to_owned())].into();
            let resolved = Resolved::from_sources(&Sources { environment, ..Sources::default() }).unwrap();
            Config::from_resolved(&resolved)
        };
        let config = with("postgres://u:secret@h/d").unwrap();
        assert!(config.database.is_some());
        assert!(!format!("{config:?}").contains("secret"), "{config:?}");
        let error = with("mysql://u:secret@h/d").unwrap_err().to_string();
        assert!(error.contains("store.url") && !error.contains("secret"), "{error}");
    }
}
