//! What must hold for a client whatever the server sends: every update is answered at most once, and what is heard does not
//! depend on the pieces that the bytes arrive in.
#![allow(unreachable_pub, missing_docs, reason = "a failure is the finding")]

use proto::frame::{Hello, ResumeToken, SetProgress, wants};
use proto::line::{Auth, LineError};
use proto::{Chapter, MangaId};

pub fn frames(bytes: &[u8]) {
    let whole = hear(bytes, bytes.len().max(1));
    let pieces = hear(bytes, 1 + bytes.len() % 53);
    assert_eq!(whole, pieces, "pieces change what is heard");
}

/// What a client hears that sends updates, then questions, as soon as it may.
fn hear(bytes: &[u8], piece: usize) -> Vec<String> {
    let hello = Hello {
        token: "token",
        device: None,
        resume: ResumeToken::NONE,
        client_name: "fuzz",
        client_version: "1",
        wants: wants::PROGRESS,
    };
    let mut connection = client::frames::Connection::open(&hello).expect("a Hello fits");
    let (mut heard, mut answered, mut open, mut sent) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        connection.room(piece.len())[..piece.len()].copy_from_slice(piece);
        connection.received(piece.len());
        loop {
            match connection.poll(&mut answered) {
                Ok(None) => break,
                Ok(Some(event)) => heard.push(format!("{event:?} {answered:?}")),
                Err(error) => {
                    heard.push(error.to_string());
                    return heard;
                }
            }
            for tag in &answered {
                let at = open.iter().position(|open| open == tag).expect("answered once, and only what was sent");
                open.remove(at);
            }
            assert!(connection.unanswered().eq(open.iter()), "what is unanswered is known");
            ask(&mut connection, &mut open, &mut sent);
        }
        let out = connection.pending_out().len();
        connection.sent(out);
    }
    heard
}

fn ask(connection: &mut client::frames::Connection<u64>, open: &mut Vec<u64>, sent: &mut u64) {
    let update = SetProgress::new(MangaId(7), Chapter::whole(1));
    while *sent < 4 && connection.credit() > 0 {
        *sent += 1;
        connection.set_progress(&update, *sent).expect("there is credit");
        open.push(*sent);
    }
    if *sent == 4 {
        *sent += 1;
        connection.get(None);
        connection.catch_up(ResumeToken::NONE);
    }
}

pub fn lines(bytes: &[u8]) {
    let whole = read(bytes, bytes.len().max(1));
    let pieces = read(bytes, 1 + bytes.len() % 53);
    assert_eq!(whole, pieces, "pieces change what is read");
}

fn read(bytes: &[u8], piece: usize) -> Vec<String> {
    let mut connection = client::lines::Connection::open(&Auth { token: "t".into(), username: None, device: None });
    let mut heard = Vec::new();
    for piece in bytes.chunks(piece) {
        connection.feed(piece);
        loop {
            match connection.next_line() {
                Ok(None) => break,
                Ok(Some(line)) => heard.push(format!("{line:?}")),
                Err(LineError::TooLong) => {
                    heard.push("too long".into());
                    return heard;
                }
                Err(error) => heard.push(error.to_string()),
            }
        }
    }
    heard
}
