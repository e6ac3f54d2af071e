//! What a restart may not change: an answer that waits for the database still waits, and whatever the mix of commands,
//! memory, store and shards, the state is the one that was acknowledged.

mod common;

use common::store_seam::Switched;
use common::{Server, attach, chapter, config, outgoing, until};
use engine::boot::Seams;
use engine::{Done, Outgoing, SetProgress};
use proto::{DeviceId, DeviceSeq};

fn with_store(store: &Switched) -> Seams {
    Seams { store: Some(store.seam()), ..Seams::default() }
}

#[test]
fn a_retry_after_a_restart_still_waits_for_the_database_it_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let device = DeviceId::new_v7();
    let (token, manga) = {
        let store = Switched::default();
        let mut impatient = config(folder.path(), 1);
        impatient.limits.drain = std::time::Duration::from_millis(300);
        let server = Server::start(impatient, with_store(&store));
        let (tokens, series) = server.seed(1, 1);
        store.set_holds(true);
        let update = SetProgress {
            device: Some(device),
            device_seq: Some(DeviceSeq(1)),
            ..SetProgress::to(series[0], chapter(3))
        };
        let done = server.set(0, &tokens[0], update).unwrap();
        assert!(matches!(done, Done::Progress(acked) if !acked.already));
        server.stop();
        (tokens[0].clone(), series[0])
    };
    let store = Switched::default();
    store.set_holds(true);
    let server = Server::start(config(folder.path(), 1), with_store(&store));
    let behind = server.running().admin().backlog();
    assert!(behind.stored_lsn < behind.durable_lsn, "{behind:?}");
    let reopened = store.clone();
    let acks = server.on(0, move |engine| async move {
        let attachment = attach(&engine, &token).await;
        let retry = SetProgress {
            device: Some(device),
            device_seq: Some(DeviceSeq(1)),
            ack_database: true,
            ..SetProgress::to(manga, chapter(3))
        };
        attachment.submit(1, retry).unwrap();
        let mut early = Vec::new();
        for _ in 0..20 {
            runtime::sleep(std::time::Duration::from_millis(5)).await;
            attachment.try_next(&mut early);
        }
        assert!(early.is_empty(), "acknowledged as stored while only the journal has it: {early:?}");
        reopened.set_holds(false);
        outgoing(&attachment, 1).await
    });
    assert!(matches!(&acks[0], Outgoing::Ack { seq: 1, acked } if acked.already), "{acks:?}");
    until("the store has it", || {
        let backlog = server.running().admin().backlog();
        backlog.stored_lsn >= backlog.durable_lsn
    });
}
