//! The binary frames of TCP sync and QUIC: a 16-byte preamble, then frames of a 16-byte header and a payload that is one rkyv
//! archive (little-endian, 32-bit relative pointers), checked before use and read in place. What is read borrows the receive
//! buffer, what is written is appended to the caller's; sizes are judged from the header before anything is allocated.
//! `docs/protocol.md` has every field of every kind.

mod access;
mod encode;
mod error;
mod header;
mod list;
mod message;
mod notice;
mod progress;
mod reject;
mod resume;
mod session;
mod state;

pub use access::{CHECK_DEPTH_MAX, RawFrame, Receiver, Taken, aligned, bytes_needed, split_frame};
pub use error::{EncodeError, FrameError, PayloadError};
pub use header::{
    ALIGNMENT_BYTES, Caps, FLAG_IGNORABLE, FRAME_BYTES_MAX, HEADER_BYTES, Header, Kind, MAGIC, PREAMBLE_BYTES,
    Preamble, VERSION,
};
pub use list::{Element, List};
pub use message::{ClientFrame, ServerFrame};
pub use notice::{ArchivedChange, Change, NOTICE_CHANGES_MAX, Notice, NoticeAck, NoticeKind};
pub use progress::{
    ACK_BYTES, Ack, AckLayout, ENTRY_BYTES, EntryLayout, ProgressEntry, SET_PROGRESS_BYTES, SetProgress,
    SetProgressLayout, flag,
};
pub use reject::Reject;
pub use resume::ResumeToken;
pub use session::{ArchivedKindCap, Bye, DETAIL_BYTES_MAX, Hello, KindCap, Ping, Pong, Welcome, wants};
pub use state::{CatchUp, CaughtUp, Get, STATE_ENTRIES_MAX, State};
