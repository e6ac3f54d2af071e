//! The server's core between the doors and the rules: who owns which user, what is durable, who hears of it. One `Engine`
//! per shard, a cheap clone, the only way in. Nothing it answers or announces is computed from state that is not on disk.
//! It speaks no protocol and knows no rule of the product: those are `protocols/` and `hub/`.

use std::rc::Rc;
use std::sync::Arc;

pub mod accounts;
pub mod admin;
pub mod attach;
pub mod boot;
pub mod catalogue;
pub mod config;
pub mod fanout;
pub mod fault;
pub mod grants;
pub mod request;

use proto::ids::{DeviceId, GrantId, SessionId, UserId};

pub use accounts::{Identifier, LoginRequest, RegisterRequest, Registered, SessionView, SignedIn};
pub use admin::{Admin, SeedReport, SeedRequest, Seeded};
pub use attach::{Ask, AttachOptions, Attachment, Outgoing, Welcome};
pub use boot::{Doors, Facts, Running, Serving, StartError, start};
pub use catalogue::{Catalogue, Series};
pub use config::{EngineConfig, Limits, Registration, TokenConfig};
pub use fanout::{Encode, Encoders, WireForm};
pub use fault::{ConflictState, Extra, Fault, FieldFault};
pub use grants::{Grant, Peer, Role};
pub use request::{
    Acked, Announcement, CatchUp, Command, DeviceView, Done, HistoryView, LibraryView, ProgressView, Query,
    ResumeToken, SetProgress, Strategy, View,
};

/// Something that one shard's doors hand to another's: a connection on its way to its user's owner.
pub type Handed = Box<dyn std::any::Any + Send>;

/// The engine on one shard. Cheap to clone, not `Send`.
#[derive(Clone)]
pub struct Engine {
    _shard: Rc<()>,
}

/// What a dependency is doing, for `/health/ready`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// Journal and shards work.
    pub ready: bool,
    /// The store is away; loaded users are served.
    pub degraded: bool,
    /// Each dependency and its state in a word or two.
    pub dependencies: Vec<(&'static str, String)>,
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

#[allow(clippy::unused_async, unused_variables, reason = "bodies follow")]
impl Engine {
    /// This shard's number, from 0.
    pub fn shard(&self) -> usize {
        0
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        1
    }

    /// The shard that owns a user today. A connection that moves there is served without crossing a thread.
    pub fn owner(&self, user: UserId) -> usize {
        0
    }

    /// Hands something (a detached connection) to the doors of another shard; refused (`Capacity`) when its mailbox is full,
    /// and handed back.
    pub fn hand_over(&self, to: usize, handed: Handed) -> Result<(), (Handed, Fault)> {
        Err((handed, Fault::busy("not yet")))
    }

    /// What other shards' doors hand to this one's. One task per shard waits here.
    pub async fn next_handed(&self) -> Handed {
        std::future::pending().await
    }

    /// This data folder's number in merge keys.
    pub fn node(&self) -> proto::ids::NodeId {
        proto::ids::NodeId(0)
    }

    /// Makes an account. `AlreadyExists` names the field that is taken.
    pub async fn register(&self, request: RegisterRequest, peer: &Peer) -> Result<Registered, Fault> {
        Err(Fault::busy("not yet"))
    }

    /// Signs in. The same answer in the same time for an unknown user and a wrong password; locked out after too many.
    pub async fn login(&self, request: LoginRequest, peer: &Peer) -> Result<SignedIn, Fault> {
        Err(Fault::busy("not yet"))
    }

    /// Trades a refresh token for new tokens. Presenting a used one revokes its whole family.
    pub async fn refresh(&self, refresh_token: &str, peer: &Peer) -> Result<SignedIn, Fault> {
        Err(Fault::busy("not yet"))
    }

    /// Revokes a refresh token and its session. Unknown tokens are fine.
    pub async fn revoke(&self, refresh_token: &str) -> Result<(), Fault> {
        Err(Fault::busy("not yet"))
    }

    /// Checks a bearer token: signature, expiry, revocation.
    pub async fn authorize(&self, bearer: &str) -> Result<Arc<Grant>, Fault> {
        Err(Fault::busy("not yet"))
    }

    /// Whether a grant still stands (it may have been revoked since it was checked).
    pub fn stands(&self, grant: GrantId) -> bool {
        true
    }

    /// The user's sessions that have not ended.
    pub async fn sessions(&self, grant: &Grant) -> Result<Vec<SessionView>, Fault> {
        Err(Fault::busy("not yet"))
    }

    /// Ends one of the user's own sessions; its connections close at once. `NotFound` for another user's.
    pub async fn revoke_session(&self, grant: &Grant, session: SessionId) -> Result<(), Fault> {
        Err(Fault::busy("not yet"))
    }

    /// Ends all of the user's sessions, the asking one too unless `keep_current`. Returns how many.
    pub async fn revoke_sessions(&self, grant: &Grant, keep_current: bool) -> Result<usize, Fault> {
        Err(Fault::busy("not yet"))
    }

    /// Runs a command on the user's owner and answers when it is durable. Dropping the future does not undo the command.
    pub async fn command(&self, grant: &Grant, command: Command) -> Result<Done, Fault> {
        Err(Fault::busy("not yet"))
    }

    /// Reads from the user's owner, durable state only.
    pub async fn query(&self, grant: &Grant, query: Query) -> Result<View, Fault> {
        Err(Fault::busy("not yet"))
    }

    /// Registers a live connection of a grant and answers when its user is loaded.
    pub async fn attach(
        &self,
        grant: Arc<Grant>,
        device: Option<DeviceId>,
        options: AttachOptions,
    ) -> Result<Attachment, Fault> {
        Err(Fault::busy("not yet"))
    }

    /// The catalogue as of now.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        Arc::default()
    }

    /// Draws one API request from the caller's bucket; `RateLimited` with the time to wait when it is empty.
    pub fn admit(&self, caller: Caller<'_>) -> Result<RateView, Fault> {
        Err(Fault::busy("not yet"))
    }

    /// What works and what does not.
    pub fn health(&self) -> Health {
        Health { ready: false, degraded: false, dependencies: Vec::new() }
    }

    /// Whether the server is draining: take nothing new, finish, say Bye.
    pub fn is_draining(&self) -> bool {
        false
    }
}
