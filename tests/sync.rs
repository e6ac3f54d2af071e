//! One person's devices stay in sync, whichever wire each is on, and nobody else hears of it.

use client::frames::Event;
use client::shell::{FrameClient, LineClient};
use proto::line::ServerLine;
use proto::{Chapter, MangaId};
use serde_json::json;

use crate::support::{PATIENCE, Stage, block_on, request, update};

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
    let stage = Stage::start(&[]);
    let (reader, stranger) = (stage.person("reader"), stage.person("stranger"));
    let manga = stage.ongoing_series();
    block_on(async {
        let mut phone = reader.on_frames(&stage, 1).await;
        let mut tablet = reader.on_lines(&stage).await;
        let mut other = stranger.on_frames(&stage, 3).await;
        // From frames to lines.
        phone.set_progress(&update(manga, 5, 1), 5).expect("the window is open");
        let mut answered = Vec::new();
        while answered.is_empty() {
            phone.next(&mut answered).await.expect("the update is acknowledged");
        }
        assert_eq!(announced_on_lines(&mut tablet).await, (manga, Chapter::whole(5)));
        // From lines to frames.
        tablet.set_progress(&update(manga, 6, 0));
        tablet.flush().await.expect("the line is sent");
        assert_eq!(announced_on_frames(&mut phone).await, (manga, Chapter::whole(6)));
        // From HTTP to both.
        let put = json!({"chapter": 7.5});
        let answer = request(stage.http(), "PUT", &format!("/api/progress/{manga}"), Some(&reader.token), Some(&put));
        assert_eq!((answer.status, &answer.body["chapter"]), (200, &json!(7.5)));
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
    let mut stage = Stage::start(&[]);
    let reader = stage.person("reader");
    let manga = stage.ongoing_series();
    block_on(async {
        let mut phone = reader.on_frames(&stage, 1).await;
        let mut tablet = reader.on_frames(&stage, 2).await;
        for chapter in 1..=50 {
            phone.set_progress(&update(manga, chapter, u64::from(chapter)), 0).expect("the window is open");
        }
        phone.flush().await.expect("the updates are sent");
        let (_, seen) = announced_on_frames(&mut tablet).await;
        stage.crash_and_restart();
        let answer = request(stage.http(), "GET", &format!("/api/progress/{manga}"), Some(&reader.token), None);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body["chapter"].as_f64() >= Some(seen.as_f64()), "{answer:?} after {seen} was announced");
    });
}

#[test]
fn a_retry_with_the_same_device_sequence_is_acknowledged_and_changes_nothing() {
    let mut stage = Stage::start(&[]);
    let reader = stage.person("reader");
    let manga = stage.ongoing_series();
    block_on(async {
        for (round, already) in [(0, false), (1, true), (2, true)] {
            if round == 2 {
                stage.crash_and_restart();
            }
            let mut phone = reader.on_frames(&stage, 1).await;
            phone.set_progress(&update(manga, 9, 1), 0).expect("the window is open");
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
    let stage = Stage::start(&[]);
    let reader = stage.person("reader");
    block_on(async {
        let mut phone = reader.on_frames(&stage, 1).await;
        let mut tablet = reader.on_lines(&stage).await;
        let body = json!({"refresh_token": reader.refresh_token});
        assert_eq!(request(stage.http(), "POST", "/auth/revoke", None, Some(&body)).status, 200);
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
        assert_eq!(request(stage.http(), "GET", "/api/progress", Some(&reader.token), None).status, 401);
    });
}
