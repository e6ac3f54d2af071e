//! The campaign: every kept seed first, then a million steps over fixed seeds (an hour of fresh ones with MANGAHUB_SOAK=1). A
//! seed that fails is printed with the way to repeat it and kept in tests/seeds.txt. And the proof that it can fail: defects
//! switched on one by one, each of which must be found.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::steps::{Ran, run, seed_of};
use super::world::Tally;
use crate::driver::Sabotage;

const STEPS_PER_SEED: u64 = 25_000;
const STEPS_PER_SOAKED_SEED: u64 = 100_000;
const SEEDS: u64 = 40;
const SOAK: Duration = Duration::from_secs(3_600);

/// What a campaign must have met, or it has lost its teeth.
const MET: [&str; 22] = [
    "acked by the database",
    "already",
    "applied",
    "busy: The disk does not keep up",
    "busy: The mailbox",
    "busy: Too many answers wait for the database",
    "busy: Too many users are being loaded",
    "busy: Too much waits for the store",
    "busy: Too much waits for this user",
    "caught up with everything",
    "caught up with what changed",
    "conflict",
    "evicted",
    "parked",
    "rate_limited",
    "rejected: already_exists",
    "rejected: chapter_out_of_range",
    "rejected: not_found",
    "rejected: seq_too_old",
    "replayed after a start",
    "slow_consumer",
    "unavailable",
];

fn seeds_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/seeds.txt")
}

/// Lines of `seed steps`, and comments.
fn kept_seeds() -> Vec<(u64, u64)> {
    let text = std::fs::read_to_string(seeds_file()).expect("tests/seeds.txt is there");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parse = |line: &str| {
        let mut words = line.split_whitespace().map(|word| word.parse::<u64>().expect("a seed is two numbers"));
        (words.next().expect("a seed"), words.next().unwrap_or(STEPS_PER_SEED))
    };
    lines.map(parse).collect()
}

/// Runs a seed; a panic is a failure like any other.
fn attempt(seed: u64, steps: u64, defect: Option<Sabotage>) -> Result<Ran, String> {
    let ran = catch_unwind(AssertUnwindSafe(|| run(seed, steps, defect)));
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

fn hold(seed: u64, steps: u64) -> Ran {
    // Past the test's own capture: a rule that panics ends the process at once.
    let _ = writeln!(std::io::stderr().lock(), "simulating seed {seed} for {steps} steps");
    attempt(seed, steps, None).unwrap_or_else(|what| {
        let kept = std::fs::OpenOptions::new().append(true).open(seeds_file());
        let known = kept_seeds().iter().any(|(known, _)| *known == seed);
        if let Ok(mut file) = kept.map_err(drop)
            && !known
        {
            let _ = writeln!(file, "{seed} {steps}");
        }
        panic!(
            "seed {seed}: {what}\nrepeat it: MANGAHUB_SEED={seed} MANGAHUB_STEPS={steps} cargo test -p mangahub-engine \
             --lib sim::tests::a_million_steps"
        )
    })
}

#[test]
fn a_million_steps_hold_for_every_seed() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("MANGAHUB_SEED") {
        let ran = hold(seed, number("MANGAHUB_STEPS").unwrap_or(STEPS_PER_SEED));
        let _ = writeln!(std::io::stderr().lock(), "{ran:?}");
        return;
    }
    let begun = Instant::now();
    for (seed, steps) in kept_seeds() {
        hold(seed, steps);
    }
    let soak = std::env::var_os("MANGAHUB_SOAK").is_some_and(|value| value == "1");
    let campaign = match soak {
        true => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs(),
        false => 1,
    };
    let (mut index, mut steps, mut crashes, mut heard) = (0, 0, 0, 0);
    let mut tally = Tally::new();
    while if soak { begun.elapsed() < SOAK } else { index < SEEDS } {
        let ran = hold(seed_of(campaign, index), if soak { STEPS_PER_SOAKED_SEED } else { STEPS_PER_SEED });
        index += 1;
        steps += ran.steps;
        crashes += ran.crashes;
        heard += ran.heard;
        ran.tally.into_iter().for_each(|(what, times)| *tally.entry(what).or_default() += times);
    }
    let _ = writeln!(
        std::io::stderr().lock(),
        "{steps} steps over {index} seeds, {crashes} crashes, {heard} answers and announcements, {:?}\n{tally:#?}",
        begun.elapsed()
    );
    // A simulation in which nothing happens proves nothing.
    assert!(crashes * 10_000 > steps && heard * 20 > steps, "{crashes} crashes, {heard} heard");
    for what in MET {
        assert!(tally.keys().any(|known| known.starts_with(what)), "the simulation never met: {what}\n{tally:#?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [seed_of(2, 0), seed_of(2, 1)] {
        let [first, second] = [(); 2].map(|()| attempt(seed, 10_000, None).expect("the seed holds"));
        assert_eq!(first, second);
    }
    assert_ne!(attempt(seed_of(2, 2), 1_000, None).unwrap().trace, attempt(seed_of(2, 3), 1_000, None).unwrap().trace);
}

/// Runs seeds until one of them notices the defect.
fn is_noticed(defect: Sabotage) {
    let mut seeds = (0..200).map(|index| (seed_of(3, index), 8_000)).chain(kept_seeds());
    let found = seeds.find_map(|(seed, steps)| attempt(seed, steps, Some(defect)).err());
    let what = found.unwrap_or_else(|| panic!("{defect:?} was never noticed"));
    let _ = writeln!(std::io::stderr().lock(), "{defect:?}: {}", what.lines().next().unwrap_or_default());
}

#[test]
fn every_planted_defect_is_noticed() {
    for defect in [
        Sabotage::EarlyRelease,
        Sabotage::ForgottenDevices,
        Sabotage::StoredTooEarly,
        Sabotage::Echo,
        Sabotage::ForgottenRecovery,
        Sabotage::RestartedStream,
        Sabotage::LateReplies,
        Sabotage::DatabaseUnasked,
    ] {
        is_noticed(defect);
    }
}
