//! The frame protocol as a test speaks it, over the client crate.

use std::future::Future;

use proto::frame::{Hello, SetProgress, wants};
use proto::{Chapter, DeviceId, DeviceSeq, MangaId};

use super::PATIENCE;

/// A Hello that wants to hear of the user's other devices.
pub(crate) fn hello(token: &str, device: Option<DeviceId>) -> Hello<'_> {
    Hello {
        token,
        device,
        resume: Default::default(),
        client_name: "test",
        client_version: env!("CARGO_PKG_VERSION"),
        wants: wants::PROGRESS,
    }
}

/// "I have read up to here."
pub(crate) fn progress(manga: MangaId, chapter: u32, device_seq: Option<u64>) -> SetProgress {
    SetProgress {
        manga,
        device_seq: device_seq.map(DeviceSeq),
        chapter: Chapter::whole(chapter),
        page: None,
        status: None,
        force: false,
        ack_database: false,
        conflict_token: None,
    }
}

/// Runs a client on an executor of its own; panics when it takes longer than the patience.
#[track_caller]
pub(crate) fn on_tokio<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("nothing happened for {PATIENCE:?}"))
    })
}
