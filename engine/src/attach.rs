//! Live connections: one `Attachment` per connection, on the connection's shard. It takes pipelined commands in and hands
//! gated replies and announcements out. Its out-queue is bounded: progress coalesces per series before the queue counts as
//! full, and a consumer that still does not keep up is closed with a reason. Nothing leaves it before it is durable.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use proto::{Code, DeviceId, DeviceSeq, MangaId};

use crate::fanout::WireForm;
use crate::fault::Fault;
use crate::grants::Grant;
use crate::message::{Answer, ConnRef, Request, Work};
use crate::request::{Acked, CatchUp, ProgressView, ResumeToken, SetProgress};
use crate::shard::Shard;

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
    /// The answer to `submit(seq, ..)`. Acks come in the order of submission, and never before the refusal of an earlier
    /// `seq`; so a run of plain acks may be merged into one cumulative ack. (Elsewhere than on the owner a refusal may come
    /// before the acks of earlier ones.)
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
    shard: Rc<Shard>,
    pub(crate) conn: ConnRef,
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
        self.shard.core.borrow_mut().submit(self.conn, seq, update)
    }

    /// Asks for a read, answered through `next` in order with the updates. Errors as in `submit`.
    pub fn request(&self, seq: u64, ask: Ask) -> Result<(), Fault> {
        let work = match ask {
            Ask::Get(manga) => Work::Get(manga),
            Ask::CatchUp(since) => Work::CatchUp(since),
        };
        self.shard.core.borrow_mut().submit_ask(self.conn, seq, work)
    }

    /// Queues a refusal of the door's own (an unknown kind, a frame that does not parse), in order with the answers. It
    /// takes a place in the window like everything else that is answered; errors as in `submit`. One that was dropped
    /// instead would be taken for an ack: a later cumulative one would cover it.
    pub fn refuse(&self, seq: u64, fault: Fault) -> Result<(), Fault> {
        let mut core = self.shard.core.borrow_mut();
        let gone = || Fault::new(Code::ShuttingDown, "The connection is closed.");
        core.connections.get(self.conn).ok_or_else(gone)?.take()?;
        core.refuse(self.conn, seq, fault);
        Ok(())
    }

    /// Whether an update would be refused only because much is on its way to the disk just now. A door that can make its client
    /// wait waits for [`Attachment::room`] instead; one that did so in vain lets the update be refused.
    pub fn is_pressed(&self) -> bool {
        self.shard.core.borrow().is_pressed()
    }

    /// Waits until that has passed, or is not to be waited for any more.
    pub async fn room(&self) {
        std::future::poll_fn(|context| self.shard.core.borrow_mut().poll_room(context)).await;
    }

    /// Commands taken and not yet answered.
    pub fn unanswered(&self) -> u32 {
        let mut core = self.shard.core.borrow_mut();
        core.connections.get(self.conn).map_or(0, |connection| connection.unanswered())
    }

    /// Waits until there is something to send and appends all of it. Cancel-safe. After `Outgoing::Close` it never
    /// returns again.
    pub async fn next(&self, out: &mut Vec<Outgoing>) {
        while !self.try_next(out) {
            std::future::poll_fn(|context| self.poll_ready(context)).await;
        }
    }

    /// Waits, in poll form, until `try_next` would give something.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut core = self.shard.core.borrow_mut();
        let Some(connection) = core.connections.get(self.conn) else { return Poll::Pending };
        if connection.has_something() {
            return Poll::Ready(());
        }
        connection.wait(context.waker());
        Poll::Pending
    }

    /// What `next` would give now, without waiting. Returns whether anything was appended.
    pub fn try_next(&self, out: &mut Vec<Outgoing>) -> bool {
        let mut core = self.shard.core.borrow_mut();
        core.connections.get(self.conn).is_some_and(|connection| connection.drain_into(out))
    }

    /// Gives back the room of queues that are empty: for a connection that has become quiet.
    pub fn rest(&self) {
        let mut core = self.shard.core.borrow_mut();
        if let Some(connection) = core.connections.get(self.conn) {
            connection.rest();
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        leave(&self.shard, self.conn);
    }
}

/// A connection that has been entered and is not yet an attachment: gone when its future is dropped half-way.
struct Entered {
    shard: Rc<Shard>,
    conn: Option<ConnRef>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(conn) = self.conn {
            leave(&self.shard, conn);
        }
    }
}

/// Takes a connection out here and on its user's owner.
fn leave(shard: &Shard, conn: ConnRef) {
    let mut core = shard.core.borrow_mut();
    let Some(connection) = core.connections.leave(conn) else { return };
    let (user, owner) = (connection.grant.user, connection.owner);
    if owner == core.id {
        core.users.unpin(user, conn);
        core.users.evict();
    } else {
        core.depart(owner, Request::Detach { user, conn });
    }
    drop(core);
    drop(connection);
}

/// Registers a connection here and with its user's owner.
pub(crate) async fn attach(
    shard: &Rc<Shard>,
    grant: Arc<Grant>,
    device: Option<DeviceId>,
    options: AttachOptions,
) -> Result<Attachment, Fault> {
    let window_max = shard.shared.config.limits.window_max.max(1);
    let options = AttachOptions { window: options.window.clamp(1, window_max), ..options };
    let user = grant.user;
    let owner = shard.shared.owner(user);
    let conn = {
        let mut core = shard.core.borrow_mut();
        shard.shared.revocations.check(&grant)?;
        let entered = core.connections.enter(&grant, device, owner, options);
        core.counters.full_shard += u64::from(matches!(&entered, Err(fault) if fault.code == Code::Capacity));
        entered?
    };
    let mut entered = Entered { shard: Rc::clone(shard), conn: Some(conn) };
    let attached = match shard.call(owner, user, Work::Attach { conn, device }).await? {
        Answer::Attached(attached) => attached,
        _ => return Err(Fault::new(Code::Internal, "The owner answered something else.")),
    };
    if let Some(connection) = shard.core.borrow_mut().connections.get(conn) {
        // Again, now that the user's owner knows the connection: a revocation until now may not have found it, a later one does.
        shard.shared.revocations.check(&grant)?;
        connection.user_slot = attached.user_slot;
    }
    entered.conn = None;
    let welcome = Welcome { last_seq: attached.last_seq, resume: attached.resume, window: options.window };
    Ok(Attachment { shard: Rc::clone(shard), conn, welcome })
}
