//! The store of the simulation: the real SQLite one, whose answers to loads come when the seed says so, and which is away or
//! refuses a batch now and then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::oneshot;
use futures_executor::block_on;
use proto::UserId;
use storage::store::seam::{Seam, refused};
use storage::store::{Answer, Applied, Batch, LoadedUser, SharedStore, StoreError};

use super::executor::Random;

type Loaded = Result<Option<LoadedUser>, StoreError>;

struct Load {
    real: SharedStore,
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

/// What the seed does to the store; sits in front of the real one.
pub(crate) struct SimStore {
    moods: Mutex<Moods>,
}

impl SimStore {
    pub(crate) fn new(seed: u64, refuses_one_in: usize) -> Self {
        let moods = Moods { random: Random::new(seed), refuses_one_in, loads: Vec::new() };
        Self { moods: Mutex::new(moods) }
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
            let load = &mut moods.loads[at];
            let away = away_one_in > 0 && random.one_in(away_one_in);
            load.answer = Some(if away { unavailable() } else { block_on(load.real.load_user(load.user)) });
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

impl Seam for SimStore {
    fn apply(&self, real: &SharedStore, batch: Batch) -> Answer<Applied> {
        let mut moods = self.moods();
        let one_in = moods.refuses_one_in;
        if one_in > 0 && batch.parked.is_empty() && moods.random.one_in(one_in) {
            return refused(StoreError::Refused { reason: "simulated".into() });
        }
        real.apply(batch)
    }

    fn load_user(&self, real: &SharedStore, user: UserId) -> Answer<Option<LoadedUser>> {
        let (sender, answer) = oneshot::channel();
        self.moods().loads.push(Load { real: Arc::clone(real), user, sender, answer: None });
        Box::pin(async { answer.await.unwrap_or_else(|_| unavailable()) })
    }
}
