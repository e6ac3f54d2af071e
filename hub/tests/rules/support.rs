//! One user on one node under a wall clock that the test sets: what every test of the rules starts from.

use hub::command::SeriesFacts;
use hub::{Change, Command, Context, Hlc, Outcome, Record, SetProgress, UserState, apply};
use proptest::test_runner::{Config, RngSeed};
use proto::{Chapter, DeviceId, DeviceSeq, MangaId, NodeId, SeriesStatus, UserId};

/// 2026-03-01T12:00:00Z.
pub(crate) const NOON_MS: u64 = 1_772_366_400_000;
pub(crate) const SERIES: MangaId = MangaId(7);
pub(crate) const USER: UserId = UserId::from_bytes([1; 16]);

pub(crate) const ONGOING: SeriesFacts = SeriesFacts { total: Some(95), status: SeriesStatus::Ongoing };
pub(crate) const COMPLETED: SeriesFacts = SeriesFacts { total: Some(95), status: SeriesStatus::Completed };

/// The same cases every time, and no files written.
pub(crate) fn fixed(cases: u32) -> Config {
    Config { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(0x6d61_6e67), ..Config::default() }
}

pub(crate) fn chapter(text: &str) -> Chapter {
    text.parse().unwrap()
}

pub(crate) fn device(number: u8) -> DeviceId {
    DeviceId::from_bytes([number; 16])
}

pub(crate) fn set(text: &str) -> SetProgress {
    SetProgress::new(SERIES, chapter(text))
}

pub(crate) fn set_from(number: u8, seq: u64, text: &str) -> SetProgress {
    SetProgress { device: Some(device(number)), device_seq: Some(DeviceSeq(seq)), ..set(text) }
}

/// A keyed mix, good enough to tell messages and keys apart; the server hands in HMAC-SHA256.
pub(crate) fn tag(key: u64, message: &[u8]) -> [u8; 16] {
    let mut sum = u128::from(key) | 1 << 100;
    for byte in message {
        sum = (sum ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013B).rotate_left(29);
    }
    sum.to_be_bytes()
}

/// A user's state, a clock, and every record that was emitted.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) state: UserState,
    pub(crate) clock: Hlc,
    pub(crate) wall_ms: u64,
    pub(crate) facts: Option<SeriesFacts>,
    pub(crate) strict_total: bool,
    pub(crate) records: Vec<Record>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::on(NodeId(1))
    }

    pub(crate) fn on(node: NodeId) -> Self {
        let (state, clock) = (UserState::new(USER, node), Hlc::default());
        Self { state, clock, wall_ms: NOON_MS, facts: Some(ONGOING), strict_total: false, records: Vec::new() }
    }

    /// Applies a command. Checks what holds for every command: nothing but an applied one leaves a trace.
    pub(crate) fn run(&mut self, command: impl Into<Command>) -> Outcome {
        let before = (self.state.clone(), self.clock.clone());
        let token_tag = |message: &[u8]| tag(42, message);
        let mut context = Context {
            wall_ms: self.wall_ms,
            clock: &mut self.clock,
            facts: self.facts,
            strict_total: self.strict_total,
            token_tag: &token_tag,
        };
        let outcome = apply(&mut self.state, &command.into(), &mut context);
        match &outcome {
            Outcome::Applied(change) => self.records.extend(change.records()),
            _ => assert_eq!((&self.state, &self.clock), (&before.0, &before.1), "{outcome:?} left a trace"),
        }
        outcome
    }

    #[track_caller]
    pub(crate) fn applied(&mut self, command: impl Into<Command>) -> Change {
        match self.run(command) {
            Outcome::Applied(change) => change,
            other => panic!("not applied: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn rejected(&mut self, command: impl Into<Command>) -> hub::Reject {
        match self.run(command) {
            Outcome::Rejected(reject) => reject,
            other => panic!("not rejected: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn conflict(&mut self, command: impl Into<Command>) -> hub::Conflict {
        match self.run(command) {
            Outcome::Conflict(conflict) => conflict,
            other => panic!("no conflict: {other:?}"),
        }
    }

    pub(crate) fn chapter(&self) -> Option<String> {
        self.state.progress(SERIES).map(|view| view.key.chapter.to_string())
    }
}
