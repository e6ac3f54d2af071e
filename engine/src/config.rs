//! The engine's configuration: every limit in one place, with the defaults of the design. `src/` fills it from the file and
//! the environment; tests and load profiles change single fields.

use std::path::PathBuf;
use std::time::Duration;

/// Everything the engine must know before it starts.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The data folder: journal, store, secrets.
    pub data_dir: PathBuf,
    /// Shards; `None` means one per allowed CPU.
    pub shards: Option<usize>,
    /// The backend that must be used; `None` lets the probe choose, with a fallback.
    pub backend: Option<runtime::probe::BackendKind>,
    /// Who may make an account.
    pub registration: Registration,
    /// Refuse chapters beyond any known total, for ongoing series too.
    pub strict_total: bool,
    /// Answer every change only when the database has it, not the journal alone.
    pub ack_database: bool,
    /// How long such an answer, or one that was asked for, waits for the database.
    pub ack_database_max: Duration,
    /// The Postgres database that is the store; `None` means the embedded one in the data folder.
    pub database: Option<storage::store::PostgresConfig>,
    /// Redis between memory and the store.
    pub hot: Option<storage::hot::HotConfig>,
    /// Tokens.
    pub tokens: TokenConfig,
    /// Limits.
    pub limits: Limits,
    /// Start with whatever the store has, although it is not the one the journal was written for (`db adopt`).
    pub adopt_store: bool,
    /// Imported before the doors open when the catalogue is empty: the demo. May be empty.
    pub first_catalogue: Vec<storage::store::ImportRow>,
}

/// Who may make an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Registration {
    /// Everybody.
    Open,
    /// With an invitation.
    Invite,
    /// Nobody.
    Closed,
}

/// How tokens are made.
#[derive(Clone)]
pub struct TokenConfig {
    /// HS256 secret, at least 32 bytes. Empty: the data folder's own (`DataFolder::secret`), taken under its lock at start.
    pub secret: Vec<u8>,
    /// The key's name in the token header, for rotation.
    pub key_id: String,
    /// Earlier keys, still accepted: name and secret.
    pub previous: Vec<(String, Vec<u8>)>,
    /// How long an access token lives.
    pub access_ttl: Duration,
    /// How long a refresh token lives.
    pub refresh_ttl: Duration,
}

impl std::fmt::Debug for TokenConfig {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets never reach a log.
        out.debug_struct("TokenConfig")
            .field("key_id", &self.key_id)
            .field("access_ttl", &self.access_ttl)
            .finish_non_exhaustive()
    }
}

/// Everything has a limit.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Messages in a mailbox between two shards.
    pub mailbox_messages: usize,
    /// Messages in a connection's out-queue.
    pub out_queue_messages: usize,
    /// Bytes in a connection's out-queue.
    pub out_queue_bytes: usize,
    /// Unanswered commands per sync connection.
    pub window_max: u32,
    /// Live connections per shard.
    pub connections_per_shard: usize,
    /// Frame updates per second and user.
    pub frame_rate_per_s: u32,
    /// Frame updates at once per user.
    pub frame_burst: u32,
    /// JSON-line updates per second and connection.
    pub line_rate_per_s: u32,
    /// JSON-line updates at once per connection.
    pub line_burst: u32,
    /// API requests per second, per user and per address before sign-in.
    pub api_rate_per_s: u32,
    /// API requests at once.
    pub api_burst: u32,
    /// Failed sign-ins per 15 minutes, account and address.
    pub login_per_address: u32,
    /// Failed sign-ins per hour and account.
    pub login_per_account: u32,
    /// Bytes of user state per shard.
    pub user_bytes_max: usize,
    /// Bytes of user state per shard that the store does not have yet.
    pub dirty_bytes_max: usize,
    /// Commands that may wait for one user to load.
    pub load_waiters_max: usize,
    /// Users that may load at once per shard.
    pub loads_max: usize,
    /// Answers of one shard that may wait for the store; past it a change that wants the database is busy.
    pub held_answers_max: usize,
    /// Jobs waiting for the hashing thread.
    pub hashing_queue: usize,
    /// Bytes of journal.
    pub journal_bytes_max: u64,
    /// Bytes of one journal segment; a multiple of 4 KiB.
    pub journal_segment_bytes: u64,
    /// Rows queued for the store.
    pub store_queue_rows: usize,
    /// How long a drain may take.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mailbox_messages: 8_192,
            out_queue_messages: 256,
            out_queue_bytes: 1 << 20,
            window_max: 4_096,
            connections_per_shard: 65_536,
            frame_rate_per_s: 1_000,
            frame_burst: 4_096,
            line_rate_per_s: 50,
            line_burst: 100,
            api_rate_per_s: 100,
            api_burst: 200,
            login_per_address: 5,
            login_per_account: 50,
            user_bytes_max: 256 << 20,
            dirty_bytes_max: 128 << 20,
            load_waiters_max: 4_096,
            loads_max: 256,
            held_answers_max: 65_536,
            hashing_queue: 64,
            journal_bytes_max: 8 << 30,
            journal_segment_bytes: storage::journal::JournalConfig::SEGMENT_BYTES,
            store_queue_rows: 100_000,
            drain: Duration::from_secs(10),
        }
    }
}

impl EngineConfig {
    /// The defaults over a data folder and a secret.
    pub fn new(data_dir: impl Into<PathBuf>, secret: impl Into<Vec<u8>>) -> Self {
        Self {
            data_dir: data_dir.into(),
            shards: None,
            backend: None,
            registration: Registration::Open,
            strict_total: false,
            ack_database: false,
            ack_database_max: Duration::from_secs(30),
            database: None,
            hot: None,
            tokens: TokenConfig {
                secret: secret.into(),
                key_id: "1".to_owned(),
                previous: Vec::new(),
                access_ttl: Duration::from_secs(15 * 60),
                refresh_ttl: Duration::from_secs(7 * 24 * 3_600),
            },
            limits: Limits::default(),
            adopt_store: false,
            first_catalogue: Vec::new(),
        }
    }
}
