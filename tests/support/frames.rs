//! The sync door as a test speaks it, over the client crate: a reader's devices on both wires.

use client::shell::{FrameClient, LineClient};
use proto::frame::{Hello, ResumeToken, SetProgress, wants};
use proto::line::Auth;
use proto::{Chapter, DeviceId, DeviceSeq, MangaId};

use super::{PATIENCE, Reader, Server};

impl Reader {
    /// A device of theirs on binary frames, which hears of the others.
    pub(crate) async fn on_frames(&self, server: &Server, device: u8) -> FrameClient<u64> {
        let hello = Hello {
            token: &self.token,
            device: Some(DeviceId::from_bytes([device; 16])),
            resume: ResumeToken::NONE,
            client_name: "test",
            client_version: env!("CARGO_PKG_VERSION"),
            wants: wants::PROGRESS,
        };
        FrameClient::connect(server.ports.tcp_sync, &hello).await.expect("Hello is answered with Welcome").0
    }

    /// A device of theirs on JSON lines.
    pub(crate) async fn on_lines(&self, server: &Server) -> LineClient {
        let auth = Auth { token: self.token.as_str().into(), username: None, device: None };
        LineClient::connect(server.ports.tcp_sync, &auth).await.expect("auth is answered with auth_success").0
    }
}

/// "I have read up to here."
pub(crate) fn progress(manga: MangaId, chapter: u32, device_seq: Option<u64>) -> SetProgress {
    SetProgress { device_seq: device_seq.map(DeviceSeq), ..SetProgress::new(manga, Chapter::whole(chapter)) }
}

/// Runs clients on an executor of its own; panics when they take longer than a test may.
#[track_caller]
pub(crate) fn block_on<F: Future>(clients: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE * 4, clients).await.expect("the test does not hang") })
}
