//! Frames and JSON lines from a seed: structure-aware changes to the corpus in `fuzz/corpus/`, checked for what must hold for
//! any bytes. See `fuzz/README.md`.

#[path = "../../../fuzz/driver.rs"]
mod driver;
mod frames;
mod lines;
#[path = "../../../fuzz/streams.rs"]
mod streams;

#[test]
fn the_corpus_of_frames_holds() {
    driver::replay("frames", frames::check);
}

#[test]
fn the_corpus_of_lines_holds() {
    driver::replay("lines", lines::check);
}

#[test]
fn fuzz_frames() {
    driver::run("frames", 20, streams::frames, frames::check);
}

#[test]
fn fuzz_lines() {
    driver::run("lines", 20, streams::lines, lines::check);
}
