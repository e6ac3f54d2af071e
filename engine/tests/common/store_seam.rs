//! A store that can go away: in front of the real one, refusing while it is away, and counting loads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proto::{SessionId, UserId};
use storage::journal::{JournalId, LaneCursors, StoreId};
use storage::store::{
    Account, Answer, Applied, Batch, HistoryAfter, HistoryPage, ImportReport, ImportRow, LoadedUser, NewSession,
    NewUser, ParkedRecord, Purged, Revocation, RevokeAt, Role, Rotate, Rotation, Rows, SeedUser, SeriesRow, Session,
    SharedStore, Store, StoreCheck, StoreError, TokenHash, UserKey,
};

/// The switches.
#[derive(Default)]
pub struct Switches {
    /// Everything is refused.
    pub away: AtomicBool,
    /// Batches are refused: the journal is not drained.
    pub holds: AtomicBool,
    /// Every row is refused: records are parked.
    pub refuses: AtomicBool,
    /// Users that were loaded.
    pub loads: AtomicUsize,
}

/// The real store behind switches.
#[derive(Clone, Default)]
pub struct Switched {
    pub switches: Arc<Switches>,
    real: Arc<OnceLock<SharedStore>>,
}

impl Switched {
    /// For `Seams::store`.
    pub fn seam(&self) -> Arc<dyn Fn(SharedStore) -> SharedStore + Send + Sync> {
        let this = self.clone();
        Arc::new(move |real| {
            let _ = this.real.set(real);
            Arc::new(this.clone())
        })
    }

    pub fn set_away(&self, away: bool) {
        self.switches.away.store(away, Ordering::SeqCst);
    }

    pub fn set_holds(&self, holds: bool) {
        self.switches.holds.store(holds, Ordering::SeqCst);
    }

    fn real(&self) -> &SharedStore {
        self.real.get().expect("the seam was given the real store")
    }
}

fn unavailable<T: Send + 'static>() -> Answer<T> {
    let error = StoreError::Unavailable { reason: "switched off".into(), retry_after: Duration::from_millis(500) };
    Box::pin(std::future::ready(Err(error)))
}

macro_rules! switched {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl Store for Switched {
            fn kind(&self) -> &'static str { self.real().kind() }

            fn store_id(&self) -> StoreId { self.real().store_id() }

            fn apply(&self, batch: Batch) -> Answer<Applied> {
                let off = |switch: &AtomicBool| switch.load(Ordering::SeqCst);
                if off(&self.switches.refuses) && !batch.rows.is_empty() {
                    return Box::pin(std::future::ready(Err(StoreError::Refused { reason: "switched to refusing".into() })));
                }
                if off(&self.switches.away) || off(&self.switches.holds) { unavailable() } else { self.real().apply(batch) }
            }

            fn load_user(&self, user: UserId) -> Answer<Option<LoadedUser>> {
                self.switches.loads.fetch_add(1, Ordering::SeqCst);
                if self.switches.away.load(Ordering::SeqCst) { unavailable() } else { self.real().load_user(user) }
            }

            $(fn $name(&self, $($argument: $type),*) -> Answer<$answer> {
                if self.switches.away.load(Ordering::SeqCst) { unavailable() } else { self.real().$name($($argument),*) }
            })*
        }
    };
}

switched! {
    cursors(journal: JournalId) -> LaneCursors;
    journals() -> Vec<(JournalId, LaneCursors)>;
    adopt(journal: JournalId, cursors: LaneCursors) -> ();
    parked(rows_max: usize) -> Vec<ParkedRecord>;
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
    touch_sessions(seen: Vec<(SessionId, u64)>) -> ();
    revocations(since_unix_ms: u64, now_unix_ms: u64) -> Vec<Revocation>;
    purge(now_unix_ms: u64, tombstones_before_unix_ms: u64) -> Purged;
    seed_users(users: Vec<SeedUser>) -> u64;
    load_catalogue() -> Vec<SeriesRow>;
    import(rows: Vec<ImportRow>, now_unix_ms: u64) -> ImportReport;
    ping() -> ();
    check() -> StoreCheck;
}
