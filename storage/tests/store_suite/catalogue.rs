//! Imports: the rules of SPEC's catalogue files, seen from outside.

use proto::SeriesStatus;
use storage::store::{ImportReport, ImportRow, RejectReason, SeriesRow, SharedStore};

use crate::backend::{Backend, wait};
use crate::sample::{series, upstream};

fn import(store: &SharedStore, rows: &[ImportRow]) -> ImportReport {
    wait(store.import(rows.to_vec(), 5_000)).unwrap()
}

fn load(store: &SharedStore) -> Vec<SeriesRow> {
    wait(store.load_catalogue()).unwrap()
}

fn slugs(store: &SharedStore) -> Vec<String> {
    load(store).into_iter().map(|series| series.slug).collect()
}

pub(crate) fn importing_twice_changes_nothing(backend: impl Backend) {
    let store = backend.store();
    let rows = [upstream(1, 10, "Vagabond"), upstream(2, 11, "Vagabond"), series(3, "Monster"), series(4, "Monster")];
    let first = import(&store, &rows);
    assert_eq!((first.inserted, first.rejected.len()), (3, 1));
    let dump = backend.dump();
    let again = wait(store.import(rows.to_vec(), 9_000)).unwrap();
    assert_eq!((again.inserted, again.updated, again.unchanged, again.rejected), (0, 0, 3, first.rejected));
    assert_eq!(backend.dump(), dump);
    let monster = load(&store).into_iter().find(|series| series.slug == "monster").unwrap();
    assert_eq!(monster.genres, ["Action", "Drama"]);
    assert_eq!((monster.total_chapters, monster.year, monster.created_at_unix_ms), (None, Some(1999), 5_000));
    assert_eq!(monster.alt_titles, ["Monster (other)"]);
}

pub(crate) fn a_known_series_is_updated_and_keeps_its_slug(backend: impl Backend) {
    let store = backend.store();
    import(&store, &[upstream(1, 10, "Steel Ball Run")]);
    let id = load(&store)[0].id;
    let row = ImportRow {
        status: SeriesStatus::Completed,
        total_chapters: 95,
        genres: vec!["Horror".into()],
        ..upstream(1, 10, "JoJo's Bizarre Adventure")
    };
    assert_eq!(import(&store, &[row]).updated, 1);
    let [series] = &load(&store)[..] else { panic!("one series") };
    assert_eq!((series.id, series.slug.as_str()), (id, "steel-ball-run"));
    assert_eq!((series.title.as_str(), series.total_chapters), ("JoJo's Bizarre Adventure", Some(95)));
    assert_eq!((series.status, &series.genres[..]), (SeriesStatus::Completed, &["Horror".to_owned()][..]));
}

pub(crate) fn what_a_row_leaves_out_stays(backend: impl Backend) {
    let store = backend.store();
    import(&store, &[ImportRow { total_chapters: 12, ..upstream(1, 10, "Pluto") }]);
    let before = load(&store);
    let sparse = ImportRow {
        author: None,
        total_chapters: 0,
        description: String::new(),
        year: None,
        genres: vec![],
        alt_titles: vec![],
        ..upstream(1, 10, "Pluto")
    };
    assert_eq!(import(&store, &[sparse]).unchanged, 1);
    assert_eq!(load(&store), before);
}

pub(crate) fn equal_slugs_get_a_suffix(backend: impl Backend) {
    let store = backend.store();
    let rows =
        [upstream(1, 1, "Nana"), upstream(2, 2, "Nana!"), upstream(3, 3, "NANA"), upstream(4, 4, "\u{7d50}\u{5a5a}")];
    let report = import(&store, &rows);
    assert_eq!(slugs(&store), ["nana", "nana-2", "nana-3", "series"]);
    let renamed: Vec<_> = report.renamed.iter().map(|slug| (slug.row, slug.given.as_str())).collect();
    assert_eq!(renamed, [(2, "nana-2"), (3, "nana-3")]);
}

pub(crate) fn slugs_never_read_as_ids_or_paths(backend: impl Backend) {
    let store = backend.store();
    import(&store, &[series(1, "86"), series(2, "Search"), series(3, "7 Seeds"), series(4, "Comments")]);
    assert_eq!(slugs(&store), ["86-2", "search-2", "7-seeds", "comments-2"]);
}

pub(crate) fn a_series_without_an_id_is_adopted_when_one_title_matches(backend: impl Backend) {
    let store = backend.store();
    import(&store, &[series(1, "One Piece"), series(2, "Berserk")]);
    let before = load(&store);
    let report = import(&store, &[upstream(1, 10, "ONE  PIECE")]);
    assert_eq!((report.inserted, report.updated, report.adopted), (0, 1, 1));
    let after = load(&store);
    assert_eq!((after[0].id, after[0].slug.as_str()), (before[0].id, "one-piece"));
    assert!(after[0].mangadex_id.is_some());
    let demo_again = import(&store, &[series(1, "One Piece"), series(2, "Berserk")]);
    assert_eq!(demo_again.unchanged, 2, "what knows less does not undo what knows more");
    assert_eq!(load(&store), after);
}

pub(crate) fn nothing_is_adopted_when_two_rows_could(backend: impl Backend) {
    let store = backend.store();
    import(&store, &[series(1, "Another")]);
    let rows = [upstream(1, 10, "Another"), upstream(2, 11, "another")];
    let report = import(&store, &rows);
    assert_eq!((report.inserted, report.adopted), (2, 0));
    assert_eq!(import(&store, &rows).unchanged, 2);
}

pub(crate) fn bad_and_repeated_rows_are_reported_with_their_number(backend: impl Backend) {
    let store = backend.store();
    let rows = [
        series(1, "  "),
        series(2, &"x".repeat(501)),
        upstream(3, 10, "Good"),
        upstream(4, 10, "Good again"),
        ImportRow { genres: (0..51).map(|number| number.to_string()).collect(), ..series(5, "Many") },
    ];
    let report = import(&store, &rows);
    let rejected: Vec<_> = report.rejected.iter().map(|row| (row.row, row.reason.clone())).collect();
    let expected = [
        (1, RejectReason::NoTitle),
        (2, RejectReason::TooLong { field: "title", bytes_max: 500 }),
        (4, RejectReason::Duplicate { of_row: 3 }),
        (5, RejectReason::TooMany { field: "genres", count_max: 50 }),
    ];
    assert_eq!(rejected, expected);
    assert_eq!(slugs(&store), ["good"]);
}

pub(crate) fn a_row_without_an_id_finds_its_series(backend: impl Backend) {
    let store = backend.store();
    import(&store, &[upstream(1, 10, "Kingdom"), upstream(2, 11, "Kingdom"), series(3, "Dorohedoro")]);
    let report = import(&store, &[series(1, "Kingdom"), ImportRow { total_chapters: 167, ..series(2, "Dorohedoro") }]);
    assert_eq!(report.rejected.len(), 1);
    assert_eq!(report.rejected[0].reason, RejectReason::Ambiguous);
    assert_eq!(report.updated, 1);
    let by_slug = ImportRow { slug: Some("kingdom-2".into()), ..series(1, "Kingdom") };
    assert_eq!(import(&store, &[by_slug]).unchanged, 1);
}
