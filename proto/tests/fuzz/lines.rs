//! What must hold for bytes that claim to be JSON lines, on both sides: they split the same whatever was looked through before,
//! a line within its cap is understood or refused with a code, and what was understood is written as one line that says the same.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a failure is the finding")]

use proto::line::{ClientLine, LINE_BYTES_MAX, LineError, ServerLine, split_line};

pub fn check(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        let found = split_line(rest, 0);
        same_in_pieces(rest, &found);
        let Ok(Some((line, consumed))) = found else { return };
        assert!(line.len() <= LINE_BYTES_MAX && consumed <= rest.len() && !line.contains(&b'\n'));
        client_line(line);
        server_line(line);
        rest = &rest[consumed..];
    }
}

/// What a reader finds that sees the bytes come in pieces and remembers how far it has looked.
fn same_in_pieces(bytes: &[u8], whole: &Result<Option<(&[u8], usize)>, LineError>) {
    let step = 1 + bytes.len() % 97;
    let mut searched = 0;
    for end in (0..bytes.len()).step_by(step).chain([bytes.len()]) {
        match split_line(&bytes[..end], searched) {
            Ok(None) => searched = end,
            Ok(Some(found)) => return assert_eq!(found, *whole.as_ref().unwrap().as_ref().unwrap()),
            Err(_) => return assert!(whole.is_err(), "refused in pieces only"),
        }
    }
    assert!(matches!(whole, Ok(None)), "found as a whole only: {whole:?}");
}

fn client_line(line: &[u8]) {
    match ClientLine::parse(line) {
        Ok(read) => {
            let mut out = Vec::new();
            read.write(&mut out);
            if let Some(again) = one_line(&out) {
                assert_eq!(ClientLine::parse(again).unwrap(), read);
            }
        }
        Err(error) => told(&error),
    }
}

fn server_line(line: &[u8]) {
    match ServerLine::parse(line) {
        Ok(read) => {
            let mut out = Vec::new();
            read.write(Some(1_763_690_000_123), &mut out);
            if let Some(again) = one_line(&out) {
                assert_eq!(ServerLine::parse(again).unwrap(), read);
            }
        }
        Err(error) => told(&error),
    }
}

/// A line without its end, unless absent fields that are written out took it over the cap.
fn one_line(out: &[u8]) -> Option<&[u8]> {
    let line = out.strip_suffix(b"\n").expect("a line has an end");
    assert!(!line.contains(&b'\n'), "a message is one line");
    (line.len() <= LINE_BYTES_MAX).then_some(line)
}

fn told(error: &LineError) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() < 4_096, "a refusal is short, whatever was sent: {} bytes", text.len());
    let _ = error.code();
}
