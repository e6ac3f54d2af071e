//! `Send` for things that never leave their thread, where a library insists on it (hyper upgrades).
//!
//! It promises that a value is only ever touched by the thread that wrapped it: any other use panics, and a drop on
//! another thread leaks the value and says so.

use std::{
    fmt,
    io::{self, IoSlice},
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    pin::Pin,
    task::{Context, Poll},
    thread::ThreadId,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Claims to be `Send` and checks it: any use from another thread than the one it was made on panics.
pub struct OnShard<T> {
    value: ManuallyDrop<T>,
    home: ThreadId,
}

// SAFETY: the value is reached only through `check`, which panics on any thread but the one it was wrapped on, and `Drop`
// leaks it elsewhere. Moving the wrapper's bytes between threads touches nothing of the value.
#[allow(unsafe_code)]
unsafe impl<T> Send for OnShard<T> {}

impl<T> OnShard<T> {
    /// Wraps `value`, which belongs to this thread from now on.
    pub fn new(value: T) -> Self {
        Self { value: ManuallyDrop::new(value), home: std::thread::current().id() }
    }

    /// Takes the value out; panics on another thread.
    #[allow(unsafe_code)]
    pub fn into_inner(self) -> T {
        self.check();
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped nor used again, so the value has one owner.
        unsafe { ManuallyDrop::take(&mut this.value) }
    }

    fn check(&self) {
        assert!(self.is_home(), "a value that belongs to one shard was used on another thread");
    }

    fn is_home(&self) -> bool {
        std::thread::current().id() == self.home
    }
}

impl<T> fmt::Debug for OnShard<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the value: a debug print may happen anywhere.
        formatter.debug_struct("OnShard").field("home", &self.home).finish_non_exhaustive()
    }
}

impl<T> Deref for OnShard<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.check();
        &self.value
    }
}

impl<T> DerefMut for OnShard<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.check();
        &mut self.value
    }
}

impl<T> Drop for OnShard<T> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if self.is_home() {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        } else {
            tracing::error!(
                kind = std::any::type_name::<T>(),
                "a shard's value was dropped on another thread; it leaks"
            );
        }
    }
}

impl<T: Future + Unpin> Future for OnShard<T> {
    type Output = T::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T::Output> {
        Pin::new(&mut **self).poll(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for OnShard<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for OnShard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        (**self).is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_from_another_thread_panics() {
        let wrapped = OnShard::new(std::rc::Rc::new(7));
        assert_eq!(**wrapped, 7);
        let used = std::thread::spawn(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| **wrapped));
            std::mem::forget(wrapped);
            outcome.is_err()
        });
        assert!(used.join().unwrap());
    }

    #[test]
    fn a_drop_elsewhere_leaks_instead_of_running() {
        struct Witness(std::sync::Arc<std::sync::atomic::AtomicBool>);
        impl Drop for Witness {
            fn drop(&mut self) {
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let dropped = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let wrapped = OnShard::new(Witness(dropped.clone()));
        std::thread::spawn(move || drop(wrapped)).join().unwrap();
        assert!(!dropped.load(std::sync::atomic::Ordering::SeqCst));
        drop(OnShard::new(Witness(dropped.clone())));
        assert!(dropped.load(std::sync::atomic::Ordering::SeqCst));
        drop(OnShard::new(Witness(dropped)).into_inner());
    }
}
