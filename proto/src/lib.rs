//! What crosses a wire: ids, values, frames, JSON lines and problem codes. This room does no I/O and knows no rule of the
//! product beyond what makes a value well-formed; whatever it hands out has been checked, so the rooms above trust it.
//! `docs/protocol.md` is the same contract in words, for people who write a client in another language.

pub mod code;
pub mod frame;
pub mod ids;
pub mod line;
pub mod values;

pub use code::Code;
pub use ids::{DeviceId, GrantId, MangaId, NodeId, SessionId, UserId};
pub use values::{Chapter, ConflictToken, DeviceSeq, MergeKey, Page, ReadingStatus, SeriesStatus, ValueError, Version};
