//! The table of every configuration key: its name, what it may hold, its default and its other names. One table feeds
//! the file, the environment, the flags and `config show`; a key that is not here does not exist.

/// What a key may hold, with its range; a range is part of the key, so that every door into the configuration checks it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// A TCP or UDP port; 0 lets the system choose.
    Port,
    /// A whole number.
    Count { min: u64, max: u64 },
    /// A time, kept in the unit that ends the key's name; text such as `15m` is read too.
    Time { unit: Unit, min: u64, max: u64 },
    /// A size in bytes; text such as `8GiB` is read too.
    Bytes { min: u64, max: u64 },
    /// Yes or no.
    Switch,
    /// Free text.
    Text,
    /// An IP address.
    Address,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// Several texts: a list in the file, separated by commas in the environment.
    List,
}

/// The unit in which a time is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Millis,
}

/// The value a key has when nobody sets it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Preset {
    /// A number, for ports, counts, times and sizes.
    Number(u64),
    /// Yes or no.
    Switch(bool),
    /// Text, addresses and choices.
    Text(&'static str),
    /// An empty list.
    Nothing,
}

/// One configuration key.
#[derive(Debug)]
pub(crate) struct Key {
    /// `section.name`, or just the name for the keys at the top of the file.
    pub(crate) path: &'static str,
    /// What it may hold.
    pub(crate) kind: Kind,
    /// Its value when nobody sets it.
    pub(crate) preset: Preset,
    /// Names of environment variables that earlier deployments use for it; they rank below `MANGAHUB_...`.
    pub(crate) compat: &'static [&'static str],
    /// Whether `config show` hides it.
    pub(crate) secret: bool,
    /// Whether the key belongs to something that this version does not have; setting it is mentioned.
    pub(crate) idle: bool,
}

impl Key {
    const fn new(path: &'static str, kind: Kind, preset: Preset) -> Self {
        Self { path, kind, preset, compat: &[], secret: false, idle: false }
    }

    const fn compat(mut self, names: &'static [&'static str]) -> Self {
        self.compat = names;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    const fn idle(mut self) -> Self {
        self.idle = true;
        self
    }

    /// The key's environment variable: `MANGAHUB_LIMITS_WINDOW_UPDATES` for `limits.window_updates`.
    pub(crate) fn variable(&self) -> String {
        format!("MANGAHUB_{}", self.path.replace('.', "_").to_uppercase())
    }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const DAY_S: u64 = 86_400;

const fn port(path: &'static str, number: u64) -> Key {
    Key::new(path, Kind::Port, Preset::Number(number))
}

const fn count(path: &'static str, preset: u64, min: u64, max: u64) -> Key {
    Key::new(path, Kind::Count { min, max }, Preset::Number(preset))
}

const fn seconds(path: &'static str, preset: u64, min: u64, max: u64) -> Key {
    Key::new(path, Kind::Time { unit: Unit::Seconds, min, max }, Preset::Number(preset))
}

const fn millis(path: &'static str, preset: u64, min: u64, max: u64) -> Key {
    Key::new(path, Kind::Time { unit: Unit::Millis, min, max }, Preset::Number(preset))
}

const fn bytes(path: &'static str, preset: u64, min: u64, max: u64) -> Key {
    Key::new(path, Kind::Bytes { min, max }, Preset::Number(preset))
}

const fn switch(path: &'static str, preset: bool) -> Key {
    Key::new(path, Kind::Switch, Preset::Switch(preset))
}

const fn text(path: &'static str, preset: &'static str) -> Key {
    Key::new(path, Kind::Text, Preset::Text(preset))
}

const fn choice(path: &'static str, preset: &'static str, words: &'static [&'static str]) -> Key {
    Key::new(path, Kind::Choice(words), Preset::Text(preset))
}

const fn list(path: &'static str) -> Key {
    Key::new(path, Kind::List, Preset::Nothing)
}

/// Every key there is, in the order of the file.
pub(crate) const KEYS: &[Key] = &[
    text("data_dir", "mangahub-data"),
    Key::new("listen", Kind::Address, Preset::Text("127.0.0.1")),
    count("shards", 0, 0, 256),
    choice("backend", "auto", &["auto", "io_uring", "epoll"]),
    switch("insecure", false),
    list("trusted_proxies"),
    millis("drain_ms", 10_000, 0, 600_000),
    port("ports.http", 8084).compat(&["HTTP_PORT"]),
    port("ports.tcp_sync", 8081).compat(&["TCP_PORT"]),
    port("ports.metrics", 9100).compat(&["MANGAHUB_ADMIN_PORT"]),
    port("ports.udp", 8082).compat(&["UDP_PORT"]).idle(),
    port("ports.grpc", 8083).compat(&["GRPC_PORT"]).idle(),
    port("ports.notify", 8085).compat(&["UDP_HTTP_PORT"]).idle(),
    port("ports.quic", 8086).compat(&["MANGAHUB_QUIC_PORT"]).idle(),
    text("tls.cert", ""),
    text("tls.key", ""),
    switch("tls.allow_plain", false),
    text("auth.jwt_secret", "").compat(&["JWT_SECRET"]).secret(),
    seconds("auth.access_token_ttl_s", 900, 10, DAY_S).compat(&["ACCESS_TOKEN_TTL"]),
    seconds("auth.refresh_token_ttl_s", 7 * DAY_S, 60, 365 * DAY_S).compat(&["REFRESH_TOKEN_TTL"]),
    choice("auth.registration", "auto", &["auto", "open", "invite", "closed"]),
    switch("catalogue.demo", true),
    switch("catalogue.require_auth", false),
    switch("progress.strict_total", false),
    choice("progress.ack", "journal", &["journal", "database"]),
    millis("progress.ack_database_max_ms", 30_000, 100, 3_600_000),
    list("http.cors_origins").compat(&["CORS_ORIGINS"]),
    bytes("http.body_bytes_max", MIB, KIB, 64 * MIB),
    bytes("http.header_bytes_max", 32 * KIB, 4 * KIB, MIB),
    millis("http.idle_timeout_ms", 60_000, 100, 3_600_000),
    millis("tcp_sync.idle_timeout_ms", 300_000, 100, 86_400_000),
    millis("limits.greeting_timeout_ms", 10_000, 100, 600_000),
    millis("limits.write_timeout_ms", 10_000, 100, 600_000),
    count("limits.connections", 0, 0, 10_000_000),
    count("limits.connections_per_address", 1_024, 1, 10_000_000),
    count("limits.mailbox_messages", 8_192, 64, 1 << 20),
    count("limits.queue_messages", 256, 16, 1 << 20),
    bytes("limits.queue_bytes", MIB, 16 * KIB, GIB),
    count("limits.window_updates", 4_096, 1, 65_536),
    count("limits.updates_per_s", 1_000, 1, 100_000_000),
    count("limits.updates_burst", 4_096, 1, 100_000_000),
    count("limits.lines_per_s", 50, 1, 100_000_000),
    count("limits.lines_burst", 100, 1, 100_000_000),
    count("limits.requests_per_s", 100, 1, 100_000_000),
    count("limits.requests_burst", 200, 1, 100_000_000),
    count("limits.logins_per_address", 5, 1, 1_000_000),
    count("limits.logins_per_account", 50, 1, 1_000_000),
    count("limits.hash_queue", 64, 1, 65_536),
    bytes("limits.user_bytes", 256 * MIB, MIB, 1 << 44),
    bytes("limits.dirty_bytes", 128 * MIB, MIB, 1 << 44),
    bytes("journal.bytes_max", 8 * GIB, 4 * MIB, 1 << 44),
    bytes("journal.segment_bytes", 64 * MIB, MIB, GIB),
    count("store.queue_rows", 100_000, 1_000, 100_000_000),
    text("store.url", "").compat(&["DATABASE_URL"]).secret(),
    text("cache.redis_url", "").compat(&["REDIS_URL"]).secret(),
    text("cache.tls_ca", ""),
    seconds("cache.ttl_s", 3_600, 1, 30 * DAY_S).compat(&["CACHE_TTL"]),
    millis("cache.timeout_ms", 100, 1, 10_000),
    count("cache.queue_rows", 65_536, 1_000, 10_000_000),
    text("log.filter", "info,tokio_postgres=warn"),
    choice("log.format", "text", &["text", "json"]),
    count("trace.sample", 0, 0, 1_000_000_000),
];

/// The key of this path, if there is one.
pub(crate) fn find(path: &str) -> Option<(usize, &'static Key)> {
    KEYS.iter().enumerate().find(|(_, key)| key.path == path)
}

/// The known key that looks most like `path`, when one is close enough to have been meant.
pub(crate) fn nearest(path: &str) -> Option<&'static str> {
    let wanted = path.rsplit('.').next().unwrap_or(path);
    KEYS.iter()
        .map(|key| {
            let name = key.path.rsplit('.').next().unwrap_or(key.path);
            // The right name in the wrong section is the likeliest slip after a typing error.
            let distance = distance(path, key.path).min(distance(wanted, name) + 1);
            (distance, key.path)
        })
        .min()
        .filter(|(distance, _)| *distance <= 1 + wanted.len() / 3)
        .map(|(_, path)| path)
}

/// Levenshtein distance, by rows.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, to) in right.iter().enumerate() {
            let above = row[column + 1];
            row[column + 1] = (diagonal + usize::from(from != *to)).min(above + 1).min(row[column] + 1);
            diagonal = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_one_name_and_its_preset_fits_its_kind() {
        let mut names: Vec<String> = KEYS.iter().map(Key::variable).collect();
        names.extend(KEYS.iter().flat_map(|key| key.compat.iter().map(ToString::to_string)));
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for key in KEYS {
            let fits = match (key.kind, key.preset) {
                (Kind::Port, Preset::Number(number)) => number <= 65_535,
                (
                    Kind::Count { min, max } | Kind::Time { min, max, .. } | Kind::Bytes { min, max },
                    Preset::Number(number),
                ) => (min..=max).contains(&number),
                (Kind::Choice(words), Preset::Text(word)) => words.contains(&word),
                (Kind::Switch, Preset::Switch(_)) | (Kind::List, Preset::Nothing) => true,
                (Kind::Text | Kind::Address, Preset::Text(_)) => true,
                _ => false,
            };
            assert!(fits, "{}", key.path);
        }
    }

    #[test]
    fn a_misspelt_key_finds_the_one_that_was_meant() {
        assert_eq!(nearest("ports.htpt"), Some("ports.http"));
        assert_eq!(nearest("limits.jwt_secret"), Some("auth.jwt_secret"));
        assert_eq!(nearest("datadir"), Some("data_dir"));
        assert_eq!(nearest("ports.completely_different"), None);
    }
}
