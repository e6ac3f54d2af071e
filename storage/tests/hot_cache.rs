//! The hot cache over a real Redis and a real journal: what other tools find there, what a shard may be filled from, and what
//! happens when Redis is killed, stands still, is too slow for what is written, or speaks TLS.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[path = "support/redis.rs"]
mod redis;

use std::time::{Duration, Instant};

use futures_executor::block_on;
use hub::library::LibraryRow;
use hub::load::StoredUser;
use hub::progress::ProgressRow;
use hub::record::{LibraryRecord, ProgressRecord, Record};
use proto::{Chapter, MangaId, MergeKey, NodeId, Page, ReadingStatus, UserId, Version};
use redis::{RedisCluster, RedisServer};
use storage::hot::{self, BreakerState, HotCache, HotConfig, HotReading, HotState, HotThread};
use storage::journal::{self, CommitFeed, Journal, JournalConfig, LaneCursors, ShardJournal, StoreId};

const PATIENCE: Duration = Duration::from_secs(60);
const NODE: NodeId = NodeId(7);

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A journal of one shard whose commits the hot cache is shown.
struct Node {
    hot: HotCache,
    thread: Option<HotThread>,
    shard: ShardJournal,
    _journal: Journal,
    _feed: CommitFeed,
    _folder: tempfile::TempDir,
}

impl Node {
    fn start(config: HotConfig, node: NodeId) -> Self {
        let (hot, thread) = hot::start(config, node).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut wanted = JournalConfig::new(folder.path().join("journal"), StoreId([1; 16]));
        wanted.segment_bytes = 1 << 20;
        let shown = hot.clone();
        wanted.on_committed = Some(std::sync::Arc::new(move |committed| shown.committed(committed)));
        let opened = journal::open(wanted).unwrap();
        let mut started = opened.journal.start(LaneCursors::START, vec![Box::new(|| {})]).unwrap();
        let shard = started.shards.pop().unwrap();
        Self { hot, thread: Some(thread), shard, _journal: started.journal, _feed: started.feed, _folder: folder }
    }

    fn over(redis: &RedisServer) -> Self {
        let node = Self::start(config(redis.url()), NODE);
        node.wait_for(HotState::Healthy);
        node
    }

    /// Appends and waits until it is durable: what an acknowledgement waits for.
    fn commit(&mut self, records: &[Record]) {
        let mut ticket = Default::default();
        for record in records {
            ticket = self.shard.append(record);
        }
        self.shard.flush();
        until("durable", || self.shard.durable().ticket >= ticket);
    }

    fn reading(&self) -> HotReading {
        self.hot.read()
    }

    fn wait_for(&self, state: HotState) {
        until(state.as_str(), || self.reading().state == state);
    }

    /// Everything that was committed is in Redis.
    fn written(&self) {
        // A question is answered behind everything that was shown before it.
        block_on(self.hot.load(UserId::from_bytes([0xEE; 16])));
        until("written", || {
            let counts = self.reading().counts;
            counts.queue_rows == 0 && counts.writing_rows == 0
        });
    }

    fn load(&self, user: UserId) -> Option<StoredUser> {
        block_on(self.hot.load(user))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.thread.take().unwrap().stop(Duration::from_millis(100));
    }
}

fn config(url: String) -> HotConfig {
    // Long enough for a machine that does much else.
    HotConfig { timeout: Duration::from_millis(500), ..HotConfig::new(url) }
}

fn user(number: u8) -> UserId {
    UserId::from_bytes([number; 16])
}

fn row(generation: u64, chapter: u32, version: u64, node: u32) -> ProgressRow {
    let chapter = Chapter::from_hundredths(chapter).unwrap();
    let key = MergeKey { generation: Version(generation), chapter, version: Version(version), node: NodeId(node) };
    ProgressRow { key, deleted: false, page: None, ahead: false }
}

fn shelf(version: u64, status: ReadingStatus) -> LibraryRow {
    LibraryRow { version: Version(version), node: NODE, deleted: false, status, added_at_ms: 5 }
}

fn progress(user: UserId, manga: i64, row: ProgressRow, library: Option<LibraryRow>) -> Record {
    Record::Progress(ProgressRecord { user, manga: MangaId(manga), row, device: None, library, history: None })
}

fn key(user: UserId, manga: i64) -> String {
    format!("progress:{user}:{manga}")
}

#[test]
fn other_tools_find_the_fields_that_are_promised() {
    let redis = RedisServer::start();
    let mut node = Node::over(&redis);
    let version = Version::from_unix_ms(1_800_000_000_123);
    let read = ProgressRow { page: Some(Page(9)), ..row(version.0, 1_250, version.0, 7) };
    node.commit(&[progress(user(1), 42, read, Some(shelf(version.0, ReadingStatus::ReReading)))]);
    node.written();
    let found = redis.hash(&key(user(1), 42));
    let field = |name: &str| found.get(name).map(String::as_str);
    assert_eq!(field("current_chapter"), Some("12.5"));
    assert_eq!(field("page"), Some("9"));
    assert_eq!(field("status"), Some("re_reading"));
    assert_eq!(field("version"), Some(version.0.to_string().as_str()));
    assert_eq!(field("generation"), Some(version.0.to_string().as_str()));
    assert_eq!(field("node"), Some("7"));
    assert_eq!(field("updated_at"), Some("2027-01-15T08:00:00.123Z"));
    let ttl: i64 = redis.ask(&["TTL", &key(user(1), 42)]).parse().unwrap();
    assert!((3_500..=3_600).contains(&ttl), "{ttl}");

    // Another status is the library row's, whatever the progress is.
    let completed = shelf(version.0 + 1, ReadingStatus::Completed);
    node.commit(&[Record::Library(LibraryRecord { user: user(1), manga: MangaId(42), row: completed })]);
    node.written();
    assert_eq!(redis.hash(&key(user(1), 42))["status"], "completed");

    // Deleted: no chapter, no page, no status; only what keeps an older value from coming back.
    node.commit(&[progress(user(1), 42, ProgressRow::tombstone(Version(version.0 + 2), NODE), Some(completed))]);
    node.written();
    let found = redis.hash(&key(user(1), 42));
    assert_eq!(found.get("deleted").map(String::as_str), Some("1"), "{found:?}");
    assert!(["current_chapter", "page", "status"].iter().all(|name| !found.contains_key(*name)), "{found:?}");
    node.commit(&[progress(user(1), 42, row(version.0 + 3, 100, version.0 + 3, 7), Some(completed))]);
    node.written();
    let found = redis.hash(&key(user(1), 42));
    assert_eq!((&*found["current_chapter"], &*found["status"]), ("1", "completed"));
    assert!(!found.contains_key("deleted") && !found.contains_key("page"), "{found:?}");
}

#[test]
fn an_older_value_never_overwrites_a_newer_one() {
    let redis = RedisServer::start();
    // Two nodes and every order: what is left is the largest merge key, as memory and tables have it.
    let mut nodes = [Node::start(config(redis.url()), NodeId(7)), Node::start(config(redis.url()), NodeId(8))];
    nodes.iter().for_each(|node| node.wait_for(HotState::Healthy));
    let rows = [
        row(1, 500, 1, 7),
        row(1, 900, 2, 7),
        row(1, 300, 3, 7),
        row(2, 100, 2, 7),
        row(2, 100, 2, 8),
        row(2, 1_005, 3, 7),
        row(2, 1_050, 3, 7),
    ];
    for (at, row) in rows.iter().enumerate() {
        for (then, other) in rows.iter().enumerate() {
            let manga = (at * rows.len() + then) as i64 + 1;
            nodes[0].commit(&[progress(user(1), manga, *row, None)]);
            nodes[0].written();
            nodes[1].commit(&[progress(user(1), manga, *other, None)]);
            nodes[1].written();
            let found = redis.hash(&key(user(1), manga));
            let winner = row.key.max(other.key);
            let expected = [winner.generation.0.to_string(), winner.chapter.to_string(), winner.version.0.to_string()];
            let names = ["generation", "current_chapter", "version"];
            assert_eq!(names.map(|name| found[name].clone()), expected, "{row:?} and then {other:?}");
            assert_eq!(found["node"], winner.node.0.to_string());
        }
    }
}

#[test]
fn a_user_comes_from_redis_whole_or_not_at_all() {
    let redis = RedisServer::start();
    let mut node = Node::over(&redis);
    // Changes alone are half a user.
    node.commit(&[progress(user(1), 1, row(1, 100, 1, 7), None)]);
    node.written();
    assert_eq!(node.load(user(1)), None);
    let mut stored = StoredUser::empty(user(1));
    stored.progress = (1..=3).map(|manga| (MangaId(manga), row(1, 100, 1, 7))).collect();
    stored.library = vec![(MangaId(9), shelf(1, ReadingStatus::PlanToRead))];
    node.hot.fill(stored.clone());
    until("filled", || node.load(user(1)).is_some());
    // A change after the fill is in every later answer, written or not.
    node.commit(&[progress(user(1), 2, row(1, 200, 2, 7), None)]);
    let merged = |found: StoredUser| hub::UserState::from_rows(found, NODE);
    let mut expected = stored.clone();
    expected.progress.push((MangaId(2), row(1, 200, 2, 7)));
    assert_eq!(merged(node.load(user(1)).unwrap()), merged(expected.clone()));
    node.written();
    assert_eq!(merged(node.load(user(1)).unwrap()), merged(expected));
    assert!(node.reading().counts.hits >= 3);

    // Another node has not vouched for it, and neither has this one's next run.
    let other = Node::start(config(redis.url()), NodeId(8));
    other.wait_for(HotState::Healthy);
    assert_eq!(other.load(user(1)), None);
    let next_run = Node::over(&redis);
    assert_eq!(next_run.load(user(1)), None);
    assert_eq!(next_run.reading().counts.misses_untrusted, 1);
    // Redis may throw it away whenever it likes.
    redis.ask(&["DEL", &format!("mangahub:user:v1:{}", user(1))]);
    assert_eq!(node.load(user(1)), None);
    // Keys that are used live on.
    node.hot.fill(stored);
    until("filled", || node.load(user(1)).is_some());
    node.written();
    redis.ask(&["EXPIRE", &key(user(1), 1), "100"]);
    assert!(node.load(user(1)).is_some());
    until("renewed", || redis.ask(&["TTL", &key(user(1), 1)]).parse::<i64>().unwrap() > 3_000);
}

#[test]
fn a_killed_redis_holds_nobody_up_and_comes_back_without_a_restart() {
    let mut redis = RedisServer::start();
    let mut node = Node::over(&redis);
    let stored = StoredUser::empty(user(1));
    node.hot.fill(stored.clone());
    until("filled", || node.load(user(1)).is_some());
    redis.kill();
    for version in 1..=200 {
        // Durable means durable: the journal does not know Redis.
        node.commit(&[progress(user(1), version % 10 + 1, row(1, 100, version as u64, 7), None)]);
        node.load(user(1));
    }
    until("the breaker opens", || node.reading().breaker != BreakerState::Closed);
    assert_eq!(node.reading().state, HotState::Down);
    let began = Instant::now();
    for _ in 0..1_000 {
        assert_eq!(node.load(user(1)), None);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "an open breaker costs no time-out: {:?}", began.elapsed());
    assert!(node.reading().counts.misses_breaker >= 900);
    assert!(node.reading().counts.opened >= 1);
    redis.go_up();
    node.wait_for(HotState::Healthy);
    node.written();
    // What was committed meanwhile has waited; the copy was lost and is filled again.
    assert_eq!(redis.hash(&key(user(1), 1))["version"], "200");
    assert_eq!(node.load(user(1)), None);
    node.hot.fill(stored);
    until("filled again", || node.load(user(1)).is_some());
}

#[test]
fn a_redis_that_comes_back_with_an_old_snapshot_is_not_trusted() {
    let mut redis = RedisServer::start();
    let mut node = Node::over(&redis);
    node.hot.fill(StoredUser::empty(user(1)));
    until("filled", || node.load(user(1)).is_some());
    redis.ask(&["SAVE"]);
    node.commit(&[progress(user(1), 1, row(1, 100, 1, 7), None)]);
    node.written();
    // Nothing was on its way when it died: no write failed, and the old copy carries this run's mark.
    redis.kill();
    redis.go_up();
    assert_eq!(redis.ask(&["EXISTS", &format!("mangahub:user:v1:{}", user(1))]), "1", "it is the snapshot");
    until("it answers again", || {
        assert_eq!(node.load(user(1)), None, "the copy lacks a change");
        node.reading().counts.misses_untrusted >= 1
    });
    assert_eq!(node.reading().counts.write_failures, 0);
}

#[test]
fn a_redis_that_stands_still_costs_a_few_time_outs_and_its_copies_are_not_trusted_afterwards() {
    let redis = RedisServer::start();
    let mut node = Node::over(&redis);
    node.hot.fill(StoredUser::empty(user(1)));
    until("filled", || node.load(user(1)).is_some());
    redis.freeze();
    node.commit(&[progress(user(1), 1, row(1, 100, 1, 7), None)]);
    let began = Instant::now();
    while node.reading().breaker == BreakerState::Closed {
        assert_eq!(node.load(user(1)), None, "nobody answers, and the change may be on its way");
        assert!(began.elapsed() < PATIENCE, "the breaker opens");
    }
    assert!(node.reading().counts.misses_failed >= 1);
    until("the write is given up", || node.reading().counts.write_failures >= 1);
    redis.thaw();
    node.wait_for(HotState::Healthy);
    node.written();
    // Nobody can say what became of the write that was not answered: it was sent again, and the copy has to be vouched for anew.
    assert_eq!(redis.hash(&key(user(1), 1))["version"], "1");
    assert_eq!(node.load(user(1)), None);
    assert!(node.reading().counts.epochs >= 1);
}

#[test]
fn what_finds_no_room_is_dropped_and_counted_and_its_copy_forgotten() {
    let redis = RedisServer::start();
    let mut node = Node::start(HotConfig { queue_rows_max: 100, ..config(redis.url()) }, NODE);
    node.wait_for(HotState::Healthy);
    for number in [1, 2] {
        node.hot.fill(StoredUser::empty(user(number)));
        until("filled", || node.load(user(number)).is_some());
    }
    redis.freeze();
    until("the breaker opens", || {
        node.load(user(9));
        node.reading().breaker != BreakerState::Closed
    });
    let epochs = node.reading().counts.epochs;
    let records: Vec<Record> = (1..=300).map(|manga| progress(user(1), manga, row(1, 100, 1, 7), None)).collect();
    node.commit(&records);
    block_on(node.hot.load(user(9)));
    let counts = node.reading().counts;
    assert_eq!(counts.dropped_queue, 200);
    until("as full as it may be", || node.reading().counts.queue_rows == 100);
    redis.thaw();
    node.wait_for(HotState::Healthy);
    node.written();
    assert_eq!(redis.ask(&["EXISTS", &format!("mangahub:user:v1:{}", user(1))]), "0", "it lacks rows");
    assert_eq!(node.load(user(1)), None);
    if node.reading().counts.epochs == epochs {
        assert!(node.load(user(2)).is_some(), "only the user whose rows were dropped is affected");
    }
}

#[test]
fn tls_is_a_url_and_a_certificate_away() {
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, secret) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&secret, made.signing_key.serialize_pem()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (cert_text, key_text, port_text) = (cert.to_str().unwrap(), secret.to_str().unwrap(), port.to_string());
    let redis = RedisServer::with(&[
        "--tls-port",
        &port_text,
        "--tls-cert-file",
        cert_text,
        "--tls-key-file",
        key_text,
        "--tls-ca-cert-file",
        cert_text,
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://127.0.0.1:{port}");
    let mut node = Node::start(HotConfig { tls_ca: Some(cert.clone()), ..config(url.clone()) }, NODE);
    node.wait_for(HotState::Healthy);
    node.commit(&[progress(user(1), 1, row(1, 100, 1, 7), None)]);
    node.written();
    assert_eq!(redis.hash(&key(user(1), 1))["current_chapter"], "1");
    // A certificate of somebody else is not spoken to.
    let stranger = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&cert, stranger.cert.pem()).unwrap();
    let careful = Node::start(HotConfig { tls_ca: Some(cert), ..config(url) }, NODE);
    until("refused", || careful.reading().last_error.is_some());
    assert_eq!(careful.reading().state, HotState::Down);
}

#[test]
fn a_cluster_shares_out_the_keys() {
    let cluster = RedisCluster::start();
    let mut node = Node::start(config(cluster.url()), NODE);
    node.wait_for(HotState::Healthy);
    let numbers = 1..=50_u8;
    let records: Vec<Record> =
        numbers.clone().map(|number| progress(user(number), 7, row(1, 100, u64::from(number), 7), None)).collect();
    node.commit(&records);
    node.written();
    for number in numbers.clone() {
        assert_eq!(cluster.hash(&key(user(number), 7))["version"], number.to_string());
        let mut stored = StoredUser::empty(user(number));
        stored.progress = vec![(MangaId(7), row(1, 100, u64::from(number), 7))];
        node.hot.fill(stored.clone());
        until("filled", || node.load(user(number)) == Some(stored.clone()));
    }
    assert!(cluster.keys().iter().all(|keys| *keys > 10), "{:?}", cluster.keys());
    assert_eq!((node.reading().counts.dropped_refused, node.reading().counts.write_failures), (0, 0));
}

#[test]
fn a_url_that_makes_no_sense_is_refused_with_what_is_wrong() {
    for url in ["", "http//", "redis://[", "rediss://127.0.0.1"] {
        let ca = url.starts_with("rediss").then(|| "/nowhere/ca.pem".into());
        assert!(hot::start(HotConfig { tls_ca: ca, ..config(url.to_owned()) }, NODE).is_err(), "{url}");
    }
    let plain = HotConfig { tls_ca: Some("/nowhere/ca.pem".into()), ..config("redis://127.0.0.1".to_owned()) };
    assert!(hot::start(plain, NODE).is_err(), "an authority without TLS is a slip");
}
