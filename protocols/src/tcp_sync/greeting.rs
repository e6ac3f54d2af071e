//! The first bytes of a sync connection: which wire it speaks and who it is. Nothing is attached before the token has been
//! verified, nothing read behind the greeting is lost, and whoever is turned away is told why in the wire it spoke.

use std::io;
use std::sync::Arc;

use engine::{Fault, Grant};
use proto::frame::{
    Caps, ClientFrame, FRAME_BYTES_MAX, Kind, MAGIC, PREAMBLE_BYTES, Preamble, ResumeToken, bytes_needed, split_frame,
};
use proto::line::{ClientLine, split_line};
use proto::{Code, DeviceId};
use runtime::buffer::AlignedBuf;

use super::transport::Input;
use super::{frames, lines};
use crate::shard::Shard;

/// The first byte of a TLS handshake record (RFC 8446, section 5.1).
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;
/// What a greeting is read into at first.
pub(crate) const GREETING_BYTES: usize = 4 * 1024;
/// The longest auth line: as much as a Hello may carry. Nobody knows yet who sends it, so it gets no more memory than that.
const AUTH_LINE_BYTES_MAX: usize = Kind::Hello.payload_bytes_max() as usize;

/// What the first byte says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Speech {
    /// JSON lines.
    Lines,
    /// Binary frames.
    Frames,
    /// A TLS handshake.
    Tls,
    /// Nothing that this door knows.
    Unknown,
}

impl Speech {
    pub(crate) fn of(first: u8) -> Self {
        match first {
            b'{' => Self::Lines,
            TLS_HANDSHAKE => Self::Tls,
            first if first == MAGIC[0] => Self::Frames,
            _ => Self::Unknown,
        }
    }

    /// Appends a refusal in this wire. `signing_in` is for those who have not said who they are yet.
    pub(crate) fn turn_away(self, fault: &Fault, signing_in: bool, out: &mut Vec<u8>) {
        match self {
            Self::Frames => frames::turn_away(fault, out),
            Self::Lines if signing_in => lines::auth_error(fault, out),
            // A person with a terminal can read a line, whatever was typed.
            Self::Lines | Self::Unknown => lines::error(fault, out),
            // The alert handshake_failure (RFC 8446, section 6): every TLS client shows it as a refusal, not as noise.
            Self::Tls => out.extend_from_slice(&[0x15, 3, 3, 0, 2, 2, 40]),
        }
    }
}

/// What a greeting asks for; goes along when the connection moves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hail {
    /// Hello.
    Frames {
        /// Hello's own sequence.
        seq: u64,
        /// Which of the user's devices.
        device: Option<DeviceId>,
        /// Where the client stood.
        resume: ResumeToken,
        /// What it wants to be sent.
        wants: u32,
    },
    /// Auth.
    Lines {
        /// Which of the user's devices.
        device: Option<DeviceId>,
    },
}

impl Hail {
    pub(crate) fn speech(&self) -> Speech {
        match self {
            Self::Frames { .. } => Speech::Frames,
            Self::Lines { .. } => Speech::Lines,
        }
    }
}

/// Why there was no good greeting.
pub(crate) enum Unwelcome {
    /// It closed, or was closed.
    Gone,
    /// It is told why.
    Refused {
        /// In which wire.
        speech: Speech,
        /// Why.
        fault: Fault,
    },
}

impl From<io::Error> for Unwelcome {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Reads until something is there.
pub(crate) async fn first_byte<I: Input>(input: &mut I, mut buffer: AlignedBuf) -> Result<(u8, AlignedBuf), Unwelcome> {
    if buffer.is_empty() {
        // A connection that never says anything must not hold a buffer.
        input.readable().await?;
        buffer.reserve(GREETING_BYTES);
    }
    while buffer.is_empty() {
        buffer = more(input, buffer, GREETING_BYTES).await?;
    }
    Ok((buffer.as_slice()[0], buffer))
}

/// Reads the greeting of a known wire and verifies its token. What was read behind it stays in the buffer.
pub(crate) async fn greet<I: Input>(
    shard: &Shard,
    input: &mut I,
    buffer: AlignedBuf,
    speech: Speech,
) -> Result<(Arc<Grant>, Hail, AlignedBuf), Unwelcome> {
    match speech {
        Speech::Frames => hello(shard, input, buffer).await,
        Speech::Lines => auth(shard, input, buffer).await,
        Speech::Tls | Speech::Unknown => Err(Unwelcome::Refused {
            speech,
            fault: Fault::new(Code::BadFrame, "say hello in binary frames or in JSON lines"),
        }),
    }
}

async fn hello<I: Input>(
    shard: &Shard,
    input: &mut I,
    mut buffer: AlignedBuf,
) -> Result<(Arc<Grant>, Hail, AlignedBuf), Unwelcome> {
    let refused = |fault| Unwelcome::Refused { speech: Speech::Frames, fault };
    let caps = Caps::frames_of(FRAME_BYTES_MAX);
    let broken = |problem: proto::frame::FrameError| refused(Fault::new(problem.code(), problem.to_string()));
    while Preamble::read(buffer.as_slice()).map_err(broken)?.is_none() {
        buffer = more(input, buffer, PREAMBLE_BYTES).await?;
    }
    buffer.consume(PREAMBLE_BYTES);
    loop {
        let needed = bytes_needed(buffer.as_slice(), &caps).map_err(broken)?;
        let is_hello = buffer.len() < 6 || buffer.as_slice()[4..6] == (Kind::Hello as u16).to_le_bytes();
        if !is_hello {
            // Said before its payload is waited for.
            return Err(refused(Fault::new(Code::Unauthenticated, "the first frame must be Hello")));
        }
        if split_frame(buffer.as_slice(), &caps).map_err(broken)?.is_some() {
            break;
        }
        buffer = more(input, buffer, needed).await?;
    }
    let frame = split_frame(buffer.as_slice(), &caps).map_err(broken)?.expect("the loop ends with a whole frame");
    let (seq, consumed) = (frame.header.seq, frame.consumed());
    let hello = match frame.from_client() {
        Ok(ClientFrame::Hello(hello)) => hello,
        Ok(_) => return Err(refused(Fault::new(Code::Unauthenticated, "the first frame must be Hello"))),
        Err(problem) => return Err(refused(Fault::new(problem.code(), problem.to_string()))),
    };
    let grant = shard.engine.authorize(hello.token).await.map_err(refused)?;
    let hail = Hail::Frames { seq, device: hello.device, resume: hello.resume, wants: hello.wants };
    buffer.consume(consumed);
    Ok((grant, hail, buffer))
}

async fn auth<I: Input>(
    shard: &Shard,
    input: &mut I,
    mut buffer: AlignedBuf,
) -> Result<(Arc<Grant>, Hail, AlignedBuf), Unwelcome> {
    let refused = |fault| Unwelcome::Refused { speech: Speech::Lines, fault };
    let mut searched = 0;
    loop {
        match split_line(buffer.as_slice(), searched).map_err(|problem| refused(lines::line_fault(&problem)))? {
            Some(_) => break,
            None if buffer.len() > AUTH_LINE_BYTES_MAX => {
                let detail = format!("the auth line is longer than {AUTH_LINE_BYTES_MAX} bytes");
                return Err(refused(Fault::new(Code::TooLarge, detail)));
            }
            None => {
                searched = buffer.len();
                let room = (searched * 2).max(GREETING_BYTES);
                buffer = more(input, buffer, room).await?;
            }
        }
    }
    let (line, consumed) = split_line(buffer.as_slice(), searched)
        .map_err(|problem| refused(lines::line_fault(&problem)))?
        .expect("the loop ends with a whole line");
    let auth = match ClientLine::parse(line) {
        Ok(ClientLine::Auth(auth)) => auth,
        Ok(_) => return Err(refused(Fault::new(Code::Unauthenticated, "the first line must be auth"))),
        Err(problem) => return Err(refused(lines::line_fault(&problem))),
    };
    let grant = shard.engine.authorize(&auth.token).await.map_err(refused)?;
    let named = |name: &str| name.to_lowercase() == grant.username.to_lowercase();
    if auth.username.as_deref().is_some_and(|name| !named(name)) {
        return Err(refused(Fault::new(Code::Unauthenticated, "the username is not the token's")));
    }
    let hail = Hail::Lines { device: auth.device };
    buffer.consume(consumed);
    Ok((grant, hail, buffer))
}

/// One more read, with room for at least `bytes` in all. The end of the stream is the end of the greeting.
async fn more<I: Input>(input: &mut I, mut buffer: AlignedBuf, bytes: usize) -> Result<AlignedBuf, Unwelcome> {
    let least = bytes.max(buffer.len() + 16);
    if buffer.capacity() < least {
        buffer.reserve(least - buffer.len());
    }
    let (read, buffer) = input.read(buffer).await;
    match read {
        Ok(0) | Err(_) => Err(Unwelcome::Gone),
        Ok(_) => Ok(buffer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_the_wire() {
        assert_eq!(Speech::of(b'{'), Speech::Lines);
        assert_eq!(Speech::of(0x16), Speech::Tls);
        assert_eq!(Speech::of(Preamble::CURRENT.to_bytes()[0]), Speech::Frames);
        assert_eq!(Speech::of(b'G'), Speech::Unknown);
    }

    #[test]
    fn a_refusal_is_one_line_or_one_bye() {
        let fault = Fault::new(Code::Capacity, "full");
        let mut line = Vec::new();
        Speech::Lines.turn_away(&fault, false, &mut line);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert!(String::from_utf8(line).unwrap().contains("\"CAPACITY\""));
        let mut bye = Vec::new();
        Speech::Frames.turn_away(&fault, true, &mut bye);
        assert_eq!(bye[..4], MAGIC);
    }
}
