//! Accounts and sessions: registering, signing in, refreshing, revoking. Synchronous in the store (503 while it is away);
//! hashing runs on the compute pool, never on a shard. Everything here is `Send`, so that administration uses it too.

pub(crate) mod lockout;
pub(crate) mod password;
mod sessions;
pub mod types;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::SystemTime;

use hub::Role;
use hub::account::{Email, Password, SignInName, Username};
use proto::{Code, UserId};
use ring::rand::{SecureRandom, SystemRandom};
use storage::store::{Account, NewUser, QueueReading, SharedStore, UserKey};

use crate::compute::Compute;
use crate::fault::{Extra, Fault, FieldFault};
use crate::grants::Peer;
use crate::loading::store_fault;
use crate::revocations::Revocations;
use crate::tokens::Tokens;

pub use types::*;

use password::Checked;

/// Sessions per user; one more, and the longest unseen ends.
const SESSIONS_PER_USER_MAX: u32 = 100;

/// The way to the accounts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Accounts {
    pub(crate) store: SharedStore,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) revocations: Arc<Revocations>,
    compute: Compute,
    hasher: RandomState,
}

/// A sign-in that has been found plausible: whom it is about, before the password is looked at.
pub(crate) struct Candidate {
    account: Option<Account>,
    /// Whose failures are counted.
    pub(crate) key: u64,
}

impl Accounts {
    pub(crate) fn new(store: SharedStore, tokens: Tokens, revocations: Arc<Revocations>, compute: Compute) -> Self {
        Self { store, tokens: Arc::new(tokens), revocations, compute, hasher: RandomState::new() }
    }

    /// How full the queue of what is to be hashed is.
    pub(crate) fn hashing_queue(&self) -> QueueReading {
        self.compute.reading()
    }

    /// Makes an account of a role.
    pub(crate) async fn create(&self, request: &RegisterRequest, role: Role) -> Result<Registered, Fault> {
        let (username, email, password) = checked(request)?;
        self.refuse_taken(&username, &email).await?;
        let password_hash = self.hash(password).await?;
        let id = UserId::new_v7();
        let user = NewUser {
            id,
            username: username.as_str().to_owned(),
            username_folded: username.folded(),
            email: email.as_str().to_owned(),
            email_folded: email.folded(),
            password_hash,
            role,
            created_at_unix_ms: now_ms(),
        };
        self.store.create_user(user).await.map_err(store_fault)?;
        Ok(Registered { user_id: id, username: username.as_str().to_owned(), email: email.as_str().to_owned() })
    }

    /// Finds whom a sign-in is about. Nobody is a candidate too: the answer must not tell.
    pub(crate) async fn candidate(&self, identifier: &Identifier) -> Result<Candidate, Fault> {
        let text = match identifier {
            Identifier::Username(text) | Identifier::Email(text) => text,
        };
        let parsed = match identifier {
            Identifier::Username(text) => Username::parse(text).map(|name| SignInName::Username(name.folded())),
            Identifier::Email(text) => Email::parse(text).map(|email| SignInName::Email(email.folded())),
        };
        let account = match parsed {
            Ok(SignInName::Username(name)) => self.store.find_user(UserKey::Username(name)).await,
            Ok(SignInName::Email(email)) => self.store.find_user(UserKey::Email(email)).await,
            Err(_) => Ok(None),
        };
        let account = account.map_err(store_fault)?;
        let key = match &account {
            Some(account) => self.hasher.hash_one(account.id),
            None => self.hasher.hash_one(text.to_lowercase()),
        };
        Ok(Candidate { account, key })
    }

    /// Checks the password, in the same time whether there is such an account or not; `None` when it is wrong.
    pub(crate) async fn check(&self, candidate: Candidate, password: String) -> Result<Option<Account>, Fault> {
        let Candidate { account, .. } = candidate;
        let salt = salt()?;
        let stored = account.as_ref().map(|account| account.password_hash.clone());
        let checked = self.compute.run(move || password::check(&password, stored.as_deref(), salt)).await?;
        let (account, upgraded) = match (account, checked) {
            (Some(account), Checked::Right) => (account, None),
            (Some(account), Checked::Upgrade(hash)) => (account, Some(hash)),
            _ => return Ok(None),
        };
        if let Some(hash) = upgraded
            && let Err(error) = self.store.set_password_hash(account.id, hash, now_ms()).await
        {
            // The old hash still works; the next sign-in tries again.
            tracing::warn!(%error, "a password hash was not upgraded");
        }
        Ok(Some(account))
    }

    /// Hashes a new password.
    pub(crate) async fn hash(&self, password: Password) -> Result<String, Fault> {
        let salt = salt()?;
        let hashed = self.compute.run(move || password::hash(password.expose(), salt)).await?;
        hashed.map_err(|what| Fault::new(Code::Internal, what))
    }

    /// Changes a role and ends the user's sessions, so that new tokens say so.
    pub(crate) async fn set_role(&self, identifier: &str, role: Role) -> Result<UserId, Fault> {
        let key = match SignInName::parse(identifier) {
            Ok(SignInName::Username(name)) => UserKey::Username(name),
            Ok(SignInName::Email(email)) => UserKey::Email(email),
            Err(wrong) => return Err(Fault::field("user", wrong.to_string())),
        };
        let account = self.store.find_user(key).await.map_err(store_fault)?;
        let account = account.ok_or_else(|| Fault::not_found(format!("There is no user {identifier}.")))?;
        self.store.set_role(account.id, role, now_ms()).await.map_err(store_fault)?;
        self.end_sessions(account.id, None).await?;
        Ok(account.id)
    }

    /// Says early, before the hashing, that a name is taken. The unique index still decides.
    async fn refuse_taken(&self, username: &Username, email: &Email) -> Result<(), Fault> {
        let keys = [("username", UserKey::Username(username.folded())), ("email", UserKey::Email(email.folded()))];
        for (field, key) in keys {
            if self.store.find_user(key).await.map_err(store_fault)?.is_some() {
                return Err(Fault {
                    code: Code::AlreadyExists,
                    detail: format!("That {field} is taken.").into(),
                    extra: Extra::Fields(vec![FieldFault { field: field.into(), message: "is taken".to_owned() }]),
                });
            }
        }
        Ok(())
    }
}

/// Checks a registration field by field and says everything that is wrong at once.
fn checked(request: &RegisterRequest) -> Result<(Username, Email, Password), Fault> {
    let mut wrong = Vec::new();
    let mut note = |field: &'static str, error: proto::ValueError| {
        wrong.push(FieldFault { field: field.into(), message: error.to_string() });
    };
    let username = Username::parse(&request.username).map_err(|error| note("username", error));
    let email = Email::parse(&request.email).map_err(|error| note("email", error));
    let password = Password::parse(&request.password).map_err(|error| note("password", error));
    match (username, email, password) {
        (Ok(username), Ok(email), Ok(password)) => Ok((username, email, password)),
        _ => {
            let detail = wrong.iter().map(|fault| fault.message.as_str()).collect::<Vec<_>>().join("; ");
            Err(Fault { code: Code::InvalidInput, detail: detail.into(), extra: Extra::Fields(wrong) })
        }
    }
}

/// What the list of sessions shows of where one was made.
fn origin(peer: &Peer) -> (Option<String>, Option<String>) {
    let agent = peer.user_agent.as_ref().map(|agent| agent.chars().take(200).collect());
    (Some(peer.address.to_string()), agent)
}

/// Now, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn salt() -> Result<[u8; 16], Fault> {
    let mut salt = [0; 16];
    SystemRandom::new().fill(&mut salt).map_err(|_| Fault::new(Code::Internal, "No randomness is to be had."))?;
    Ok(salt)
}
