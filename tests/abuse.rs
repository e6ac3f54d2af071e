//! What the server withstands, with the real binary and the scenarios of the load harness (`loadtest abuse`): short here, at full
//! length in the soak. Both hold what must be so on any machine: who is served, what is refused and how, what is bounded. How long
//! anything takes is printed, not judged.

use std::sync::Arc;
use std::time::Duration;

use loadtest::abuse::flood::Kind;
use loadtest::abuse::{Beside, Target, Turn, Turns, flood, in_turns, logins, never_reads, overload, silent};
use loadtest::server::{Launch, Server};
use tempfile::TempDir;

use crate::support::{self, eventually, is_soak, on_disk};

/// A server with these settings, and its users; the first one is ordinary.
struct Place {
    target: Target,
    server: Server,
    _folder: TempDir,
}

impl Place {
    fn new(users: usize, settings: &[(&str, &str)]) -> Self {
        let folder = on_disk();
        let mut launch = Launch::for_load(env!("CARGO_BIN_EXE_mangahub").into(), folder.path().join("data"));
        launch.settings = vec![("MANGAHUB_LIMITS_CONNECTIONS_PER_ADDRESS".to_owned(), "100000".to_owned())];
        launch.settings.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let server = launch.start().unwrap();
        let tokens = Arc::new(launch.seed(users, 10).unwrap());
        let doors = server.doors;
        let target =
            Target { sync: doors.tcp_sync, http: doors.http, metrics: doors.metrics, pid: server.pid(), tokens };
        Self { target, server, _folder: folder }
    }

    /// Nobody stays behind, nothing has panicked, and it stops in order.
    fn ends_well(self) {
        eventually("every connection is gone", || {
            let open = self.target.metric("mangahub_connections_open", &["door=\"tcp_sync\""]).unwrap();
            (open == 0.0).then_some(())
        });
        assert_eq!(self.target.metric("mangahub_task_panics_total", &[]).unwrap(), 0.0);
        self.server.stop().unwrap();
    }
}

fn turns() -> Turns {
    let (rounds, time) = if is_soak() { (5, Duration::from_secs(5)) } else { (1, Duration::from_millis(500)) };
    Turns { rounds, time, rate: 20.0 }
}

/// The ordinary client was served: every update was acknowledged.
fn was_served(acks: &[Beside]) {
    for beside in acks {
        assert!(beside.acks.samples > 0 && beside.refused.is_empty(), "{}", beside.row());
    }
}

fn block_on<T>(work: impl Future<Output = std::io::Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, work).unwrap()
}

#[test]
fn others_are_served_under_load_of_every_kind_of_flood() {
    // So that a short flood is over the limits, however slow the machine; the ordinary client stays far below them.
    let low = [
        ("MANGAHUB_LIMITS_UPDATES_PER_S", "100"),
        ("MANGAHUB_LIMITS_UPDATES_BURST", "200"),
        ("MANGAHUB_LIMITS_WINDOW_UPDATES", "256"),
        ("MANGAHUB_LIMITS_REQUESTS_PER_S", "10"),
        ("MANGAHUB_LIMITS_REQUESTS_BURST", "20"),
    ];
    let place = Place::new(17, if is_soak() { &[] } else { &low });
    for kind in Kind::ALL {
        let target = &place.target;
        let levels = [1, 10].map(|count| Turn {
            name: format!("{kind:?} from {count}"),
            start: Box::new(move |round, tally| flood::start(target, kind, count, round, tally).map(Some)),
        });
        let acks = in_turns(target, turns(), levels.into()).unwrap();
        was_served(&acks);
        for beside in &acks[1..] {
            let has = |what: &str| beside.load.get(what).is_some_and(|count| *count > 0);
            let refused = match kind {
                Kind::Updates => has("rate_limited"),
                Kind::Overrun => has("bye_rate_limited"),
                Kind::Pings | Kind::Gets => has("answered"),
                Kind::CatchUps => has("busy"),
                Kind::Garbage => has("bye_bad_frame") || has("bye_too_large") || has("closed"),
                Kind::Lines => has("lines"),
                Kind::Http => has("status 429"),
            };
            assert!(refused, "{}", beside.row());
            print!("{}", beside.row());
        }
    }
    place.ends_well();
}

#[test]
fn a_load_of_sign_ins_is_refused_at_once_and_keeps_nobody_waiting() {
    let place = Place::new(2, &[("MANGAHUB_LIMITS_HASH_QUEUE", "4")]);
    let outcome = block_on(logins::run(&place.target, 32, turns()));
    was_served(&outcome.acks);
    let answered = |status: &str| outcome.answers.get(status).map_or(0, |times| times.samples);
    assert!(answered("401") > 0 && answered("503") > 0, "{:?}", outcome.attempts);
    let odd =
        outcome.attempts.keys().find(|what| !["200", "401", "429", "503"].iter().any(|status| what.ends_with(status)));
    assert_eq!(odd, None);
    println!("{}{:?}", outcome.acks[1].row(), outcome.answers);
    place.ends_well();
}

/// Files that this process may have open (proc(5), limits).
fn open_files_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    soft.unwrap().parse().unwrap_or(usize::MAX)
}

#[test]
fn connections_that_never_say_hello_are_closed_and_cost_little_under_load() {
    // As many as this process may open, and no more than are wanted.
    let connections = open_files_max().saturating_sub(300).min(if is_soak() { 10_000 } else { 500 });
    let greeting_ms = if is_soak() { "10000" } else { "2000" };
    let place = Place::new(2, &[("MANGAHUB_LIMITS_GREETING_TIMEOUT_MS", greeting_ms)]);
    for door in [silent::Door::Sync, silent::Door::Http] {
        let outcome = block_on(silent::run(&place.target, door, connections, turns()));
        was_served(&outcome.acks);
        assert_eq!((outcome.closed, outcome.counted), (connections, connections as u64), "{outcome:?}");
        // Few of them say nothing about each.
        assert!(!is_soak() || outcome.bytes_each < 20_000.0, "{outcome:?}");
        println!("{outcome:?}");
    }
    place.ends_well();
}

#[test]
fn readers_that_never_read_are_cut_off_under_load() {
    // Enough announcements to fill what the kernel takes for each of them soon.
    let settings = [
        ("MANGAHUB_LIMITS_UPDATES_PER_S", "1000000"),
        ("MANGAHUB_LIMITS_UPDATES_BURST", "1000000"),
        ("MANGAHUB_LIMITS_WRITE_TIMEOUT_MS", if is_soak() { "10000" } else { "1000" }),
    ];
    let place = Place::new(17, &settings);
    let readers = if is_soak() { 50 } else { 5 };
    let outcome = block_on(never_reads::run(&place.target, readers, 10_000.0, turns()));
    was_served(&outcome.acks);
    assert!(outcome.closed >= 2 * readers as u64, "{outcome:?}");
    // What the server keeps for each is its out-queue, one batch being written, and the reads of a whole library that were asked.
    let most = (outcome.rss_bytes[1].saturating_sub(outcome.rss_bytes[0])) / (2 * readers as u64);
    assert!(most < 8 << 20, "{most} bytes each: {outcome:?}");
    println!("{outcome:?}");
    place.ends_well();
}

#[test]
fn many_times_the_sustained_load_leaves_everybody_a_fair_share() {
    let soak = is_soak();
    let raised = [("MANGAHUB_LIMITS_UPDATES_PER_S", "10000000"), ("MANGAHUB_LIMITS_UPDATES_BURST", "10000000")];
    let place = Place::new(if soak { 200 } else { 20 }, &raised);
    let plan = overload::Plan {
        users: place.target.tokens.users.len(),
        window: 64,
        fill: Duration::from_secs(if soak { 60 } else { 2 }),
        find: Duration::from_secs(if soak { 20 } else { 2 }),
        sustained: None,
        times: 10.0,
        time: Duration::from_secs(if soak { 300 } else { 4 }),
    };
    let outcome = block_on(overload::run(&place.target, plan));
    println!("{:?}", overload::Outcome { timeline: Vec::new(), ..outcome.clone() });
    let odd = outcome.refused.keys().find(|what| !matches!(what.as_str(), "busy" | "rate_limited"));
    assert_eq!(odd, None, "{:?}", outcome.refused);
    assert!(outcome.served[0] > 0 && outcome.least_to_median >= 0.1, "{:?}", outcome.served);
    if soak {
        assert!(outcome.goodput_share >= 0.5, "{} of the sustained rate", outcome.goodput_share);
        let [early, most, _] = outcome.rss_bytes;
        assert!(most as f64 <= early as f64 * 1.25 + (64 << 20) as f64, "{:?}", outcome.rss_bytes);
    }
    place.ends_well();
}

#[test]
fn one_operator_too_many_is_told_so_and_served_when_another_has_finished() {
    let server = support::Server::start();
    let socket = server.launch().data_dir().join("admin.sock");
    let mut held: Vec<_> = (0..16).map(|_| std::os::unix::net::UnixStream::connect(&socket).unwrap()).collect();
    let refused = server.cli(&["admin", "stats"]);
    assert!(!refused.status.success() && refused.stderr.contains("operators are connected"), "{}", refused.stderr);
    held.pop();
    eventually("there is a place again", || server.cli(&["admin", "stats"]).status.success().then_some(()));
}
