//! Connections: how they are made, kept, shared and given up. A link holds one connection at most and makes a new one when the
//! old is gone, with pauses that double while the database is away. A connection whose state is not known (a request that timed
//! out, panicked or broke off in a transaction) is closed, never used again.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use super::address::Address;
use super::failure::Failure;
use super::identity::Identity;
use super::statement::run;
use super::thread::Kind;
use super::tls::Tls;
use crate::store::StoreError;

/// The first pause after a connection could not be made; doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a request meets other transactions before its caller hears of it.
const CONFLICTS_MAX: u32 = 8;
/// How often a request is moved to a new connection: an idle one that had died unnoticed, and the next if that dies too.
const LOSSES_MAX: u32 = 2;

/// Whether a transaction may run again when nobody knows whether it was committed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Redo {
    /// Running it twice is running it once.
    Harmless,
    /// It is the caller's to find out.
    Never,
}

/// How long is waited for the database before it counts as away.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// For a connection, a read, an account write.
    pub(super) answer: Duration,
    /// For what nobody waits for.
    pub(super) bulk: Duration,
}

/// Makes connections.
pub(super) struct Connector {
    address: Address,
    tls: Tls,
    patience: Patience,
    absence: RefCell<Option<Absence>>,
    identity: Identity,
}

/// Since the database could not be reached: when to try next.
struct Absence {
    until: Instant,
    pause: Duration,
    reason: String,
}

/// Why a connection was not made.
pub(super) struct Unreached {
    pub(super) reason: String,
    /// Nobody was there, or not ready; the opposite is to be turned away (a wrong password, a certificate that nobody trusts).
    pub(super) is_away: bool,
}

impl Connector {
    pub(super) fn new(address: Address, tls: Tls, patience: Patience, identity: Identity) -> Self {
        Self { address, tls, patience, absence: RefCell::new(None), identity }
    }

    /// Where the database is, for a person.
    pub(super) fn shown(&self) -> String {
        self.address.shown()
    }

    /// What is known of the database.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A new connection to the database that this server began with, unless the last attempt failed a moment ago.
    pub(super) async fn connect(&self) -> Result<Client, StoreError> {
        self.identity.admits()?;
        self.is_worth_asking()?;
        // Whoever comes while this one attempt is made does not wait for it.
        if let Some(absence) = &mut *self.absence.borrow_mut() {
            absence.until = Instant::now() + self.patience.answer;
        }
        let mut client = self.attempt().await.map_err(|unreached| self.noted(unreached.reason))?;
        let place = self.address.shown();
        let checking = self.identity.check(&mut client, &place, crate::writer::now_unix_ms(), self.patience);
        match checking.await {
            Ok(()) => {}
            Err(StoreError::Unavailable { reason, .. }) => return Err(self.noted(reason)),
            Err(error) => return Err(error),
        }
        if self.absence.take().is_some() {
            tracing::info!(database = place, "the database answers again");
        }
        Ok(client)
    }

    /// Not while the last attempt to connect failed a moment ago, or the next is being made.
    fn is_worth_asking(&self) -> Result<(), StoreError> {
        let absence = self.absence.borrow();
        let Some(absence) = &*absence else { return Ok(()) };
        let retry_after = absence.until.saturating_duration_since(Instant::now());
        match retry_after.is_zero() {
            true => Ok(()),
            false => Err(StoreError::Unavailable { reason: absence.reason.clone(), retry_after }),
        }
    }

    /// A new connection, whatever it is to.
    pub(super) async fn attempt(&self) -> Result<Client, Unreached> {
        let connecting = self.address.config.connect(self.tls.clone());
        // The driver's own limit is for each address and without the greeting.
        let late = |_| Unreached { reason: "connecting took too long".to_owned(), is_away: true };
        let made = timeout(self.patience.answer, connecting).await.map_err(late)?;
        let (client, connection) =
            made.map_err(|error| Unreached { reason: said(&error), is_away: is_away(&error) })?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the database ended");
            }
        });
        Ok(client)
    }

    /// A link's turn: waited for in line, but not behind somebody who finds that nobody answers.
    async fn turn<'l, T>(&self, link: &'l Mutex<T>) -> Result<MutexGuard<'l, T>, StoreError> {
        if let Ok(turn) = link.try_lock() {
            return Ok(turn);
        }
        self.is_worth_asking()?;
        Ok(link.lock().await)
    }

    /// A request had no answer in time: whoever waits behind it need not find out for itself.
    fn silent(&self, waited: Duration) -> StoreError {
        self.noted(Failure::silent(waited))
    }

    fn noted(&self, reason: String) -> StoreError {
        let mut absence = self.absence.borrow_mut();
        let last = absence.as_ref().map_or(PAUSE_MIN / 2, |absence| absence.pause);
        let pause = (last * 2).min(PAUSE_MAX);
        let reason = format!("{}: {reason}", self.address.shown());
        if absence.is_none() {
            tracing::warn!(%reason, "the database cannot be reached");
        }
        let retry_after = jittered(pause);
        *absence = Some(Absence { until: Instant::now() + retry_after, pause, reason: reason.clone() });
        StoreError::Unavailable { reason, retry_after }
    }
}

/// Whether a connection failed because nobody answers, or not yet.
fn is_away(error: &tokio_postgres::Error) -> bool {
    if let Some(said) = error.as_db_error() {
        // Shutting down or starting up, too many connections, a pooler without its server.
        return matches!(&said.code().code()[..2], "57" | "53" | "08");
    }
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    // What does not speak, or speaks with a certificate that nobody trusts, is somebody.
    error.is_closed() || source.is_some_and(|source| source.kind() != std::io::ErrorKind::InvalidData)
}

/// What went wrong, with its cause: the driver's own text says only where.
fn said(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(said), _) => format!("{} (SQLSTATE {})", said.message(), said.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// Between half of a pause and all of it, so that several nodes do not come back at the same moment.
fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0_u8);
    pause.mul_f64(0.5 + (random % 1_024) as f64 / 2_048.0)
}

/// A connection for one request at a time, in the order of asking.
pub(super) struct Link {
    connector: Rc<Connector>,
    idle: Mutex<Option<Client>>,
}

impl Link {
    pub(super) fn new(connector: &Rc<Connector>) -> Self {
        Self { connector: connector.clone(), idle: Mutex::new(None) }
    }

    /// Runs a request that is alone on the connection. What met another transaction is tried again, and so is what found its
    /// connection gone.
    pub(super) async fn alone<T>(
        &self,
        kind: Kind,
        redo: Redo,
        work: impl AsyncFn(&Client) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let patience = match kind {
            Kind::Read | Kind::Account => self.connector.patience.answer,
            Kind::Bulk => self.connector.patience.bulk,
        };
        let mut idle = self.connector.turn(&self.idle).await?;
        let (mut conflicts, mut losses) = (0, 0);
        loop {
            self.connector.identity.admits()?;
            // Out of the slot while it is used: whatever ends this future early ends the connection too.
            let client = match idle.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => self.connector.connect().await?,
            };
            let Ok(answer) = timeout(patience, work(&client)).await else {
                return Err(self.connector.silent(patience));
            };
            let failure = match answer {
                Ok(done) => {
                    *idle = Some(client);
                    return Ok(done);
                }
                Err(failure) => failure,
            };
            let lost = matches!(failure, Failure::Lost(_) | Failure::Unknown(_));
            // Ends whatever was begun; outside of a transaction it does nothing.
            if !lost && matches!(timeout(patience, run(&client, "ROLLBACK")).await, Ok(Ok(()))) {
                *idle = Some(client);
            }
            match failure {
                Failure::Conflict(_) if conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                    sleep(jittered(Duration::from_millis(5) * conflicts)).await;
                }
                Failure::Lost(_) if losses < LOSSES_MAX => losses += 1,
                Failure::Unknown(_) if losses < LOSSES_MAX && redo == Redo::Harmless => losses += 1,
                other => return Err(other.into_error()),
            }
        }
    }
}

/// A connection that many requests share at the same time: each sends everything it has to say at once, so requests never mix.
pub(super) struct SharedLink {
    connector: Rc<Connector>,
    current: Mutex<Option<Rc<Client>>>,
}

impl SharedLink {
    pub(super) fn new(connector: &Rc<Connector>) -> Self {
        Self { connector: connector.clone(), current: Mutex::new(None) }
    }

    async fn client(&self) -> Result<Rc<Client>, StoreError> {
        self.connector.identity.admits()?;
        let mut current = self.connector.turn(&self.current).await?;
        if let Some(client) = current.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let client = Rc::new(self.connector.connect().await?);
        *current = Some(client.clone());
        Ok(client)
    }

    /// Runs a read, once more when its connection turns out to be gone.
    pub(super) async fn read<T>(&self, work: impl AsyncFn(&Client) -> Result<T, Failure>) -> Result<T, StoreError> {
        let mut losses = 0;
        let patience = self.connector.patience.answer;
        loop {
            let client = self.client().await?;
            match timeout(patience, work(&client)).await {
                Ok(Ok(read)) => return Ok(read),
                Ok(Err(Failure::Lost(_) | Failure::Conflict(_))) if losses < LOSSES_MAX => {
                    losses += 1;
                    self.give_up(&client).await;
                }
                Ok(Err(other)) => return Err(other.into_error()),
                Err(_) => {
                    self.give_up(&client).await;
                    return Err(self.connector.silent(patience));
                }
            }
        }
    }

    async fn give_up(&self, client: &Rc<Client>) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|current| Rc::ptr_eq(current, client)) {
            *current = None;
        }
    }
}

/// A transaction around `work`, which must leave no error of a statement unreported.
pub(super) async fn transaction<T>(
    client: &Client,
    begin: &str,
    work: impl AsyncFnOnce(&Client) -> Result<T, Failure>,
) -> Result<T, Failure> {
    run(client, begin).await?;
    let done = work(client).await?;
    run(client, "COMMIT").await.map_err(Failure::committing)?;
    Ok(done)
}
