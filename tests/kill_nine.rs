//! Whatever the server acknowledged, announced or showed is there after kill -9: under load, during a drain, after a pause,
//! during recovery, with the same or another number of shards. Ten cycles by default, a thousand in the soak.

use std::time::Duration;

use loadtest::campaign::{self, Campaign};
use loadtest::server::Launch;

use crate::support::{is_soak, on_disk};

#[test]
fn acknowledged_progress_survives_kill_nine() {
    let folder = on_disk();
    let launch = Launch::for_load(env!("CARGO_BIN_EXE_mangahub").into(), folder.path().join("data"));
    let campaign = Campaign {
        cycles: if is_soak() { 1_000 } else { 10 },
        users: 8,
        series: 6,
        window: 64,
        load_max: Duration::from_millis(400),
        shards: [1, 2],
        pause: Duration::from_secs(if is_soak() { 30 } else { 3 }),
        pause_every: if is_soak() { 100 } else { 10 },
        seed: 0x00ac_1ed9_e5a1,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, campaign::run(launch, &campaign, None));
    let outcome = outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(outcome.reshards > 0 && outcome.recovered > 0 && outcome.resent > 0, "{outcome:?}");
    assert!(outcome.kinds.len() == 3 && outcome.recovery_kills > 0, "{outcome:?}");
    println!("{outcome:?}");
}
