//! The simulation's wire form of announcements: everything that is in one, so that the shadow sees what a client sees.

use std::cell::RefCell;

use bytes::Bytes;

use crate::request::Announcement;

thread_local! {
    /// Announcements by the number that their bytes are; a simulation has one thread.
    static SENT: RefCell<Vec<Announcement>> = const { RefCell::new(Vec::new()) };
}

/// The encoder.
pub(crate) fn encode(announcement: &Announcement) -> Bytes {
    let at = SENT.with_borrow_mut(|sent| {
        sent.push(*announcement);
        sent.len() as u64 - 1
    });
    Bytes::copy_from_slice(&at.to_le_bytes())
}

/// What the bytes say.
pub(crate) fn decode(bytes: &[u8]) -> Option<Announcement> {
    let at = u64::from_le_bytes(bytes.try_into().ok()?);
    SENT.with_borrow(|sent| sent.get(at as usize).copied())
}

/// Nothing that was encoded is on its way any more.
pub(crate) fn clear() {
    SENT.with_borrow_mut(Vec::clear);
}
