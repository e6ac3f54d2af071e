//! A seam in front of a store, for tests of the rooms above: the real store does the work, and whoever sits in the seam sees
//! batches and loads first and may refuse anything. Every call of [`Store`] is passed on here and nowhere else.

use std::sync::Arc;

use proto::{SessionId, UserId};

use super::{
    Account, Answer, Applied, Batch, HistoryAfter, HistoryPage, ImportReport, ImportRow, LoadedUser, NewSession,
    NewUser, ParkedRecord, Purged, QueueReading, Revocation, RevokeAt, Role, Rotate, Rotation, Rows, SeedUser,
    SeriesRow, Session, SharedStore, Store, StoreCheck, StoreError, TokenHash, UserKey,
};
use crate::journal::{JournalId, LaneCursors, StoreId};

/// What sits in the seam.
pub trait Seam: Send + Sync + 'static {
    /// Whether a call other than the two below reaches the store.
    fn admit(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// A batch on its way to the store.
    fn apply(&self, real: &SharedStore, batch: Batch) -> Answer<Applied>;

    /// A load on its way to the store.
    fn load_user(&self, real: &SharedStore, user: UserId) -> Answer<Option<LoadedUser>>;
}

/// A store with a seam in front of it.
pub struct Seamed<S> {
    real: SharedStore,
    seam: Arc<S>,
}

impl<S: Seam> Seamed<S> {
    /// Puts `seam` in front of `real`.
    pub fn new(real: SharedStore, seam: Arc<S>) -> Self {
        Self { real, seam }
    }
}

/// A failure, at once.
pub fn refused<T: Send + 'static>(error: StoreError) -> Answer<T> {
    Box::pin(std::future::ready(Err(error)))
}

macro_rules! pass_on {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl<S: Seam> Store for Seamed<S> {
            fn kind(&self) -> &'static str { self.real.kind() }

            fn place(&self) -> String { self.real.place() }

            fn store_id(&self) -> StoreId { self.real.store_id() }

            fn may_be_away(&self) -> bool { self.real.may_be_away() }

            fn batches_at_a_time(&self) -> usize { self.real.batches_at_a_time() }

            fn batch_rows_max(&self) -> usize { self.real.batch_rows_max() }

            fn queues(&self) -> Vec<QueueReading> { self.real.queues() }

            fn apply(&self, batch: Batch) -> Answer<Applied> { self.seam.apply(&self.real, batch) }

            fn load_user(&self, user: UserId) -> Answer<Option<LoadedUser>> { self.seam.load_user(&self.real, user) }

            $(fn $name(&self, $($argument: $type),*) -> Answer<$answer> {
                match self.seam.admit() {
                    Ok(()) => self.real.$name($($argument),*),
                    Err(error) => refused(error),
                }
            })*
        }
    };
}

pass_on! {
    cursors(journal: JournalId) -> LaneCursors;
    journals() -> Vec<(JournalId, LaneCursors)>;
    adopt(journal: JournalId, cursors: LaneCursors) -> ();
    parked(after: i64, rows_max: usize) -> Vec<ParkedRecord>;
    unpark(id: i64) -> bool;
    apply_parked(id: i64, rows: Rows) -> Applied;
    history(user: UserId, after: Option<HistoryAfter>, rows_max: usize) -> HistoryPage;
    create_user(user: NewUser) -> ();
    find_user(key: UserKey) -> Option<Account>;
    set_password_hash(user: UserId, hash: String, now_unix_ms: u64) -> ();
    set_role(user: UserId, role: Role, now_unix_ms: u64) -> ();
    admins() -> Vec<Account>;
    count_users() -> u64;
    open_session(session: NewSession) -> Vec<Revocation>;
    rotate(rotate: Rotate) -> Rotation;
    revoke_by_token(token: TokenHash, at: RevokeAt) -> Option<Revocation>;
    revoke_session(user: UserId, sid: SessionId, at: RevokeAt) -> Option<Revocation>;
    revoke_all(user: UserId, except: Option<SessionId>, at: RevokeAt) -> Vec<Revocation>;
    sessions(user: UserId, now_unix_ms: u64) -> Vec<Session>;
    revocations(since_unix_ms: u64, now_unix_ms: u64, rows_max: usize) -> Vec<Revocation>;
    purge(now_unix_ms: u64, tombstones_before_unix_ms: u64) -> Purged;
    seed_users(users: Vec<SeedUser>) -> u64;
    load_catalogue() -> Vec<SeriesRow>;
    import(rows: Vec<ImportRow>, now_unix_ms: u64) -> ImportReport;
    ping() -> u64;
    rest() -> ();
    check() -> StoreCheck;
}
