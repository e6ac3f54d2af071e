//! The requests and answers of accounts, as the doors see them. Input is raw text: the engine checks it and says which
//! field was wrong.

use proto::ids::{SessionId, UserId};

/// A new account.
#[derive(Clone)]
pub struct RegisterRequest {
    /// 3 to 50 characters.
    pub username: String,
    /// An address.
    pub email: String,
    /// At least 8 characters.
    pub password: String,
    /// Needed when registration is by invitation.
    pub invite: Option<String>,
}

/// The account that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registered {
    /// Its id.
    pub user_id: UserId,
    /// Its name as given.
    pub username: String,
    /// Its address as given.
    pub email: String,
}

/// Who signs in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Identifier {
    /// By name.
    Username(String),
    /// By address.
    Email(String),
}

/// A sign-in.
#[derive(Clone)]
pub struct LoginRequest {
    /// Who.
    pub identifier: Identifier,
    /// The password.
    pub password: String,
}

/// A session's tokens.
#[derive(Clone)]
pub struct SignedIn {
    /// JWT for the `Authorization` header.
    pub access_token: String,
    /// Single use, for `refresh`.
    pub refresh_token: String,
    /// Seconds until the access token ends.
    pub expires_in_s: u64,
    /// The account.
    pub user_id: UserId,
    /// Its name.
    pub username: String,
    /// The session.
    pub session: SessionId,
}

/// One of a user's sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionView {
    /// Its id (`sid`).
    pub id: SessionId,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Last refresh, milliseconds since 1970.
    pub last_used_at_ms: u64,
    /// When its refresh token ends, milliseconds since 1970.
    pub expires_at_ms: u64,
    /// Where it was made from.
    pub address: Option<String>,
    /// What made it.
    pub user_agent: Option<String>,
    /// The one that asks.
    pub current: bool,
}
