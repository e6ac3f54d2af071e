//! The whole server over Postgres: everything that it does over its own file, behind a pooler too, with the database there and
//! without it. Real servers, each with a database of its own.

mod acknowledged;
mod away;

use client::frames::Event;
use client::shell::FrameClient;
use proto::MangaId;
use proto::frame::SetProgress;
use serde_json::{Value, json};

use crate::support::postgres::{Pooler, PostgresServer};
use crate::support::{
    Answer, Finished, Launch, PASSWORD, Reader, Request, Server, block_on, eventually, mangahub, progress,
};

/// What `mangahub --help` calls unreachable.
const UNREACHABLE: i32 = 5;
/// What it calls unsound.
const UNSOUND: i32 = 7;

fn over(url: &str) -> Launch {
    let launch = Launch::new().variable("DATABASE_URL", url);
    launch.set("limits.requests_per_s", "1000000").set("limits.requests_burst", "1000000")
}

/// A command on a folder whose server does not run.
fn offline(launch: &Launch, url: &str, arguments: &[&str]) -> Finished {
    let mut command = mangahub();
    command.env("DATABASE_URL", url).arg("--data-dir").arg(launch.data_dir()).args(arguments);
    Finished::run(&mut command)
}

fn health(server: &Server) -> Value {
    server.request("GET", "/health/ready").send().expect(200).json()
}

/// Waits until the server says so of itself and of its store.
fn wait_for(server: &Server, status: &str, store: &str) {
    eventually(&format!("health: {status}, store {store}"), || {
        let health = health(server);
        (health["status"] == status && health["dependencies"]["store"] == store).then_some(())
    });
}

/// Come back later, and when.
#[track_caller]
fn expect_later(answer: Answer) {
    let seconds = answer.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
    assert!(answer.status == 503 && seconds.is_some_and(|seconds| seconds >= 1), "{answer:#?}");
}

#[track_caller]
fn read(server: &Server, reader: &Reader, manga: MangaId) -> Answer {
    server.request("GET", &format!("/api/progress/{manga}")).bearer(&reader.token).send()
}

/// Sends one update on frames and waits for its Ack.
async fn update(client: &mut FrameClient<u64>, update: &SetProgress) {
    client.set_progress(update, 1).expect("the window is open");
    acknowledged(client).await;
}

async fn acknowledged(client: &mut FrameClient<u64>) {
    let mut answered = Vec::new();
    loop {
        match client.next(&mut answered).await.expect("the connection lives") {
            Event::Ack(_) => return,
            Event::Reject(reject) => panic!("{reject:?}"),
            _ => {}
        }
    }
}

/// Refreshes once and then again with the same token, which must end the session.
fn check_sessions(server: &Server, name: &str) {
    let reader = Reader::sign_in(server, name);
    let refresh = |token: &str| server.request("POST", "/auth/refresh").json(&json!({"refresh_token": token})).send();
    let next = refresh(&reader.refresh_token).expect(200).json();
    refresh(&reader.refresh_token).expect(401);
    refresh(next["refresh_token"].as_str().unwrap()).expect(401);
    let list = server.request("GET", "/api/progress").bearer(&reader.token).send();
    assert_eq!(list.status, 401, "the session has ended: {list:#?}");
}

/// One life of a server, as its users see it, whatever stands between it and the database.
fn lives(postgres: &PostgresServer, url: &str) -> Server {
    let server = over(url).start();
    assert!(server.banner().contains("postgres at"), "{}", server.banner());
    let series =
        server.request("GET", "/api/manga?page_size=1").send().expect(200).json()["pagination"]["total"].clone();
    assert_eq!(postgres.query("SELECT count(*) FROM manga"), [series.to_string()]);
    let reader = Reader::register(&server, "reader");
    let again = json!({"username": "READER", "password": PASSWORD, "email": "other@example.com"});
    server.request("POST", "/auth/register").json(&again).send().expect(409);
    check_sessions(&server, "reader");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 1})).expect(200);
    block_on(async {
        let mut phone = reader.on_frames(&server, 1).await;
        for chapter in 2..=100 {
            update(&mut phone, &progress(manga, chapter, Some(chapter.into()))).await;
        }
        let mut tablet = reader.on_lines(&server).await;
        tablet.set_progress(&progress(manga, 101, None));
        while !matches!(tablet.next().await.expect("the connection lives"), proto::line::ServerLine::ProgressAck(_)) {}
    });
    let body = json!({"manga_id": "one-piece", "status": "on_hold"});
    server.request("POST", "/api/library").bearer(&reader.token).json(&body).send().expect(201);
    let shown = reader.progress(&server, manga);
    wait_for(&server, "ready", "healthy");

    let (status, launch) = server.stop();
    assert!(status.success(), "{status}: {}", launch.stderr());
    // Nothing here flushes, and the server says so.
    let warned = |line: &&str| line.contains("WARN") && !line.contains("fsync=off");
    assert_eq!(launch.stderr().lines().find(warned), None);
    assert!(!launch.data_dir().join("mangahub.db").exists(), "the database is the only store");
    let stored = format!("SELECT chapter, version FROM user_progress WHERE manga_id = {manga}");
    assert_eq!(postgres.query(&stored), [format!("10100|{}", shown["version"])]);
    assert_eq!(postgres.query("SELECT last_seq FROM devices"), ["100"]);

    let server = launch.start();
    assert_eq!(reader.progress(&server, manga)["version"], shown["version"]);
    reader.put_progress(&server, manga, &json!({"chapter": 102})).expect(200);
    let server = server.kill().start();
    assert_eq!(reader.progress(&server, manga)["chapter"], json!(102));
    let library = server.request("GET", "/api/library").bearer(&reader.token).send().expect(200).json();
    assert_eq!(library["total"], json!(2), "{library}");
    server.cli(&["db", "drain"]).done();
    let history = server.request("GET", "/api/progress").bearer(&reader.token).send().expect(200).json();
    assert_eq!(history["data"][0]["last_chapter"], json!(102), "{history}");
    server
}

#[test]
fn a_server_over_postgres_does_all_that_one_over_its_own_file_does() {
    let postgres = PostgresServer::start();
    lives(&postgres, &postgres.url());
}

#[test]
fn a_server_behind_a_pooler_in_transaction_mode_does_the_same() {
    let mut postgres = PostgresServer::start();
    let pooler = Pooler::start(&postgres);
    let server = lives(&postgres, &pooler.url());
    // The pooler stays, and its server comes back with a crash's recovery behind it.
    let reader = Reader::register(&server, "patient");
    let manga = reader.series(&server, "one-piece");
    reader.put_progress(&server, manga, &json!({"chapter": 1})).expect(200);
    postgres.go_down();
    reader.put_progress(&server, manga, &json!({"chapter": 2})).expect(200);
    postgres.go_up();
    server.cli(&["db", "drain"]).done();
    assert_eq!(postgres.query(&format!("SELECT chapter FROM user_progress WHERE manga_id = {manga}")), ["200"]);
    server.cli(&["db", "check"]).done();
}

#[test]
fn the_store_is_looked_after_with_and_without_a_server() {
    let postgres = PostgresServer::start();
    let url = postgres.url();
    let launch = over(&url);
    // Nobody has been here yet: the first command makes the tables.
    let migrated = offline(&launch, &url, &["db", "migrate", "--output=json"]).done().json();
    assert!(migrated["schema_version"].as_u64().unwrap() >= 3, "{migrated}");
    let server = launch.start();
    let reader = Reader::register(&server, "keeper");
    let manga = reader.series(&server, "berserk");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let titles: Vec<Value> = (0..3).map(|at| json!({"title": format!("Imported {at}"), "status": "ongoing"})).collect();
    std::fs::write(path("catalogue"), json!({"mangas": titles}).to_string()).unwrap();
    std::fs::write(path("password"), PASSWORD).unwrap();
    let (catalogue, tokens, password) = (path("catalogue"), path("tokens"), path("password"));
    let seed = ["admin", "seed", "--users=50", "--series=230", "--tokens", &tokens];
    let admin = ["admin", "create", "--username=root", "--email=root@example.com", "--password-file", &password];
    let import = ["import", "--format", "catalogue", &catalogue, "--output=json"];
    reader.put_progress(&server, manga, &json!({"chapter": 3})).expect(200);
    server.cli(&["db", "drain"]).done();
    assert_eq!(postgres.query("SELECT chapter FROM user_progress"), ["300"]);
    assert_eq!(server.cli(&import).done().json()["inserted"], json!(3));
    server.request("GET", "/api/manga/imported-2").send().expect(200);
    server.cli(&seed).done();
    server.cli(&admin).done();
    Reader::sign_in(&server, "root");
    server.cli(&["admin", "promote", "keeper"]).done();
    let stats = server.cli(&["admin", "stats", "--output=json"]).done().json();
    assert_eq!(stats["users"], json!(52), "{stats}");
    for command in ["migrate", "check", "retry"] {
        server.cli(&["db", command]).done();
    }
    let check = server.cli(&["db", "check", "--output=json"]).done().json();
    assert_eq!((&check["problems"], &check["tables"]["users"]), (&json!([]), &json!(52)), "{check}");

    // Killed, so that there is something to drain.
    let reader = Reader::sign_in(&server, "keeper");
    reader.put_progress(&server, manga, &json!({"chapter": 5})).expect(200);
    let launch = server.kill();
    let offline = |arguments: &[&str]| offline(&launch, &url, arguments);
    offline(&["db", "drain"]).done();
    assert_eq!(postgres.query("SELECT chapter FROM user_progress"), ["500"]);
    let again = offline(&import).done().json();
    assert_eq!((&again["inserted"], &again["unchanged"]), (&json!(0), &json!(3)));
    offline(&seed).done();
    for command in ["migrate", "check", "retry"] {
        offline(&["db", command]).done();
    }
    assert_eq!(postgres.query("SELECT count(*) FROM users"), ["102"]);

    // Another database: the journal has drained into the first one, and whoever means it says so.
    let other = PostgresServer::start();
    let elsewhere = |arguments: &[&str]| self::offline(&launch, &other.url(), arguments);
    let refused = elsewhere(&["db", "check"]);
    assert_eq!(refused.code(), UNSOUND, "{refused:#?}");
    assert!(refused.stderr.contains("db adopt"), "{}", refused.stderr);
    elsewhere(&["db", "adopt", "--yes"]).done();
    let server = launch.variable("DATABASE_URL", &other.url()).start();
    wait_for(&server, "ready", "healthy");
    let reader = Reader::register(&server, "newcomer");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 1})).expect(200);
    server.cli(&["db", "drain"]).done();
    assert_eq!(other.query("SELECT chapter FROM user_progress"), ["100"]);
}

#[test]
fn a_record_that_the_database_refuses_is_parked_seen_and_tried_again() {
    let postgres = PostgresServer::start();
    let server = over(&postgres.url()).start();
    let (odd, other) = (Reader::register(&server, "odd"), Reader::register(&server, "other"));
    let (refused, fine) = (odd.series(&server, "berserk"), odd.series(&server, "one-piece"));
    postgres.query(&format!("ALTER TABLE user_progress ADD CONSTRAINT picky CHECK (manga_id <> {refused})"));
    // All in one batch, most likely: one bad record among good ones.
    for chapter in 1..=20 {
        odd.put_progress(&server, refused, &json!({"chapter": chapter})).expect(200);
        other.put_progress(&server, fine, &json!({"chapter": chapter})).expect(200);
    }
    server.cli(&["db", "drain"]).done();
    assert_eq!(postgres.query("SELECT manga_id, chapter FROM user_progress"), [format!("{fine}|2000")]);
    let parked: u64 = postgres.query("SELECT count(*) FROM parked_records").concat().parse().unwrap();
    assert!((1..=20).contains(&parked), "{parked}");
    eventually("health tells of all parked records", || {
        let health = health(&server);
        let told = health["details"]["store"].as_str()?;
        told.starts_with(&format!("{parked} records")).then_some(())
    });
    assert_eq!(health(&server)["status"], "degraded");
    let metrics = Request::new(server.ports.metrics, "GET", "/metrics").send().expect(200).text;
    assert!(metrics.contains(&format!("mangahub_parked_records {parked}\n")), "{metrics}");
    assert!(metrics.contains(&format!("mangahub_parked_records_total {parked}\n")), "{metrics}");
    // Nothing acknowledged is invisible, also for who loads the user anew.
    let server = server.kill().start();
    assert_eq!(odd.progress(&server, refused)["chapter"], json!(20));

    let check = server.cli(&["db", "check"]);
    assert_eq!(check.code(), UNSOUND, "{check:#?}");
    assert!(check.stdout.contains(&format!("{parked} records were refused")), "{}", check.stdout);
    assert!(check.stdout.contains("picky"), "the database's own word: {}", check.stdout);
    let still = server.cli(&["db", "retry"]);
    assert_eq!(still.code(), UNSOUND, "{still:#?}");
    assert!(still.stdout.contains("picky"), "{}", still.stdout);
    postgres.query("ALTER TABLE user_progress DROP CONSTRAINT picky");
    server.cli(&["db", "retry"]).done();
    assert_eq!(postgres.query(&format!("SELECT chapter FROM user_progress WHERE manga_id = {refused}")), ["2000"]);
    assert_eq!(postgres.query("SELECT count(*) FROM parked_records"), ["0"]);
    wait_for(&server, "ready", "healthy");
}
