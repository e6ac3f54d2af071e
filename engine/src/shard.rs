//! A shard's engine: its core and the tasks that drive it. The turn task hands over what a turn appended, the watermark task
//! releases what has become durable, the mail task serves the other shards, the housekeeper settles, evicts and counts. None
//! of them may end before the shard does.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{AbortHandle, abortable};
use proto::{Code, UserId};
use runtime::ShardContext;
use runtime::local::Signal;
use runtime::mailbox::{CallError, Inbound};
use runtime::notify::Notify;

use crate::accounts::lockout::Attempt;
use crate::core::{Core, Parts};
use crate::driver;
use crate::fault::Fault;
use crate::message::{Answer, Mail, Reply, Request, Target, Work};
use crate::metrics::{Counters, Handles, Levels};
use crate::nodes::Incoming;
use crate::revocations::Ended;
use crate::shared::Shared;
use crate::signin::Bearers;
use crate::users::Waiting;

/// The tasks that drive a shard, as long as this lives: they end with it, and with them the last hold on the shard.
pub(crate) struct Loops(Vec<AbortHandle>);

impl Drop for Loops {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

fn endless(name: &'static str, task: impl Future<Output = ()> + 'static) -> AbortHandle {
    let (task, handle) = abortable(task);
    driver::spawn_essential(name, async move {
        let _ = task.await;
    });
    handle
}

/// How often users are unpinned, memory is looked at and counts are published.
const HOUSEKEEPING: Duration = Duration::from_millis(100);

/// How often answers that wait for the store, or for room in another shard's mailbox, are looked at, while there are any.
const HELD_EVERY: Duration = Duration::from_millis(2);

/// One shard's engine.
pub(crate) struct Shard {
    pub(crate) id: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) context: ShardContext,
    pub(crate) core: RefCell<Core>,
    pub(crate) bearers: RefCell<Bearers>,
    mail: Mail,
    turn: Signal,
    held: Signal,
}

/// What a shard is woken by from outside.
#[derive(Clone, Default)]
pub(crate) struct Wakes {
    /// The journal's watermark moved.
    pub(crate) watermark: Notify,
    /// Grants were revoked.
    pub(crate) ended: Arc<Ended>,
    /// Other nodes have changed something.
    pub(crate) incoming: Arc<Incoming>,
    /// Another shard has come to its end.
    pub(crate) done: Notify,
}

impl Shard {
    /// Builds the engine of this thread.
    pub(crate) fn new(
        context: ShardContext,
        shared: Arc<Shared>,
        mail: Mail,
        journal: storage::journal::ShardJournal,
        clock: hub::Hlc,
    ) -> Rc<Self> {
        let (turn, held) = (Signal::new(), Signal::new());
        Rc::new_cyclic(|shard| {
            let parts = Parts {
                id: context.id,
                shared: Arc::clone(&shared),
                mail: mail.clone(),
                journal,
                clock,
                turn: turn.clone(),
                held_signal: held.clone(),
            };
            let core = RefCell::new(Core::new(shard.clone(), parts));
            let bearers = RefCell::default();
            Self { id: context.id, shared, context, core, bearers, mail, turn, held }
        })
    }

    /// Starts the tasks.
    pub(crate) fn start(self: &Rc<Self>, wakes: &Wakes) -> Loops {
        let this = || Rc::clone(self);
        Loops(vec![
            endless("turns", this().turns()),
            endless("watermark", this().watermark(wakes.watermark.clone())),
            endless("mail", this().mail()),
            endless("held answers", this().held_answers()),
            endless("revocations", this().revocations(Arc::clone(&wakes.ended))),
            endless("other nodes", this().other_nodes(Arc::clone(&wakes.incoming))),
            endless("housekeeping", this().housekeeping()),
        ])
    }

    /// Runs work on a user's owner, here or one hop away, and waits for its durable answer.
    pub(crate) async fn call(&self, owner: usize, user: UserId, work: Work) -> Result<Answer, Fault> {
        if owner == self.id {
            let (sender, answer) = oneshot::channel();
            let waiting = Waiting { work, target: Target::Local(sender), framed: false };
            self.core.borrow_mut().run(user, waiting);
            return answer.await.unwrap_or_else(|_| Err(stopping()));
        }
        self.ask(owner, Request::Run { user, work }).await
    }

    /// Asks a shard about a sign-in.
    pub(crate) async fn attempt(&self, keeper: usize, attempt: Attempt) -> Result<(), Fault> {
        if keeper == self.id {
            let mut core = self.core.borrow_mut();
            core.open_turn();
            let now_ms = core.now.since_start_ns / 1_000_000;
            return core.lockouts.take(&attempt, now_ms);
        }
        self.ask(keeper, Request::Attempt(attempt)).await.map(|_| ())
    }

    async fn ask(&self, to: usize, request: Request) -> Result<Answer, Fault> {
        match self.mail.call(to, request).await {
            Ok(Reply::Answer(answer)) => answer,
            Ok(Reply::Deliver { .. }) => unreachable!("a call is answered by an answer"),
            Err(CallError::Full { .. }) => {
                self.core.borrow_mut().counters.busy_mailbox += 1;
                Err(Fault::busy("The mailbox of the user's shard is full."))
            }
            Err(CallError::Abandoned) => Err(stopping()),
        }
    }

    async fn turns(self: Rc<Self>) {
        loop {
            self.turn.raised().await;
            self.core.borrow_mut().close_turn();
        }
    }

    async fn watermark(self: Rc<Self>, watermark: Notify) {
        loop {
            watermark.notified().await;
            self.core.borrow_mut().release();
        }
    }

    async fn mail(self: Rc<Self>) {
        let mut batch = Vec::new();
        loop {
            self.mail.recv(&mut batch).await;
            let mut core = self.core.borrow_mut();
            core.open_turn();
            for inbound in batch.drain(..) {
                core.take(inbound);
            }
        }
    }

    async fn held_answers(self: Rc<Self>) {
        loop {
            self.held.raised().await;
            while self.core.borrow_mut().try_again() {
                driver::sleep(HELD_EVERY).await;
            }
        }
    }

    async fn revocations(self: Rc<Self>, ended: Arc<Ended>) {
        loop {
            let ending = ended.take().await;
            self.core.borrow_mut().close_ended(&ending);
        }
    }

    async fn other_nodes(self: Rc<Self>, incoming: Arc<Incoming>) {
        loop {
            let arrived = incoming.take().await;
            {
                let mut core = self.core.borrow_mut();
                core.open_turn();
                core.arrived(arrived);
            }
            runtime::budget::spend().await;
        }
    }

    async fn housekeeping(self: Rc<Self>) {
        let mut handles = Handles::new(self.id);
        loop {
            driver::sleep(HOUSEKEEPING).await;
            let mut core = self.core.borrow_mut();
            core.users.settle(&self.shared.cursors);
            core.users.evict();
            core.send_outbox();
            core.give_back();
            if core.has_refreshes() {
                core.open_turn();
                core.refresh_more();
            }
            let since_start_ms = driver::now(self.shared.started).since_start_ns / 1_000_000;
            core.lockouts.forget(since_start_ms);
            let levels = Levels {
                users: core.users.figures(),
                connections: core.connections.len(),
                gated: core.waiting().0 + core.waiting().1,
            };
            let counters = std::mem::take::<Counters>(&mut core.counters);
            handles.publish(counters, levels);
        }
    }

    /// Lets connections finish once the drain has begun.
    pub(crate) async fn drain(self: Rc<Self>) {
        self.context.drain.draining().await;
        self.core.borrow_mut().connections.drain();
    }

    /// After the doors: everything is flushed and answered, here and on every other shard, because they may still ask this
    /// one. Ends early when the hard stop fires.
    pub(crate) async fn finish(&self, wakes: &Wakes) {
        let settled = async {
            while !self.core.borrow().is_quiet() {
                self.core.borrow_mut().close_turn();
                runtime::sleep(Duration::from_millis(1)).await;
            }
            self.shared.shards_done.fetch_add(1, Ordering::AcqRel);
            self.shared.done_wakes.iter().for_each(Notify::notify);
            while self.shared.shards_done.load(Ordering::Acquire) < self.shared.shards {
                wakes.done.notified().await;
            }
        };
        let stopped = self.context.stop.stopped();
        futures_util::future::select(std::pin::pin!(settled), std::pin::pin!(stopped)).await;
    }
}

impl Core {
    /// Serves what another shard sent.
    fn take(&mut self, inbound: Inbound<Request, Reply>) {
        match inbound {
            Inbound::Reply { body: Reply::Deliver { conn, item }, .. } => self.take_delivery(conn, item),
            Inbound::Reply { body: Reply::Answer(_), .. } => {}
            Inbound::Request { body, reply, .. } => self.take_request(body, reply),
        }
    }

    /// Something for this shard's doors.
    pub(crate) fn arrive(&mut self, handed: crate::Handed) {
        self.arrivals.push_back(handed);
        if let Some(waker) = self.arrival_waker.take() {
            waker.wake();
        }
    }

    fn take_request(&mut self, body: Request, reply: Option<runtime::mailbox::ReplyTo<Request, Reply>>) {
        match (body, reply) {
            (Request::Run { user, work }, Some(reply)) => {
                self.run(user, Waiting { work, target: Target::Call(reply), framed: false });
            }
            (Request::Submit { user, conn, seq, work, framed }, _) => {
                self.run(user, Waiting { work, target: Target::Connection { conn, seq }, framed });
            }
            (Request::Detach { user, conn }, _) => {
                self.users.unpin(user, conn);
                self.users.evict();
            }
            (Request::Attempt(attempt), Some(reply)) => {
                let now_ms = self.now.since_start_ns / 1_000_000;
                let answer = self.lockouts.take(&attempt, now_ms).map(|()| Answer::Noted);
                reply.send(Reply::Answer(answer));
            }
            (Request::Hand(handed), _) => self.arrive(handed),
            (Request::Run { .. } | Request::Attempt(_), None) => {
                unreachable!("these requests are only ever sent as calls")
            }
        }
    }
}

fn stopping() -> Fault {
    Fault::new(Code::ShuttingDown, "The server is stopping; connect again.")
}
