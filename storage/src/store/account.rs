//! What accounts are to a store: users, sessions, refresh tokens and revoked grants, as typed rows and requests. Every time is
//! given by the caller in Unix milliseconds; a store has no clock of its own and never sees a password or a token in clear.

use proto::{GrantId, SessionId, UserId};

/// What a user may do: tables keep its spelling.
pub use hub::Role;

/// SHA-256 of a refresh token. The token itself is never stored.
pub type TokenHash = [u8; 32];

/// A user to be created. The caller has validated and folded the names (`hub::account`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUser {
    /// The id the caller made.
    pub id: UserId,
    /// As the person spelled it.
    pub username: String,
    /// The form that must be unique.
    pub username_folded: String,
    /// As the person spelled it.
    pub email: String,
    /// The form that must be unique.
    pub email_folded: String,
    /// A PHC string (argon2id), or a bcrypt hash of an earlier account.
    pub password_hash: String,
    /// What the user may do.
    pub role: Role,
    /// When.
    pub created_at_unix_ms: u64,
}

/// A user as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Who.
    pub id: UserId,
    /// As the person spelled it.
    pub username: String,
    /// As the person spelled it.
    pub email: String,
    /// A PHC string, or a bcrypt hash of an earlier account.
    pub password_hash: String,
    /// What the user may do.
    pub role: Role,
    /// When the account was made.
    pub created_at_unix_ms: u64,
    /// When a column of this row was last changed.
    pub updated_at_unix_ms: u64,
}

/// How to find a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserKey {
    /// By id.
    Id(UserId),
    /// By the folded username.
    Username(String),
    /// By the folded email address.
    Email(String),
}

/// A session to be opened by signing in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// The grant that every token of this session names.
    pub sid: SessionId,
    /// Whose.
    pub user: UserId,
    /// What the client calls itself, for the list a person sees.
    pub device_label: Option<String>,
    /// The address it signed in from.
    pub ip: Option<String>,
    /// The agent it signed in with.
    pub user_agent: Option<String>,
    /// When.
    pub created_at_unix_ms: u64,
    /// Its first refresh token.
    pub refresh: NewRefreshToken,
    /// How many sessions a user may hold; the ones longest unseen beyond it are revoked.
    pub sessions_per_user_max: u32,
    /// How long a revocation that this causes must be remembered.
    pub keep_revocations_until_unix_ms: u64,
}

/// A refresh token to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRefreshToken {
    /// SHA-256 of the token.
    pub hash: TokenHash,
    /// When it stops working.
    pub expires_at_unix_ms: u64,
}

/// One session of a user, as the user's list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The grant that revocation names.
    pub sid: SessionId,
    /// Whose.
    pub user: UserId,
    /// What the client called itself.
    pub device_label: Option<String>,
    /// The address it signed in from.
    pub ip: Option<String>,
    /// The agent it signed in with.
    pub user_agent: Option<String>,
    /// When it signed in.
    pub created_at_unix_ms: u64,
    /// When it signed in, or traded its refresh token for a new one, last.
    pub last_seen_at_unix_ms: u64,
    /// When its refresh token stops working, and with it the session.
    pub expires_at_unix_ms: u64,
}

/// A refresh token presented for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotate {
    /// SHA-256 of the presented token.
    pub presented: TokenHash,
    /// The token that takes its place.
    pub next: NewRefreshToken,
    /// Now.
    pub now_unix_ms: u64,
    /// How long a revocation that this causes must be remembered.
    pub keep_revocations_until_unix_ms: u64,
}

/// What became of a presented refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It was good and is used up; the next one is stored.
    Rotated {
        /// The session it belongs to.
        session: Session,
        /// The user as of now (the role may have changed since sign-in).
        account: Box<Account>,
    },
    /// It had been used before: somebody copied it. The whole session is revoked now.
    Reused(Revocation),
    /// It is known, but too old, or its session has ended.
    Expired,
    /// Nobody knows it.
    Unknown,
}

/// The moment of a revocation, and how long it must be remembered: longer than any token or key cache lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokeAt {
    /// Now.
    pub now_unix_ms: u64,
    /// When nothing that names the grant can be valid any more.
    pub keep_until_unix_ms: u64,
}

/// A grant that no longer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Which.
    pub grant: GrantId,
    /// Whose.
    pub user: UserId,
    /// Since when.
    pub revoked_at_unix_ms: u64,
    /// When it may be forgotten.
    pub keep_until_unix_ms: u64,
}

/// What a purge removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Refresh tokens that could not be used any more.
    pub refresh_tokens: u64,
    /// Sessions that had ended.
    pub sessions: u64,
    /// Revocations that nothing can name any more.
    pub revocations: u64,
    /// Tombstones of progress and library rows.
    pub tombstones: u64,
}

/// One user of a load run: the account, and a session if the run is to be signed in already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedUser {
    /// The account.
    pub user: NewUser,
    /// Its session.
    pub session: Option<NewSession>,
}
