//! The rules of progress, one promise per test: totals, going back, tokens, statuses, history.

use crate::support::*;
use hub::token::permits;
use hub::{Command, LocalDay, Outcome, Reject, SeriesFacts, SetProgress, Strategy, UtcOffset};
use proto::{Code, ConflictToken, MergeKey, NodeId, Page, ReadingStatus, SeriesStatus, UserId};

fn strategy(world: &mut World, strategy: Strategy) {
    world.applied(Command::SetPreferences { strategy: Some(strategy), utc_offset: None });
}

#[test]
fn a_series_the_catalogue_does_not_have_is_rejected() {
    let mut world = World::new();
    world.facts = None;
    assert_eq!(world.rejected(set("1")).code(), Code::NotFound);
    let add = Command::AddToLibrary { manga: SERIES, status: None };
    assert_eq!(world.rejected(add).code(), Code::NotFound);
}

#[test]
fn beyond_a_final_total_is_rejected_with_the_valid_range() {
    let mut world = World::new();
    world.facts = Some(SeriesFacts { total: Some(1_100), status: SeriesStatus::Completed });
    let reject = world.rejected(set("2000"));
    assert_eq!(reject.to_string(), "Chapter 2000 exceeds this series' total (1100). Valid range: 0-1100.");
    assert_eq!(reject.code(), Code::ChapterOutOfRange);
    world.facts = Some(SeriesFacts { total: Some(95), status: SeriesStatus::Cancelled });
    assert!(matches!(world.rejected(set("96")), Reject::BeyondTotal { total: 95, .. }));
    world.applied(set("95.5"));
    // Force is about going back, not about chapters that do not exist.
    world.rejected(SetProgress { force: true, ..set("96") });
}

#[test]
fn beyond_a_lagging_total_is_accepted_and_marked() {
    let mut world = World::new();
    assert!(!world.applied(set("95.99")).ahead());
    let change = world.applied(set("96"));
    assert!(change.ahead() && change.view().unwrap().ahead && world.state.progress(SERIES).unwrap().ahead);
    world.strict_total = true;
    assert!(matches!(world.rejected(set("97")), Reject::BeyondTotal { .. }));
    for unknown in [None, Some(0)] {
        world.facts = Some(SeriesFacts { total: unknown, status: SeriesStatus::Completed });
        assert!(!world.applied(set("1000000")).ahead());
    }
}

#[test]
fn the_last_chapter_of_a_completed_series_offers_completed() {
    let mut world = World::new();
    world.facts = Some(COMPLETED);
    assert!(!world.applied(set("94.5")).offers_completed);
    assert!(world.applied(set("95")).offers_completed);
    let done = SetProgress { status: Some(ReadingStatus::Completed), ..set("95.5") };
    assert!(!world.applied(done).offers_completed);
    let mut world = World::new();
    assert!(!world.applied(set("95")).offers_completed, "an ongoing series has no last chapter");
}

#[test]
fn furthest_refuses_to_go_back_unless_forced() {
    let mut world = World::new();
    world.applied(set("95"));
    let conflict = world.conflict(set("50"));
    assert_eq!(conflict.to_string(), "Chapter 50 is behind your current progress (95). Use --force to go back.");
    assert_eq!((conflict.stored.key.chapter, conflict.token), (chapter("95"), None));
    let change = world.applied(SetProgress { force: true, ..set("50") });
    let key = change.view().unwrap().key;
    assert_eq!((key.generation, world.chapter().as_deref()), (key.version, Some("50")));
    // An ordinary change after it inherits the generation.
    let next = world.applied(set("51")).view().unwrap().key;
    assert_eq!(next.generation, key.generation);
    assert!(next > key);
}

#[test]
fn a_lower_page_of_the_same_chapter_is_not_going_back() {
    let mut world = World::new();
    world.applied(SetProgress { page: Some(Page(20)), ..set("5.5") });
    let view = world.applied(SetProgress { page: Some(Page(3)), ..set("5.5") }).view().unwrap();
    assert_eq!(view.page, Some(Page(3)));
    assert_eq!(world.applied(set("5.5")).view().unwrap().page, Some(Page(3)), "the page stays while the chapter does");
    assert_eq!(world.applied(set("6")).view().unwrap().page, None);
    world.conflict(set("5.99"));
}

#[test]
fn latest_goes_back_unasked_and_every_write_opens_a_generation() {
    let mut world = World::new();
    world.applied(set("95"));
    strategy(&mut world, Strategy::Latest);
    for text in ["50", "51", "51"] {
        let key = world.applied(set(text)).view().unwrap().key;
        assert_eq!(key.generation, key.version);
    }
    assert_eq!(world.chapter().as_deref(), Some("51"));
}

#[test]
fn ask_answers_both_sides_and_a_token_that_says_yes() {
    let mut world = World::new();
    strategy(&mut world, Strategy::Ask);
    world.applied(set("95"));
    let conflict = world.conflict(set("50"));
    assert_eq!((conflict.stored.key.chapter, conflict.proposed.chapter), (chapter("95"), chapter("50")));
    let conflict_token = conflict.token;
    world.wall_ms += 599_000;
    world.applied(SetProgress { conflict_token, ..set("50") });
    assert_eq!(world.chapter().as_deref(), Some("50"));
    // Used, it names a key that is no longer there.
    let again = world.conflict(SetProgress { conflict_token, ..set("40") });
    assert_ne!(again.token, conflict_token);
}

#[test]
fn a_token_is_good_for_its_user_series_key_and_ten_minutes_only() {
    let mut world = World::new();
    strategy(&mut world, Strategy::Ask);
    world.applied(set("95"));
    let token = world.conflict(set("50")).token.unwrap();
    let key = world.state.progress(SERIES).unwrap().key;
    let ours = |message: &[u8]| tag(42, message);
    assert!(permits(token, &ours, USER, SERIES, &key, NOON_MS + 600_000));
    assert!(!permits(token, &ours, USER, SERIES, &key, NOON_MS + 601_000));
    assert!(!permits(token, &ours, UserId::from_bytes([2; 16]), SERIES, &key, NOON_MS));
    assert!(!permits(token, &ours, USER, proto::MangaId(8), &key, NOON_MS));
    assert!(!permits(token, &ours, USER, SERIES, &MergeKey { node: NodeId(9), ..key }, NOON_MS));
    assert!(!permits(token, &|message: &[u8]| tag(43, message), USER, SERIES, &key, NOON_MS));
    for at in 0..16 {
        let mut bytes = *token.as_bytes();
        bytes[at] ^= 1;
        let forged = ConflictToken::from_bytes(bytes).unwrap();
        assert!(!permits(forged, &ours, USER, SERIES, &key, NOON_MS), "byte {at}");
    }
    assert_eq!(token.to_string().parse(), Ok(token));
    assert!("00".parse::<ConflictToken>().is_err());
    world.wall_ms += 601_000;
    world.conflict(SetProgress { conflict_token: Some(token), ..set("50") });
}

#[test]
fn reading_again_implies_force_and_opens_one_generation() {
    let mut world = World::new();
    world.applied(SetProgress { status: Some(ReadingStatus::Completed), ..set("95") });
    let again = SetProgress { status: Some(ReadingStatus::ReReading), ..set("1") };
    let key = world.applied(again).view().unwrap().key;
    assert_eq!(key.generation, key.version);
    let on = SetProgress { status: Some(ReadingStatus::ReReading), ..set("2") };
    assert_eq!(world.applied(on).view().unwrap().key.generation, key.generation);
    assert_eq!(world.state.library(SERIES).unwrap().status, ReadingStatus::ReReading);
}

#[test]
fn deleting_leaves_a_tombstone_that_wins_over_what_it_deleted() {
    let mut world = World::new();
    let before = world.applied(set("95")).view().unwrap().key;
    let gone = world.applied(Command::DeleteProgress { manga: SERIES }).view().unwrap();
    assert!(gone.deleted && gone.key > before && gone.key.generation == gone.key.version);
    assert_eq!(world.state.progress(SERIES), None);
    assert_eq!(world.rejected(Command::DeleteProgress { manga: SERIES }).code(), Code::NotFound);
    let anew = world.applied(set("1")).view().unwrap();
    assert!(anew.key > gone.key && !anew.deleted);
}

#[test]
fn first_progress_puts_a_series_into_the_library_as_reading() {
    let mut world = World::new();
    let change = world.applied(set("1"));
    assert_eq!(change.view().unwrap().status, Some(ReadingStatus::Reading));
    world.applied(Command::SetLibraryStatus { manga: SERIES, status: ReadingStatus::OnHold });
    assert_eq!(world.applied(set("2")).view().unwrap().status, Some(ReadingStatus::OnHold));
    world.applied(Command::RemoveFromLibrary { manga: SERIES });
    assert_eq!(world.applied(set("3")).view().unwrap().status, None, "taken out stays out");
    let named = SetProgress { status: Some(ReadingStatus::Dropped), ..set("3") };
    assert_eq!(world.applied(named).view().unwrap().status, Some(ReadingStatus::Dropped));
}

#[test]
fn a_planned_series_is_being_read_from_its_first_progress_on() {
    let mut world = World::new();
    world.applied(Command::AddToLibrary { manga: SERIES, status: None });
    let added = world.state.library(SERIES).unwrap();
    assert_eq!(added.status, ReadingStatus::PlanToRead);
    world.wall_ms += 1_000;
    world.applied(set("1"));
    let now = world.state.library(SERIES).unwrap();
    assert_eq!((now.status, now.added_at_ms), (ReadingStatus::Reading, added.added_at_ms));
}

#[test]
fn the_library_knows_what_it_has() {
    let mut world = World::new();
    let status = ReadingStatus::Dropped;
    assert_eq!(world.rejected(Command::SetLibraryStatus { manga: SERIES, status }).code(), Code::NotFound);
    assert_eq!(world.rejected(Command::RemoveFromLibrary { manga: SERIES }).code(), Code::NotFound);
    world.applied(Command::AddToLibrary { manga: SERIES, status: Some(status) });
    let again = world.rejected(Command::AddToLibrary { manga: SERIES, status: None });
    assert_eq!(again.code(), Code::AlreadyExists);
    world.applied(Command::RemoveFromLibrary { manga: SERIES });
    assert_eq!(world.state.library_views().count(), 0);
    world.applied(Command::AddToLibrary { manga: SERIES, status: None });
    assert_eq!(world.state.library_views().count(), 1);
}

#[test]
fn history_keeps_one_row_a_day_as_results() {
    let mut world = World::new();
    for text in ["5", "5.5", "6", "100"] {
        world.facts = Some(SeriesFacts { total: None, status: SeriesStatus::Ongoing });
        world.applied(set(text));
    }
    let row = world.state.history(SERIES).unwrap();
    assert_eq!((row.day.to_string().as_str(), row.updates, row.chapters), ("2026-03-01", 4, 100));
    assert_eq!((row.first, row.last, row.jump), (chapter("5"), chapter("100"), true));
    world.wall_ms += 86_400_000;
    world.applied(set("101"));
    let next = world.state.history(SERIES).unwrap();
    assert_eq!((next.day, next.updates, next.chapters, next.jump), (LocalDay(row.day.0 + 1), 1, 1, false));
}

#[test]
fn a_jump_from_5_to_100_is_95_chapters_marked_as_a_jump() {
    let mut world = World::new();
    world.applied(set("5"));
    world.wall_ms += 86_400_000;
    world.applied(set("100"));
    let row = world.state.history(SERIES).unwrap();
    assert_eq!((row.chapters, row.jump), (95, true));
}

#[test]
fn a_day_is_the_users_own_and_never_reopens() {
    let mut world = World::new();
    let offset = |minutes| Command::SetPreferences {
        strategy: None,
        utc_offset: Some(UtcOffset::from_minutes(minutes).unwrap()),
    };
    world.applied(offset(840));
    world.applied(set("1"));
    assert_eq!(world.state.history(SERIES).unwrap().day.to_string(), "2026-03-02");
    world.applied(offset(-720));
    world.applied(set("2"));
    let row = world.state.history(SERIES).unwrap();
    assert_eq!((row.day.to_string().as_str(), row.updates), ("2026-03-02", 2));
    assert!(UtcOffset::from_minutes(841).is_err() && UtcOffset::from_minutes(-721).is_err());
}

#[test]
fn a_row_with_the_largest_version_is_left_alone() {
    let mut world = World::new();
    world.applied(set("1"));
    let mut rows = world.state.to_rows();
    rows.progress[0].1.key.version = proto::Version::MAX;
    world.state = hub::UserState::from_rows(rows, NodeId(1));
    let reject = world.rejected(set("2"));
    assert_eq!(reject, Reject::VersionExhausted);
    assert!(matches!(world.run(SetProgress { force: true, ..set("0") }), Outcome::Rejected(_)));
}

#[test]
fn a_users_series_have_a_limit() {
    let mut world = World::new();
    let mut rows = hub::StoredUser::empty(USER);
    world.applied(set("1"));
    let row = world.state.to_rows().progress[0].1;
    rows.progress = (1..=hub::user::SERIES_PER_USER_MAX as i64).map(|id| (proto::MangaId(1_000 + id), row)).collect();
    world.state = hub::UserState::from_rows(rows, NodeId(1));
    assert_eq!(world.rejected(set("1")), Reject::TooManySeries);
    world.applied(SetProgress { manga: proto::MangaId(1_001), ..set("2") });
}

#[test]
fn purging_forgets_old_tombstones_and_nothing_else() {
    let mut world = World::new();
    world.applied(SetProgress { manga: proto::MangaId(1), ..set_from(1, 1, "3") });
    world.applied(set_from(1, 2, "3"));
    world.applied(Command::DeleteProgress { manga: SERIES });
    world.applied(Command::RemoveFromLibrary { manga: SERIES });
    world.applied(Command::RemoveDevice { device: device(1) });
    let version = world.clock.high_water();
    let whole = world.state.clone();
    world.state.purge(proto::Version::from_unix_ms(NOON_MS));
    assert_eq!(world.state, whole, "not yet old");
    world.state.purge(proto::Version(version.0 + 1));
    let rows = world.state.to_rows();
    assert_eq!((rows.progress.len(), rows.library.len(), rows.devices.len(), rows.history.len()), (1, 1, 0, 1));
}
