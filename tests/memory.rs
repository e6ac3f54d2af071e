//! Memory for users is bounded, however many come: who is not in use leaves it, and finds everything again.

use loadtest::server::Launch;
use loadtest::touch::{self, Plan};

use crate::support::{is_soak, on_disk};

const MIB: u64 = 1 << 20;

#[test]
fn users_who_left_memory_find_what_was_acknowledged() {
    let folder = on_disk();
    let mut launch = Launch::for_load(env!("CARGO_BIN_EXE_mangahub").into(), folder.path().join("data"));
    // The least there may be, on two shards: room for a third of those who come (about 4,500).
    let settings = [("SHARDS", "2"), ("LIMITS_USER_BYTES", "1MiB"), ("LIMITS_DIRTY_BYTES", "1MiB")];
    launch.settings.extend(settings.map(|(key, value)| (format!("MANGAHUB_{key}"), value.to_owned())));
    let users = if is_soak() { 100_000 } else { 12_000 };
    let plan = Plan { users, part: 3_000, at_a_time: 32, sample: 500, allowance_bytes: 128 * MIB };
    let server = launch.start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let touched = tokio::task::LocalSet::new().block_on(&runtime, touch::run(&launch, &server, &plan));
    let outcome = touched.unwrap();
    assert!(outcome.is_good(), "{:#?}", outcome.wrong);
    assert!(outcome.asked >= 500 && outcome.asked_evicted > 0, "{outcome:?}");
    // One more on each shard may come in before somebody leaves; what the store lacks may not leave.
    assert!(outcome.user_bytes_peak <= outcome.user_bytes_max + 2 * MIB, "{outcome:?}");
    server.stop().unwrap();
}
