//! What a caller may do: the grant behind a token, its scopes, and the snapshot of revoked grants that every shard checks.

use std::net::IpAddr;
use std::sync::OnceLock;

use arc_swap::ArcSwap;
use hub::Scope;
use proto::{Code, GrantId, UserId};
use runtime::notify::Notify;
use rustc_hash::FxHashMap;

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

/// The grants that no longer count, each until nothing that names it can be valid any more. Readers take a snapshot without
/// a lock; whoever revokes publishes a new one and wakes every shard, which closes that grant's connections.
pub(crate) struct Revocations {
    /// Until when each is remembered, in milliseconds since 1970.
    snapshot: ArcSwap<FxHashMap<GrantId, u64>>,
    wakes: OnceLock<Vec<Notify>>,
}

impl Revocations {
    /// Begins with what was revoked before this boot.
    pub(crate) fn new(known: impl IntoIterator<Item = (GrantId, u64)>) -> Self {
        Self { snapshot: ArcSwap::from_pointee(known.into_iter().collect()), wakes: OnceLock::new() }
    }

    /// Whom to wake from now on: one per shard.
    pub(crate) fn wake_with(&self, wakes: Vec<Notify>) {
        let _ = self.wakes.set(wakes);
    }

    /// Publishes more, forgets what may be forgotten, and wakes the shards.
    pub(crate) fn add(&self, revoked: &[storage::store::Revocation], now_ms: u64) {
        if revoked.is_empty() {
            return;
        }
        self.snapshot.rcu(|known| {
            let mut next: FxHashMap<GrantId, u64> = (**known).clone();
            next.retain(|_, keep_until_ms| *keep_until_ms >= now_ms);
            next.extend(revoked.iter().map(|revoked| (revoked.grant, revoked.keep_until_unix_ms)));
            next
        });
        self.wakes.get().into_iter().flatten().for_each(Notify::notify);
    }

    /// Whether a grant was revoked.
    pub(crate) fn contains(&self, grant: GrantId) -> bool {
        let snapshot = self.snapshot.load();
        !snapshot.is_empty() && snapshot.contains_key(&grant)
    }

    /// Refuses a revoked grant.
    pub(crate) fn check(&self, grant: GrantId) -> Result<(), Fault> {
        if self.contains(grant) {
            Err(Fault::new(Code::Revoked, "This session was ended; sign in again."))
        } else {
            Ok(())
        }
    }

    /// For the checkpoint: 16 bytes of grant and 8 of time each, little-endian.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let snapshot = self.snapshot.load();
        let mut bytes = Vec::with_capacity(snapshot.len() * 24);
        for (grant, keep_until_ms) in snapshot.iter() {
            bytes.extend_from_slice(grant.as_bytes());
            bytes.extend_from_slice(&keep_until_ms.to_le_bytes());
        }
        bytes
    }

    /// What `encode` wrote; a rest that is no whole entry is left out.
    pub(crate) fn decode(bytes: &[u8]) -> Vec<(GrantId, u64)> {
        let (entries, _) = bytes.as_chunks::<24>();
        let entry = |entry: &[u8; 24]| {
            let (mut grant, mut time) = ([0; 16], [0; 8]);
            grant.copy_from_slice(&entry[..16]);
            time.copy_from_slice(&entry[16..]);
            (GrantId::from_bytes(grant), u64::from_le_bytes(time))
        };
        entries.iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revoked(grant: GrantId, keep_until_unix_ms: u64) -> storage::store::Revocation {
        storage::store::Revocation { grant, user: UserId::default(), revoked_at_unix_ms: 0, keep_until_unix_ms }
    }

    #[test]
    fn a_revoked_grant_is_refused_until_nothing_can_name_it() {
        let (first, second) = (GrantId::new_v7(), GrantId::new_v7());
        let revocations = Revocations::new([(first, 100)]);
        assert!(revocations.check(first).is_err() && revocations.check(second).is_ok());
        revocations.add(&[revoked(second, 300)], 200);
        assert!(!revocations.contains(first) && revocations.contains(second));
        assert_eq!(Revocations::decode(&revocations.encode()), [(second, 300)]);
    }

    #[test]
    fn a_star_covers_its_kind_and_no_other() {
        let mut grant = Grant {
            id: GrantId::new_v7(),
            user: UserId::default(),
            username: String::new(),
            role: Role::Admin,
            scopes: ScopeSet::from_words(["read:manga", "write:*"]),
            expires_at_s: 0,
        };
        assert!(grant.require("write:progress").is_ok() && grant.require("read:manga").is_ok());
        assert!(grant.require("read:library").is_err() && grant.require("delete:manga").is_err());
        grant.scopes = ScopeSet::from_words(["*"]);
        assert!(grant.require("write:progress").is_err());
    }
}
