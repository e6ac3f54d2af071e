//! The one order that decides between two versions of the same row. Every row type derives `Ord` with its merge key first, so
//! "the larger key wins" is `max`, and merging is commutative, associative and idempotent by construction. SQL guards and the
//! hot cache compare the same fields in the same order; nothing may decide between rows in any other way.

/// The row that wins. Rows with equal merge keys come from one change and are equal; were they not, the rest of the row
/// decides, so that every node still picks the same one.
pub fn merge<T: Ord>(a: T, b: T) -> T {
    a.max(b)
}

/// Merges `newer` into a slot that may be empty. Tells whether the slot changed.
pub fn merge_into<T: Ord + Copy>(slot: &mut Option<T>, newer: T) -> bool {
    // `None` sorts below every `Some`.
    let won = Some(newer) > *slot;
    if won {
        *slot = Some(newer);
    }
    won
}
