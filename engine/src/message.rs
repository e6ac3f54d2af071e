//! What shards say to each other, and who waits for an answer. A request names a user that the receiving shard owns; answers
//! come back on the reply lane. Nothing in a message refers to another shard's memory: connections are named by reference
//! and checked by generation where they live.

use futures_channel::oneshot;
use proto::{DeviceId, MangaId, UserId};
use runtime::mailbox::{Mailbox, ReplyTo};

use crate::Handed;
use crate::accounts::lockout::Attempt;
use crate::attach::Outgoing;
use crate::fanout::Event;
use crate::fault::Fault;
use crate::request::{CatchUp, Command, Done, ProgressView, Query, ResumeToken, View};

/// A connection, wherever it lives. A reference outlives its connection harmlessly: the generation no longer fits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ConnRef {
    pub(crate) shard: u32,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// What is to be done with a user's state, on its owner.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Command(Command),
    Query(Query),
    Get(MangaId),
    CatchUp(Option<ResumeToken>),
    Attach { conn: ConnRef, device: Option<DeviceId> },
}

impl Work {
    /// Whether a state that is only read, and knows progress and library alone, is enough for it.
    pub(crate) fn only_reads(&self) -> bool {
        matches!(self, Self::Query(Query::Progress(_) | Query::ProgressAll { .. } | Query::Library))
    }
}

/// From one shard to another.
pub(crate) enum Request {
    /// A call: the sender waits for `Reply::Answer`.
    Run { user: UserId, work: Work },
    /// A connection's pipelined work; answered with `Reply::Deliver`.
    Submit { user: UserId, conn: ConnRef, seq: u64, work: Work, framed: bool },
    /// The connection is gone.
    Detach { user: UserId, conn: ConnRef },
    /// A call: may this sign-in be tried? And what became of it.
    Attempt(Attempt),
    /// Something between doors.
    Hand(Handed),
}

/// Back from another shard.
pub(crate) enum Reply {
    /// The answer to a call.
    Answer(Result<Answer, Fault>),
    /// Something for a connection that lives on the receiving shard.
    Deliver { conn: ConnRef, item: Delivery },
}

/// What a connection is given.
pub(crate) enum Delivery {
    /// An answer.
    Out(Outgoing),
    /// A change made elsewhere.
    Event(std::sync::Arc<Event>),
}

/// The answer to a piece of work.
pub(crate) enum Answer {
    Done(Done),
    View(View),
    State {
        manga: MangaId,
        state: Option<ProgressView>,
    },
    CatchUp(Box<CatchUp>),
    Attached(Attached),
    /// The sign-in may be tried, or its outcome was noted.
    Noted,
}

/// Where a new connection stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attached {
    pub(crate) last_seq: proto::DeviceSeq,
    pub(crate) resume: ResumeToken,
    /// The user's place in the owner's table; means something on the owner only, while the connection is attached.
    pub(crate) user_slot: u32,
}

/// Who waits for an answer.
pub(crate) enum Target {
    /// A connection, here or elsewhere.
    Connection { conn: ConnRef, seq: u64 },
    /// A call from another shard.
    Call(ReplyTo<Request, Reply>),
    /// A call from this shard.
    Local(oneshot::Sender<Result<Answer, Fault>>),
}

/// This room's mailbox.
pub(crate) type Mail = Mailbox<Request, Reply>;

impl Answer {
    /// As a connection's client gets it.
    pub(crate) fn into_outgoing(answer: Result<Self, Fault>, seq: u64) -> Outgoing {
        match answer {
            Ok(Self::Done(Done::Progress(acked))) => Outgoing::Ack { seq, acked },
            Ok(Self::State { manga, state }) => Outgoing::State { seq, manga, state },
            Ok(Self::CatchUp(catch_up)) => Outgoing::CatchUp { seq, catch_up },
            Ok(_) => unreachable!("connections submit updates, gets and catch-ups only"),
            Err(fault) => Outgoing::Reject { seq, fault: Box::new(fault) },
        }
    }
}
