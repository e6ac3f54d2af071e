//! What every fuzz test here runs on: seeds in order, inputs made from a corpus by a seed alone, a limit in time, and a failing
//! input kept as a file. Standard library only; included by path into the tests of the rooms. The same seed and the same
//! corpus give the same input everywhere, so a seed that a run reports can be run again.
//!
//! `FUZZ_SECONDS` sets the seconds of each target (else 10 to 30; an hour with `MANGAHUB_SOAK=1`), `FUZZ_SEED` the first seed.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, missing_docs, reason = "each test takes its part")]

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// An input that takes this long is told of: a loop without an end is a finding too.
const PATIENCE: Duration = Duration::from_secs(20);
/// Inputs stay small enough that a run sees many.
const INPUT_BYTES_MAX: usize = 256 << 10;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `bound` - 1; 0 when the bound is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.roll() % bound as u64) as usize }
    }

    pub fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A range of at most `length_max` within `length` bytes; empty only when there are none.
    pub fn range(&mut self, length: usize, length_max: usize) -> Range<usize> {
        let start = self.below(length);
        let room = (length - start).min(length_max);
        start..(start + 1 + self.below(room)).min(length)
    }

    /// A number that tends to lie on an edge.
    pub fn edge(&mut self) -> u64 {
        let bits = 1 + self.below(64);
        match self.below(6) {
            0 => self.roll() >> (64 - bits),
            1 => u64::MAX,
            2 => 0,
            3 => 1_u64.wrapping_shl(bits as u32),
            4 => 1_u64.wrapping_shl(bits as u32).wrapping_sub(1),
            _ => (self.below(64) as u64).wrapping_sub(16),
        }
    }
}

/// Where a target's corpus lies: `fuzz/corpus/<target>`.
pub fn corpus_folder(target: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus")).join(target)
}

/// The corpus of a target, in the order of the file names.
pub fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = corpus_folder(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "the corpus of {target} is empty");
    let named =
        |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap());
    paths.into_iter().map(named).collect()
}

/// Checks every file of the corpus.
pub fn replay(target: &str, mut check: impl FnMut(&[u8])) {
    for (name, input) in corpus(target) {
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&input)));
        assert!(outcome.is_ok(), "fuzz/corpus/{target}/{name} does not pass");
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} must be a number")))
}

/// How long a target runs that has `slice_s` seconds in an ordinary run.
fn budget(slice_s: u64) -> Duration {
    let soak = std::env::var_os("MANGAHUB_SOAK").is_some_and(|value| value == "1");
    Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(if soak { 3_600 } else { slice_s }))
}

/// Runs seed after seed until the time (`slice_s` seconds, unless told otherwise) is over: `make` turns a seed's dice and the corpus into an input, `check` panics when
/// something does not hold. Says which seeds ran; a failing input is kept and its path told.
pub fn run(
    target: &'static str,
    slice_s: u64,
    make: impl Fn(&mut Dice, &[Vec<u8>]) -> Vec<u8>,
    mut check: impl FnMut(&[u8]),
) {
    let corpus: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, input)| input).collect();
    let (first, started, budget) = (number("FUZZ_SEED").unwrap_or(0), Instant::now(), budget(slice_s));
    let watched = Watched::start(target, first);
    let mut seed = first;
    // One at least: a budget of 0 with a seed runs that seed.
    while seed == first || started.elapsed() < budget {
        watched.now_at(seed);
        let input = make(&mut Dice::new(seed), &corpus);
        if catch_unwind(AssertUnwindSafe(|| check(&input))).is_err() {
            fail(target, seed, &input);
        }
        seed += 1;
    }
    let took = started.elapsed().as_secs_f64();
    eprintln!("fuzz {target}: seeds {first}..{seed} in {took:.1} s, {:.0}/s", (seed - first) as f64 / took);
}

fn fail(target: &str, seed: u64, input: &[u8]) -> ! {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/failures")).join(target);
    let path = folder.join(format!("seed-{seed}"));
    let kept = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, input));
    panic!(
        "fuzz {target}: seed {seed} fails; its {} bytes are in {} ({kept:?}). Mend it, then move that file to \
         fuzz/corpus/{target}/. Again: FUZZ_SECONDS=0 FUZZ_SEED={seed}",
        input.len(),
        path.display()
    );
}

/// A thread that names the seed which takes too long.
struct Watched {
    seed: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watched {
    fn start(target: &'static str, first: u64) -> Self {
        let (seed, over) = (Arc::new(AtomicU64::new(first)), Arc::new(AtomicBool::new(false)));
        let (at, ended) = (seed.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            let mut last = u64::MAX;
            while !ended.load(Ordering::Acquire) {
                std::thread::park_timeout(PATIENCE);
                let now = at.load(Ordering::Acquire);
                if now == last && !ended.load(Ordering::Acquire) {
                    eprintln!("fuzz {target}: seed {now} has been running for {PATIENCE:?} and longer");
                }
                last = now;
            }
        });
        Self { seed, over, thread: Some(thread) }
    }

    fn now_at(&self, seed: u64) {
        self.seed.store(seed, Ordering::Release);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Changes bytes in up to `times` places: bits, bytes, numbers on an edge, ranges cut, doubled, moved, spliced from another
/// input, or words of the format.
pub fn spoil(dice: &mut Dice, bytes: &mut Vec<u8>, times: usize, corpus: &[Vec<u8>], words: &[&[u8]]) {
    for _ in 0..=dice.below(times) {
        spoil_once(dice, bytes, corpus, words);
        bytes.truncate(INPUT_BYTES_MAX);
    }
}

fn spoil_once(dice: &mut Dice, bytes: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&[u8]]) {
    if bytes.is_empty() {
        bytes.extend_from_slice(&dice.roll().to_le_bytes());
        return;
    }
    let at = dice.below(bytes.len());
    match dice.below(if words.is_empty() { 9 } else { 12 }) {
        0 | 1 => bytes[at] ^= 1 << dice.below(8),
        2 => bytes[at] = dice.roll() as u8,
        3 | 4 => {
            // A number of one, two, four or eight bytes, as it is laid out here.
            let width = 1 << dice.below(4);
            let at = if dice.one_in(2) { at & !(width - 1) } else { at };
            let value = if dice.one_in(2) { near(dice, bytes, at, width) } else { dice.edge() };
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        }
        5 => drop(bytes.drain(dice.range(bytes.len(), 64))),
        6 => {
            let piece = bytes[dice.range(bytes.len(), 256)].to_vec();
            bytes.splice(at..at, piece);
        }
        7 => bytes.truncate(at),
        8 => {
            let other = dice.pick(corpus);
            let piece = other[dice.range(other.len(), 1_024)].to_vec();
            let end = if dice.one_in(2) { at } else { (at + piece.len()).min(bytes.len()) };
            bytes.splice(at..end, piece);
        }
        _ => {
            let word = *dice.pick(words);
            let end = if dice.one_in(2) { at } else { (at + word.len()).min(bytes.len()) };
            bytes.splice(at..end, word.iter().copied());
        }
    }
}

/// The number that is there, moved a little: lengths and pointers break best when they are off by a few.
fn near(dice: &mut Dice, bytes: &[u8], at: usize, width: usize) -> u64 {
    let mut word = [0; 8];
    let end = (at + width).min(bytes.len());
    word[..end - at].copy_from_slice(&bytes[at..end]);
    u64::from_le_bytes(word).wrapping_add(dice.below(65) as u64).wrapping_sub(32)
}
