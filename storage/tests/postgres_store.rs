//! What only the Postgres store promises: its schema's versions, what it does when its connections break, what it asks of TLS, and
//! that a pooler in transaction mode may stand between. Real servers, one for each test.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

#[path = "support/postgres.rs"]
mod postgres_server;
#[path = "store_suite/sample.rs"]
#[allow(dead_code, reason = "the suite's")]
mod sample;

use std::path::Path;
use std::time::{Duration, Instant};

use futures_executor::block_on as wait;
use hub::device::DeviceStamp;
use hub::record::{ProgressRecord, Record};
use hub::window::{Seen, Window};
use postgres_server::{Pooler, PostgresServer, give_to_server};
use proto::{DeviceId, DeviceSeq, UserId};
use sample::{JOURNAL, new_user};
use storage::journal::{JournalId, LaneCursors, Lsn};
use storage::lane::Lane;
use storage::migrations::{MigrationError, POSTGRES, SQLITE};
use storage::store::postgres::OpenError;
use storage::store::{Batch, PostgresConfig, PostgresStore, Rows, Store, StoreError, UserKey};

fn open(url: &str) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(&PostgresConfig { bulk_max: Duration::from_secs(10), ..PostgresConfig::new(url) }, 1_000)
}

/// Progress of many users, who are in all lanes, each with a device.
fn batch(version: u64, users: u64) -> Batch {
    let record = |number: u64| {
        let id = u128::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes();
        let chapter = u32::try_from(version).unwrap() * 100;
        let all = sample::progress(UserId::from_bytes(id), 1, version, chapter, 1);
        let device = all.device.map(|stamp| DeviceStamp { device: DeviceId::from_bytes(id), ..stamp });
        Record::Progress(ProgressRecord { device, library: None, history: None, ..all })
    };
    sample::batch(&(0..users).map(record).collect::<Vec<_>>(), version)
}

fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn migrating_twice_is_nothing_and_several_nodes_at_once_run_every_step_once() {
    let server = PostgresServer::start();
    let newest = POSTGRES.last().unwrap().number;
    assert_eq!(newest, SQLITE.last().unwrap().number, "the stores' schemas go together");
    // Several times, because those who come at the same moment meet in different places.
    for _ in 0..5 {
        server.query("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
        let opened: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..6).map(|_| scope.spawn(|| open(&server.url()).unwrap())).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let first = opened[0].store_id();
        assert!(opened.iter().all(|store| store.store_id() == first && store.migrated().unwrap().to == newest));
    }
    let before = server.dump();
    assert_eq!(open(&server.url()).unwrap().migrated().unwrap().from, newest);
    assert_eq!(server.dump(), before);
}

#[test]
fn an_edited_or_a_newer_schema_is_refused_with_an_explanation() {
    let server = PostgresServer::start();
    drop(open(&server.url()).unwrap());
    server.query("UPDATE schema_migrations SET checksum = 'x' WHERE number = 2");
    let Err(OpenError::Migration(error)) = open(&server.url()) else { panic!("an edited migration was accepted") };
    assert!(matches!(error, MigrationError::Edited { number: 2, .. }), "{error:?}");
    server.query("INSERT INTO schema_migrations VALUES (999, 'from the future', 'x', 1)");
    let Err(OpenError::Migration(error)) = open(&server.url()) else { panic!("a newer schema was accepted") };
    assert!(matches!(error, MigrationError::Newer { found: 999, .. }), "{error:?}");
}

#[test]
fn a_migration_that_fails_leaves_nothing_behind_and_says_why() {
    let server = PostgresServer::start();
    server.query("CREATE TABLE manga (somebody_elses integer)");
    let Err(OpenError::Migration(error)) = open(&server.url()) else { panic!("somebody else's table was taken over") };
    assert!(matches!(error, MigrationError::Failed { number: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("already exists"), "{error}");
    assert_eq!(server.query("SELECT count(*) FROM schema_migrations"), ["1"]);
    server.query("DROP TABLE manga");
    assert_eq!(open(&server.url()).unwrap().migrated().unwrap().from, 1);
}

#[test]
fn connections_that_are_cut_cost_no_request() {
    let server = PostgresServer::start();
    let store = open(&server.url()).unwrap();
    for number in 1..=20 {
        wait(store.apply(batch(number, 40))).unwrap();
        wait(store.create_user(new_user(number))).unwrap();
        server.cut_connections();
        assert!(wait(store.find_user(UserKey::Username(format!("reader{number}")))).unwrap().is_some());
        server.cut_connections();
    }
    assert_eq!(wait(store.cursors(JOURNAL)).unwrap(), LaneCursors::all_at(Lsn(20)));
}

#[test]
fn batches_survive_connections_that_break_at_any_moment() {
    let server = PostgresServer::start();
    let store = open(&server.url()).unwrap();
    std::thread::scope(|scope| {
        let cutting = scope.spawn(|| {
            for _ in 0..40 {
                server.cut_connections();
            }
        });
        let mut version = 0;
        while version < 20 || !cutting.is_finished() {
            version += 1;
            // Being away is an answer; the writer tries again.
            eventually("a batch is stored", || wait(store.apply(batch(version, 300))).is_ok());
        }
        assert_eq!(wait(store.cursors(JOURNAL)).unwrap(), LaneCursors::all_at(Lsn(version)));
        let stored = format!("SELECT count(*) FROM user_progress WHERE version = {version}");
        assert_eq!(server.query(&stored), ["300"]);
        let seqs = format!("SELECT count(*) FROM devices WHERE last_seq = {version}");
        assert_eq!(server.query(&seqs), ["300"]);
    });
}

#[test]
fn a_database_that_is_down_is_named_and_found_again() {
    let mut server = PostgresServer::start();
    let store = open(&server.url()).unwrap();
    server.go_down();
    let error = wait(store.ping()).unwrap_err();
    let StoreError::Unavailable { reason, .. } = &error else { panic!("{error:?}") };
    assert!(reason.contains(&server.port().to_string()), "{reason}");
    assert!(wait(store.apply(batch(1, 10))).unwrap_err().is_passing());
    server.go_up();
    eventually("the database is found again", || wait(store.apply(batch(1, 10))).is_ok());
    wait(store.ping()).unwrap();
}

#[test]
fn two_nodes_that_write_the_same_device_lose_none_of_its_numbers() {
    let server = PostgresServer::start();
    let stores = [open(&server.url()).unwrap(), open(&server.url()).unwrap()];
    std::thread::scope(|scope| {
        for (node, store) in stores.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..50 {
                    // Odd numbers on one node, even ones on the other.
                    let sent = batch(1 + 2 * round + node as u64, 3);
                    eventually("a batch is stored", || wait(store.apply(sent.clone())).is_ok());
                }
            });
        }
    });
    let applied = server.query("SELECT encode(applied, 'hex') FROM devices");
    assert_eq!(applied.len(), 3);
    assert!(applied.iter().all(|window| *window == applied[0]), "{applied:?}");
    assert_eq!(server.query("SELECT DISTINCT last_seq FROM devices"), ["100"]);
    let bytes: Vec<u8> =
        (0..applied[0].len()).step_by(2).map(|at| u8::from_str_radix(&applied[0][at..at + 2], 16).unwrap()).collect();
    let window = Window::from_bytes(DeviceSeq(100), &bytes).unwrap();
    assert!((1..=100).all(|seq| window.look_up(DeviceSeq(seq)) == Seen::Applied), "{window:?}");
}

#[test]
fn rows_that_the_tables_refuse_are_refused_and_not_waited_for() {
    let server = PostgresServer::start();
    let store = open(&server.url()).unwrap();
    server.query("ALTER TABLE user_progress ADD CHECK (chapter < 500)");
    assert!(matches!(wait(store.apply(batch(5, 10))), Err(StoreError::Refused { .. })));
    assert_eq!(wait(store.cursors(JOURNAL)).unwrap(), LaneCursors::START, "no cursor moves past what was refused");
    server.query("DROP TABLE preferences");
    server.query("ALTER TABLE user_progress DROP CONSTRAINT user_progress_chapter_check1");
    wait(store.apply(batch(5, 10))).unwrap();
}

#[test]
fn nothing_is_stored_behind_a_batch_that_was_not() {
    let server = PostgresServer::start();
    let store = open(&server.url()).unwrap();
    server.query("ALTER TABLE user_progress ADD CHECK (chapter < 500)");
    // Sent together, as the writer does: the second would move every cursor past what the first has not stored.
    let behind = LaneCursors::all_at(Lsn(5));
    let cursors = Lane::all().map(|lane| (lane, Lsn(6))).collect();
    let first = store.apply(batch(5, 40));
    let second = store.apply(Batch { rows: Rows::default().into(), cursors, behind, ..batch(6, 0) });
    assert!(matches!(wait(first), Err(StoreError::Refused { .. })));
    assert!(wait(second).unwrap_err().is_passing());
    assert_eq!(wait(store.cursors(JOURNAL)).unwrap(), LaneCursors::START);
    // In order, both are.
    server.query("ALTER TABLE user_progress DROP CONSTRAINT user_progress_chapter_check1");
    let first = store.apply(batch(5, 40));
    let second = store.apply(Batch { behind, ..batch(6, 40) });
    wait(first).unwrap();
    wait(second).unwrap();
    assert_eq!(wait(store.cursors(JOURNAL)).unwrap(), LaneCursors::all_at(Lsn(6)));
}

#[test]
fn a_database_that_is_another_one_or_an_older_copy_is_not_written_to() {
    let changes = [
        "UPDATE meta SET value = decode(repeat('ab', 16), 'hex') WHERE key = 'store_id'",
        "UPDATE journal_cursor SET lsn = lsn - 1 WHERE lane = 7",
    ];
    for change in changes {
        let server = PostgresServer::start();
        let store = open(&server.url()).unwrap();
        wait(store.apply(batch(5, 40))).unwrap();
        // On connections that stay as they are, and on new ones.
        server.query(change);
        let before = server.dump();
        let refused = wait(store.apply(batch(6, 40)));
        assert!(matches!(&refused, Err(StoreError::Unfit { reason }) if reason.contains("db adopt")), "{refused:?}");
        assert!(matches!(wait(store.ping()), Err(StoreError::Unfit { .. })));
        assert!(matches!(wait(store.create_user(new_user(1))), Err(StoreError::Unfit { .. })));
        assert_eq!(server.dump(), before);
    }
}

/// A certificate authority and a certificate of its for `localhost`, as PEM files in the server's folder.
fn certificates(folder: &Path) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut wanted = rcgen::CertificateParams::new(Vec::new()).unwrap();
    wanted.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_certificate = wanted.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(wanted, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let other_key = rcgen::KeyPair::generate().unwrap();
    let mut other = rcgen::CertificateParams::new(Vec::new()).unwrap();
    other.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let other = other.self_signed(&other_key).unwrap();
    let write = |name: &str, text: String| {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        give_to_server(&path);
    };
    write("ca.pem", authority_certificate.pem());
    write("other.pem", other.pem());
    write("server.pem", server.pem());
    write("server.key", key.serialize_pem());
}

#[test]
fn tls_trusts_whom_the_address_says() {
    let mut server = PostgresServer::start();
    server.go_down();
    certificates(server.folder());
    let file = |name: &str| server.folder().join(name).display().to_string();
    let (cert, key) = (format!("ssl_cert_file={}", file("server.pem")), format!("ssl_key_file={}", file("server.key")));
    let (ca, other) = (file("ca.pem"), file("other.pem"));
    server.set(&["ssl=on", &cert, &key]);
    server.go_up();
    let by_name = |query: &str| server.tcp_url(query).replace("127.0.0.1", "localhost");
    let encrypted = |url: &str| {
        let store = open(url).map_err(|error| error.to_string())?;
        wait(store.ping()).unwrap();
        let sql = "SELECT bool_and(ssl)::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'mangahub'";
        Ok::<_, String>(server.query(sql).concat())
    };
    assert_eq!(encrypted(&by_name("sslmode=disable")), Ok("false".into()));
    assert_eq!(encrypted(&by_name("sslmode=prefer")), Ok("true".into()));
    assert_eq!(encrypted(&by_name("sslmode=require")), Ok("true".into()));
    assert_eq!(encrypted(&by_name(&format!("sslmode=verify-full&sslrootcert={ca}"))), Ok("true".into()));
    assert_eq!(encrypted(&server.tcp_url(&format!("sslmode=verify-ca&sslrootcert={ca}"))), Ok("true".into()));
    for refused in [
        server.tcp_url(&format!("sslmode=verify-full&sslrootcert={ca}")),
        by_name(&format!("sslmode=verify-full&sslrootcert={other}")),
        by_name(&format!("sslmode=verify-ca&sslrootcert={other}")),
        by_name(&format!("sslmode=require&sslrootcert={other}")),
        by_name("sslmode=verify-full"),
    ] {
        let error = encrypted(&refused).unwrap_err();
        assert!(error.to_lowercase().contains("certificate"), "{refused}: {error}");
    }
}

#[test]
fn a_pooler_in_transaction_mode_may_stand_between() {
    let server = PostgresServer::start();
    let pooler = Pooler::start(&server);
    // Two nodes behind one pooler, all of their connections at once over three of the server's.
    let stores = [open(&pooler.url()).unwrap(), open(&pooler.url()).unwrap()];
    std::thread::scope(|scope| {
        for (node, store) in stores.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..30 {
                    let number = 1 + 2 * round + node as u64;
                    let stored = store.apply(Batch { journal: JournalId([node as u8; 16]), ..batch(number, 60) });
                    let made = store.create_user(new_user(number));
                    let loads: Vec<_> = (0..10).map(|_| store.load_user(new_user(number).id)).collect();
                    wait(stored).unwrap();
                    wait(made).unwrap();
                    for load in loads {
                        wait(load).unwrap();
                    }
                    assert!(wait(store.load_user(new_user(number).id)).unwrap().is_some());
                }
            });
        }
    });
    assert_eq!(wait(stores[0].count_users()).unwrap(), 60);
    assert_eq!(server.query("SELECT DISTINCT last_seq FROM devices"), ["60"]);
    assert_eq!(server.query("SELECT min(lsn), max(lsn) FROM journal_cursor"), ["59|60"]);
}
