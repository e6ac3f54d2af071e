//! Mailboxes between shards: bounded lanes between every pair, batched, with one wake per batch.
//!
//! It promises that nothing here grows without a bound (a full lane refuses and counts), that replies have a lane of
//! their own and so are never stuck behind requests, and that a call always ends: with its answer, or with the news that
//! the other side dropped it. Messages of one lane arrive in the order they were sent. Nothing here waits for room.
//!
//! A message leaves with everything else of its ring turn: the first one wakes a flush task that queues behind whatever
//! is runnable, so a busy shard pays one lock and one wake per neighbour and turn, not per message.

mod call;
mod lane;

use std::{
    cell::RefCell,
    fmt,
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
};

use slab::Slab;
use thiserror::Error;

pub use self::call::ReplyTo;
use self::{
    call::{CallId, CallState, PendingCall, Waiting},
    lane::{Lane, Stage},
};
use crate::{local::Signal, notify::Notify, task};

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

struct Request<Req> {
    call: Option<CallId>,
    body: Req,
}

enum Reply<Rep> {
    /// Unasked for; bounded by the lane's capacity.
    Post(Rep),
    /// To a call; bounded by the caller's table of pending calls. `None`: abandoned.
    Answer(CallId, Option<Rep>),
}

struct Pair<Req, Rep> {
    requests: Lane<Request<Req>>,
    replies: Lane<Reply<Rep>>,
}

struct Mesh<Req, Rep> {
    shards: usize,
    capacity: usize,
    /// From one shard to another, at `from * shards + to`.
    pairs: Vec<Pair<Req, Rep>>,
    inboxes: Vec<Notify>,
}

impl<Req, Rep> Mesh<Req, Rep> {
    fn pair(&self, from: usize, to: usize) -> &Pair<Req, Rep> {
        &self.pairs[from * self.shards + to]
    }
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
    /// Requests that were sent and not taken yet.
    pub waiting: u64,
    /// Replies and posts sent.
    pub replies: u64,
    /// Posts refused because the reply lane was full.
    pub replies_refused: u64,
}

trait Counted: Send + Sync {
    fn lanes(&self) -> Vec<LaneStats>;
}

impl<Req: Send, Rep: Send> Counted for Mesh<Req, Rep> {
    fn lanes(&self) -> Vec<LaneStats> {
        let count = |(index, pair): (usize, &Pair<Req, Rep>)| {
            let ((sent, refused), (replies, replies_refused)) = (pair.requests.counts(), pair.replies.counts());
            let waiting = sent.saturating_sub(pair.requests.taken());
            let (from, to) = (index / self.shards, index % self.shards);
            LaneStats { from, to, sent, refused, waiting, replies, replies_refused }
        };
        self.pairs.iter().enumerate().map(count).collect()
    }
}

/// The counters of a whole mesh, readable from any thread.
#[derive(Clone)]
pub struct MeshStats {
    mesh: Arc<dyn Counted>,
}

impl MeshStats {
    /// One entry per pair of shards.
    pub fn lanes(&self) -> Vec<LaneStats> {
        self.mesh.lanes()
    }
}

impl fmt::Debug for MeshStats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.lanes()).finish()
    }
}

/// One shard's end of the mesh, to be moved to its thread and attached there.
pub struct Endpoint<Req, Rep> {
    id: usize,
    mesh: Arc<Mesh<Req, Rep>>,
}

impl<Req, Rep> fmt::Debug for Endpoint<Req, Rep> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Endpoint").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A mesh of `shards` endpoints; each lane holds at most `capacity` messages, and each shard waits for at most `capacity`
/// answers from each other.
pub fn mesh<Req, Rep>(shards: usize, capacity: usize) -> (Vec<Endpoint<Req, Rep>>, MeshStats)
where
    Req: Send + 'static,
    Rep: Send + 'static,
{
    let mesh = Arc::new(Mesh {
        shards,
        capacity,
        pairs: (0..shards * shards).map(|_| Pair { requests: Lane::new(), replies: Lane::new() }).collect(),
        inboxes: (0..shards).map(|_| Notify::new()).collect(),
    });
    let endpoints = (0..shards).map(|id| Endpoint { id, mesh: mesh.clone() }).collect();
    (endpoints, MeshStats { mesh })
}

impl<Req: Send + 'static, Rep: Send + 'static> Endpoint<Req, Rep> {
    /// Puts the endpoint to work on this shard.
    pub fn attach(self) -> Mailbox<Req, Rep> {
        self.attach_with(|flush| drop(task::spawn_essential("mailbox flush", flush)))
    }

    /// As [`Endpoint::attach`] where there is no shard: the task that hands over what has gathered is given to `spawn`.
    pub fn attach_with(self, spawn: impl FnOnce(Pin<Box<dyn Future<Output = ()>>>)) -> Mailbox<Req, Rep> {
        let shards = self.mesh.shards;
        let outgoing = Signal::new();
        let inner = Rc::new(Inner {
            id: self.id,
            mesh: self.mesh,
            outbox: RefCell::new(
                (0..shards).map(|_| Outgoing { requests: Stage::new(), replies: Stage::new(), calls: 0 }).collect(),
            ),
            outgoing: outgoing.clone(),
            calls: RefCell::new(Slab::new()),
            requests: RefCell::new(Vec::new()),
            replies: RefCell::new(Vec::new()),
        });
        spawn(Box::pin(flush_turns(outgoing, Rc::downgrade(&inner))));
        Mailbox { inner }
    }
}

/// Hands over what has gathered, once per turn in which something did; ends with the mailbox.
async fn flush_turns<Req: 'static, Rep: 'static>(outgoing: Signal, inner: Weak<Inner<Req, Rep>>) {
    loop {
        outgoing.raised().await;
        let Some(inner) = inner.upgrade() else { return };
        inner.flush();
    }
}

/// What this shard has for another one.
struct Outgoing<Req, Rep> {
    requests: Stage<Request<Req>>,
    replies: Stage<Reply<Rep>>,
    /// Calls waiting for an answer from there.
    calls: usize,
}

struct Inner<Req, Rep> {
    id: usize,
    mesh: Arc<Mesh<Req, Rep>>,
    outbox: RefCell<Vec<Outgoing<Req, Rep>>>,
    outgoing: Signal,
    calls: RefCell<Slab<PendingCall<Rep>>>,
    /// Room that is swapped with the lanes', so that batches allocate nothing.
    requests: RefCell<Vec<Request<Req>>>,
    replies: RefCell<Vec<Reply<Rep>>>,
}

impl<Req, Rep> Inner<Req, Rep> {
    fn flush(&self) {
        for (to, outgoing) in self.outbox.borrow_mut().iter_mut().enumerate() {
            let (requests, replies) = (&mut outgoing.requests.staged, &mut outgoing.replies.staged);
            if requests.is_empty() && replies.is_empty() {
                continue;
            }
            let pair = self.mesh.pair(self.id, to);
            if !requests.is_empty() {
                pair.requests.put(requests);
            }
            if !replies.is_empty() {
                pair.replies.put(replies);
            }
            self.mesh.inboxes[to].notify();
        }
    }

    fn stage_request(&self, to: usize, call: Option<CallId>, body: Req) -> Result<(), Full<Req>> {
        let lane = &self.mesh.pair(self.id, to).requests;
        let stage = &mut self.outbox.borrow_mut()[to].requests;
        if !stage.admit(lane, self.mesh.capacity) {
            return Err(Full { to, message: body });
        }
        stage.staged.push(Request { call, body });
        self.outgoing.raise();
        Ok(())
    }

    fn stage_answer(&self, to: usize, call: CallId, answer: Option<Rep>) {
        self.outbox.borrow_mut()[to].replies.staged.push(Reply::Answer(call, answer));
        self.outgoing.raise();
    }

    fn resolve(&self, CallId(slot): CallId, answer: Option<Rep>) {
        let mut calls = self.calls.borrow_mut();
        let Some(call) = calls.get_mut(slot as usize) else { return };
        match std::mem::replace(&mut call.state, CallState::Ended(answer)) {
            CallState::Waiting(Some(waker)) => {
                drop(calls);
                waker.wake();
            }
            CallState::Waiting(None) | CallState::Ended(_) => {}
            CallState::Forgotten => {
                drop(calls);
                self.forget(slot);
            }
        }
    }

    /// Takes a call off the table.
    fn forget(&self, slot: u32) {
        let call = self.calls.borrow_mut().remove(slot as usize);
        self.outbox.borrow_mut()[call.to].calls -= 1;
    }
}

impl<Req, Rep> Drop for Inner<Req, Rep> {
    fn drop(&mut self) {
        self.flush();
        // Lets the flush task find out that it is alone.
        self.outgoing.raise();
    }
}

/// One shard's end of the mesh, in use. Cheap to clone; stays on its thread.
pub struct Mailbox<Req, Rep> {
    inner: Rc<Inner<Req, Rep>>,
}

impl<Req, Rep> fmt::Debug for Mailbox<Req, Rep> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Mailbox").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl<Req, Rep> Clone for Mailbox<Req, Rep> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<Req: Send + 'static, Rep: Send + 'static> Mailbox<Req, Rep> {
    /// This shard.
    pub fn id(&self) -> usize {
        self.inner.id
    }

    /// Shards in the mesh.
    pub fn shards(&self) -> usize {
        self.inner.mesh.shards
    }

    /// Sends a request that wants no answer. It leaves with everything else of this ring turn, with one wake.
    pub fn try_send(&self, to: usize, request: Req) -> Result<(), Full<Req>> {
        self.inner.stage_request(to, None, request)
    }

    /// Sends on the reply lane without being asked by a call.
    pub fn post(&self, to: usize, reply: Rep) -> Result<(), Full<Rep>> {
        let lane = &self.inner.mesh.pair(self.inner.id, to).replies;
        let stage = &mut self.inner.outbox.borrow_mut()[to].replies;
        if !stage.admit(lane, self.inner.mesh.capacity) {
            return Err(Full { to, message: reply });
        }
        stage.staged.push(Reply::Post(reply));
        self.inner.outgoing.raise();
        Ok(())
    }

    /// Sends a request and waits for its answer. Dropping the future forgets the answer. Nothing is sent before the
    /// first poll.
    pub async fn call(&self, to: usize, request: Req) -> Result<Rep, CallError<Req>> {
        let Some(mut waiting) = self.register(to) else {
            self.inner.mesh.pair(self.inner.id, to).requests.count_refused();
            return Err(CallError::Full { to, request });
        };
        if let Err(full) = self.inner.stage_request(to, Some(waiting.id), request) {
            return Err(CallError::Full { to, request: full.message });
        }
        waiting.sent = true;
        waiting.await.ok_or(CallError::Abandoned)
    }

    /// A place in the table of pending calls.
    fn register(&self, to: usize) -> Option<Waiting<Req, Rep>> {
        let outgoing = &mut self.inner.outbox.borrow_mut()[to];
        if outgoing.calls >= self.inner.mesh.capacity {
            return None;
        }
        outgoing.calls += 1;
        let slot = self.inner.calls.borrow_mut().insert(PendingCall { to, state: CallState::Waiting(None) });
        let slot = u32::try_from(slot).expect("pending calls are bounded far below 2^32");
        Some(Waiting { inner: self.inner.clone(), id: CallId(slot), sent: false })
    }

    /// Waits for messages and appends a batch to `out`: replies first. One task per mailbox receives; answers to calls
    /// are resolved here, so it must keep running. Safe to drop. A batch may be as large as all lanes together: work
    /// through it with [`crate::budget::spend`].
    pub async fn recv(&self, out: &mut Vec<Inbound<Req, Rep>>) {
        let before = out.len();
        let inbox = &self.inner.mesh.inboxes[self.inner.id];
        while out.len() == before {
            // Whoever fills a lane notifies afterwards, so nothing can be in a lane without a notification to come.
            std::future::poll_fn(|cx| inbox.poll_notified(cx)).await;
            self.collect(out);
        }
    }

    fn collect(&self, out: &mut Vec<Inbound<Req, Rep>>) {
        let inner = &self.inner;
        let mut replies = inner.replies.take();
        for from in 0..inner.mesh.shards {
            let lane = &inner.mesh.pair(from, inner.id).replies;
            lane.take(&mut replies);
            let mut posts = 0;
            for reply in replies.drain(..) {
                match reply {
                    Reply::Answer(call, answer) => inner.resolve(call, answer),
                    Reply::Post(body) => {
                        posts += 1;
                        out.push(Inbound::Reply { from, body });
                    }
                }
            }
            if posts > 0 {
                lane.make_room(posts);
            }
        }
        inner.replies.replace(replies);
        let mut requests = inner.requests.take();
        for from in 0..inner.mesh.shards {
            let lane = &inner.mesh.pair(from, inner.id).requests;
            lane.take(&mut requests);
            if requests.is_empty() {
                continue;
            }
            lane.make_room(requests.len() as u64);
            out.extend(requests.drain(..).map(|Request { call, body }| Inbound::Request {
                from,
                body,
                reply: call.map(|call| ReplyTo { inner: Some(inner.clone()), to: from, call }),
            }));
        }
        inner.requests.replace(requests);
    }
}
