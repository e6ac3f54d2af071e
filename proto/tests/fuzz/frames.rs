//! What must hold for a stream of bytes that claims to be frames, on both sides: the same comes out whatever the pieces it
//! arrives in, and everything that was understood can be written again and is understood the same way.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a failure is the finding")]

use proto::frame::{
    Caps, Change, ClientFrame, FrameError, HEADER_BYTES, Header, KindCap, List, Notice, PayloadError, Preamble,
    ProgressEntry, RawFrame, Receiver, ServerFrame, State, Welcome, bytes_needed,
};

/// What came out of a stream: each frame's header and what either side makes of it, and why it ended.
#[derive(PartialEq, Debug)]
struct Outcome {
    preamble: Option<Preamble>,
    frames: Vec<(Header, Option<PayloadError>, Option<PayloadError>)>,
    error: Option<FrameError>,
    rest: usize,
}

pub fn check(bytes: &[u8]) {
    let whole = receive(bytes, bytes.len().max(1));
    let pieces = receive(bytes, 1 + bytes.len() % 61);
    assert_eq!(whole, pieces, "pieces change what is received");
}

fn receive(bytes: &[u8], piece: usize) -> Outcome {
    let mut receiver = Receiver::new(Caps::default());
    let mut outcome = Outcome { preamble: None, frames: Vec::new(), error: None, rest: 0 };
    // The corpus has whole connections and single frames: only the former open with the magic.
    let mut greeted = bytes.first() != Some(&proto::frame::MAGIC[0]);
    for piece in bytes.chunks(piece) {
        receiver.room(piece.len())[..piece.len()].copy_from_slice(piece);
        receiver.filled(piece.len());
        if outcome.error.is_none()
            && let Err(error) = take(&mut receiver, &mut greeted, &mut outcome)
        {
            outcome.error = Some(error);
            // A piece more or less arrives before the defect is seen; nothing behind it counts.
            return outcome;
        }
    }
    outcome.rest = receiver.pending().len();
    if greeted && outcome.rest >= HEADER_BYTES {
        let needed = bytes_needed(receiver.pending(), &Caps::default()).unwrap();
        assert!(needed > outcome.rest && needed <= proto::frame::FRAME_BYTES_MAX as usize, "waits for {needed}");
    }
    outcome
}

fn take(receiver: &mut Receiver, greeted: &mut bool, outcome: &mut Outcome) -> Result<(), FrameError> {
    if !*greeted {
        outcome.preamble = receiver.preamble()?;
        *greeted = outcome.preamble.is_some();
        if !*greeted {
            return Ok(());
        }
    }
    while let Some(frame) = receiver.next_frame()? {
        outcome.frames.push((frame.header, client_side(&frame), server_side(&frame)));
    }
    Ok(())
}

/// Reads a frame as the server does, writes it again, and reads that.
fn client_side(frame: &RawFrame<'_>) -> Option<PayloadError> {
    let read = match frame.from_client() {
        Ok(read) => read,
        Err(error) => return Some(error),
    };
    let (seq, mut out) = (frame.header.seq, Vec::new());
    match &read {
        ClientFrame::Hello(hello) => hello.encode(seq, &mut out).unwrap(),
        ClientFrame::SetProgress(set) => set.encode(seq, &mut out),
        ClientFrame::Get(get) => get.encode(seq, &mut out),
        ClientFrame::CatchUp(catch_up) => catch_up.encode(seq, &mut out),
        ClientFrame::NoticeAck(ack) => ack.encode(seq, &mut out),
        ClientFrame::Ping(ping) => ping.encode(seq, &mut out),
        ClientFrame::Pong(pong) => pong.encode(seq, &mut out),
        ClientFrame::Bye(bye) if bye.detail.len() <= proto::frame::DETAIL_BYTES_MAX => bye.encode(seq, &mut out),
        ClientFrame::Bye(_) | ClientFrame::Ignored => return None,
    }
    through(&out, frame, |again| assert_eq!(again.from_client().as_ref(), Ok(&read)));
    None
}

/// Reads a frame as a client does, writes it again, and reads that.
fn server_side(frame: &RawFrame<'_>) -> Option<PayloadError> {
    let read = match frame.from_server() {
        Ok(read) => read,
        Err(error) => return Some(error),
    };
    let (seq, mut out) = (frame.header.seq, Vec::new());
    match &read {
        ServerFrame::Welcome(welcome) => {
            let caps: Vec<KindCap> = welcome.caps.iter().collect();
            Welcome { caps: List::Plain(&caps), ..*welcome }.encode(seq, &mut out).unwrap();
        }
        ServerFrame::Ack(ack) => ack.encode(&mut out),
        ServerFrame::Reject(reject) if reject.detail.len() <= proto::frame::DETAIL_BYTES_MAX => reject.encode(&mut out),
        ServerFrame::Progress(entry) => entry.encode(seq, &mut out),
        ServerFrame::State(state) => {
            let entries: Vec<ProgressEntry> = state.entries.iter().collect();
            State { entries: List::Plain(&entries), ..*state }.encode(seq, &mut out);
        }
        ServerFrame::CaughtUp(end) => end.encode(seq, &mut out),
        ServerFrame::Notice(notice) => {
            let changes: Vec<Change<'_>> = notice.changes.iter().collect();
            Notice { changes: List::Plain(&changes), ..*notice }.encode(seq, &mut out).unwrap();
        }
        ServerFrame::Ping(ping) => ping.encode(seq, &mut out),
        ServerFrame::Pong(pong) => pong.encode(seq, &mut out),
        ServerFrame::Bye(bye) if bye.detail.len() <= proto::frame::DETAIL_BYTES_MAX => bye.encode(seq, &mut out),
        ServerFrame::Reject(_) | ServerFrame::Bye(_) | ServerFrame::Ignored => return None,
    }
    through(&out, frame, |again| assert_eq!(again.from_server().as_ref(), Ok(&read)));
    None
}

fn through(written: &[u8], original: &RawFrame<'_>, read: impl FnOnce(&RawFrame<'_>)) {
    assert!(written.len() <= original.consumed(), "what is understood is never larger when it is written");
    let mut receiver = Receiver::new(Caps::default());
    receiver.extend(written);
    let again = receiver.next_frame().unwrap().expect("a whole frame");
    assert_eq!(again.header.kind, original.header.kind);
    read(&again);
}
