//! One of a user's clients: when it was seen, and which of its commands were applied. Rows merge: within one epoch windows
//! unite and the later sighting wins; a removal, or coming back after one, opens a new epoch that replaces the old one whole.

use std::cmp::Ordering;

use proto::{DeviceId, DeviceSeq, Version};

use crate::window::Window;

/// Live devices per user; one more, and the longest unseen goes.
pub const DEVICES_PER_USER_MAX: usize = 64;

/// A device seen less than this long ago is not recorded as seen again: reconnecting must not flood the journal.
pub const SEEN_AGAIN_AFTER_MS: u64 = 60_000;

/// What a progress change records about the device it came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DeviceStamp {
    /// The device.
    pub device: DeviceId,
    /// The device's number for this command, now applied; `None` when the client does not number its commands.
    pub seq: Option<DeviceSeq>,
    /// The epoch of the device's row.
    pub epoch: Version,
}

/// A device's row, as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// The device.
    pub id: DeviceId,
    /// The version of the change that made the row, or that removed the device: what was recorded under an earlier epoch no
    /// longer counts.
    pub epoch: Version,
    /// A tombstone: the user removed the device, or it was the longest unseen of too many. Its window is empty.
    pub removed: bool,
    /// The version of the last change that saw it.
    pub seen: Version,
    /// Its applied sequence numbers.
    pub window: Window,
}

impl Device {
    /// A device that a change of version `seen` saw, in `epoch`, with nothing applied.
    pub fn seen(id: DeviceId, epoch: Version, seen: Version) -> Self {
        Self { id, epoch, removed: false, seen, window: Window::default() }
    }

    /// The tombstone that a removal leaves.
    pub fn tombstone(id: DeviceId, epoch: Version) -> Self {
        Self { id, epoch, removed: true, seen: epoch, window: Window::default() }
    }

    /// What a progress change of version `version` adds to its device's row.
    pub fn from_stamp(stamp: &DeviceStamp, version: Version) -> Self {
        let mut device = Self::seen(stamp.device, stamp.epoch, version);
        stamp.seq.into_iter().for_each(|seq| device.window.insert(seq));
        device
    }

    /// Merges another version of the same device's row into this one.
    pub fn merge(&mut self, other: &Device) {
        debug_assert_eq!(self.id, other.id, "rows of different devices do not merge");
        match self.order(other) {
            Ordering::Greater => {}
            Ordering::Less => *self = other.clone(),
            Ordering::Equal => {
                self.seen = self.seen.max(other.seen);
                self.window.merge(&other.window);
            }
        }
    }

    /// As merging [`Device::from_stamp`], without building it.
    pub fn absorb(&mut self, stamp: &DeviceStamp, version: Version) {
        match (self.epoch, self.removed).cmp(&(stamp.epoch, false)) {
            Ordering::Greater => {}
            Ordering::Less => *self = Self::from_stamp(stamp, version),
            Ordering::Equal => {
                self.seen = self.seen.max(version);
                stamp.seq.into_iter().for_each(|seq| self.window.insert(seq));
            }
        }
    }

    fn order(&self, other: &Device) -> Ordering {
        (self.epoch, self.removed).cmp(&(other.epoch, other.removed))
    }
}

/// A device, as shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DeviceView {
    /// The device.
    pub id: DeviceId,
    /// The highest applied sequence number; 0 while there is none.
    pub last_seq: DeviceSeq,
    /// When it was last seen, in Unix milliseconds.
    pub last_seen_ms: u64,
}

impl From<&Device> for DeviceView {
    fn from(device: &Device) -> Self {
        Self { id: device.id, last_seq: device.window.last_seq(), last_seen_ms: device.seen.unix_ms() }
    }
}
