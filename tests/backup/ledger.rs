//! The harness' own ledger against a backup: thousands of updates in flight, of which the store is always behind by some.

use std::time::Duration;

use loadtest::drive::{self, Plan, Shared};
use loadtest::ledger::Expectations;
use loadtest::server::Launch;
use loadtest::verify;

use super::cli;
use crate::support::on_disk;

const USERS: usize = 8;
const SERIES: usize = 6;

/// The ledger as it is now.
fn ledger(shared: &Shared) -> Expectations {
    let expectations = shared.expectations.borrow();
    let now = expectations.as_ref().expect("the run remembers");
    Expectations { highest: now.highest.clone(), entries: now.entries }
}

async fn backed_up_and_restored() {
    let folder = on_disk();
    let launch = |name: &str| Launch::for_load(env!("CARGO_BIN_EXE_mangahub").into(), folder.path().join(name));
    let (old, new) = (launch("old"), launch("new"));
    let file = folder.path().join("backup");
    let server = old.start().unwrap();
    let tokens = old.seed(USERS, SERIES).unwrap();
    let shared = Shared::new(Plan::updates(USERS, SERIES, 64, 0x00ba_c4b5), None, true);
    let connections = drive::connect(server.doors.tcp_sync, &tokens, &shared).await.unwrap();
    shared.sending.set(true);
    let tasks: Vec<_> = connections.into_iter().map(|connection| tokio::task::spawn_local(connection.run())).collect();
    let past = async |entries: u64| {
        while ledger(&shared).entries < entries {
            assert!(!tasks.iter().any(tokio::task::JoinHandle::is_finished), "a connection ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    past(5_000).await;
    let before = ledger(&shared);
    let (data_dir, name) = (old.data_dir.clone(), file.display().to_string());
    let create = move || cli(&data_dir, None, &["backup", "create", &name]).done();
    tokio::task::spawn_blocking(create).await.unwrap();
    // The load went on all the time, and goes on.
    past(before.entries + 1_000).await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    server.kill().unwrap();

    cli(&new.data_dir, None, &["backup", "restore", &file.display().to_string()]).done();
    let server = new.start().unwrap();
    let verdict = verify::verify(server.doors.tcp_sync, &tokens, &before).await.unwrap();
    assert!(verdict.missing.is_empty() && verdict.series == before.highest.len(), "{verdict:?}");
}

#[test]
fn a_backup_has_the_ledger_of_everything_acknowledged_before_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, backed_up_and_restored());
}
