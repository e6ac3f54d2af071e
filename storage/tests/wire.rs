//! The wire between nodes over a real Redis and real journals: what one makes durable reaches the other, and what does not is
//! noticed, whether the connection was cut, the stream trimmed, Redis started again empty, or a node killed.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/redis.rs"]
mod redis;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hub::library::LibraryRow;
use hub::record::{LibraryRecord, Record};
use proto::{GrantId, MangaId, NodeId, ReadingStatus, UserId, Version};
use proxy::Proxy;
use redis::{RedisCluster, RedisServer};
use storage::journal::{
    self, CommitFeed, Cursors, Journal, JournalConfig, Journalled, LaneCursors, Lsn, ShardJournal, StoreId,
};
use storage::lane::Lane;
use storage::store::Revocation;
use storage::wire::{
    self, Begin, Conflict, Event, Identity, Wire, WireConfig, WireError, WireReading, WireState, WireThread,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn identity(node: u32, epoch: u64) -> Identity {
    let (place, secret_print) = (format!("folder-{node}"), "print".to_owned());
    Identity { node: NodeId(node), epoch, place, secret_print, store: StoreId([1; 16]) }
}

/// A journal of one shard whose commits the wire is shown, and everything that came from other nodes.
struct Node {
    wire: Wire,
    thread: Option<WireThread>,
    shard: ShardJournal,
    cursors: Cursors,
    heard: Arc<Mutex<Vec<Event>>>,
    _journal: Journal,
    _feed: CommitFeed,
    _folder: tempfile::TempDir,
}

impl Node {
    fn start(url: String, identity: Identity) -> Self {
        Self::with(WireConfig::new(url), identity, None)
    }

    fn with(config: WireConfig, identity: Identity, recovered: Option<Lsn>) -> Self {
        let (wire, thread) = wire::start(config, identity).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut wanted = JournalConfig::new(folder.path().join("journal"), StoreId([1; 16]));
        wanted.segment_bytes = 1 << 20;
        let shown = wire.clone();
        wanted.on_committed = Some(Arc::new(move |committed| shown.committed(committed)));
        let opened = journal::open(wanted).unwrap();
        let mut started = opened.journal.start(LaneCursors::START, vec![Box::new(|| {})]).unwrap();
        let heard: Arc<Mutex<Vec<Event>>> = Arc::default();
        let hearing = Arc::clone(&heard);
        let listener = Box::new(move |event| {
            hearing.lock().unwrap().push(event);
            Ok(())
        });
        let cursors = started.cursors;
        thread.begin(Begin { cursors: cursors.clone(), recovered, listener });
        Self {
            wire,
            thread: Some(thread),
            shard: started.shards.pop().unwrap(),
            cursors,
            heard,
            _journal: started.journal,
            _feed: started.feed,
            _folder: folder,
        }
    }

    /// Makes changes of the series durable.
    fn commit(&mut self, series: impl IntoIterator<Item = i64>) {
        let records: Vec<Record> = series.into_iter().map(record).collect();
        self.commit_records(&records);
    }

    fn commit_records<R: Journalled>(&mut self, records: &[R]) {
        let mut ticket = Default::default();
        for record in records {
            ticket = self.shard.append(record);
        }
        self.shard.flush();
        until("durable", || self.shard.durable().ticket >= ticket);
    }

    /// The store has everything so far.
    fn store(&self) {
        let end = self.shard.durable().lsn;
        Lane::all().for_each(|lane| self.cursors.publish(lane, end));
    }

    fn reading(&self) -> WireReading {
        self.wire.read()
    }

    fn is_healthy(&self) -> bool {
        self.reading().state == WireState::Healthy
    }

    /// The series of the changes that came.
    fn series(&self) -> Vec<i64> {
        let heard = self.heard.lock().unwrap();
        let records = heard.iter().flat_map(|event| match event {
            Event::Records { records, .. } => records.clone(),
            _ => Vec::new(),
        });
        records.map(|record| if let Record::Library(record) = record { record.manga.0 } else { 0 }).collect()
    }

    fn reloads(&self) -> usize {
        self.heard.lock().unwrap().iter().filter(|event| **event == Event::Reload).count()
    }

    /// Nothing is owed any more: the reload of the start is over, and others are known.
    fn settled(&self, others: u64) {
        until("it has met the others", || {
            self.is_healthy() && self.reading().counts.others == others && self.reloads() >= 1
        });
    }

    fn end(mut self) {
        self.store();
        self.thread.take().unwrap().stop(Duration::from_secs(5));
    }
}

fn record(manga: i64) -> Record {
    let row = LibraryRow {
        version: Version(1),
        node: NodeId(1),
        deleted: false,
        status: ReadingStatus::Reading,
        added_at_ms: 5,
    };
    Record::Library(LibraryRecord { user: UserId::from_bytes([7; 16]), manga: MangaId(manga), row })
}

/// Two nodes that know each other.
fn pair(first: String, second: String) -> [Node; 2] {
    let nodes = [Node::start(first, identity(1, 11)), Node::start(second, identity(2, 22))];
    nodes.iter().for_each(|node| node.settled(1));
    nodes
}

#[test]
fn what_one_node_makes_durable_reaches_the_others_in_order_and_with_word_of_the_store() {
    let redis = RedisServer::start();
    let [mut one, two] = pair(redis.url(), redis.url());
    one.commit(1..=1_000);
    one.commit(1_001..=1_100);
    until("everything arrives", || two.series().len() >= 1_100);
    assert_eq!(two.series(), (1..=1_100).collect::<Vec<i64>>());
    let last = |node: &Node| {
        let heard = node.heard.lock().unwrap();
        heard
            .iter()
            .filter_map(|event| if let Event::Records { origin, .. } = event { Some(origin.seq) } else { None })
            .max()
    };
    let is_stored = |node: &Node| {
        let heard = node.heard.lock().unwrap();
        let stored =
            heard.iter().filter_map(|event| if let Event::Stored(origin) = event { Some(origin.seq) } else { None });
        stored.max() >= last_of(&heard)
    };
    assert!(last(&two).is_some() && !is_stored(&two), "the store has nothing of it");
    one.store();
    until("word of the store", || is_stored(&two));
    let revoked = Revocation {
        grant: GrantId::from_bytes([3; 16]),
        user: UserId::from_bytes([4; 16]),
        revoked_at_unix_ms: 5,
        keep_until_unix_ms: 6,
    };
    two.wire.revoked(&[revoked]);
    until("an ended session", || one.heard.lock().unwrap().contains(&Event::Revoked(vec![revoked])));
    assert!(one.series().is_empty(), "nobody hears of their own changes");
    assert_eq!([&one, &two].map(|node| node.reading().counts.dropped), [0, 0]);
}

fn last_of(heard: &[Event]) -> Option<u64> {
    heard
        .iter()
        .filter_map(|event| if let Event::Records { origin, .. } = event { Some(origin.seq) } else { None })
        .max()
}

#[test]
fn a_connection_that_was_cut_costs_nothing_but_time() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(redis.port());
    let [mut one, mut two] = pair(redis.url(), format!("redis://127.0.0.1:{}", proxy.port()));
    proxy.cut();
    one.commit(1..=100);
    two.commit(501..=600);
    until("it is noticed", || two.reading().state == WireState::Down);
    let reloads = two.reloads();
    proxy.mend();
    until("what one told", || two.series().len() >= 100);
    until("what two told", || one.series().len() >= 100);
    assert_eq!((two.series(), one.series()), ((1..=100).collect(), (501..=600).collect()));
    until("all is well", || two.is_healthy());
    assert_eq!((two.reloads(), two.reading().counts.gaps), (reloads, 0), "nothing was missed");
}

#[test]
fn a_stream_that_was_trimmed_meanwhile_is_noticed_and_made_good_once_the_store_has_it() {
    let redis = RedisServer::with(&["--stream-node-max-entries", "2"]);
    let proxy = Proxy::to(redis.port());
    let small = |url: String| WireConfig { stream_entries: 10, ..WireConfig::new(url) };
    let mut one = Node::with(small(redis.url()), identity(1, 11), None);
    let two = Node::with(small(format!("redis://127.0.0.1:{}", proxy.port())), identity(2, 22), None);
    [&one, &two].iter().for_each(|node| node.settled(1));
    proxy.cut();
    for manga in 1..=50 {
        one.commit([manga]);
        until("it is told", || one.reading().counts.queue_bytes == 0);
    }
    let reloads = two.reloads();
    one.store();
    proxy.mend();
    until("it is noticed", || two.reading().counts.gaps >= 1);
    until("it is made good", || two.reloads() > reloads);
    one.commit([51]);
    until("and goes on", || two.series().contains(&51));
}

#[test]
fn a_redis_that_comes_back_empty_is_noticed() {
    let mut redis = RedisServer::start();
    let [mut one, two] = pair(redis.url(), redis.url());
    one.commit([1]);
    until("the first arrives", || two.series() == [1]);
    one.store();
    redis.kill();
    until("it is noticed", || two.reading().state == WireState::Down);
    let reloads = two.reloads();
    one.commit([2]);
    one.store();
    redis.go_up();
    until("what waited arrives", || two.series().contains(&2));
    until("what may have been missed is loaded anew", || two.reloads() > reloads);
    one.commit([3]);
    until("and goes on", || two.series().contains(&3) && one.is_healthy() && two.is_healthy());
}

#[test]
fn what_found_no_room_is_missed_and_noticed() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(redis.port());
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let config = WireConfig { queue_bytes_max: 4_096, ..WireConfig::new(url) };
    let mut one = Node::with(config, identity(1, 11), None);
    let two = Node::start(redis.url(), identity(2, 22));
    [&one, &two].iter().for_each(|node| node.settled(1));
    proxy.cut();
    one.commit(1..=2_000);
    until("it is dropped", || one.reading().counts.dropped >= 1);
    let reloads = two.reloads();
    one.store();
    proxy.mend();
    until("it is noticed", || two.reading().counts.gaps >= 1);
    until("it is made good", || two.reloads() > reloads);
    assert!(two.series().len() < 2_000);
}

#[test]
fn a_crash_makes_the_others_load_anew_and_a_goodbye_does_not() {
    let redis = RedisServer::start();
    let [mut one, two] = pair(redis.url(), redis.url());
    one.commit([1]);
    until("the first arrives", || two.series() == [1]);
    let reloads = two.reloads();
    one.end();
    until("the goodbye", || two.reading().counts.others == 0);
    let again = Node::start(redis.url(), identity(1, 12));
    until("it is met again", || two.reading().counts.others == 1);
    // Word of everything that could be amiss comes with the next words.
    let words = two.reading().counts.received;
    until("a few words", || two.reading().counts.received > words + 4);
    assert_eq!((two.reloads(), two.reading().counts.gaps), (reloads, 0));
    drop(again);
    // Its next run found records in its journal that the store lacks: they are loaded anew when it has them.
    let third = Node::with(WireConfig::new(redis.url()), identity(1, 13), Some(Lsn(9)));
    until("the gap", || two.reading().counts.gaps >= 1);
    Lane::all().for_each(|lane| third.cursors.publish(lane, Lsn(9)));
    until("loaded anew", || two.reloads() > reloads);
}

impl Drop for Node {
    fn drop(&mut self) {
        // As a crash: without a goodbye.
        self.thread.take();
    }
}

#[test]
fn a_node_that_is_alone_tells_nobody_and_who_joins_misses_nothing() {
    let redis = RedisServer::start();
    let mut one = Node::start(redis.url(), identity(1, 11));
    until("it is alone", || one.is_healthy());
    one.commit(1..=100);
    let length = || redis.ask(&["XLEN", "mangahub:wire:v1:01010101010101010101010101010101"]).parse::<u64>().unwrap();
    let before = length();
    until("words", || length() > before);
    assert_eq!(one.reading().counts.sent, 0);
    let two = Node::start(redis.url(), identity(2, 22));
    until("they meet", || one.reading().counts.others == 1 && two.reading().counts.others == 1);
    let reloads = two.reloads();
    one.store();
    until("what was told to nobody is loaded", || two.reloads() > reloads);
    one.commit([101]);
    until("and goes on", || two.series() == [101]);
}

#[test]
fn a_node_that_goes_silent_makes_the_others_load_anew_and_goes_on_where_it_was() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(redis.port());
    let [mut one, two] = pair(format!("redis://127.0.0.1:{}", proxy.port()), redis.url());
    one.commit([1]);
    until("the first arrives", || two.series() == [1]);
    let reloads = two.reloads();
    proxy.cut();
    one.commit([2]);
    until("it counts as dead", || two.reading().counts.silent == 1 && two.reading().counts.others == 0);
    until("what it may have told is loaded anew", || two.reloads() > reloads);
    assert!(two.is_healthy());
    proxy.mend();
    until("it was only cut off", || two.series() == [1, 2] && two.reading().counts.others == 1);
    assert_eq!(two.reading().counts.gaps, 0);
}

#[test]
fn a_clock_far_ahead_is_counted_and_its_changes_come_all_the_same() {
    let redis = RedisServer::start();
    let [mut one, two] = pair(redis.url(), redis.url());
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    for (manga, ahead_ms) in [(1, 0), (2, 30_000), (3, 600_000)] {
        let Record::Library(mut ahead) = record(manga) else { unreachable!() };
        ahead.row.version = Version::from_unix_ms(now_ms + ahead_ms);
        one.commit_records(&[Record::Library(ahead)]);
    }
    until("all arrive", || two.series() == [1, 2, 3]);
    assert_eq!(two.reading().counts.ahead, 1);
}

/// A change as a later version might write it.
struct Later(Record);

impl Journalled for Later {
    fn lane(&self) -> Lane {
        self.0.lane()
    }

    fn kind(&self) -> u8 {
        self.0.kind()
    }

    fn layout_version(&self) -> u8 {
        u8::MAX
    }

    fn version(&self) -> Version {
        self.0.version()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
}

#[test]
fn changes_that_a_later_version_writes_are_loaded_once_the_store_has_them() {
    let redis = RedisServer::start();
    let [mut one, two] = pair(redis.url(), redis.url());
    let reloads = two.reloads();
    one.commit_records(&[Later(record(1))]);
    until("it is noticed", || two.reading().counts.unreadable == 1);
    one.store();
    until("it is made good", || two.reloads() > reloads);
    one.commit([2]);
    until("and goes on", || two.series() == [2]);
}

#[test]
fn a_cluster_will_do() {
    let cluster = RedisCluster::start();
    let [mut one, two] = pair(cluster.url(), cluster.url());
    one.commit(1..=500);
    until("everything arrives", || two.series().len() >= 500);
    one.store();
    assert_eq!(two.series(), (1..=500).collect::<Vec<i64>>());
    assert_eq!([&one, &two].map(|node| node.reading().counts.send_failures), [0, 0]);
}

#[test]
fn a_copy_of_a_node_and_a_node_with_another_secret_are_refused() {
    let redis = RedisServer::start();
    let one = Node::start(redis.url(), identity(1, 11));
    until("it is there", || one.is_healthy());
    let short = WireConfig { claim: Duration::from_secs(2), ..WireConfig::new(redis.url()) };
    let copy = Identity { place: "elsewhere".to_owned(), ..identity(1, 99) };
    let stranger = Identity { secret_print: "other".to_owned(), ..identity(2, 22) };
    let start = |identity: Identity| {
        let config = short.clone();
        std::thread::spawn(move || wire::start(config, identity).map(|_| ()))
    };
    let [copy, stranger] = [copy, stranger].map(start).map(|starting| starting.join().unwrap());
    assert!(matches!(&copy, Err(WireError::Conflict(Conflict::Taken { place })) if place == "folder-1"), "{copy:?}");
    assert!(
        matches!(&stranger, Err(WireError::Conflict(Conflict::Secret { node })) if node == "00000001"),
        "{stranger:?}"
    );
    until("the first is unharmed", || one.is_healthy());
    // The next run in the same folder: the one before has died, whatever Redis remembers.
    drop(one);
    let began = Instant::now();
    let again = Node::start(redis.url(), identity(1, 12));
    until("it is there", || again.is_healthy());
    assert!(began.elapsed() < PATIENCE / 2);
    again.end();
    // Another database's nodes are nobody's concern.
    let other = Identity { store: StoreId([2; 16]), secret_print: "other".to_owned(), ..identity(1, 5) };
    Node::start(redis.url(), other).end();
}
