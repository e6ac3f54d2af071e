//! The connections of one store, by what they are for: two for batches, each with every other lane; some for account writes;
//! some that reads share.

use std::cell::Cell;
use std::rc::Rc;

use tokio_postgres::Client;

use super::failure::Failure;
use super::identity::Identity;
use super::link::{Connector, Link, Redo, SharedLink, transaction};
use super::thread::Kind;
use crate::store::StoreError;

/// Connections for batches: each has its share of the lanes, so a lane never has two transactions open.
pub(super) const BATCH_LINKS: usize = 2;
const ACCOUNT_LINKS: usize = 2;
const READ_LINKS: usize = 2;

/// Everything a store has open.
pub(super) struct Links {
    connector: Rc<Connector>,
    batch: [Link; BATCH_LINKS],
    accounts: [Link; ACCOUNT_LINKS],
    reads: [SharedLink; READ_LINKS],
    next: Cell<usize>,
}

impl Links {
    /// No connection yet: each is made when it is needed.
    pub(super) fn new(connector: Connector) -> Self {
        let connector = Rc::new(connector);
        Self {
            batch: std::array::from_fn(|_| Link::new(&connector)),
            accounts: std::array::from_fn(|_| Link::new(&connector)),
            reads: std::array::from_fn(|_| SharedLink::new(&connector)),
            next: Cell::new(0),
            connector,
        }
    }

    /// How a transaction that writes begins.
    pub(super) fn begin(&self) -> &'static str {
        self.connector.identity().begin()
    }

    /// Whether a connection still leads to the database that this server began with.
    pub(super) async fn check_again(&self, client: &Client) -> Result<(), Failure> {
        self.identity().check_again(client, &self.connector.shown()).await
    }

    /// What is known of the database.
    pub(super) fn identity(&self) -> &Identity {
        self.connector.identity()
    }

    /// The connection of a share of the lanes.
    pub(super) fn batch(&self, share: usize) -> &Link {
        &self.batch[share]
    }

    /// A connection of its own, closed afterwards.
    pub(super) async fn own(&self) -> Result<Client, StoreError> {
        self.connector.connect().await
    }

    /// A write in a transaction of its own.
    pub(super) async fn write<T>(
        &self,
        kind: Kind,
        redo: Redo,
        work: impl AsyncFn(&Client) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let link = &self.accounts[self.turn() % ACCOUNT_LINKS];
        link.alone(kind, redo, async |client| {
            transaction(client, self.begin(), async |client| work(client).await).await
        })
        .await
    }

    /// A read: everything it sends, it sends before it waits.
    pub(super) async fn read<T>(&self, work: impl AsyncFn(&Client) -> Result<T, Failure>) -> Result<T, StoreError> {
        self.reads[self.turn() % READ_LINKS].read(work).await
    }

    fn turn(&self) -> usize {
        let turn = self.next.get();
        self.next.set(turn.wrapping_add(1));
        turn
    }
}
