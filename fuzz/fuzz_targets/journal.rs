//! Bytes as the folder of a journal, opened and replayed.
#![no_main]

#[path = "../../storage/tests/fuzz/folder.rs"]
#[allow(dead_code)]
mod folder;

use std::cell::LazyCell;

use folder::Bench;

thread_local! {
    static BENCH: LazyCell<Bench> = LazyCell::new(|| {
        let corpus = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/journal")).unwrap();
        let whole: Vec<Vec<u8>> = corpus.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
        Bench::new(whole.iter().map(|input| &input[..]))
    });
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    BENCH.with(|bench| bench.check(bytes));
});
