-- Accounts: who there is, how they are signed in, and which grants no longer count. Written synchronously.
-- Times are Unix milliseconds, as in the embedded store.

CREATE TABLE meta (
    key text NOT NULL PRIMARY KEY,
    value bytea NOT NULL
);

CREATE TABLE users (
    id uuid NOT NULL PRIMARY KEY,
    username text NOT NULL,
    username_folded text NOT NULL,
    email text NOT NULL,
    email_folded text NOT NULL,
    password_hash text NOT NULL,
    role text NOT NULL CHECK (role IN ('user', 'admin')),
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
);

CREATE UNIQUE INDEX users_username_folded ON users (username_folded);
CREATE UNIQUE INDEX users_email_folded ON users (email_folded);

CREATE TABLE sessions (
    sid uuid NOT NULL PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    device_label text,
    ip text,
    user_agent text,
    created_at bigint NOT NULL,
    last_seen_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    revoked_at bigint
);

-- Without last_seen_at: a column of an index costs every update of it an entry in all indexes.
CREATE INDEX sessions_of_user ON sessions (user_id) WHERE revoked_at IS NULL;
CREATE INDEX sessions_expiring ON sessions (expires_at);

-- A used token stays until it expires, so that presenting it again is recognised.
CREATE TABLE refresh_tokens (
    token_hash bytea NOT NULL PRIMARY KEY CHECK (length(token_hash) = 32),
    sid uuid NOT NULL REFERENCES sessions (sid) ON DELETE CASCADE,
    expires_at bigint NOT NULL,
    used_at bigint
);

CREATE INDEX refresh_tokens_of_session ON refresh_tokens (sid);
CREATE INDEX refresh_tokens_expiring ON refresh_tokens (expires_at);

-- No foreign key: a revocation outlives its session and its user.
CREATE TABLE revoked_grants (
    grant_id uuid NOT NULL PRIMARY KEY,
    user_id uuid NOT NULL,
    revoked_at bigint NOT NULL,
    keep_until bigint NOT NULL
);

CREATE INDEX revoked_grants_since ON revoked_grants (revoked_at);
