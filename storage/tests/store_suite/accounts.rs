//! Users: their names are unique, whatever races; every key finds them.

use std::thread;

use storage::store::{NewUser, Role, SeedUser, StoreError, UniqueField, UserKey};

use crate::backend::{Backend, wait};
use crate::sample::{add_user, new_session, new_user, user_id};

pub(crate) fn a_name_belongs_to_one_user(backend: impl Backend) {
    let store = backend.store();
    add_user(&store, 1);
    let same_name = NewUser { email_folded: "other@example.org".into(), id: user_id(2), ..new_user(1) };
    assert_eq!(wait(store.create_user(same_name)), Err(StoreError::Taken { field: UniqueField::Username }));
    let same_email = NewUser { username_folded: "other".into(), id: user_id(2), ..new_user(1) };
    assert_eq!(wait(store.create_user(same_email)), Err(StoreError::Taken { field: UniqueField::Email }));
    assert_eq!(wait(store.count_users()), Ok(1));
}

pub(crate) fn a_user_is_found_by_every_key(backend: impl Backend) {
    let store = backend.store();
    add_user(&store, 1);
    add_user(&store, 2);
    let keys =
        [UserKey::Id(user_id(2)), UserKey::Username("reader2".into()), UserKey::Email("reader2@example.org".into())];
    for key in keys {
        let account = wait(store.find_user(key)).unwrap().unwrap();
        assert_eq!((account.id, account.username.as_str(), account.role), (user_id(2), "Reader2", Role::User));
        assert_eq!(account.created_at_unix_ms, 1_002);
    }
    assert_eq!(wait(store.find_user(UserKey::Username("Reader2".into()))), Ok(None), "keys are folded by the caller");
}

pub(crate) fn passwords_and_roles_change(backend: impl Backend) {
    let store = backend.store();
    let user = add_user(&store, 1);
    wait(store.set_password_hash(user, "new".into(), 9_000)).unwrap();
    wait(store.set_role(user, Role::Admin, 9_001)).unwrap();
    let admins = wait(store.admins()).unwrap();
    assert_eq!(admins.len(), 1);
    assert_eq!((admins[0].password_hash.as_str(), admins[0].updated_at_unix_ms), ("new", 9_001));
    let gone = Err(StoreError::NotFound { what: "user" });
    assert_eq!(wait(store.set_role(user_id(5), Role::Admin, 1)), gone);
    assert_eq!(wait(store.set_password_hash(user_id(5), "x".into(), 1)), gone);
}

pub(crate) fn seeding_leaves_existing_users_alone(backend: impl Backend) {
    let store = backend.store();
    add_user(&store, 3);
    let seed = |number| {
        let session = new_session(user_id(number), number, 5_000);
        SeedUser { user: NewUser { password_hash: "seeded".into(), ..new_user(number) }, session: Some(session) }
    };
    let users: Vec<SeedUser> = (0..500).map(seed).collect();
    assert_eq!(wait(store.seed_users(users.clone())), Ok(499));
    assert_eq!(wait(store.seed_users(users)), Ok(0));
    assert_eq!(wait(store.count_users()), Ok(500));
    let kept = wait(store.find_user(UserKey::Id(user_id(3)))).unwrap().unwrap();
    assert_ne!(kept.password_hash, "seeded");
    assert_eq!(wait(store.sessions(user_id(4), 6_000)).unwrap().len(), 1);
}

pub(crate) fn racing_registrations_make_one_user(backend: impl Backend) {
    let store = backend.store();
    let made: usize = thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|racer| {
                let store = store.clone();
                scope.spawn(move || wait(store.create_user(NewUser { id: user_id(racer), ..new_user(1) })))
            })
            .collect();
        racers.into_iter().map(|racer| usize::from(racer.join().unwrap().is_ok())).sum()
    });
    assert_eq!(made, 1);
    assert_eq!(wait(store.count_users()), Ok(1));
}
