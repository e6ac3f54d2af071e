//! Loading users: one question to the store per user however many wait, and one answer for all of them. A failure is
//! everybody's answer and leaves nothing behind, so the next request asks again.

use std::future::ready;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hub::UserState;
use proto::{Code, UserId};
use storage::store::{LoadedUser, StoreError};

use crate::core::Core;
use crate::driver::{self, Sabotage, sabotaged};
use crate::fault::Fault;
use crate::message::Target;
use crate::users::assemble;

impl Core {
    /// Loads a user who has been entered as loading. Whoever only reads may be answered from the hot cache.
    pub(crate) fn load(&mut self, user: UserId, only_reads: bool) {
        let (Some(hot), true) = (&self.shared.hot, only_reads) else { return self.load_from_store(user, false) };
        let Some(shard) = self.shard.upgrade() else { return };
        self.loads += 1;
        let recovered = self.users.recovered(user);
        let question = hot.load(user);
        driver::spawn_essential("cache load", async move {
            let answer = question.await;
            let mut core = shard.core.borrow_mut();
            core.loads -= 1;
            core.open_turn();
            match answer {
                Some(stored) => {
                    core.counters.redis_hits += 1;
                    let state = assemble(stored, recovered, core.shared.node);
                    core.settle_in(user, state, true);
                }
                None => {
                    core.counters.redis_misses += 1;
                    core.load_from_store(user, true);
                }
            }
        });
    }

    /// Asks the store for a user who has been entered as loading. `asked_hot`: the hot cache has been asked and does not know.
    pub(crate) fn load_from_store(&mut self, user: UserId, asked_hot: bool) {
        let Some(shard) = self.shard.upgrade() else { return };
        self.loads += 1;
        // Taken before the question: what the store has by then need not be in the answer.
        let recovered = self.users.recovered(user).filter(|_| !sabotaged(Sabotage::ForgottenRecovery));
        let question = match self.shared.is_awaited.load(Ordering::Acquire) {
            false => self.shared.store.load_user(user),
            // It may be back, and who was signed out meanwhile is not known here yet.
            true => {
                let (reason, retry_after) = ("it was away at the start".to_owned(), Duration::from_secs(1));
                Box::pin(ready(Err(StoreError::Unavailable { reason, retry_after })))
            }
        };
        driver::spawn_essential("user load", async move {
            let answer = question.await;
            let mut core = shard.core.borrow_mut();
            core.loads -= 1;
            core.open_turn();
            core.loaded(user, answer, recovered, asked_hot);
        });
    }

    fn loaded(
        &mut self,
        user: UserId,
        answer: Result<Option<LoadedUser>, StoreError>,
        recovered: Option<hub::StoredUser>,
        asked_hot: bool,
    ) {
        // Those who only read may be better off with the hot cache than with a store that is away.
        let may_ask_hot = self.shared.hot.is_some()
            && !asked_hot
            && matches!(answer, Err(StoreError::Unavailable { .. } | StoreError::Busy));
        let fault = match answer {
            Ok(Some(loaded)) => match self.assemble(loaded, recovered) {
                Ok(state) => return self.fill(user, state),
                Err(fault) => fault,
            },
            Ok(None) => Fault::new(Code::Unauthenticated, "This account does not exist any more."),
            Err(error) => store_fault(error),
        };
        self.counters.store_failures += 1;
        for waiting in self.users.fail(user) {
            if may_ask_hot && waiting.work.only_reads() {
                self.run(user, waiting);
            } else {
                self.refuse_waiting(waiting, fault.clone());
            }
        }
    }

    pub(crate) fn assemble(
        &self,
        mut loaded: LoadedUser,
        recovered: Option<hub::StoredUser>,
    ) -> Result<UserState, Fault> {
        if sabotaged(Sabotage::ForgottenDevices) {
            loaded.stored.devices.clear();
        }
        let mut state = assemble(loaded.stored, recovered, self.shared.node);
        for parked in &loaded.parked {
            let record =
                storage::record::decode_parts(parked.kind, parked.version, &parked.payload).map_err(|error| {
                    tracing::error!(%error, parked = parked.id, "a parked record cannot be read");
                    Fault::new(Code::Internal, "A stored record of this user cannot be read.")
                })?;
            state.replay(&record);
        }
        Ok(state)
    }

    fn fill(&mut self, user: UserId, state: UserState) {
        self.counters.store_hits += 1;
        if let Some(hot) = &self.shared.hot {
            hot.fill(state.to_rows());
        }
        self.settle_in(user, state, false);
    }

    /// Puts a user into memory and does what waited for them.
    fn settle_in(&mut self, user: UserId, state: UserState, for_reading: bool) {
        // Not below any position that this user had earlier in this boot: each was at most this clock's version of then.
        let position = self.clock.high_water().0;
        let position = if sabotaged(Sabotage::RestartedStream) { 0 } else { position };
        let state = self.users.join(state, self.shared.node);
        let (slot, waiters) = self.users.fill(user, state, position);
        self.users.get(slot).for_reading = for_reading;
        for waiting in waiters {
            // A caller that has gone is not worth the work; a connection may have left meanwhile.
            if let Target::Local(sender) = &waiting.target
                && sender.is_canceled()
            {
                continue;
            }
            if for_reading {
                // One that wants to change something waits for the store, and whoever comes after it too.
                self.run(user, waiting);
                continue;
            }
            self.execute(slot, waiting.work, waiting.target, waiting.framed);
        }
        self.users.evict();
    }
}

/// What a store's refusal means to a caller.
pub(crate) fn store_fault(error: StoreError) -> Fault {
    match error {
        StoreError::Busy => Fault::busy("The store is busy; try again in a moment."),
        StoreError::Unavailable { retry_after, .. } => {
            Fault::unavailable("The store is not available.", retry_after.as_millis() as u64)
        }
        // The server is about to stop.
        StoreError::Unfit { .. } => Fault::unavailable("The store is not available.", 5_000),
        StoreError::Taken { field } => Fault {
            code: Code::AlreadyExists,
            detail: format!("That {field} is taken.").into(),
            extra: crate::fault::Extra::Fields(vec![crate::fault::FieldFault {
                field: field.as_str().into(),
                message: "is taken".to_owned(),
            }]),
        },
        StoreError::NotFound { what } => Fault::not_found(format!("There is no such {what}.")),
        StoreError::Refused { reason } => {
            tracing::error!(reason, "the store refused data that had passed every check");
            Fault::new(Code::Internal, "The store refused this.")
        }
        StoreError::Corrupt { reason } => {
            tracing::error!(reason, "the store holds something that cannot be read");
            Fault::new(Code::Internal, "The store holds something that this server cannot read.")
        }
    }
}
