//! The connection: one client of crate `fred`, for a single Redis or one behind sentinels, plain or over TLS, as the URL says.
//! Every call has a time-out of its own, and fred tries nothing twice: what became of a write that was not answered is for the
//! caller to sort out. Only ever used on the cache's own thread, because fred panics outside a Tokio runtime.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fred::clients::{Client, Pipeline, WithOptions};
use fred::interfaces::{ClientLike, EventInterface, HashesInterface, KeysInterface};
use fred::types::config::{
    Config, ConnectionConfig, Options, ReconnectPolicy, Server, ServerConfig, TlsConfig, TlsConnector,
    UnresponsiveConfig,
};
use fred::types::{ClientState, ClusterHash, CustomCommand, Value};
use hub::load::StoredUser;
use proto::{NodeId, UserId};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::broadcast::Receiver;

use super::layout::{self, Mark};
use super::pending::{Changes, Series, Writes};
use super::{HotConfig, HotError};

const USER_SCRIPT: &str = include_str!("user.lua");
const PROGRESS_SCRIPT: &str = include_str!("progress.lua");

/// A write has more to do than a read: this many times its time-out.
const WRITE_PATIENCE: u32 = 10;

/// A connection that owes an answer for this long is closed and made anew.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(5);

/// Between two attempts to connect.
const RECONNECT_EVERY_MS: u32 = 500;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No answer in time, or no connection: what became of it nobody knows.
    Silent(String),
    /// Redis has answered that it does not want some of it.
    Refused { text: String, commands: usize },
    /// Redis has lost the scripts: nothing of theirs was done.
    NoScript,
    /// What was read is not what a server writes.
    Odd,
}

/// What a mark must say for this node to trust a copy, and what it puts there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vouching {
    pub(super) node: NodeId,
    pub(super) mark: Mark,
}

#[derive(Clone)]
pub(super) struct Redis {
    /// Without a connection it says so at once: nothing piles up while Redis is away.
    client: WithOptions<Client>,
    user_sha: String,
    progress_sha: String,
    ttl_s: i64,
    timeout: Duration,
}

/// Reads the configuration; connects to nothing.
pub(super) fn configure(config: &HotConfig) -> Result<Config, HotError> {
    let wrong = |error: fred::error::Error| HotError::Url(error.details().to_owned());
    let mut redis = Config::from_url(&config.url).map_err(wrong)?;
    if redis.server.is_clustered() {
        return Err(HotError::Url("a cluster is not supported".to_owned()));
    }
    redis.fail_fast = false;
    if redis.tls.is_some()
        && let Some(ca) = &config.tls_ca
    {
        redis.tls = Some(tls(ca)?);
    } else if config.tls_ca.is_some() {
        return Err(HotError::Url("a certificate authority is given, but the URL is not rediss://".to_owned()));
    }
    Ok(redis)
}

/// Trusts the certificate authorities of a PEM file and nobody else.
fn tls(ca: &Path) -> Result<TlsConfig, HotError> {
    let wrong = |reason: String| HotError::Certificate { path: ca.to_owned(), reason };
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
pub(super) fn place(config: &Config) -> String {
    let list = |servers: &[Server]| servers.iter().map(Server::to_string).collect::<Vec<_>>().join(", ");
    let tls = if config.tls.is_some() { ", TLS" } else { "" };
    match &config.server {
        ServerConfig::Sentinel { hosts, .. } => format!("behind sentinels at {}{tls}", list(hosts)),
        server => format!("{}{tls}", list(&server.hosts())),
    }
}

impl Redis {
    /// Begins connecting, again and again until it is dropped. Needs a Tokio runtime.
    pub(super) fn start(config: Config, hot: &HotConfig) -> Result<Self, HotError> {
        let connection = ConnectionConfig {
            connection_timeout: Duration::from_secs(2),
            internal_command_timeout: Duration::from_secs(2),
            max_command_attempts: 1,
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
        Ok(Self {
            client: client.with_options(&at_once()),
            user_sha: sha1(USER_SCRIPT),
            progress_sha: sha1(PROGRESS_SCRIPT),
            ttl_s: i64::try_from(hot.ttl.as_secs().max(1)).unwrap_or(i64::MAX),
            timeout: hot.timeout,
        })
    }

    /// Tells of every new connection, before anything is answered on it.
    pub(super) fn connections(&self) -> Receiver<Server> {
        self.client.reconnect_rx()
    }

    /// Tells why connections fail.
    pub(super) fn errors(&self) -> Receiver<(fred::error::Error, Option<Server>)> {
        self.client.error_rx()
    }

    async fn within<T>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T, fred::error::Error>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(patience, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::Silent(format!("no answer within {} ms", patience.as_millis()))),
        }
    }

    /// Whether it answers; loads the scripts, which it may have lost.
    pub(super) async fn probe(&self) -> Result<(), Failure> {
        if self.client.state() != ClientState::Connected {
            return Err(Failure::Silent("no connection".to_owned()));
        }
        let patience = self.timeout * WRITE_PATIENCE;
        for script in [USER_SCRIPT, PROGRESS_SCRIPT] {
            let load = CustomCommand::new_static("SCRIPT", ClusterHash::FirstKey, false);
            self.within(patience, self.client.custom::<Value, _>(load, vec!["LOAD", script])).await?;
        }
        Ok(())
    }

    /// A user's copy: the rows, and this node's mark. `None` when there is none.
    pub(super) async fn load(&self, user: UserId, node: NodeId) -> Result<Option<(StoredUser, Option<Mark>)>, Failure> {
        let copy: Value = self.within(self.timeout, self.client.hgetall(layout::user_key(user))).await?;
        let fields = copy.into_array();
        if fields.is_empty() {
            return Ok(None);
        }
        let mut texts = Vec::with_capacity(fields.len());
        for field in &fields {
            texts.push(field.as_bytes_str().ok_or(Failure::Odd)?);
        }
        let (pairs, []) = texts.as_chunks::<2>() else { return Err(Failure::Odd) };
        let pairs = pairs.iter().map(|[field, text]| (&**field, &**text));
        layout::parse_user(user, node, pairs).map(Some).ok_or(Failure::Odd)
    }

    /// Writes what has gathered, in one pipeline.
    pub(super) async fn write(&self, writes: &Writes, vouching: Vouching) -> Result<(), Failure> {
        let pipeline = self.client.pipeline().with_options(&at_once());
        self.queue(&pipeline, writes, vouching).await.map_err(|error| failure(&error))?;
        let answers =
            self.within(self.timeout * WRITE_PATIENCE, async { Ok(pipeline.try_all::<Value>().await) }).await?;
        let mut refused: Option<(String, usize)> = None;
        for answer in answers {
            let Err(error) = answer else { continue };
            match failure(&error) {
                Failure::Refused { text, .. } => refused.get_or_insert((text, 0)).1 += 1,
                failure => return Err(failure),
            }
        }
        refused.map_or(Ok(()), |(text, commands)| Err(Failure::Refused { text, commands }))
    }

    /// Puts the commands into the pipeline; sends nothing.
    async fn queue(
        &self,
        pipeline: &WithOptions<Pipeline<Client>>,
        writes: &Writes,
        vouching: Vouching,
    ) -> Result<(), fred::error::Error> {
        for (user, changes) in &writes.users {
            let key = layout::user_key(*user);
            if changes.forget {
                let _: () = pipeline.del(key.as_str()).await?;
            } else {
                let _: () = pipeline.custom(evalsha(), self.user_arguments(key, changes, vouching)).await?;
            }
            for (manga, series) in &changes.series {
                let key = layout::progress_key(*user, *manga);
                let _: () = pipeline.custom(evalsha(), self.progress_arguments(key, series)).await?;
            }
        }
        for (user, series) in &writes.touches {
            let _: () = pipeline.expire(layout::user_key(*user), self.ttl_s, None).await?;
            for manga in series {
                let _: () = pipeline.expire(layout::progress_key(*user, *manga), self.ttl_s, None).await?;
            }
        }
        Ok(())
    }

    fn user_arguments(&self, key: String, changes: &Changes, vouching: Vouching) -> Vec<Value> {
        let mut arguments = Vec::with_capacity(6 + 4 * changes.series.len());
        arguments.extend([Value::from(self.user_sha.as_str()), 1.into(), key.into(), self.ttl_s.into()]);
        match changes.complete {
            true => arguments.extend([vouching.node.0.to_string().into(), vouching.mark.to_text().into()]),
            false => arguments.extend([Value::from(""), "".into()]),
        }
        for (manga, series) in &changes.series {
            if let Some(row) = &series.progress {
                arguments.extend([format!("p{manga}").into(), layout::progress_text(row).into()]);
            }
            if let Some(row) = &series.library {
                arguments.extend([format!("l{manga}").into(), layout::library_text(row).into()]);
            }
        }
        arguments
    }

    fn progress_arguments(&self, key: String, series: &Series) -> Vec<Value> {
        let mut arguments: Vec<Value> = Vec::with_capacity(14);
        arguments.extend([Value::from(self.progress_sha.as_str()), 1.into(), key.into(), self.ttl_s.into()]);
        match &series.progress {
            Some(row) => {
                let page = row.page.map(|page| page.0.to_string()).unwrap_or_default();
                arguments.extend([
                    row.key.generation.0.to_string().into(),
                    row.key.chapter.to_string().into(),
                    row.key.version.0.to_string().into(),
                    row.key.node.0.to_string().into(),
                    if row.deleted { "1" } else { "0" }.into(),
                    page.into(),
                    layout::rfc3339(row.key.version.unix_ms()).into(),
                ]);
            }
            None => arguments.extend(std::iter::repeat_n(Value::from(""), 7)),
        }
        match &series.library {
            Some(row) => {
                let status = if row.deleted { "" } else { row.status.as_str() };
                arguments.extend([
                    row.version.0.to_string().into(),
                    row.node.0.to_string().into(),
                    Value::from(status),
                ]);
            }
            None => arguments.extend(std::iter::repeat_n(Value::from(""), 3)),
        }
        arguments
    }

    /// Says goodbye, if that is quick.
    pub(super) async fn close(&self) {
        let _ = tokio::time::timeout(self.timeout, self.client.quit()).await;
    }
}

fn at_once() -> Options {
    Options { fail_fast: true, ..Options::default() }
}

/// fred's pipelines have no scripts.
fn evalsha() -> CustomCommand {
    CustomCommand::new_static("EVALSHA", ClusterHash::FirstKey, false)
}

/// What Redis calls a script by.
fn sha1(script: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, script.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an error means. fred keeps what Redis says word for word: a wrong type or a script's error is about the rows; that it is
/// loading, out of memory or a replica now is about Redis, and passes.
fn failure(error: &fred::error::Error) -> Failure {
    let text = error.details().to_owned();
    match text.split_whitespace().next() {
        Some("NOSCRIPT") => Failure::NoScript,
        Some("WRONGTYPE" | "ERR") => Failure::Refused { text, commands: 1 },
        _ => Failure::Silent(text),
    }
}
