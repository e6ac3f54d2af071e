//! A database that dies under load, is away at the start, stays away for longer than the journal has room, comes back, or comes
//! back as another one.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{UNREACHABLE, UNSOUND, expect_later, health, offline, over, read, wait_for};
use crate::support::postgres::{Pooler, PostgresServer};
use crate::support::redis::RedisServer;
use crate::support::{Launch, PASSWORD, Reader, Server, eventually, under_load};

/// A database that gives no answer is away after 5 s, and after one look a second; the rest is for a machine that is busy.
const NOTICED_MAX: Duration = Duration::from_secs(20);

#[test]
fn a_database_that_dies_under_load_holds_up_nobody_who_is_in_memory() {
    let mut postgres = PostgresServer::start();
    let server = over(&postgres.url()).start();
    let readers = ["one", "two"].map(|name| Reader::register(&server, name));
    // Signed in, and never loaded.
    let stranger = Reader::register(&server, "stranger");
    let series = ["berserk", "one-piece"].map(|slug| readers[0].series(&server, slug));
    let pages = under_load(&server, &[(&readers[0], series[0]), (&readers[1], series[1])], |load| {
        load.goes_on(20);
        postgres.go_down();
        load.goes_on(20);
        wait_for(&server, "degraded", "down");
        expect_later(read(&server, &stranger, series[0]));
        expect_later(stranger.put_progress(&server, series[0], &json!({"chapter": 1})));
        let body = json!({"username": "stranger", "password": PASSWORD});
        expect_later(server.request("POST", "/auth/login").json(&body).send());
        load.goes_on(20);
        postgres.go_up();
        wait_for(&server, "ready", "healthy");
        load.goes_on(20);
    });
    server.cli(&["db", "drain"]).done();
    for (manga, page) in series.iter().zip(pages) {
        assert_eq!(
            postgres.query(&format!("SELECT page FROM user_progress WHERE manga_id = {manga}")),
            [page.to_string()]
        );
    }
    read(&server, &stranger, series[0]).expect(404);
    stranger.put_progress(&server, series[0], &json!({"chapter": 2})).expect(200);
}

#[test]
fn a_database_that_hangs_holds_up_nobody_who_is_in_memory_and_is_noticed_in_seconds() {
    let postgres = PostgresServer::start();
    let server = over(&postgres.url()).start();
    let [reader, stranger] = ["reader", "stranger"].map(|name| Reader::register(&server, name));
    let manga = reader.series(&server, "berserk");
    let update = |page: u32| {
        reader.put_progress(&server, manga, &json!({"chapter": 1, "page": page})).expect(200);
        assert_eq!(reader.progress(&server, manga)["page"], json!(page));
    };
    update(1);
    let (began, sign_in) = (Instant::now(), json!({"username": "stranger", "password": PASSWORD}));
    postgres.freeze();
    std::thread::scope(|scope| {
        let read = scope.spawn(|| read(&server, &stranger, manga));
        let signed_in = scope.spawn(|| server.request("POST", "/auth/login").json(&sign_in).send());
        (2..50).for_each(update);
        wait_for(&server, "degraded", "down");
        let told = health(&server)["details"]["store"].as_str().unwrap_or_default().to_owned();
        assert!(told.contains("does not answer"), "{told}");
        expect_later(read.join().unwrap());
        expect_later(signed_in.join().unwrap());
    });
    // Now that it is known, nobody waits for it to be found out again.
    expect_later(read(&server, &stranger, manga));
    expect_later(stranger.put_progress(&server, manga, &json!({"chapter": 1})));
    let took = began.elapsed();
    assert!(took < NOTICED_MAX, "{took:?}");
    update(50);
    // A stop does not wait for it either.
    let began = Instant::now();
    let (status, launch) = server.stop();
    assert!(
        status.success() && began.elapsed() < NOTICED_MAX,
        "{status} after {:?}: {}",
        began.elapsed(),
        launch.stderr()
    );
    postgres.thaw();
    let server = launch.start();
    wait_for(&server, "ready", "healthy");
    server.cli(&["db", "drain"]).done();
    assert_eq!(postgres.query("SELECT page FROM user_progress"), ["50"]);
    read(&server, &stranger, manga).expect(404);
}

#[test]
fn a_start_behind_a_pooler_whose_database_is_away_or_hangs_takes_seconds() {
    let mut postgres = PostgresServer::start();
    let pooler = Pooler::start(&postgres);
    let server = over(&pooler.url()).start();
    let reader = Reader::register(&server, "reader");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 1})).expect(200);
    let starts_without = |launch: Launch| {
        let began = Instant::now();
        let server = launch.start();
        let took = began.elapsed();
        assert!(server.banner().contains("(away)") && took < NOTICED_MAX, "{took:?}: {}", server.banner());
        server
    };
    let launch = server.kill();
    postgres.freeze();
    let server = starts_without(launch);
    postgres.thaw();
    wait_for(&server, "ready", "healthy");
    let launch = server.kill();
    postgres.go_down();
    let server = starts_without(launch);
    postgres.go_up();
    wait_for(&server, "ready", "healthy");
    assert_eq!(reader.progress(&server, manga)["chapter"], json!(1));
}

#[test]
fn a_server_starts_without_its_database_and_loses_nothing() {
    let mut postgres = PostgresServer::start();
    // Redis is there, and trusted no more than after any start: what this node's last run did not show it, nobody knows.
    let redis = RedisServer::start();
    let server = over(&postgres.url()).variable("REDIS_URL", &redis.url()).start();
    let [reader, revoked, late] = ["reader", "revoked", "late"].map(|name| Reader::register(&server, name));
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 12})).expect(200);
    server.request("POST", "/auth/revoke").json(&json!({"refresh_token": revoked.refresh_token})).send().expect(200);
    let server = server.stop().1.start();
    reader.put_progress(&server, manga, &json!({"chapter": 13})).expect(200);
    // Known to the database alone when the server is killed: the last checkpoint is older.
    server.request("POST", "/auth/revoke").json(&json!({"refresh_token": late.refresh_token})).send().expect(200);
    postgres.go_down();
    reader.put_progress(&server, manga, &json!({"chapter": 14})).expect(200);

    let launch = server.kill();
    let drained = offline(&launch, &postgres.url(), &["db", "drain", "--timeout=0"]);
    assert!(drained.code() == 1 && drained.stdout.contains("is it available?"), "{drained:#?}");
    let checked = offline(&launch, &postgres.url(), &["db", "check"]);
    assert_eq!(checked.code(), UNREACHABLE, "{checked:#?}");
    // Twice, because what the first such start leaves must be enough for the second.
    let mut server = launch.start();
    for _ in 0..2 {
        assert!(server.banner().contains("(away)"), "{}", server.banner());
        wait_for(&server, "degraded", "down");
        assert_eq!(reader.series(&server, "berserk"), manga, "the catalogue is there");
        expect_later(read(&server, &reader, manga));
        // Rules are not evaluated on what the journal alone has.
        expect_later(reader.put_progress(&server, manga, &json!({"chapter": 15})));
        read(&server, &revoked, manga).expect(401);
        server = server.kill().start();
    }
    postgres.go_up();
    let first = eventually("the database is asked again", || {
        Some(read(&server, &late, manga)).filter(|answer| answer.status != 503)
    });
    assert_eq!(first.status, 401, "nobody is let in who was signed out: {first:#?}");
    wait_for(&server, "ready", "healthy");
    assert_eq!(reader.progress(&server, manga)["chapter"], json!(14));
    reader.put_progress(&server, manga, &json!({"chapter": 15})).expect(200);
    server.cli(&["db", "drain"]).done();
    assert_eq!(postgres.query("SELECT chapter FROM user_progress"), ["1500"]);
    let (status, launch) = server.stop();
    assert!(status.success(), "{status}: {}", launch.stderr());
}

#[test]
fn a_first_start_without_the_database_is_refused_and_so_is_one_that_is_turned_away() {
    let mut postgres = PostgresServer::start();
    let url = postgres.url();
    postgres.go_down();
    let launch = over(&url);
    let refused = launch.refused();
    assert_eq!(refused.code(), UNREACHABLE, "{refused:#?}");
    assert!(refused.stderr.contains("has never run with its database"), "{}", refused.stderr);
    postgres.go_up();
    let (status, launch) = launch.start().stop();
    assert!(status.success(), "{status}: {}", launch.stderr());
    // A database that answers is not away, whatever it answers.
    let refused = launch.variable("DATABASE_URL", &url.replace("/postgres", "/nobody")).refused();
    assert_eq!(refused.code(), UNSOUND, "{refused:#?}");
    assert!(refused.stderr.contains("turns us away"), "{}", refused.stderr);
}

/// The server ends by itself, says what it found, and has written nothing.
#[track_caller]
fn ends(postgres: &PostgresServer, mut server: Server, before: &str, words: &[&str]) -> Launch {
    let status = server.wait();
    assert_eq!(status.code(), Some(UNSOUND), "{}", server.launch().stderr());
    let launch = server.kill();
    for word in words {
        assert!(launch.stderr().contains(word), "no {word:?} in: {}", launch.stderr());
    }
    assert_eq!(postgres.dump(), before, "what does not fit is not written to");
    launch
}

#[test]
fn a_database_that_comes_back_as_another_one_stops_the_server_and_is_not_written_to() {
    let mut postgres = PostgresServer::start();
    let server = over(&postgres.url()).start();
    let reader = Reader::register(&server, "reader");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 12})).expect(200);
    server.cli(&["db", "drain"]).done();
    let own = postgres.query("SELECT encode(value, 'hex') FROM meta WHERE key = 'store_id'").concat();
    let rename = |id: &str| format!("UPDATE meta SET value = decode('{id}', 'hex') WHERE key = 'store_id'");
    let another = rename(&"ab".repeat(16));

    // While it runs: the address leads somewhere else from now on.
    postgres.go_down();
    reader.put_progress(&server, manga, &json!({"chapter": 13})).expect(200);
    postgres.go_up_with(&another);
    let before = postgres.dump();
    let launch = ends(&postgres, server, &before, &["is another store", "db adopt"]);

    // When it was away at the start.
    postgres.query(&rename(&own));
    postgres.go_down();
    let server = launch.start();
    postgres.go_up_with(&another);
    let before = postgres.dump();
    let launch = ends(&postgres, server, &before, &["is another store", "db adopt"]);

    // An older copy of the right one.
    postgres.go_up_with(&rename(&own));
    let cursors = postgres.query("SELECT lane, lsn FROM journal_cursor ORDER BY lane");
    postgres.go_down();
    let server = launch.start();
    postgres.go_up_with("UPDATE journal_cursor SET lsn = lsn - 1 WHERE lane = 3");
    let before = postgres.dump();
    let launch = ends(&postgres, server, &before, &["is an older copy", "db adopt"]);

    // One whose cursors are ahead of the journal: the journal is the older copy.
    postgres.query("UPDATE journal_cursor SET lsn = lsn + 1000000");
    postgres.go_down();
    let server = launch.start();
    postgres.go_up();
    let before = postgres.dump();
    let launch = ends(&postgres, server, &before, &["the journal is an older copy", "db adopt"]);

    // And with the right one everything is as it was.
    for cursor in cursors {
        let (lane, lsn) = cursor.split_once('|').unwrap();
        postgres.query(&format!("UPDATE journal_cursor SET lsn = {lsn} WHERE lane = {lane}"));
    }
    let server = launch.start();
    wait_for(&server, "ready", "healthy");
    assert_eq!(reader.progress(&server, manga)["chapter"], json!(13));
}

#[test]
fn a_database_that_is_exchanged_behind_open_connections_stops_the_server() {
    let postgres = PostgresServer::start();
    let server = over(&postgres.url()).start();
    let reader = Reader::register(&server, "reader");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 12})).expect(200);
    server.cli(&["db", "drain"]).done();
    // As a pooler's connections go on when the server behind it is an older copy.
    postgres.query("UPDATE journal_cursor SET lsn = 0; DELETE FROM user_progress; DELETE FROM user_library");
    let before = postgres.dump();
    let launch = ends(&postgres, server, &before, &["is an older copy", "standby that lagged", "db adopt --yes"]);
    // Whoever goes on with it has what the journal has.
    let refused = offline(&launch, &postgres.url(), &["db", "check"]);
    assert!(refused.code() == UNSOUND && refused.stderr.contains("db adopt"), "{refused:#?}");
    offline(&launch, &postgres.url(), &["db", "adopt", "--yes"]).done();
    let server = launch.start();
    assert_eq!(reader.progress(&server, manga)["chapter"], json!(12));
    server.cli(&["db", "drain"]).done();
    assert_eq!(postgres.query("SELECT chapter FROM user_progress"), ["1200"]);
}

#[test]
fn a_database_that_is_away_for_longer_than_the_journal_has_room_is_met_with_busy_and_costs_nothing() {
    let mut postgres = PostgresServer::start();
    let launch = over(&postgres.url()).set("journal.segment_bytes", "1MiB").set("journal.bytes_max", "4MiB");
    let server = launch.set("shards", "2").start();
    let reader = Reader::register(&server, "reader");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 1})).expect(200);
    postgres.go_down();
    let mut page = 0;
    let busy = loop {
        let answer = reader.put_progress(&server, manga, &json!({"chapter": 1, "page": page + 1}));
        if answer.status != 200 {
            break answer;
        }
        page += 1;
        assert!(page < 100_000, "4 MiB are full before");
    };
    expect_later(busy);
    wait_for(&server, "degraded", "down");
    let told =
        eventually("health tells of the journal", || health(&server)["details"]["journal"].as_str().map(str::to_owned));
    assert!(told.contains("no room"), "{told}");
    assert_eq!(
        reader.progress(&server, manga)["page"],
        json!(page),
        "what was acknowledged is shown, and nothing else"
    );
    // Nor does a crash cost anything.
    let server = server.kill().start();
    expect_later(read(&server, &reader, manga));
    postgres.go_up();
    wait_for(&server, "ready", "healthy");
    assert_eq!(reader.progress(&server, manga)["page"], json!(page));
    eventually("there is room again", || {
        let answer = reader.put_progress(&server, manga, &json!({"chapter": 2, "page": 0}));
        (answer.status == 200).then_some(())
    });
    server.cli(&["db", "drain"]).done();
    assert_eq!(postgres.query("SELECT chapter, page FROM user_progress"), ["200|0"]);
}
