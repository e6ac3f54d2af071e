//! Bytes as the target, content type and body of an HTTP request, through the door's parsers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| protocols::check_request(bytes));
