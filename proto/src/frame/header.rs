//! The preamble that opens a connection, the 16-byte header before every payload, the kinds and how much each may carry.
//! Everything here is plain little-endian bytes; sizes are judged from the header alone, before a byte is allocated for them.

use std::fmt;

use super::error::FrameError;

/// Bytes of the preamble, a multiple of 16 like every frame, so that all headers of a stream are 16-aligned.
pub const PREAMBLE_BYTES: usize = 16;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 16;
/// Payload lengths are multiples of this, and receive buffers start at a multiple of it.
pub const ALIGNMENT_BYTES: usize = 16;
/// The largest frame, header included.
pub const FRAME_BYTES_MAX: u32 = 64 * 1024;
/// The newest protocol version that this code speaks.
pub const VERSION: u16 = 1;
/// What a connection opens with. The first byte is neither `{` (JSON lines) nor 0x16 (TLS), nor ASCII at all.
pub const MAGIC: [u8; 4] = [0xE7, b'M', b'H', b'F'];

/// The first 16 bytes in each direction: magic, version u16, then ten bytes that are sent as zero and not looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preamble {
    /// The version that the sender speaks from here on.
    pub version: u16,
}

impl Preamble {
    /// The preamble of this code.
    pub const CURRENT: Self = Self { version: VERSION };

    /// As it goes out.
    pub const fn to_bytes(self) -> [u8; PREAMBLE_BYTES] {
        let mut bytes = [0; PREAMBLE_BYTES];
        bytes[0] = MAGIC[0];
        bytes[1] = MAGIC[1];
        bytes[2] = MAGIC[2];
        bytes[3] = MAGIC[3];
        let version = self.version.to_le_bytes();
        bytes[4] = version[0];
        bytes[5] = version[1];
        bytes
    }

    /// Reads it from the start of a stream. `None` means that more bytes are needed; a wrong magic is told from its first wrong
    /// byte on, a version that is zero or newer than ours once it is there.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let seen = bytes.len().min(MAGIC.len());
        if bytes[..seen] != MAGIC[..seen] {
            return Err(FrameError::NotFrames);
        }
        if bytes.len() < PREAMBLE_BYTES {
            return Ok(None);
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version == 0 || version > VERSION {
            return Err(FrameError::Version { offered: version, newest: VERSION });
        }
        Ok(Some(Self { version }))
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $bytes_max:expr;)*) => {
        /// What a frame is. Numbers are final.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum Kind { $($(#[$doc])* $variant = $number,)* }

        impl Kind {
            /// Every kind, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// From a header's number.
            pub const fn from_u16(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// The most payload bytes that this kind may carry.
            pub const fn payload_bytes_max(self) -> u32 {
                match self { $(Self::$variant => $bytes_max,)* }
            }

            /// Its name in `docs/protocol.md`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }
        }
    };
}

kinds! {
    /// Client: who I am. The first frame.
    Hello = 1, 8 * 1024;
    /// Server: who you are, and what the limits are.
    Welcome = 2, 1024;
    /// Either side: are you there?
    Ping = 3, 16;
    /// Either side: I am.
    Pong = 4, 16;
    /// Either side: the last frame.
    Bye = 5, 1024;
    /// Server: that frame was not accepted, and nothing was changed by it.
    Reject = 6, 1024;
    /// Client: I have read up to here.
    SetProgress = 16, 48;
    /// Server: stored, durably.
    Ack = 17, 48;
    /// Server: another of your connections has read up to here.
    Progress = 18, 64;
    /// Client: how far am I?
    Get = 19, 16;
    /// Server: that far; the answer to Get and to CatchUp.
    State = 20, FRAME_BYTES_MAX - HEADER_BYTES as u32;
    /// Client: what did I miss?
    CatchUp = 21, 32;
    /// Server: that was all; the end of the answer to CatchUp.
    CaughtUp = 22, 32;
    /// Server: something happened to a series.
    Notice = 32, 8 * 1024;
    /// Client: I have seen that notice.
    NoticeAck = 33, 16;
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Header flag: a receiver that does not know this kind skips it without a Reject.
pub const FLAG_IGNORABLE: u16 = 1;
const FLAGS_KNOWN: u16 = FLAG_IGNORABLE;

/// The 16 bytes before every payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Payload bytes that follow; a multiple of 16.
    pub length: u32,
    /// The kind's number; may be one that this version does not know.
    pub kind: u16,
    /// `FLAG_IGNORABLE`, or zero.
    pub flags: u16,
    /// From a client: the connection's own count of its frames. From a server: the frame that is answered, or the position in
    /// its stream of something announced.
    pub seq: u64,
}

impl Header {
    /// A header of a known kind without flags.
    pub const fn new(kind: Kind, payload_bytes: u32, seq: u64) -> Self {
        Self { length: payload_bytes, kind: kind as u16, flags: 0, seq }
    }

    /// As it goes out.
    #[inline]
    pub const fn to_bytes(self) -> [u8; HEADER_BYTES] {
        // One 128-bit store; the fields lie little-endian from the lowest bits up.
        let word =
            self.length as u128 | (self.kind as u128) << 32 | (self.flags as u128) << 48 | (self.seq as u128) << 64;
        word.to_le_bytes()
    }

    /// Reads the fields without judging them; `check` does that.
    #[inline]
    pub const fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let word = u128::from_le_bytes(*bytes);
        Self { length: word as u32, kind: (word >> 32) as u16, flags: (word >> 48) as u16, seq: (word >> 64) as u64 }
    }

    /// Whether a receiver that does not know the kind may skip it.
    pub const fn ignorable(&self) -> bool {
        self.flags & FLAG_IGNORABLE != 0
    }

    /// Judges length and flags; an error means that the stream is out of step.
    #[inline]
    pub fn check(&self, caps: &Caps) -> Result<(), FrameError> {
        if self.flags & !FLAGS_KNOWN != 0 {
            return Err(FrameError::Flags { flags: self.flags });
        }
        if !self.length.is_multiple_of(ALIGNMENT_BYTES as u32) {
            return Err(FrameError::Length { bytes: self.length });
        }
        let bytes_max = caps.of(self.kind);
        if self.length > bytes_max {
            return Err(FrameError::TooLarge { kind: self.kind, bytes: self.length, bytes_max });
        }
        Ok(())
    }
}

/// How much a frame may carry: the smaller of what its kind may and what this side's configuration allows for any frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    payload_bytes_max: u32,
}

impl Caps {
    /// Caps for frames (headers included) of at most this size; never above `FRAME_BYTES_MAX`, never below 1 KiB.
    pub const fn frames_of(frame_bytes_max: u32) -> Self {
        let bounded = if frame_bytes_max > FRAME_BYTES_MAX {
            FRAME_BYTES_MAX
        } else if frame_bytes_max < 1024 + HEADER_BYTES as u32 {
            1024 + HEADER_BYTES as u32
        } else {
            frame_bytes_max
        };
        Self { payload_bytes_max: bounded - HEADER_BYTES as u32 }
    }

    /// The most payload bytes for a kind's number, known or not.
    #[inline]
    pub const fn of(&self, kind: u16) -> u32 {
        let own = match Kind::from_u16(kind) {
            Some(kind) => kind.payload_bytes_max(),
            None => self.payload_bytes_max,
        };
        if own < self.payload_bytes_max { own } else { self.payload_bytes_max }
    }
}

impl Default for Caps {
    fn default() -> Self {
        Self::frames_of(FRAME_BYTES_MAX)
    }
}
