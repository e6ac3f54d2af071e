//! Bytes as a stream of frames, read by the server's side, by the client's, and by a client's connection.
#![no_main]

#[path = "../../client/tests/fuzz/hearing.rs"]
#[allow(dead_code)]
mod client_side;
#[path = "../../proto/tests/fuzz/frames.rs"]
mod frames;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    frames::check(bytes);
    client_side::frames(bytes);
});
