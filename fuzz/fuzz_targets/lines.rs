//! Bytes as JSON lines, read by the server's side, by the client's, and by a client's connection.
#![no_main]

#[path = "../../client/tests/fuzz/hearing.rs"]
#[allow(dead_code)]
mod client_side;
#[path = "../../proto/tests/fuzz/lines.rs"]
mod lines;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    lines::check(bytes);
    client_side::lines(bytes);
});
