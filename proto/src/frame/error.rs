//! What can be wrong with bytes that claim to be frames. A `FrameError` means that the stream is out of step and its connection
//! must close; a `PayloadError` concerns one frame, which is answered with Reject while the connection goes on.

use super::header::{Kind, PREAMBLE_BYTES};
use crate::code::Code;
use crate::values::ValueError;

/// The stream cannot be trusted any further: say Bye and close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not the preamble of this protocol.
    #[error("the connection does not open with the {PREAMBLE_BYTES}-byte preamble of the frame protocol")]
    NotFrames,
    /// The peer speaks a version that this side does not.
    #[error("protocol version {offered} is not spoken here; the newest one is {newest}")]
    Version {
        /// What the peer's preamble says.
        offered: u16,
        /// What this side speaks at most.
        newest: u16,
    },
    /// A payload length that is not a multiple of 16.
    #[error("payload length {bytes} is not a multiple of 16")]
    Length {
        /// The header's length.
        bytes: u32,
    },
    /// More than this kind may carry; found out from the header, before anything was allocated.
    #[error("kind {kind} may carry {bytes_max} bytes, its header announces {bytes}")]
    TooLarge {
        /// The header's kind.
        kind: u16,
        /// The header's length.
        bytes: u32,
        /// What the kind may carry.
        bytes_max: u32,
    },
    /// Header flags that this version does not define.
    #[error("unknown header flags {flags:#06x}")]
    Flags {
        /// The header's flags.
        flags: u16,
    },
    /// The caller's buffer does not start at a multiple of 16: a defect of this side, not of the peer.
    #[error("the receive buffer is not aligned to 16 bytes")]
    Misaligned,
}

impl FrameError {
    /// The code that goes into Bye.
    pub const fn code(&self) -> Code {
        match self {
            Self::NotFrames | Self::Length { .. } | Self::Flags { .. } => Code::BadFrame,
            Self::Version { .. } => Code::UnsupportedVersion,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Misaligned => Code::Internal,
        }
    }
}

/// One frame is not usable: answer it with Reject (or drop it, on the client's side) and go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// A kind that this version does not know, without the ignorable flag.
    #[error("kind {kind} is unknown and not marked ignorable")]
    UnknownKind {
        /// The header's kind.
        kind: u16,
    },
    /// A kind that only the other side sends.
    #[error("{kind} does not travel in this direction")]
    Direction {
        /// The header's kind.
        kind: Kind,
    },
    /// The payload is not a valid archive of its kind.
    #[error("the payload is not a valid {kind}")]
    Layout {
        /// The header's kind.
        kind: Kind,
    },
    /// A well-formed archive with a value that its type does not allow.
    #[error(transparent)]
    Value(#[from] ValueError),
}

impl PayloadError {
    /// The code that goes into Reject.
    pub const fn code(&self) -> Code {
        match self {
            Self::UnknownKind { .. } => Code::UnknownKind,
            Self::Direction { .. } | Self::Layout { .. } | Self::Value(_) => Code::InvalidInput,
        }
    }
}

/// A message that this side wanted to send does not fit its kind; nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {kind} of {bytes} bytes does not fit: {bytes_max} is the most")]
pub struct EncodeError {
    /// What was to be sent.
    pub kind: Kind,
    /// What it would have taken.
    pub bytes: usize,
    /// What the kind may carry.
    pub bytes_max: u32,
}
