//! What may be acknowledged only when the database has it: an update that asks for that, or all of them.

use std::time::Duration;

use client::frames::Event;
use proto::Code;
use proto::frame::SetProgress;
use proto::line::ServerLine;
use serde_json::json;

use super::{acknowledged, over, wait_for};
use crate::support::postgres::PostgresServer;
use crate::support::{Reader, block_on, eventually, progress};

#[test]
fn an_update_that_wants_the_database_is_acknowledged_when_that_has_it_and_not_before() {
    let mut postgres = PostgresServer::start();
    let server = over(&postgres.url()).start();
    let reader = Reader::register(&server, "reader");
    let manga = reader.series(&server, "berserk");
    let other = reader.series(&server, "one-piece");
    let wanting = |chapter: u32| {
        let put = server.request("PUT", &format!("/api/progress/{manga}")).bearer(&reader.token);
        put.header("prefer", "ack=database").json(&json!({"chapter": chapter}))
    };
    let stored = |postgres: &PostgresServer| {
        postgres.query(&format!("SELECT chapter FROM user_progress WHERE manga_id = {manga}"))
    };
    let answer = wanting(1).send().expect(200);
    assert_eq!(answer.header("preference-applied"), Some("ack=database"));
    assert_eq!(stored(&postgres), ["100"]);
    let answer = reader.put_progress(&server, other, &json!({"chapter": 1})).expect(200);
    assert_eq!(answer.header("preference-applied"), None);

    block_on(async {
        let mut phone = reader.on_frames(&server, 1).await;
        let mut tablet = reader.on_lines(&server).await;
        tablet.set_progress(&SetProgress { ack_database: true, ..progress(other, 2, None) });
        while !matches!(tablet.next().await.expect("the connection lives"), ServerLine::ProgressAck(_)) {}
        assert_eq!(postgres.query(&format!("SELECT chapter FROM user_progress WHERE manga_id = {other}")), ["200"]);
        postgres.go_down();
        let in_the_journal = |chapter: u32| {
            eventually("the update is in the journal", || {
                (reader.progress(&server, manga)["chapter"] == json!(chapter)).then_some(())
            });
        };
        // Readable, but not acknowledged to who wants more.
        let request = wanting(2);
        let on_http = std::thread::spawn(move || request.send());
        in_the_journal(2);
        let wanted = SetProgress { ack_database: true, ..progress(manga, 3, None) };
        phone.set_progress(&wanted, 3).expect("the window is open");
        phone.flush().await.expect("it is sent");
        in_the_journal(3);
        // One that asks for the journal alone is not held up by those.
        reader.put_progress(&server, other, &json!({"chapter": 3})).expect(200);
        wait_for(&server, "degraded", "down");
        assert!(!on_http.is_finished(), "the database does not have it");
        let early = tokio::time::timeout(Duration::from_millis(200), acknowledged(&mut phone)).await;
        assert!(early.is_err(), "the database does not have it");
        postgres.go_up();
        acknowledged(&mut phone).await;
        assert_eq!(stored(&postgres), ["300"]);
        on_http.join().unwrap().expect(200);
    });
}

#[test]
fn a_server_may_acknowledge_everything_only_when_the_database_has_it() {
    let mut postgres = PostgresServer::start();
    let server = over(&postgres.url()).set("progress.ack", "database").start();
    let reader = Reader::register(&server, "reader");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 1})).expect(200);
    assert_eq!(postgres.query("SELECT chapter FROM user_progress"), ["100"]);
    postgres.go_down();
    let path = format!("/api/library/{manga}");
    std::thread::scope(|scope| {
        let update = scope.spawn(|| reader.put_progress(&server, manga, &json!({"chapter": 2})));
        eventually("the update is in the journal", || {
            (reader.progress(&server, manga)["chapter"] == json!(2)).then_some(())
        });
        let status = scope.spawn(|| {
            let patch = server.request("PATCH", &path).bearer(&reader.token);
            patch.json(&json!({"status": "dropped"})).send()
        });
        eventually("the status is in the journal", || {
            (reader.progress(&server, manga)["status"] == json!("dropped")).then_some(())
        });
        wait_for(&server, "degraded", "down");
        assert!(!update.is_finished() && !status.is_finished(), "the database has neither");
        postgres.go_up();
        update.join().unwrap().expect(200);
        status.join().unwrap().expect(200);
    });
    assert_eq!(postgres.query("SELECT chapter FROM user_progress"), ["200"]);
    assert_eq!(postgres.query("SELECT status FROM user_library").len(), 1);
}

#[test]
fn who_waits_for_the_database_for_too_long_is_told_that_the_change_was_made() {
    let mut postgres = PostgresServer::start();
    let server = over(&postgres.url()).set("progress.ack_database_max_ms", "300").start();
    let reader = Reader::register(&server, "reader");
    let [manga, other] = ["berserk", "one-piece"].map(|slug| reader.series(&server, slug));
    reader.put_progress(&server, other, &json!({"chapter": 1})).expect(200);
    postgres.go_down();
    let put = server.request("PUT", &format!("/api/progress/{manga}")).bearer(&reader.token);
    let told = put.header("prefer", "ack=database").json(&json!({"chapter": 2})).send();
    assert_eq!((told.status, &told.json()["code"]), (503, &json!("not_in_database")));
    assert!(told.header("retry-after").is_some() && told.header("preference-applied").is_none(), "{told:#?}");
    assert_eq!(reader.progress(&server, manga)["chapter"], json!(2));
    block_on(async {
        let mut phone = reader.on_frames(&server, 1).await;
        let wanted = SetProgress { ack_database: true, ..progress(manga, 3, Some(1)) };
        phone.set_progress(&wanted, 1).expect("the window is open");
        let mut answered = Vec::new();
        let code = loop {
            match phone.next(&mut answered).await.expect("the connection lives") {
                Event::Reject(reject) => break reject.code,
                Event::Ack(_) => panic!("the database does not have it"),
                _ => {}
            }
        };
        assert_eq!(Code::from_u16(code), Some(Code::NotInDatabase));
        let mut tablet = reader.on_lines(&server).await;
        tablet.set_progress(&SetProgress { ack_database: true, ..progress(other, 3, None) });
        let told = loop {
            match tablet.next().await.expect("the connection lives") {
                ServerLine::Error(told) => break told.code.into_owned(),
                ServerLine::ProgressAck(_) => panic!("the database does not have it"),
                _ => {}
            }
        };
        assert_eq!(told, "NOT_IN_DATABASE");
        assert_eq!(reader.progress(&server, manga)["chapter"], json!(3));
        postgres.go_up();
        wait_for(&server, "ready", "healthy");
        // The same change again, and nothing but the answer is new.
        phone.set_progress(&wanted, 2).expect("the window is open");
        acknowledged(&mut phone).await;
    });
    assert_eq!(postgres.query("SELECT last_seq FROM devices"), ["1"]);
    assert_eq!(postgres.query("SELECT chapter FROM user_progress ORDER BY chapter"), ["300", "300"]);
}
