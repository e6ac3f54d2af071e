//! Conflict tokens: how a client that was asked says "yes, go back". A token names the merge key it overrides and the moment it
//! expires, and is good for that user, that series and that key only: once the series changed, it is worth nothing. It is
//! computed, never stored, so nothing has to be remembered while somebody makes up their mind.
//!
//! Layout (16 bytes): expiry, u32 little-endian seconds since 2024-01-01 UTC, then 12 bytes of a keyed tag over user, series,
//! merge key and expiry.

use proto::{ConflictToken, MangaId, MergeKey, UserId, Version};

/// How long a token is good for.
pub const CONFLICT_TOKEN_TTL_MS: u64 = 600_000;

/// Makes a token that overrides `key` and expires [`CONFLICT_TOKEN_TTL_MS`] after `wall_ms`. `tag` is as in
/// [`crate::command::Context::token_tag`]. None if the bytes came out all zero, which no clock past 2024 gives.
pub fn issue(tag: &TokenTag<'_>, user: UserId, manga: MangaId, key: &MergeKey, wall_ms: u64) -> Option<ConflictToken> {
    let expiry = seconds(wall_ms.saturating_add(CONFLICT_TOKEN_TTL_MS));
    ConflictToken::from_bytes(sealed(tag, user, manga, key, expiry))
}

/// Whether `token` permits `user` to go back over `key` at `wall_ms`.
pub fn permits(
    token: ConflictToken,
    tag: &TokenTag<'_>,
    user: UserId,
    manga: MangaId,
    key: &MergeKey,
    wall_ms: u64,
) -> bool {
    let [a, b, c, d, ..] = *token.as_bytes();
    let expiry = u32::from_le_bytes([a, b, c, d]);
    let expected = sealed(tag, user, manga, key, expiry);
    let differing = expected.iter().zip(token.as_bytes()).fold(0, |sum, (x, y)| sum | (x ^ y));
    differing == 0 && seconds(wall_ms) <= expiry
}

fn sealed(tag: &TokenTag<'_>, user: UserId, manga: MangaId, key: &MergeKey, expiry: u32) -> [u8; 16] {
    let mut message = [0; 64];
    message[..12].copy_from_slice(b"conflict-v1\0");
    message[12..28].copy_from_slice(user.as_bytes());
    message[28..36].copy_from_slice(&manga.0.to_le_bytes());
    message[36..44].copy_from_slice(&key.generation.0.to_le_bytes());
    message[44..48].copy_from_slice(&key.chapter.hundredths().to_le_bytes());
    message[48..56].copy_from_slice(&key.version.0.to_le_bytes());
    message[56..60].copy_from_slice(&key.node.0.to_le_bytes());
    message[60..64].copy_from_slice(&expiry.to_le_bytes());
    let mut bytes = tag(&message);
    bytes[..4].copy_from_slice(&expiry.to_le_bytes());
    bytes
}

/// A keyed pseudo-random function of a message, such as HMAC-SHA256 cut to sixteen bytes.
pub type TokenTag<'a> = dyn Fn(&[u8]) -> [u8; 16] + 'a;

fn seconds(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms.saturating_sub(Version::EPOCH_UNIX_MS) / 1_000).unwrap_or(u32::MAX)
}
