//! One person's devices stay in sync, whichever wire each is on, and nobody else hears of it.

use client::frames::Event;
use client::shell::{FrameClient, LineClient};
use proto::line::ServerLine;
use proto::{Chapter, MangaId};
use serde_json::json;

use crate::support::{PATIENCE, Reader, Server, block_on, progress};

/// The next announcement on frames.
async fn announced_on_frames(client: &mut FrameClient<u64>) -> (MangaId, Chapter) {
    let mut answered = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, client.next(&mut answered)).await.expect("an announcement comes");
        if let Event::Progress { entry, .. } = event.expect("the connection lives") {
            return (entry.manga, entry.key.chapter);
        }
    }
}

/// The next announcement on JSON lines.
async fn announced_on_lines(client: &mut LineClient) -> (MangaId, Chapter) {
    loop {
        let line = tokio::time::timeout(PATIENCE, client.next()).await.expect("an announcement comes");
        if let ServerLine::ProgressBroadcast(broadcast) = line.expect("the connection lives") {
            return (broadcast.manga_id, broadcast.chapter);
        }
    }
}

/// Everything the server sends up to the answer of a Ping, which it sends behind whatever was queued: the announcements in it.
async fn announcements_before_a_pong(client: &mut FrameClient<u64>) -> usize {
    client.connection().ping(7);
    let (mut count, mut answered) = (0, Vec::new());
    loop {
        let event = tokio::time::timeout(PATIENCE, client.next(&mut answered)).await.expect("the ping is answered");
        match event.expect("the connection lives") {
            Event::Progress { .. } => count += 1,
            Event::Pong(_) => return count,
            _ => {}
        }
    }
}

#[test]
fn an_update_through_any_door_reaches_the_persons_other_devices_once_and_nobody_else() {
    let server = Server::start();
    let (reader, stranger) = (Reader::register(&server, "reader"), Reader::register(&server, "stranger"));
    let manga = reader.series(&server, "berserk");
    block_on(async {
        let mut phone = reader.on_frames(&server, 1).await;
        let mut tablet = reader.on_lines(&server).await;
        let mut other = stranger.on_frames(&server, 3).await;
        // From frames to lines.
        phone.set_progress(&progress(manga, 5, Some(1)), 5).expect("the window is open");
        let mut answered = Vec::new();
        while answered.is_empty() {
            phone.next(&mut answered).await.expect("the update is acknowledged");
        }
        assert_eq!(announced_on_lines(&mut tablet).await, (manga, Chapter::whole(5)));
        // From lines to frames.
        tablet.set_progress(&progress(manga, 6, None));
        tablet.flush().await.expect("the line is sent");
        assert_eq!(announced_on_frames(&mut phone).await, (manga, Chapter::whole(6)));
        // From HTTP to both.
        let answer = reader.put_progress(&server, manga, &json!({"chapter": 7.5})).expect(200).json();
        assert_eq!(answer["chapter"], json!(7.5));
        let expected = (manga, "7.5".parse().expect("a chapter"));
        assert_eq!(announced_on_frames(&mut phone).await, expected);
        assert_eq!(announced_on_lines(&mut tablet).await, expected);
        // Once each, and to nobody else.
        assert_eq!(announcements_before_a_pong(&mut phone).await, 0);
        assert_eq!(announcements_before_a_pong(&mut other).await, 0);
    });
}

#[test]
fn what_was_announced_is_there_after_a_crash() {
    let mut server = Server::start();
    let reader = Reader::register(&server, "reader");
    let manga = reader.series(&server, "berserk");
    block_on(async {
        let mut phone = reader.on_frames(&server, 1).await;
        let mut tablet = reader.on_frames(&server, 2).await;
        for chapter in 1..=50 {
            phone.set_progress(&progress(manga, chapter, Some(u64::from(chapter))), 0).expect("the window is open");
        }
        phone.flush().await.expect("the updates are sent");
        let (_, seen) = announced_on_frames(&mut tablet).await;
        server = server.kill().start();
        let there = reader.progress(&server, manga);
        assert!(there["chapter"].as_f64() >= Some(seen.as_f64()), "{there} after {seen} was announced");
    });
}

#[test]
fn a_retry_with_the_same_device_sequence_is_acknowledged_and_changes_nothing() {
    let mut server = Server::start();
    let reader = Reader::register(&server, "reader");
    let manga = reader.series(&server, "berserk");
    block_on(async {
        for (round, already) in [(0, false), (1, true), (2, true)] {
            if round == 2 {
                server = server.kill().start();
            }
            let mut phone = reader.on_frames(&server, 1).await;
            phone.set_progress(&progress(manga, 9, Some(1)), 0).expect("the window is open");
            let mut answered = Vec::new();
            loop {
                let event = tokio::time::timeout(PATIENCE, phone.next(&mut answered)).await.expect("an answer comes");
                match event.expect("the connection lives") {
                    Event::Ack(ack) => break assert_eq!(ack.already, already, "in round {round}"),
                    Event::Reject(reject) => panic!("{reject:?}"),
                    _ => {}
                }
            }
        }
    });
}

#[test]
fn a_revoked_session_is_closed_at_once_on_every_wire() {
    let server = Server::start();
    let reader = Reader::register(&server, "reader");
    block_on(async {
        let mut phone = reader.on_frames(&server, 1).await;
        let mut tablet = reader.on_lines(&server).await;
        let body = json!({"refresh_token": reader.refresh_token});
        server.request("POST", "/auth/revoke").json(&body).send().expect(200);
        let (mut answered, deadline) = (Vec::new(), PATIENCE);
        let ended = tokio::time::timeout(deadline, async {
            loop {
                match phone.next(&mut answered).await {
                    Ok(Event::Bye(bye)) => break bye.code,
                    Ok(_) => {}
                    Err(_) => break 0,
                }
            }
        });
        assert_eq!(ended.await.expect("the connection ends"), proto::Code::Revoked as u16);
        let ended = tokio::time::timeout(deadline, async { while tablet.next().await.is_ok() {} });
        ended.await.expect("the connection ends");
        server.request("GET", "/api/progress").bearer(&reader.token).send().expect(401);
    });
}
