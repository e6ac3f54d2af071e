//! Whatever the server acknowledged, announced or showed is there after kill -9, with the same or another number of shards.
//! Ten cycles by default, two hundred in the soak.

use std::time::Duration;

use loadtest::campaign::{self, Campaign};
use loadtest::server::Launch;

#[test]
fn acknowledged_progress_survives_kill_nine() {
    let soak = std::env::var_os("MANGAHUB_SOAK").is_some();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let launch = Launch {
        binary: env!("CARGO_BIN_EXE_mangahub").into(),
        data_dir: folder.path().join("data"),
        settings: [
            ("MANGAHUB_LIMITS_UPDATES_PER_S", "10000000"),
            ("MANGAHUB_LIMITS_UPDATES_BURST", "10000000"),
            ("MANGAHUB_LIMITS_CONNECTIONS_PER_ADDRESS", "100000"),
        ]
        .map(|(key, value)| (key.into(), value.into()))
        .into(),
        cpus: String::new(),
    };
    let campaign = Campaign {
        cycles: if soak { 200 } else { 10 },
        users: 8,
        series: 6,
        window: 64,
        load_max: Duration::from_millis(400),
        shards: [1, 2],
        seed: 0x00ac_1ed9_e5a1,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, campaign::run(launch, &campaign));
    let outcome = outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(outcome.reshards > 0 && outcome.recovered > 0 && outcome.resent > 0, "{outcome:?}");
}
