//! Reads what a server has, through its door: every series' state of one user, as any device would ask for it; and waits for
//! answers, those that come after a "not now" included.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use client::frames::Event;
use client::shell::{Error, FrameClient};
use proto::frame::{Hello, ProgressEntry, ResumeToken};
use proto::{Code, DeviceId, MangaId};

use crate::tokens::Seeded;

/// How long to wait before somebody who was refused for the moment comes again.
const COME_AGAIN: Duration = Duration::from_millis(20);
/// How often somebody is refused before the run fails.
const REFUSALS_MAX: u32 = 1_000;

/// A Hello of the harness.
pub fn hello<'a>(seeded: &'a Seeded, device: Option<DeviceId>, wants: u32) -> Hello<'a> {
    Hello {
        token: &seeded.token,
        device,
        resume: ResumeToken::NONE,
        client_name: "loadtest",
        client_version: env!("CARGO_PKG_VERSION"),
        wants,
    }
}

/// Waits until everything that was sent is answered; a refusal is an error.
pub async fn answered<T>(client: &mut FrameClient<T>) -> Result<(), Error> {
    let mut answered = Vec::new();
    while client.connection().unanswered().len() > 0 {
        match client.next(&mut answered).await? {
            Event::Bye(bye) => return Err(bye.into()),
            Event::Reject(reject) => return Err(reject.into()),
            _ => {}
        }
    }
    Ok(())
}

/// A visit, begun anew while the server says "not now"; `told` hears of each time.
pub async fn patiently(
    mut visit: impl AsyncFnMut() -> Result<(), Error>,
    mut told: impl FnMut(Code),
) -> Result<(), Error> {
    for _ in 0..REFUSALS_MAX {
        match visit().await {
            Err(Error::Closed { code: Some(code @ (Code::Busy | Code::Unavailable | Code::Capacity)), .. }) => {
                told(code);
                tokio::time::sleep(COME_AGAIN).await;
            }
            other => return other,
        }
    }
    Err(io::Error::other(format!("somebody was told to come again {REFUSALS_MAX} times")).into())
}

/// All of a user's states, by series.
pub async fn states(server: SocketAddr, seeded: &Seeded) -> Result<HashMap<MangaId, ProgressEntry>, Error> {
    let (mut client, _) = FrameClient::<()>::connect(server, &hello(seeded, None, 0)).await?;
    states_on(&mut client).await
}

/// The same on a connection there is; announcements that come meanwhile are left out, since the states are newer.
pub async fn states_on<T>(client: &mut FrameClient<T>) -> Result<HashMap<MangaId, ProgressEntry>, Error> {
    let asked = client.connection().get(None);
    let (mut states, mut answered) = (HashMap::new(), Vec::new());
    loop {
        match client.next(&mut answered).await? {
            Event::State { seq, state } if seq == asked => {
                states.extend(state.entries.iter().map(|entry| (entry.manga, entry)));
                if state.last {
                    return Ok(states);
                }
            }
            Event::Reject(reject) => return Err(reject.into()),
            Event::Bye(bye) => return Err(bye.into()),
            _ => {}
        }
    }
}
