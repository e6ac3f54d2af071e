//! Live connections: one `Attachment` per connection, on the connection's shard. It takes pipelined commands in and hands
//! gated replies and announcements out. Its out-queue is bounded: progress coalesces per series before the queue counts as
//! full, and a consumer that still does not keep up is closed with a reason. Nothing leaves it before it is durable.

use bytes::Bytes;
use proto::code::Code;
use proto::ids::MangaId;
use proto::values::DeviceSeq;

use crate::fanout::WireForm;
use crate::fault::Fault;
use crate::request::{Acked, CatchUp, ProgressView, ResumeToken, SetProgress};

/// How a connection wants to be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttachOptions {
    /// The wire form of its announcements.
    pub form: WireForm,
    /// Commands that may be unanswered at once; more are `Busy`. At most `limits.window_max`.
    pub window: u32,
    /// The updates come as JSON lines: their own rate per connection instead of the user's rate for frames.
    pub lines: bool,
}

/// What a connection hands to its client.
#[derive(Clone, PartialEq, Debug)]
pub enum Outgoing {
    /// The answer to `submit(seq, ..)`. Answers come in the order of submission; runs of plain acks may be merged into one
    /// cumulative ack.
    Ack {
        /// The submitted sequence.
        seq: u64,
        /// The outcome.
        acked: Acked,
    },
    /// The refusal of `submit(seq, ..)` or `request(seq, ..)`.
    Reject {
        /// The submitted sequence.
        seq: u64,
        /// Why.
        fault: Box<Fault>,
    },
    /// The answer to `request(seq, Ask::Get(..))`.
    State {
        /// The submitted sequence.
        seq: u64,
        /// The series that was asked for.
        manga: MangaId,
        /// Its progress, if any.
        state: Option<ProgressView>,
    },
    /// The answer to `request(seq, Ask::CatchUp(..))`.
    CatchUp {
        /// The submitted sequence.
        seq: u64,
        /// What the client missed.
        catch_up: Box<CatchUp>,
    },
    /// A change made elsewhere, already in the wire form of this connection.
    Announcement(Bytes),
    /// Say why and close; nothing comes after it.
    Close(Box<Fault>),
}

/// A read on a live connection, answered in order with its commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// The progress in one series.
    Get(MangaId),
    /// What changed since.
    CatchUp(Option<ResumeToken>),
}

/// What a new connection tells its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The highest sequence applied for the connection's device; 0 when none was or there is no device.
    pub last_seq: DeviceSeq,
    /// Where the user's stream stands: announcements after this position will arrive.
    pub resume: ResumeToken,
    /// Commands that may be unanswered at once.
    pub window: u32,
}

/// One live connection. Dropping it detaches. Not `Send`: it lives and dies on its shard.
pub struct Attachment {
    welcome: Welcome,
}

impl Attachment {
    /// What to tell the client first.
    pub fn welcome(&self) -> Welcome {
        self.welcome
    }

    /// Takes one pipelined update. On the owner's shard it is applied at once; elsewhere it goes to the owner with this
    /// turn's batch. The answer arrives through `next`, when it is durable. An error here is the answer itself
    /// (nothing more comes for this `seq`) and is *not* ordered behind earlier answers, so it is given only for what ends
    /// the connection: detached, closing, or a window that the client overran.
    pub fn submit(&self, seq: u64, update: SetProgress) -> Result<(), Fault> {
        let _ = (seq, update);
        Err(Fault::new(Code::Internal, "not yet"))
    }

    /// Asks for a read, answered through `next` in order with the updates. Errors as in `submit`.
    pub fn request(&self, seq: u64, ask: Ask) -> Result<(), Fault> {
        let _ = (seq, ask);
        Err(Fault::new(Code::Internal, "not yet"))
    }

    /// Queues a refusal of the door's own (an unknown kind, a frame that does not parse), in order with the answers.
    pub fn refuse(&self, seq: u64, fault: Fault) {
        let _ = (seq, fault);
    }

    /// Commands taken and not yet answered.
    pub fn unanswered(&self) -> u32 {
        0
    }

    /// Waits until there is something to send and appends all of it. Cancel-safe. After `Outgoing::Close` it never
    /// returns again.
    pub async fn next(&self, out: &mut Vec<Outgoing>) {
        let _ = out;
        std::future::pending::<()>().await;
    }

    /// What `next` would give now, without waiting. Returns whether anything was appended.
    pub fn try_next(&self, out: &mut Vec<Outgoing>) -> bool {
        let _ = out;
        false
    }
}
