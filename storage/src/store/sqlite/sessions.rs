//! Sessions, their refresh tokens, and the grants that no longer count. A refresh token works once: one statement uses it up, so
//! of two that present it at the same time one gets the next token and the other ends the session.

use proto::{SessionId, UserId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::accounts::{ACCOUNT, account_row};
use super::connection::refusal;
use crate::store::{
    NewRefreshToken, NewSession, Purged, Revocation, RevokeAt, Rotate, Rotation, Session, StoreError, TokenHash,
};

const SESSION: &str = "sid, user_id, device_label, ip, user_agent, created_at, last_seen_at, expires_at";

fn session_row(row: &Row<'_>) -> rusqlite::Result<Session> {
    Ok(Session {
        sid: SessionId::from_bytes(row.get(0)?),
        user: UserId::from_bytes(row.get(1)?),
        device_label: row.get(2)?,
        ip: row.get(3)?,
        user_agent: row.get(4)?,
        created_at_unix_ms: row.get(5)?,
        last_seen_at_unix_ms: row.get(6)?,
        expires_at_unix_ms: row.get(7)?,
    })
}

fn insert_token(conn: &Connection, sid: SessionId, token: &NewRefreshToken) -> rusqlite::Result<usize> {
    conn.prepare_cached("INSERT INTO refresh_tokens (token_hash, sid, expires_at) VALUES (?1, ?2, ?3)")?
        .execute(params![token.hash, sid.as_bytes(), token.expires_at_unix_ms])
}

/// Stores a session and its first token.
pub(super) fn insert(conn: &Connection, session: &NewSession) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO sessions (sid, user_id, device_label, ip, user_agent, created_at, last_seen_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7)",
    )?
    .execute(params![
        session.sid.as_bytes(),
        session.user.as_bytes(),
        session.device_label,
        session.ip,
        session.user_agent,
        session.created_at_unix_ms,
        session.refresh.expires_at_unix_ms,
    ])?;
    insert_token(conn, session.sid, &session.refresh).map(|_| ())
}

/// Opens a session; the user's longest unseen ones beyond the limit are revoked.
pub(super) fn open(conn: &Connection, session: &NewSession) -> Result<Vec<Revocation>, StoreError> {
    let known = conn
        .prepare_cached("SELECT 1 FROM users WHERE id = ?1")
        .and_then(|mut query| query.exists([session.user.as_bytes()]))
        .map_err(refusal)?;
    if !known {
        return Err(StoreError::NotFound { what: "user" });
    }
    insert(conn, session).map_err(refusal)?;
    let at = RevokeAt {
        now_unix_ms: session.created_at_unix_ms,
        keep_until_unix_ms: session.keep_revocations_until_unix_ms,
    };
    let surplus = || -> rusqlite::Result<Vec<SessionId>> {
        let sql = "SELECT sid FROM sessions WHERE user_id = ?1 AND revoked_at IS NULL AND sid <> ?2
                   ORDER BY last_seen_at DESC, sid DESC LIMIT -1 OFFSET ?3";
        let others_max = session.sessions_per_user_max.saturating_sub(1);
        let values = params![session.user.as_bytes(), session.sid.as_bytes(), others_max];
        conn.prepare_cached(sql)?.query_map(values, |row| row.get(0).map(SessionId::from_bytes))?.collect()
    };
    let surplus = surplus().map_err(refusal)?;
    let revoked = surplus.into_iter().map(|sid| revoke(conn, sid, Some(session.user), at));
    revoked.filter_map(Result::transpose).collect()
}

/// Ends one session (of this user, when given) and notes its grant as revoked; `None` when there is nothing to end.
fn revoke(
    conn: &Connection,
    sid: SessionId,
    user: Option<UserId>,
    at: RevokeAt,
) -> Result<Option<Revocation>, StoreError> {
    let write = || -> rusqlite::Result<Option<Revocation>> {
        let sql = "UPDATE sessions SET revoked_at = ?2
                   WHERE sid = ?1 AND revoked_at IS NULL AND (?3 IS NULL OR user_id = ?3) RETURNING user_id";
        let user = user.as_ref().map(UserId::as_bytes);
        let owner: Option<[u8; 16]> = conn
            .prepare_cached(sql)?
            .query_row(params![sid.as_bytes(), at.now_unix_ms, user], |row| row.get(0))
            .optional()?;
        let Some(owner) = owner else { return Ok(None) };
        let sql = "INSERT INTO revoked_grants (grant_id, user_id, revoked_at, keep_until) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (grant_id) DO UPDATE SET keep_until = max(keep_until, excluded.keep_until)";
        let values = params![sid.as_bytes(), owner, at.now_unix_ms, at.keep_until_unix_ms];
        conn.prepare_cached(sql)?.execute(values)?;
        Ok(Some(Revocation {
            grant: sid,
            user: UserId::from_bytes(owner),
            revoked_at_unix_ms: at.now_unix_ms,
            keep_until_unix_ms: at.keep_until_unix_ms,
        }))
    };
    write().map_err(refusal)
}

/// Ends one session of this user.
pub(super) fn revoke_session(
    conn: &Connection,
    user: UserId,
    sid: SessionId,
    at: RevokeAt,
) -> Result<Option<Revocation>, StoreError> {
    revoke(conn, sid, Some(user), at)
}

/// Ends the session that a token belongs to.
pub(super) fn revoke_by_token(
    conn: &Connection,
    token: &TokenHash,
    at: RevokeAt,
) -> Result<Option<Revocation>, StoreError> {
    match session_of(conn, token)? {
        Some((sid, _)) => revoke(conn, sid, None, at),
        None => Ok(None),
    }
}

/// Ends all sessions of a user, but for one.
pub(super) fn revoke_all(
    conn: &Connection,
    user: UserId,
    except: Option<SessionId>,
    at: RevokeAt,
) -> Result<Vec<Revocation>, StoreError> {
    let open = open_sessions(conn, user, at.now_unix_ms)?;
    let ending = open.into_iter().filter(|session| Some(session.sid) != except);
    ending.filter_map(|session| revoke(conn, session.sid, Some(user), at).transpose()).collect()
}

/// A user's open sessions, last seen first.
pub(super) fn open_sessions(conn: &Connection, user: UserId, now_unix_ms: u64) -> Result<Vec<Session>, StoreError> {
    let read = || -> rusqlite::Result<Vec<Session>> {
        let sql = format!(
            "SELECT {SESSION} FROM sessions WHERE user_id = ?1 AND revoked_at IS NULL AND expires_at > ?2
             ORDER BY last_seen_at DESC, sid DESC"
        );
        conn.prepare_cached(&sql)?.query_map(params![user.as_bytes(), now_unix_ms], session_row)?.collect()
    };
    read().map_err(refusal)
}

/// The session of a token, and whether the token was used.
fn session_of(conn: &Connection, token: &TokenHash) -> Result<Option<(SessionId, bool)>, StoreError> {
    let sql = "SELECT sid, used_at IS NOT NULL FROM refresh_tokens WHERE token_hash = ?1";
    conn.prepare_cached(sql)
        .and_then(|mut query| {
            query.query_row([token], |row| Ok((SessionId::from_bytes(row.get(0)?), row.get(1)?))).optional()
        })
        .map_err(refusal)
}

/// Exchanges a token for the next one.
pub(super) fn rotate(conn: &Connection, rotate: &Rotate) -> Result<Rotation, StoreError> {
    let used_up = || -> rusqlite::Result<Option<SessionId>> {
        let sql = "UPDATE refresh_tokens SET used_at = ?2
                   WHERE token_hash = ?1 AND used_at IS NULL AND expires_at > ?2
                     AND EXISTS (SELECT 1 FROM sessions WHERE sessions.sid = refresh_tokens.sid AND revoked_at IS NULL)
                   RETURNING sid";
        conn.prepare_cached(sql)?
            .query_row(params![rotate.presented, rotate.now_unix_ms], |row| row.get(0).map(SessionId::from_bytes))
            .optional()
    };
    match used_up().map_err(refusal)? {
        Some(sid) => rotated(conn, sid, rotate).map_err(refusal),
        None => not_rotated(conn, rotate),
    }
}

fn rotated(conn: &Connection, sid: SessionId, rotate: &Rotate) -> rusqlite::Result<Rotation> {
    insert_token(conn, sid, &rotate.next)?;
    let sql = format!(
        "UPDATE sessions SET last_seen_at = max(last_seen_at, ?2), expires_at = ?3 WHERE sid = ?1 RETURNING {SESSION}"
    );
    let values = params![sid.as_bytes(), rotate.now_unix_ms, rotate.next.expires_at_unix_ms];
    let session = conn.prepare_cached(&sql)?.query_row(values, session_row)?;
    let sql = format!("SELECT {ACCOUNT} FROM users WHERE id = ?1");
    let account = conn.prepare_cached(&sql)?.query_row([session.user.as_bytes()], |row| account_row(row, 0))?;
    Ok(Rotation::Rotated { session, account: Box::new(account) })
}

fn not_rotated(conn: &Connection, rotate: &Rotate) -> Result<Rotation, StoreError> {
    match session_of(conn, &rotate.presented)? {
        None => Ok(Rotation::Unknown),
        Some((_, false)) => Ok(Rotation::Expired),
        Some((sid, true)) => {
            let at =
                RevokeAt { now_unix_ms: rotate.now_unix_ms, keep_until_unix_ms: rotate.keep_revocations_until_unix_ms };
            // When the session has ended already there is nothing left to protect.
            Ok(revoke(conn, sid, None, at)?.map_or(Rotation::Expired, Rotation::Reused))
        }
    }
}

/// Revocations since a time that still matter, newest first.
pub(super) fn revocations(
    conn: &Connection,
    since_unix_ms: u64,
    now_unix_ms: u64,
    rows_max: usize,
) -> Result<Vec<Revocation>, StoreError> {
    let read = || -> rusqlite::Result<Vec<Revocation>> {
        let sql = "SELECT grant_id, user_id, revoked_at, keep_until FROM revoked_grants
                   WHERE revoked_at >= ?1 AND keep_until > ?2 ORDER BY revoked_at DESC, grant_id LIMIT ?3";
        let mut query = conn.prepare_cached(sql)?;
        let rows = query.query_map(params![since_unix_ms, now_unix_ms, rows_max], |row| {
            Ok(Revocation {
                grant: SessionId::from_bytes(row.get(0)?),
                user: UserId::from_bytes(row.get(1)?),
                revoked_at_unix_ms: row.get(2)?,
                keep_until_unix_ms: row.get(3)?,
            })
        })?;
        rows.collect()
    };
    read().map_err(refusal)
}

/// Rows that one purge removes per table: a transaction that account writes wait for.
const PURGE_ROWS_MAX: u64 = 2_000;

/// Removes what nothing can name any more. A session ends by itself when its last token has expired.
pub(super) fn purge(
    conn: &Connection,
    now_unix_ms: u64,
    tombstones_before: proto::Version,
) -> Result<Purged, StoreError> {
    let delete = |table: &str, key: &str, old: &str, bound: u64| -> rusqlite::Result<u64> {
        let sql = format!("DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {old} LIMIT ?2)");
        Ok(conn.prepare_cached(&sql)?.execute([bound, PURGE_ROWS_MAX])? as u64)
    };
    let write = || -> rusqlite::Result<Purged> {
        let before = tombstones_before.0;
        Ok(Purged {
            refresh_tokens: delete("refresh_tokens", "token_hash", "expires_at <= ?1", now_unix_ms)?,
            sessions: delete("sessions", "sid", "expires_at <= ?1", now_unix_ms)?,
            revocations: delete("revoked_grants", "grant_id", "keep_until <= ?1", now_unix_ms)?,
            tombstones: delete("user_progress", "user_id, manga_id", "deleted = 1 AND version < ?1", before)?
                + delete("user_library", "user_id, manga_id", "deleted = 1 AND version < ?1", before)?
                + delete("devices", "user_id, device_id", "removed = 1 AND last_seen < ?1", before)?,
        })
    };
    write().map_err(refusal)
}
