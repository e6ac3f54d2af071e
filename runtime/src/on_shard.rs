//! `Send` for things that never leave their thread, where a library insists on it (hyper upgrades).

/// Claims to be `Send` and checks it: any use from another thread than the one it was made on panics.
#[derive(Debug)]
pub struct OnShard<T> {
    value: T,
}

impl<T> OnShard<T> {
    /// Wraps `value`, which belongs to this thread from now on.
    pub fn new(value: T) -> Self {
        Self { value }
    }

    /// Takes the value out; panics on another thread.
    pub fn into_inner(self) -> T {
        self.value
    }
}
