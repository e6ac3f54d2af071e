//! A list inside a frame, in whichever form it is at hand: plain values that are about to be written, or an archive's elements
//! that are read in place. Both look the same to whoever iterates; neither is copied.

use std::fmt;

/// Values of type `T`, plain or as the archive's `A`.
pub enum List<'a, T, A> {
    /// About to be written.
    Plain(&'a [T]),
    /// Read in place, and checked already.
    Archived(&'a [A]),
}

impl<T, A> Clone for List<'_, T, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, A> Copy for List<'_, T, A> {}

/// How an archived element becomes a plain one. Only called on elements that were checked when their frame was decoded.
pub trait Element<'a, T> {
    /// The plain value; borrows from the archive.
    fn plain(&'a self) -> T;
}

impl<'a, T: Copy, A: Element<'a, T>> List<'a, T, A> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Plain(values) => values.len(),
            Self::Archived(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = T> + 'a
    where
        T: 'a,
    {
        let (plain, archived): (&[T], &[A]) = match self {
            Self::Plain(values) => (values, &[]),
            Self::Archived(values) => (&[], values),
        };
        plain.iter().copied().chain(archived.iter().map(A::plain))
    }
}

impl<'a, T: Copy + fmt::Debug + 'a, A: Element<'a, T>> fmt::Debug for List<'a, T, A> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, T: Copy + PartialEq + 'a, A: Element<'a, T>> PartialEq for List<'a, T, A> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a, T: Copy + Eq + 'a, A: Element<'a, T>> Eq for List<'a, T, A> {}
