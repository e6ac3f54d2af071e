//! What a backup holds: every table that both stores own, and its columns, in an order in which no row names one that comes
//! later. A test of each store compares this list with its schema, so that neither can grow alone. Left out are what belongs to
//! one store's life and not to its content: the journals' cursors, the store's id, the list of migrations.

/// What a column holds, and with it how it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Sixteen bytes, as a UUID.
    Id,
    /// Bytes, as hexadecimal.
    Bytes,
    /// Text.
    Text,
    /// A whole number.
    Int,
    /// A number with a fraction.
    Float,
    /// `t` or `f`.
    Flag,
    /// A number that only Postgres keeps: 0 in what the embedded store writes, passed over by what it reads.
    Revision,
}

/// A column.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// A table.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [Column],
}

impl Table {
    /// The table of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        TABLES.iter().find(|table| table.name == name)
    }

    /// The column of this name.
    pub(crate) fn column(&self, name: &str) -> Option<&'static Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// Sessions, which a restore may leave out: whoever was signed in signs in again.
pub(crate) const OF_SESSIONS: [&str; 2] = ["sessions", "refresh_tokens"];

/// Tables whose ids are never given out twice: the last one given out is part of a backup, even when its row is gone.
pub(crate) const WITH_LAST_ID: [&str; 2] = ["manga", "parked_records"];

macro_rules! tables {
    ($($table:ident { $($column:ident: $kind:ident),* $(,)? })*) => {
        &[$(Table {
            name: stringify!($table),
            columns: &[$(Column { name: stringify!($column), kind: Kind::$kind }),*],
        }),*]
    };
}

/// All of them.
pub(crate) const TABLES: &[Table] = tables! {
    users {
        id: Id, username: Text, username_folded: Text, email: Text, email_folded: Text, password_hash: Text, role: Text,
        created_at: Int, updated_at: Int,
    }
    sessions {
        sid: Id, user_id: Id, device_label: Text, ip: Text, user_agent: Text, created_at: Int, last_seen_at: Int,
        expires_at: Int, revoked_at: Int,
    }
    refresh_tokens { token_hash: Bytes, sid: Id, expires_at: Int, used_at: Int }
    revoked_grants { grant_id: Id, user_id: Id, revoked_at: Int, keep_until: Int }
    manga {
        id: Int, slug: Text, title: Text, alt_titles: Text, author: Text, status: Text, total_chapters: Int,
        description: Text, cover_url: Text, year: Int, mangadex_id: Id, anilist_id: Int, popularity: Int,
        average_rating: Float, rating_count: Int, last_synced_at: Int, last_chapter_check: Int, created_at: Int,
        updated_at: Int,
    }
    genres { id: Int, name: Text }
    manga_genres { manga_id: Int, genre_id: Int }
    user_progress {
        user_id: Id, manga_id: Int, generation: Int, chapter: Int, version: Int, node: Int, page: Int, ahead: Flag,
        deleted: Flag,
    }
    user_library { user_id: Id, manga_id: Int, version: Int, node: Int, status: Int, added_at: Int, deleted: Flag }
    progress_history {
        user_id: Id, day: Int, manga_id: Int, node: Int, updates: Int, chapters: Int, last_chapter: Int,
        first_chapter: Int, jump: Flag, version: Int,
    }
    devices {
        user_id: Id, device_id: Id, epoch: Int, removed: Flag, last_seen: Int, last_seq: Int, applied: Bytes,
        revision: Revision,
    }
    preferences { user_id: Id, version: Int, node: Int, strategy: Text, utc_offset_minutes: Int }
    parked_records {
        id: Int, journal_id: Id, lane: Int, lsn: Int, user_id: Id, kind: Int, version: Int, payload: Bytes, error: Text,
        parked_at: Int,
    }
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::TABLES as CHECKED;

    #[test]
    fn what_is_checked_is_what_is_saved() {
        let mut saved: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        let mut checked = CHECKED.to_vec();
        saved.sort_unstable();
        checked.sort_unstable();
        assert_eq!(saved, checked);
    }
}
