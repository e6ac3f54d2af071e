//! The steps of a simulation, and its rests: now and then everything that is under way is let finish, and then nobody may be
//! left without an answer, and everybody must believe what is so.

use std::time::Duration;

use super::executor::Random;
use super::shadow::key_of;
use super::world::{Tally, Verdict, World};
use crate::driver::Sabotage;
use crate::message::Work;
use crate::request::Query;

/// Rounds of a rest, of 10 ms each, before it is a defect; those in which replies leave for a full mailbox do not count.
const ROUNDS_MAX: usize = 1_000;

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ran {
    pub(crate) steps: u64,
    pub(crate) trace: u64,
    pub(crate) crashes: u64,
    pub(crate) heard: u64,
    pub(crate) tally: Tally,
}

/// Runs a seed for so many steps; an error says at which step what was wrong.
pub(crate) fn run(seed: u64, steps: u64, sabotage: Option<Sabotage>) -> Result<Ran, String> {
    super::wire::clear();
    let mut world = World::new(seed, sabotage);
    for step in 1..=steps {
        let verdict = world.step(step);
        verdict.map_err(|what| format!("step {step}: {what}"))?;
    }
    world.rest().map_err(|what| format!("the last rest: {what}"))?;
    world.count_server();
    let parked = futures_executor::block_on(world.shared_store.parked(0, 1_000)).map_err(|error| error.to_string())?;
    *world.tally.entry("parked".to_owned()).or_default() += parked.len() as u64;
    let (trace, crashes, heard, tally) = (world.trace, world.crashes, world.heard, std::mem::take(&mut world.tally));
    Ok(Ran { steps, trace, crashes, heard, tally })
}

impl World {
    fn step(&mut self, step: u64) -> Verdict {
        if step.is_multiple_of(self.manner.rest_every) {
            return self.rest();
        }
        self.stalled = self.stalled.map(|steps| steps.saturating_sub(1));
        let kind = self.random.below(1_000);
        self.note(kind as u64);
        match kind {
            0 if self.random.one_in(2) => self.crash()?,
            1..=499 => self.poll(),
            500..=799 => self.act()?,
            800..=949 if self.is_stalled(kind) => {}
            800..=879 => {
                let hand_overs_max = self.random.pick(&[1, 2, usize::MAX]);
                self.write(hand_overs_max)?;
            }
            880..=929 => self.server().journal.publish(),
            930..=949 => {
                self.take()?;
                if self.random.one_in(4) {
                    self.server().writer.deliver();
                }
            }
            950..=979 if self.stalled[2] > 0 => {}
            950..=979 => {
                let Self { store, random, .. } = self;
                store.step_load(random, 12);
            }
            980..=984 => self.server().journal.make_room(),
            985 if self.random.one_in(2) => {
                let what = self.random.below(3);
                self.stalled[what] = self.random.below(self.manner.stall_max as usize) as u64;
            }
            _ => {
                let time = self.random.pick(&[1, 5, 100_000, 3_000_000, 120_000_000]);
                self.pass(Duration::from_nanos(time * 1_000));
            }
        }
        self.look()
    }

    /// Whether the disk (for commits) or the writer (for batches) stands still.
    fn is_stalled(&self, kind: usize) -> bool {
        self.stalled[usize::from(kind >= 930)] > 0
    }

    fn poll(&mut self) {
        let Self { executor, random, .. } = self;
        let polled = executor.poll_one(random).unwrap_or(u64::MAX);
        self.note(polled);
    }

    fn take(&mut self) -> Verdict {
        self.server().writer.take().map(drop).map_err(|error| error.to_string())
    }

    /// Lets everything that is under way finish, then looks at everybody.
    pub(crate) fn rest(&mut self) -> Verdict {
        self.ask_everything()?;
        let mut quiet_rounds = 0;
        let mut last_busy = None;
        let mut rounds = 0;
        while rounds < ROUNDS_MAX {
            let unsent = self.unsent();
            let busy = self.round()?;
            rounds += usize::from(self.unsent() >= unsent);
            quiet_rounds = if busy.is_none() { quiet_rounds + 1 } else { 0 };
            last_busy = busy.or(last_busy);
            // Housekeeping has come by twice.
            if quiet_rounds > 25 {
                return self.check_rest();
            }
        }
        let cores = self.server().engines.iter().map(|engine| engine.shard.core.borrow());
        let waiting: Vec<_> = cores.map(|core| (core.waiting(), core.unsent())).collect();
        Err(format!("it does not come to rest: {last_busy:?}; gated and held, unsent per shard: {waiting:?}"))
    }

    /// Replies that wait for room in a mailbox.
    fn unsent(&mut self) -> usize {
        self.server().engines.iter().map(|engine| engine.shard.core.borrow().unsent().1).sum()
    }

    /// Does what there is to do; says what kept it busy, if anything did.
    fn round(&mut self) -> Result<Option<&'static str>, String> {
        let mut busy = None;
        // The polls of one round are bounded: sleepers wake with every round.
        for _ in 0..10_000 {
            let Self { executor, random, .. } = self;
            if executor.poll_one(random).is_none() {
                break;
            }
            self.look()?;
        }
        self.write(usize::MAX)?;
        if !self.server().journal.written().is_empty() {
            busy = Some("the journal wrote");
        }
        self.server().journal.publish();
        self.server().journal.make_room();
        let Self { store, random, .. } = self;
        while store.step_load(random, 0) {
            busy = Some("users were loaded");
        }
        while self.server().writer.take().map_err(|error| error.to_string())? {
            busy = Some("the writer took records");
        }
        self.server().writer.deliver();
        for at in 0..self.clients.len() {
            let before = self.heard;
            self.read(at)?;
            if before != self.heard {
                busy = Some("a client heard something");
            }
        }
        for at in (0..self.calls.len()).rev() {
            self.finish_call(at)?;
        }
        if !self.calls.is_empty() {
            busy = Some("calls wait for their answers");
        }
        if !self.server().engines.iter().all(|engine| engine.shard.core.borrow().is_quiet()) {
            busy = Some("a shard is not quiet");
        }
        self.pass(Duration::from_millis(10));
        self.look()?;
        Ok(busy)
    }

    fn check_rest(&mut self) -> Verdict {
        for (id, shadowed) in &self.shadow.users {
            if !shadowed.is_durable() {
                return Err(format!("at rest, and not everything of {id} is durable"));
            }
        }
        for engine in &self.server().engines {
            let figures = engine.shard.core.borrow().users.figures();
            if figures.dirty_bytes != 0 || figures.recovered != 0 {
                return Err(format!("at rest, and the store is thought to lack something: {figures:?}"));
            }
        }
        for client in &self.clients {
            let Some(live) = &client.live else { continue };
            if !live.sent.is_empty() {
                return Err(format!("at rest, and without an answer: {:?}", live.sent));
            }
            let conn = key_of(live.attachment.conn);
            let shadowed = &self.shadow.users[&client.user];
            let others = shadowed.events.iter().filter(|event| event.origin != Some(conn));
            for event in others.filter(|event| event.position > live.welcome_position) {
                let heard = live.heard.get(&event.state.manga).copied().unwrap_or(0);
                if heard < event.position {
                    return Err(format!("never announced: {event:?}; the last of its series: {heard}"));
                }
            }
            if !client.caught_up {
                continue;
            }
            for state in shadowed.now.states().filter(|state| !client.unsure.contains(&state.manga)) {
                let known = client.view.get(&state.manga);
                let right =
                    known.map_or(state.deleted, |(key, deleted)| (*key, *deleted) == (state.key, state.deleted));
                if !right {
                    let events: Vec<_> =
                        shadowed.events.iter().filter(|event| event.state.manga == state.manga).rev().take(3).collect();
                    return Err(format!(
                        "a client {conn:?} (welcomed at {}) believes {known:?}, and what is so is {state:?}: {events:?}",
                        live.welcome_position
                    ));
                }
            }
        }
        Ok(())
    }

    /// Nobody believes what a crash has undone.
    pub(crate) fn check_beliefs(&self) -> Verdict {
        for client in &self.clients {
            for (manga, (key, _)) in &client.view {
                let durable = self.shadow.users[&client.user].now.state_of(*manga);
                if durable.is_none_or(|state| state.key < *key) {
                    return Err(format!("a client was shown {key:?} of {manga}, and the disk has {durable:?}"));
                }
            }
        }
        Ok(())
    }

    /// Everybody looks at everything.
    fn ask_everything(&mut self) -> Verdict {
        let users: Vec<_> = self.shadow.users.keys().copied().collect();
        for user in users {
            let Some(at) = self.clients.iter().position(|client| client.user == user) else { continue };
            for query in [Query::ProgressAll { offset: 0, limit: 100 }, Query::Library, Query::Devices] {
                self.start_call(at, Work::Query(query));
            }
        }
        Ok(())
    }
}

/// A random seed from a campaign's number.
pub(crate) fn seed_of(campaign: u64, index: u64) -> u64 {
    Random::new(campaign.wrapping_mul(0x1_0000_01B3) ^ index).next() >> 16
}
