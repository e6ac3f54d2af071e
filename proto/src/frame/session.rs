//! The frames around the work: Hello and Welcome at the start, Ping and Pong in between, Reject when something is refused, Bye at
//! the end. All but Ping and Pong are archives with text in them; what is read borrows its text from the receive buffer.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::access::access;
use super::encode::{put_archive, put_fixed};
use super::error::{EncodeError, PayloadError};
use super::header::Kind;
use super::list::{Element, List};
use super::resume::ResumeToken;
use super::state::{exact, word};
use crate::code::Code;
use crate::ids::{DeviceId, SessionId, UserId};

/// Detail texts of Bye and Reject are cut to this many bytes.
pub const DETAIL_BYTES_MAX: usize = 512;

/// What a client wants to be sent without asking: bits of `Hello::wants`.
pub mod wants {
    /// Progress of the user's other connections.
    pub const PROGRESS: u32 = 1;
    /// Notices.
    pub const NOTICES: u32 = 2;
    /// What was missed since `Hello::resume`, right after Welcome: as if CatchUp had been sent with Hello's seq.
    pub const CATCH_UP: u32 = 4;
}

/// "This is who I am." The first frame of a client, within 10 s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello<'a> {
    /// An access token or an API key.
    pub token: &'a str,
    /// Which of the user's devices; none: no protection against repeated commands.
    pub device: Option<DeviceId>,
    /// Where this client last stood; only looked at with `wants::CATCH_UP`.
    pub resume: ResumeToken,
    /// The program, for the list of sessions.
    pub client_name: &'a str,
    /// Its version.
    pub client_version: &'a str,
    /// Bits of `wants`; unknown ones are ignored.
    pub wants: u32,
}

/// How much a kind may carry on this server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize)]
#[rkyv(attr(doc = "A cap as it lies in Welcome's archive.", allow(missing_docs)))]
pub struct KindCap {
    /// The kind's number.
    pub kind: u16,
    /// Sent as zero.
    pub reserved: u16,
    /// The most payload bytes.
    pub payload_bytes_max: u32,
}

/// "This is who you are, and these are the limits." Answers Hello, with its seq.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcome<'a> {
    /// The session.
    pub session: SessionId,
    /// The user.
    pub user: UserId,
    /// The user's name.
    pub username: &'a str,
    /// How many SetProgress may be unanswered at a time.
    pub window: u32,
    /// The connection closes when nothing came for so long.
    pub idle_timeout_ms: u32,
    /// The largest device_seq that was applied for this device; 0 without one.
    pub last_seq: u64,
    /// The server program.
    pub server_name: &'a str,
    /// Its version.
    pub server_version: &'a str,
    /// What this server accepts, kind by kind.
    pub caps: List<'a, KindCap, ArchivedKindCap>,
    /// Where this connection's announcements start.
    pub resume: ResumeToken,
}

/// "Are you there?" Either side may ask at any time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ping {
    /// Comes back in Pong.
    pub nonce: u64,
}

/// "I am."
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pong {
    /// The Ping's.
    pub nonce: u64,
    /// The sender's clock; 0 when it does not tell.
    pub unix_ms: u64,
}

/// The last frame of a side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bye<'a> {
    /// A `Code`'s number; 0: nothing is wrong.
    pub code: u16,
    /// For a person.
    pub detail: &'a str,
    /// How long to stay away; 0: no advice.
    pub retry_after_ms: u32,
    /// Where the receiver stands in its stream; none from a client.
    pub resume: ResumeToken,
}

#[derive(Archive, Serialize)]
#[rkyv(archived = HelloLayout)]
struct HelloRoot<'a> {
    device: [u8; 16],
    resume: [u8; 24],
    #[rkyv(with = InlineAsBox)]
    token: &'a str,
    #[rkyv(with = InlineAsBox)]
    client_name: &'a str,
    #[rkyv(with = InlineAsBox)]
    client_version: &'a str,
    wants: u32,
    reserved: u32,
}

#[derive(Archive, Serialize)]
#[rkyv(archived = WelcomeLayout)]
struct WelcomeRoot<'a> {
    session: [u8; 16],
    user: [u8; 16],
    resume: [u8; 24],
    last_seq: u64,
    window: u32,
    idle_timeout_ms: u32,
    #[rkyv(with = InlineAsBox)]
    username: &'a str,
    #[rkyv(with = InlineAsBox)]
    server_name: &'a str,
    #[rkyv(with = InlineAsBox)]
    server_version: &'a str,
    #[rkyv(with = InlineAsBox)]
    caps: &'a [KindCap],
}

#[derive(Archive, Serialize)]
#[rkyv(archived = ByeLayout)]
struct ByeRoot<'a> {
    resume: [u8; 24],
    #[rkyv(with = InlineAsBox)]
    detail: &'a str,
    code: u16,
    reserved: u16,
    retry_after_ms: u32,
}

const _: () = {
    assert!(size_of::<HelloLayout<'_>>() == 72 && align_of::<HelloLayout<'_>>() == 4);
    assert!(size_of::<WelcomeLayout<'_>>() == 104 && align_of::<WelcomeLayout<'_>>() == 8);
    assert!(size_of::<ByeLayout<'_>>() == 40 && align_of::<ByeLayout<'_>>() == 4);
    assert!(size_of::<ArchivedKindCap>() == 8);
};

impl KindCap {
    /// The caps that this version of the code has, kind by kind, bounded by a server's own.
    pub fn all(caps: &super::header::Caps) -> [Self; Kind::ALL.len()] {
        let cap = |kind: Kind| Self { kind: kind as u16, reserved: 0, payload_bytes_max: caps.of(kind as u16) };
        std::array::from_fn(|at| cap(Kind::ALL[at]))
    }
}

impl Element<'_, KindCap> for ArchivedKindCap {
    fn plain(&self) -> KindCap {
        KindCap { kind: self.kind.to_native(), reserved: 0, payload_bytes_max: self.payload_bytes_max.to_native() }
    }
}

impl<'a> Hello<'a> {
    /// Appends the frame. Fails when the token and the names take more than 8 KiB.
    pub fn encode(&self, seq: u64, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let root = HelloRoot {
            device: self.device.map_or([0; 16], |device| *device.as_bytes()),
            resume: *self.resume.as_bytes(),
            token: self.token,
            client_name: self.client_name,
            client_version: self.client_version,
            wants: self.wants,
            reserved: 0,
        };
        put_archive(Kind::Hello, seq, &root, out)
    }

    /// Reads a payload in place; it must be 4-aligned.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let raw = access::<HelloLayout<'_>>(Kind::Hello, payload)?;
        Ok(Self {
            token: raw.token.get(),
            device: Some(DeviceId::from_bytes(raw.device)).filter(|device| !device.is_nil()),
            resume: ResumeToken::from_bytes(raw.resume),
            client_name: raw.client_name.get(),
            client_version: raw.client_version.get(),
            wants: raw.wants.to_native(),
        })
    }
}

impl<'a> Welcome<'a> {
    /// Appends the frame; `seq` is Hello's. Fails when the names do not fit.
    ///
    /// # Panics
    /// When the caps come from an archive: a Welcome is made, not passed on.
    pub fn encode(&self, seq: u64, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let List::Plain(caps) = self.caps else { unreachable!("a Welcome is made, not passed on") };
        let root = WelcomeRoot {
            session: *self.session.as_bytes(),
            user: *self.user.as_bytes(),
            resume: *self.resume.as_bytes(),
            last_seq: self.last_seq,
            window: self.window,
            idle_timeout_ms: self.idle_timeout_ms,
            username: self.username,
            server_name: self.server_name,
            server_version: self.server_version,
            caps,
        };
        put_archive(Kind::Welcome, seq, &root, out)
    }

    /// Reads a payload in place; it must be 8-aligned.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let raw = access::<WelcomeLayout<'_>>(Kind::Welcome, payload)?;
        Ok(Self {
            session: SessionId::from_bytes(raw.session),
            user: UserId::from_bytes(raw.user),
            username: raw.username.get(),
            window: raw.window.to_native(),
            idle_timeout_ms: raw.idle_timeout_ms.to_native(),
            last_seq: raw.last_seq.to_native(),
            server_name: raw.server_name.get(),
            server_version: raw.server_version.get(),
            caps: List::Archived(raw.caps.get()),
            resume: ResumeToken::from_bytes(raw.resume),
        })
    }
}

impl Ping {
    /// Appends the frame.
    pub fn encode(&self, seq: u64, out: &mut Vec<u8>) {
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&self.nonce.to_le_bytes());
        put_fixed(Kind::Ping, seq, &payload, out);
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let payload: &[u8; 16] = exact(Kind::Ping, payload)?;
        Ok(Self { nonce: u64::from_le_bytes(word(payload, 0)) })
    }
}

impl Pong {
    /// Appends the frame; `seq` is the Ping's.
    pub fn encode(&self, seq: u64, out: &mut Vec<u8>) {
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&self.nonce.to_le_bytes());
        payload[8..].copy_from_slice(&self.unix_ms.to_le_bytes());
        put_fixed(Kind::Pong, seq, &payload, out);
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let payload: &[u8; 16] = exact(Kind::Pong, payload)?;
        Ok(Self { nonce: u64::from_le_bytes(word(payload, 0)), unix_ms: u64::from_le_bytes(word(payload, 8)) })
    }
}

impl<'a> Bye<'a> {
    /// An ordinary end: nothing is wrong.
    pub const ORDINARY: Bye<'static> = Bye { code: 0, detail: "", retry_after_ms: 0, resume: ResumeToken::NONE };

    /// An end for a reason.
    pub const fn because(code: Code, detail: &'a str) -> Self {
        Self { code: code as u16, detail, retry_after_ms: 0, resume: ResumeToken::NONE }
    }

    /// The reason, when there is one and this version knows it.
    pub const fn code(&self) -> Option<Code> {
        Code::from_u16(self.code)
    }

    /// Appends the frame; the detail is cut to what fits.
    pub fn encode(&self, seq: u64, out: &mut Vec<u8>) {
        let root = ByeRoot {
            resume: *self.resume.as_bytes(),
            detail: cut(self.detail),
            code: self.code,
            reserved: 0,
            retry_after_ms: self.retry_after_ms,
        };
        put_archive(Kind::Bye, seq, &root, out).expect("a Bye with its detail cut fits its cap");
    }

    /// Reads a payload in place; it must be 4-aligned.
    pub fn decode(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let raw = access::<ByeLayout<'_>>(Kind::Bye, payload)?;
        Ok(Self {
            code: raw.code.to_native(),
            detail: raw.detail.get(),
            retry_after_ms: raw.retry_after_ms.to_native(),
            resume: ResumeToken::from_bytes(raw.resume),
        })
    }
}

/// The longest beginning of a detail that its frame carries, cut between characters.
pub(super) fn cut(detail: &str) -> &str {
    &detail[..detail.floor_char_boundary(DETAIL_BYTES_MAX)]
}
