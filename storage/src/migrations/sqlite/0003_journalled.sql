-- What the journal fills. No foreign keys to users or manga: a record that was acknowledged is stored whatever happened to its
-- parents since. Chapters are whole hundredths. Every row carries what its merge order compares.

CREATE TABLE meta (
    key TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- 128 random bits, made with the store: a journal drains into one store only.
INSERT INTO meta (key, value) VALUES ('store_id', randomblob(16));

CREATE TABLE journal_cursor (
    journal_id BLOB NOT NULL CHECK (length(journal_id) = 16),
    lane INTEGER NOT NULL CHECK (lane BETWEEN 0 AND 15),
    lsn INTEGER NOT NULL CHECK (lsn >= 0),
    PRIMARY KEY (journal_id, lane)
) STRICT, WITHOUT ROWID;

CREATE TABLE parked_records (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    journal_id BLOB NOT NULL CHECK (length(journal_id) = 16),
    lane INTEGER NOT NULL,
    lsn INTEGER NOT NULL,
    user_id BLOB,
    kind INTEGER NOT NULL,
    version INTEGER NOT NULL,
    payload BLOB NOT NULL,
    error TEXT NOT NULL,
    parked_at INTEGER NOT NULL,
    UNIQUE (journal_id, lsn)
) STRICT;

CREATE INDEX parked_records_of_user ON parked_records (user_id) WHERE user_id IS NOT NULL;

CREATE TABLE user_progress (
    user_id BLOB NOT NULL CHECK (length(user_id) = 16),
    manga_id INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    chapter INTEGER NOT NULL CHECK (chapter BETWEEN 0 AND 100000000),
    version INTEGER NOT NULL,
    node INTEGER NOT NULL,
    page INTEGER,
    ahead INTEGER NOT NULL CHECK (ahead IN (0, 1)),
    deleted INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    PRIMARY KEY (user_id, manga_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX user_progress_tombstones ON user_progress (version) WHERE deleted = 1;

CREATE TABLE user_library (
    user_id BLOB NOT NULL CHECK (length(user_id) = 16),
    manga_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    node INTEGER NOT NULL,
    status INTEGER NOT NULL CHECK (status BETWEEN 1 AND 6),
    added_at INTEGER NOT NULL,
    deleted INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    PRIMARY KEY (user_id, manga_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX user_library_tombstones ON user_library (version) WHERE deleted = 1;

-- The key begins with user and day: a user's newest days are neighbours, and no second index is kept up at every change.
CREATE TABLE progress_history (
    user_id BLOB NOT NULL CHECK (length(user_id) = 16),
    day INTEGER NOT NULL,
    manga_id INTEGER NOT NULL,
    node INTEGER NOT NULL,
    updates INTEGER NOT NULL,
    chapters INTEGER NOT NULL,
    last_chapter INTEGER NOT NULL,
    first_chapter INTEGER NOT NULL,
    jump INTEGER NOT NULL CHECK (jump IN (0, 1)),
    version INTEGER NOT NULL,
    PRIMARY KEY (user_id, day, manga_id, node)
) STRICT, WITHOUT ROWID;

-- A device's numbers count within its epoch; last_seq and applied are the window of the last 4,096 of them.
CREATE TABLE devices (
    user_id BLOB NOT NULL CHECK (length(user_id) = 16),
    device_id BLOB NOT NULL CHECK (length(device_id) = 16),
    epoch INTEGER NOT NULL,
    removed INTEGER NOT NULL CHECK (removed IN (0, 1)),
    last_seen INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    applied BLOB NOT NULL,
    PRIMARY KEY (user_id, device_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX devices_tombstones ON devices (last_seen) WHERE removed = 1;

CREATE TABLE preferences (
    user_id BLOB NOT NULL PRIMARY KEY CHECK (length(user_id) = 16),
    version INTEGER NOT NULL,
    node INTEGER NOT NULL,
    strategy TEXT NOT NULL CHECK (strategy IN ('furthest', 'latest', 'ask')),
    utc_offset_minutes INTEGER NOT NULL CHECK (utc_offset_minutes BETWEEN -720 AND 840)
) STRICT, WITHOUT ROWID;
