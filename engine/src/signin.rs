//! Signing in, from a shard's side: who may register, lock-outs (kept by one shard per account), and the bearer tokens this
//! shard has checked before.

use std::rc::Rc;
use std::sync::Arc;

use hub::Role;
use proto::Code;
use rustc_hash::FxHashMap;
use storage::store::TokenHash;

use crate::accounts::lockout::{Attempt, Step};
use crate::accounts::{LoginRequest, RegisterRequest, Registered, SignedIn, now_ms};
use crate::config::Registration;
use crate::fault::Fault;
use crate::grants::{Grant, Peer};
use crate::shard::Shard;
use crate::tokens::RefreshToken;

/// Bearer tokens remembered per shard: checking one again costs a probe instead of a signature and two JSON documents.
const BEARERS_MAX: usize = 4_096;

/// Tokens that were found good, by their SHA-256: a twentieth of the text's memory, and nothing in it signs anybody in.
#[derive(Default)]
pub(crate) struct Bearers {
    good: FxHashMap<TokenHash, Arc<Grant>>,
}

/// Makes an account, if accounts are to be had.
pub(crate) async fn register(shard: &Shard, request: RegisterRequest, _peer: &Peer) -> Result<Registered, Fault> {
    let refused = |code, detail: &'static str| Err(Fault::new(code, detail));
    match shard.shared.config.registration {
        Registration::Open => shard.shared.accounts.create(&request, Role::User).await,
        Registration::Invite => refused(Code::NotImplemented, "Invitations are not part of this version."),
        Registration::Closed => {
            refused(Code::Forbidden, "Registration is closed; ask an administrator for an account.")
        }
    }
}

/// Signs in.
pub(crate) async fn login(shard: &Rc<Shard>, request: LoginRequest, peer: &Peer) -> Result<SignedIn, Fault> {
    let accounts = &shard.shared.accounts;
    let candidate = accounts.candidate(&request.identifier).await?;
    let keeper = (candidate.key % shard.shared.shards as u64) as usize;
    let attempt = |step| Attempt { account: candidate.key, address: peer.network(), step };
    let (begin, succeeded, withdrawn) = (attempt(Step::Begin), attempt(Step::Succeeded), attempt(Step::Withdrawn));
    shard.attempt(keeper, begin).await?;
    match accounts.check(candidate, request.password).await {
        Ok(Some(account)) => {
            let _ = shard.attempt(keeper, succeeded).await;
            accounts.open_session(&account, peer).await
        }
        Ok(None) => Err(Fault::new(Code::Unauthenticated, "The name or the password is wrong.")),
        Err(fault) => {
            let _ = shard.attempt(keeper, withdrawn).await;
            Err(fault)
        }
    }
}

/// Checks a bearer token.
pub(crate) fn authorize(shard: &Shard, bearer: &str) -> Result<Arc<Grant>, Fault> {
    let now_s = now_ms() / 1_000;
    let mut bearers = shard.bearers.borrow_mut();
    let hash = RefreshToken::hash(bearer);
    let grant = match bearers.good.get(&hash) {
        Some(grant) if grant.expires_at_s > now_s => Arc::clone(grant),
        _ => {
            let grant = Arc::new(shard.shared.accounts.tokens.verify(bearer)?);
            if bearers.good.len() >= BEARERS_MAX {
                bearers.good.clear();
            }
            bearers.good.insert(hash, Arc::clone(&grant));
            grant
        }
    };
    shard.shared.revocations.check(&grant)?;
    Ok(grant)
}
