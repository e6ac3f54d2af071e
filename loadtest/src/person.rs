//! Short visits of a seeded user's device: sign in, perhaps set every series one step further, leave. What idle and churn runs
//! are made of.

use std::net::SocketAddr;

use client::frames::Event;
use client::shell::{Error, FrameClient};
use proto::frame::{SetProgress, wants};
use proto::{Chapter, DeviceId, DeviceSeq, MangaId};
use tokio::io::AsyncReadExt;

use crate::dial::dial;
use crate::reader;
use crate::tokens::Seeded;
use crate::workload::Random;

/// The id of one of a user's devices: the same in every run, so that signing in again is the same device.
pub fn device(seeded: &Seeded, index: usize) -> DeviceId {
    let bytes = seeded.user_id.as_bytes();
    let seed = u64::from_le_bytes(std::array::from_fn(|at| bytes[at] ^ bytes[at + 8]));
    DeviceId::from_bytes(Random::new(seed ^ (index as u64 + 1)).uuid_bytes())
}

/// A signed-in device.
pub struct Visit {
    client: FrameClient<()>,
    answered: Vec<()>,
    device_seq: u64,
}

impl Visit {
    /// Connects and signs in.
    pub async fn begin(server: SocketAddr, seeded: &Seeded, device: DeviceId) -> Result<Self, Error> {
        let hello = reader::hello(seeded, Some(device), wants::PROGRESS);
        let (client, signed_in) = FrameClient::over(dial(server).await?, &hello).await?;
        Ok(Self { client, answered: Vec::new(), device_seq: signed_in.last_seq })
    }

    /// Moves on in every one of `series` and waits until all of it is durable.
    pub async fn read_on(&mut self, series: &[MangaId]) -> Result<(), Error> {
        for manga in series {
            self.device_seq += 1;
            // Every visit ends further on than the last, since a device counts all it ever sent.
            let chapter = Chapter::from_hundredths(self.device_seq as u32).unwrap_or(Chapter::ZERO);
            let update =
                SetProgress { device_seq: Some(DeviceSeq(self.device_seq)), ..SetProgress::new(*manga, chapter) };
            while self.client.set_progress(&update, ()).is_err() {
                self.hear().await?;
            }
        }
        while self.client.connection().unanswered().len() > 0 {
            self.hear().await?;
        }
        Ok(())
    }

    /// Says goodbye and waits until the server has closed too.
    pub async fn leave(mut self) -> Result<(), Error> {
        self.client.connection().bye();
        self.client.flush().await?;
        let (mut stream, _) = self.client.into_parts();
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        Ok(())
    }

    async fn hear(&mut self) -> Result<(), Error> {
        match self.client.next(&mut self.answered).await? {
            Event::Bye(bye) => Err(bye.into()),
            Event::Reject(reject) => Err(reject.into()),
            _ => Ok(()),
        }
    }

    /// Keeps the connection open and does nothing more on it.
    pub fn stay(self) -> FrameClient<()> {
        self.client
    }
}
