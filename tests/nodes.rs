//! Several nodes on one Postgres and one Redis, real servers all of them: what one person does on one node reaches their devices
//! on the other, whatever is cut or killed meanwhile, and in the end everybody agrees and nothing acknowledged is lost.

mod crowd;

use std::process::{Child, Command, Stdio};

use client::frames::Event;
use client::shell::FrameClient;
use proto::{Chapter, MangaId};
use serde_json::json;

use crate::support::postgres::PostgresServer;
use crate::support::redis::RedisServer;
use crate::support::{Finished, Launch, PATIENCE, Reader, Request, Server, block_on, eventually, mangahub};

#[path = "../storage/tests/support/proxy.rs"]
mod proxy;

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
            eventually("they have met, and nothing is owed", || {
                let is_open = metric(node, "mangahub_wire_gap_open") > 0.0;
                let has_met =
                    metric(node, "mangahub_nodes_alive") == 2.0 && metric(node, "mangahub_wire_reloads_total") > 0.0;
                (has_met && !is_open).then_some(())
            });
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
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    let mut create = mangahub();
    create.arg("--data-dir").arg(one.launch().data_dir()).env("DATABASE_URL", shared.postgres.url());
    let told = Finished::run(create.args(["--output", "json", "backup", "create"]).arg(&file)).done().json();
    assert_eq!(told["other_nodes"], json!(1), "a backup says whose last seconds it may lack: {told}");
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
            let told = metric(&one, "mangahub_wire_entries_sent_total");
            reader.put_progress(&one, manga, &json!({"chapter": 9})).expect(200);
            eventually("it is told", || (metric(&one, "mangahub_wire_entries_sent_total") > told).then_some(()));
            assert_eq!(reader.progress(&two, manga)["chapter"], json!(5), "nothing comes through");
        }
        // What was told is gone: neither the entries nor the place are in the stream any more.
        let stream = shared.redis.ask(&["KEYS", "mangahub:wire:*"]);
        shared.redis.ask(&["DEL", &stream]);
        shared.proxy.mend();
        assert_eq!(announced(&mut device).await, (manga, Chapter::whole(9)));
    });
    eventually("the other one too", || (silent.progress(&two, manga)["chapter"] == json!(9)).then_some(()));
    eventually("the gap is counted", || (metric(&two, "mangahub_wire_gaps_total") >= 1.0).then_some(()));
    wait_for_nodes(&two, "healthy");
}

#[test]
fn nodes_that_must_not_run_beside_each_other_are_refused() {
    let shared = Shared::start();
    let one = shared.first().start();
    wait_for_nodes(&one, "healthy");
    let (stranger, copy) = (shared.launch(&shared.redis.url()), shared.first());
    let copied = Command::new("cp").arg("-a").arg(one.launch().data_dir()).arg(copy.data_dir()).status().unwrap();
    assert!(copied.success());
    let refused = [(stranger, "JWT_SECRET"), (copy, "copy")].map(|(launch, why)| {
        // Both at once: each first makes sure that it does not meet somebody who has just died.
        std::thread::spawn(move || (launch.refused(), why))
    });
    for (refused, why) in refused.map(|refusing| refusing.join().unwrap()) {
        assert!(!refused.status.success() && refused.stderr.contains(why), "{}", refused.stderr);
    }
    // The node itself comes back at once, however it ended.
    let again = one.kill().start();
    wait_for_nodes(&again, "healthy");
    let (status, launch) = again.stop();
    assert!(status.success(), "{}", launch.stderr());
}
