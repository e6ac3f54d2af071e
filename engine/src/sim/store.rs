//! The store of the simulation: the real SQLite one, whose answers to loads come when the seed says so, and which is away or
//! refuses a batch now and then.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::oneshot;
use futures_executor::block_on;
use proto::{SessionId, UserId};
use storage::journal::{JournalId, LaneCursors, StoreId};
use storage::store::{
    Account, Answer, Applied, Batch, HistoryAfter, HistoryPage, ImportReport, ImportRow, LoadedUser, NewSession,
    NewUser, ParkedRecord, Purged, Revocation, RevokeAt, Role, Rotate, Rotation, Rows, SeedUser, SeriesRow, Session,
    SharedStore, Store, StoreCheck, StoreError, TokenHash, UserKey,
};

use super::executor::Random;

type Loaded = Result<Option<LoadedUser>, StoreError>;

struct Load {
    user: UserId,
    sender: oneshot::Sender<Loaded>,
    answer: Option<Loaded>,
}

struct Moods {
    random: Random,
    /// One batch in so many is refused; never for 0.
    refuses_one_in: usize,
    loads: Vec<Load>,
}

/// The real store behind the seed.
pub(crate) struct SimStore {
    real: SharedStore,
    moods: Mutex<Moods>,
}

impl SimStore {
    pub(crate) fn new(real: SharedStore, seed: u64, refuses_one_in: usize) -> Self {
        let moods = Moods { random: Random::new(seed), refuses_one_in, loads: Vec::new() };
        Self { real, moods: Mutex::new(moods) }
    }

    fn moods(&self) -> MutexGuard<'_, Moods> {
        self.moods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One load goes one step further: the store is read, or its answer arrives. False when there is none.
    pub(crate) fn step_load(&self, random: &mut Random, away_one_in: usize) -> bool {
        let mut moods = self.moods();
        if moods.loads.is_empty() {
            return false;
        }
        let at = random.below(moods.loads.len());
        if moods.loads[at].answer.is_none() {
            let user = moods.loads[at].user;
            let away = away_one_in > 0 && random.one_in(away_one_in);
            let answer = if away { unavailable() } else { block_on(self.real.load_user(user)) };
            moods.loads[at].answer = Some(answer);
            return true;
        }
        let Load { sender, answer, .. } = moods.loads.swap_remove(at);
        drop(moods);
        let _ = sender.send(answer.unwrap_or_else(unavailable));
        true
    }

    /// The process that asked is dead.
    pub(crate) fn forget_loads(&self) {
        self.moods().loads.clear();
    }
}

fn unavailable<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable { reason: "simulated".into(), retry_after: Duration::from_millis(500) })
}

macro_rules! real {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl Store for SimStore {
            fn kind(&self) -> &'static str { self.real.kind() }

            fn store_id(&self) -> StoreId { self.real.store_id() }

            fn apply(&self, batch: Batch) -> Answer<Applied> {
                let mut moods = self.moods();
                let one_in = moods.refuses_one_in;
                if one_in > 0 && batch.parked.is_empty() && moods.random.one_in(one_in) {
                    let error = StoreError::Refused { reason: "simulated".into() };
                    return Box::pin(std::future::ready(Err(error)));
                }
                self.real.apply(batch)
            }

            fn load_user(&self, user: UserId) -> Answer<Option<LoadedUser>> {
                let (sender, answer) = oneshot::channel();
                self.moods().loads.push(Load { user, sender, answer: None });
                Box::pin(async { answer.await.unwrap_or_else(|_| unavailable()) })
            }

            $(fn $name(&self, $($argument: $type),*) -> Answer<$answer> { self.real.$name($($argument),*) })*
        }
    };
}

real! {
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
