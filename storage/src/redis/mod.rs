//! The way to Redis, for the hot cache and for the wire between nodes: what the URL means, a client of crate `fred` for a
//! single Redis, one behind sentinels or a cluster, plain or over TLS, what its errors mean, the breaker, and what is told of it all. Every call has a time-out of
//! its own, and fred tries nothing twice: what became of a write that was not answered is for the caller to sort out. Only ever
//! used on a thread with a Tokio runtime, because fred panics outside one.

mod breaker;
mod circuit;
mod standing;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fred::clients::{Client, WithOptions};
use fred::interfaces::{ClientLike, ClusterInterface};
use fred::types::config::{
    Config, ConnectionConfig, Options, ReconnectPolicy, Server, ServerConfig, TlsConfig, TlsConnector,
    UnresponsiveConfig,
};
use fred::types::{ClientState, ClusterHash, CustomCommand, Value};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

pub(crate) use breaker::Breaker;
pub use breaker::BreakerState;
pub(crate) use circuit::{Circuit, Errors, Reconnects};
pub(crate) use standing::{Standing, count, counts};

/// A connection that owes an answer for this long is closed and made anew.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(5);

/// Attempts at a command on a cluster. What is sent twice changes nothing: every write carries its merge order or its number.
const CLUSTER_ATTEMPTS: u32 = 3;

/// Between two attempts to connect.
const RECONNECT_EVERY_MS: u32 = 500;

/// Why Redis cannot be used as configured. A Redis that is merely away is no error.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The URL makes no sense.
    #[error("cache.redis_url cannot be used: {0}")]
    Url(String),
    /// The file of certificate authorities makes no sense.
    #[error("cache.tls_ca: {} cannot be used: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A thread does not start.
    #[error("the thread that speaks to Redis could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No answer in time, or no connection: what became of it nobody knows.
    Silent(String),
    /// Redis has answered that it does not want some of it.
    Refused { text: String, commands: usize },
    /// Redis has lost the scripts: nothing of theirs was done.
    NoScript,
    /// What was read is not what a server writes.
    Odd,
}

impl Failure {
    /// What to tell a person.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Silent(text) | Self::Refused { text, .. } => text,
            Self::NoScript => "the scripts are gone",
            Self::Odd => "something holds what this version does not write",
        }
    }
}

/// What an address may begin with. The client takes whatever it does not know for the first: a TLS that is misspelled would send the
/// password in clear.
const SCHEMES: [&str; 7] =
    ["redis", "rediss", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster", "redis+unix"];

/// Reads the configuration; connects to nothing.
pub(crate) fn configure(url: &str, tls_ca: Option<&Path>) -> Result<Config, RedisError> {
    let wrong = |error: fred::error::Error| RedisError::Url(error.details().to_owned());
    if !url.split_once("://").is_some_and(|(scheme, _)| SCHEMES.contains(&scheme)) {
        return Err(RedisError::Url(format!("it must begin with one of {}, and ://", SCHEMES.join(", "))));
    }
    let mut redis = Config::from_url(url).map_err(wrong)?;
    redis.fail_fast = false;
    if redis.tls.is_some()
        && let Some(ca) = tls_ca
    {
        redis.tls = Some(tls(ca)?);
    } else if tls_ca.is_some() {
        return Err(RedisError::Url("a certificate authority is given, but the URL is not rediss://".to_owned()));
    }
    Ok(redis)
}

/// Trusts the certificate authorities of a PEM file and nobody else.
fn tls(ca: &Path) -> Result<TlsConfig, RedisError> {
    let wrong = |reason: String| RedisError::Certificate { path: ca.to_owned(), reason };
    let mut roots = rustls::RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca).map_err(|error| wrong(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(config).into())
}

/// Where it is, without a password.
pub(crate) fn place(config: &Config) -> String {
    let list = |servers: &[Server]| servers.iter().map(Server::to_string).collect::<Vec<_>>().join(", ");
    let tls = if config.tls.is_some() { ", TLS" } else { "" };
    match &config.server {
        ServerConfig::Sentinel { hosts, .. } => format!("behind sentinels at {}{tls}", list(hosts)),
        ServerConfig::Clustered { hosts, .. } => format!("cluster at {}{tls}", list(hosts)),
        server => format!("{}{tls}", list(&server.hosts())),
    }
}

/// A connection, made again and again until this is dropped. Without one every call says so at once: nothing piles up while
/// Redis is away.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) client: WithOptions<Client>,
}

impl Connection {
    /// Begins connecting. Needs a Tokio runtime.
    pub(crate) fn start(config: Config) -> Self {
        // A cluster's node may say that another one has the key now, which costs an attempt.
        let max_command_attempts = if config.server.is_clustered() { CLUSTER_ATTEMPTS } else { 1 };
        let connection = ConnectionConfig {
            connection_timeout: Duration::from_secs(2),
            internal_command_timeout: Duration::from_secs(2),
            max_command_attempts,
            unresponsive: UnresponsiveConfig {
                max_timeout: Some(UNRESPONSIVE_AFTER),
                interval: Duration::from_millis(500),
            },
            ..ConnectionConfig::default()
        };
        let policy = ReconnectPolicy::new_constant(0, RECONNECT_EVERY_MS);
        let client = Client::new(config, None, Some(connection), Some(policy));
        // The task ends with the client.
        drop(client.connect());
        Self { client: client.with_options(&at_once()) }
    }

    /// Whether there is a connection now.
    pub(crate) fn is_there(&self) -> bool {
        self.client.state() == ClientState::Connected
    }

    /// One command, by its name and arguments.
    pub(crate) async fn command(
        &self,
        patience: Duration,
        name: &'static str,
        arguments: Vec<Value>,
    ) -> Result<Value, Failure> {
        within(patience, self.client.custom(command(name), arguments)).await
    }

    /// Loads scripts, which Redis may have lost.
    pub(crate) async fn load_scripts(&self, patience: Duration, scripts: &[&'static str]) -> Result<(), Failure> {
        if !self.is_there() {
            return Err(Failure::Silent("no connection".to_owned()));
        }
        // Each node of a cluster knows its own.
        let nodes = self.client.cached_cluster_state().map(|cluster| cluster.unique_primary_nodes());
        let servers = nodes.map_or(vec![None], |nodes| nodes.into_iter().map(Some).collect());
        for server in servers {
            // Of the client itself: options on top of options lose to them.
            let client =
                <Client as ClientLike>::with_options(&self.client, &Options { cluster_node: server, ..at_once() });
            for script in scripts {
                let load: Vec<Value> = vec!["LOAD".into(), (*script).into()];
                let _: Value = within(patience, client.custom(command("SCRIPT"), load)).await?;
            }
        }
        Ok(())
    }

    /// Says goodbye, if that is quick.
    pub(crate) async fn close(&self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.client.quit()).await;
    }
}

/// Work of a loop on a thread of its own.
pub(crate) type Local<T> = Pin<Box<dyn Future<Output = T>>>;

/// Waits for what is under way, for ever when nothing is; then nothing is.
pub(crate) async fn next<T>(slot: &mut Option<Local<T>>) -> T {
    let Some(work) = slot else { return std::future::pending().await };
    let done = work.await;
    *slot = None;
    done
}

/// Without a connection a call fails at once.
pub(crate) fn at_once() -> Options {
    Options { fail_fast: true, ..Options::default() }
}

/// A command that fred's pipelines do not have (scripts, streams). On a cluster the key says which node gets it, and fred has to be
/// told which of the arguments that is: what it calls the first key is the first text.
pub(crate) fn command(name: &'static str) -> CustomCommand {
    let key = match name {
        "EVAL" | "EVALSHA" => ClusterHash::Offset(2),
        "XREAD" => ClusterHash::Offset(5),
        _ => ClusterHash::FirstKey,
    };
    CustomCommand::new_static(name, key, false)
}

/// Gives an answer so much time.
pub(crate) async fn within<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, fred::error::Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(patience, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failure(&error)),
        Err(_) => Err(Failure::Silent(format!("no answer within {} ms", patience.as_millis()))),
    }
}

/// What Redis calls a script by.
pub(crate) fn sha1(script: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, script.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an error means. fred keeps what Redis says word for word: a wrong type or a script's error is about the rows; that it is
/// loading, out of memory or a replica now is about Redis, and passes.
pub(crate) fn failure(error: &fred::error::Error) -> Failure {
    let text = error.details().to_owned();
    match text.split_whitespace().next() {
        Some("NOSCRIPT") => Failure::NoScript,
        Some("WRONGTYPE" | "ERR") => Failure::Refused { text, commands: 1 },
        _ => Failure::Silent(text),
    }
}
