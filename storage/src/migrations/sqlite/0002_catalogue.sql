-- The catalogue. Ids are never given out twice (AUTOINCREMENT): progress of a deleted series must not become another's.

CREATE TABLE manga (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    slug TEXT NOT NULL,
    title TEXT NOT NULL,
    alt_titles TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(alt_titles)),
    author TEXT,
    status TEXT NOT NULL CHECK (status IN ('ongoing', 'completed', 'hiatus', 'cancelled')),
    total_chapters INTEGER CHECK (total_chapters > 0),
    description TEXT NOT NULL DEFAULT '',
    cover_url TEXT,
    year INTEGER,
    mangadex_id BLOB CHECK (length(mangadex_id) = 16),
    anilist_id INTEGER,
    popularity INTEGER NOT NULL DEFAULT 0,
    average_rating REAL NOT NULL DEFAULT 0,
    rating_count INTEGER NOT NULL DEFAULT 0,
    last_synced_at INTEGER,
    last_chapter_check INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX manga_slug ON manga (slug);
CREATE UNIQUE INDEX manga_mangadex_id ON manga (mangadex_id) WHERE mangadex_id IS NOT NULL;
CREATE UNIQUE INDEX manga_anilist_id ON manga (anilist_id) WHERE anilist_id IS NOT NULL;

CREATE TABLE genres (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE manga_genres (
    manga_id INTEGER NOT NULL REFERENCES manga (id) ON DELETE CASCADE,
    genre_id INTEGER NOT NULL REFERENCES genres (id) ON DELETE CASCADE,
    PRIMARY KEY (manga_id, genre_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX manga_genres_of_genre ON manga_genres (genre_id);
