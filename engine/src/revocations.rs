//! The grants that no longer count. Every shard checks the same snapshot without a lock; who ends sessions publishes them here
//! and tells every shard which they are, so that it closes their connections. What is remembered is bounded: when there is no
//! room, the oldest are forgotten, and tokens made before those were revoked are refused until they are refreshed, which
//! asks the store. A revoked grant is never let in.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use proto::{Code, GrantId, UserId};
use runtime::notify::Notify;
use storage::store::Revocation;
use storage::wire::Wire;

use crate::fault::Fault;
use crate::grants::Grant;

/// The snapshot is published in so many pieces: adding to it copies one of them.
const CHUNKS: usize = 1_024;
/// What a piece may hold: 24 KiB to copy in the worst case.
const CHUNK_ENTRIES_MAX: usize = 1_024;
/// What is remembered at the most: 24 MiB.
pub(crate) const ENTRIES_MAX: usize = CHUNKS * CHUNK_ENTRIES_MAX;
/// Ended sessions that a shard is told of by name; beyond them it looks at every connection.
const ENDED_MAX: usize = 4_096;

/// Grant, and two times of 4 bytes, little-endian.
const ENTRY_BYTES: usize = 24;

/// A revoked grant: since when, and until when something that names it may be valid. Seconds since 1970, until 2106.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Entry {
    grant: GrantId,
    revoked_at_s: u32,
    keep_until_s: u32,
}

impl From<&Revocation> for Entry {
    fn from(revoked: &Revocation) -> Self {
        Self {
            grant: revoked.grant,
            revoked_at_s: seconds(revoked.revoked_at_unix_ms.div_ceil(1_000)),
            keep_until_s: seconds(revoked.keep_until_unix_ms.div_ceil(1_000)),
        }
    }
}

fn seconds(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// What an earlier run knew, as a checkpoint has it.
#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    entries: Vec<Entry>,
    floor_s: u32,
}

/// The snapshot.
pub(crate) struct Revocations {
    /// By the grant's last bits, which are random; each sorted by grant.
    chunks: Box<[ArcSwap<Vec<Entry>>]>,
    /// Tokens made up to this second are refused: a grant that was revoked by then may be forgotten. 0: none is.
    floor_s: AtomicU32,
    shards: OnceLock<Vec<Arc<Ended>>>,
    wire: OnceLock<Wire>,
}

impl Revocations {
    /// Begins with what was revoked before this boot: what the checkpoint knew, and what the store answered when it was asked for
    /// the newest [`ENTRIES_MAX`].
    pub(crate) fn new(known: Known, stored: &[Revocation], now_ms: u64) -> Self {
        let mut chunks: Vec<Vec<Entry>> = vec![Vec::new(); CHUNKS];
        for entry in known.entries.into_iter().chain(stored.iter().map(Entry::from)) {
            chunks[chunk_of(entry.grant)].push(entry);
        }
        let mut floor_s = known.floor_s.max(left_out_s(stored));
        let nothing = Arc::new(Vec::new());
        let mut settle = |mut entries: Vec<Entry>| {
            entries.retain(|entry| u64::from(entry.keep_until_s) * 1_000 >= now_ms);
            entries.sort_unstable();
            entries.dedup_by(|other, kept| {
                let is_same = other.grant == kept.grant;
                if is_same {
                    kept.keep_until_s = kept.keep_until_s.max(other.keep_until_s);
                }
                is_same
            });
            floor_s = floor_s.max(forget_oldest(&mut entries));
            entries.shrink_to_fit();
            ArcSwap::new(if entries.is_empty() { Arc::clone(&nothing) } else { Arc::new(entries) })
        };
        let chunks = chunks.into_iter().map(&mut settle).collect();
        Self { chunks, floor_s: AtomicU32::new(floor_s), shards: OnceLock::new(), wire: OnceLock::new() }
    }

    /// Whom to tell from now on: one per shard.
    pub(crate) fn tell(&self, shards: Vec<Arc<Ended>>) {
        let _ = self.shards.set(shards);
    }

    /// The other nodes, to tell them too.
    pub(crate) fn share(&self, wire: Wire) {
        let _ = self.wire.set(wire);
    }

    /// Publishes what was revoked on this node, here and to the others.
    pub(crate) fn publish(&self, revoked: &[Revocation], now_ms: u64) {
        self.add(revoked, now_ms);
        if let Some(wire) = self.wire.get() {
            wire.revoked(revoked);
        }
    }

    /// Has every shard look at all its connections once more.
    pub(crate) fn check_all(&self) {
        self.shards.get().into_iter().flatten().for_each(|shard| shard.add_any());
    }

    /// Publishes more, forgets what may be forgotten, and tells the shards. Copies one piece per revocation, however many are known.
    pub(crate) fn add(&self, revoked: &[Revocation], now_ms: u64) {
        for revocation in revoked {
            self.enter(Entry::from(revocation), now_ms);
        }
        for shard in self.shards.get().into_iter().flatten() {
            shard.add(revoked);
        }
    }

    /// Publishes those that are not known here.
    pub(crate) fn add_unknown(&self, mut revoked: Vec<Revocation>, now_ms: u64) {
        revoked.retain(|revoked| !self.contains(revoked.grant));
        if !revoked.is_empty() {
            self.add(&revoked, now_ms);
        }
    }

    /// Publishes what the store answered when it was asked for the newest [`ENTRIES_MAX`].
    pub(crate) fn add_stored(&self, stored: Vec<Revocation>, now_ms: u64) {
        self.floor_s.fetch_max(left_out_s(&stored), Ordering::SeqCst);
        self.add_unknown(stored, now_ms);
    }

    fn enter(&self, entry: Entry, now_ms: u64) {
        self.chunks[chunk_of(entry.grant)].rcu(|known| {
            let mut next: Vec<Entry> = Vec::with_capacity(known.len() + 1);
            next.extend(known.iter().filter(|known| u64::from(known.keep_until_s) * 1_000 >= now_ms));
            match next.binary_search_by_key(&entry.grant, |known: &Entry| known.grant) {
                Ok(at) => next[at].keep_until_s = next[at].keep_until_s.max(entry.keep_until_s),
                Err(at) => next.insert(at, entry),
            }
            // Before the piece is published, so that who does not find a grant in it finds the floor.
            self.floor_s.fetch_max(forget_oldest(&mut next), Ordering::SeqCst);
            next
        });
    }

    /// Whether a grant is known to be revoked.
    pub(crate) fn contains(&self, grant: GrantId) -> bool {
        let chunk = self.chunks[chunk_of(grant)].load();
        chunk.binary_search_by_key(&grant, |known| known.grant).is_ok()
    }

    /// Refuses a revoked grant.
    pub(crate) fn check(&self, grant: &Grant) -> Result<(), Fault> {
        if self.contains(grant.id) {
            return Err(Fault::new(Code::Revoked, "This session was ended; sign in again."));
        }
        let floor_s = self.floor_s.load(Ordering::SeqCst);
        if floor_s > 0 && grant.issued_at_s <= u64::from(floor_s) {
            return Err(Fault::new(
                Code::Unauthenticated,
                "The token is too old to be checked; refresh it or sign in again.",
            ));
        }
        Ok(())
    }

    /// How many are known.
    pub(crate) fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.load().len()).sum()
    }

    /// For the checkpoint: the entries, and behind them the floor.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len() * ENTRY_BYTES + 4);
        for chunk in &self.chunks {
            for entry in chunk.load().iter() {
                bytes.extend_from_slice(entry.grant.as_bytes());
                bytes.extend_from_slice(&entry.revoked_at_s.to_le_bytes());
                bytes.extend_from_slice(&entry.keep_until_s.to_le_bytes());
            }
        }
        bytes.extend_from_slice(&self.floor_s.load(Ordering::SeqCst).to_le_bytes());
        bytes
    }
}

impl Known {
    /// What `encode` wrote; without a floor behind the entries there is none.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        let entry = |entry: &[u8; ENTRY_BYTES]| Entry {
            grant: GrantId::from_bytes(std::array::from_fn(|at| entry[at])),
            revoked_at_s: u32::from_le_bytes(std::array::from_fn(|at| entry[16 + at])),
            keep_until_s: u32::from_le_bytes(std::array::from_fn(|at| entry[20 + at])),
        };
        let floor_s = rest.try_into().map_or(0, u32::from_le_bytes);
        Self { entries: entries.iter().map(entry).collect(), floor_s }
    }
}

/// The second up to which an answer of the newest [`ENTRIES_MAX`] may have left some out, or 0.
fn left_out_s(stored: &[Revocation]) -> u32 {
    if stored.len() < ENTRIES_MAX {
        return 0;
    }
    stored.iter().map(|revoked| Entry::from(revoked).revoked_at_s).min().unwrap_or(0)
}

fn chunk_of(grant: GrantId) -> usize {
    let [.., high, low] = *grant.as_bytes();
    usize::from(u16::from_be_bytes([high, low])) % CHUNKS
}

/// Leaves room in a piece that is too full; answers the second up to which grants were forgotten, or 0.
fn forget_oldest(entries: &mut Vec<Entry>) -> u32 {
    if entries.len() <= CHUNK_ENTRIES_MAX {
        return 0;
    }
    // More than one, so that a full piece is not sorted out again with every entry.
    let forgotten = (entries.len() - CHUNK_ENTRIES_MAX).max(CHUNK_ENTRIES_MAX / 8);
    let mut times_s: Vec<u32> = entries.iter().map(|entry| entry.revoked_at_s).collect();
    let (_, &mut floor_s, _) = times_s.select_nth_unstable(forgotten);
    let before = entries.len();
    entries.retain(|entry| entry.revoked_at_s > floor_s);
    metrics::counter!("mangahub_revocations_forgotten_total").increment((before - entries.len()) as u64);
    floor_s
}

/// The sessions whose connections a shard has yet to close.
#[derive(Default)]
pub(crate) struct Ended {
    list: Mutex<Vec<(GrantId, UserId)>>,
    any: Notify,
}

/// What a shard has to close.
pub(crate) enum Ending {
    /// These sessions' connections.
    These(Vec<(GrantId, UserId)>),
    /// More than are listed: whatever is revoked.
    Any,
}

impl Ended {
    fn add(&self, revoked: &[Revocation]) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        // One above the limit stands for any number of them.
        let room = (ENDED_MAX + 1).saturating_sub(list.len());
        list.extend(revoked.iter().take(room).map(|revoked| (revoked.grant, revoked.user)));
        drop(list);
        if !revoked.is_empty() {
            self.any.notify();
        }
    }

    fn add_any(&self) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.resize(ENDED_MAX + 1, (GrantId::default(), UserId::default()));
        drop(list);
        self.any.notify();
    }

    /// Waits for some, and takes all.
    pub(crate) async fn take(&self) -> Ending {
        self.any.notified().await;
        let list = std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner));
        if list.len() > ENDED_MAX { Ending::Any } else { Ending::These(list) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::people;

    const NOW_S: u32 = 1_800_000_000;
    const NOW_MS: u64 = NOW_S as u64 * 1_000;

    /// The `nth` grant, those of one `chunk` in one piece of the snapshot.
    fn id(chunk: u16, nth: u32) -> GrantId {
        let mut bytes = [7; 16];
        bytes[..4].copy_from_slice(&nth.to_be_bytes());
        bytes[14..].copy_from_slice(&chunk.to_be_bytes());
        GrantId::from_bytes(bytes)
    }

    fn revoked(grant: GrantId, at_s: u32, keep_until_s: u32) -> Revocation {
        let (revoked_at_unix_ms, keep_until_unix_ms) = (u64::from(at_s) * 1_000, u64::from(keep_until_s) * 1_000);
        Revocation { grant, user: UserId::default(), revoked_at_unix_ms, keep_until_unix_ms }
    }

    fn grant(id: GrantId, issued_at_s: u32) -> Grant {
        Grant { id, issued_at_s: u64::from(issued_at_s), ..people::grant(UserId::default()) }
    }

    fn nothing() -> Revocations {
        Revocations::new(Known::default(), &[], NOW_MS)
    }

    fn again(revocations: &Revocations, now_ms: u64) -> Revocations {
        Revocations::new(Known::decode(&revocations.encode()), &[], now_ms)
    }

    #[test]
    fn a_revoked_grant_is_refused_until_nothing_can_name_it() {
        let (first, second, third) = (id(3, 1), id(3, 2), id(4, 1));
        let revocations = Revocations::new(Known::default(), &[revoked(first, NOW_S - 9, NOW_S + 10)], NOW_MS);
        assert!(revocations.check(&grant(first, NOW_S)).is_err() && revocations.check(&grant(second, NOW_S)).is_ok());
        let twenty_later = NOW_MS + 20_000;
        revocations
            .add(&[revoked(second, NOW_S + 20, NOW_S + 90), revoked(third, NOW_S + 20, NOW_S + 90)], twenty_later);
        assert!(!revocations.contains(first) && revocations.contains(second) && revocations.contains(third));
        let same = again(&revocations, twenty_later);
        assert!(same.len() == 2 && same.contains(second) && same.contains(third));
        assert_eq!(again(&revocations, NOW_MS + 91_000).len(), 0);
    }

    #[test]
    fn a_revocation_copies_one_piece_whatever_is_known() {
        let revocations = nothing();
        let all: Vec<_> = (0..CHUNKS as u16).map(|chunk| revoked(id(chunk, 1), NOW_S, NOW_S + 90)).collect();
        revocations.add(&all, NOW_MS);
        let pieces = || revocations.chunks.iter().map(ArcSwap::load_full).collect::<Vec<_>>();
        let before = pieces();
        revocations.add(&[revoked(id(500, 2), NOW_S, NOW_S + 90)], NOW_MS);
        let copied = before.iter().zip(pieces()).filter(|(before, after)| !Arc::ptr_eq(before, after)).count();
        assert_eq!((copied, revocations.len()), (1, CHUNKS + 1));
    }

    #[test]
    fn without_room_the_oldest_are_forgotten_and_their_tokens_still_refused() {
        let revocations = nothing();
        let many = 3 * CHUNK_ENTRIES_MAX as u32;
        for nth in 0..many {
            revocations.add(&[revoked(id(9, nth), NOW_S + nth, u32::MAX)], NOW_MS);
            assert!(revocations.len() <= CHUNK_ENTRIES_MAX);
        }
        let refused = |revocations: &Revocations| {
            assert!(!revocations.contains(id(9, 0)) && revocations.contains(id(9, many - 1)));
            // Whoever was revoked had no token that was made later.
            for nth in 0..many {
                assert!(revocations.check(&grant(id(9, nth), NOW_S + nth)).is_err(), "{nth}");
            }
            let stale = revocations.check(&grant(id(8, 0), NOW_S)).expect_err("it may be one of the forgotten");
            assert_eq!(stale.code, Code::Unauthenticated, "a refresh, which asks the store, lets it in again");
            assert!(revocations.check(&grant(id(8, 0), NOW_S + many)).is_ok());
        };
        refused(&revocations);
        refused(&again(&revocations, NOW_MS));
    }

    #[test]
    fn a_store_with_more_than_there_is_room_for_says_where_it_begins() {
        let stored: Vec<_> = (0..ENTRIES_MAX as u32)
            .rev()
            .map(|nth| revoked(id((nth % CHUNKS as u32) as u16, nth), NOW_S + nth, u32::MAX))
            .collect();
        let revocations = Revocations::new(Known::default(), &stored, NOW_MS);
        assert_eq!(revocations.len(), ENTRIES_MAX);
        assert!(revocations.check(&grant(id(0, u32::MAX), NOW_S)).is_err(), "it may be one that was not asked for");
        assert!(revocations.check(&grant(id(0, u32::MAX), NOW_S + 1)).is_ok());
    }

    #[test]
    fn a_later_answer_that_is_cut_short_says_where_it_begins_too() {
        let revocations = nothing();
        let answer: Vec<_> = (0..ENTRIES_MAX as u32).map(|nth| revoked(id(1, 1), NOW_S + nth, u32::MAX)).collect();
        revocations.add_stored(answer[1..].to_vec(), NOW_MS);
        assert!(revocations.check(&grant(id(2, 1), 0)).is_ok(), "there was room for more");
        revocations.add_stored(answer, NOW_MS);
        assert!(revocations.check(&grant(id(2, 1), NOW_S)).is_err(), "it may be one that was left out");
        assert!(revocations.check(&grant(id(2, 1), NOW_S + 1)).is_ok());
    }

    #[test]
    fn a_checkpoint_of_another_shape_is_worth_nothing_and_hurts_nobody() {
        // Entries as they once were: a grant, and milliseconds in 8 bytes.
        let mut bytes = id(1, 1).as_bytes().to_vec();
        bytes.extend_from_slice(&NOW_MS.to_le_bytes());
        for bytes in [bytes, vec![1; 7], Vec::new()] {
            let revocations = Revocations::new(Known::decode(&bytes), &[], NOW_MS);
            assert_eq!(revocations.len(), 0);
            assert!(revocations.check(&grant(id(1, 1), NOW_S)).is_ok());
        }
    }

    #[test]
    fn a_shard_hears_of_every_ended_session_or_that_there_are_too_many() {
        let ended = Arc::new(Ended::default());
        let revocations = nothing();
        revocations.tell(vec![Arc::clone(&ended)]);
        let two = [revoked(id(1, 1), NOW_S, NOW_S), revoked(id(2, 1), NOW_S, NOW_S)];
        revocations.add(&two[..1], NOW_MS);
        revocations.add(&two[1..], NOW_MS);
        let Ending::These(sessions) = futures_executor::block_on(ended.take()) else { panic!("two are not many") };
        assert_eq!(sessions.iter().map(|(grant, _)| *grant).collect::<Vec<_>>(), [id(1, 1), id(2, 1)]);
        for nth in 0..2 * ENDED_MAX as u32 {
            revocations.add(&[revoked(id(1, nth), NOW_S, NOW_S)], NOW_MS);
        }
        assert_eq!(ended.list.lock().expect("nobody died").len(), ENDED_MAX + 1);
        assert!(matches!(futures_executor::block_on(ended.take()), Ending::Any));
    }

    /// `cargo test --release -p mangahub-engine --lib cost_of_a_storm -- --ignored --nocapture`
    #[test]
    #[ignore = "prints figures"]
    #[allow(clippy::print_stdout, reason = "that is what it is for")]
    fn cost_of_a_storm() {
        for known in [1_000, 100_000, 1_000_000] {
            let revocations = nothing();
            let fresh = || revoked(GrantId::new_v7(), NOW_S, u32::MAX);
            let before: Vec<_> = (0..known).map(|_| fresh()).collect();
            let storm: Vec<_> = (0..20_000).map(|_| fresh()).collect();
            revocations.add(&before, NOW_MS);
            let begun = std::time::Instant::now();
            storm.iter().for_each(|one| revocations.add(std::slice::from_ref(one), NOW_MS));
            let added = begun.elapsed() / storm.len() as u32;
            let begun = std::time::Instant::now();
            let found = storm.iter().filter(|one| revocations.contains(one.grant)).count();
            let looked_up = begun.elapsed() / storm.len() as u32;
            assert!(found > 0);
            println!("{known} known: {added:?} to add one, {looked_up:?} to look one up");
        }
    }
}
