//! Sessions: opened by signing in, carried on by refresh tokens that work once, ended by revoking. Ending one publishes its
//! grant at once, so that every shard closes its connections; the store has it before anybody is told.

use proto::{Code, SessionId, UserId};
use storage::store::{Account, NewRefreshToken, NewSession, Revocation, RevokeAt, Rotate, Rotation, Session};

use super::{Accounts, SESSIONS_PER_USER_MAX, SessionView, SignedIn, now_ms, origin};
use crate::fault::Fault;
use crate::grants::{Grant, Peer};
use crate::loading::store_fault;
use crate::tokens::{RefreshToken, Subject};

impl Accounts {
    /// Opens a session for a user who has proved who they are.
    pub(crate) async fn open_session(&self, account: &Account, peer: &Peer) -> Result<SignedIn, Fault> {
        let now_ms = now_ms();
        let refresh = RefreshToken::generate()?;
        let sid = SessionId::new_v7();
        let (ip, user_agent) = origin(peer);
        let session = NewSession {
            sid,
            user: account.id,
            device_label: None,
            ip,
            user_agent,
            created_at_unix_ms: now_ms,
            refresh: self.stored(&refresh, now_ms),
            sessions_per_user_max: SESSIONS_PER_USER_MAX,
            keep_revocations_until_unix_ms: self.keep_until(now_ms),
        };
        let made_room = self.store.open_session(session).await.map_err(store_fault)?;
        self.publish(&made_room);
        self.signed_in(account, sid, refresh, now_ms)
    }

    /// Trades a refresh token for new tokens; a used one ends its session.
    pub(crate) async fn refresh(&self, presented: &str) -> Result<SignedIn, Fault> {
        let now_ms = now_ms();
        let next = RefreshToken::generate()?;
        let rotate = Rotate {
            presented: RefreshToken::hash(presented),
            next: self.stored(&next, now_ms),
            now_unix_ms: now_ms,
            keep_revocations_until_unix_ms: self.keep_until(now_ms),
        };
        let refused = |code, detail: &'static str| Err(Fault::new(code, detail));
        match self.store.rotate(rotate).await.map_err(store_fault)? {
            Rotation::Rotated { session, account } => self.signed_in(&account, session.sid, next, now_ms),
            Rotation::Reused(revocation) => {
                self.publish(&[revocation]);
                refused(Code::Revoked, "This refresh token had been used before; its session was ended. Sign in again.")
            }
            Rotation::Expired => refused(Code::Unauthenticated, "The session has ended; sign in again."),
            Rotation::Unknown => refused(Code::Unauthenticated, "The refresh token is not valid."),
        }
    }

    /// Ends the session of a refresh token; unknown ones are fine.
    pub(crate) async fn revoke_token(&self, presented: &str) -> Result<(), Fault> {
        let revoked =
            self.store.revoke_by_token(RefreshToken::hash(presented), self.at()).await.map_err(store_fault)?;
        self.publish(revoked.as_slice());
        Ok(())
    }

    /// Ends one of a user's sessions.
    pub(crate) async fn end_session(&self, user: UserId, session: SessionId) -> Result<(), Fault> {
        let revoked = self.store.revoke_session(user, session, self.at()).await.map_err(store_fault)?;
        let revoked = revoked.ok_or_else(|| Fault::not_found("There is no such session."))?;
        self.publish(&[revoked]);
        Ok(())
    }

    /// Ends all of a user's sessions but one; returns how many.
    pub(crate) async fn end_sessions(&self, user: UserId, except: Option<SessionId>) -> Result<usize, Fault> {
        let revoked = self.store.revoke_all(user, except, self.at()).await.map_err(store_fault)?;
        self.publish(&revoked);
        Ok(revoked.len())
    }

    /// A user's open sessions, last seen first.
    pub(crate) async fn list_sessions(&self, grant: &Grant) -> Result<Vec<SessionView>, Fault> {
        let sessions = self.store.sessions(grant.user, now_ms()).await.map_err(store_fault)?;
        let view = |session: Session| SessionView {
            id: session.sid,
            created_at_ms: session.created_at_unix_ms,
            last_used_at_ms: session.last_seen_at_unix_ms,
            expires_at_ms: session.expires_at_unix_ms,
            address: session.ip,
            user_agent: session.user_agent,
            current: session.sid == grant.id,
        };
        Ok(sessions.into_iter().map(view).collect())
    }

    fn signed_in(
        &self,
        account: &Account,
        session: SessionId,
        refresh: RefreshToken,
        now_ms: u64,
    ) -> Result<SignedIn, Fault> {
        let expires_in_s = self.tokens.access_ttl_s();
        let access_token = self.tokens.sign(&subject(account, session), now_ms, expires_in_s)?;
        Ok(SignedIn {
            access_token,
            refresh_token: refresh.text,
            expires_in_s,
            user_id: account.id,
            username: account.username.clone(),
            session,
        })
    }

    fn stored(&self, token: &RefreshToken, now_ms: u64) -> NewRefreshToken {
        NewRefreshToken { hash: token.hash, expires_at_unix_ms: self.keep_until(now_ms) }
    }

    /// Nothing made now outlives this.
    pub(crate) fn keep_until(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.tokens.refresh_ttl_ms())
    }

    fn at(&self) -> RevokeAt {
        let now_unix_ms = now_ms();
        RevokeAt { now_unix_ms, keep_until_unix_ms: self.keep_until(now_unix_ms) }
    }

    fn publish(&self, revoked: &[Revocation]) {
        self.revocations.publish(revoked, now_ms());
    }
}

/// Whom an account's token is made for.
fn subject(account: &Account, session: SessionId) -> Subject<'_> {
    Subject { user: account.id, username: &account.username, email: &account.email, role: account.role, session }
}
