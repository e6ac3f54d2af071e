//! Bounded lanes between every pair of shards.

use std::{marker::PhantomData, rc::Rc};

use thiserror::Error;

/// The lane is full: the message comes back, and the refusal was counted.
#[derive(Debug, Error)]
#[error("the mailbox of shard {to} is full")]
pub struct Full<T> {
    /// Where it was to go.
    pub to: usize,
    /// What was not sent.
    pub message: T,
}

/// Why a call got no answer.
#[derive(Debug, Error)]
pub enum CallError<Req> {
    /// The lane or the table of pending calls is full; the request comes back.
    #[error("the mailbox of shard {to} is full")]
    Full {
        /// Where it was to go.
        to: usize,
        /// What was not sent.
        request: Req,
    },
    /// The other shard dropped the request without an answer.
    #[error("the other shard dropped the call")]
    Abandoned,
}

/// What arrives at a shard.
#[derive(Debug)]
pub enum Inbound<Req, Rep> {
    /// From the request lane.
    Request {
        /// The sending shard.
        from: usize,
        /// The message.
        body: Req,
        /// Present when the sender waits for an answer.
        reply: Option<ReplyTo<Req, Rep>>,
    },
    /// From the reply lane, and not the answer to a call (those resolve their future).
    Reply {
        /// The sending shard.
        from: usize,
        /// The message.
        body: Rep,
    },
}

/// The way to answer one call. Dropping it tells the caller that the call was abandoned.
#[derive(Debug)]
pub struct ReplyTo<Req, Rep> {
    _local: PhantomData<(Rc<()>, Req, Rep)>,
}

impl<Req, Rep> ReplyTo<Req, Rep> {
    /// Answers the call. Never refused: room was reserved by the caller.
    pub fn send(self, reply: Rep) {
        let _ = reply;
        unimplemented!()
    }
}

/// One shard's end of the mesh, to be moved to its thread and attached there.
#[derive(Debug)]
pub struct Endpoint<Req, Rep> {
    _lanes: PhantomData<(Req, Rep)>,
}

/// One shard's end of the mesh, in use. Cheap to clone; stays on its thread.
#[derive(Debug)]
pub struct Mailbox<Req, Rep> {
    _local: PhantomData<(Rc<()>, Req, Rep)>,
}

/// Counts of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneStats {
    /// The sending shard.
    pub from: usize,
    /// The receiving shard.
    pub to: usize,
    /// Requests sent.
    pub sent: u64,
    /// Requests refused because the lane was full.
    pub refused: u64,
    /// Replies and posts sent.
    pub replies: u64,
    /// Posts refused because the reply lane was full.
    pub replies_refused: u64,
}

/// The counters of a whole mesh, readable from any thread.
#[derive(Debug, Clone)]
pub struct MeshStats {}

impl MeshStats {
    /// One entry per pair of shards.
    pub fn lanes(&self) -> Vec<LaneStats> {
        unimplemented!()
    }
}

/// A mesh of `shards` endpoints; each lane holds at most `capacity` messages.
pub fn mesh<Req: Send + 'static, Rep: Send + 'static>(
    shards: usize,
    capacity: usize,
) -> (Vec<Endpoint<Req, Rep>>, MeshStats) {
    let _ = (shards, capacity);
    unimplemented!()
}

impl<Req: Send + 'static, Rep: Send + 'static> Endpoint<Req, Rep> {
    /// Puts the endpoint to work on this shard.
    pub fn attach(self) -> Mailbox<Req, Rep> {
        unimplemented!()
    }
}

impl<Req, Rep> Clone for Mailbox<Req, Rep> {
    fn clone(&self) -> Self {
        Self { _local: PhantomData }
    }
}

impl<Req: Send + 'static, Rep: Send + 'static> Mailbox<Req, Rep> {
    /// This shard.
    pub fn id(&self) -> usize {
        unimplemented!()
    }

    /// Sends a request that wants no answer. It leaves with everything else of this ring turn, with one wake.
    pub fn try_send(&self, to: usize, request: Req) -> Result<(), Full<Req>> {
        let _ = (to, request);
        unimplemented!()
    }

    /// Sends on the reply lane without being asked by a call.
    pub fn post(&self, to: usize, reply: Rep) -> Result<(), Full<Rep>> {
        let _ = (to, reply);
        unimplemented!()
    }

    /// Sends a request and waits for its answer. Dropping the future forgets the answer.
    pub async fn call(&self, to: usize, request: Req) -> Result<Rep, CallError<Req>> {
        let _ = (to, request);
        unimplemented!()
    }

    /// Waits for messages and appends a batch to `out`: replies first. One task per mailbox receives.
    pub async fn recv(&self, out: &mut Vec<Inbound<Req, Rep>>) {
        let _ = out;
        unimplemented!()
    }
}
