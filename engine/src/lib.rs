//! The server's core between the doors and the rules: who owns which user, what is durable, who hears of it. One `Engine`
//! per shard, a cheap clone, the only way in. Nothing it answers or announces is computed from state that is not on disk.
//! It speaks no protocol and knows no rule of the product: those are `protocols/` and `hub/`.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

pub mod accounts;
pub mod admin;
pub mod attach;
pub mod boot;
pub mod catalogue;
mod commands;
mod compute;
pub mod config;
mod connections;
mod core;
mod driver;
pub mod fanout;
pub mod fault;
mod fit;
mod followed;
pub mod grants;
mod held;
mod limits;
mod loading;
mod message;
mod metrics;
mod nodes;
mod recovery;
mod report;
pub mod request;
mod revocations;
mod shard;
mod shared;
mod signin;
#[cfg(test)]
mod sim;
mod tokens;
mod upkeep;
mod users;
mod views;

pub use storage::trace;

use proto::{Code, DeviceId, NodeId, SessionId, UserId};

pub use accounts::{Identifier, LoginRequest, RegisterRequest, Registered, SessionView, SignedIn};
pub use admin::{Admin, SeedReport, SeedRequest, Seeded};
pub use attach::{Ask, AttachOptions, Attachment, Outgoing, Welcome};
pub use boot::{Doors, Facts, Running, Serving, StartError, start};
pub use catalogue::{Catalogue, Series};
pub use config::{EngineConfig, Limits, Registration, TokenConfig};
pub use fanout::{Encode, Encoders, WireForm};
pub use fault::{ConflictState, Extra, Fault, FieldFault};
pub use grants::{Grant, Peer, Role, ScopeSet};
pub use request::{
    Acked, Announcement, CatchUp, Command, DeviceView, Done, HistoryView, LibraryView, ProgressView, Query,
    ResumeToken, SetProgress, Strategy, View,
};

use message::{Answer, Request, Work};
use shard::Shard;

/// Something that one shard's doors hand to another's: a connection on its way to its user's owner.
pub type Handed = Box<dyn std::any::Any + Send>;

/// The engine on one shard. Cheap to clone, not `Send`.
#[derive(Clone)]
pub struct Engine {
    shard: Rc<Shard>,
}

/// What a dependency is doing, for `/health/ready`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// Journal and shards work.
    pub ready: bool,
    /// Some dependency is not healthy; whoever can be served is.
    pub degraded: bool,
    /// Each dependency.
    pub dependencies: Vec<Dependency>,
}

/// Something that the server stands on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dependency {
    /// Which.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// Why it is not well, for anybody to read.
    pub detail: Option<String>,
}

/// How a dependency is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// It does what it should.
    Healthy = 0,
    /// It answers and needs looking after.
    Degraded = 1,
    /// It does not answer.
    Down = 2,
}

impl State {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// Which bucket an API request draws from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller<'a> {
    /// Signed in.
    User(UserId),
    /// Not (yet) signed in.
    Peer(&'a Peer),
}

/// Where an API limit stands, for the `RateLimit-*` headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateView {
    /// Requests at once.
    pub limit: u32,
    /// Requests left now.
    pub remaining: u32,
    /// Seconds until all are back.
    pub reset_s: u32,
}

impl Engine {
    /// This shard's number, from 0.
    pub fn shard(&self) -> usize {
        self.shard.id
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shard.shared.shards
    }

    /// The shard that owns a user today. A connection that moves there is served without crossing a thread.
    pub fn owner(&self, user: UserId) -> usize {
        self.shard.shared.owner(user)
    }

    /// Hands something (a detached connection) to the doors of another shard; refused (`Capacity`) when its mailbox is full,
    /// and handed back.
    pub fn hand_over(&self, to: usize, handed: Handed) -> Result<(), (Handed, Fault)> {
        let mut core = self.shard.core.borrow_mut();
        if to == core.id {
            core.arrive(handed);
            return Ok(());
        }
        core.mail.try_send(to, Request::Hand(handed)).map_err(|full| {
            core.counters.busy_mailbox += 1;
            let Request::Hand(handed) = full.message else { unreachable!("what was sent comes back") };
            (handed, Fault::new(Code::Capacity, "The shard of this user takes no more connections now."))
        })
    }

    /// What other shards' doors hand to this one's. One task per shard waits here.
    pub async fn next_handed(&self) -> Handed {
        std::future::poll_fn(|context| {
            let mut core = self.shard.core.borrow_mut();
            match core.arrivals.pop_front() {
                Some(handed) => Poll::Ready(handed),
                None => {
                    core.arrival_waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// This data folder's number in merge keys.
    pub fn node(&self) -> NodeId {
        self.shard.shared.node
    }

    /// Makes an account. `AlreadyExists` names the field that is taken.
    pub async fn register(&self, request: RegisterRequest, peer: &Peer) -> Result<Registered, Fault> {
        signin::register(&self.shard, request, peer).await
    }

    /// Signs in. The same answer in the same time for an unknown user and a wrong password; locked out after too many.
    pub async fn login(&self, request: LoginRequest, peer: &Peer) -> Result<SignedIn, Fault> {
        signin::login(&self.shard, request, peer).await
    }

    /// Trades a refresh token for new tokens. Presenting a used one revokes its whole family.
    pub async fn refresh(&self, refresh_token: &str, _peer: &Peer) -> Result<SignedIn, Fault> {
        self.shard.shared.accounts.refresh(refresh_token).await
    }

    /// Revokes a refresh token and its session. Unknown tokens are fine.
    pub async fn revoke(&self, refresh_token: &str) -> Result<(), Fault> {
        self.shard.shared.accounts.revoke_token(refresh_token).await
    }

    /// Checks a bearer token: signature, expiry, revocation.
    pub async fn authorize(&self, bearer: &str) -> Result<Arc<Grant>, Fault> {
        signin::authorize(&self.shard, bearer)
    }

    /// The user's sessions that have not ended.
    pub async fn sessions(&self, grant: &Grant) -> Result<Vec<SessionView>, Fault> {
        self.shard.shared.accounts.list_sessions(grant).await
    }

    /// Ends one of the user's own sessions; its connections close at once. `NotFound` for another user's.
    pub async fn revoke_session(&self, grant: &Grant, session: SessionId) -> Result<(), Fault> {
        self.shard.shared.accounts.end_session(grant.user, session).await
    }

    /// Ends all of the user's sessions, the asking one too unless `keep_current`. Returns how many.
    pub async fn revoke_sessions(&self, grant: &Grant, keep_current: bool) -> Result<usize, Fault> {
        self.shard.shared.accounts.end_sessions(grant.user, keep_current.then_some(grant.id)).await
    }

    /// Runs a command on the user's owner and answers when it is durable. Dropping the future does not undo the command.
    pub async fn command(&self, grant: &Grant, command: Command) -> Result<Done, Fault> {
        match self.shard.call(self.owner(grant.user), grant.user, Work::Command(command)).await? {
            Answer::Done(done) => Ok(done),
            _ => Err(mixed_up()),
        }
    }

    /// Reads from the user's owner, durable state only.
    pub async fn query(&self, grant: &Grant, query: Query) -> Result<View, Fault> {
        if let Query::History { manga, cursor, limit } = query {
            return views::history(&self.shard.shared, grant.user, manga, cursor, limit).await;
        }
        match self.shard.call(self.owner(grant.user), grant.user, Work::Query(query)).await? {
            Answer::View(view) => Ok(view),
            _ => Err(mixed_up()),
        }
    }

    /// Registers a live connection of a grant and answers when its user is loaded.
    pub async fn attach(
        &self,
        grant: Arc<Grant>,
        device: Option<DeviceId>,
        options: AttachOptions,
    ) -> Result<Attachment, Fault> {
        attach::attach(&self.shard, grant, device, options).await
    }

    /// The catalogue as of now.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(self.shard.core.borrow_mut().catalogue.load())
    }

    /// Draws one API request from the caller's bucket; `RateLimited` with the time to wait when it is empty.
    pub fn admit(&self, caller: Caller<'_>) -> Result<RateView, Fault> {
        let shared = &self.shard.shared;
        let since_start = shared.started.elapsed();
        let drawn = match caller {
            Caller::User(user) => shared.api_rates.draw(user, since_start),
            Caller::Peer(peer) => shared.api_rates.draw(peer.network(), since_start),
        };
        let limit = shared.api_rates.rate().burst();
        match drawn {
            Ok(drawn) => {
                let reset_s = drawn.full_in_ns.div_ceil(1_000_000_000) as u32;
                Ok(RateView { limit, remaining: drawn.remaining, reset_s })
            }
            Err(empty) => {
                let mut core = self.shard.core.borrow_mut();
                core.counters.refused(Code::RateLimited);
                core.counters.over_api_rate += 1;
                let wait_ms = empty.wait_ns.div_ceil(1_000_000);
                Err(Fault::new(Code::RateLimited, "More requests than the limit allows.").retry_after_ms(wait_ms))
            }
        }
    }

    /// What works and what does not, as of the last look (one a second).
    pub fn health(&self) -> Health {
        let mut health = Health::clone(&self.shard.shared.health.load());
        health.ready &= !self.is_draining();
        health
    }

    /// Whether the server is draining: take nothing new, finish, say Bye.
    pub fn is_draining(&self) -> bool {
        self.shard.context.drain.is_draining()
    }
}

fn mixed_up() -> Fault {
    Fault::new(Code::Internal, "The owner answered something else.")
}
