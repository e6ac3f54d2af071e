//! What the simulation sees of a shard while it works: which work begins, what was decided, where the user's stream stands.
//! Seen in the order in which it happens, so that the shadow model can decide the same things in the same order.

use std::cell::RefCell;

use hub::Outcome;
use proto::{MangaId, UserId};

use crate::message::{ConnRef, Target, Work};
use crate::request::{Command, SetProgress};

/// Who asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asker {
    Connection(ConnRef, u64),
    Call,
}

/// Something that a shard did.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Work { user: UserId, asker: Asker, work: Work },
    Decided { user: UserId, command: hub::Command, outcome: Outcome, wall_ms: u64 },
    Moved { user: UserId, position: u64, manga: MangaId },
}

thread_local! {
    static SEEN: RefCell<Vec<Seen>> = const { RefCell::new(Vec::new()) };
}

/// What happened since the last look.
pub(crate) fn take() -> Vec<Seen> {
    SEEN.with_borrow_mut(std::mem::take)
}

fn see(seen: Seen) {
    // Other unit tests of this room drive shards without anybody looking.
    if super::executor::current().is_some() {
        SEEN.with_borrow_mut(|all| all.push(seen));
    }
}

/// Work on a user begins. Updates of connections are seen by [`update`].
pub(crate) fn work(user: UserId, work: &Work, target: &Target) {
    let asker = match target {
        Target::Connection { .. } if matches!(work, Work::Command(_)) => return,
        Target::Connection { conn, seq } => Asker::Connection(*conn, *seq),
        Target::Call(_) | Target::Local(_) => Asker::Call,
    };
    see(Seen::Work { user, asker, work: work.clone() });
}

/// An update of a connection begins.
pub(crate) fn update(user: UserId, conn: ConnRef, seq: u64, update: &SetProgress) {
    let work = Work::Command(Command::SetProgress(*update));
    see(Seen::Work { user, asker: Asker::Connection(conn, seq), work });
}

/// The rules decided.
pub(crate) fn decided(user: UserId, command: &hub::Command, outcome: &Outcome, wall_ms: u64) {
    see(Seen::Decided { user, command: *command, outcome: *outcome, wall_ms });
}

/// The user's stream moved on.
pub(crate) fn moved(user: UserId, position: u64, manga: MangaId) {
    see(Seen::Moved { user, position, manga });
}
