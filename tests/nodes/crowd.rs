//! Many people with a device on each node, all changing things at random while a node is cut off and another dies: in the end
//! both nodes, the devices on both, Redis and Postgres agree, and everything that was acknowledged is there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::frames::Event;
use client::shell::FrameClient;
use loadtest::tokens::Tokens;
use proto::frame::{Hello, ResumeToken, wants};
use proto::{DeviceId, MangaId, MergeKey, UserId};
use serde_json::{Value, json};

use super::Shared;

use crate::support::postgres::PostgresServer;
use crate::support::redis::RedisServer;
use crate::support::{PATIENCE, Server, eventually, is_soak, merge_key, progress};

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
            } else if !self.is_quiet.load(Ordering::SeqCst) && client.connection().unanswered().len() == 0 {
                // One at a time, because an Ack for several names the state of the last one only.
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
    rows.iter().map(|row| merge_key(row)).collect()
}

/// The hashes for other tools.
fn hashes(redis: &RedisServer) -> Keys {
    let script = "local all = {} for _, key in ipairs(redis.call('KEYS', 'progress:*')) do \
                  local row = redis.call('HMGET', key, 'generation', 'current_chapter', 'version', 'node') \
                  local user, manga = string.match(key, '^progress:(.*):(.*)$') \
                  table.insert(all, table.concat({user, manga, row[1], row[2] * 100, row[3], row[4]}, '|')) end return all";
    redis.ask(&["EVAL", script, "0"]).lines().filter(|line| !line.is_empty()).map(merge_key).collect()
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
    let (nodes, crowd) = begin(&shared, people);
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
    crowd.more(&[0, 1], load);

    crowd.is_quiet.store(true, Ordering::SeqCst);
    expect_agreement(&shared, &crowd, &[one, two]);
    drop(end);
    devices.join().unwrap();
}

/// Two nodes, and people with tokens for both.
fn begin(shared: &Shared, people: usize) -> ([Server; 2], Arc<Crowd>) {
    // The series are there before the second node reads the catalogue.
    let one = shared.first().start();
    let file = one.launch().data_dir().join("tokens.json");
    let count = people.to_string();
    let seeded = one.cli(&["admin", "seed", "--users", &count, "--series", "4", "--tokens", file.to_str().unwrap()]);
    assert!(seeded.status.success(), "{}", seeded.stderr);
    let nodes = [one, shared.second().start()];
    let crowd = Crowd::new(Tokens::load(&file).unwrap(), &nodes);
    (nodes, crowd)
}

fn expect_agreement(shared: &Shared, crowd: &Crowd, nodes: &[Server; 2]) {
    let mut differs = String::new();
    let agreed = within(PATIENCE, || {
        let wanted = rows(&shared.postgres);
        let heard = crowd.heard.each_ref().map(|heard| heard.lock().unwrap().clone());
        let seen = [("devices on one", &heard[0]), ("devices on two", &heard[1]), ("Redis", &hashes(&shared.redis))];
        differs = seen.iter().map(|(who, keys)| difference(who, &wanted, keys)).collect();
        differs.is_empty()
    });
    assert!(agreed, "{differs}");
    let stored = rows(&shared.postgres);
    for node in nodes {
        let shown = shown(crowd, node, &stored);
        for (place, key) in &stored {
            let (version, chapter) = (shown[place][0].as_u64(), shown[place][1].as_f64());
            let wanted = (Some(key.version.0), Some(f64::from(key.chapter.hundredths()) / 100.0));
            assert_eq!((version, chapter), wanted, "{place:?}");
        }
    }
    let acks = crowd.acks.lock().unwrap();
    assert!(!acks.is_empty());
    for (place, key) in acks.iter() {
        let there = stored.get(place);
        assert!(there >= Some(key), "{place:?}: {key:?} was acknowledged, {there:?} is stored");
    }
}

/// Whether something becomes so in time.
fn within(patience: Duration, mut look: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if look() {
            return true;
        }
        if Instant::now() > deadline {
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
