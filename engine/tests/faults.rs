//! A failing disk under the whole engine: a failed or short commit ends the process without an answer too many, and a restart
//! replays; a slow one makes writers wait, not readers; a full one is busy and heals, also when the disk is really full.

// In a test, a failed unwrap is the failure.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::process::{Command as Process, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Server, attach, chapter, config, grant, outgoing, until};
use engine::boot::Seams;
use engine::{Command, Fault, Outgoing, Query, SetProgress, View};
use proto::{Code, MangaId};
use storage::journal::fault::{FaultEngine, PowerLoss, WriteFault};

const CHILD: &str = "MANGAHUB_TEST_CHILD";

/// What `sysexits.h` calls EX_IOERR: the journal could not be written.
const EXIT_JOURNAL_FAILED: i32 = 74;

fn on(disk: &FaultEngine) -> Seams {
    Seams { journal: Some(Arc::new(disk.clone())), ..Seams::default() }
}

/// One test of this binary alone, as a process of its own behind `launcher`, in a folder that outlives it.
fn run_in_child(launcher: &[&str], test: &str, folder: &std::path::Path) -> Output {
    let own = std::env::current_exe().unwrap();
    let words: Vec<_> = launcher.iter().map(std::ffi::OsStr::new).chain([own.as_os_str()]).collect();
    let mut child = Process::new(words[0]);
    child.args(&words[1..]).args([test, "--exact", "--nocapture"]).env(CHILD, folder).output().unwrap()
}

fn child_folder() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD).map(Into::into)
}

/// The child: acknowledged updates are printed, then the disk fails under the next commit.
fn serve_until_the_disk_fails(folder: &std::path::Path, fault: WriteFault) -> ! {
    let disk = FaultEngine::default();
    let server = Server::start(config(folder, 2), on(&disk));
    let (tokens, series) = server.seed(4, 2);
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").unwrap();
        out.flush().unwrap();
    };
    // The first word of a line may follow the test harness's own.
    tokens.iter().for_each(|token| say(format!("\ntoken {token}")));
    say(format!("series {}", series[0]));
    for round in 1..=5 {
        for (at, token) in tokens.iter().enumerate() {
            server.set(at % 2, token, SetProgress::to(series[0], chapter(round))).unwrap();
            say(format!("acknowledged {at} {round}"));
        }
    }
    disk.fail_after(0, fault);
    let (token, manga) = (tokens[0].clone(), series[0]);
    let after = server.begin(server.owner(&token), move |engine| async move {
        let attachment = attach(&engine, &token).await;
        let _ = outgoing(&attachment, 0).await;
        attachment.submit(1, SetProgress::to(manga, chapter(6))).unwrap();
        let grant = grant(&engine, &token).await;
        let read = engine.query(&grant, Query::Progress(manga)).await;
        (read, outgoing(&attachment, 1).await)
    });
    // Either it never answers, because the process has ended, or what it says here fails the test.
    let said = after.recv_timeout(common::PATIENCE);
    say(format!("answered {said:?}"));
    std::process::exit(0);
}

#[track_caller]
fn a_commit_that_meets(fault: WriteFault, test: &str) {
    if let Some(folder) = child_folder() {
        serve_until_the_disk_fails(&folder, fault);
    }
    let folder = tempfile::tempdir().unwrap();
    let output = run_in_child(&[], test, folder.path());
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(EXIT_JOURNAL_FAILED), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("answered"), "{said}");
    let words = |prefix: &'static str| said.lines().filter_map(move |line| line.strip_prefix(prefix));
    let tokens: Vec<String> = words("token ").map(str::to_owned).collect();
    let manga = MangaId(words("series ").next().unwrap().parse().unwrap());
    assert_eq!((tokens.len(), words("acknowledged ").count()), (4, 20), "{said}");
    let server = Server::start(config(folder.path(), 1), Seams::default());
    for token in &tokens {
        assert_eq!(server.get(0, token, manga).unwrap().unwrap().chapter, chapter(5), "exactly what was acknowledged");
    }
    server.set(0, &tokens[0], SetProgress::to(manga, chapter(7))).unwrap();
}

#[test]
fn a_commit_that_meets_eio_ends_the_process_unanswered_and_a_restart_replays() {
    a_commit_that_meets(WriteFault::Error, "a_commit_that_meets_eio_ends_the_process_unanswered_and_a_restart_replays");
}

#[test]
fn a_commit_that_is_cut_short_ends_the_process_unanswered_and_a_restart_replays() {
    a_commit_that_meets(
        WriteFault::Short,
        "a_commit_that_is_cut_short_ends_the_process_unanswered_and_a_restart_replays",
    );
}

#[test]
fn a_commit_that_is_torn_ends_the_process_unanswered_and_a_restart_replays() {
    a_commit_that_meets(WriteFault::Torn(0), "a_commit_that_is_torn_ends_the_process_unanswered_and_a_restart_replays");
}

/// Twenty acknowledged updates that the store does not get, a power failure, and what a restart has of them.
fn acknowledged_then_power_failure(disk: &FaultEngine) -> Result<usize, String> {
    let folder = tempfile::tempdir().unwrap();
    let store = common::store_seam::Switched::default();
    let seams = Seams { store: Some(store.seam()), ..on(disk) };
    let mut impatient = config(folder.path(), 2);
    impatient.limits.drain = Duration::from_millis(500);
    let server = Server::start(impatient, seams);
    let (tokens, series) = server.seed(20, 1);
    store.set_holds(true);
    for (at, token) in tokens.iter().enumerate() {
        server.set(at % 2, token, SetProgress::to(series[0], chapter(3))).unwrap();
    }
    server.stop();
    disk.lose_power(PowerLoss::Dropped).unwrap();
    let server = Server::try_start(config(folder.path(), 1), Seams::default()).map_err(|error| error.to_string())?;
    Ok(tokens.iter().filter(|token| server.get(0, token, series[0]).unwrap().is_some()).count())
}

#[test]
fn acknowledged_updates_survive_a_power_failure_and_without_o_dsync_they_do_not() {
    assert_eq!(acknowledged_then_power_failure(&FaultEngine::default()), Ok(20));
    // The negative control: the same, the flag taken out. Refused to start would do as well as lost.
    let found = acknowledged_then_power_failure(&FaultEngine::without_flush());
    assert_ne!(found, Ok(20), "the fault layer does not notice a missing flush");
}

#[test]
fn a_slow_flush_delays_acks_and_no_reads_and_heals() {
    let soak = std::env::var_os("MANGAHUB_SOAK").is_some_and(|value| value == "1");
    let folder = tempfile::tempdir().unwrap();
    let disk = FaultEngine::default();
    let server = Server::start(config(folder.path(), 1), on(&disk));
    let (tokens, series) = server.seed(2, 1);
    let manga = series[0];
    server.set(0, &tokens[1], SetProgress::to(manga, chapter(9))).unwrap();
    for delay_ms in if soak { [100, 1_000, 10_000] } else { [100, 300, 1_000] } {
        let delay = Duration::from_millis(delay_ms);
        disk.set_delay(delay);
        let (writer, reader) = (tokens[0].clone(), tokens[1].clone());
        let began = Instant::now();
        let (acked_after, reads) = server.on(0, move |engine| async move {
            let attachment = attach(&engine, &writer).await;
            let update = SetProgress { force: true, ..SetProgress::to(manga, chapter(1)) };
            attachment.submit(1, update).unwrap();
            let grant = grant(&engine, &reader).await;
            let (mut reads, mut out) = (0, Vec::new());
            while !attachment.try_next(&mut out) {
                // Somebody else's state is durable: read while the flush is under way.
                let View::Progress(Some(state)) = engine.query(&grant, Query::Progress(manga)).await.unwrap() else {
                    panic!("gone")
                };
                assert_eq!(state.chapter, chapter(9));
                reads += 1;
                runtime::sleep(Duration::from_millis(1)).await;
            }
            assert!(matches!(out[..], [Outgoing::Ack { seq: 1, .. }]), "{out:?}");
            (began.elapsed(), reads)
        });
        assert!(acked_after >= delay, "acknowledged after {acked_after:?}, before the flush of {delay:?} had ended");
        assert!(reads > 3, "only {reads} reads in {acked_after:?}: they waited for the flush");
    }
    disk.set_delay(Duration::ZERO);
    server.set(0, &tokens[0], SetProgress { force: true, ..SetProgress::to(manga, chapter(2)) }).unwrap();
}

/// Updates until the journal refuses or `updates_max` were taken; answers how many were acknowledged, and the refusal.
fn write_until_refused(server: &Server, token: &str, manga: MangaId, updates_max: u64) -> (u64, Option<Fault>) {
    let token = token.to_owned();
    server.on(0, move |engine| async move {
        let grant = grant(&engine, &token).await;
        let mut acknowledged = 0;
        while acknowledged < updates_max {
            let asks: Vec<_> = (0..64)
                .map(|at| {
                    let update = SetProgress {
                        force: true,
                        ..SetProgress::to(manga, chapter((acknowledged + at) as u32 % 900))
                    };
                    let (engine, grant) = (engine.clone(), grant.clone());
                    runtime::spawn(async move { engine.command(&grant, Command::SetProgress(update)).await })
                })
                .collect();
            let mut refused = None;
            for ask in asks {
                match ask.await.unwrap() {
                    Ok(_) => acknowledged += 1,
                    Err(fault) => refused = refused.or(Some(fault)),
                }
            }
            if refused.is_some() {
                return (acknowledged, refused);
            }
        }
        (acknowledged, None)
    })
}

/// The child of the test below, on a file system of 64 MiB of its own.
fn fill_the_disk(folder: &std::path::Path) {
    let mut small = config(folder, 1);
    small.limits.journal_segment_bytes = 1 << 20;
    let server = Server::start(small, Seams::default());
    let (tokens, series) = server.seed(1, 1);
    let (token, manga) = (tokens[0].as_str(), series[0]);
    assert_eq!(write_until_refused(&server, token, manga, 64).1, None, "it works while there is room");
    let filler = folder.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let full = loop {
        if let Err(error) = file.write_all(&[1; 4_096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // Two segments are there; they hold less than this.
    let (acknowledged, refused) = write_until_refused(&server, token, manga, 1_000_000);
    let refused = refused.expect("a full disk is met");
    assert_eq!(refused.code, Code::Busy, "{refused:?}");
    assert!(acknowledged > 0, "what was prepared is used up first");
    until("health says so", || server.on(0, |engine| async move { engine.health().degraded }));
    assert!(server.get(0, token, manga).unwrap().is_some(), "reads go on");
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    until("it heals", || write_until_refused(&server, token, manga, 64).1.is_none());
    until("health is well again", || server.on(0, |engine| async move { !engine.health().degraded }));
    let before = server.get(0, token, manga).unwrap().unwrap();
    server.stop();
    let mut small = config(folder, 1);
    small.limits.journal_segment_bytes = 1 << 20;
    let server = Server::start(small, Seams::default());
    assert_eq!(server.get(0, token, manga).unwrap().unwrap().key, before.key);
}

#[test]
fn a_disk_that_is_really_full_is_busy_and_heals() {
    if let Some(folder) = child_folder() {
        return fill_the_disk(&folder);
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size=64m tmpfs {}", folder.path().display());
    let allowed = Process::new("unshare").args(["-m", "sh", "-c", &mount]).output();
    if !allowed.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a file system of its own needs the right to mount: {allowed:?}");
        return;
    }
    let script = format!("{mount} && exec \"$@\"");
    let test = "a_disk_that_is_really_full_is_busy_and_heals";
    let output = run_in_child(&["unshare", "-m", "sh", "-c", &script, "sh"], test, folder.path());
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}
