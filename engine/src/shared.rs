//! What all shards share: settings, the store, the published snapshots (catalogue, revocations, cursors) and the tables of
//! rates. Everything in here is immutable or published as a whole; nothing in here is locked by a shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Instant;

use arc_swap::ArcSwap;
use proto::{NodeId, UserId};
use ring::hmac;
use runtime::notify::Notify;
use storage::hot::HotCache;
use storage::journal::Cursors;
use storage::store::SharedStore;
use storage::wire::Wire;

use crate::accounts::Accounts;
use crate::catalogue::Catalogue;
use crate::config::EngineConfig;
use crate::fanout::Encoders;
use crate::limits::SharedBuckets;
use crate::revocations::Revocations;

/// One per process.
pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) shards: usize,
    pub(crate) node: NodeId,
    /// The data folder's number in resume tokens.
    pub(crate) folder_id: u64,
    /// This boot's number in resume tokens.
    pub(crate) epoch: u64,
    pub(crate) started: Instant,
    pub(crate) store: SharedStore,
    /// Between memory and the store, when there is one.
    pub(crate) hot: Option<HotCache>,
    /// To the other nodes on the same database, when there can be some.
    pub(crate) wire: Option<Wire>,
    /// The store's database was away at the start; until it is back and what others have put there is taken in, nobody is loaded.
    pub(crate) is_awaited: AtomicBool,
    pub(crate) cursors: Cursors,
    pub(crate) catalogue: Arc<ArcSwap<Catalogue>>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) accounts: Accounts,
    pub(crate) encoders: Encoders,
    pub(crate) api_rates: SharedBuckets,
    /// Keys the conflict tokens of the strategy `ask`.
    pub(crate) conflict_key: hmac::Key,
    /// What works, as of the last look.
    pub(crate) health: ArcSwap<crate::Health>,
    /// Shards whose doors are closed and whose gates are empty; each waits for all before it ends.
    pub(crate) shards_done: AtomicUsize,
    /// Wakes each shard's end.
    pub(crate) done_wakes: Vec<Notify>,
}

impl Shared {
    /// The shard that owns a user today. The hash spreads over any number of shards and nothing stored depends on it; it is
    /// not the lanes' hash, so that a shard's users spread over all lanes.
    pub(crate) fn owner(&self, user: UserId) -> usize {
        let bytes = u128::from_le_bytes(*user.as_bytes());
        let mixed = ((bytes as u64) ^ ((bytes >> 64) as u64)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        ((u128::from(mixed) * self.shards as u128) >> 64) as usize
    }

    /// Sixteen bytes that only this server can make.
    pub(crate) fn conflict_tag(&self, message: &[u8]) -> [u8; 16] {
        let tag = hmac::sign(&self.conflict_key, message);
        std::array::from_fn(|at| tag.as_ref()[at])
    }
}
