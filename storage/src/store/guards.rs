//! The end of each upsert of a journalled table, the same text in both stores: a stored row changes only when what comes is ahead
//! of it, by the same fields in the same order as `hub::merge`.

macro_rules! progress {
    () => {
        "    ON CONFLICT (user_id, manga_id) DO UPDATE SET
        generation = excluded.generation, chapter = excluded.chapter, version = excluded.version, node = excluded.node,
        deleted = excluded.deleted, page = excluded.page, ahead = excluded.ahead
    WHERE (excluded.generation, excluded.chapter, excluded.version, excluded.node,
           excluded.deleted, coalesce(excluded.page, -1), excluded.ahead)
        > (stored.generation, stored.chapter, stored.version, stored.node,
           stored.deleted, coalesce(stored.page, -1), stored.ahead)"
    };
}
pub(super) use progress;

macro_rules! library {
    () => {
        "    ON CONFLICT (user_id, manga_id) DO UPDATE SET
        version = excluded.version, node = excluded.node, deleted = excluded.deleted, status = excluded.status,
        added_at = excluded.added_at
    WHERE (excluded.version, excluded.node, excluded.deleted, excluded.status, excluded.added_at)
        > (stored.version, stored.node, stored.deleted, stored.status, stored.added_at)"
    };
}
pub(super) use library;

macro_rules! history {
    () => {
        "    ON CONFLICT (user_id, day, manga_id, node) DO UPDATE SET
        updates = excluded.updates, chapters = excluded.chapters, last_chapter = excluded.last_chapter,
        first_chapter = excluded.first_chapter, jump = excluded.jump, version = excluded.version
    WHERE (excluded.updates, excluded.chapters, excluded.last_chapter, excluded.first_chapter, excluded.jump, excluded.version)
        > (stored.updates, stored.chapters, stored.last_chapter, stored.first_chapter, stored.jump, stored.version)"
    };
}
pub(super) use history;

macro_rules! preferences {
    () => {
        "    ON CONFLICT (user_id) DO UPDATE SET
        version = excluded.version, node = excluded.node, strategy = excluded.strategy,
        utc_offset_minutes = excluded.utc_offset_minutes
    WHERE (excluded.version, excluded.node) > (stored.version, stored.node)"
    };
}
pub(super) use preferences;
