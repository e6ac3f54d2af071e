//! Which nodes have been heard of, and what is missing of what they told. It decides when this node has to load its users
//! anew: a *gap* is anything that was, or may have been, told and not heard. Loading anew helps only once the store has what
//! was missed, so a gap is made good when its node has said so, or after a while in any case. Pure: it is told the time.

use std::time::{Duration, Instant};

use proto::NodeId;
use rustc_hash::FxHashMap;

use super::entry::{Header, Kind};

/// Without a word for this long a node counts as dead; they come twice a second.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(5);

/// After a gap, time for nodes that are not known yet to say a word, and for further gaps to be made good along with it.
const SETTLES_IN: Duration = Duration::from_millis(1_500);

/// Loading anew is not put off for longer than this, whatever the store lacks; it is then done once more when the store has it.
const PUT_OFF_MAX: Duration = Duration::from_secs(5);

/// Nodes known at a time; a stream that names more is not one of ours.
const NODES_MAX: usize = 1_024;

/// What was heard of a node.
#[derive(Clone, Copy, Debug)]
struct Known {
    epoch: u64,
    seq: u64,
    /// It has said goodbye.
    ended: bool,
    /// It has said nothing for so long that it counts as dead.
    silent: bool,
    stored: Option<u64>,
    heard_at: Instant,
}

impl Known {
    fn is_alive(&self) -> bool {
        !self.ended && !self.silent
    }
}

/// Up to where a node's store must have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owed {
    /// To where its next word says it is.
    NextWord,
    /// To this number.
    Until(u64),
}

/// A gap that is not made good.
#[derive(Clone, Copy, Debug)]
struct Gap {
    settles_at: Instant,
    load_by: Instant,
}

/// What an entry meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Heard {
    /// Something before it is missing.
    pub(super) gap: bool,
    /// The node's store has come further, to this number.
    pub(super) stored: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Roll {
    nodes: FxHashMap<NodeId, Known>,
    owed: FxHashMap<NodeId, Owed>,
    gap: Option<Gap>,
}

impl Roll {
    /// An entry of another node.
    pub(super) fn hear(&mut self, header: &Header, now: Instant) -> Heard {
        let known = self.nodes.get(&header.node).copied();
        // What must have been heard before it.
        let before = if header.kind.has_content() { header.seq.saturating_sub(1) } else { header.seq };
        let expected = match known {
            Some(known) if known.epoch == header.epoch => Some(known.seq),
            // A run that told everything, or one that was not known: what it left is in the store or in the new run's journal.
            Some(known) if known.ended => Some(0),
            Some(_) => None,
            None => Some(0),
        };
        let gap = expected.is_none_or(|expected| before > expected);
        if gap {
            self.owed.insert(header.node, Owed::Until(before));
            self.open_gap(now);
        }
        if let Some(owed) = self.owed.get_mut(&header.node)
            && *owed == Owed::NextWord
        {
            *owed = Owed::Until(header.seq);
        }
        let same_run = known.filter(|known| known.epoch == header.epoch);
        let seq = same_run.map_or(header.seq, |known| known.seq.max(header.seq));
        let stored_before = same_run.and_then(|known| known.stored);
        let stored = stored_before.max(header.stored);
        if let Some(Owed::Until(until)) = self.owed.get(&header.node)
            && stored.is_some_and(|stored| stored >= *until)
        {
            self.owed.remove(&header.node);
        }
        if known.is_none() && self.nodes.len() >= NODES_MAX {
            self.nodes.retain(|_, known| known.is_alive());
        }
        if known.is_some() || self.nodes.len() < NODES_MAX {
            let (epoch, ended) = (header.epoch, header.kind == Kind::Goodbye);
            self.nodes.insert(header.node, Known { epoch, seq, ended, silent: false, stored, heard_at: now });
        }
        Heard { gap, stored: stored.filter(|_| stored > stored_before) }
    }

    /// An entry that was heard has something in it that cannot be read: as good as missing.
    pub(super) fn miss(&mut self, header: &Header, now: Instant) {
        let stored = self.nodes.get(&header.node).and_then(|known| known.stored);
        if stored.is_none_or(|stored| stored < header.seq) {
            self.owed.insert(header.node, Owed::Until(header.seq));
        }
        self.open_gap(now);
    }

    /// What came before the next entry may be missing, of any node.
    pub(super) fn lose_position(&mut self, now: Instant) {
        for (node, known) in &self.nodes {
            if known.is_alive() {
                self.owed.insert(*node, Owed::NextWord);
            }
        }
        self.open_gap(now);
    }

    /// Finds nodes that say nothing any more, and answers how many; what they told last may not have come here. Only while this
    /// node's own words come through: else it is deaf, and they are not dead.
    pub(super) fn bury(&mut self, now: Instant) -> usize {
        let mut dead = 0;
        for (node, known) in &mut self.nodes {
            if known.is_alive() && now.saturating_duration_since(known.heard_at) >= DEAD_AFTER {
                known.silent = true;
                self.owed.remove(node);
                dead += 1;
            }
        }
        if dead > 0 {
            self.open_gap(now);
        }
        dead
    }

    /// Whether users have to be loaded anew now.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let Some(gap) = self.gap else { return false };
        let made_good = self.owed.is_empty() && now >= gap.settles_at;
        if made_good {
            self.gap = None;
        } else if now < gap.load_by {
            return false;
        } else {
            self.gap = Some(Gap { load_by: now + 6 * PUT_OFF_MAX, ..gap });
        }
        true
    }

    /// Whether something is missing that has not been made good.
    pub(super) fn is_gap_open(&self) -> bool {
        self.gap.is_some()
    }

    /// Other nodes that are alive.
    pub(super) fn alive(&self) -> usize {
        self.nodes.values().filter(|known| known.is_alive()).count()
    }

    fn open_gap(&mut self, now: Instant) {
        let load_by = self.gap.map_or(now + PUT_OFF_MAX, |gap| gap.load_by.min(now + PUT_OFF_MAX));
        self.gap = Some(Gap { settles_at: now + SETTLES_IN, load_by });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);

    fn entry(kind: Kind, epoch: u64, seq: u64, stored: Option<u64>) -> Header {
        Header { kind, node: A, epoch, seq, stored, sent_unix_ms: 0 }
    }

    fn records(seq: u64, stored: u64) -> Header {
        entry(Kind::Records, 1, seq, Some(stored))
    }

    fn word(seq: u64, stored: u64) -> Header {
        entry(Kind::Word, 1, seq, Some(stored))
    }

    /// A time well after the start of everything.
    fn start() -> Instant {
        Instant::now() + Duration::from_secs(3_600)
    }

    #[test]
    fn what_comes_in_order_or_twice_is_no_gap() {
        let (mut roll, now) = (Roll::default(), start());
        for header in [word(0, 0), records(1, 0), records(2, 1), word(2, 1), records(1, 1), records(3, 3), word(3, 3)] {
            assert!(!roll.hear(&header, now).gap, "{header:?}");
        }
        assert!(!roll.is_due(now + Duration::from_secs(60)));
    }

    #[test]
    fn a_missing_number_is_made_good_once_the_store_has_it() {
        let (mut roll, now) = (Roll::default(), start());
        roll.hear(&records(1, 0), now);
        assert!(roll.hear(&records(4, 1), now).gap);
        assert!(!roll.hear(&records(5, 2), now).gap, "noticed once");
        let later = now + SETTLES_IN;
        assert!(!roll.is_due(later), "the store may lack number 3");
        assert_eq!(roll.hear(&word(5, 3), later), Heard { gap: false, stored: Some(3) });
        assert!(roll.is_due(later));
        assert!(!roll.is_due(later + PUT_OFF_MAX), "done");
    }

    #[test]
    fn what_cannot_be_read_is_made_good_once_the_store_has_it() {
        let (mut roll, now) = (Roll::default(), start());
        roll.hear(&records(1, 0), now);
        roll.miss(&records(1, 0), now);
        let later = now + SETTLES_IN;
        assert!(!roll.is_due(later));
        roll.hear(&word(1, 1), later);
        assert!(roll.is_due(later));
        // Read once more after a new connection: the store has it by now.
        roll.miss(&records(1, 0), later);
        assert!(!roll.is_due(later) && roll.is_due(later + SETTLES_IN));
    }

    #[test]
    fn a_word_tells_of_what_nobody_hears_any_more() {
        let (mut roll, now) = (Roll::default(), start());
        roll.hear(&records(1, 1), now);
        assert!(roll.hear(&word(2, 2), now).gap);
        assert!(!roll.is_due(now), "others may have something to say");
        assert!(roll.is_due(now + SETTLES_IN));
    }

    #[test]
    fn a_store_that_lags_does_not_put_it_off_for_ever_and_it_is_done_again_in_the_end() {
        let (mut roll, now) = (Roll::default(), start());
        roll.hear(&word(0, 0), now);
        roll.hear(&records(3, 0), now);
        assert!(roll.is_due(now + PUT_OFF_MAX));
        assert!(!roll.is_due(now + PUT_OFF_MAX));
        let later = now + 2 * PUT_OFF_MAX;
        roll.hear(&word(3, 2), later);
        assert!(roll.is_due(later));
    }

    #[test]
    fn a_node_that_is_met_in_the_middle_may_have_told_something_before() {
        let (mut roll, now) = (Roll::default(), start());
        assert!(roll.hear(&word(9, 9), now).gap);
        let (mut roll, now) = (Roll::default(), start());
        assert!(!roll.hear(&records(1, 0), now).gap);
    }

    #[test]
    fn a_crash_is_a_gap_and_a_goodbye_is_none() {
        let (mut roll, now) = (Roll::default(), start());
        roll.hear(&records(1, 1), now);
        assert!(roll.hear(&entry(Kind::Word, 2, 0, Some(0)), now).gap, "who knows what it had not told");
        assert!(roll.is_due(now + SETTLES_IN));
        roll.hear(&entry(Kind::Records, 2, 1, Some(1)), now);
        roll.hear(&entry(Kind::Goodbye, 2, 1, Some(1)), now);
        assert!(!roll.hear(&entry(Kind::Word, 3, 0, Some(0)), now).gap);
        roll.hear(&entry(Kind::Goodbye, 3, 0, Some(0)), now);
        // What it found in its journal is the first number, and missing.
        assert!(roll.hear(&entry(Kind::Word, 4, 1, None), now).gap);
        assert!(!roll.is_due(now + SETTLES_IN));
        roll.hear(&entry(Kind::Word, 4, 1, Some(1)), now + SETTLES_IN);
        assert!(roll.is_due(now + SETTLES_IN));
    }

    #[test]
    fn a_lost_position_waits_for_a_word_of_everybody() {
        let (mut roll, now) = (Roll::default(), start());
        roll.hear(&records(1, 1), now);
        roll.lose_position(now);
        let later = now + SETTLES_IN;
        assert!(!roll.is_due(later));
        roll.hear(&records(2, 1), later);
        assert!(!roll.is_due(later));
        roll.hear(&word(2, 2), later);
        assert!(roll.is_due(later));
    }

    #[test]
    fn the_dead_are_buried_once_and_their_users_loaded_anew() {
        let (mut roll, now) = (Roll::default(), start());
        roll.hear(&records(1, 0), now);
        assert_eq!((roll.bury(now), roll.alive()), (0, 1));
        let later = now + DEAD_AFTER;
        assert_eq!((roll.bury(later), roll.bury(later), roll.alive()), (1, 0, 0));
        assert!(roll.is_due(later + SETTLES_IN));
        // It was only cut off, and goes on where it was.
        assert!(!roll.hear(&records(2, 2), later).gap);
        assert_eq!(roll.alive(), 1);
    }
}
