//! Sessions, their refresh tokens, and the grants that no longer count. A refresh token works once: one statement uses it up, so
//! of two that present it at the same time one gets the next token and the other ends the session.

use proto::{SessionId, UserId};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::accounts::{ACCOUNT, account_row};
use super::failure::Failure;
use super::statement::{column, execute, first, id, int, number, odd, params, rows, text};
use crate::store::{NewSession, Purged, Revocation, RevokeAt, Rotate, Rotation, Session, StoreError, TokenHash};

const SESSION: &str = "sid, user_id, device_label, ip, user_agent, created_at, last_seen_at, expires_at";

fn session_row(row: &Row) -> Result<Session, Failure> {
    Ok(Session {
        sid: SessionId::from_bytes(id(row, 0)?),
        user: UserId::from_bytes(id(row, 1)?),
        device_label: column(row, 2)?,
        ip: column(row, 3)?,
        user_agent: column(row, 4)?,
        created_at_unix_ms: number(row, 5)?,
        last_seen_at_unix_ms: number(row, 6)?,
        expires_at_unix_ms: number(row, 7)?,
    })
}

fn sid_of(sid: SessionId) -> Uuid {
    Uuid::from_bytes(*sid.as_bytes())
}

fn user_of(user: UserId) -> Uuid {
    Uuid::from_bytes(*user.as_bytes())
}

/// Stores sessions of users that exist, each with its first token; answers how many.
pub(super) async fn insert(client: &Client, sessions: &[&NewSession]) -> Result<u64, Failure> {
    if sessions.is_empty() {
        return Ok(0);
    }
    let sids: Vec<Uuid> = sessions.iter().map(|session| sid_of(session.sid)).collect();
    let users: Vec<Uuid> = sessions.iter().map(|session| user_of(session.user)).collect();
    let said = |of: fn(&NewSession) -> Option<&String>| {
        sessions.iter().map(|session| of(session).map(|said| text(said))).collect::<Vec<Option<String>>>()
    };
    let labels = said(|session| session.device_label.as_ref());
    let (ips, agents) = (said(|session| session.ip.as_ref()), said(|session| session.user_agent.as_ref()));
    let times =
        |of: fn(&NewSession) -> u64| sessions.iter().map(|session| int(of(session))).collect::<Result<Vec<_>, _>>();
    let created = times(|session| session.created_at_unix_ms)?;
    let expires = times(|session| session.refresh.expires_at_unix_ms)?;
    let hashes: Vec<&[u8]> = sessions.iter().map(|session| &session.refresh.hash[..]).collect();
    let sql = "INSERT INTO sessions (sid, user_id, device_label, ip, user_agent, created_at, last_seen_at, expires_at)
               SELECT sid, user_id, device_label, ip, user_agent, new.created_at, new.created_at, expires_at
               FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
                   AS new (sid, user_id, device_label, ip, user_agent, created_at, expires_at)
               JOIN users ON users.id = new.user_id";
    let made = execute(client, sql, params![sids, users, labels, ips, agents, created, expires]).await?;
    if made == sids.len() as u64 {
        let sql = "INSERT INTO refresh_tokens (token_hash, sid, expires_at)
                   SELECT * FROM UNNEST($1::bytea[], $2::uuid[], $3::bigint[])";
        execute(client, sql, params![hashes, sids, expires]).await?;
    }
    Ok(made)
}

/// Opens a session; the user's longest unseen ones beyond the limit are revoked.
pub(super) async fn open(client: &Client, session: &NewSession) -> Result<Vec<Revocation>, Failure> {
    if insert(client, &[session]).await? == 0 {
        return Err(StoreError::NotFound { what: "user" }.into());
    }
    let at = RevokeAt {
        now_unix_ms: session.created_at_unix_ms,
        keep_until_unix_ms: session.keep_revocations_until_unix_ms,
    };
    let sql = "SELECT sid FROM sessions WHERE user_id = $1 AND revoked_at IS NULL AND sid <> $2
               ORDER BY last_seen_at DESC, sid DESC OFFSET $3";
    let others_max = i64::from(session.sessions_per_user_max.saturating_sub(1));
    let surplus = rows(client, sql, params![user_of(session.user), sid_of(session.sid), others_max]).await?;
    let surplus = surplus.iter().map(|row| column(row, 0)).collect::<Result<Vec<Uuid>, _>>()?;
    revoke(client, surplus, Some(session.user), at).await
}

/// Ends sessions (of this user, when given) and notes their grants as revoked; those that have ended already are left out.
async fn revoke(
    client: &Client,
    sids: Vec<Uuid>,
    user: Option<UserId>,
    at: RevokeAt,
) -> Result<Vec<Revocation>, Failure> {
    if sids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "WITH ended AS (
                   UPDATE sessions SET revoked_at = $2
                   WHERE sid = ANY($1) AND revoked_at IS NULL AND ($3::uuid IS NULL OR user_id = $3)
                   RETURNING sid, user_id
               ), noted AS (
                   INSERT INTO revoked_grants AS known (grant_id, user_id, revoked_at, keep_until)
                   SELECT sid, user_id, $2, $4 FROM ended
                   ON CONFLICT (grant_id) DO UPDATE SET keep_until = greatest(known.keep_until, excluded.keep_until)
               )
               SELECT sid, user_id FROM ended";
    let (now, keep) = (int(at.now_unix_ms)?, int(at.keep_until_unix_ms)?);
    let ended = rows(client, sql, params![sids, now, user.map(user_of), keep]).await?;
    let revoked = ended.iter().map(|row| {
        Ok(Revocation {
            grant: SessionId::from_bytes(id(row, 0)?),
            user: UserId::from_bytes(id(row, 1)?),
            revoked_at_unix_ms: at.now_unix_ms,
            keep_until_unix_ms: at.keep_until_unix_ms,
        })
    });
    revoked.collect()
}

/// Ends one session of this user.
pub(super) async fn revoke_session(
    client: &Client,
    user: UserId,
    sid: SessionId,
    at: RevokeAt,
) -> Result<Option<Revocation>, Failure> {
    Ok(revoke(client, vec![sid_of(sid)], Some(user), at).await?.pop())
}

/// Ends the session that a token belongs to.
pub(super) async fn revoke_by_token(
    client: &Client,
    token: TokenHash,
    at: RevokeAt,
) -> Result<Option<Revocation>, Failure> {
    match session_of(client, &token).await? {
        Some((sid, _)) => Ok(revoke(client, vec![sid], None, at).await?.pop()),
        None => Ok(None),
    }
}

/// Ends all sessions of a user, but for one.
pub(super) async fn revoke_all(
    client: &Client,
    user: UserId,
    except: Option<SessionId>,
    at: RevokeAt,
) -> Result<Vec<Revocation>, Failure> {
    let open = open_sessions(client, user, at.now_unix_ms).await?;
    let ending = open.into_iter().map(|session| session.sid).filter(|sid| Some(*sid) != except);
    revoke(client, ending.map(sid_of).collect(), Some(user), at).await
}

/// A user's open sessions, last seen first.
pub(super) async fn open_sessions(client: &Client, user: UserId, now_unix_ms: u64) -> Result<Vec<Session>, Failure> {
    let sql = format!(
        "SELECT {SESSION} FROM sessions WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $2
         ORDER BY last_seen_at DESC, sid DESC"
    );
    rows(client, &sql, params![user_of(user), int(now_unix_ms)?]).await?.iter().map(session_row).collect()
}

/// The session of a token, and whether the token was used.
async fn session_of(client: &Client, token: &TokenHash) -> Result<Option<(Uuid, bool)>, Failure> {
    let sql = "SELECT sid, used_at IS NOT NULL FROM refresh_tokens WHERE token_hash = $1";
    let row = first(client, sql, params![&token[..]]).await?;
    row.map(|row| Ok((column(&row, 0)?, column(&row, 1)?))).transpose()
}

/// Exchanges a token for the next one.
pub(super) async fn rotate(client: &Client, rotate: &Rotate) -> Result<Rotation, Failure> {
    let now = int(rotate.now_unix_ms)?;
    // The session's row is what revoking changes: taken first, so that the two never miss each other.
    let sql = format!(
        "UPDATE sessions SET last_seen_at = greatest(last_seen_at, $2), expires_at = $3
         WHERE revoked_at IS NULL
           AND sid = (SELECT sid FROM refresh_tokens WHERE token_hash = $1 AND used_at IS NULL AND expires_at > $2)
         RETURNING {SESSION}"
    );
    let expires = int(rotate.next.expires_at_unix_ms)?;
    let Some(row) = first(client, &sql, params![&rotate.presented[..], now, expires]).await? else {
        return not_rotated(client, rotate).await;
    };
    let sql = "UPDATE refresh_tokens SET used_at = $2 WHERE token_hash = $1 AND used_at IS NULL";
    if execute(client, sql, params![&rotate.presented[..], now]).await? == 0 {
        // Somebody used it between the two statements. This transaction has moved the session's end and must not.
        return Err(Failure::Conflict("two presented one token".to_owned()));
    }
    let session = session_row(&row)?;
    let sql = "INSERT INTO refresh_tokens (token_hash, sid, expires_at) VALUES ($1, $2, $3)";
    execute(client, sql, params![&rotate.next.hash[..], sid_of(session.sid), expires]).await?;
    let sql = format!("SELECT {ACCOUNT} FROM users WHERE id = $1");
    let account = first(client, &sql, params![user_of(session.user)]).await?;
    let account = account_row(&account.ok_or_else(|| odd("a session without its user"))?)?;
    Ok(Rotation::Rotated { session, account: Box::new(account) })
}

async fn not_rotated(client: &Client, rotate: &Rotate) -> Result<Rotation, Failure> {
    match session_of(client, &rotate.presented).await? {
        None => Ok(Rotation::Unknown),
        Some((_, false)) => Ok(Rotation::Expired),
        Some((sid, true)) => {
            let at =
                RevokeAt { now_unix_ms: rotate.now_unix_ms, keep_until_unix_ms: rotate.keep_revocations_until_unix_ms };
            // When the session has ended already there is nothing left to protect.
            Ok(revoke(client, vec![sid], None, at).await?.pop().map_or(Rotation::Expired, Rotation::Reused))
        }
    }
}

/// Revocations since a time that still matter, newest first.
pub(super) async fn revocations(
    client: &Client,
    since_unix_ms: u64,
    now_unix_ms: u64,
    rows_max: usize,
) -> Result<Vec<Revocation>, Failure> {
    let sql = "SELECT grant_id, user_id, revoked_at, keep_until FROM revoked_grants
               WHERE revoked_at >= $1 AND keep_until > $2 ORDER BY revoked_at DESC, grant_id LIMIT $3";
    let rows_max = i64::try_from(rows_max).unwrap_or(i64::MAX);
    let found = rows(client, sql, params![int(since_unix_ms)?, int(now_unix_ms)?, rows_max]).await?;
    let read = found.iter().map(|row| {
        Ok(Revocation {
            grant: SessionId::from_bytes(id(row, 0)?),
            user: UserId::from_bytes(id(row, 1)?),
            revoked_at_unix_ms: number(row, 2)?,
            keep_until_unix_ms: number(row, 3)?,
        })
    });
    read.collect()
}

/// Rows that one purge removes per table.
const PURGE_ROWS_MAX: i64 = 2_000;

/// Removes what nothing can name any more. A session ends by itself when its last token has expired.
pub(super) async fn purge(
    client: &Client,
    now_unix_ms: u64,
    tombstones_before: proto::Version,
) -> Result<Purged, Failure> {
    let delete = async |table: &str, key: &str, old: &str, bound: i64| {
        let sql = format!("DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {old} LIMIT $2)");
        execute(client, &sql, params![bound, PURGE_ROWS_MAX]).await
    };
    let (now, before) = (int(now_unix_ms)?, int(tombstones_before.0)?);
    Ok(Purged {
        refresh_tokens: delete("refresh_tokens", "token_hash", "expires_at <= $1", now).await?,
        sessions: delete("sessions", "sid", "expires_at <= $1", now).await?,
        revocations: delete("revoked_grants", "grant_id", "keep_until <= $1", now).await?,
        tombstones: delete("user_progress", "user_id, manga_id", "deleted AND version < $1", before).await?
            + delete("user_library", "user_id, manga_id", "deleted AND version < $1", before).await?
            + delete("devices", "user_id, device_id", "removed AND last_seen < $1", before).await?,
    })
}
