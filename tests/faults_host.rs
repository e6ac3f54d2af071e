//! What the host does to a server: a clock that steps, limits at their lowest, a folder that cannot be written, io_uring
//! refused. Each is explained, none loses anything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use loadtest::campaign::{self, Campaign};
use serde_json::{Value, json};

use crate::support::{Launch, Reader, Request, Server, eventually, mangahub_through, on_disk};

/// Where Debian's `faketime` package, and others, put the library that a faked clock needs.
const FAKETIME: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];

const HOUR_S: i64 = 3_600;
const DAY_S: i64 = 24 * HOUR_S;

/// The wall clock of a server: offsets from the real one, changed by writing a file. Only the wall clock: a step does not
/// touch the monotonic one.
struct Clock {
    folder: tempfile::TempDir,
    library: &'static str,
}

impl Clock {
    /// None, with the reason printed, where the library is missing.
    fn of_its_own() -> Option<Self> {
        let library = FAKETIME.into_iter().find(|path| Path::new(path).exists());
        if library.is_none() {
            eprintln!(
                "skipped: a clock of the server's own needs libfaketime (Debian and Ubuntu: apt install faketime)"
            );
        }
        let clock = Self { folder: on_disk(), library: library? };
        clock.step_to(0);
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// The server's clock is this far from the real one.
    fn step_to(&self, offset_s: i64) {
        // Replaced as a whole: it is read at every look at the clock.
        let draft = self.folder.path().join("draft");
        fs::write(&draft, format!("{offset_s:+}\n")).unwrap();
        fs::rename(draft, self.file()).unwrap();
    }

    fn worn_by(&self, launch: Launch) -> Launch {
        launch
            .variable("LD_PRELOAD", self.library)
            .variable("FAKETIME_TIMESTAMP_FILE", self.file().to_str().unwrap())
            .variable("FAKETIME_NO_CACHE", "1")
            .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .variable("DONT_FAKE_MONOTONIC", "1")
    }
}

/// Sets progress, and answers the version that the server gave it.
#[track_caller]
fn versions_go_on(server: &Server, reader: &Reader, manga: proto::MangaId, chapter: u32, last: &mut u64) {
    let answer = reader.put_progress(server, manga, &json!({"chapter": chapter})).expect(200).json();
    let version = answer["version"].as_u64().unwrap_or_else(|| panic!("no version: {answer}"));
    assert!(version > *last, "version {version} after {last}: it went back");
    *last = version;
    let there = reader.progress(server, manga);
    assert_eq!((&there["chapter"], &there["version"]), (&json!(chapter), &json!(version)), "an update was lost");
}

#[test]
fn versions_never_go_back_when_the_clock_steps_during_a_run() {
    let Some(clock) = Clock::of_its_own() else { return };
    let server = clock.worn_by(Launch::new()).start();
    let reader = Reader::register(&server, "stepper");
    let manga = reader.series(&server, "berserk");
    let (mut last, mut chapter) = (0, 0);
    let mut ahead = 0;
    for offset_s in [0, HOUR_S, 0, -HOUR_S, DAY_S, 0, -DAY_S, 0] {
        clock.step_to(offset_s);
        // A day ahead, yesterday's token has run out, as it should.
        let reader = Reader::sign_in(&server, "stepper");
        for _ in 0..3 {
            chapter += 1;
            let before = last;
            versions_go_on(&server, &reader, manga, chapter, &mut last);
            // A version's milliseconds stand above 12 bits of counter.
            ahead = ahead.max((last >> 12).saturating_sub(before >> 12) * u64::from(before > 0));
        }
        server.request("GET", "/health/ready").send().expect(200);
    }
    assert!(ahead > 20 * HOUR_S as u64 * 1_000, "the server's clock did not step: {ahead} ms");
    let (status, launch) = server.stop();
    assert!(status.success(), "{}", launch.stderr());
    let server = launch.start();
    versions_go_on(&server, &Reader::sign_in(&server, "stepper"), manga, chapter + 1, &mut last);
}

#[test]
fn versions_never_go_back_when_the_clock_steps_between_runs() {
    let Some(clock) = Clock::of_its_own() else { return };
    let mut server = clock.worn_by(Launch::new()).start();
    let mut reader = Reader::register(&server, "sleeper");
    let manga = reader.series(&server, "berserk");
    let mut last = 0;
    for (chapter, offset_s) in (1..).zip([0, HOUR_S, -HOUR_S, DAY_S, -DAY_S, 0]) {
        versions_go_on(&server, &reader, manga, chapter, &mut last);
        // Killed and stopped in turn: what the journal alone knows, and what the checkpoint does.
        let launch = if chapter % 2 == 0 { server.kill() } else { server.stop().1 };
        clock.step_to(offset_s);
        server = launch.start();
        reader = Reader::sign_in(&server, "sleeper");
        assert_eq!(reader.progress(&server, manga)["chapter"], json!(chapter), "after a step to {offset_s} s");
    }
    versions_go_on(&server, &reader, manga, 90, &mut last);
}

#[test]
fn a_log_that_cannot_be_written_costs_nobody_anything() {
    let full = ["sh", "-c", "exec \"$@\" >/dev/full 2>&1", "sh"];
    let server = Launch::new().through(&full).variable("RUST_LOG", "debug").start();
    let reader = Reader::register(&server, "unlogged");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 4})).expect(200);
    assert_eq!(reader.progress(&server, manga)["chapter"], json!(4));
    let metrics = Request::new(server.ports.metrics, "GET", "/metrics").send().expect(200).text;
    assert!(metrics.contains("\nmangahub_task_panics_total 0\n"), "{metrics}");
    let (status, _) = server.stop();
    assert!(status.success(), "{status}");
}

/// A launcher in front of the binary, as a program of its own for harnesses that start one.
fn wrapper(folder: &Path, words: &[&str]) -> PathBuf {
    let path = folder.join("mangahub-wrapped");
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    fs::write(&path, format!("#!/bin/sh\nexec {} '{}' \"$@\"\n", words.join(" "), env!("CARGO_BIN_EXE_mangahub")))
        .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

const REFUSE_IO_URING: [&str; 3] = [
    "python3",
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/under_seccomp.py"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/no_io_uring.json"),
];

#[test]
fn io_uring_refused_by_seccomp_falls_back_explains_itself_and_survives_kill_nine() {
    let folder = on_disk();
    let binary = wrapper(folder.path(), &REFUSE_IO_URING);
    let launch = loadtest::server::Launch::for_load(binary, folder.path().join("data"));
    let log = launch.log();
    let campaign = Campaign {
        cycles: 3,
        users: 4,
        series: 6,
        window: 64,
        load_max: Duration::from_millis(400),
        shards: [1, 2],
        pause: Duration::from_millis(200),
        pause_every: 4,
        seed: 0x5ecc_0b1d,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, campaign::run(launch, &campaign, None));
    let outcome = outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(outcome.recovered > 0, "{outcome:?}");
    let said = fs::read_to_string(log).unwrap();
    let banner = said.lines().find(|line| line.trim_start().starts_with("io ")).unwrap_or_else(|| panic!("{said}"));
    assert!(banner.contains("epoll") && banner.contains("seccomp"), "{banner}");
}

/// A folder that was written with io_uring goes on without it: a deployment whose filter changed.
#[test]
fn a_folder_goes_on_when_a_restart_finds_io_uring_refused() {
    let server = Server::start();
    let reader = Reader::register(&server, "deployed");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 4})).expect(200);
    let launch = server.kill();
    let server = launch.through(&REFUSE_IO_URING).start();
    assert!(server.banner().contains("epoll, because"), "{}", server.banner());
    assert_eq!(reader.progress(&server, manga)["chapter"], json!(4));
    reader.put_progress(&server, manga, &json!({"chapter": 5})).expect(200);
    let server = server.kill().through(&[]).start();
    assert_eq!(reader.progress(&server, manga)["chapter"], json!(5));
}

#[test]
fn the_lowest_memlock_changes_nothing_that_is_not_explained() {
    let server = Launch::new().through(&["prlimit", "--memlock=0:0"]).start();
    let reader = Reader::register(&server, "unlocked");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 4})).expect(200);
    let banner = server.banner();
    assert!(
        banner.contains("io_uring (") || banner.contains("RLIMIT_MEMLOCK") || banner.contains("because"),
        "{banner}"
    );
    assert_eq!(reader.progress(&server.kill().start(), manga)["chapter"], json!(4));
}

#[test]
fn few_descriptors_are_refused_with_a_number_or_serve_as_many_as_they_say() {
    let mut served = 0;
    for descriptors in [8, 16, 32, 64, 96, 128, 256] {
        let limit = format!("--nofile={descriptors}:{descriptors}");
        let launch = Launch::new().through(&["prlimit", &limit]).argument("--output=json");
        let server = match launch.try_start() {
            Ok(server) => server,
            Err((status, launch)) => {
                let said = launch.stderr();
                assert!(status.code().is_some_and(|code| code != 0), "{descriptors}: {status} {said}");
                assert!(!said.contains("panicked") && said.contains("ulimit -n"), "{descriptors} descriptors: {said}");
                continue;
            }
        };
        served += 1;
        let banner: Value = serde_json::from_str(server.banner().trim()).unwrap();
        let promised = banner["connections_max"].as_u64().unwrap();
        let reader = Reader::register(&server, "frugal");
        let manga = reader.series(&server, "berserk");
        // Everybody comes, and more than may: those inside are served, and when they have gone the next ones are.
        let crowd: Vec<_> =
            (0..promised + 32).filter_map(|_| std::net::TcpStream::connect(server.ports.tcp_sync).ok()).collect();
        drop(crowd);
        eventually("service after the crowd has gone", || {
            server.request("GET", "/health/ready").try_send().ok().filter(|answer| answer.status == 200)
        });
        reader.put_progress(&server, manga, &json!({"chapter": 4})).expect(200);
        let launch = server.kill().through(&[]);
        assert_eq!(reader.progress(&launch.start(), manga)["chapter"], json!(4));
    }
    assert!(served > 0, "256 descriptors are enough for somebody");
}

#[test]
fn a_folder_that_cannot_be_written_is_explained() {
    let (_, launch) = Server::start().stop();
    let data = launch.data_dir();
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let through: &[&str] = if is_root { &nobody } else { &[] };
    // Somebody who may look into the folder, and not write there.
    for entry in fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        let mode = if path.is_dir() { 0o555 } else { 0o444 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(&data, fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(data.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let launch = launch.through(through);
    let words: Vec<String> = through.iter().map(|word| (*word).to_owned()).collect();
    let may_run = mangahub_through(&words).arg("version").output();
    if !may_run.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: nobody may not run {}: {may_run:?}", env!("CARGO_BIN_EXE_mangahub"));
        return;
    }
    let refused = launch.refused();
    assert_eq!(refused.code(), 5, "{refused:#?}");
    for word in ["cannot be written to", data.to_str().unwrap(), "who owns it"] {
        assert!(refused.stderr.contains(word), "no {word:?} in {}", refused.stderr);
    }
}
