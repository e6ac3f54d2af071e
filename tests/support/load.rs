//! Readers who go on updating while a test does something to what the server stands on.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use proto::MangaId;
use serde_json::json;

use super::{Reader, Server, eventually};

/// What the readers have had acknowledged so far: each the last page, and each page is an update.
pub(crate) struct Load {
    acknowledged: Vec<AtomicU32>,
}

impl Load {
    /// Waits until every reader has had `updates` more acknowledged than any of them has by now.
    pub(crate) fn goes_on(&self, updates: u32) {
        let target = self.last().into_iter().max().unwrap_or(0) + updates;
        eventually("updates are acknowledged", || self.last().iter().all(|page| *page >= target).then_some(()));
    }

    fn last(&self) -> Vec<u32> {
        self.acknowledged.iter().map(|page| page.load(Ordering::SeqCst)).collect()
    }
}

/// Runs `body` while every reader updates a series without a pause, one page after the other: each update is acknowledged and
/// read back. Returns each reader's last page.
pub(crate) fn under_load(server: &Server, readers: &[(&Reader, MangaId)], body: impl FnOnce(&Load)) -> Vec<u32> {
    let load = Load { acknowledged: readers.iter().map(|_| AtomicU32::new(0)).collect() };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for ((reader, manga), acknowledged) in readers.iter().zip(&load.acknowledged) {
            let is_over = &is_over;
            scope.spawn(move || {
                for page in 1.. {
                    reader.put_progress(server, *manga, &json!({"chapter": 1, "page": page})).expect(200);
                    assert_eq!(reader.progress(server, *manga)["page"], json!(page));
                    acknowledged.store(page, Ordering::SeqCst);
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                }
            });
        }
        // Ends the load however this ends.
        let end = catch_unwind(AssertUnwindSafe(|| body(&load)));
        is_over.store(true, Ordering::SeqCst);
        end.unwrap_or_else(|panic| resume_unwind(panic));
    });
    load.last()
}
