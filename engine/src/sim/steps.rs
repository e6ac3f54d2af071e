//! The steps of a simulation, and its rests: now and then everything that is under way is let finish, and then nobody may be
//! left without an answer, and everybody must believe what is so.

use std::time::Duration;

use super::executor::Random;
use super::hook;
use super::people::grant;
use super::shadow::{Shadow, key_of};
use super::world::{Verdict, World};
use crate::driver::Sabotage;

/// Steps between two rests, and rounds of a rest before it is a defect.
const REST_EVERY: u64 = 4_000;
const ROUNDS_MAX: usize = 3_000;

/// What a run came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ran {
    pub(crate) steps: u64,
    pub(crate) trace: u64,
    pub(crate) crashes: u64,
    pub(crate) heard: u64,
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
    let (trace, crashes, heard) = (world.trace, world.crashes, world.heard);
    Ok(Ran { steps, trace, crashes, heard })
}

impl World {
    fn step(&mut self, step: u64) -> Verdict {
        if step.is_multiple_of(REST_EVERY) {
            return self.rest();
        }
        let kind = self.random.below(1_000);
        self.note(kind as u64);
        match kind {
            0 if self.random.one_in(2) => self.crash()?,
            1..=499 => self.poll(),
            500..=799 => self.act()?,
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
            950..=979 => {
                let Self { store, random, .. } = self;
                store.step_load(random, 12);
            }
            980..=984 => self.server().journal.make_room(),
            _ => {
                let time = self.random.pick(&[1, 5, 100_000, 3_000_000, 120_000_000]);
                self.pass(Duration::from_nanos(time * 1_000));
            }
        }
        self.look()
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
        let mut quiet_rounds = 0;
        for _ in 0..ROUNDS_MAX {
            quiet_rounds = if self.round()? { quiet_rounds + 1 } else { 0 };
            // Housekeeping has come by twice.
            if quiet_rounds > 25 {
                return self.check_rest();
            }
        }
        let waiting: Vec<_> = self.server().engines.iter().map(|engine| engine.shard.core.borrow().waiting()).collect();
        Err(format!("it does not come to rest; gated and held per shard: {waiting:?}"))
    }

    /// Does what there is to do; true when that was nothing.
    fn round(&mut self) -> Result<bool, String> {
        let mut nothing = true;
        // The polls of one round are bounded: sleepers wake with every round.
        for _ in 0..10_000 {
            let Self { executor, random, .. } = self;
            if executor.poll_one(random).is_none() {
                break;
            }
            self.look()?;
        }
        self.write(usize::MAX)?;
        nothing &= self.server().journal.written().is_empty();
        self.server().journal.publish();
        self.server().journal.make_room();
        {
            let Self { store, random, .. } = self;
            while store.step_load(random, 0) {
                nothing = false;
            }
        }
        while self.server().writer.take().map_err(|error| error.to_string())? {
            nothing = false;
        }
        self.server().writer.deliver();
        for at in 0..self.clients.len() {
            let before = self.heard;
            self.read(at)?;
            nothing &= before == self.heard;
        }
        let calls = self.calls.len();
        for at in (0..calls).rev() {
            self.finish_call(at)?;
        }
        nothing &= calls == self.calls.len() && !self.is_calling();
        nothing &= self.server().engines.iter().all(|engine| engine.shard.core.borrow().is_quiet());
        self.pass(Duration::from_millis(10));
        self.look()?;
        Ok(nothing)
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
        self.check_answers()
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

    fn check_answers(&mut self) -> Verdict {
        // One that is never asked for would not be noticed otherwise: a fresh look by everybody's own door.
        let users: Vec<_> = self.shadow.users.keys().copied().collect();
        for user in users {
            debug_assert_eq!(grant(user).user, user);
        }
        hook::take().into_iter().try_for_each(|seen| Shadow::see(&mut self.shadow, seen))
    }
}

/// A random seed from a campaign's number.
pub(crate) fn seed_of(campaign: u64, index: u64) -> u64 {
    Random::new(campaign.wrapping_mul(0x1_0000_01B3) ^ index).next() >> 16
}
