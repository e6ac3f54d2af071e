-- Accounts: who there is, how they are signed in, and which grants no longer count. Written synchronously.

CREATE TABLE users (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    username TEXT NOT NULL,
    username_folded TEXT NOT NULL,
    email TEXT NOT NULL,
    email_folded TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('user', 'admin')),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX users_username_folded ON users (username_folded);
CREATE UNIQUE INDEX users_email_folded ON users (email_folded);

CREATE TABLE sessions (
    sid BLOB NOT NULL PRIMARY KEY CHECK (length(sid) = 16),
    user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    device_label TEXT,
    ip TEXT,
    user_agent TEXT,
    created_at INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_of_user ON sessions (user_id, last_seen_at) WHERE revoked_at IS NULL;
CREATE INDEX sessions_expiring ON sessions (expires_at);

-- A used token stays until it expires, so that presenting it again is recognised.
CREATE TABLE refresh_tokens (
    token_hash BLOB NOT NULL PRIMARY KEY CHECK (length(token_hash) = 32),
    sid BLOB NOT NULL REFERENCES sessions (sid) ON DELETE CASCADE,
    expires_at INTEGER NOT NULL,
    used_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX refresh_tokens_of_session ON refresh_tokens (sid);
CREATE INDEX refresh_tokens_expiring ON refresh_tokens (expires_at);

-- No foreign key: a revocation outlives its session and its user.
CREATE TABLE revoked_grants (
    grant_id BLOB NOT NULL PRIMARY KEY CHECK (length(grant_id) = 16),
    user_id BLOB NOT NULL,
    revoked_at INTEGER NOT NULL,
    keep_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX revoked_grants_since ON revoked_grants (revoked_at);
