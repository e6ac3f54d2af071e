//! What a caller may do: the grant behind a token, and its scopes.

use std::net::IpAddr;

use hub::Scope;
use proto::{Code, GrantId, UserId};

use crate::fault::{Extra, Fault};

/// Who is on the other side, as the door sees it (after `trusted_proxies`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The client's address.
    pub address: IpAddr,
    /// What it calls itself, cut to 200 characters; shown in the list of sessions.
    pub user_agent: Option<String>,
}

impl Peer {
    /// What limits count by: the address, or the /64 that an IPv6 customer is given (RFC 6177).
    pub(crate) fn network(&self) -> IpAddr {
        match self.address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
            canonical => canonical,
        }
    }
}

pub use hub::{Role, ScopeSet};

/// A checked credential. Cheap to share; says nothing about revocation after it was made (the engine checks that again).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The session (or key) it rests on.
    pub id: GrantId,
    /// Whose it is.
    pub user: UserId,
    /// The account's name.
    pub username: String,
    /// The account's role when the token was made.
    pub role: Role,
    /// What it may do, as in the token.
    pub scopes: ScopeSet,
    /// When the token was made, in seconds since 1970.
    pub issued_at_s: u64,
    /// When the token ends, in seconds since 1970. A connection may outlive it; a request may not.
    pub expires_at_s: u64,
}

impl Grant {
    /// Refuses with `required` and `granted` unless the grant has the scope. `write:*` covers every `write:..`.
    pub fn require(&self, scope: &'static str) -> Result<(), Fault> {
        let covers = |granted: &'static str| {
            granted == scope
                || granted.strip_suffix('*').is_some_and(|kind| kind.ends_with(':') && scope.starts_with(kind))
        };
        if self.scopes.iter().map(Scope::as_str).any(covers) {
            return Ok(());
        }
        Err(Fault {
            code: Code::Forbidden,
            detail: format!("This needs the scope {scope}.").into(),
            extra: Extra::Scope { required: scope, granted: self.scopes.iter().map(Scope::as_str).collect() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_covers_its_kind_and_no_other() {
        let mut grant = Grant {
            id: GrantId::new_v7(),
            user: UserId::default(),
            username: String::new(),
            role: Role::Admin,
            scopes: ScopeSet::from_words(["read:manga", "write:*"]),
            issued_at_s: 0,
            expires_at_s: 0,
        };
        assert!(grant.require("write:progress").is_ok() && grant.require("read:manga").is_ok());
        assert!(grant.require("read:library").is_err() && grant.require("delete:manga").is_err());
        grant.scopes = ScopeSet::from_words(["*"]);
        assert!(grant.require("write:progress").is_err());
    }
}
