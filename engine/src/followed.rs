//! What a shard logs of an update that is followed (`storage::trace`): one line for each stage it goes through here, all under its
//! version. Nothing when nobody has asked for it.

use proto::{UserId, Version};
use storage::journal::Ticket;
use storage::trace::{self, TARGET};

use crate::fault::Fault;
use crate::message::Answer;
use crate::request::{Acked, Done};

/// The rules have decided, and the record is in the turn's buffer.
pub(crate) fn applied(version: Version, user: UserId, shard: usize, ticket: Ticket) {
    if trace::follows(version) {
        tracing::info!(target: TARGET, version = version.0, stage = "applied", %user, shard, ticket = ticket.0);
    }
}

/// The gate lets the acknowledgement through.
pub(crate) fn acknowledged(acked: &Acked) {
    let version = acked.state.key.version;
    if trace::follows(version) && !acked.already {
        tracing::info!(target: TARGET, version = version.0, stage = "acknowledged");
    }
}

/// The same, for answers that are acknowledgements.
pub(crate) fn answered(answer: &Result<Answer, Fault>) {
    if let Ok(Answer::Done(Done::Progress(acked))) = answer {
        acknowledged(acked);
    }
}

/// The user's other connections have been given it.
pub(crate) fn announced(version: Version, connections: u64) {
    if trace::follows(version) {
        tracing::info!(target: TARGET, version = version.0, stage = "announced", connections);
    }
}
