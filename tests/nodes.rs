//! Several nodes on one Postgres and one Redis, real servers all of them: what one person does on one node reaches their devices
//! on the other, whatever is cut or killed meanwhile, and in the end everybody agrees and nothing acknowledged is lost.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::frames::Event;
use client::shell::FrameClient;
use loadtest::tokens::Tokens;
use proto::frame::{Hello, ResumeToken, wants};
use proto::{Chapter, DeviceId, MangaId, MergeKey, NodeId, UserId, Version};
use serde_json::{Value, json};

use crate::support::postgres::PostgresServer;
use crate::support::{Launch, PATIENCE, Reader, Request, Server, block_on, eventually, is_soak, progress};

#[path = "../storage/tests/support/proxy.rs"]
mod proxy;

use crate::support::redis::RedisServer;
use proxy::Proxy;

const SECRET: &str = "one secret for all nodes, long enough";

/// What the nodes share; the second reaches Redis through a relay that can be cut.
struct Shared {
    postgres: PostgresServer,
    redis: RedisServer,
    proxy: Proxy,
}

impl Shared {
    fn start() -> Self {
        let redis = RedisServer::start();
        let proxy = Proxy::to(redis.port());
        Self { postgres: PostgresServer::start(), redis, proxy }
    }

    fn launch(&self, redis_url: &str) -> Launch {
        let launch = Launch::new().variable("DATABASE_URL", &self.postgres.url()).variable("REDIS_URL", redis_url);
        launch.set("limits.requests_per_s", "1000000").set("limits.requests_burst", "1000000")
    }

    fn first(&self) -> Launch {
        self.launch(&self.redis.url()).variable("JWT_SECRET", SECRET)
    }

    fn second(&self) -> Launch {
        self.launch(&format!("redis://127.0.0.1:{}", self.proxy.port())).variable("JWT_SECRET", SECRET)
    }

    fn pair(&self) -> [Server; 2] {
        let nodes = [self.first().start(), self.second().start()];
        nodes.iter().for_each(|node| wait_for_nodes(node, "healthy"));
        nodes.iter().for_each(|node| {
            eventually("they have met", || (metric(node, "mangahub_nodes_alive") == 2.0).then_some(()));
        });
        nodes
    }
}

fn wait_for_nodes(server: &Server, word: &str) {
    eventually(&format!("health: nodes {word}"), || {
        let health = server.request("GET", "/health/ready").send().expect(200).json();
        health["dependencies"]["nodes"].as_str().is_some_and(|said| said.starts_with(word)).then_some(())
    });
}

fn metric(server: &Server, name: &str) -> f64 {
    let text = Request::new(server.ports.metrics, "GET", "/metrics").send().expect(200).text;
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    values
        .filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
        .map(|(_, value)| value.parse::<f64>().unwrap())
        .sum()
}

/// Waits for the next announcement.
async fn announced(client: &mut FrameClient<u64>) -> (MangaId, Chapter) {
    let mut answered = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, client.next(&mut answered)).await.expect("an announcement comes");
        if let Event::Progress { entry, .. } = event.expect("the connection lives") {
            return (entry.manga, entry.key.chapter);
        }
    }
}

/// Waits for the end of a connection.
async fn closed(client: &mut FrameClient<u64>) {
    let mut answered = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, client.next(&mut answered)).await.expect("the connection is closed") {
            Ok(Event::Bye(_)) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

#[test]
fn a_person_is_one_person_on_every_node() {
    let shared = Shared::start();
    let [one, two] = shared.pair();
    // Signed in on one, known on the other.
    let reader = Reader::register(&one, "reader");
    let manga = reader.series(&two, "berserk");
    block_on(async {
        let mut there = reader.on_frames(&two, 2).await;
        let mut here = reader.on_frames(&one, 1).await;
        reader.put_progress(&one, manga, &json!({"chapter": 5})).expect(200);
        assert_eq!(announced(&mut there).await, (manga, Chapter::whole(5)));
        assert_eq!(announced(&mut here).await, (manga, Chapter::whole(5)));
        reader.put_progress(&two, manga, &json!({"chapter": 6})).expect(200);
        assert_eq!(announced(&mut here).await, (manga, Chapter::whole(6)));
        // Where it goes back, it goes back everywhere.
        reader.put_progress(&one, manga, &json!({"chapter": 2, "force": true})).expect(200);
        assert_eq!(announced(&mut there).await, (manga, Chapter::whole(6)));
        assert_eq!(announced(&mut there).await, (manga, Chapter::whole(2)));
        // A session that ends on one node ends on the other.
        let body = json!({"refresh_token": reader.refresh_token});
        one.request("POST", "/auth/revoke").json(&body).send().expect(200);
        closed(&mut there).await;
        closed(&mut here).await;
    });
    let after = |node: &Server| node.request("GET", "/api/me/sessions").bearer(&reader.token).send().status;
    assert_eq!([&one, &two].map(after), [401, 401]);
    // Cut off from Redis, a node asks the database.
    let again = Reader::sign_in(&one, "reader");
    block_on(async {
        let mut there = again.on_frames(&two, 2).await;
        shared.proxy.cut();
        let body = json!({"refresh_token": again.refresh_token});
        one.request("POST", "/auth/revoke").json(&body).send().expect(200);
        closed(&mut there).await;
    });
    wait_for_nodes(&two, "down");
}

/// Keeps the database from taking changes, and lets it be read.
struct Locked<'a> {
    postgres: &'a PostgresServer,
    session: Child,
}

impl<'a> Locked<'a> {
    fn new(postgres: &'a PostgresServer) -> Self {
        let sql = "LOCK TABLE user_progress IN EXCLUSIVE MODE; SELECT pg_sleep(300)";
        let mut session = Command::new("psql");
        session
            .args(["-X", &postgres.tcp_url("sslmode=disable"), "-c", sql])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let session = session.spawn().unwrap();
        eventually("the lock", || {
            let sql = "SELECT 1 FROM pg_locks WHERE mode = 'ExclusiveLock' AND granted AND relation = 'user_progress'::regclass";
            (!postgres.query(sql).is_empty()).then_some(())
        });
        Self { postgres, session }
    }

    fn lift(mut self) {
        self.postgres.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LOCK TABLE%' AND pid <> pg_backend_pid()",
        );
        let _ = self.session.wait();
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let _ = self.session.kill();
        let _ = self.session.wait();
    }
}

#[test]
fn what_another_node_has_not_stored_yet_is_seen_by_who_is_loaded_later() {
    let shared = Shared::start();
    let [one, two] = shared.pair();
    let reader = Reader::register(&one, "reader");
    let manga = reader.series(&one, "berserk");
    reader.put_progress(&one, manga, &json!({"chapter": 5})).expect(200);
    eventually("the first is stored", || {
        (shared.postgres.query("SELECT chapter FROM user_progress") == ["500"]).then_some(())
    });
    let lock = Locked::new(&shared.postgres);
    let merged = metric(&two, "mangahub_nodes_records_merged_total");
    reader.put_progress(&one, manga, &json!({"chapter": 7})).expect(200);
    eventually("it is heard", || (metric(&two, "mangahub_nodes_records_merged_total") > merged).then_some(()));
    // Nobody has asked this node for this user before: it is loaded now, from a database that has the older state.
    assert_eq!(shared.postgres.query("SELECT chapter FROM user_progress"), ["500"]);
    assert_eq!(reader.progress(&two, manga)["chapter"], json!(7));
    // And rules are evaluated on it.
    reader.put_progress(&two, manga, &json!({"chapter": 6})).expect(409);
    lock.lift();
    eventually("it is stored, and kept no longer", || {
        let stored = shared.postgres.query("SELECT chapter FROM user_progress") == ["700"];
        (stored && metric(&two, "mangahub_nodes_users_not_stored") == 0.0).then_some(())
    });
    assert_eq!(reader.progress(&two, manga)["chapter"], json!(7));
}

#[test]
fn who_was_in_memory_does_not_stay_stale_after_a_gap() {
    let shared = Shared::start();
    let [one, two] = shared.pair();
    let (listening, silent) = (Reader::register(&one, "listening"), Reader::register(&one, "silent"));
    let manga = listening.series(&one, "berserk");
    for reader in [&listening, &silent] {
        reader.put_progress(&one, manga, &json!({"chapter": 5})).expect(200);
        eventually("it is there too", || {
            let answer = two.request("GET", &format!("/api/progress/{manga}")).bearer(&reader.token).send();
            (answer.status == 200 && answer.json()["chapter"] == json!(5)).then_some(())
        });
        // A command loads the user from the database, and changes nothing.
        reader.put_progress(&two, manga, &json!({"chapter": 4})).expect(409);
    }
    block_on(async {
        let mut device = listening.on_frames(&two, 2).await;
        shared.proxy.cut();
        wait_for_nodes(&two, "down");
        for reader in [&listening, &silent] {
            reader.put_progress(&one, manga, &json!({"chapter": 9})).expect(200);
            assert_eq!(reader.progress(&two, manga)["chapter"], json!(5), "nothing comes through");
        }
        // What was told is gone: neither the entries nor the place are in the stream any more.
        let stream = shared.redis.ask(&["KEYS", "mangahub:wire:*"]);
        eventually("everything is told", || (metric(&one, "mangahub_wire_queue_bytes") == 0.0).then_some(()));
        shared.redis.ask(&["DEL", &stream]);
        shared.proxy.mend();
        assert_eq!(announced(&mut device).await, (manga, Chapter::whole(9)));
    });
    eventually("the other one too", || (silent.progress(&two, manga)["chapter"] == json!(9)).then_some(()));
    assert!(metric(&two, "mangahub_wire_gaps_total") >= 1.0);
    wait_for_nodes(&two, "healthy");
}

#[test]
fn nodes_that_must_not_run_beside_each_other_are_refused() {
    let shared = Shared::start();
    let one = shared.first().start();
    wait_for_nodes(&one, "healthy");
    let refused = shared.launch(&shared.redis.url()).refused();
    assert!(!refused.status.success() && refused.stderr.contains("JWT_SECRET"), "{}", refused.stderr);
    let copy = shared.first();
    let copied = Command::new("cp").arg("-a").arg(one.launch().data_dir()).arg(copy.data_dir()).status().unwrap();
    assert!(copied.success());
    let refused = copy.refused();
    assert!(!refused.status.success() && refused.stderr.contains("copy"), "{}", refused.stderr);
    // The node itself comes back at once, however it ended.
    let again = one.kill().start();
    wait_for_nodes(&again, "healthy");
    let (status, launch) = again.stop();
    assert!(status.success(), "{}", launch.stderr());
}

/// The largest merge key per series: of what is acknowledged, or of what is known.
type Keys = HashMap<(UserId, MangaId), MergeKey>;

fn note(keys: &mut Keys, user: UserId, manga: MangaId, key: MergeKey) {
    let known = keys.entry((user, manga)).or_insert(key);
    *known = key.max(*known);
}

/// Everybody with a device on each node, changing things at random.
struct Crowd {
    people: Tokens,
    doors: Mutex<[SocketAddr; 2]>,
    acknowledged: [AtomicUsize; 2],
    /// Per node: what the devices there have heard, their own acknowledgements included.
    heard: [Mutex<Keys>; 2],
    acks: Mutex<Keys>,
    is_quiet: AtomicBool,
    is_over: AtomicBool,
}

impl Crowd {
    fn new(people: Tokens, nodes: &[Server; 2]) -> Arc<Self> {
        Arc::new(Self {
            people,
            doors: Mutex::new(nodes.each_ref().map(|node| node.ports.tcp_sync)),
            acknowledged: Default::default(),
            heard: Default::default(),
            acks: Mutex::default(),
            is_quiet: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        })
    }

    /// All of it, on an executor of its own.
    fn run(self: Arc<Self>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let devices = tokio::task::LocalSet::new();
        for person in 0..self.people.users.len() {
            for node in 0..2 {
                devices.spawn_local(Arc::clone(&self).device(person, node));
            }
        }
        runtime.block_on(devices);
    }

    async fn device(self: Arc<Self>, person: usize, node: usize) {
        while !self.is_over.load(Ordering::SeqCst) {
            // Its node may be down, and a connection may end at any time.
            let _ = self.session(person, node).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn session(&self, person: usize, node: usize) -> Result<(), client::shell::Error> {
        let mut random = (person * 2 + node) as u64 + 1;
        let mut draw = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let user = self.people.users[person].user_id;
        let hello = Hello {
            token: &self.people.users[person].token,
            device: Some(DeviceId::from_bytes([node as u8 + 1; 16])),
            resume: ResumeToken::NONE,
            client_name: "test",
            client_version: env!("CARGO_PKG_VERSION"),
            wants: wants::PROGRESS,
        };
        let door = self.doors.lock().unwrap()[node];
        let (mut client, _) = FrameClient::<()>::connect(door, &hello).await?;
        client.connection().catch_up(ResumeToken::NONE);
        let mut answered = Vec::new();
        while !self.is_over.load(Ordering::SeqCst) {
            let pause = Duration::from_millis(50 + draw(200));
            if let Ok(event) = tokio::time::timeout(pause, client.next(&mut answered)).await {
                self.learn(user, node, &event?);
            } else if !self.is_quiet.load(Ordering::SeqCst) {
                let manga = self.people.series[draw(self.people.series.len() as u64) as usize];
                let mut update = progress(manga, draw(1_000) as u32, None);
                update.force = draw(2) == 0;
                let _ = client.set_progress(&update, ());
            }
        }
        Ok(())
    }

    fn learn(&self, user: UserId, node: usize, event: &Event<'_>) {
        let mut heard = self.heard[node].lock().unwrap();
        match event {
            Event::Ack(ack) => {
                note(&mut heard, user, ack.manga, ack.key);
                note(&mut self.acks.lock().unwrap(), user, ack.manga, ack.key);
                self.acknowledged[node].fetch_add(1, Ordering::SeqCst);
            }
            Event::Progress { entry, .. } => note(&mut heard, user, entry.manga, entry.key),
            Event::State { state, .. } => {
                state.entries.iter().for_each(|entry| note(&mut heard, user, entry.manga, entry.key));
            }
            _ => {}
        }
    }

    /// Waits until the devices on these nodes have had so many more acknowledgements.
    fn more(&self, nodes: &[usize], count: usize) {
        let before = self.acknowledged.each_ref().map(|count| count.load(Ordering::SeqCst));
        eventually("acknowledgements", || {
            let has_more = |node: &usize| self.acknowledged[*node].load(Ordering::SeqCst) >= before[*node] + count;
            nodes.iter().all(has_more).then_some(())
        });
    }
}

/// Ends the crowd however the test ends.
struct End(Arc<Crowd>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
    }
}

fn rows(postgres: &PostgresServer) -> Keys {
    let rows = postgres
        .query("SELECT user_id, manga_id, generation, chapter, version, node FROM user_progress WHERE NOT deleted");
    rows.iter().map(|row| key_of(row, '|')).collect()
}

/// The hashes for other tools.
fn hashes(redis: &RedisServer) -> Keys {
    let script = "local all = {} for _, key in ipairs(redis.call('KEYS', 'progress:*')) do \
                  local row = redis.call('HMGET', key, 'generation', 'current_chapter', 'version', 'node') \
                  local user, manga = string.match(key, '^progress:(.*):(.*)$') \
                  table.insert(all, table.concat({user, manga, row[1], row[2] * 100, row[3], row[4]}, '|')) end return all";
    redis.ask(&["EVAL", script, "0"]).lines().filter(|line| !line.is_empty()).map(|line| key_of(line, '|')).collect()
}

fn key_of(row: &str, by: char) -> ((UserId, MangaId), MergeKey) {
    let (user, numbers) = row.split_once(by).unwrap();
    let numbers: Vec<u64> = numbers.split(by).map(|number| number.parse().unwrap()).collect();
    let [manga, generation, chapter, version, node] = numbers.try_into().unwrap();
    let key = MergeKey {
        generation: Version(generation),
        chapter: Chapter::from_hundredths(chapter as u32).unwrap(),
        version: Version(version),
        node: NodeId(node as u32),
    };
    ((user.parse().unwrap(), MangaId(manga as i64)), key)
}

/// What a node shows of everybody, as version and chapter.
fn shown(crowd: &Crowd, node: &Server, keys: &Keys) -> HashMap<(UserId, MangaId), Value> {
    let token = |user: UserId| &crowd.people.users.iter().find(|person| person.user_id == user).unwrap().token;
    let show = |(user, manga): &(UserId, MangaId)| {
        let answer =
            node.request("GET", &format!("/api/progress/{manga}")).bearer(token(*user)).send().expect(200).json();
        ((*user, *manga), json!([answer["version"], answer["chapter"]]))
    };
    keys.keys().map(show).collect()
}

#[test]
fn nodes_agree_after_cuts_and_kills_and_nothing_acknowledged_is_lost() {
    let (people, load, cut) = match is_soak() {
        true => (1_000, 5_000, Duration::from_secs(30)),
        false => (50, 200, Duration::from_millis(2_500)),
    };
    let shared = Shared::start();
    // The series are there before the second node reads the catalogue.
    let one = shared.first().start();
    let file = one.launch().data_dir().join("tokens.json");
    let count = people.to_string();
    let seeded = one.cli(&["admin", "seed", "--users", &count, "--series", "4", "--tokens", file.to_str().unwrap()]);
    assert!(seeded.status.success(), "{}", seeded.stderr);
    let two = shared.second().start();
    let mut nodes = [one, two];
    let crowd = Crowd::new(Tokens::load(&file).unwrap(), &nodes);
    let end = End(Arc::clone(&crowd));
    let running = Arc::clone(&crowd);
    let devices = std::thread::spawn(move || running.run());

    crowd.more(&[0, 1], load);
    // One node is cut off from Redis; both go on.
    shared.proxy.cut();
    std::thread::sleep(cut);
    crowd.more(&[0, 1], load);
    shared.proxy.mend();
    crowd.more(&[0, 1], load);
    // The other one dies; its people go on where they are still connected.
    let [one, two] = nodes;
    let launch = one.kill();
    crowd.more(&[1], load);
    let one = launch.start();
    crowd.doors.lock().unwrap()[0] = one.ports.tcp_sync;
    nodes = [one, two];
    crowd.more(&[0, 1], load);

    crowd.is_quiet.store(true, Ordering::SeqCst);
    let mut differs = String::new();
    let agreed = within(PATIENCE, || {
        let wanted = rows(&shared.postgres);
        let heard = crowd.heard.each_ref().map(|heard| heard.lock().unwrap().clone());
        differs = [("devices on one", &heard[0]), ("devices on two", &heard[1]), ("Redis", &hashes(&shared.redis))]
            .iter()
            .map(|(who, keys)| difference(who, &wanted, keys))
            .collect();
        differs.is_empty()
    });
    assert!(agreed, "{differs}");
    let stored = rows(&shared.postgres);
    let wanted: HashMap<_, _> = stored
        .iter()
        .map(|(place, key)| (*place, json!([key.version.0, f64::from(key.chapter.hundredths()) / 100.0])))
        .collect();
    for node in &nodes {
        let shown = shown(&crowd, node, &stored);
        let is_same = |(place, value): (&(UserId, MangaId), &Value)| {
            shown[place][0] == value[0] && shown[place][1].as_f64() == value[1].as_f64()
        };
        assert!(wanted.iter().all(is_same), "a node shows something else");
    }
    for (place, key) in crowd.acks.lock().unwrap().iter() {
        assert!(
            stored.get(place) >= Some(key),
            "{place:?}: {key:?} was acknowledged, {:?} is stored",
            stored.get(place)
        );
    }
    drop(end);
    devices.join().unwrap();
}

/// Whether something becomes so in time.
fn within(patience: Duration, mut look: impl FnMut() -> bool) -> bool {
    let deadline = std::time::Instant::now() + patience;
    loop {
        if look() {
            return true;
        }
        if std::time::Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The first few places where these keys are not what is stored.
fn difference(who: &str, stored: &Keys, keys: &Keys) -> String {
    let mut lines: Vec<String> = stored
        .iter()
        .filter(|(place, key)| keys.get(place) != Some(key))
        .map(|(place, key)| format!("{who}: {place:?} {:?}, stored {key:?}\n", keys.get(place)))
        .collect();
    lines.extend(
        keys.keys()
            .filter(|place| !stored.contains_key(place))
            .map(|place| format!("{who}: {place:?} is not stored\n")),
    );
    let count = lines.len();
    lines.truncate(5);
    if count > 0 { format!("{who} differ in {count}\n{}", lines.concat()) } else { String::new() }
}
