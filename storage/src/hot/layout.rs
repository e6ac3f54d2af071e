//! What lies in Redis: names of keys, and the text of rows. A row of a user's copy is hexadecimal of fixed width with the fields
//! in merge order, so comparing texts is comparing rows. The names carry a layout version: two adjacent servers may share a
//! Redis without misreading each other. Nothing here talks to Redis.

use hub::library::LibraryRow;
use hub::load::StoredUser;
use hub::progress::ProgressRow;
use proto::{Chapter, MangaId, MergeKey, NodeId, Page, ReadingStatus, UserId, Version};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Fields beyond this are not a user's: both rows of every series that a user may have, and a few marks.
const FIELDS_MAX: usize = 2 * hub::user::SERIES_PER_USER_MAX + 64;

const PROGRESS_DIGITS: usize = 16 + 8 + 16 + 8 + 1 + 9 + 1;
const LIBRARY_DIGITS: usize = 16 + 8 + 1 + 2 + 16;

/// The hash of one series that other tools read. The braces of the notation `progress:{user_id}:{manga_id}` are not in it.
pub(super) fn progress_key(user: UserId, manga: MangaId) -> String {
    format!("progress:{user}:{manga}")
}

/// The hash that holds everything a shard fills a user from.
pub(super) fn user_key(user: UserId) -> String {
    format!("mangahub:user:v1:{user}")
}

/// Under which field a node vouches that the copy is complete.
pub(super) fn mark_field(node: NodeId) -> String {
    format!("m{}", node.0)
}

/// That a node vouched for a copy: during which epoch of its writing, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub(super) epoch: u64,
    pub(super) filled_unix_s: u64,
}

impl Mark {
    pub(super) fn to_text(self) -> String {
        format!("{:016x}:{}", self.epoch, self.filled_unix_s)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (epoch, filled) = text.split_once(':')?;
        Some(Self { epoch: u64::from_str_radix(epoch, 16).ok()?, filled_unix_s: filled.parse().ok()? })
    }
}

/// A progress row as text.
pub(super) fn progress_text(row: &ProgressRow) -> String {
    let MergeKey { generation, chapter, version, node } = row.key;
    let (deleted, ahead) = (u8::from(row.deleted), u8::from(row.ahead));
    let (has_page, page) = row.page.map_or((0, 0), |page| (1, page.0));
    format!(
        "{:016x}{:08x}{:016x}{:08x}{deleted}{has_page}{page:08x}{ahead}",
        generation.0,
        chapter.hundredths(),
        version.0,
        node.0
    )
}

/// A library row as text.
pub(super) fn library_text(row: &LibraryRow) -> String {
    let LibraryRow { version, node, deleted, status, added_at_ms } = *row;
    format!("{:016x}{:08x}{}{:02x}{added_at_ms:016x}", version.0, node.0, u8::from(deleted), status.as_byte())
}

/// Hexadecimal fields one after the other.
struct Digits<'a>(&'a str);

impl Digits<'_> {
    fn take(&mut self, count: usize) -> Option<u64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        u64::from_str_radix(digits, 16).ok()
    }

    fn take_u32(&mut self, count: usize) -> Option<u32> {
        u32::try_from(self.take(count)?).ok()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.take(1)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

pub(super) fn parse_progress(text: &str) -> Option<ProgressRow> {
    let mut digits = Digits(Some(text).filter(|text| text.len() == PROGRESS_DIGITS)?);
    let key = MergeKey {
        generation: Version(digits.take(16)?),
        chapter: Chapter::from_hundredths(digits.take_u32(8)?).ok()?,
        version: Version(digits.take(16)?),
        node: NodeId(digits.take_u32(8)?),
    };
    let deleted = digits.flag()?;
    let (has_page, page) = (digits.flag()?, Page(digits.take_u32(8)?));
    Some(ProgressRow { key, deleted, page: has_page.then_some(page), ahead: digits.flag()? })
}

pub(super) fn parse_library(text: &str) -> Option<LibraryRow> {
    let mut digits = Digits(Some(text).filter(|text| text.len() == LIBRARY_DIGITS)?);
    Some(LibraryRow {
        version: Version(digits.take(16)?),
        node: NodeId(digits.take_u32(8)?),
        deleted: digits.flag()?,
        status: ReadingStatus::from_byte(u8::try_from(digits.take(2)?).ok()?)?,
        added_at_ms: digits.take(16)?,
    })
}

/// What a user's copy says: its rows, and this node's mark, if it has one. `None` when it is not what a server writes.
pub(super) fn parse_user<'a>(
    user: UserId,
    node: NodeId,
    fields: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
) -> Option<(StoredUser, Option<Mark>)> {
    if fields.len() > FIELDS_MAX {
        return None;
    }
    let own = mark_field(node);
    let mut stored = StoredUser::empty(user);
    let mut mark = None;
    for (field, text) in fields {
        let manga = |rest: &str| rest.parse::<MangaId>().ok();
        match field.split_at_checked(1)? {
            ("p", rest) => stored.progress.push((manga(rest)?, parse_progress(text)?)),
            ("l", rest) => stored.library.push((manga(rest)?, parse_library(text)?)),
            _ if field == own => mark = Mark::parse(text),
            _ => {}
        }
    }
    Some((stored, mark))
}

/// A time as other tools read it.
pub(super) fn rfc3339(unix_ms: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000);
    at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn progress() -> impl Strategy<Value = ProgressRow> {
        // Small ranges, so that fields are often equal and the later ones decide.
        let key = (0..3_u64, 0..3_u32, 0..3_u64, 0..3_u32);
        let wide = (0..1_u64 << 53, 0..100_000_000_u32, 0..1_u64 << 53, any::<u32>());
        (prop_oneof![key, wide], any::<bool>(), proptest::option::of(any::<u32>()), any::<bool>()).prop_map(
            |((generation, chapter, version, node), deleted, page, ahead)| ProgressRow {
                key: MergeKey {
                    generation: Version(generation),
                    chapter: Chapter::from_hundredths(chapter).unwrap(),
                    version: Version(version),
                    node: NodeId(node),
                },
                deleted,
                page: page.map(Page),
                ahead,
            },
        )
    }

    fn library() -> impl Strategy<Value = LibraryRow> {
        let status = proptest::sample::select(ReadingStatus::ALL);
        (prop_oneof![0..3_u64, 0..1_u64 << 53], 0..3_u32, any::<bool>(), status, any::<u64>()).prop_map(
            |(version, node, deleted, status, added_at_ms)| LibraryRow {
                version: Version(version),
                node: NodeId(node),
                deleted,
                status,
                added_at_ms,
            },
        )
    }

    proptest! {
        #[test]
        fn rows_read_back_and_their_texts_compare_as_they_do(one in progress(), other in progress()) {
            prop_assert_eq!(parse_progress(&progress_text(&one)), Some(one));
            prop_assert_eq!(progress_text(&one).cmp(&progress_text(&other)), one.cmp(&other));
        }

        #[test]
        fn library_rows_read_back_and_their_texts_compare_as_they_do(one in library(), other in library()) {
            prop_assert_eq!(parse_library(&library_text(&one)), Some(one));
            prop_assert_eq!(library_text(&one).cmp(&library_text(&other)), one.cmp(&other));
        }

        #[test]
        fn what_is_no_row_is_refused(text in "[0-9a-fz]{0,80}") {
            let _ = (parse_progress(&text), parse_library(&text));
        }
    }

    #[test]
    fn a_copy_with_anything_odd_in_it_is_no_copy() {
        let user = UserId::from_bytes([7; 16]);
        let parse = |fields: &[(&str, &str)]| parse_user(user, NodeId(7), fields.iter().copied());
        assert_eq!(parse(&[("owner", "7"), ("m8", "00:1")]), Some((StoredUser::empty(user), None)));
        let mark = Mark { epoch: 3, filled_unix_s: 9 };
        assert_eq!(parse(&[("m7", &mark.to_text())]), Some((StoredUser::empty(user), Some(mark))));
        assert_eq!(parse(&[("p12", "half a row")]), None);
        assert_eq!(parse(&[("pnumber", "")]), None);
        assert_eq!(parse(&[("", "")]), None);
    }
}
