//! Backups of real servers: whatever was acknowledged before `backup create` began is there after `backup restore`, under load,
//! after a crash, from one kind of store into the other; what cannot be restored changes nothing.

mod ledger;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use proto::MangaId;
use serde_json::json;

use crate::support::postgres::{POOL, Pooler, PostgresServer};
use crate::support::{Finished, Launch, PASSWORD, Reader, Server, eventually, mangahub, on_disk};

const READERS: usize = 3;

/// Runs a command of the command line on any data folder.
fn cli(data_dir: &Path, database: Option<&str>, arguments: &[&str]) -> Finished {
    let mut command = mangahub();
    command.arg("--data-dir").arg(data_dir).args(arguments);
    if let Some(database) = database {
        command.env("DATABASE_URL", database);
    }
    Finished::run(&mut command)
}

fn launch(database: Option<&str>) -> Launch {
    let launch = Launch::new().set("limits.requests_per_s", "1000000").set("limits.requests_burst", "1000000");
    match database {
        Some(database) => launch.variable("DATABASE_URL", database),
        None => launch,
    }
}

/// People who read on and on, and what each was last acknowledged.
struct Load {
    readers: Vec<Reader>,
    /// A session that was ended before the backup.
    ended: Reader,
    series: Vec<MangaId>,
    acknowledged: [AtomicU32; READERS],
    done: AtomicBool,
}

impl Load {
    fn new(server: &Server) -> Self {
        let readers: Vec<Reader> =
            (0..READERS).map(|number| Reader::register(server, &format!("reader-{number}"))).collect();
        let slugs = ["berserk", "one-piece", "vinland-saga"];
        let series = slugs.iter().map(|slug| readers[0].series(server, slug)).collect();
        let ended = Reader::sign_in(server, "reader-0");
        let end = json!({"refresh_token": ended.refresh_token});
        server.request("POST", "/auth/revoke").json(&end).send().expect(200);
        Self { readers, ended, series, acknowledged: Default::default(), done: AtomicBool::new(false) }
    }

    fn acknowledged(&self) -> Vec<u32> {
        self.acknowledged.iter().map(|page| page.load(Ordering::SeqCst)).collect()
    }

    /// Reads on while `what` runs.
    fn during<T>(&self, server: &Server, what: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            for at in 0..READERS {
                scope.spawn(move || {
                    for page in 1.. {
                        if self.done.load(Ordering::SeqCst) {
                            return;
                        }
                        let body = json!({"chapter": 1, "page": page});
                        self.readers[at].put_progress(server, self.series[at], &body).expect(200);
                        self.acknowledged[at].store(page, Ordering::SeqCst);
                    }
                });
            }
            // Ends the load however this ends.
            let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(what));
            self.done.store(true, Ordering::SeqCst);
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn wait_past(&self, page: u32) -> Vec<u32> {
        eventually("updates are acknowledged", || {
            let now = self.acknowledged();
            now.iter().all(|acknowledged| *acknowledged > page).then_some(now)
        })
    }

    /// Everything of `ledger` is there, and people are who they were.
    #[track_caller]
    fn is_all_there(&self, server: &Server, ledger: &[u32]) {
        server.request("GET", "/api/library").bearer(&self.ended.token).send().expect(401);
        for (at, reader) in self.readers.iter().enumerate() {
            // With the token of before: the secret came along.
            let page = reader.progress(server, self.series[at])["page"].as_u64().unwrap();
            assert!(page >= u64::from(ledger[at]), "reader {at}: page {page}, and {} was acknowledged", ledger[at]);
            let body = json!({"chapter": 1, "page": page + 1});
            reader.put_progress(server, self.series[at], &body).expect(200);
            assert_eq!(reader.progress(server, self.series[at])["page"], json!(page + 1));
            let refresh = json!({"refresh_token": reader.refresh_token});
            server.request("POST", "/auth/refresh").json(&refresh).send().expect(200);
        }
    }
}

/// A server that is loaded, backed up meanwhile, and killed: the file, and what had been acknowledged before.
fn backed_up_under_load(database: Option<&str>, folder: &Path) -> (PathBuf, Load, Vec<u32>) {
    let server = launch(database).start();
    let load = Load::new(&server);
    let file = folder.join("backup");
    let (ledger, saved) = load.during(&server, || {
        let ledger = load.wait_past(30);
        let data_dir = server.launch().data_dir();
        let saved = cli(&data_dir, database, &["--output", "json", "backup", "create", file.to_str().unwrap()]).done();
        // The load went on all the time.
        load.wait_past(*load.acknowledged().iter().max().unwrap());
        (ledger, saved.json())
    });
    assert_eq!((&saved["tables"]["users"], &saved["tables"]["user_progress"]), (&json!(3), &json!(3)), "{saved}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    server.kill();
    (file, load, ledger)
}

/// Restores into a new place and starts a server there.
fn restored(file: &Path, database: Option<&str>) -> Server {
    let launch = launch(database);
    cli(&launch.data_dir(), database, &["backup", "restore", file.to_str().unwrap()]).done();
    let server = launch.start();
    let data_dir = server.launch().data_dir();
    cli(&data_dir, database, &["db", "check"]).done();
    server
}

#[test]
fn a_backup_made_under_load_has_everything_that_was_acknowledged_before_it() {
    let folder = on_disk();
    let (file, load, ledger) = backed_up_under_load(None, folder.path());
    let server = restored(&file, None);
    load.is_all_there(&server, &ledger);
    // Each restored folder is a node of its own: a resume token of the time that was lost names another.
    let identity = |server: &Server| fs::read_to_string(server.launch().data_dir().join("folder-id")).unwrap();
    assert_ne!(identity(&server), identity(&restored(&file, None)));
    // Restored again, after everybody was told to sign in again.
    let launch = launch(None);
    cli(&launch.data_dir(), None, &["backup", "restore", "--end-sessions", file.to_str().unwrap()]).done();
    let server = launch.start();
    let reader = &load.readers[0];
    server.request("GET", "/api/library").bearer(&reader.token).send().expect(401);
    let refresh = json!({"refresh_token": reader.refresh_token});
    server.request("POST", "/auth/refresh").json(&refresh).send().expect(401);
    let again = Reader::sign_in(&server, "reader-0");
    assert!(again.progress(&server, load.series[0])["page"].as_u64().unwrap() >= u64::from(ledger[0]));
}

#[test]
fn a_killed_servers_folder_is_backed_up_with_what_only_its_journal_has() {
    let server = launch(None).start();
    let load = Load::new(&server);
    load.during(&server, || load.wait_past(20));
    let ledger = load.acknowledged();
    let killed = server.kill();
    let folder = on_disk();
    let file = folder.path().join("backup");
    cli(&killed.data_dir(), None, &["backup", "create", file.to_str().unwrap()]).done();
    load.is_all_there(&restored(&file, None), &ledger);
}

#[test]
fn a_database_is_restored_into_another_and_into_a_folder() {
    let folder = on_disk();
    let (old, new) = (PostgresServer::start(), PostgresServer::start());
    // Saved and restored through poolers, which give every transaction another connection.
    let (out, into) = (Pooler::start(&old), Pooler::start(&new));
    let (file, load, ledger) = backed_up_under_load(Some(&out.url()), folder.path());
    let other = on_disk();
    let refused = cli(&other.path().join("data"), Some(&old.url()), &["backup", "restore", file.to_str().unwrap()]);
    assert!(refused.code() == 2 && refused.stderr.contains("not empty"), "{refused:#?}");
    load.is_all_there(&restored(&file, Some(&into.url())), &ledger);
    // Everybody was refreshed once, there; here their tokens are what they were.
    load.is_all_there(&restored(&file, None), &ledger);
}

#[test]
fn what_others_left_on_a_poolers_connections_is_in_no_backups_way() {
    let postgres = PostgresServer::start();
    let pooler = Pooler::start(&postgres);
    let server = launch(Some(&pooler.url())).start();
    Reader::register(&server, "someone");
    // A statement with the name that the driver's first one has, on every connection of the pool: all are in use at a time.
    let leave = "BEGIN; PREPARE s0 AS SELECT 1; SELECT pg_sleep(0.5); COMMIT";
    let together = |work: &(dyn Fn(usize) + Sync)| {
        std::thread::scope(|scope| (0..POOL).for_each(|at| drop(scope.spawn(move || work(at)))));
    };
    together(&|_| postgres.query_at(&pooler.url(), leave));
    let folder = on_disk();
    let file = |at: usize| folder.path().join(at.to_string()).to_str().unwrap().to_owned();
    let data_dir = server.launch().data_dir();
    // A command that was not told of the database looks into no other store, and makes none.
    let refused = server.cli(&["backup", "create", &file(0)]);
    assert!(refused.code() == 3 && refused.stderr.contains("DATABASE_URL"), "{refused:#?}");
    assert!(!data_dir.join("mangahub.db").exists());
    together(&|at| drop(cli(&data_dir, Some(&pooler.url()), &["backup", "create", &file(at)]).done()));
    (0..POOL).for_each(|at| drop(server.cli(&["backup", "check", &file(at)]).done()));
}

#[test]
fn what_cannot_be_restored_changes_nothing() {
    let server = Server::start();
    Reader::register(&server, "someone");
    let folder = on_disk();
    let file = folder.path().join("backup");
    let name = file.to_str().unwrap();
    server.cli(&["backup", "create", name]).done();
    let twice = server.cli(&["backup", "create", name]);
    assert!(twice.code() == 2 && twice.stderr.contains("exists already"), "{twice:#?}");
    let running = server.cli(&["backup", "restore", "--replace", name]);
    assert!(running.code() == 5 && running.stderr.contains("another server uses"), "{running:#?}");
    server.cli(&["backup", "check", name]).done();

    let (_, launch) = server.stop();
    let there = cli(&launch.data_dir(), None, &["backup", "restore", name]);
    assert!(there.code() == 2 && there.stderr.contains("--replace"), "{there:#?}");
    let whole = fs::read(&file).unwrap();
    let mut broken = whole.clone();
    broken[whole.len() / 2] ^= 1;
    let data_dir = folder.path().join("data");
    let nothing = cli(&data_dir, None, &["backup", "create", folder.path().join("nothing").to_str().unwrap()]);
    assert!(nothing.code() == 5 && nothing.stderr.contains("right data folder"), "{nothing:#?}");
    for (case, bytes) in [("damaged", &broken[..]), ("cut off", &whole[..whole.len() - 100])] {
        fs::write(&file, bytes).unwrap();
        for arguments in [&["backup", "restore", name][..], &["backup", "check", name]] {
            let refused = cli(&data_dir, None, arguments);
            assert!(refused.code() == 6 && refused.stderr.contains("Nothing was changed"), "{case}: {refused:#?}");
        }
        assert!(!data_dir.exists(), "{case}");
    }
    // What is there goes aside when that is meant, and comes back when it is moved back.
    fs::write(&file, &whole).unwrap();
    let replaced = cli(&launch.data_dir(), None, &["--output", "json", "backup", "restore", "--replace", name]).done();
    let aside = PathBuf::from(replaced.json()["replaced"].as_str().unwrap());
    assert!(aside.join("mangahub.db").exists() && aside.join("journal").exists());
    let server = launch.start();
    let body = json!({"username": "someone", "password": PASSWORD});
    server.request("POST", "/auth/login").json(&body).send().expect(200);
}

#[test]
fn a_full_disk_leaves_no_file() {
    let server = Server::start();
    let folder = on_disk();
    let file = folder.path().join("backup");
    // A file may have 4 KiB, and the signal that comes with reaching that is ignored, as a full disk sends none.
    let mut command = Command::new("bash");
    command.args(["-c", r#"trap "" XFSZ; ulimit -f 4; exec "$@""#, "bash", env!("CARGO_BIN_EXE_mangahub")]);
    command.env_clear().env("HOME", "/nonexistent").arg("--data-dir").arg(server.launch().data_dir());
    let failed = Finished::run(command.args(["backup", "create"]).arg(&file));
    assert!(failed.code() == 1 && failed.stderr.contains("cannot write"), "{failed:#?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}
