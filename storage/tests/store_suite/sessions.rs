//! Sessions and refresh tokens: single use under any race, and a revocation that is told once and remembered.

use std::thread;

use proto::SessionId;
use storage::store::{NewSession, RevokeAt, Rotate, Rotation, StoreError};

use crate::backend::{Backend, wait};
use crate::sample::{add_user, new_session, token, user_id};

const NOW: u64 = 10_000;
const AT: RevokeAt = RevokeAt { now_unix_ms: NOW + 50, keep_until_unix_ms: NOW + 5_000 };

fn rotate(presented: u64, next: u64, now_unix_ms: u64) -> Rotate {
    Rotate {
        presented: token(presented, 0).hash,
        next: token(next, now_unix_ms + 1_000_000),
        now_unix_ms,
        keep_revocations_until_unix_ms: now_unix_ms + 5_000,
    }
}

pub(crate) fn a_refresh_token_works_once(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    let session = new_session(user, 1, NOW);
    assert_eq!(wait(store.open_session(session.clone())), Ok(vec![]));
    let Rotation::Rotated { session: rotated, account } = wait(store.rotate(rotate(1, 2, NOW + 10))).unwrap() else {
        panic!("a fresh token is good");
    };
    assert_eq!((rotated.sid, rotated.user, account.id), (session.sid, user, user));
    assert_eq!((rotated.last_seen_at_unix_ms, rotated.expires_at_unix_ms), (NOW + 10, NOW + 1_000_010));
    assert!(matches!(wait(store.rotate(rotate(2, 3, NOW + 20))), Ok(Rotation::Rotated { .. })));
    assert_eq!(wait(store.rotate(rotate(99, 4, NOW))), Ok(Rotation::Unknown));
    assert_eq!(wait(store.open_session(new_session(user_id(9), 9, NOW))), Err(StoreError::NotFound { what: "user" }));
}

pub(crate) fn a_used_token_ends_its_session(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    wait(store.open_session(new_session(user, 1, NOW))).unwrap();
    wait(store.rotate(rotate(1, 2, NOW + 10))).unwrap();
    let Rotation::Reused(revoked) = wait(store.rotate(rotate(1, 3, NOW + 20))).unwrap() else {
        panic!("a used token is recognised");
    };
    assert_eq!((revoked.grant, revoked.user), (new_session(user, 1, NOW).sid, user));
    assert_eq!(wait(store.rotate(rotate(2, 4, NOW + 30))), Ok(Rotation::Expired), "its successor is worth nothing");
    assert_eq!(wait(store.rotate(rotate(3, 4, NOW + 30))), Ok(Rotation::Unknown), "the thief got none");
    assert_eq!(wait(store.sessions(user, NOW + 30)), Ok(vec![]));
    assert_eq!(wait(store.revocations(NOW, NOW + 30, 10)), Ok(vec![revoked]));
    let backend = backend_after(backend, store);
    assert_eq!(wait(backend.store().revocations(NOW, NOW + 30, 10)), Ok(vec![revoked]));
}

fn backend_after<B: Backend>(backend: B, store: storage::store::SharedStore) -> B {
    drop(store);
    backend.reopened()
}

pub(crate) fn racing_refreshes_rotate_once_and_end_the_session(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    wait(store.open_session(new_session(user, 1, NOW))).unwrap();
    let outcomes: Vec<Rotation> = thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|racer| {
                let store = store.clone();
                scope.spawn(move || wait(store.rotate(rotate(1, 100 + racer, NOW + 10))).unwrap())
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let count = |wanted: fn(&Rotation) -> bool| outcomes.iter().filter(|outcome| wanted(outcome)).count();
    assert_eq!(count(|outcome| matches!(outcome, Rotation::Rotated { .. })), 1);
    assert_eq!(count(|outcome| matches!(outcome, Rotation::Reused(_))), 1, "the revocation is told once");
    assert_eq!(count(|outcome| matches!(outcome, Rotation::Expired)), 6);
    assert_eq!(wait(store.sessions(user, NOW + 20)), Ok(vec![]));
}

pub(crate) fn an_expired_token_is_not_rotated(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    wait(store.open_session(new_session(user, 1, NOW))).unwrap();
    let late = NOW + 1_000_000;
    assert_eq!(wait(store.rotate(rotate(1, 2, late))), Ok(Rotation::Expired));
    assert_eq!(wait(store.sessions(user, late)), Ok(vec![]), "the session ended with its token");
    assert_eq!(wait(store.revocations(0, late, 10)), Ok(vec![]), "which is no revocation");
}

pub(crate) fn revoking_names_the_grant_once(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    let sid = new_session(user, 1, NOW).sid;
    wait(store.open_session(new_session(user, 1, NOW))).unwrap();
    let revoked = wait(store.revoke_by_token(token(1, 0).hash, AT)).unwrap().unwrap();
    assert_eq!((revoked.grant, revoked.user, revoked.revoked_at_unix_ms), (sid, user, NOW + 50));
    assert_eq!(wait(store.revoke_by_token(token(1, 0).hash, AT)), Ok(None));
    assert_eq!(wait(store.revoke_by_token(token(5, 0).hash, AT)), Ok(None));
    assert_eq!(wait(store.revoke_session(user, sid, AT)), Ok(None));
    assert_eq!(wait(store.revocations(NOW + 51, NOW, 10)), Ok(vec![]));
    let later = RevokeAt { now_unix_ms: NOW + 60, ..AT };
    wait(store.open_session(new_session(user, 2, NOW))).unwrap();
    let next = wait(store.revoke_by_token(token(2, 0).hash, later)).unwrap().unwrap();
    assert_eq!(wait(store.revocations(0, NOW, 2)), Ok(vec![next, revoked]), "newest first");
    assert_eq!(wait(store.revocations(0, NOW, 1)), Ok(vec![next]));
    assert_eq!(wait(store.revocations(NOW + 50, NOW + 5_000, 10)), Ok(vec![]), "too old to matter");
}

pub(crate) fn a_user_cannot_revoke_anothers_session(backend: impl Backend) {
    let store = backend.store();
    let (owner, other) = (add_user(&store, 1), add_user(&store, 2));
    wait(store.open_session(new_session(owner, 1, NOW))).unwrap();
    let sid = new_session(owner, 1, NOW).sid;
    assert_eq!(wait(store.revoke_session(other, sid, AT)), Ok(None));
    assert_eq!(wait(store.sessions(owner, NOW)).unwrap().len(), 1);
    assert!(wait(store.revoke_session(owner, sid, AT)).unwrap().is_some());
}

pub(crate) fn a_password_change_ends_the_other_sessions(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    for number in 1..=4 {
        wait(store.open_session(new_session(user, number, NOW + number))).unwrap();
    }
    let keep = new_session(user, 2, NOW).sid;
    let revoked = wait(store.revoke_all(user, Some(keep), AT)).unwrap();
    assert_eq!(revoked.len(), 3);
    let left: Vec<SessionId> = wait(store.sessions(user, NOW)).unwrap().iter().map(|session| session.sid).collect();
    assert_eq!(left, [keep]);
}

pub(crate) fn the_longest_unseen_session_makes_room(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    let open = |number, at| {
        let session = NewSession { sessions_per_user_max: 3, ..new_session(user, number, at) };
        wait(store.open_session(session)).unwrap()
    };
    (1..=3).for_each(|number| assert_eq!(open(number, NOW + number), vec![]));
    // Heard of again.
    assert!(matches!(wait(store.rotate(rotate(1, 9, NOW + 100))), Ok(Rotation::Rotated { .. })));
    let evicted = open(4, NOW + 4);
    let gone: Vec<SessionId> = evicted.iter().map(|revoked| revoked.grant).collect();
    assert_eq!(gone, [new_session(user, 2, NOW).sid]);
    assert_eq!(wait(store.sessions(user, NOW)).unwrap().len(), 3);
}

pub(crate) fn purging_forgets_what_nothing_can_name(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    for number in 1..=2 {
        wait(store.open_session(new_session(user, number, NOW + number))).unwrap();
    }
    wait(store.rotate(rotate(2, 3, NOW + 500_000))).unwrap();
    wait(store.revoke_by_token(token(1, 0).hash, AT)).unwrap();
    let before = wait(store.purge(NOW, 0)).unwrap();
    assert_eq!((before.refresh_tokens, before.sessions, before.revocations), (0, 0, 0));
    let purged = wait(store.purge(NOW + 1_000_002, 0)).unwrap();
    assert_eq!((purged.refresh_tokens, purged.sessions, purged.revocations), (2, 1, 1));
    assert!(matches!(wait(store.rotate(rotate(3, 4, NOW + 1_000_003))), Ok(Rotation::Rotated { .. })));
}
